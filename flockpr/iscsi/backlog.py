"""What clients leave lying, counted for all connections of a server together, and bounded.

A client that does not take what it has read keeps the target's memory. A bound per connection is
none for the process, because there may be many connections, under as many names as somebody likes.
So there is a bound for all of them; where it is reached, a client is dropped to make room.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol


class Keeper(Protocol):
    """Who keeps bytes for one client.

    Attributes:
        since: How long the client has not taken one whole answer (`time.monotonic`). Single bytes
            do not count, or a client that takes one now and then would be the last to go.
    """

    since: float

    def give_way(self) -> None:
        """Drop the client soon; called under a lock, so it does not block and takes none."""


def _never() -> bool:
    return False


class Backlog:
    """The account of what is kept for clients. Thread-safe; calls nothing that takes its time.

    Args:
        most: Bytes in all.
        crowded: Whether the buffers of the disks run short, so that what clients leave lying must
            be out of them at once.
    """

    def __init__(self, most: int, crowded: Callable[[], bool] = _never) -> None:
        self._most = most
        self.crowded = crowded
        self._lock = threading.Lock()
        self._kept: dict[Keeper, int] = {}
        self._total = 0
        self._leaving: set[Keeper] = set()

    @property
    def total(self) -> int:
        """Bytes that are kept now."""
        return self._total

    def keep(self, keeper: Keeper, size: int, *, there: bool = False) -> bool:
        """Count so many bytes for a client, instead of what was counted; 0: forget it.

        Args:
            keeper: For whom.
            size: Bytes.
            there: The bytes are there already, and are counted in any case.

        Returns:
            Whether there was room. If not, somebody gives way; asking again later helps.
        """
        with self._lock:
            before = self._kept.get(keeper, 0)
            after = self._total - before + size
            fits = size <= before or after <= self._most
            if fits or there:
                self._total = after
                self._kept[keeper] = size
            if not fits:
                self._make_room(keeper, size, after - self._most)
            elif not size:
                del self._kept[keeper]
                self._leaving.discard(keeper)
            return fits

    def _make_room(self, asking: Keeper, size: int, missing: int) -> None:
        """Let clients go: of those that keep more than others, who took nothing for longest.

        A client that keeps little would not make much room, and a bystander whose guest paused
        for a moment must not pay for those that fill the memory.
        """
        kept = {**self._kept, asking: size}
        missing -= sum(kept.get(keeper, 0) for keeper in self._leaving)
        staying = [keeper for keeper in kept if keeper not in self._leaving]
        share = sum(kept[keeper] for keeper in staying) / max(1, len(staying))
        for keeper in sorted(staying, key=lambda keeper: keeper.since):
            if missing <= 0:
                break
            if kept[keeper] >= share:
                missing -= kept[keeper]
                self._leaving.add(keeper)
                keeper.give_way()
