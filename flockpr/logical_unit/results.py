"""What goes back to the initiator, also when the store failed."""

from __future__ import annotations

import attrs

from flockpr.core.model import Nexus
from flockpr.core.outcome import Reply
from flockpr.errors import (
    Busy,
    Emulated,
    LunNotFound,
    OutcomeUnknown,
    PassedThrough,
    StoreError,
    StoreUnavailable,
)
from flockpr.spc import sense as senses
from flockpr.spc.codes import Status
from flockpr.store.files import NEEDS_A_PERSON


@attrs.frozen
class Result:
    """What goes back to the initiator.

    Attributes:
        status: SCSI status.
        sense: Sense data, fixed format, 18 bytes; empty but with CHECK CONDITION.
        data_in: Data-in bytes, at most the allocation length.
        aborted: Nexuses whose other tasks end now (PREEMPT AND ABORT, SPC-4 5.13.11.2.6); a
            door that has tasks in flight aborts those.
    """

    status: Status
    sense: bytes = b""
    data_in: bytes = b""
    aborted: frozenset[Nexus] = frozenset()

    @classmethod
    def of(cls, reply: Reply, aborted: frozenset[Nexus] = frozenset()) -> Result:
        """A reply as bytes."""
        sense = reply.sense.fixed() if reply.sense else b""
        return cls(reply.status, sense, reply.data, aborted)

    @classmethod
    def check(cls, sense: senses.Sense) -> Result:
        """CHECK CONDITION with this sense."""
        return cls(Status.CHECK_CONDITION, sense.fixed())


def failure(error: StoreError) -> Result:
    """What an initiator is told of a store's failure."""
    match error:
        case Busy():
            return Result(Status.BUSY)
        case OutcomeUnknown():
            return Result.check(senses.OUTCOME_UNKNOWN)
        case LunNotFound() | PassedThrough() | Emulated():
            return Result.check(senses.LUN_NOT_SUPPORTED)
        case StoreUnavailable(for_a_person=True):
            return Result.check(senses.NOT_READY_INTERVENTION)
        case StoreUnavailable(errno=errno) if errno in NEEDS_A_PERSON:
            return Result.check(senses.NOT_READY_INTERVENTION)
        case StoreUnavailable():
            return Result.check(senses.NOT_READY_BECOMING)
    return Result.check(senses.RESERVATION_INFORMATION_LOST)
