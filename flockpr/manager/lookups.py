"""How many descriptors are being looked at, in all and for whom.

A look at a descriptor is a thread, and for a file on a server that hangs one that stays. A
client can pass such a file on purpose (a FUSE file system of its own), so no client may have
more than its share of them.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable, Mapping


class Lookups:
    """Counts under several names at once. Thread-safe; never blocks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Hashable] = Counter()

    def begin(self, bounds: Mapping[Hashable, int]) -> bool:
        """Count one more under every name, unless one of them has reached its bound.

        Args:
            bounds: Name to the most that there may be under it.

        Returns:
            Whether it was counted; if so, `end` is due.
        """
        with self._lock:
            if any(self._counts[name] >= most for name, most in bounds.items()):
                return False
            self._counts.update(bounds.keys())
        return True

    def end(self, bounds: Mapping[Hashable, int]) -> None:
        """Count one less under every name."""
        with self._lock:
            for name in bounds:
                self._counts[name] -= 1
                if not self._counts[name]:
                    del self._counts[name]  # names come and go with connections
