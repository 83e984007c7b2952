"""When to wait a moment for commands that are likely to come, so that one commit carries them too.

Clients that were answered together send their next command at about the same time. Begun with the
first of these, a commit carries that one and those that came during the last commit, and the
others wait for it: so it goes on by halves, with half as many in each commit as there could be.
Who sends one command after the other is never kept waiting for others.
"""

from __future__ import annotations

SHARE = 0.5
"""How long to wait at the most, in times of what it took to carry out the last ones ..."""
MOST = 0.005
"""... and in seconds."""
MAX_PAUSE = 64
"""Occasions that are let go by, when it was in vain again and again."""


class Crowd:
    """What the commands before tell of those to come. Not thread-safe.

    Attributes:
        expected: How many commands are likely to wait soon; 0 where nothing is known.
    """

    def __init__(self) -> None:
        self.expected = 0
        self._seconds = 0.0
        self._pause = 0
        self._passed = 0

    def answered(self, together: int, waiting: int, seconds: float) -> None:
        """Commands were carried out together, and are answered.

        Args:
            together: How many.
            waiting: How many came meanwhile.
            seconds: How long it took.
        """
        self.expected = together + waiting if together > 1 else 0
        self._seconds = seconds

    def patience(self, waiting: int) -> float:
        """Seconds to wait for more, with so many there; 0 if that is not worth it. If it is, to be
        followed by `waited`. Nobody is waited for twice.
        """
        if not 0 < waiting < self.expected:
            return 0.0
        if self._passed < self._pause:
            self._passed += 1
            self.expected = 0
            return 0.0
        return min(SHARE * self._seconds, MOST)

    def waited(self, before: int, after: int) -> None:
        """It was waited.

        Args:
            before: How many commands there were.
            after: How many there are.
        """
        self._passed = 0
        in_vain = after - before < (self.expected - before) / 2
        self._pause = min(2 * self._pause + 1, MAX_PAUSE) if in_vain else 0
        self.expected = 0
