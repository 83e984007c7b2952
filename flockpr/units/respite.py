"""How long something that has hung is left alone."""

from __future__ import annotations

import time

SHORTEST = 1.0
"""Seconds of the first respite; each one is twice as long as the one before ..."""
LONGEST = 300.0
"""... up to this. When as long has passed without another one, the next is the shortest again."""


class Respite:
    """The times for which one thing is left alone. At first there is none."""

    def __init__(self) -> None:
        self._until = 0.0
        self._span = 0.0

    def begin(self) -> None:
        """It has hung: leave it alone from now on."""
        now = time.monotonic()
        doubled = min(2 * self._span, LONGEST)
        self._span = doubled if self._span and now - self._until < LONGEST else SHORTEST
        self._until = now + self._span

    @property
    def lasts(self) -> bool:
        """Whether it is to be left alone now."""
        return bool(self._span) and time.monotonic() < self._until
