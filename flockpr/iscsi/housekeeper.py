"""One thread of a server for what no connection may wait for: deadlines, and slow readers.

Connections read with calls that block, and whoever executed a command sends its answer without
ever blocking. What a client does not take at once is left to this thread, which waits until the
socket has room again.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Timer:
    """A call that is due at some time, unless it is cancelled."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call


class Housekeeper:
    """Calls functions that do not block: later, or when a socket can be written to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._writable: dict[int, Callable[[], None]] = {}
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._closing = False
        self._sleeps_until = 0.0
        self._thread = threading.Thread(target=self._run, name="iscsi-housekeeper", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it works."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start to work."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; what was to be done later is not done. Idempotent."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._poke()
        if self._thread.is_alive():
            self._thread.join()
        self._epoll.close()
        os.close(self._wake)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call a function in so many seconds; 0: as soon as may be."""
        due = time.monotonic() + seconds
        timer = Timer(call)
        with self._lock:
            heapq.heappush(self._timers, (due, next(self._numbers), timer))
            if due < self._sleeps_until and not self._closing:
                self._poke()
        return timer

    def soon(self, call: Callable[[], None]) -> None:
        """Call a function as soon as may be."""
        self.later(0.0, call)

    def cancel(self, timer: Timer | None) -> None:
        """Forget a call, and what it refers to. It may be under way just now."""
        if timer is not None:
            timer.call = None

    def when_writable(self, descriptor: int, call: Callable[[], None]) -> None:
        """Call a function once, when a descriptor can be written to or has failed."""
        with self._lock:
            if self._closing:
                return
            self._writable[descriptor] = call
            flags = select.EPOLLOUT | select.EPOLLONESHOT
            try:
                self._epoll.modify(descriptor, flags)
            except FileNotFoundError:
                self._epoll.register(descriptor, flags)

    def forget(self, descriptor: int) -> None:
        """A descriptor is about to be closed."""
        with self._lock:
            self._writable.pop(descriptor, None)
            if not self._closing:
                with contextlib.suppress(OSError):
                    self._epoll.unregister(descriptor)

    def _poke(self) -> None:
        self._sleeps_until = 0.0
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._closing:
                    return
                timeout = self._due_in()
            events = self._epoll.poll(timeout)
            for call in self._take(events):
                try:
                    call()
                except Exception:
                    log.exception("internal error")

    def _due_in(self) -> float | None:
        """Seconds until the next timer, for epoll; None: none."""
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            self._sleeps_until = float("inf")
            return None
        self._sleeps_until = self._timers[0][0]
        # Rounded up by epoll to a whole millisecond: never early and then again and again.
        return max(0.0, self._sleeps_until - time.monotonic())

    def _take(self, events: list[tuple[int, int]]) -> list[Callable[[], None]]:
        calls: list[Callable[[], None]] = []
        now = time.monotonic()
        with self._lock:
            self._sleeps_until = 0.0
            for descriptor, _ in events:
                if descriptor == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._wake)
                    continue
                call = self._writable.pop(descriptor, None)
                if call is not None:
                    calls.append(call)
            while self._timers and self._timers[0][0] <= now:
                timer = heapq.heappop(self._timers)[2]
                if timer.call is not None:
                    calls.append(timer.call)
        return calls
