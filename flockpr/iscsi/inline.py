"""The commands that the thread of a connection executes itself, between two readings.

A read or write of a disk that does not hang takes less time than to hand it to another thread.
So it is executed by the thread that read it, and several that came together are answered
together. If one takes long (see `relief`), another thread goes on reading; the first one answers
its command when that ends, and is gone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from flockpr.block import ScsiReply
from flockpr.iscsi.commands import CommandTask
from flockpr.iscsi.output import Loan, Release
from flockpr.iscsi.relief import Relief

Done: TypeAlias = tuple[CommandTask, ScsiReply]

TOGETHER: Final = 8
"""Answers of one system call: the client goes on with them while the next are made."""
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
    """

    def __init__(
        self,
        relief: Relief,
        *,
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
        self._task: CommandTask | None = None
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
        if (
            not (self._glances if task.transfer.glance else task.transfer.quick and self._medium)
            or self._thread != threading.get_ident()
            or not task.channel.lun.tasks.pace.quick()
        ):
            return False
        self._ready.append(task)
        return True

    def work(self) -> bool:
        """Execute and answer what was taken; called by the thread that reads.

        Returns:
            Whether it answered anything.
        """
        ready, me = self._ready, threading.get_ident()
        answered = False
        while ready and self._thread == me:
            task = ready.popleft()
            tasks = task.channel.lun.tasks
            if not tasks.pace.quick():
                self._hand_over(task)
            elif task.transfer.quick and tasks.begin(task):
                self._run(task, me)
            elif task.transfer.glance and self._glance(task, me) and tasks.begin(task):
                self._execute(task)  # what could have hung has not
            else:
                self._hand_over(task)
            if self._thread == me and (
                not ready or len(self._done) >= TOGETHER or self._bytes >= BYTES_TOGETHER
            ):
                answered |= self._flush()  # after which a read may go on that was held back
        return answered

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

    def _glance(self, task: CommandTask, me: int) -> bool:
        """Try to answer it by a look at the reservations; whether the caller is to do so."""
        attachment = task.channel.attachment
        # Not only after the look: what an ORDERED command before it does has to be seen by it.
        if not attachment.lun.tasks.may_begin(task):
            return False
        self._watched(task)
        try:
            task.reply = attachment.lun.disk.glance(attachment.disk_nexus, task.command.cdb)
        finally:
            with self._lock:
                if self._thread == me:
                    self._task = None
        if self._thread != me:
            attachment.lun.tasks.pace.loose(task)
            return False
        self._relief.end(self)
        return task.reply is not None

    def _watched(self, task: CommandTask) -> None:
        self._number += 1  # before the task: nobody is relieved of another one
        self._task = task
        self._relief.begin(self, self._number)

    def _others(self) -> bool:
        return bool(self._ready) or self._readable()

    def close(self) -> None:
        """The thread that read ends: what it took goes its way."""
        while self._ready:
            self._hand_over(self._ready.popleft())

    # ------------------------------------------------------------------ answers

    def keep(self, task: CommandTask, reply: ScsiReply) -> bool:
        """Answer a command of the thread that reads together with others.

        Returns:
            False: another thread executed it, which is to answer it now.
        """
        with self._lock:
            if self._thread != threading.get_ident():
                return False
            self._task = None
            self._done.append((task, reply))
            self._bytes += task.reserved
            return True

    def _flush(self) -> bool:
        with self._lock:
            done, self._done = self._done, []
            self._bytes = 0
        if done:
            self._answer(done)
        return bool(done)

    # ------------------------------------------------------------------ who takes over

    def relieve(self, number: int) -> None:
        """See `relief.Reader`: nothing of the others may wait for the command that takes long."""
        with self._lock:
            task = self._task
            if self._number != number or task is None or self._thread in _NO_THREAD:
                return
            try:
                self._start()  # it waits in `begin`
            except RuntimeError:
                return
            self._thread = _SOMEBODY
            self._task = None
            task.channel.lun.tasks.pace.stuck(task)
            waiting = list(self._ready)
            self._ready.clear()
            self._relief.end(self)  # before the other one begins with a command
        self._flush()
        for each in waiting:
            self._hand_over(each)


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
