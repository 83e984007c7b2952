"""What the handlers of requests share: where data goes, tags, and how many may wait."""

from __future__ import annotations

from enum import Enum
from typing import Final

from flockpr.iscsi.pdu import RejectReason


class Drop(Enum):
    """The PDU is not looked at."""

    DROP = 0


DROP: Final = Drop.DROP

Place = memoryview | RejectReason | Drop | None
"""What a handler makes of a header: where its data goes (None: nowhere), why the PDU is
rejected when all of it is here, or that it is dropped without a word."""


class Tags:
    """Target transfer tags, which are not given again for a long time."""

    __slots__ = ("next",)

    _LAST: Final = 0x7FFFFFFF

    def __init__(self) -> None:
        self.next = 1

    def take(self) -> int:
        """The next one."""
        tag = self.next
        self.next = tag % self._LAST + 1
        return tag


class Allowance:
    """Immediate requests that may still come before one is answered.

    They are outside the window of CmdSN, so that they need a limit of their own.
    """

    __slots__ = ("left",)

    def __init__(self, limit: int) -> None:
        self.left = limit
