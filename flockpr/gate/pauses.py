"""Pauses between two tries to have a lock: short at first, and longer the longer one waits.

Locks have no queue that one could stand in without blocking, so whoever waits tries again and
again. On one host that costs nothing, and what is waited for comes within milliseconds, mostly. On
NFS each try is a question to the server, on GFS2 one to every node: those who wait would keep
them from whoever has the lock and wants to be done.
"""

from __future__ import annotations

import random
import time

SHORTEST = 0.0025
"""Seconds of a pause, on average; half of it at the least."""
LONGEST = 0.02
"""Seconds of a pause, on average, however long one waits; half as much again at the most."""
_PART = 8
"""A pause is this part of the wait so far, so waiting takes hardly longer than it has to."""


class Pauses:
    """The pauses of one wait.

    Args:
        until: When the wait is over in any case, by `time.monotonic`; no pause goes beyond.
    """

    def __init__(self, until: float) -> None:
        self._until = until
        self._begun = self._back = time.monotonic()

    def pause(self) -> None:
        """To be called after each try: sleep, and at least for as long as the try took, which is
        dear where it is slow.
        """
        now = time.monotonic()
        length = max((now - self._begun) / _PART, now - self._back, SHORTEST)
        length = min(length, LONGEST) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not secrecy
        time.sleep(max(0.0, min(length, self._until - now)))
        self._back = time.monotonic()
