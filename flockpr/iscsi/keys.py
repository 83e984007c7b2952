"""Text keys and the rules by which two sides agree on them (RFC 7143 section 13 and 6.2).

A text is a row of `key=value`, each ended by a NUL. `Negotiation` answers the operational
keys of a login; the keys of authentication are in `chap`, who is who is in `login`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import attrs

Pair = tuple[str, str]

MAX_KEY_LENGTH: Final = 63
"""RFC 7143 6.1."""
MAX_VALUE_LENGTH: Final = 8192
"""Large binary values may be that long, all others 255 (6.1)."""
MAX_PAIRS: Final = 128
MAX_TEXT_LENGTH: Final = 16384
"""Of one text that continues over several PDUs. The longest CHAP exchange needs 2300 bytes."""

NOT_UNDERSTOOD: Final = "NotUnderstood"
REJECT: Final = "Reject"
IRRELEVANT: Final = "Irrelevant"
NONE: Final = "None"
_ANSWERS: Final = frozenset({NOT_UNDERSTOOD, REJECT, IRRELEVANT})

_KEY_CHARACTERS: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-+@_/#"
)


def parse_text(text: bytes) -> tuple[Pair, ...] | None:
    """Splits a text into its pairs.

    The NUL of the last pair may be missing, because the length of the segment ends it as
    well, and empty strings between pairs are skipped: initiators pad with them.

    Args:
        text: All of it, put together when it came with the C bit.

    Returns:
        The pairs in order, or None when it is not a text: no `=`, a key that is empty, too
        long or has other characters than 6.1 allows, a value that is too long or is not
        UTF-8, too many pairs.
    """
    pairs: list[Pair] = []
    for item in bytes(text).split(b"\0"):
        if not item:
            continue
        key, sign, value = item.partition(b"=")
        if not sign or not 0 < len(key) <= MAX_KEY_LENGTH or len(value) > MAX_VALUE_LENGTH:
            return None
        if not _KEY_CHARACTERS.issuperset(key) or len(pairs) == MAX_PAIRS:
            return None
        try:
            pairs.append((key.decode("ascii"), value.decode("utf-8")))
        except UnicodeDecodeError:
            return None
    return tuple(pairs)


def format_text(pairs: Iterable[Pair]) -> bytes:
    """The text of these pairs."""
    return b"".join(f"{key}={value}\0".encode() for key, value in pairs)


def parse_number(value: str) -> int | None:
    """A numerical value of up to 64 bits, decimal or hexadecimal, or None (6.1)."""
    digits, base, allowed = value, 10, "0123456789"
    if value[:2] in {"0x", "0X"}:
        digits, base, allowed = value[2:], 16, "0123456789abcdefABCDEF"
    if not digits or len(digits) > 20 or any(digit not in allowed for digit in digits):
        return None
    return int(digits, base)


@attrs.frozen
class Parameters:
    """What a session and its connection have agreed on; the defaults of section 13.

    Attributes:
        send_limit: The peer's MaxRecvDataSegmentLength.
        receive_limit: Ours.
    """

    header_digest: bool = False
    data_digest: bool = False
    initial_r2t: bool = True
    immediate_data: bool = True
    max_burst_length: int = 262144
    first_burst_length: int = 65536
    max_outstanding_r2t: int = 1
    default_time2wait: int = 2
    default_time2retain: int = 20
    protocol_level: int = 1
    send_limit: int = 8192
    receive_limit: int = 8192


@attrs.frozen
class Offer:
    """What this side wants, before it hears the other.

    Attributes:
        header_digests: Which are acceptable, of `CRC32C` and `None`.
        data_digests: Likewise.
        initial_r2t: Unsolicited Data-Out is refused; `False` lets the initiator choose.
        immediate_data: Data in the command PDU is welcome.
    """

    max_recv_data_segment_length: int = 262144
    max_burst_length: int = 1 << 20
    first_burst_length: int = 262144
    max_outstanding_r2t: int = 4
    immediate_data: bool = True
    initial_r2t: bool = False
    header_digests: tuple[str, ...] = ("CRC32C", NONE)
    data_digests: tuple[str, ...] = ("CRC32C", NONE)


_Change = dict[str, bool | int]
_Rule = Callable[[Offer, str], tuple[str, _Change]]
"""From the value that was offered to the answer ("" for none) and what was agreed on."""


def _digest(field: str, acceptable: Callable[[Offer], Sequence[str]]) -> _Rule:
    def rule(offer: Offer, value: str) -> tuple[str, _Change]:
        # The first of the offered list that the responder accepts (6.2.1).
        for choice in value.split(","):
            if choice in acceptable(offer):
                return choice, {field: choice != NONE}
        return REJECT, {}

    return rule


def _boolean(field: str, ours: Callable[[Offer], bool], *, either: bool) -> _Rule:
    def rule(offer: Offer, value: str) -> tuple[str, _Change]:
        if value not in {"Yes", "No"}:
            return REJECT, {}
        theirs = value == "Yes"
        result = (ours(offer) or theirs) if either else (ours(offer) and theirs)
        return "Yes" if result else "No", {field: result} if field else {}

    return rule


def _number(
    field: str,
    ours: Callable[[Offer], int],
    low: int,
    high: int,
    choose: Callable[[int, int], int] = min,
) -> _Rule:
    def rule(offer: Offer, value: str) -> tuple[str, _Change]:
        theirs = parse_number(value)
        if theirs is None or not low <= theirs <= high:
            return REJECT, {}
        result = choose(ours(offer), theirs)
        return str(result), {field: result} if field else {}

    return rule


def _declared_length(offer: Offer, value: str) -> tuple[str, _Change]:
    del offer
    length = parse_number(value)
    if length is None or not 512 <= length < 1 << 24:
        return REJECT, {}
    return "", {"send_limit": length}


def _constant(answer: str) -> _Rule:
    def rule(offer: Offer, value: str) -> tuple[str, _Change]:
        del offer, value
        return answer, {}

    return rule


def _reporting(offer: Offer, value: str) -> tuple[str, _Change]:
    del offer
    return ("RFC3720" if "RFC3720" in value.split(",") else REJECT), {}


_BURST: Final = (512, (1 << 24) - 1)

RULES: Final[dict[str, _Rule]] = {
    "HeaderDigest": _digest("header_digest", lambda o: o.header_digests),
    "DataDigest": _digest("data_digest", lambda o: o.data_digests),
    "MaxConnections": _number("", lambda _: 1, 1, 65535),
    "InitialR2T": _boolean("initial_r2t", lambda o: o.initial_r2t, either=True),
    "ImmediateData": _boolean("immediate_data", lambda o: o.immediate_data, either=False),
    "MaxRecvDataSegmentLength": _declared_length,
    "MaxBurstLength": _number("max_burst_length", lambda o: o.max_burst_length, *_BURST),
    "FirstBurstLength": _number("first_burst_length", lambda o: o.first_burst_length, *_BURST),
    "DefaultTime2Wait": _number("default_time2wait", lambda _: 0, 0, 3600, max),
    "DefaultTime2Retain": _number("default_time2retain", lambda _: 0, 0, 3600),
    "MaxOutstandingR2T": _number("max_outstanding_r2t", lambda o: o.max_outstanding_r2t, 1, 65535),
    "DataPDUInOrder": _boolean("", lambda _: True, either=True),
    "DataSequenceInOrder": _boolean("", lambda _: True, either=True),
    "ErrorRecoveryLevel": _number("", lambda _: 0, 0, 2),
    "TaskReporting": _reporting,
    "iSCSIProtocolLevel": _number("protocol_level", lambda _: 1, 0, 31),
    # 13.25: obsolete, never NotUnderstood; older initiators expect No rather than Reject.
    "IFMarker": _constant("No"),
    "OFMarker": _constant("No"),
    "IFMarkInt": _constant(REJECT),
    "OFMarkInt": _constant(REJECT),
    # Declarations that change nothing here.
    "InitiatorAlias": _constant(""),
    # Not for a login (13.3 to 13.9) or not for an initiator to send.
    "SendTargets": _constant(REJECT),
    "TargetAlias": _constant(REJECT),
    "TargetAddress": _constant(REJECT),
    "TargetPortalGroupTag": _constant(REJECT),
}

NORMAL_SESSIONS_ONLY: Final = frozenset(
    {
        "MaxConnections",
        "InitialR2T",
        "ImmediateData",
        "MaxBurstLength",
        "FirstBurstLength",
        "MaxOutstandingR2T",
        "DataPDUInOrder",
        "DataSequenceInOrder",
    }
)
"""Irrelevant in a discovery session (the headings "Irrelevant when" of section 13)."""


class Negotiation:
    """The operational keys of one login.

    Args:
        offer: What this side wants.
        discovery: The session is a discovery session.
    """

    def __init__(self, offer: Offer, *, discovery: bool) -> None:
        self._offer = offer
        self._discovery = discovery
        self._seen: set[str] = set()
        self._agreed: _Change = {}
        self._declared = False

    def answer(self, pairs: Iterable[Pair]) -> list[Pair] | None:
        """Answers keys in their order.

        Returns:
            The answers, or None when the other side breaks the rules: a key comes a second
            time (6.3) or declares a length that section 13.12 does not allow.
        """
        answers = []
        for key, value in pairs:
            if key in self._seen:
                return None
            self._seen.add(key)
            reply = self._answer_one(key, value)
            if reply == REJECT and key == "MaxRecvDataSegmentLength":
                # A declaration cannot be refused, and without it nothing may be sent.
                return None
            if reply:
                answers.append((key, reply))
        return answers

    def _answer_one(self, key: str, value: str) -> str:
        rule = RULES.get(key)
        if value in _ANSWERS:
            # An answer to what was never asked; there is nothing to say to it (6.2).
            return ""
        if rule is None:
            return NOT_UNDERSTOOD
        if self._discovery and key in NORMAL_SESSIONS_ONLY:
            return IRRELEVANT
        reply, change = rule(self._offer, value)
        self._agreed |= change
        return reply

    def declarations(self) -> list[Pair]:
        """What this side declares without being asked, once."""
        if self._declared:
            return []
        self._declared = True
        return [("MaxRecvDataSegmentLength", str(self._offer.max_recv_data_segment_length))]

    def parameters(self) -> Parameters:
        """What holds in the full feature phase."""
        agreed = Parameters(**self._agreed)  # type: ignore[arg-type]
        receive = self._offer.max_recv_data_segment_length if self._declared else 8192
        # 13.14: the first burst must not be longer than a burst.
        first = min(agreed.first_burst_length, agreed.max_burst_length)
        return attrs.evolve(agreed, receive_limit=receive, first_burst_length=first)
