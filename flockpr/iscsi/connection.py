"""One iSCSI connection, which is one session: what becomes of what it sends."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from flockpr.iscsi import events
from flockpr.iscsi.command import Command
from flockpr.iscsi.door import Door
from flockpr.iscsi.execution import Execution
from flockpr.iscsi.housekeeper import Timer
from flockpr.iscsi.login import Admission, LoginStatus
from flockpr.iscsi.management import Management
from flockpr.iscsi.pdu import AsyncEvent, LogoutResponse
from flockpr.iscsi.reading import Reading
from flockpr.iscsi.session import Phase, TargetConnection
from flockpr.iscsi.sessions import Request, Session
from flockpr.iscsi.settings import Address
from flockpr.iscsi.wire import Wire
from flockpr.spc.transport_id import InitiatorPort

log = logging.getLogger(__name__)

_TIME_TO_WAIT = 2
"""Seconds before an initiator should log in again to a target that ends or was reset."""
_LINGER = 1.0
"""Seconds in which a client may take our last words before the socket is closed."""


_NOT_PROVEN = LoginStatus.AUTHENTICATION_FAILURE.name.replace("_", " ").lower()


def _peer(sock: socket.socket) -> tuple[str, str]:
    """The host at the other end, and how the log names that end."""
    try:
        host, port = sock.getpeername()[:2]
    except (OSError, ValueError):
        return "", "a client that is gone"
    return host, Address(host, port, 0).text


class Connection:
    """One client.

    Args:
        sock: The connection, blocking; closed with this object.
        door: What connections share.
        tag: Target portal group tag of the portal that accepted it.
        number: For the log.
        ended: Called when nothing is left of it.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        door: Door,
        tag: int,
        number: int,
        ended: Callable[[Connection], None],
    ) -> None:
        self._socket = sock
        self._door = door
        self._tag = tag
        self._host, address = _peer(sock)
        self._name = f"connection {number} from {address}"
        self._number = number
        self._ended = ended
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._execution = Execution(
            door,
            self._carry_out,
            client=sock.fileno(),
            start=self._take_over,
            readable=lambda: bool(self._poll.poll(0)),
        )
        protocol = TargetConnection(
            door.protocol, allocate=self._execution.allocate, at_once=self._execution.at_once
        )
        self._wire = Wire(
            sock,
            protocol,
            door.housekeeper,
            stalled=door.limits.stalled,
            backlog=door.backlog,
        )
        self._wire.output.who = self._name
        self._execution.attach_wire(self._wire)
        self._reading = Reading(
            sock,
            self._wire,
            self._execution.inline,
            desk=door.desk,
            housekeeper=door.housekeeper,
            most=door.limits.output,
            number=number,
            carry_out=self._carry_out,
            hangs=door.looks_hang,
            over=self._end,
        )
        self._management = Management(door, self._wire, self._execution, number)
        self._session: Session | None = None
        self._initiator = ""
        self._target = ""
        self._cid = 0
        self._timer: Timer | None = None
        self._handlers: dict[type, Callable[[Any], None]] = {
            Command: self._execution.arrived,
            events.DataComplete: self._execution.data_complete,
            events.DataRefused: self._execution.data_refused,
            events.Released: self._execution.released,
            events.TaskManagement: self._management.request,
            events.LoginStarted: self._login_started,
            events.SessionRequested: self._session_requested,
            events.Established: self._established,
            events.TargetsRequested: self._targets_requested,
            events.LogoutRequested: self._logout,
            events.Violation: self._violation,
        }

    # ------------------------------------------------------------------ what has happened

    def start(self) -> None:
        """Start a thread that serves the connection until it ends, or sits down at the desk.

        Raises:
            RuntimeError: The system has none.
        """
        self._timer = self._door.housekeeper.later(self._door.limits.login, self._login_late)
        self._reading.start()

    def _take_over(self) -> None:
        """Start a thread that reads, while the one that does executes a command."""
        self._reading.take_over()

    def join(self, timeout: float) -> bool:
        """Wait for its end, in seconds; whether that came in time."""
        return self._reading.join(timeout)

    def _carry_out(self, found: Iterable[events.Event]) -> None:
        for event in found:
            if self._wire.output.broken:
                return  # dropped meanwhile: see `Wire.do`
            self._handlers[type(event)](event)

    # ------------------------------------------------------------------ login and logout

    def _login_started(self, event: events.LoginStarted) -> None:
        asked = event.identification
        self._cid = asked.cid
        try:
            self._initiator = InitiatorPort(asked.initiator_name).name
        except ValueError as error:
            log.warning("%s: refused: %s", self._name, error)
            self._wire.say(self._wire.protocol.refuse, LoginStatus.INITIATOR_ERROR)
            return
        self._name = self._wire.output.who = f"{self._name} ({self._initiator})"
        self._target = asked.target_name
        if not asked.discovery:
            verdict = self._door.registry.check(self._request(asked))
            if isinstance(verdict, LoginStatus):
                self._refuse(verdict, asked.target_name)
                return
        mutual = self._door.mutual
        admission = Admission(
            portal_group_tag=self._tag,
            chap=self._door.accounts(self._initiator),
            mutual=None if mutual is None else (mutual.user, mutual.secret),
        )
        self._carry_out(self._wire.do(self._wire.protocol.admit, admission))

    def _session_requested(self, event: events.SessionRequested) -> None:
        registry = self._door.registry
        if event.identification.discovery:
            tsih = registry.discovery_tsih()
        else:
            # May wait for the commands of a session that this one takes the place of.
            found = registry.open(self._request(event.identification), self, self._execution)
            if isinstance(found, LoginStatus):
                self._refuse(found, event.identification.target_name)
                return
            self._session = self._management.session = found
            self._reading.owner = self._initiator
            self._execution.begin(found)
            tsih = found.tsih
        self._carry_out(self._wire.do(self._wire.protocol.establish, tsih))

    def _request(self, asked: events.Identification) -> Request:
        target = asked.target_name.lower()
        return Request(self._initiator, asked.isid, asked.tsih, target, self._tag)

    def _refuse(self, status: LoginStatus, target: str) -> None:
        why = status.name.replace("_", " ").lower()
        log.warning("%s: refused: %s: %s", self._name, target, why)
        self._wire.say(self._wire.protocol.refuse, status)

    def _established(self, _event: events.Established) -> None:
        if self._session is None:
            log.info("%s: discovery session of %s", self._name, self._initiator)
        else:
            log.info("%s: %s", self._name, self._session)
        self._arm(self._door.limits.keepalive)

    def _targets_requested(self, event: events.TargetsRequested) -> None:
        listed = self._door.listed(self._initiator, self._socket)
        if event.which is not None:
            listed = [entry for entry in listed if entry[0] == event.which.lower()]
        self._wire.say(self._wire.protocol.send_targets, event, listed)

    def _logout(self, event: events.LogoutRequested) -> None:
        session = self._session
        response = LogoutResponse.CLOSED
        if session is not None:
            # A write that is still in execution must not land after the initiator was told
            # that nothing will any more.
            self._door.registry.end(session)
            if not session.over.wait(self._door.limits.reinstatement):
                log.warning("%s: %s: commands are still in execution", self._name, session)
                response = LogoutResponse.CLEANUP_FAILED
        self._wire.say(self._wire.protocol.logout_response, event, response)

    def _violation(self, event: events.Violation) -> None:
        if event.reason != _NOT_PROVEN:
            log.warning("%s: dropped: %s", self._name, event.reason)
            return
        # Of one host once in a while: guessing must be seen, and must not fill the log.
        self._door.complaints.error(
            (self._host, _NOT_PROVEN),
            "%s: refused: authentication failure, target %s, CHAP user %r",
            self._name,
            self._target or "(discovery)",
            self._wire.protocol.claimed_user[:64],
        )

    # ------------------------------------------------------------------ deadlines

    def _arm(self, seconds: float) -> None:
        self._door.housekeeper.cancel(self._timer)
        self._timer = self._door.housekeeper.later(seconds, self._tick)

    def _login_late(self) -> None:
        # Also one that was refused and does not take the answer.
        if self._wire.protocol.phase is not Phase.FULL_FEATURE:
            log.warning("%s: dropped: not logged in in time", self._name)
            self._wire.abandon()

    def _tick(self) -> None:
        """Look whether the client still lives; called by the housekeeper."""
        limits = self._door.limits
        reading = self._reading
        silence = time.monotonic() - reading.heard
        if silence < limits.keepalive:
            self._arm(limits.keepalive - silence)
        elif not reading.pinged:
            reading.pinged = True
            self._wire.say(self._wire.protocol.nop_in)
            self._arm(limits.keepalive_answer)
        elif silence < limits.keepalive + limits.keepalive_answer:
            self._arm(limits.keepalive + limits.keepalive_answer - silence)
        else:
            log.warning("%s: dropped: it does not answer", self._name)
            self.abandon()

    # ------------------------------------------------------------------ the end

    def lost(self) -> bool:
        """Whether it is broken or its initiator has closed it, known or not."""
        wire = self._wire
        with wire.lock:  # while it is held the socket is not closed
            if wire.closed or wire.output.broken:
                return True
            poll = select.poll()
            poll.register(self._socket, select.POLLRDHUP)
            return bool(poll.poll(0))

    def superseded(self) -> None:
        """Its session is another connection's now: break it."""
        self._wire.abandon()

    def dropped(self) -> None:
        """The target was reset: say so and break it."""
        self._announce_end(AsyncEvent.DROP_SESSION)
        self._wire.abandon()

    def abandon(self) -> None:
        """Break the connection; what is in execution goes on without an answer."""
        self._wire.abandon()
        if self._session is not None:
            # Now, and not when the thread that reads has found out: another login of the
            # initiator waits for sessions that end.
            self._door.registry.end(self._session)

    def discard(self) -> None:
        """Close a connection that was never served."""
        self._door.housekeeper.cancel(self._timer)
        self._wire.close()
        self._socket.close()

    def end_input(self) -> None:
        """Let the connection end when it has answered what came so far; never blocks."""
        self._reading.stopping = True
        self._announce_end(AsyncEvent.DROP_CONNECTION)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)
        with self._wire.lock:
            self._wire.changed.notify_all()

    def _announce_end(self, event: AsyncEvent) -> None:
        """RFC 7143 11.9: the connection is about to be closed; log in again after a while."""
        self._wire.say(self._wire.protocol.async_message, event, self._cid, _TIME_TO_WAIT, 0)

    def _end(self) -> None:
        """The thread that reads is about to end: nothing may be left of the connection."""
        try:
            self._execution.inline.close()
            if self._reading.stopping:
                self._drain()
            if self._session is not None:
                self._door.registry.end(self._session)
            self._execution.inline.end()
            if self._reading.stopping or self._wire.protocol.closing:
                self._last_words()
        except Exception:
            log.exception("%s: internal error", self._name)
        finally:
            self._door.housekeeper.cancel(self._timer)
            self._wire.close()
            self._execution.close()
            self._door.housekeeper.forget(self._socket.fileno())
            self._socket.close()
            self._ended(self)

    def _drain(self) -> None:
        """The server stops: answer what is complete. `abandon` ends the patience."""
        self._execution.drop_incomplete()
        wire = self._wire
        with wire.changed:
            wire.changed.wait_for(
                lambda: wire.output.broken or not (self._execution.tasks or wire.output.pending)
            )

    def _last_words(self) -> None:
        """Let the client take what was sent last; closing at once could destroy it."""
        wire = self._wire
        with wire.changed:
            wire.changed.wait_for(lambda: wire.output.broken or not wire.output.pending)
            if wire.output.broken:
                return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            if wire.protocol.closing:
                # One deadline for all of it: a byte now and then must not hold the thread.
                end = time.monotonic() + _LINGER
                while (left := end - time.monotonic()) > 0:
                    self._socket.settimeout(left)
                    if not self._socket.recv(4096):
                        return
