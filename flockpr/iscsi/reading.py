"""Who reads from a connection: a thread of its own, or the desk.

Who sends nothing but reservation commands needs no thread: those that read are answered by a
glance, those that change something are carried out by the threads of their LUN. With a thread for
each such connection the interpreter's lock would be passed around at every system call, so they
share one. Whoever sends something else leaves the desk with it, for a thread of its own.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final

from flockpr.desk import Desk, Turn
from flockpr.iscsi import events
from flockpr.iscsi.command import Command
from flockpr.iscsi.housekeeper import Housekeeper
from flockpr.iscsi.inline import Inline
from flockpr.iscsi.wire import Wire
from flockpr.spc.codes import Opcode

log = logging.getLogger(__name__)

ENOUGH: Final = 16
"""Readings in a row that brought reservation commands alone, before a connection sits down."""
RETRY: Final = 0.5
"""Seconds after which a thread that could not be started is tried again."""
_PASSING: Final = frozenset(
    (Command, events.DataComplete, events.DataRefused, events.Released, events.TaskManagement)
)
"""Events that keep nobody waiting, whatever they say."""
_RESERVING: Final = frozenset((Opcode.PERSISTENT_RESERVE_IN, Opcode.PERSISTENT_RESERVE_OUT))


def suits(found: Iterable[events.Event]) -> bool:
    """Whether events are reservation commands, or their data: nothing of that has to be waited
    for by who reads.
    """
    for event in found:
        if isinstance(event, Command):
            command = event
        elif isinstance(event, events.DataComplete):
            command = event.command
        else:
            return False
        if command.cdb[0] not in _RESERVING:
            return False
    return True


class Reading:
    """Reads from one connection; what sits at the desk of a target (`desk.Sitter`).

    Args:
        sock: The connection, blocking.
        wire: Its protocol object and its output.
        inline: Executes what the thread that reads can execute itself.
        desk: Where it may sit down.
        housekeeper: Tries again where there is no thread.
        most: Bytes of answers that may wait to be taken; with more nothing is read.
        number: For the names of threads.
        carry_out: Deals with what has happened; may wait, but for reservation commands.
        hangs: Called when a look at the reservations has taken too long.
        over: Called by the thread that reads last, at its end.

    Attributes:
        owner: The initiator, once it is known.
        heard: When something came (monotonic).
        pinged: It was asked whether it lives, and nothing has come since.
        stopping: Nothing is to be read any more.
    """

    def __init__(
        self,
        sock: socket.socket,
        wire: Wire,
        inline: Inline,
        *,
        desk: Desk[Reading],
        housekeeper: Housekeeper,
        most: int,
        number: int,
        carry_out: Callable[[Sequence[events.Event]], None],
        hangs: Callable[[], None],
        over: Callable[[], None],
    ) -> None:
        self._socket = sock
        self._wire = wire
        self._inline = inline
        self._desk = desk
        self._housekeeper = housekeeper
        self._most = most
        self._name = f"iscsi-{number}"
        self._carry_out = carry_out
        self._hangs = hangs
        self._end = over
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._left: Sequence[events.Event] = ()
        self._still = self._seen = 0
        self.owner: Hashable = None
        self.heard = time.monotonic()
        self.pinged = False
        self.stopping = False

    # ------------------------------------------------------------------ in a thread of its own

    def start(self) -> None:
        """Start a thread that reads until the end, or goes on with that.

        Raises:
            RuntimeError: The system has none.
        """
        thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
        before, self._thread = self._thread, thread
        try:
            thread.start()
        except RuntimeError:
            self._thread = before
            raise

    def take_over(self) -> None:
        """As `start`, while the thread that reads takes long; that one may be the desk's. Called
        with the new thread kept from reading.

        Raises:
            RuntimeError: The system has none; then nothing has changed.
        """
        self.start()
        self._desk.release(self)

    def join(self, timeout: float) -> bool:
        """Wait for its end, in seconds; whether that came in time."""
        end = time.monotonic() + timeout
        if not self._over.wait(max(0.0, timeout)):
            return False
        thread = self._thread  # who read last, and is about to end
        if thread is not None:
            thread.join(max(0.0, end - time.monotonic()))
        return thread is None or not thread.is_alive()

    def _serve(self) -> None:
        self._inline.begin()
        self._read_on()

    def _read_on(self) -> None:
        """Read until the end, until another thread does, or until it sits down; raises nothing."""
        inline = self._inline
        try:
            self._read_all()
        except Exception:
            log.exception("%s: closed after an unexpected error", self._wire.output.who)
            self._wire.abandon()  # also where another thread reads by now
        if inline.reading and self._settled():
            self._end()
            self._over.set()

    def _settled(self) -> bool:
        """Whether nothing flies any more, and the calling thread is the one to end it all."""
        try:
            return self._inline.settle()
        except Exception:
            log.exception("%s: internal error", self._wire.output.who)
            return True

    def _read_all(self) -> None:
        inline, output, protocol = self._inline, self._wire.output, self._wire.protocol
        received: Sequence[events.Event] | None = self._left
        self._left = ()
        while received is not None:
            if not self._deal_with(received):
                return
            if protocol.closing or output.broken:
                return
            if output.pending > self._most:
                if not inline.settle():
                    return
                self._wait_for_room()
                inline.work()  # reads that were held back go on
                if not inline.reading:
                    return
            reads = not inline.flying or inline.await_client()
            received = self._receive() if reads else ()

    def _deal_with(self, received: Sequence[events.Event]) -> bool:
        """Carry out what has come; False if the calling thread is not to read any more."""
        inline = self._inline
        if not inline.reading:
            return False
        if inline.flying and not _PASSING.issuperset(map(type, received)):
            # It may wait for the end of commands, and nobody else sees to those that fly.
            self._left = received
            if not inline.settle():
                return False
            self._left = ()
        self._carry_out(received)
        inline.work()
        passed = self._passed()
        if received or passed:
            self._still = self._still + 1 if suits(received) else 0
            if self._still >= ENOUGH and not inline.flying and self._sit_down():
                return False
        return inline.reading

    def _passed(self) -> bool:
        """Whether commands were answered where they were read, since this was last asked."""
        before, self._seen = self._seen, self._wire.protocol.passed
        return self._seen != before

    def _wait_for_room(self) -> None:
        """The client takes nothing: read nothing either. The tick ends it in time."""
        output = self._wire.output
        with self._wire.changed:
            self._wire.changed.wait_for(
                lambda: output.pending <= self._most or output.broken or self.stopping
            )

    def _receive(self, flags: int = 0) -> Sequence[events.Event] | None:
        """What has happened by what the client has sent; None at the end of the stream."""
        wire = self._wire
        with wire.lock:
            buffers = wire.protocol.get_buffers()
        try:
            if len(buffers) == 1:
                count = self._socket.recv_into(buffers[0], 0, flags)
            else:
                count = self._socket.recvmsg_into(buffers, 0, flags)[0]
        except BlockingIOError:
            return ()
        except OSError as error:
            log.debug("%s: %s", wire.output.who, error)
            return None
        # A socket that was shut down still has what came before.
        if not count or self.stopping or wire.output.broken:
            return None
        self.heard = time.monotonic()
        self.pinged = False
        return wire.do(wire.protocol.received, count)

    # ------------------------------------------------------------------ at the desk

    def _sit_down(self) -> bool:
        """Leave the thread for the desk; False if there is no place."""
        self._still = 0
        if not self._inline.pause():
            return False
        if self._desk.take(self):
            return True
        self._inline.resume()
        return False

    def fileno(self) -> int:
        """See `desk.Sitter`."""
        return self._socket.fileno()

    def turn(self) -> Turn:
        """See `desk.Sitter`."""
        turn = Turn.LEAVE
        try:
            turn = self._turn()
        except Exception:
            log.exception("%s: closed after an unexpected error", self._wire.output.who)
            self._wire.abandon()
        return turn if self._inline.pause() else Turn.GONE

    def _turn(self) -> Turn:
        if not self._inline.resume(medium=False, glances=not self._desk.wary):
            raise RuntimeError("two threads read from one connection")
        if self._wire.output.pending > self._most:
            return Turn.LEAVE
        found = self._receive(socket.MSG_DONTWAIT)
        if found is None:
            return Turn.END
        if not suits(found):
            self._left = found
            return Turn.LEAVE
        self._carry_out(found)
        passed = self._passed() and not found
        # What is carried out by a thread of the LUN needs the interpreter now.
        return Turn.ANSWERED if self._inline.work() or passed else Turn.STAY

    def park(self) -> bool:
        """See `desk.Sitter`; no turn ends so."""
        return False

    def overdue(self, now: float) -> bool:
        """See `desk.Sitter`; the housekeeper sees to what is late."""
        del now
        return False

    def dismissed(self) -> bool:
        """See `desk.Sitter`. If it has got a thread, its turn says so."""
        self._hangs()  # there is nothing else in a turn that may
        return True

    def keep(self) -> None:
        """Go on reading in the calling thread, which was the desk's and took too long."""
        self._thread = threading.current_thread()
        self._inline.begin()
        self._read_on()

    def alone(self) -> None:
        """Go on reading in a thread of its own, as soon as there is one."""
        try:
            self.start()
        except RuntimeError as error:
            log.error("%s: not read from yet: %s", self._wire.output.who, error)
            self._housekeeper.later(RETRY, self.alone)
