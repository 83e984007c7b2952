"""The login phase of the tests' initiator: security and operational stages (RFC 7143 6, 12, 13)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Protocol

import attrs

from tests.support import iscsi_wire as wire
from tests.support.iscsi_wire import Pdu, pdu

SECURITY, OPERATIONAL, FULL_FEATURE = 0, 1, 3
TRANSIT = 0x80

DIGESTS = {"5": "md5", "6": "sha1", "7": "sha256", "8": "sha3-256"}
"""CHAP algorithms by their number."""

DEFAULTS = {
    "HeaderDigest": "None",
    "DataDigest": "None",
    "MaxRecvDataSegmentLength": "8192",
    "InitialR2T": "Yes",
    "ImmediateData": "Yes",
    "MaxBurstLength": "262144",
    "FirstBurstLength": "65536",
    "MaxOutstandingR2T": "1",
    "ErrorRecoveryLevel": "0",
    "MaxConnections": "1",
}
"""What holds for a key that nobody speaks of (RFC 7143 13)."""

WANTED: dict[str, str | None] = {
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxRecvDataSegmentLength": "262144",
    "MaxBurstLength": "262144",
    "FirstBurstLength": "65536",
    "DefaultTime2Wait": "2",
    "DefaultTime2Retain": "0",
    "MaxOutstandingR2T": "1",
    "MaxConnections": "1",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
    "ErrorRecoveryLevel": "0",
}
"""What we ask for unless told otherwise."""

DISCOVERY_IRRELEVANT = frozenset(WANTED) - {
    "MaxRecvDataSegmentLength",
    "DefaultTime2Wait",
    "DefaultTime2Retain",
    "ErrorRecoveryLevel",
}
"""What a discovery session has no use for (RFC 7143 13)."""


class LoginFailed(AssertionError):
    """The target's part of the login is not what RFC 7143 says."""


class LoginRefused(Exception):
    """The target refused: `status` is (class, detail) (RFC 7143 11.13.5)."""

    def __init__(self, status: tuple[int, int]) -> None:
        super().__init__(f"login refused with {status[0]:02x}{status[1]:02x}")
        self.status = status


@attrs.frozen
class Negotiation:
    """What a login asks for; see `Initiator`."""

    target: str | None
    name: str
    chap: tuple[str, str] | None = None
    mutual: tuple[str, str] | None = None
    algorithms: str = "5"
    keys: Mapping[str, str | None] = attrs.field(factory=dict)

    @property
    def introduction(self) -> dict[str, str | None]:
        """Who we are and what we want: the keys of the first request."""
        kind = "Discovery" if self.target is None else "Normal"
        return {"InitiatorName": self.name, "SessionType": kind, "TargetName": self.target}

    @property
    def operational(self) -> dict[str, str | None]:
        """All operational keys that are asked for."""
        wanted = {**WANTED, **self.keys}
        if self.target is None:
            for key in DISCOVERY_IRRELEVANT - set(self.keys):
                wanted[key] = None
        return wanted


class Connection(Protocol):
    """What the login needs of an initiator."""

    isid: int
    tsih: int
    cid: int
    cmd_sn: int
    exp_stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int

    def next_tag(self) -> int: ...
    def send(self, out: Pdu) -> None: ...
    def receive(self, timeout: float | None = None) -> Pdu: ...


def login_pdu(of: Connection, tag: int, flags: int, data: bytes) -> Pdu:
    """A login request of this connection."""
    out = pdu(wire.LOGIN, flags, immediate=True, itt=tag, data=data)
    out.header[8:14] = of.isid.to_bytes(6, "big")
    out.header[14:16] = of.tsih.to_bytes(2, "big")
    out.header[20:22] = of.cid.to_bytes(2, "big")
    out.cmd_sn = of.cmd_sn
    return out


class _Exchange:
    """Requests and responses of one login."""

    def __init__(self, of: Connection) -> None:
        self.of = of
        self.tag = of.next_tag()
        self.first = True
        self.requests = 0

    def say(
        self, keys: Mapping[str, str | None], stage: int, into: int | None
    ) -> tuple[dict[str, str], bool]:
        """One request and its whole answer.

        Returns:
            The answered keys, and whether the target moves into the stage that was asked for.
        """
        flags = stage << 2 if into is None else TRANSIT | stage << 2 | into
        self.of.send(login_pdu(self.of, self.tag, flags, wire.encode_text(keys)))
        answer = self._take(stage)
        data = answer.data
        while answer.flags & wire.CONTINUE:
            self.of.send(login_pdu(self.of, self.tag, stage << 2, b""))
            answer = self._take(stage)
            data += answer.data
        moved = bool(answer.flags & TRANSIT)
        if moved and (into is None or answer.flags & 3 != into):
            raise LoginFailed("the target moves on unasked (RFC 7143 11.13.3)")
        if moved and into == FULL_FEATURE:
            self.of.tsih = int.from_bytes(answer.header[14:16], "big")
            if not self.of.tsih:
                raise LoginFailed("no TSIH in the last response (RFC 7143 11.13.2)")
        pairs = wire.decode_text(data)
        if len(dict(pairs)) != len(pairs):
            raise LoginFailed(f"a key twice in {pairs}")
        return dict(pairs), moved

    def _take(self, stage: int) -> Pdu:
        answer = self.of.receive()
        self.requests += 1
        if self.requests > 40:
            raise LoginFailed("no end of login responses")
        if answer.opcode != wire.LOGIN_RESPONSE or answer.itt != self.tag:
            raise LoginFailed(f"no login response: {answer}")
        status = answer.header[36], answer.header[37]
        if self.first:
            self.first = False
            self.of.exp_stat_sn = answer.stat_sn
        elif answer.stat_sn != self.of.exp_stat_sn:
            raise LoginFailed(f"StatSN {answer.stat_sn}, expected {self.of.exp_stat_sn}")
        if status[0]:
            raise LoginRefused(status)
        self.of.exp_stat_sn = (self.of.exp_stat_sn + 1) % (1 << 32)
        self.of.exp_cmd_sn, self.of.max_cmd_sn = answer.exp_cmd_sn, answer.max_cmd_sn
        if answer.flags >> 2 & 3 != stage:
            raise LoginFailed("the response is of another stage (RFC 7143 11.13.3)")
        if answer.header[8:14] != self.of.isid.to_bytes(6, "big"):
            raise LoginFailed("another ISID in the response")
        return answer


def negotiate(of: Connection, wanted: Negotiation) -> dict[str, str]:
    """Log in through the security stage and the operational stage.

    Returns:
        The keys that hold, with the target's own declarations; our own
        MaxRecvDataSegmentLength as `own MaxRecvDataSegmentLength`.

    Raises:
        LoginRefused: The target said so.
        LoginFailed: The target broke the rules, or did not show its CHAP secret.
    """
    exchange = _Exchange(of)
    declared = _secure(exchange, wanted)
    asked = wanted.operational
    got, moved = exchange.say(asked, OPERATIONAL, FULL_FEATURE)
    declared |= got
    while not moved:
        got, moved = exchange.say({}, OPERATIONAL, FULL_FEATURE)
        declared |= got
    return _result(asked, declared)


def _result(asked: Mapping[str, str | None], declared: dict[str, str]) -> dict[str, str]:
    """What holds now."""
    for key, value in declared.items():
        if value in ("NotUnderstood", "Reject"):
            raise LoginFailed(f"{key}={value}, which every target knows")
    for key, wish in asked.items():
        if wish is not None and key != "MaxRecvDataSegmentLength" and key not in declared:
            raise LoginFailed(f"{key} was not answered (RFC 7143 6.2)")
    own = asked.get("MaxRecvDataSegmentLength") or DEFAULTS["MaxRecvDataSegmentLength"]
    return {**DEFAULTS, **declared, "own MaxRecvDataSegmentLength": own}


def _secure(exchange: _Exchange, wanted: Negotiation) -> dict[str, str]:
    """The security stage."""
    keys = wanted.introduction
    keys["AuthMethod"] = "None" if wanted.chap is None else "CHAP"
    into = OPERATIONAL if wanted.chap is None else None
    declared, moved = exchange.say(keys, SECURITY, into)
    if wanted.chap is None:
        while not moved:
            # A target that wants to hear AuthMethod alone first may stay once (RFC 7143 6.2.1).
            more, moved = exchange.say({}, SECURITY, OPERATIONAL)
            declared |= more
        return declared
    if declared.get("AuthMethod") != "CHAP":
        raise LoginFailed(f"CHAP was asked for, the answer is {declared}")
    declared.pop("AuthMethod")
    challenge, _ = exchange.say({"CHAP_A": wanted.algorithms}, SECURITY, None)
    if challenge.get("CHAP_A") not in wanted.algorithms.split(","):
        raise LoginFailed(f"an algorithm that was not offered: {challenge}")
    user, secret = wanted.chap
    digest = DIGESTS[challenge["CHAP_A"]]
    proof = _prove(digest, challenge["CHAP_I"], secret, challenge["CHAP_C"])
    reply: dict[str, str | None] = {"CHAP_N": user, "CHAP_R": proof}
    ours = "0x" + os.urandom(16).hex()
    if wanted.mutual is not None:
        reply |= {"CHAP_I": "77", "CHAP_C": ours}
    shown, moved = exchange.say(reply, SECURITY, OPERATIONAL)
    if wanted.mutual is not None:
        expected = wanted.mutual[0], _prove(digest, "77", wanted.mutual[1], ours)
        if (shown.pop("CHAP_N", ""), shown.pop("CHAP_R", "").lower()) != expected:
            raise LoginFailed("the target does not know the secret that it should")
    while not moved:
        more, moved = exchange.say({}, SECURITY, OPERATIONAL)
        shown |= more
    return declared | shown


def _prove(digest: str, identifier: str, secret: str, challenge: str) -> str:
    """The response to a challenge (RFC 1994 4.1)."""
    message = bytes((int(identifier, 0),)) + secret.encode() + _binary(challenge)
    return "0x" + hashlib.new(digest, message).hexdigest()


def _binary(text: str) -> bytes:
    """A binary value in hexadecimal or base64 (RFC 7143 6.1)."""
    if text[:2].lower() == "0x":
        return bytes.fromhex(text[2:])
    import base64

    return base64.b64decode(text[2:])
