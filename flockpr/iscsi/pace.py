"""Whether the commands of a LUN are better executed by the thread that read them.

To hand a command to another thread costs more time of the processor than to carry it out. It
pays only where the disk lets one wait, and somebody else could be served meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

LONG: Final = 0.00025
"""Seconds of most commands from which on others are not kept waiting behind it."""
REST: Final = 0.25
"""Seconds after which that is tried again: a disk that was slow may be quick."""
LONGEST_REST: Final = 4.0
"""Each time that it was in vain it is tried half as often, down to this."""
_STEP: Final = LONG / 8
"""The estimate follows the median by such steps: that a thread of a busy machine has to wait its
turn now and then says nothing of the disk.
"""
_AGAIN: Final = LONG / 2
"""The estimate with which it is tried again; below it the disk has been quick."""


class Pace:
    """How long the commands of one LUN take. Its figures are estimates: no lock guards them.

    Args:
        clock: For tests.
    """

    __slots__ = ("_clock", "_rest", "_stuck", "_typical", "_until")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._typical = 0.0
        self._until = 0.0
        self._rest = REST
        self._stuck: set[object] = set()

    def quick(self) -> bool:
        """Whether a command may keep the thread that read it."""
        return not self._stuck and (not self._until or self._clock() >= self._until)

    @property
    def hangs(self) -> bool:
        """Whether a command takes so long that somebody else reads."""
        return bool(self._stuck)

    def took(self, seconds: float, waiting: Callable[[], bool]) -> None:
        """A command has been executed by the thread that read it.

        Args:
            seconds: How long that took.
            waiting: Whether others wait behind it; asked where that matters.
        """
        typical = self._typical
        if seconds <= typical:
            self._typical = typical - _STEP if typical > _STEP else 0.0
            if self._typical < _AGAIN:
                self._rest = REST
            return
        if typical < LONG:
            self._typical = typical + _STEP
            return
        if waiting() and (now := self._clock()) >= self._until:
            # Of the next ones half as many say that it is slow still.
            self._typical = _AGAIN
            self._until = now + self._rest
            self._rest = min(2 * self._rest, LONGEST_REST)

    def stuck(self, task: object) -> None:
        """A command takes so long that somebody else reads now; none follows it until it ends."""
        self._stuck.add(task)

    def loose(self, task: object) -> None:
        """It has ended."""
        self._stuck.discard(task)
