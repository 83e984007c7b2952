"""The order in which requests are handed over (RFC 7143 4.2.2.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flockpr.iscsi.numbers import CommandWindow

_T = TypeVar("_T")


def given_up(_number: int) -> None:
    """The turn of a number whose request was refused or will never come."""


class RequestOrder:
    """Hands over non-immediate requests in the order of CmdSN, immediate ones as they come.

    Args:
        window: ExpCmdSN and MaxCmdSN.

    Attributes:
        ended: Nothing is handed over any more, because a logout was.
    """

    __slots__ = ("_held", "ended", "window")

    def __init__(self, window: CommandWindow) -> None:
        self.window = window
        self.ended = False
        self._held: dict[int, Callable[[], None]] = {}

    def expects(self, number: int) -> bool:
        """Whether a non-immediate request with this CmdSN is to be looked at.

        Others are dropped in silence: below the window they were seen before, above it they
        are more than the target said it would take. What waits already is not taken twice.
        """
        return self.window.contains(number) and number not in self._held

    def is_next(self, number: int) -> bool:
        """Whether a non-immediate request with this CmdSN would be handed over at once, and nothing
        after it.
        """
        window = self.window
        return number == window.expected and not self._held and window.contains(number)

    def spend(self) -> None:
        """The request that is next has come and is over."""
        self.window.advance()

    def arrive(self, immediate: bool, number: int, turn: Callable[[_T], None], item: _T) -> None:
        """Hands a request over when its turn has come, and those that waited for it.

        Args:
            immediate: It has no place in the order.
            number: Its CmdSN, which `expects` was asked about.
            turn: Called with the item when it is handed over.
            item: The request.
        """
        if immediate:
            turn(item)
            return
        window, held = self.window, self._held
        if number != window.expected:
            held[number] = lambda: turn(item)
            return
        window.advance()
        turn(item)
        while held and not self.ended and window.expected in held:
            later = held.pop(window.expected)
            window.advance()
            later()

    def give_up(self, number: int) -> None:
        """Spends a number without a request."""
        self.arrive(False, number, given_up, number)
