"""Who writes where, so that COMPARE AND WRITE and ORWRITE are one act (SBC-3 5.2, 5.14).

In this process writers share a range with each other, which the standard leaves to the
initiators, and not with a command that reads and then writes what it decided. Beyond this
process such commands exclude each other by a byte range of the image itself, far beyond its
data. Plain writes of other processes take no such lock, because on NFS that would be two
messages more for every write; those who use COMPARE AND WRITE as a lock do not write there
otherwise.
"""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from flockpr.block.calls import ImageCalls
from flockpr.store.rangelock import CONTENTION

COMPARE_BASE: Final = (1 << 62) + (1 << 61)
"""Byte `COMPARE_BASE + n` of the image stands for its byte n."""
_POLL: Final = (0.001, 0.02)


class Contended(OSError):
    """A range was not had in time; nothing was done."""


class Ranges:
    """Byte ranges of one image in use by commands of this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._writers: dict[int, tuple[int, int]] = {}
        self._exclusive: dict[int, tuple[int, int]] = {}
        self._ticket = 0
        self._waiting = 0

    def enter(self, start: int, end: int, deadline: float) -> int:
        """A write of bytes `start` to `end` begins; pair it with `leave`.

        Raises:
            Contended: Not before the deadline.
        """
        with self._lock:
            if self._exclusive:
                self._wait(self._exclusive, start, end, deadline)
            self._ticket += 1
            self._writers[self._ticket] = (start, end)
            return self._ticket

    def enter_at_once(self, start: int, end: int) -> int | None:
        """As `enter`; None where somebody would have to be waited for."""
        with self._lock:
            for first, last in self._exclusive.values():
                if first < end and start < last:
                    return None
            self._ticket += 1
            self._writers[self._ticket] = (start, end)
            return self._ticket

    def leave(self, ticket: int) -> None:
        """A write has ended."""
        with self._lock:
            del self._writers[ticket]
            if self._waiting:
                self._changed.notify_all()

    @contextmanager
    def alone(self, start: int, end: int, deadline: float) -> Iterator[None]:
        """Nobody else of this process writes there meanwhile.

        Raises:
            Contended: Not before the deadline.
        """
        with self._lock:
            self._wait(self._exclusive, start, end, deadline)
            self._ticket += 1
            mine = self._ticket
            # First announced, then waited: writers that come later would else come first
            # for ever.
            self._exclusive[mine] = (start, end)
            try:
                self._wait(self._writers, start, end, deadline)
            except Contended:
                self._end(mine)
                raise
        try:
            yield
        finally:
            with self._lock:
                self._end(mine)

    def _end(self, mine: int) -> None:
        del self._exclusive[mine]
        if self._waiting:
            self._changed.notify_all()

    def _wait(
        self, others: dict[int, tuple[int, int]], start: int, end: int, deadline: float
    ) -> None:
        while any(first < end and start < last for first, last in others.values()):
            left = deadline - time.monotonic()
            if left <= 0:
                raise Contended("other commands work on these blocks")
            self._waiting += 1
            try:
                self._changed.wait(left)
            finally:
                self._waiting -= 1


@contextmanager
def alone_among_processes(
    calls: ImageCalls, fd: int, start: int, end: int, deadline: float
) -> Iterator[None]:
    """No other process's COMPARE AND WRITE works on these bytes meanwhile.

    Args:
        calls: System calls.
        fd: The image; nobody else of this process may lock an overlapping range on it.
        start: First byte.
        end: The byte after the last.
        deadline: Monotonic time.

    Raises:
        Contended: Not before the deadline.
        OSError: Locking failed.
    """
    first, length = COMPARE_BASE + start, end - start
    pause = _POLL[0]
    while True:
        try:
            calls.set_lock(fd, fcntl.F_WRLCK, first, length)
            break
        except OSError as error:
            if error.errno not in CONTENTION:
                raise
            if time.monotonic() + pause > deadline:
                raise Contended("another process works on these blocks") from None
        calls.pause(pause)
        pause = min(2 * pause, _POLL[1])
    try:
        yield
    finally:
        calls.set_lock(fd, fcntl.F_UNLCK, first, length)
