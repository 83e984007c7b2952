"""Page-aligned buffers, bounded: direct I/O needs the one, every peer's appetite the other.

Buffers are anonymous mappings in sizes of powers of two, kept for the next command, because
a mapping that is fresh is filled with zeros page by page, which costs more than the read.
"""

from __future__ import annotations

import mmap
import threading
import time
from typing import Final

MIN_BUFFER: Final = 4096
MAX_BUFFER: Final = 4 << 20
DEFAULT_LIMIT: Final = 128 << 20

_MIN_CLASS: Final = MIN_BUFFER.bit_length() - 1


class Buffer:
    """Memory for one command.

    Attributes:
        view: Writable, exactly as long as was asked for, aligned to a page.
    """

    __slots__ = ("_mapping", "_pool", "view")

    def __init__(self, view: memoryview, mapping: memoryview, pool: Pool) -> None:
        self.view = view
        self._mapping: memoryview | None = mapping
        self._pool = pool

    def release(self) -> None:
        """Give it back; once is enough, more is no error. `view` must not be used after."""
        mapping, self._mapping = self._mapping, None
        if mapping is not None:
            self._pool._take_back(mapping)  # noqa: SLF001 - one class in two


class Pool:
    """Buffers, all of them together no larger than a limit. Thread-safe.

    Args:
        limit: Bytes that may be lent at once, counted in whole buffers.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self._limit = max(limit, MAX_BUFFER)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._lent = 0
        self._kept = 0
        self._waiting = 0
        self._free: dict[int, list[memoryview]] = {
            1 << power: [] for power in range(_MIN_CLASS, MAX_BUFFER.bit_length())
        }

    @property
    def lent(self) -> int:
        """Bytes that are lent now."""
        return self._lent

    @property
    def crowded(self) -> bool:
        """More than half is lent: the rest is for those who lend for a moment."""
        return self._lent * 2 > self._limit

    def acquire(self, size: int, timeout: float = 0.0) -> Buffer | None:
        """Lend a buffer.

        Args:
            size: Bytes, 1 to `MAX_BUFFER`.
            timeout: Seconds to wait for others to give theirs back.

        Returns:
            The buffer, whose content is whatever was there before; None if there was none
            in time.

        Raises:
            ValueError: No buffer is as large as that, or as small.
        """
        if not 1 <= size <= MAX_BUFFER:
            raise ValueError(f"no buffer has {size} bytes")
        whole = MIN_BUFFER if size <= MIN_BUFFER else 1 << (size - 1).bit_length()
        with self._lock:
            if self._lent + whole > self._limit and not self._wait(whole, timeout):
                return None
            self._lent += whole
            free = self._free[whole]
            mapping = free.pop() if free else None
            if mapping is not None:
                self._kept -= whole
            elif self._lent + self._kept > self._limit:
                self._drop_kept()
        if mapping is None:
            try:
                mapping = memoryview(mmap.mmap(-1, whole))
            except (OSError, MemoryError):
                with self._lock:
                    self._lent -= whole
                return None
        return Buffer(mapping[:size], mapping, self)

    def _wait(self, whole: int, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        self._waiting += 1
        try:
            while self._lent + whole > self._limit:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return True
        finally:
            self._waiting -= 1

    def _drop_kept(self) -> None:
        """Unmap what is kept for later: what is lent and kept together stays bounded."""
        for free in self._free.values():
            free.clear()
        self._kept = 0

    def _take_back(self, mapping: memoryview) -> None:
        whole = len(mapping)
        with self._lock:
            self._lent -= whole
            self._kept += whole
            self._free[whole].append(mapping)
            if self._waiting:
                self._changed.notify_all()
