"""Login: who logs in to what, authentication, agreement on parameters (RFC 7143 6.3).

    security negotiation (0) ──> operational negotiation (1) ──> full feature phase (3)
              └──────────────────────────────────────────────────────────^

The initiator leads. Each request gets one response, and the stage changes when the request
asks for it with the T bit and there is nothing left to do in it. Two questions go to the
owner: once the initiator has named itself and its target, and once the full feature phase
could begin. Whatever breaks the rules ends the login with a status; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Final

import attrs

from flockpr.iscsi import chap, keys
from flockpr.iscsi.events import Identification, LoginStarted, SessionRequested
from flockpr.iscsi.keys import Pair
from flockpr.iscsi.pdu import CONTINUE, TRANSIT

SECURITY: Final = 0
OPERATIONAL: Final = 1
FULL_FEATURE: Final = 3
_STAGE_CHANGES: Final = {(SECURITY, OPERATIONAL), (SECURITY, FULL_FEATURE)} | {
    (OPERATIONAL, FULL_FEATURE)
}

MAX_REQUESTS: Final = 32
"""Login requests that one login may take. CHAP both ways and a long text need eight."""
MAX_NAME_LENGTH: Final = 223
"""Bytes of an iSCSI name (4.2.7.1)."""
RESPONSE_LIMIT: Final = 8192
"""Text of one response: MaxRecvDataSegmentLength is 8192 until it was declared (13.12)."""


class LoginStatus(IntEnum):
    """Status-Class and Status-Detail (RFC 7143 11.13.5)."""

    SUCCESS = 0x0000
    MOVED_TEMPORARILY = 0x0101
    MOVED_PERMANENTLY = 0x0102
    INITIATOR_ERROR = 0x0200
    AUTHENTICATION_FAILURE = 0x0201
    AUTHORIZATION_FAILURE = 0x0202
    TARGET_NOT_FOUND = 0x0203
    TARGET_REMOVED = 0x0204
    UNSUPPORTED_VERSION = 0x0205
    TOO_MANY_CONNECTIONS = 0x0206
    MISSING_PARAMETER = 0x0207
    CANNOT_INCLUDE_IN_SESSION = 0x0208
    SESSION_TYPE_NOT_SUPPORTED = 0x0209
    SESSION_DOES_NOT_EXIST = 0x020A
    INVALID_DURING_LOGIN = 0x020B
    TARGET_ERROR = 0x0300
    SERVICE_UNAVAILABLE = 0x0301
    OUT_OF_RESOURCES = 0x0302


@attrs.frozen
class Admission:
    """What the door says to somebody who wants to log in.

    Attributes:
        portal_group_tag: Of the portal, for TargetPortalGroupTag.
        chap: Secrets by user name, of which one must be proven; None: nobody is asked.
        mutual: Name and secret with which the target proves itself when asked to.
        alias: TargetAlias, if any.
    """

    portal_group_tag: int
    chap: Mapping[str, bytes] | None = attrs.field(default=None, repr=False)
    mutual: tuple[str, bytes] | None = attrs.field(default=None, repr=False)
    alias: str = ""


@attrs.frozen
class LoginReply:
    """One Login Response to be sent.

    Attributes:
        status: Anything but SUCCESS closes the connection.
        flags: Byte 1: T, C, CSG, NSG.
        text: Data segment.
        tsih: Of the session that was made, in the last response.
        done: The full feature phase begins after this response.
    """

    status: LoginStatus = LoginStatus.SUCCESS
    flags: int = 0
    text: bytes = b""
    tsih: int = 0
    done: bool = False


LoginOutcome = LoginReply | LoginStarted | SessionRequested

_IDENTITY: Final = ("InitiatorName", "InitiatorAlias", "SessionType", "TargetName")


class _Refusal(Exception):
    """Unwinds the decision; never leaves this module."""

    def __init__(self, status: LoginStatus) -> None:
        super().__init__(status)
        self.status = status


def valid_name(name: str) -> bool:
    """Whether this can name an initiator: length and characters (RFC 7143 4.2.7).

    Type designators are not insisted on and underscores pass: virtual machines are given
    such names, and a name is only compared here.
    """
    if not 0 < len(name.encode()) <= MAX_NAME_LENGTH:
        return False
    return name.isprintable() and " " not in name and "," not in name


class Login:
    """The target's part of one login. Total over any request.

    Args:
        offer: What this side wants.
        random: Gives unpredictable bytes.
        algorithms: CHAP algorithms that are acceptable.
    """

    def __init__(
        self,
        offer: keys.Offer,
        random: Callable[[int], bytes],
        algorithms: Sequence[int] = chap.DEFAULT_ALGORITHMS,
    ) -> None:
        self._offer = offer
        self._random = random
        self._algorithms = algorithms
        self._requests = 0
        self._stage: int | None = None
        self._flags = 0
        self._text = b""  # of a request that continues
        self._unsent = b""  # of a response that continues
        self._waiting: tuple[Pair, ...] | None = None  # keys of the request that asked
        self._named: dict[str, str] = {}
        self._isid_tsih: tuple[int, int] | None = None
        self._cid = 0
        self._identification: Identification | None = None
        self._admission: Admission | None = None
        self._negotiation: keys.Negotiation | None = None
        self._chap: chap.ChapTarget | None = None
        self._method_chosen = False
        self._introduced = False
        self._leaving: list[Pair] = []

    def feed(self, bhs: bytes, text: bytes) -> LoginOutcome:
        """Takes one Login Request.

        Args:
            bhs: Its basic header segment.
            text: Its data segment.
        """
        try:
            return self._feed(bhs, text)
        except _Refusal as refusal:
            return self.refused(refusal.status)

    def admit(self, admission: Admission) -> LoginOutcome:
        """The answer to `LoginStarted`."""
        assert self._waiting is not None
        assert self._identification is not None
        pairs, self._waiting = self._waiting, None
        self._admission = admission
        if admission.chap is not None:
            self._chap = chap.ChapTarget(
                admission.chap, admission.mutual, self._random, self._algorithms
            )
        try:
            return self._negotiate(pairs)
        except _Refusal as refusal:
            return self.refused(refusal.status)

    def establish(self, tsih: int) -> LoginReply:
        """The answer to `SessionRequested`: the last response."""
        return attrs.evolve(self._reply(self._leaving, transit=True), tsih=tsih, done=True)

    def refused(self, status: LoginStatus) -> LoginReply:
        """The response that ends the login."""
        stage = self._stage or 0
        return LoginReply(status, flags=stage << 2)

    @property
    def parameters(self) -> keys.Parameters:
        """What was agreed on so far."""
        return self._negotiation.parameters() if self._negotiation else keys.Parameters()

    @property
    def claimed(self) -> str:
        """The CHAP name that the initiator gave, proven or not."""
        return "" if self._chap is None else self._chap.claimed

    def _feed(self, bhs: bytes, text: bytes) -> LoginOutcome:
        self._requests += 1
        if self._requests > MAX_REQUESTS:
            raise _Refusal(LoginStatus.INITIATOR_ERROR)
        if bhs[3] > 0:
            # Version-min: the one version there is has the number 0 (11.12.4).
            raise _Refusal(LoginStatus.UNSUPPORTED_VERSION)
        self._check_session(bhs)
        self._check_stage(bhs[1])
        if self._unsent:
            # The response continues: the request only asks for the rest of it.
            if text or bhs[1] & CONTINUE:
                raise _Refusal(LoginStatus.INITIATOR_ERROR)
            return self._continued()
        self._text += text
        if len(self._text) > keys.MAX_TEXT_LENGTH:
            raise _Refusal(LoginStatus.INITIATOR_ERROR)
        if bhs[1] & CONTINUE:
            return LoginReply(flags=(self._stage or 0) << 2)
        pairs = keys.parse_text(self._text)
        self._text = b""
        if pairs is None:
            raise _Refusal(LoginStatus.INITIATOR_ERROR)
        rest = self._take_names(pairs)
        if self._admission is None:
            self._waiting = rest
            self._identification = self._identify()
            return LoginStarted(self._identification)
        return self._negotiate(rest)

    def _check_session(self, bhs: bytes) -> None:
        isid_tsih = int.from_bytes(bhs[8:14], "big"), int.from_bytes(bhs[14:16], "big")
        if self._isid_tsih is None:
            self._isid_tsih = isid_tsih
            self._cid = int.from_bytes(bhs[20:22], "big")
        elif self._isid_tsih != isid_tsih:
            raise _Refusal(LoginStatus.INITIATOR_ERROR)

    def _check_stage(self, flags: int) -> None:
        """T, C, CSG and NSG must be a step that 6.3.1 allows."""
        current, following = flags >> 2 & 3, flags & 3
        if self._stage is None:
            if current not in {SECURITY, OPERATIONAL}:
                raise _Refusal(LoginStatus.INITIATOR_ERROR)
            self._stage = current
        if current != self._stage:
            raise _Refusal(LoginStatus.INITIATOR_ERROR)
        if flags & TRANSIT and (flags & CONTINUE or (current, following) not in _STAGE_CHANGES):
            raise _Refusal(LoginStatus.INITIATOR_ERROR)
        self._flags = flags

    def _take_names(self, pairs: Iterable[Pair]) -> tuple[Pair, ...]:
        """Keeps the keys that say who and what; they may be said again, but not otherwise.

        An initiator that offers authentication and is not asked for it says them a second
        time in the operational stage.
        """
        rest = []
        for key, value in pairs:
            if key not in _IDENTITY:
                rest.append((key, value))
            elif self._named.setdefault(key, value) != value:
                raise _Refusal(LoginStatus.INITIATOR_ERROR)
        return tuple(rest)

    def _identify(self) -> Identification:
        name = self._named.get("InitiatorName", "")
        target = self._named.get("TargetName", "")
        kind = self._named.get("SessionType", "Normal")
        if kind not in {"Normal", "Discovery"}:
            raise _Refusal(LoginStatus.SESSION_TYPE_NOT_SUPPORTED)
        discovery = kind == "Discovery"
        # 6.3: the first request must name the initiator, and the target of a normal session.
        if not name or not (target or discovery):
            raise _Refusal(LoginStatus.MISSING_PARAMETER)
        # Lower case may need more bytes.
        if not (valid_name(name) and valid_name(name.lower())):
            raise _Refusal(LoginStatus.INITIATOR_ERROR)
        assert self._isid_tsih is not None
        self._negotiation = keys.Negotiation(self._offer, discovery=discovery)
        return Identification(
            initiator_name=name.lower(),
            initiator_alias=self._named.get("InitiatorAlias", "")[:255],
            target_name="" if discovery else target.lower(),
            discovery=discovery,
            isid=self._isid_tsih[0],
            tsih=self._isid_tsih[1],
            cid=self._cid,
        )

    def _negotiate(self, pairs: tuple[Pair, ...]) -> LoginOutcome:
        """Answers the keys of one request, and changes the stage when it may."""
        assert self._negotiation is not None
        security = tuple(pair for pair in pairs if _is_security(pair[0]))
        if self._stage == OPERATIONAL:
            if not self._authenticated:
                # 6.3.2: who must authenticate cannot leave that stage out.
                raise _Refusal(LoginStatus.AUTHENTICATION_FAILURE)
            if security:
                raise _Refusal(LoginStatus.INITIATOR_ERROR)
            answers: list[Pair] = []
        else:
            answers = self._authenticate(security)
        others = self._negotiation.answer(pair for pair in pairs if not _is_security(pair[0]))
        if others is None:
            raise _Refusal(LoginStatus.INITIATOR_ERROR)
        answers = self._introduction() + answers + others
        if self._stage == OPERATIONAL:
            answers += self._negotiation.declarations()
        transit = bool(self._flags & TRANSIT) and self._authenticated
        if transit and self._flags & 3 == FULL_FEATURE and _fits(answers):
            assert self._identification is not None
            self._leaving = answers
            user = self._chap.user if self._chap is not None else ""
            return SessionRequested(self._identification, self._negotiation.parameters(), user)
        return self._reply(answers, transit=transit)

    @property
    def _authenticated(self) -> bool:
        return self._chap is None or self._chap.done

    def _introduction(self) -> list[Pair]:
        """What the first response must say, in whichever stage it is (6.3.1, 13.9)."""
        assert self._identification is not None
        assert self._admission is not None
        if self._introduced or self._identification.discovery:
            return []
        self._introduced = True
        pairs = [("TargetPortalGroupTag", str(self._admission.portal_group_tag))]
        if self._admission.alias:
            pairs.insert(0, ("TargetAlias", self._admission.alias))
        return pairs

    def _authenticate(self, pairs: tuple[Pair, ...]) -> list[Pair]:
        given = dict(pairs)
        if len(given) != len(pairs):
            raise _Refusal(LoginStatus.INITIATOR_ERROR)
        answers = []
        methods = given.pop("AuthMethod", None)
        if methods is not None:
            if self._method_chosen:
                raise _Refusal(LoginStatus.INITIATOR_ERROR)
            # 6.2.1: the first of the offered list that this side accepts.
            wanted = "None" if self._chap is None else "CHAP"
            if wanted not in methods.split(","):
                raise _Refusal(LoginStatus.AUTHENTICATION_FAILURE)
            self._method_chosen = True
            answers.append(("AuthMethod", wanted))
        if self._chap is None:
            if given:
                raise _Refusal(LoginStatus.AUTHENTICATION_FAILURE)
            return answers
        if not self._method_chosen and (given or self._flags & TRANSIT):
            raise _Refusal(LoginStatus.AUTHENTICATION_FAILURE)
        proof = self._chap.answer(given)
        if proof is None:
            raise _Refusal(LoginStatus.AUTHENTICATION_FAILURE)
        return answers + proof

    def _reply(self, pairs: Iterable[Pair], *, transit: bool) -> LoginReply:
        text = keys.format_text(pairs)
        flags = (self._stage or 0) << 2
        if len(text) > RESPONSE_LIMIT:
            self._unsent = text[RESPONSE_LIMIT:]
            return LoginReply(flags=flags | CONTINUE, text=text[:RESPONSE_LIMIT])
        if transit:
            following = self._flags & 3
            flags |= TRANSIT | following
            self._stage = following
        return LoginReply(flags=flags, text=text)

    def _continued(self) -> LoginOutcome:
        part, self._unsent = self._unsent[:RESPONSE_LIMIT], self._unsent[RESPONSE_LIMIT:]
        flags = (self._stage or 0) << 2
        if self._unsent:
            return LoginReply(flags=flags | CONTINUE, text=part)
        return LoginReply(flags=flags, text=part)


def _fits(pairs: Iterable[Pair]) -> bool:
    return len(keys.format_text(pairs)) <= RESPONSE_LIMIT


def _is_security(key: str) -> bool:
    return key == "AuthMethod" or key in chap.KEYS
