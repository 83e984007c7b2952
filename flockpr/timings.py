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

    buckets: tuple[int, ...]
    count: int
    total: float


class Tally:
    """Counts one after the other, for a histogram."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS) + 1)  # the last is of what is in none
        self._total = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self._counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self._total += seconds

    def histogram(self) -> Histogram:
        """All until now."""
        return Histogram(tuple(self._counts[:-1]), sum(self._counts), self._total)


_lock = threading.Lock()
_seen: dict[tuple[Kind, str], Tally] = {}


def observe(kind: Kind, where: str, seconds: float) -> None:
    """Count one.

    Args:
        kind: What took the time.
        where: The lock directory.
        seconds: How long.
    """
    key = (kind, where)
    with _lock:
        tally = _seen.get(key)
        if tally is None:
            if len(_seen) >= _MOST_PLACES:
                key = (kind, "")
            tally = _seen.setdefault(key, Tally())
        tally.add(max(0.0, seconds))


def histograms() -> Mapping[tuple[Kind, str], Histogram]:
    """What was seen since the process began, by kind and lock directory."""
    with _lock:
        return {key: tally.histogram() for key, tally in _seen.items()}
