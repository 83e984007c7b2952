"""What `flockpr` takes for threads, time and chance while schedules are explored.

Only the threads of a simulation see it. Others there are, too: what an earlier test of this
process left to end by itself, which would otherwise take part in a schedule.
"""

from __future__ import annotations

import random as real_random
import secrets as real_secrets
import threading as real_threading
import time as real_time
import zlib
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from tests.support.explore.tasks import QUANTUM, START, Task, me, running, simulated

# ---------------------------------------------------------------------- threading


class Lock:
    """A lock between tasks; outside of a schedule it is always free."""

    def __init__(self) -> None:
        self._owner: object = None
        self._waiting: list[Task] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As of threading.Lock."""
        mine = me()
        if mine is None or mine[0].ending:
            return True
        schedule, task = mine
        wake = None if timeout < 0 else schedule.now + timeout
        while self._owner is not None:
            if not blocking or (wake is not None and schedule.now >= wake):
                return False
            self._waiting.append(task)
            schedule.block(wake)
            if task in self._waiting:
                self._waiting.remove(task)
        self._owner = task
        return True

    def release(self) -> None:
        """As of threading.Lock."""
        if not simulated():
            return
        self._owner = None
        mine = me()
        if mine is None:
            return
        for task in self._waiting:
            mine[0].awake(task)

    def locked(self) -> bool:
        """As of threading.Lock."""
        return self._owner is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class RLock(Lock):
    """A lock that its owner may take again."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As of threading.RLock."""
        mine = me()
        if mine is not None and self._owner is mine[1]:
            self._depth += 1
            return True
        if not super().acquire(blocking, timeout):
            return False
        self._depth = 1
        return True

    def release(self) -> None:
        """As of threading.RLock."""
        self._depth -= 1
        if self._depth <= 0:
            super().release()


class Condition:
    """A condition of such a lock."""

    def __init__(self, lock: Lock | None = None) -> None:
        self._lock = lock or RLock()
        self._waiting: list[Task] = []
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def wait(self, timeout: float | None = None) -> bool:
        """As of threading.Condition."""
        mine = me()
        assert mine is not None, "a wait outside of a schedule never ends"
        schedule, task = mine
        self._waiting.append(task)
        self._lock.release()
        wake = None if timeout is None else schedule.now + max(timeout, 0.0)
        woken = schedule.block(wake)
        if task in self._waiting:
            self._waiting.remove(task)
        self._lock.acquire()
        return woken

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """As of threading.Condition."""
        end = None if timeout is None else _now() + timeout
        while not (found := predicate()):
            left = None if end is None else end - _now()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return found

    def notify(self, n: int = 1) -> None:
        """As of threading.Condition."""
        mine = me()
        woken, self._waiting = self._waiting[:n], self._waiting[n:]
        for task in woken if mine is not None else ():
            assert mine is not None
            mine[0].awake(task)

    def notify_all(self) -> None:
        """As of threading.Condition."""
        self.notify(len(self._waiting))

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Event:
    """A flag to wait for."""

    def __init__(self) -> None:
        self._condition = Condition(Lock())
        self._set = False

    def is_set(self) -> bool:
        """As of threading.Event."""
        return self._set

    def set(self) -> None:
        """As of threading.Event."""
        with self._condition:
            self._set = True
            self._condition.notify_all()

    def clear(self) -> None:
        """As of threading.Event."""
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        """As of threading.Event."""
        with self._condition:
            if not self._set:
                self._condition.wait(timeout)
        return self._set


class Thread:
    """A thread that `flockpr` starts: a helper task of the same process."""

    def __init__(
        self,
        target: Callable[..., None] | None = None,
        name: str = "thread",
        args: Iterable[Any] = (),
        daemon: bool = True,
    ) -> None:
        self._body, self._args = target, tuple(args)
        self.name = name
        self._task: Task | None = None

    def start(self) -> None:
        """As of threading.Thread."""
        mine = me()
        assert mine is not None, f"{self.name} is started outside of a schedule"
        if mine[0].ending:
            return
        body = self._body
        assert body is not None
        host = mine[1].host
        self._task = mine[0].add(
            f"{self.name} of {host}", host, lambda: body(*self._args), helper=True
        )

    def is_alive(self) -> bool:
        """As of threading.Thread."""
        return self._task is not None and not self._task.over

    def join(self, timeout: float | None = None) -> None:
        """As of threading.Thread, by looking again and again."""
        mine = me()
        assert mine is not None
        end = None if timeout is None else mine[0].now + timeout
        while self.is_alive() and (end is None or mine[0].now < end):
            mine[0].sleep(QUANTUM)


# ---------------------------------------------------------------------- time and chance

_counts: dict[tuple[str, str], int] = {}


def begin_anew() -> None:
    """Numbers by chance begin anew, as in every schedule."""
    _counts.clear()


def _next(kind: str) -> int:
    """A number that is another one each time, and the same in every schedule of a task."""
    mine = me()
    key = kind, mine[1].name if mine is not None else ""
    _counts[key] = _counts.get(key, 0) + 1
    return zlib.crc32(f"{key} {_counts[key]}".encode())


def _token(size: int = 16) -> str:
    return "".join(f"{_next('token'):08x}" for _ in range((size + 3) // 4))[: 2 * size]


def _now() -> float:
    schedule = running()
    return START if schedule is None else schedule.now


def _sleep(seconds: float) -> None:
    mine = me()
    if mine is not None:
        mine[0].sleep(seconds)


def _ident() -> int:
    mine = me()
    return 1 if mine is None else 2 + mine[0].tasks.index(mine[1])


class _Instead:
    """A module as a thread sees it: its own stand-ins in a simulation, else the real one."""

    def __init__(self, real: ModuleType, **stand_ins: Any) -> None:
        self._real = real
        self._stand_ins = stand_ins

    def __getattr__(self, name: str) -> Any:
        if not simulated():
            return getattr(self._real, name)
        try:
            return self._stand_ins[name]
        except KeyError:
            raise AttributeError(f"{self._real.__name__}.{name} is not simulated") from None


TIME = _Instead(
    real_time,
    monotonic=_now,
    time=_now,
    sleep=_sleep,
    perf_counter=_now,
    monotonic_ns=lambda: int(_now() * 1e9),
)
THREADING = _Instead(
    real_threading,
    Lock=Lock,
    RLock=RLock,
    Condition=Condition,
    Event=Event,
    Thread=Thread,
    get_ident=_ident,
    TIMEOUT_MAX=real_threading.TIMEOUT_MAX,
)
RANDOM = _Instead(
    real_random,
    uniform=lambda low, high: (low + high) / 2,
    random=lambda: 0.5,
    randrange=lambda low, high=None: low if high is not None else _next("random") % low,
    randint=lambda low, high: low + _next("random") % (high - low + 1),
    getrandbits=lambda bits: _next("random") & ((1 << bits) - 1),
    choice=lambda items: items[0],
)
SECRETS = _Instead(
    real_secrets,
    token_hex=_token,
    token_bytes=lambda size: bytes.fromhex(_token(size)),
    randbelow=lambda limit: _next("random") % limit,
    randbits=lambda bits: _next("random") & ((1 << bits) - 1),
)

INSTEAD = {"time": TIME, "threading": THREADING, "random": RANDOM, "secrets": SECRETS}
