"""How long what matters takes in this process: counted for whoever exports metrics.

Like `events`: nothing here raises, waits or does input and output.
"""

from __future__ import annotations

import bisect
import enum
import threading
from collections.abc import Mapping

import attrs

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds; what takes longer is in none."""
_MOST_PLACES = 10_000


class Kind(enum.StrEnum):
    """What takes time; the value is a promise to whoever reads metrics."""

    COMMIT = "commit"
    LOCK_WAIT = "lock-wait"
    GATE_WAIT = "gate-wait"


@attrs.frozen
class Histogram:
    """What was seen of a kind in one place since the process began.

    Attributes:
        buckets: How many took no longer than each bound, and longer than the one before.
        count: How many there were.
        total: Seconds of all of them together.
    """

    buckets: tuple[int, ...] = (0,) * len(BUCKETS)
    count: int = 0
    total: float = 0.0

    def with_one(self, seconds: float) -> Histogram:
        """It, and one more."""
        place = bisect.bisect_left(BUCKETS, seconds)
        buckets = self.buckets
        if place < len(buckets):
            buckets = (*buckets[:place], buckets[place] + 1, *buckets[place + 1 :])
        return Histogram(buckets, self.count + 1, self.total + seconds)


_NOTHING = Histogram()
_lock = threading.Lock()
_seen: dict[tuple[Kind, str], Histogram] = {}


def observe(kind: Kind, where: str, seconds: float) -> None:
    """Count one.

    Args:
        kind: What took the time.
        where: The lock directory.
        seconds: How long.
    """
    key = (kind, where)
    with _lock:
        if key not in _seen and len(_seen) >= _MOST_PLACES:
            key = (kind, "")
        _seen[key] = _seen.get(key, _NOTHING).with_one(max(0.0, seconds))


def histograms() -> Mapping[tuple[Kind, str], Histogram]:
    """What was seen since the process began, by kind and lock directory."""
    with _lock:
        return dict(_seen)
