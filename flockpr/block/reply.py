"""What a command moves and what it comes to, as the transport sees it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple

from flockpr.core.model import Nexus
from flockpr.spc.codes import Status

Bytes = bytes | memoryview


class Direction(enum.Enum):
    """Which way the data of a command goes, seen from the initiator."""

    NONE = "none"
    IN = "in"
    OUT = "out"


class Transfer(NamedTuple):
    """What a CDB itself moves, whatever the transport expects.

    Attributes:
        direction: Which way.
        length: Bytes. Of data-out exactly that many are taken; of data-in at most that
            many come.
        quick: The command is one system call on the image, or none.
        glance: It reads reservations, and may be answered by a look at them.
    """

    direction: Direction
    length: int
    quick: bool = False
    glance: bool = False


NOTHING = Transfer(Direction.NONE, 0)


def nothing_to_release() -> None:
    """Release nothing: the reply holds no buffer."""


class ScsiReply(NamedTuple):
    """The answer to one command.

    Attributes:
        status: SAM status.
        sense: Sense data in the format that the Control mode page asks for; empty but with
            CHECK CONDITION.
        data: Data-in, in order, cut to the allocation length but not to what the
            transport expects.
        release: To be called exactly once when `data` has been sent or is dropped.
        aborted: Nexuses whose commands PREEMPT AND ABORT ends (SPC-4 5.13.11.2).
    """

    status: Status = Status.GOOD
    sense: bytes = b""
    data: Sequence[Bytes] = ()
    release: Callable[[], None] = nothing_to_release
    aborted: frozenset[Nexus] = frozenset()


GOOD = ScsiReply()
BUSY = ScsiReply(Status.BUSY)
TASK_SET_FULL = ScsiReply(Status.TASK_SET_FULL)
TASK_ABORTED = ScsiReply(Status.TASK_ABORTED)


def good(data: bytes, allocation_length: int) -> ScsiReply:
    """GOOD with data-in, cut to the allocation length; a short one is no error."""
    data = data[:allocation_length]
    return ScsiReply(data=(data,)) if data else GOOD
