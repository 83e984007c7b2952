"""Threads that run one at a time, in an order that somebody else decides.

`flockpr` runs on this as it is (see `installed`). A task stops at each *point*, before the
server is asked for something that others can change, and goes on when it is chosen. Between
two points it runs alone, so a step is one request and everything that follows from its answer.

Time stands still while anybody can go on. When all sleep it jumps to the first who wakes, in
steps of at least `QUANTUM`: code that polls every few milliseconds for seconds would only make
schedules long. Nothing may hang on how long something takes, so a task that sleeps may also
be woken early by the schedule, which is the same as the others being slow.
"""

from __future__ import annotations

import contextlib
import threading as real_threading
from collections.abc import Callable, Iterator

import attrs

from tests.support.simfs import Killed

QUANTUM = 0.25
"""Seconds that a sleep takes at the least."""
START = 1000.0
"""When the time of every schedule begins."""
PATIENCE = 120.0
"""Real seconds after which a schedule hangs; only a bug of the simulation can make it."""

Access = tuple[str, int, int, bool]
"""What a step touches: the object, a range of it, and whether it is changed."""


@attrs.frozen
class Request:
    """What a task is about to do.

    Attributes:
        name: The call, or "answer", "start", "wake" and the like.
        what: Of what, for people.
        accesses: What it touches.
    """

    name: str
    what: str = ""
    accesses: tuple[Access, ...] = ()


RESUME = Request("resume")


class _Signal:
    """Something that one thread waits for and another one gives, once each time."""

    def __init__(self) -> None:
        lock = real_threading.Lock()
        lock.acquire()
        self.acquire, self.release = lock.acquire, lock.release


@attrs.define(eq=False)
class Task:
    """A thread of a simulated process.

    Attributes:
        name: Its name, the same in every schedule.
        host: Of which process.
        helper: It goes on until nobody needs it, so a schedule may end without it.
        pending: What it does when it is chosen next.
        wake: When it can go on by itself; None if only somebody else can make it.
        ready: It can go on.
        frozen: Its host is cut off, or hangs.
        stalled: What it asked for takes long.
        gone: Its process has died: it never goes on, and nobody waits for it.
    """

    name: str
    host: str
    body: Callable[[], None]
    helper: bool
    pending: Request = Request("start")
    ready: bool = True
    wake: float | None = None
    frozen: bool = False
    stalled: bool = False
    gone: bool = False
    over: bool = False
    error: BaseException | None = None
    woken: bool = False
    turn: _Signal = attrs.Factory(_Signal)

    @property
    def can(self) -> bool:
        """Whether it can go on now."""
        return self.ready and self.awaited

    @property
    def awaited(self) -> bool:
        """Whether it goes on some time without help from the schedule."""
        return not (self.over or self.frozen or self.stalled or self.gone)


class Stuck(AssertionError):
    """Nobody can go on, and not all is done."""


class Ended(Killed):
    """The schedule is given up: every task ends where it is."""


class _Pool:
    """Threads to run tasks on, kept for the next schedule."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []

    def run(self, job: Callable[[], None]) -> None:
        worker = self._idle.pop() if self._idle else _Worker(self._idle)
        worker.job = job
        worker.go.release()


class _Worker:
    def __init__(self, idle: list[_Worker]) -> None:
        self.go = _Signal()
        self.job: Callable[[], None] = lambda: None
        self._idle = idle
        real_threading.Thread(target=self._loop, name="explore", daemon=True).start()

    def _loop(self) -> None:
        _here.simulated = True
        while True:
            self.go.acquire()
            self.job()
            self._idle.append(self)


_POOL = _Pool()

Decide = Callable[["Schedule", "Task | None"], "Task | None"]
"""Who goes on, when somebody ran (or None, where that one ended); None to be asked again."""


class Schedule:
    """The tasks of one run.

    Args:
        decide: Chooses at every point.

    Attributes:
        now: The time.
        finale: Called once, when all but the helpers are done; may add tasks.
        pausing: Set by `decide` to have `proceed` return.
        current: Who runs.
    """

    def __init__(self, decide: Decide) -> None:
        self.now = START
        self.tasks: list[Task] = []
        self.current: Task | None = None
        self.finale: Callable[[], None] | None = None
        self.ending = False
        self.pausing = False
        self.failure: BaseException | None = None
        self._decide = decide
        self._done = _Signal()

    # ------------------------------------------------------------------ running

    def add(self, name: str, host: str, body: Callable[[], None], *, helper: bool = False) -> Task:
        """Add a task, which begins when it is chosen."""
        number = sum(task.name.partition("#")[0] == name for task in self.tasks)
        task = Task(f"{name}#{number}" if number else name, host, body, helper)
        self.tasks.append(task)
        _POOL.run(lambda: self._live(task))
        return task

    def run(self) -> None:
        """Run until all but the helpers are done.

        Raises:
            Stuck: Somebody waits for ever.
            BaseException: The first error of any task, or of `decide`.
        """
        self.begin()
        try:
            self.proceed()
        finally:
            self.end()

    def begin(self) -> None:
        """Have this schedule be the one that is under way."""
        assert not _running
        _running.append(self)

    def proceed(self) -> bool:
        """Go on until all but the helpers are done, or `decide` wants to pause.

        Returns:
            Whether all are done.

        Raises:
            BaseException: See `run`.
        """
        self.pausing = False
        before = self.current
        if self._hand_over(before) is before and before is not None:
            before.turn.release()
        assert self._done.acquire(timeout=PATIENCE), "the schedule hangs"
        if self.failure is not None:
            raise self.failure
        return not self.pausing

    def end(self) -> None:
        """Let every task end where it is, one after the other."""
        self.ending = True
        for task in self.tasks:
            if not task.over:
                self.current = task
                task.turn.release()
                assert self._done.acquire(timeout=PATIENCE), f"{task.name} does not end"
        self.current = None
        _running.clear()

    def point(self, request: Request) -> None:
        """Somebody else may go on before this is done; called by the task that runs."""
        task = self.current
        assert task is not None
        task.pending = request
        self._park(task)

    def block(self, wake: float | None) -> bool:
        """Wait to be woken, by `awake` or by the time; False if it was the time."""
        task = self.current
        assert task is not None
        task.ready, task.wake, task.woken = False, wake, False
        task.pending = RESUME
        self._park(task)
        return task.woken

    def awake(self, task: Task) -> None:
        """Somebody who waits can go on."""
        if not task.ready:
            task.ready, task.wake, task.woken = True, None, True

    def sleep(self, seconds: float) -> None:
        """Let the others run for so long."""
        self.block(self.now + max(seconds, QUANTUM))

    def rouse(self, task: Task) -> None:
        """Let a sleeper wake now, for the others were slow."""
        assert task.wake is not None
        self.now = max(self.now, task.wake)
        self._wake_sleepers()

    # ------------------------------------------------------------------ turns

    def _live(self, task: Task) -> None:
        task.turn.acquire()
        try:
            if not self.ending:
                task.body()
        except Ended:
            pass
        except Killed:
            pass  # its process has died
        except BaseException as error:
            task.error = error
            self.failure = self.failure or error
        task.over = True
        if self.ending:
            self._done.release()
        else:
            self._hand_over(task)

    def _park(self, task: Task) -> None:
        if self.ending:
            raise Ended
        if self._hand_over(task) is not task:
            task.turn.acquire()
        if self.ending:
            raise Ended

    def _hand_over(self, before: Task | None) -> Task | None:
        """Give the turn to whoever is chosen, who is returned."""
        try:
            chosen = None if self.failure is not None else self._choose(before)
        except BaseException as error:
            self.failure = error
            chosen = None
        if chosen is None:
            self._done.release()
            return None
        self.current = chosen
        if chosen is not before:
            chosen.turn.release()
        return chosen

    def _choose(self, before: Task | None) -> Task | None:
        while True:
            while all(task.over or task.helper or task.gone for task in self.tasks):
                if self.finale is None:
                    return None
                finale, self.finale = self.finale, None
                finale()
            while not any(task.can for task in self.tasks):
                self.pass_time()
                if self.pausing:
                    return None
            chosen = self._decide(self, before if before is not None and before.can else None)
            if chosen is not None or self.pausing:
                return chosen

    def pass_time(self) -> None:
        """Nobody can go on: let the time come when somebody can.

        Raises:
            Stuck: There is no such time.
        """
        wakes = [t.wake for t in self.tasks if t.wake is not None and t.awaited]
        if not wakes:
            raise Stuck("; ".join(f"{t.name} waits" for t in self.tasks if not t.over))
        self.now = max(self.now, min(wakes))
        self._wake_sleepers()

    def _wake_sleepers(self) -> None:
        for task in self.tasks:
            if task.wake is not None and task.wake <= self.now and not task.over:
                task.ready, task.wake = True, None


class _Here(real_threading.local):
    """Of each real thread, whether it takes part in simulations."""

    simulated = False


_here = _Here()
_running: list[Schedule] = []


@contextlib.contextmanager
def taking_part() -> Iterator[None]:
    """This thread sees simulated time and threads, in a schedule or out of it."""
    before, _here.simulated = _here.simulated, True
    try:
        yield
    finally:
        _here.simulated = before


def simulated() -> bool:
    """Whether this thread takes part in simulations."""
    return _here.simulated


def running() -> Schedule | None:
    """The schedule that is under way."""
    return _running[0] if _running else None


def me() -> tuple[Schedule, Task] | None:
    """The schedule that is under way, and the task of it that runs."""
    schedule = running() if _here.simulated else None
    if schedule is None or schedule.current is None:
        return None
    return schedule, schedule.current
