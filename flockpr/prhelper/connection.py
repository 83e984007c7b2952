"""One connection: answers its requests in turn."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Hashable
from typing import Protocol

import attrs

from flockpr.desk import Turn
from flockpr.errors import ProtocolViolation
from flockpr.logical_unit import Result
from flockpr.manager import PRManager
from flockpr.prhelper.guest import Guest
from flockpr.prhelper.harmless import Files, Places
from flockpr.prhelper.identity import Identifier
from flockpr.prhelper.inbox import Inbox, close_all
from flockpr.prhelper.pending import Pending
from flockpr.prhelper.protocol import Request, encode_response
from flockpr.prhelper.seating import Seating
from flockpr.spc.codes import Opcode, Status

_log = logging.getLogger("flockpr.prhelper.connection")

ENOUGH = 4
"""Commands in a row that need no thread before who had one for its files sits down again."""
A_MOMENT = 0.1
"""Seconds that a thread waits to see whether a file hangs."""
OVERDUE = 1.0
"""Seconds between two looks whether a command takes too long."""

_IN = int(Opcode.PERSISTENT_RESERVE_IN)
_PAUSED = frozenset((Status.BUSY, Status.TASK_SET_FULL))
_STOPPED = "the client stopped amid a request or a response"

BUSY_PAUSE = 0.25
"""Least seconds until BUSY goes out: Linux repeats the command at once, for a minute."""


@attrs.frozen
class Limits:
    """Bounds of what a connection may cost.

    Attributes:
        connections: How many there may be; more are closed at once. None: what the limit on
            open files allows a process with this one door.
        handshake: Seconds in which a client has to answer the greeting.
        request: Seconds for the rest of a request that has begun, and for the response. A
            client between two requests is never hurried: QEMU may be silent for days.
        command: Seconds after which a command is answered whatever its manager does.
    """

    connections: int | None = None
    handshake: float = 60.0
    request: float = 60.0
    command: float = 15.0


class House(Protocol):
    """Whom a connection belongs to: a listening socket.

    Attributes:
        seating: Where its connections may sit down.
    """

    seating: Seating[Connection]

    def serve(self, connection: Connection) -> None:
        """Serve a connection in the caller's thread until it sits down or ends."""

    def serve_alone(self, connection: Connection) -> None:
        """Likewise in a thread of its own; returns at once."""

    def end_aside(self, connection: Connection) -> None:
        """It is over, and to close it may hang; returns at once."""


class Connection:
    """One client: in a thread of its own, or at the desk of all those that need none.

    In a thread every call waits for its client, for the units, and for the client's files to be
    closed. At the desk nothing is waited for: a command that has to be carried out is answered by
    the thread that did so. One that comes with a file that may hang in its close is not done
    there.

    Args:
        sock: The connection; closed with this object. The greeting has been sent.
        path: Where it was accepted.
        manager: Executes the commands.
        identifier: Finds the initiator port.
        limits: See there.
        stopping: Set when the daemon ends.
        number: For the log.
        house: Whose it is.
        places: What is known of files.

    Attributes:
        number: As given.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        path: str,
        manager: PRManager,
        identifier: Identifier,
        limits: Limits,
        stopping: threading.Event,
        number: int,
        house: House,
        places: Places,
    ) -> None:
        self._sock = sock
        self._path = path
        self._limits = limits
        self._stopping = stopping
        self.number = number
        self._name = f"connection {number}"
        self._house = house
        self._desk = house.seating.desk
        self._inbox = Inbox(sock, self._name, handshake=limits.handshake, request=limits.request)
        self._guest = Guest(
            sock,
            path=path,
            manager=manager,
            identifier=identifier,
            timeout=limits.command,
            name=self._name,
        )
        self._files = Files(places)
        self._left: Request | None = None
        self._wanted = 1
        self._peeks = True
        # What follows is told between threads, with the lock held.
        self._lock = threading.RLock()
        self._turns = threading.Condition(self._lock)
        self._sitting = False
        self._parked = False
        self._under_way = False
        self._pending: Pending | None = None
        self._unsent: tuple[float, bytes] | None = None

    def serve(self) -> bool:
        """Serve the connection in this thread; raises nothing.

        Returns:
            True if it can go on at the desk, False at its end.
        """
        return self._until_error(self._serve_until_it_can_sit)

    def close(self) -> None:
        """Its end: let go of everything; may hang. Idempotent."""
        close_all(self._inbox.take_descriptors())
        with contextlib.suppress(OSError):
            self._sock.close()
        self._guest.close()

    def end_input(self) -> None:
        """Let the connection end when it has answered what was sent so far; never blocks."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def abandon(self) -> None:
        """Break the connection; a command in execution goes on without an answer."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _until_error(self, work: Callable[[], bool]) -> bool:
        """Whether the connection goes on."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001, logged
            self._log_end(error)
        return False

    def _log_end(self, error: Exception) -> None:
        """Say why the connection does not go on."""
        match error:
            case ProtocolViolation():
                _log.warning("%s: closed: %s", self._name, error)
            case TimeoutError():
                _log.warning("%s: closed: %s", self._name, _STOPPED)
            case ConnectionError():
                _log.debug("%s: %s", self._name, error)
            case _:
                _log.error("%s: closed after an unexpected error", self._name, exc_info=error)

    # ------------------------------------------------------------------ in a thread

    def _serve_until_it_can_sit(self) -> bool:
        self._finish_turn()
        while self._serve_one():
            if self._wanted <= 0:
                return True
        return False

    def _finish_turn(self) -> None:
        """Send what could not be sent at the desk, or wait until the units have answered."""
        while True:
            with self._turns:
                self._sitting = False
                if self._under_way and self._unsent is None:
                    self._turns.wait(OVERDUE)
                unsent, self._unsent = self._unsent, None
                if unsent is None and not self._under_way:
                    return
            if unsent is None:
                self.overdue(time.monotonic())
                continue
            pause, response = unsent
            if pause:
                self._stopping.wait(pause)
            self._send(response)
            self._answered()

    def _serve_one(self) -> bool:
        """Read and answer one request; False at the end of the stream."""
        try:
            request, self._left = self._left or self._inbox.read(), None
            if request is None:
                return False
            result = self._guest.result(request, self._inbox.descriptor)
            if result.status in _PAUSED:
                self._stopping.wait(BUSY_PAUSE)
            self._send(encode_response(request, result.status, result.sense, result.data_in))
            self._wanted = self._wanted - 1 if self._suits_the_desk(request) else ENOUGH
            return True
        finally:
            # After the response: closing a file of a hung server may hang.
            self._let_go()

    def _suits_the_desk(self, request: Request) -> bool:
        """Whether another request like this one could be answered without this thread."""
        guest, desk = self._guest, self._house.seating.desk
        if guest.port is None or desk.wary or not desk.welcomes(self.owner):
            return False
        if self._files.harmless(self._inbox.descriptor, A_MOMENT):
            return True
        return guest.reads_blindly and guest.response_at_once(request.cdb, -1) is not None

    def _send(self, response: bytes) -> None:
        self._sock.settimeout(self._limits.request)
        self._sock.sendall(response, socket.MSG_NOSIGNAL)

    # ------------------------------------------------------------------ at the desk

    def fileno(self) -> int:
        """See `Sitter.fileno`."""
        return self._sock.fileno()

    @property
    def owner(self) -> Hashable:
        """See `Sitter.owner`. Somebody else's socket may act for the same port."""
        return self._path, self._guest.port

    def sit_down(self) -> bool:
        """Leave the thread for the desk; False if there is no place."""
        desk = self._house.seating.desk
        if desk is not self._desk and self._desk.serves(self):
            return False  # it hangs there still, and is about to be let go
        self._sock.setblocking(False)
        self._peeks = True  # mostly, a read follows a read
        self._sitting = True
        self._desk = desk
        if self._desk.take(self):
            return True
        self._sitting = False
        return False

    def dismissed(self) -> bool:
        """See `Sitter.dismissed`."""
        with self._turns:
            sitting, self._sitting = self._sitting, False
        self._house.seating.move_out()
        self._guest.hangs()
        return sitting

    def keep(self) -> None:
        """See `Guided.keep`."""
        self._house.serve(self)

    def alone(self) -> None:
        """See `Guided.alone`."""
        self._house.serve_alone(self)

    def ended(self) -> None:
        """See `Guided.ended`."""
        self._house.end_aside(self)

    def park(self) -> bool:
        """See `Sitter.park`."""
        with self._turns:
            self._parked = self._sitting and self._under_way
            return self._parked or not self._sitting

    def overdue(self, now: float) -> bool:
        """See `Sitter.overdue`."""
        pending, deadline = self._pending, self._inbox.deadline
        if pending is not None:
            if now - pending.started >= self._limits.command:
                self.conclude(pending)
        elif deadline is not None and now >= deadline and not self._under_way:
            _log.warning("%s: closed: %s", self._name, _STOPPED)
            self.abandon()
        return pending is not None or deadline is not None

    def turn(self) -> Turn:
        """See `Sitter.turn`."""
        if self._under_way:
            return Turn.PARK
        try:
            return self._turn()
        except (BlockingIOError, InterruptedError):
            return Turn.STAY
        except Exception as error:  # noqa: BLE001, logged
            self._log_end(error)
            return Turn.END

    def _turn(self) -> Turn:
        guest, inbox = self._guest, self._inbox
        desk = self._desk
        # Who belongs to another desk by now goes on with a thread, and from there to that one.
        at_once = not desk.wary and desk is self._house.seating.desk
        if at_once and self._peeks and guest.reads_blindly:
            cdb = inbox.peek()
            response = None if cdb is None else guest.response_at_once(cdb, -1)
            if response is not None:
                sent = self._send_now(response)
                inbox.skip()
                return self._sent(response, sent)
        request = inbox.read_now()
        if request is None:
            return Turn.END
        self._peeks = request.opcode == _IN
        lost = request.descriptor_lost
        if not at_once or not (lost or self._files.harmless(inbox.descriptor)):
            self._left = request
            return Turn.LEAVE
        response = None if lost else guest.response_at_once(request.cdb, inbox.descriptor)
        if response is None:
            self._begin(request)
            return Turn.STAY
        sent = self._send_now(response)
        self._let_go()
        return self._sent(response, sent)

    def _sent(self, response: bytes, count: int) -> Turn:
        """That many bytes of a response were sent."""
        if count == len(response):
            return Turn.ANSWERED
        self._unsent = 0.0, response[count:]
        self._under_way = True
        return Turn.LEAVE

    def _begin(self, request: Request) -> None:
        """Hand a request to the units. From `begins` on, and with what is called last, another
        thread may go on with this connection.
        """
        pending = Pending(self, request, time.monotonic(), self._desk.hush)
        future = self._guest.begin(request, self._inbox.descriptor, pending)
        if future is not None:
            pending.future = future
            self.begins(pending)
            future.add_done_callback(pending.ended)

    def begins(self, pending: Pending) -> None:
        """See `Owner.begins`."""
        self._let_go()
        with self._lock:
            self._under_way = True
            self._pending = pending

    def _let_go(self) -> None:
        """Close the descriptors that came."""
        close_all(self._inbox.take_descriptors())

    def conclude(self, pending: Pending, result: Result | None = None) -> None:
        """Send the response to a command; in whatever thread it has ended, or is given up."""
        with self._lock:
            if self._pending is not pending:
                return
            self._pending = None
        try:
            self._answer(pending, result)
        except Exception as error:  # noqa: BLE001, logged
            self._log_end(error)
            self.abandon()
            self._answered()

    def _answer(self, pending: Pending, result: Result | None) -> None:
        request = pending.request
        if result is None:
            result = self._guest.outcome(request, pending.future)
        self._guest.note(request, result, pending.started)
        response = encode_response(request, result.status, result.sense, result.data_in)
        pause = BUSY_PAUSE if result.status in _PAUSED else 0.0
        sent = self._send_now(response) if self._sitting and not pause else 0
        if sent == len(response):
            self._answered()
        else:
            self._leave_unsent(pause, response[sent:])

    def _send_now(self, response: bytes) -> int:
        """How many bytes the client's socket has taken."""
        try:
            return self._sock.send(response, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0

    def _answered(self) -> None:
        """A response was sent: the client gets on."""
        with self._lock:
            self._under_way = False
            parked, self._parked = self._parked, False
            if not self._sitting:  # else no thread waits for it
                self._turns.notify_all()
        if parked:
            self._desk.watch_again(self)

    def _leave_unsent(self, pause: float, response: bytes) -> None:
        """What is left of a response is a thread's to send: that of the connection, if it has one
        already, else a new one.
        """
        with self._turns:
            self._unsent = pause, response
            sitting, self._sitting = self._sitting, False
            self._parked = False
            self._turns.notify_all()
        if sitting:
            self._desk.release(self)
            self._desk.alone(self)
