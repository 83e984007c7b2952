"""Sequence numbers of 32 bits that wrap (RFC 7143 4.2.2, RFC 1982)."""

from __future__ import annotations

from typing import Final

MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000


def successor(number: int) -> int:
    """The number after this one."""
    return (number + 1) & MASK


def precedes(earlier: int, later: int) -> bool:
    """Whether one number comes before another in serial arithmetic."""
    return (earlier - later) & MASK >= _HALF


class CommandWindow:
    """ExpCmdSN and MaxCmdSN of one session (RFC 7143 4.2.2.1).

    The window is what bounds the commands that a client can have here: MaxCmdSN moves on
    with answers, not with arrivals.

    Args:
        first: CmdSN of the login, which is the first number to be expected.
        size: How many commands may be outstanding.
    """

    __slots__ = ("expected", "maximum", "size")

    def __init__(self, first: int, size: int) -> None:
        self.expected = first & MASK
        self.maximum = (first - 1) & MASK
        self.size = size
        self.widen(0)

    def contains(self, number: int) -> bool:
        """Whether a non-immediate request with this CmdSN is to be looked at at all."""
        span = (self.maximum - self.expected + 1) & MASK
        return (number - self.expected) & MASK < span

    def advance(self) -> None:
        """The request that was expected has arrived."""
        self.expected = (self.expected + 1) & MASK

    def widen(self, outstanding: int) -> None:
        """Moves MaxCmdSN on to what may be outstanding; it never goes back.

        Args:
            outstanding: Commands that are not answered yet.
        """
        room = self.size - outstanding
        if room > 0:
            maximum = (self.expected + room - 1) & MASK
            if precedes(self.maximum, maximum):
                self.maximum = maximum
