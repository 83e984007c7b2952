"""The sessions of a server: who may open one, whose place it takes, and how it ends.

A session is one I_T nexus per LUN (RFC 7143 4.4). It ends when its connection does, because
there is one connection per session and error recovery level 0. It is over only when none of its
commands is in execution any more: until then a login that takes its place has to wait, or a
write of the old session could land on top of one of the new.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import attrs

from flockpr.block import DiskNexus
from flockpr.block.senses import REPORTED_LUNS_CHANGED
from flockpr.core.model import Nexus
from flockpr.iscsi.login import LoginStatus
from flockpr.iscsi.settings import Limits
from flockpr.iscsi.targets import Lun, Target, TargetMap
from flockpr.iscsi.tasks import Drain, Ending, Line, Owner, Task
from flockpr.spc.transport_id import InitiatorPort

log = logging.getLogger(__name__)

MAX_TSIH = 0xFFFF


class Carrier(Protocol):
    """The connection of a session."""

    def lost(self) -> bool:
        """Whether it is broken or its initiator has closed it, known or not. Does not block."""

    def superseded(self) -> None:
        """Its session is another connection's now: break it. Does not block."""

    def dropped(self) -> None:
        """The target was reset: say so and break it. Does not block."""


@attrs.frozen
class Request:
    """What a login asks for, as far as sessions are concerned.

    Attributes:
        initiator: iSCSI name, lower case.
        isid: Initiator session identifier, 48 bits.
        tsih: Zero for a new session.
        target: iSCSI name of the target.
        tag: Target portal group tag of the portal.
    """

    initiator: str
    isid: int
    tsih: int
    target: str
    tag: int


@attrs.define(eq=False)
class Attachment:
    """One LUN as one session sees it.

    Attributes:
        lun: The LUN.
        nexus: Who the session is to it.
        disk_nexus: Likewise, as its disk knows it.
        line: The session's part of its task set.
    """

    lun: Lun
    nexus: Nexus
    disk_nexus: DiskNexus
    line: Line = attrs.field(factory=Line)


class Session:
    """One session. Its tasks know it; the LUNs know its attachments."""

    def __init__(
        self, request: Request, tsih: int, target: Target, carrier: Carrier, owner: Owner
    ) -> None:
        self.initiator = request.initiator
        self.isid = request.isid
        self.tag = request.tag
        self.tsih = tsih
        self.target = target
        self.carrier = carrier
        self.owner = owner
        self.attachments: dict[int, Attachment] = {}
        self.ending = False
        self.over = threading.Event()
        # Of the attachments, between login, an early end and LUNs that come and go.
        self.lock = threading.Lock()
        self.on_change: Callable[[Mapping[int, Attachment]], None] = _nothing

    def observe(self, on_change: Callable[[Mapping[int, Attachment]], None]) -> None:
        """Tell a function of the attachments, now and when they have changed; under the lock."""
        with self.lock:
            self.on_change = on_change
            on_change(self.attachments)

    @property
    def key(self) -> tuple[str, int, str, int]:
        """What reinstatement goes by (RFC 7143 6.3.1): never two sessions with the same."""
        return self.initiator, self.isid, self.target.name, self.tag

    def __str__(self) -> str:
        return f"session {self.tsih} of {self.initiator} with {self.target.name},{self.tag}"

    def owns(self, task: Task) -> bool:
        """Whether a task is one of this session's."""
        return task.owner is self.owner


def _nothing(_attachments: Mapping[int, Attachment]) -> None:
    pass


def _attachment(session: Session, lun: Lun) -> Attachment:
    isid = session.isid if lun.settings.nexus == "name+isid" else None
    nexus = Nexus(InitiatorPort(session.initiator, isid), session.tag)
    return Attachment(lun, nexus, lun.disk.attach(nexus, target_name=session.target.name))


def _attachments(session: Session, luns: Mapping[int, Lun]) -> dict[int, Attachment]:
    """All of these, or none when one raises."""
    made: dict[int, Attachment] = {}
    try:
        for number, lun in luns.items():
            made[number] = _attachment(session, lun)
    except BaseException:
        for each in made.values():
            each.lun.disk.detach(each.disk_nexus)
        raise
    return made


class SessionRegistry:
    """All sessions of a server. Thread-safe.

    Args:
        targets: Where targets are looked up.
        limits: See there.
    """

    def __init__(self, targets: TargetMap, limits: Limits) -> None:
        self._targets = targets
        self._limits = limits
        self._lock = threading.Lock()
        self._sessions: dict[int, Session] = {}
        self._last_tsih = 0

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def all(self) -> tuple[Session, ...]:
        """The sessions that there are, those that are ending too."""
        with self._lock:
            return tuple(self._sessions.values())

    # ------------------------------------------------------------------ login

    def check(self, request: Request) -> LoginStatus | Target:
        """Whether this initiator may log in to this target at all; asked before it proves
        who it is, so it tells no more than SendTargets does.
        """
        target = self._targets.find(request.target)
        if target is None:
            return LoginStatus.TARGET_NOT_FOUND
        if not target.visible(request.initiator, request.tag):
            return LoginStatus.AUTHORIZATION_FAILURE
        if request.tsih:
            # A second connection, or connection reinstatement: MaxConnections is 1, and
            # at error recovery level 0 an initiator starts the session anew.
            with self._lock:
                known = self._sessions.get(request.tsih)
            known_here = known is not None and known.initiator == request.initiator
            return (
                LoginStatus.TOO_MANY_CONNECTIONS
                if known_here
                else LoginStatus.SESSION_DOES_NOT_EXIST
            )
        return target

    def open(self, request: Request, carrier: Carrier, owner: Owner) -> LoginStatus | Session:
        """Make the session, when those whose place it takes are over.

        Blocks for up to `Limits.reinstatement` seconds; called in the connection's thread.

        Args:
            request: What is asked for.
            carrier: The connection.
            owner: Whom its tasks belong to.
        """
        target = self.check(request)
        if isinstance(target, LoginStatus):
            return target
        deadline = time.monotonic() + self._limits.reinstatement
        self._end_lost(request, target)
        while True:
            with self._lock:
                in_the_way = self._in_the_way(request, target)
                if not in_the_way:
                    made = self._make(request, target, carrier, owner)
                    break
            for session in in_the_way:
                if not session.ending:
                    log.info("%s is taken over by a new login", session)
                session.carrier.superseded()
                self.end(session)
            for session in in_the_way:
                if not session.over.wait(max(0.0, deadline - time.monotonic())):
                    log.warning("%s: commands are still in execution", session)
                    return LoginStatus.SERVICE_UNAVAILABLE
        if isinstance(made, Session):
            try:
                self._attach(made)
            except Exception as error:  # noqa: BLE001, it would stay for ever
                log.error("%s: refused: %s", made, error)
                self.end(made)
                return LoginStatus.OUT_OF_RESOURCES
        return made

    def _end_lost(self, request: Request, target: Target) -> None:
        """End the sessions of an initiator that it has closed, although nobody has read that far.

        What it sent before lies in their sockets. It must not land after what comes now.
        """
        for session in self.all:
            if (
                session.initiator == request.initiator
                and session.target.name == target.name
                and not session.ending
                and session.carrier.lost()
            ):
                session.carrier.superseded()
                self.end(session)

    def _in_the_way(self, request: Request, target: Target) -> list[Session]:
        """The session to be reinstated, and those of the same initiator that are ending.

        The latter whatever their ISID: QEMU has a new one at each start, and what its dead
        predecessor has in execution must not land after what it sends now.
        """
        key = (request.initiator, request.isid, target.name, request.tag)
        return [
            session
            for session in self._sessions.values()
            if session.key == key
            or (
                session.ending
                and session.initiator == request.initiator
                and session.target.name == target.name
            )
        ]

    def _make(
        self, request: Request, target: Target, carrier: Carrier, owner: Owner
    ) -> LoginStatus | Session:
        mine = sum(s.initiator == request.initiator for s in self._sessions.values())
        tsih = self._free_tsih()
        if mine >= self._limits.per_initiator or not tsih:
            log.warning("%s: too many sessions", request.initiator)
            return LoginStatus.OUT_OF_RESOURCES
        session = Session(request, tsih, target, carrier, owner)
        self._sessions[tsih] = session
        return session

    def discovery_tsih(self) -> int:
        """A handle for a discovery session, which nothing else knows of."""
        with self._lock:
            return self._free_tsih() or MAX_TSIH

    def _free_tsih(self) -> int:
        """A target session identifying handle that is not in use, or 0."""
        for _ in range(MAX_TSIH):
            self._last_tsih = self._last_tsih % MAX_TSIH + 1
            if self._last_tsih not in self._sessions:
                return self._last_tsih
        return 0

    def _attach(self, session: Session) -> None:
        """Attach it to the LUNs that it may see and is not attached to; those that are gone it
        leaves. The others tell of the change (SPC-4 6.33).
        """
        with session.lock:
            if session.ending:
                return
            before = session.attachments
            # The newest: it may have changed since the session was asked for, or begun.
            target = self._targets.find(session.target.name)
            luns = {} if target is None else target.visible(session.initiator, session.tag)
            kept = {n: each for n, each in before.items() if luns.get(n) is each.lun}
            if len(kept) == len(before) == len(luns):
                return
            added = _attachments(session, {n: lun for n, lun in luns.items() if n not in kept})
            session.attachments = {**kept, **added}
            session.on_change(session.attachments)
            # After the change: a REPORT LUNS that comes now answers with what is new.
            for attachment in kept.values():
                attachment.disk_nexus.tell(REPORTED_LUNS_CHANGED)

    def refresh(self) -> None:
        """LUNs came or went: let the sessions find them, or not find them any more."""
        for session in self.all:
            try:
                self._attach(session)
            except Exception as error:  # noqa: BLE001, the others must hear of it
                # When it logs in again it sees them all, if that can be.
                log.error("%s: dropped: %s", session, error)
                session.carrier.dropped()
                self.end(session)

    # ------------------------------------------------------------------ end

    def end(self, session: Session, done: Callable[[], None] | None = None) -> None:
        """End a session: its tasks too, silently. Idempotent; does not block.

        Args:
            session: Which.
            done: Called when it is over, if this call began the end; maybe in here.
        """
        with self._lock:
            if session.ending:
                return
            session.ending = True

        def over(_all: bool) -> None:
            for attachment in session.attachments.values():
                attachment.lun.disk.detach(attachment.disk_nexus)
            with self._lock:
                self._sessions.pop(session.tsih, None)
            session.over.set()
            log.info("%s is over", session)
            if done is not None:
                done()

        drain = Drain(over)
        with session.lock:
            attachments = tuple(session.attachments.values())
        for attachment in attachments:
            attachment.lun.tasks.abort(
                lambda task: Ending.SILENT if session.owns(task) else None,
                drain,
                last_of=attachment.line,
            )
        drain.one_ended()
