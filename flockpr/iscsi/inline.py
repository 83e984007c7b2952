"""The commands that the thread of a connection executes itself, between two readings.

A read or write of a disk that does not hang takes less time than to hand it to another thread.
So it is executed by the thread that read it, and several that came together are answered
together. If one takes long (see `relief`), another thread goes on reading; the first one answers
its command when that ends, and is gone.

Reads and writes that came together, or while others are under way, are launched (see `flights`):
the kernel carries them out while the thread reads on. As long as something flies the thread waits
for nothing but the client and the disks; before it does anything else that may have to wait, all of
it lands, because whoever takes access away waits for that.
"""

from __future__ import annotations

import errno
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from flockpr.block import ScsiReply
from flockpr.gate import aside
from flockpr.iscsi.commands import CommandTask
from flockpr.iscsi.flights import Flight, FlightRing, Flights, finish
from flockpr.iscsi.output import Loan, Release
from flockpr.iscsi.pace import REST
from flockpr.iscsi.relief import Relief

Done: TypeAlias = tuple[CommandTask, ScsiReply]

TOGETHER: Final = 8
"""Answers of one system call: the client goes on with them while the next are made."""
SLOW: Final = 0.01
"""Seconds that telling the kernel of commands may take before the thread leaves it for a while."""
GROUNDED: Final = 60.0
"""Seconds for which nothing is launched where the kernel did not take it."""
BYTES_TOGETHER: Final = 128 << 10
"""Data-In from which on answers are sent without waiting for others."""

_NOBODY: Final = 0
_SOMEBODY: Final = -1
"""A thread that has been started and does not read yet."""
_NO_THREAD: Final = (_NOBODY, _SOMEBODY)


class Inline:
    """See above. What is not said to be called by the thread that reads may be called by all.

    Args:
        relief: Notices when a command takes long.
        execute: Executes a command, and gives its reply to `keep`.
        answer: Answers commands.
        hand_over: Lets a thread of its LUN execute a command.
        start: Starts a thread that reads, or raises RuntimeError.
        readable: Whether something that the client sent waits to be read.
        client: Descriptor of the connection.
    """

    def __init__(
        self,
        relief: Relief,
        *,
        client: int,
        execute: Callable[[CommandTask], None],
        answer: Callable[[Sequence[Done]], None],
        hand_over: Callable[[CommandTask], None],
        start: Callable[[], None],
        readable: Callable[[], bool],
    ) -> None:
        self._relief = relief
        self._execute = execute
        self._answer = answer
        self._hand_over = hand_over
        self._start = start
        self._readable = readable
        self._lock = threading.Lock()
        self._thread = _NOBODY
        self._medium = self._glances = True
        self._number = 0
        self._at: CommandTask | FlightRing | Flights | None = None
        self._client = client
        self._flights = Flights(client)
        self._ready: deque[CommandTask] = deque()
        self._done: list[Done] = []
        self._bytes = 0

    # ------------------------------------------------------------------ the thread that reads

    def begin(self) -> None:
        """The calling thread reads from now on, and executes."""
        with self._lock:
            self._thread = threading.get_ident()
            self._medium = self._glances = True

    def resume(self, *, medium: bool = True, glances: bool = True) -> bool:
        """The calling thread reads from now on, unless somebody does.

        Args:
            medium: It may wait for a disk: it executes reads and writes.
            glances: It answers what can be answered by a glance.
        """
        with self._lock:
            if self._thread != _NOBODY:
                return False
            self._thread = threading.get_ident()
            self._medium, self._glances = medium, glances
            return True

    def pause(self) -> bool:
        """Nobody reads from now on, until somebody is to; False if the calling thread has not
        been the one that reads any more.
        """
        with self._lock:
            if self._thread != threading.get_ident():
                return False
            self._thread = _NOBODY
            return True

    @property
    def reading(self) -> bool:
        """Whether the calling thread is the one that reads."""
        return self._thread == threading.get_ident()

    def take(self, task: CommandTask) -> bool:
        """Take a command that can be executed, if the calling thread is to execute it; `work`
        does.
        """
        transfer = task.transfer
        if (
            not (self._glances if transfer.glance else transfer.quick and self._medium)
            or self._thread != threading.get_ident()
        ):
            return False
        pace = task.channel.lun.tasks.pace
        if not pace.quick() and (pace.hangs or self._flights.ring_of(task) is None):
            return False
        self._ready.append(task)
        return True

    def work(self) -> bool:
        """Execute and answer what was taken; called by the thread that reads.

        Returns:
            Whether it answered anything.
        """
        ready, me = self._ready, threading.get_ident()
        if not (ready or self._done or self._flights.count):
            return False
        answered = False
        later: list[CommandTask] = []
        while ready and self._thread == me:
            task = ready.popleft()
            tasks = task.channel.lun.tasks
            quick = tasks.pace.quick()
            flying = self.flying
            if flying and self._flights.crowded(task):
                later.append(task)
            elif (ready or not quick or flying) and (
                ring := self._flights.launch(task)
            ) is not None:
                if ring.queued >= TOGETHER:
                    self._submit(ring)
            elif flying or not quick:
                self._hand_over(task)
            elif task.transfer.quick and tasks.begin(task):
                self._run(task, me)
            elif task.transfer.glance and self._glance(task) and tasks.begin(task):
                self._execute(task)  # what could have hung has not
            else:
                self._hand_over(task)
            if self._thread == me and (
                not ready or len(self._done) >= TOGETHER or self._bytes >= BYTES_TOGETHER
            ):
                answered |= self._flush()  # after which a read may go on that was held back
        if self._thread == me and self._flights.count and self._depart():
            answered |= self._flush()
        self._keep_for_later(later)
        return answered

    def _keep_for_later(self, tasks: Sequence[CommandTask]) -> None:
        """Those for which there is no room: they are tried again when something has landed."""
        with self._lock:
            if self.reading and self.flying:
                self._ready.extend(tasks)
                return
        for task in tasks:
            self._hand_over(task)

    def _run(self, task: CommandTask, me: int) -> None:
        pace = task.channel.lun.tasks.pace
        self._watched(task)
        begun = time.monotonic()
        self._execute(task)
        took = time.monotonic() - begun
        if self._thread != me:
            pace.loose(task)
            return
        self._relief.end(self)
        pace.took(took, self._others)

    def _glance(self, task: CommandTask) -> bool:
        """Try to answer it by a look at the reservations; whether the caller is to do so."""
        attachment = task.channel.attachment
        # Not only after the look: what an ORDERED command before it does has to be seen by it.
        if not attachment.lun.tasks.may_begin(task):
            return False
        self._watched(task)
        try:
            task.reply = attachment.lun.disk.glance(attachment.disk_nexus, task.command.cdb)
        finally:
            mine = self._unwatched()
        if not mine:
            attachment.lun.tasks.pace.loose(task)
        return mine and task.reply is not None

    def _watched(self, at: CommandTask | FlightRing | Flights) -> None:
        self._number += 1  # before the task: nobody is relieved of another one
        self._at = at
        self._relief.begin(self, self._number)

    def _unwatched(self) -> bool:
        """It took no time; False if it did, and another thread is the one that reads."""
        with self._lock:
            if self._thread != threading.get_ident():
                return False
            self._at = None
        self._relief.end(self)
        return True

    def _others(self) -> bool:
        return bool(self._ready) or self._readable()

    def close(self) -> None:
        """The thread that read ends: what it took goes its way."""
        self._flush()
        while self._ready:
            self._hand_over(self._ready.popleft())

    def end(self) -> None:
        """Nothing is executed here any more; takes a moment."""
        self._flights.close()

    # ------------------------------------------------------------------ what flies

    @property
    def flying(self) -> bool:
        """Whether the kernel carries something out for this thread; it must not wait, then, but
        in `await_client` or `settle`.
        """
        return bool(self._flights.count)

    def await_client(self) -> bool:
        """Wait for the client, or until something has landed, which is answered.

        Returns:
            Whether the client has sent something.
        """
        readable, rings = self._flights.wait()
        self._land(rings)
        return readable

    def settle(self) -> bool:
        """Wait until nothing flies, and answer it.

        Returns:
            False: that took long, and another thread is the one that reads.
        """
        flights = self._flights
        if flights.count and not self._depart():
            return False
        while flights.count:
            self._watched(flights)
            rings = flights.wait_for_disks()
            if not self._unwatched():
                flights.finish(rings, self._landed)
                return False
            self._land(rings)
        self._flush()
        return True

    def _depart(self) -> bool:
        """Tell the kernel of all that was launched. False: that took long, and another thread is
        the one that reads.
        """
        return all(self._submit(ring) for ring in self._flights.queues)

    def _submit(self, ring: FlightRing) -> bool:
        self._watched(ring)
        begun = time.monotonic()
        refused = ring.submit()
        took = time.monotonic() - begun
        if not self._unwatched():
            for flight in refused:
                self._landed(flight, -errno.EAGAIN)
            finish(ring, self._landed)
            return False
        if refused:
            # No memory, or a file system that has no such thing: let them be sent again.
            self._flights.ground(ring, GROUNDED)
        elif took > SLOW:
            # It is the disk that it waited for, as for blocks that have no place yet.
            self._flights.ground(ring, REST)
        for flight in refused:
            self._landed(flight, -errno.EAGAIN)
        return True

    def _land(self, rings: Sequence[FlightRing]) -> None:
        """Take from the kernel what is over, and answer it."""
        over = [flight for ring in rings for flight in ring.reap()]
        replies = [self._reply(flight, result) for flight, result in over]  # before one can fail
        for done in replies:
            if done is not None:
                self.keep(*done)
        self._flush()

    def _landed(self, flight: Flight, result: int) -> None:
        """Answer one that is over, whoever reads."""
        done = self._reply(flight, result)
        if done is not None and not self.keep(*done):
            self._answer_late(done)

    def _reply(self, flight: Flight, result: int) -> Done | None:
        """Land it. None: what failed, or was done in part, for which more has to be asked of the
        disk, is landed and answered by a thread of its own.
        """
        task, launch = flight
        if result not in (len(launch.view), -errno.EAGAIN):
            aside.begin(functools.partial(self._land_aside, flight, result))
            return None
        return task, task.channel.lun.disk.land(launch, result)

    def _land_aside(self, flight: Flight, result: int) -> None:
        task, launch = flight
        self._answer_late((task, task.channel.lun.disk.land(launch, result)))

    def _answer_late(self, done: Done) -> None:
        done[0].channel.lun.tasks.pace.loose(done[0])
        self._answer((done,))

    # ------------------------------------------------------------------ answers

    def keep(self, task: CommandTask, reply: ScsiReply) -> bool:
        """Answer a command of the thread that reads together with others.

        Returns:
            False: another thread executed it, which is to answer it now.
        """
        with self._lock:
            if self._thread != threading.get_ident():
                return False
            self._at = None
            self._done.append((task, reply))
            self._bytes += task.reserved
            return True

    def _flush(self) -> bool:
        """Answer what is done, some at a time; whether there was anything."""
        answered = False
        while done := self._next():
            self._answer(done)
            answered = True
        return answered

    def _next(self) -> Sequence[Done]:
        with self._lock:
            done, size, count = self._done, 0, 0
            for task, _ in done[:TOGETHER]:
                size += task.reserved
                count += 1
                if size >= BYTES_TOGETHER:
                    break
            done, self._done = done[:count], done[count:]
            self._bytes = 0
        return done

    # ------------------------------------------------------------------ who takes over

    def relieve(self, number: int) -> None:
        """See `relief.Reader`: nothing of the others may wait for the command that takes long."""
        with self._lock:
            at = self._at
            if self._number != number or at is None or self._thread in _NO_THREAD:
                return
            try:
                self._start()  # it waits in `begin`
            except RuntimeError:
                return
            self._thread = _SOMEBODY
            self._at = None
            for task in self._left_with(at):
                task.channel.lun.tasks.pace.stuck(task)
            waiting = list(self._ready)
            self._ready.clear()
            self._relief.end(self)  # before the other one begins with a command
        self._flush()
        for each in waiting:
            self._hand_over(each)

    def _left_with(self, at: CommandTask | FlightRing | Flights) -> Sequence[CommandTask]:
        """What the thread that is relieved has to see to; the rest is for the one that reads."""
        if isinstance(at, CommandTask):
            return (at,)
        if isinstance(at, Flights):
            self._flights = Flights(self._client)
            return at.tasks()
        self._flights.leave_out(at)
        return [task for task, _ in at.commands()]


class Sent:
    """What is to be done when some answers have been sent, or never will be: `releases`.

    Args:
        done: The answers.
        returned: Told of each command that brought something.
    """

    __slots__ = ("_done", "_returned", "releases")

    def __init__(self, done: Sequence[Done], returned: Callable[[CommandTask], None]) -> None:
        self._done = done
        self._returned = returned
        self.releases: tuple[Release, ...] = ()
        for task, reply in done:
            if reply.data or task.reserved:
                self.releases = (Loan(self._give_back), self._taken)
                break

    def _give_back(self) -> None:
        for _, reply in self._done:
            reply.release()

    def _taken(self) -> None:
        for task, _ in self._done:
            if task.reserved:
                self._returned(task)
