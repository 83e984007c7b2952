"""The task set of one logical unit, and the threads that execute it (SAM-5 clause 8).

A file system that hangs blocks whoever asks it for data. So commands are executed by threads
that belong to one LUN, never by one that reads from a connection: when they all hang, commands
for that LUN wait, and everything else goes on.

A task is in the set from the arrival of its command until its answer has been handed to its
connection. Each session has a line of its own in it (TST=001b, SPC-4 7.5.8): what ORDERED holds
up, and how many tasks there may be, concerns the session alone, or a guest could keep the others
of a shared disk waiting.

Whoever ends tasks early, by a task management function, by PREEMPT AND ABORT or because a session
is over, marks them here; what has not begun never will, and what is being executed is waited for
(`Drain`): only then can no write of theirs land any more.
"""

from __future__ import annotations

import enum
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import attrs

from flockpr.iscsi.pace import Pace

log = logging.getLogger(__name__)

IDLE = 10.0
"""Seconds without work after which a thread ends; an idle LUN costs none."""


RETRY = 0.5
"""Seconds after which a thread that could not be started is tried again."""


class Phase(enum.Enum):
    """Where a task is on its way."""

    GATHERING = enum.auto()
    """Its data is on the way, or memory for it is waited for."""
    QUEUED = enum.auto()
    RUNNING = enum.auto()
    """Being executed, or its answer is being handed over."""
    OVER = enum.auto()


# Kept by name: to look a member up in its class costs as much as taking a lock.
_GATHERING, _RUNNING, _OVER = Phase.GATHERING, Phase.RUNNING, Phase.OVER


class Ending(enum.Enum):
    """How a task ends that does not end by itself."""

    SILENT = enum.auto()
    """Without a response: its own nexus asked for that, or is gone (SAM-5 5.6)."""
    TASK_ABORTED = enum.auto()
    """With that status: another nexus did it, and TAS is one (SPC-4 7.5.8)."""


class Order(enum.IntEnum):
    """Task attributes (RFC 7143 11.3.1)."""

    UNTAGGED = 0
    SIMPLE = 1
    ORDERED = 2
    HEAD_OF_QUEUE = 3
    ACA = 4


_SIMPLE, _ORDERED = int(Order.SIMPLE), int(Order.ORDERED)


class Owner(Protocol):
    """Who a task is answered to."""

    def execute(self, task: Any) -> None:
        """Execute and answer the task, in a thread of its set; may block, raises nothing."""

    def ended(self, task: Any, ending: Ending) -> None:
        """The task was ended before it was executed. Not called with any lock held."""


@attrs.define(eq=False)
class Line:
    """The tasks of one session in one set; changed by the set only.

    Attributes:
        count: How many there are.
        ordered: How many of them are ORDERED.
        held: Those that an ORDERED one holds up.
        ended: The session is over: none comes any more.
    """

    count: int = 0
    ordered: int = 0
    held: dict[Task, None] = attrs.field(factory=dict)
    ended: bool = False


@attrs.define(eq=False, kw_only=True)
class Task:
    """One SCSI command on its way.

    Attributes:
        owner: Its connection.
        line: That of its session in the set.
        order: Its task attribute.
        phase: Where it is; changed by its task set only.
        ending: Set when it is to end early; changed by its task set only.
        drains: Who waits for its end, if anybody does.
    """

    owner: Owner
    line: Line
    order: int = Order.SIMPLE
    phase: Phase = Phase.GATHERING
    ending: Ending | None = None
    drains: list[Drain] | None = None

    def cancelled(self) -> bool:
        """Whether its execution is in vain."""
        return self.ending is not None


class Drain:
    """Waits for tasks in execution to end.

    Args:
        done: Called once, in whatever thread finds out, without a lock held: True when all
            have ended, False when the time was over before.
    """

    def __init__(self, done: Callable[[bool], None]) -> None:
        self._done = done
        self._lock = threading.Lock()
        self._left = 1  # the one that adds tasks
        self._over = False

    def add(self) -> None:
        """One more task to wait for."""
        with self._lock:
            self._left += 1

    def one_ended(self) -> None:
        """One of them, or the adding of them, is over."""
        with self._lock:
            self._left -= 1
            if self._left or self._over:
                return
            self._over = True
        self._done(True)

    def expire(self) -> None:
        """The time is over."""
        with self._lock:
            if self._over:
                return
            self._over = True
        self._done(False)

    @property
    def over(self) -> bool:
        """Whether `done` has been called."""
        return self._over


class TaskSet:
    """The tasks of one logical unit, of all sessions.

    Args:
        name: Of the LUN, for the names of threads.
        workers: Most threads.
        most: Most tasks that wait for a thread or have one.
        most_each: Most tasks of one session, those included that wait for their data.
        later: Calls a function in so many seconds; without it, what waits for a thread that could
            not be started waits for the next command.
    """

    def __init__(
        self,
        name: str,
        *,
        workers: int,
        most: int,
        most_each: int,
        later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self.name = name
        self._workers = workers
        self._most = most
        self._most_each = most_each
        self._begun = 0
        self._lock = threading.Lock()
        self._tasks: dict[Task, None] = {}
        self._ready: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._urgent: deque[Task] = deque()
        self._threads = 0
        self._idle = 0
        self._started = 0
        self._closed = False
        self._later = later
        self._retrying = False
        self.pace = Pace()

    def __len__(self) -> int:
        return len(self._tasks)

    # ------------------------------------------------------------------ arrival

    def enter(self, task: Task) -> bool:
        """Take a task into the set; False if its session has too many (TASK SET FULL), or is over:
        whoever took its place does not wait for what comes now.
        """
        with self._lock:
            line = task.line
            if self._closed or line.ended or line.count >= self._most_each:
                return False
            self._tasks[task] = None
            line.count += 1
            line.ordered += task.order == _ORDERED
            return True

    def ready(self, task: Task) -> bool:
        """All that a task needs is there: let it be executed when its turn comes.

        Returns:
            False if too many wait for a thread: it is over, and TASK SET FULL to be answered.
        """
        with self._lock:
            if task.phase is not Phase.GATHERING or task.line.ended:
                return True
            if self._begun >= self._most:
                self._remove(task)
                return False
            task.phase = Phase.QUEUED
            self._begun += 1
            if task.order == Order.HEAD_OF_QUEUE:
                self._urgent.append(task)
                self._ready.put(None)
            elif task.line.ordered:
                task.line.held[task] = None
                self._let_go(task.line)
            else:
                self._ready.put(task)
            spawn = self._wants_thread()
        if spawn:
            self._start_thread()
        return True

    def begin(self, task: Task) -> bool:
        """As `ready`, for whoever will execute the task at once in a thread of its own.

        Returns:
            False if others come first, there are too many, or it is over: nothing was done.
        """
        with self._lock:
            if not self.may_begin(task):
                return False
            task.phase = _RUNNING
            self._begun += 1
            return True

    def may_begin(self, task: Task) -> bool:
        """Whether `begin` would say True, at this moment."""
        return task.phase is _GATHERING and task.order <= _SIMPLE and self._free_for(task.line)

    def passes(self, line: Line) -> bool:
        """Whether a SIMPLE command that takes no time could, at this moment, arrive, begin, and be
        over: nobody has to know of it.
        """
        return self._free_for(line) and line.count < self._most_each and not self._closed

    def _free_for(self, line: Line) -> bool:
        return not (line.ordered or line.ended or self._urgent or self._begun >= self._most)

    def _wants_thread(self) -> bool:
        """Whether one more thread is due; counts it already."""
        if self._idle >= self._ready.qsize() or self._threads >= self._workers:
            return False
        self._threads += 1
        self._started += 1
        return True

    def _let_go(self, line: Line) -> None:
        """Queue what an ORDERED task no longer holds up (SAM-5 8.6.3)."""
        first = True
        for task in self._tasks:
            if task.line is not line or task.order == Order.HEAD_OF_QUEUE:
                continue
            ordered = task.order == Order.ORDERED
            if ordered and not first:
                break
            if task in line.held:
                del line.held[task]
                self._ready.put(task)
            if ordered:
                break
            first = False

    # ------------------------------------------------------------------ execution

    def _start_thread(self) -> None:
        thread = threading.Thread(
            target=self._work, name=f"iscsi-{self.name}-{self._started}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # Memory or the limit on processes: what is queued waits for the other threads, and
            # where there is none of them for a time when one can be started.
            with self._lock:
                self._threads -= 1
                again = not self._retrying
                self._retrying = self._later is not None
            if again:
                log.error("%s: no thread for a command", self.name)
                if self._later is not None:
                    self._later(RETRY, self._retry)

    def _retry(self) -> None:
        with self._lock:
            self._retrying = False
            spawn = self._wants_thread()
        if spawn:
            self._start_thread()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            idle = False
            try:
                task = self._ready.get(timeout=IDLE)
            except queue.Empty:
                task, idle = None, True
            with self._lock:
                self._idle -= 1
                if self._urgent:
                    if task is not None:
                        self._ready.put(task)
                    task = self._urgent.popleft()
                if task is None and self._leaving(idle):
                    return
                # A command may have come while this thread still counted as idle.
                spawn = self._wants_thread()
                if task is not None and task.phase is Phase.QUEUED:
                    task.phase = Phase.RUNNING
                else:
                    task = None
            if spawn:
                self._start_thread()
            if task is None:
                continue
            try:
                task.owner.execute(task)
            except Exception:
                log.exception("%s: internal error", self.name)
            self.finish(task)

    def _leaving(self, idle: bool) -> bool:
        """Whether this thread ends: nothing to do for a while, or the set is closed."""
        leaving = self._closed or (idle and self._ready.empty())
        self._threads -= leaving
        return leaving

    def finish(self, task: Task) -> None:
        """The task is over: answered, or dropped with its connection."""
        with self._lock:
            if task.phase is _OVER:
                return
            self._remove(task)
            drains, task.drains = task.drains, None
            spawn = self._wants_thread()
        if spawn:
            self._start_thread()
        for drain in drains or ():
            drain.one_ended()

    def _remove(self, task: Task) -> None:
        """Take it out, and let those go that it held up."""
        line = task.line
        if task.phase is not _GATHERING:
            self._begun -= 1
        task.phase = _OVER
        if task not in self._tasks:
            return  # it was never let in
        del self._tasks[task]
        line.count -= 1
        line.ordered -= task.order == _ORDERED
        line.held.pop(task, None)
        if line.held:
            self._let_go(line)

    # ------------------------------------------------------------------ ending early

    def abort(
        self,
        ending_of: Callable[[Task], Ending | None],
        drain: Drain | None = None,
        *,
        last_of: Line | None = None,
    ) -> int:
        """End tasks. Those that were not being executed are over on return.

        Args:
            ending_of: How a task is to end, or None to leave it alone. Called with the
                set's lock held.
            drain: Gets to wait for those that are being executed.
            last_of: Of a session that is over. In the same step, because its connection may
                have read more commands than have come here: one that came between would be
                neither ended nor waited for.

        Returns:
            How many tasks were ended, or are about to.
        """
        over: list[tuple[Task, Ending]] = []
        count = 0
        with self._lock:
            if last_of is not None:
                last_of.ended = True
            for task in list(self._tasks):
                ending = ending_of(task)
                if ending is None:
                    continue
                count += 1
                if task.ending is Ending.SILENT:
                    ending = Ending.SILENT  # nobody listens any more
                task.ending = ending
                if task.phase is Phase.RUNNING:
                    if drain is not None:
                        drain.add()
                        task.drains = [*(task.drains or ()), drain]
                    continue
                self._remove(task)
                over.append((task, ending))
            spawn = self._wants_thread()
        if spawn:
            self._start_thread()
        for task, ending in over:
            task.owner.ended(task, ending)
        return count

    def close(self) -> None:
        """Take no more tasks, and let the idle threads end."""
        with self._lock:
            self._closed = True
            for _ in range(self._threads):
                self._ready.put(None)
