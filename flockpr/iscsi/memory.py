"""Memory for Data-Out: bounded per connection, per LUN and for the process.

A command whose data finds no room waits, and its initiator with it, because no R2T is sent: that
is iSCSI's own flow control. The bound per LUN is a fraction of that of the process, or a LUN whose
file system hangs could take what writes to the others need. And half of every bound is kept for
connections that have nothing yet: clients that ask to write and then send no data must not keep
the other guests of a shared disk from writing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from flockpr.block import Buffer, Pool


class Grant:
    """Memory for the Data-Out of one command: `view`."""

    __slots__ = ("_buffer", "_memory", "_size", "share", "view")

    def __init__(self, memory: Memory, share: Share, buffer: Buffer, size: int) -> None:
        self._memory = memory
        self._buffer: Buffer | None = buffer
        self._size = size
        self.share = share
        self.view = buffer.view

    def release(self) -> None:
        """Give it back; more than once is no error. `view` must not be used after."""
        with self._memory.lock:
            buffer, self._buffer = self._buffer, None
        if buffer is not None:
            buffer.release()
            self._memory.give_back(self.share, self._size)


class Usage:
    """How much of a bound is in use, and who waits for some of it."""

    __slots__ = ("most", "used")

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0

    def fits(self, size: int, most: int | None = None) -> bool:
        """Whether so much more is within the bound, or this part of it; something always is
        where nothing is in use.
        """
        return not self.used or self.used + size <= (self.most if most is None else most)


class Share:
    """The part of the memory that one connection may have for one LUN."""

    __slots__ = ("lun", "own")

    def __init__(self, lun: Usage, most: int) -> None:
        self.lun = lun
        self.own = Usage(most)


class Memory:
    """All memory for Data-Out of a server. Thread-safe.

    Args:
        most: Bytes in all.
        most_per_connection: Bytes per connection and LUN.
        later: Runs a function soon in a thread where it may take locks.
    """

    def __init__(
        self, most: int, most_per_connection: int, later: Callable[[Callable[[], None]], object]
    ) -> None:
        self._pool = Pool(most)
        self._most = most
        self._most_per_connection = most_per_connection
        self._later = later
        self.lock = threading.Lock()
        self._all = Usage(most)
        self._waiting: dict[Callable[[], None], None] = {}

    def lun(self) -> Usage:
        """The account of one LUN."""
        return Usage(max(self._most // 4, self._most_per_connection))

    def share(self, lun: Usage) -> Share:
        """The account of one connection with one LUN."""
        return Share(lun, self._most_per_connection)

    def take(self, share: Share, size: int, waiting: Callable[[], None]) -> Grant | None:
        """Memory for so many bytes, or None for now; never blocks.

        Args:
            share: Whose.
            size: Bytes, at least one.
            waiting: Called later, once, if there was none: some has come free.
        """
        with self.lock:
            usages = (self._all, share.lun, share.own)
            parts = 2 if share.own.used else 1
            if not all(usage.fits(size, usage.most // parts) for usage in usages[:2]) or (
                not share.own.fits(size)
            ):
                self._waiting[waiting] = None
                return None
            buffer = self._pool.acquire(size)
            if buffer is None:
                self._waiting[waiting] = None
                return None
            for usage in usages:
                usage.used += size
        return Grant(self, share, buffer, size)

    def give_back(self, share: Share, size: int) -> None:
        """Count memory as free again, and tell who waits."""
        with self.lock:
            for usage in (self._all, share.lun, share.own):
                usage.used -= size
            waiting, self._waiting = self._waiting, {}
        for call in waiting:
            self._later(call)
