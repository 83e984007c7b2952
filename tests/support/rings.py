"""A ring whose commands are carried out by threads of the test, so that they can hang or fail."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from flockpr.block import Ring


class ThreadRing(Ring[Any]):
    """Like the kernel's, but for who does the work.

    Args:
        room: How many commands at the most.
        read: Called as `preadv`.
        write: Called as `pwritev`.

    Attributes:
        submitting: Called each time the kernel would be told of something; may hang.
        refuse: How many of the next commands are not taken.
    """

    def __init__(self, room: int, read: Callable[..., int], write: Callable[..., int]) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC)
        self.submitting: Callable[[], object] = int
        self.refuse = 0
        self._lock = threading.Lock()
        self._room = room
        self._calls = (read, write)
        self._waiting: list[tuple[int, Any, int, memoryview, int]] = []
        self._over: deque[tuple[Any, int]] = deque()
        self._all: list[Any] = []

    @property
    def full(self) -> bool:
        """Whether there is no room."""
        return len(self._all) >= self._room

    @property
    def held(self) -> int:
        """Those that are queued or under way."""
        return len(self._all)

    def commands(self) -> list[Any]:
        """Those that are queued or under way."""
        return list(self._all)

    @property
    def queued(self) -> int:
        """Those that the kernel knows nothing of."""
        return len(self._waiting)

    def _add(self, kind: int, command: Any, fd: int, view: memoryview, offset: int) -> None:
        self._all.append(command)
        self._waiting.append((kind, command, fd, view, offset))

    def submit(self) -> list[Any]:
        """Start them."""
        self.submitting()
        waiting, self._waiting = self._waiting, []
        taken = len(waiting) - min(self.refuse, len(waiting))
        self.refuse = 0
        for one in waiting[:taken]:
            threading.Thread(target=self._carry_out, args=one, daemon=True).start()
        for one in waiting[taken:]:
            self._all.remove(one[1])
        return [one[1] for one in waiting[taken:]]

    def _carry_out(self, kind: int, command: Any, fd: int, view: memoryview, offset: int) -> None:
        try:
            result = self._calls[kind](fd, (view,), offset)
        except OSError as error:
            result = -(error.errno or 0)
        with self._lock:  # it is not closed between the two
            self._over.append((command, result))
            os.eventfd_write(self.fd, 1)

    def reap(self, *, wait: bool = False) -> list[tuple[Any, int]]:
        """Those that are over."""
        os.set_blocking(self.fd, wait)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        found = []
        with self._lock:
            while self._over:
                found.append(self._over.popleft())
                self._all.remove(found[-1][0])
        return found

    def close(self) -> None:
        """Nothing is under way any more."""
        assert not self._all
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
