"""Time that only tests move, and a scheduler that lets one task run at a time."""

from __future__ import annotations

import contextlib
import threading
import types
from collections.abc import Callable, Iterator
from unittest import mock

import attrs

from flockpr.logical_unit import administration, orders, unit
from flockpr.store import archive, commits, courtesy, directory, presence

_USERS = (administration, orders, unit, archive, commits, courtesy, directory, presence)


class Clock:
    """A clock that stands still until somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.scheduler: Scheduler | None = None

    def sleep(self, seconds: float) -> None:
        """Sleep: alone, time jumps; under a scheduler others run meanwhile."""
        if self.scheduler is not None and self.scheduler.running:
            self.scheduler.sleep(seconds)
        else:
            self.now += seconds

    @contextlib.contextmanager
    def installed(self) -> Iterator[Clock]:
        """The store sees this clock instead of the real one."""
        fake = types.SimpleNamespace(
            monotonic=lambda: self.now, time=lambda: self.now, sleep=self.sleep
        )
        with contextlib.ExitStack() as stack:
            for module in _USERS:
                stack.enter_context(mock.patch.object(module, "time", fake))
            yield self


@attrs.define(eq=False)
class Task:
    """One task of a scheduler, on a thread of its own that waits for its turn."""

    name: str
    body: Callable[[], None]
    turn: threading.Semaphore = attrs.Factory(lambda: threading.Semaphore(0))
    wake: float = 0.0
    over: bool = False
    error: BaseException | None = None


Choose = Callable[[int, "Task | None", "list[Task]"], Task]
"""Who goes on: number of the point, who ran, who can run."""


class Scheduler:
    """Runs tasks one at a time; at every `point` it asks who goes on.

    Args:
        clock: Advances by a little at every point, and to the next waking when all sleep.
        choose: The schedule.
    """

    STEP = 0.0001

    def __init__(self, clock: Clock, choose: Choose) -> None:
        self.clock = clock
        self.points = 0
        self.running = False
        self._choose = choose
        self._tasks: list[Task] = []
        self._current: Task | None = None
        self._done = threading.Semaphore(0)
        clock.scheduler = self

    def add(self, name: str, body: Callable[[], None]) -> None:
        """Add a task."""
        self._tasks.append(Task(name, body))

    def spawn(self, name: str, body: Callable[[], None]) -> None:
        """Add a task while others run; called by one of them."""
        task = Task(name, body)
        self._tasks.append(task)
        threading.Thread(target=self._run, args=(task,), daemon=True).start()

    def run(self) -> None:
        """Run all tasks to their end; the first error of any is raised."""
        threads = [threading.Thread(target=self._run, args=(t,), daemon=True) for t in self._tasks]
        for thread in threads:
            thread.start()
        self.running = True
        self._next(None)
        assert self._done.acquire(timeout=110), "the schedule hangs"
        for thread in threads:
            thread.join(60)
        self.running = False
        for task in self._tasks:
            if task.error is not None:
                raise task.error

    def point(self) -> None:
        """A place where another task may go on; called by the task that runs."""
        self.clock.now += self.STEP
        self._yield(self._current)

    def sleep(self, seconds: float) -> None:
        """Let the others run for that long."""
        assert self._current is not None
        self._current.wake = self.clock.now + seconds
        self._yield(self._current)

    def _run(self, task: Task) -> None:
        task.turn.acquire()
        try:
            task.body()
        except BaseException as error:
            task.error = error
        task.over = True
        self._next(None)

    def _yield(self, task: Task | None) -> None:
        assert task is not None
        if self._next(task) is not task:
            task.turn.acquire()

    def _next(self, before: Task | None) -> Task | None:
        """Hand the turn to whoever is chosen, who is returned."""
        left = [task for task in self._tasks if not task.over]
        if not left:
            self._done.release()
            return None
        ready = [task for task in left if task.wake <= self.clock.now]
        if not ready:
            self.clock.now = min(task.wake for task in left)
            ready = [task for task in left if task.wake <= self.clock.now]
        self.points += 1
        chosen = self._choose(self.points, before if before in ready else None, ready)
        self._current = chosen
        if chosen is not before:
            chosen.turn.release()
        return chosen


def preempting(at: frozenset[int]) -> Choose:
    """The schedule that runs each task until it ends or sleeps, but changes at these points."""

    def choose(point: int, current: Task | None, ready: list[Task]) -> Task:
        if current is None:
            return ready[0]
        others = [task for task in ready if task is not current]
        return others[0] if point in at and others else current

    return choose
