"""What a command comes to: the next state, the reply, and what others learn of it."""

from __future__ import annotations

import attrs

from flockpr.core.model import LogicalUnitState, Nexus
from flockpr.spc.codes import Attention, Status
from flockpr.spc.sense import Sense


@attrs.frozen
class Reply:
    """The answer to one command.

    Attributes:
        status: SAM status.
        sense: With CHECK CONDITION what went wrong, else None.
        data: Data-in bytes, already cut to the allocation length.
    """

    status: Status = Status.GOOD
    sense: Sense | None = None
    data: bytes = b""


@attrs.frozen
class Outcome:
    """What a command or an event does.

    Attributes:
        state: The next state; the very same object exactly when nothing changed. The store
            commits otherwise, so equal but new would cost a transaction for nothing.
        reply: The answer; to leave only after `state` is durable.
        raised: Unit attentions that the rules raise, also those that the nexus had pending
            already or that no longer fit in (`LogicalUnitState.overflowed`).
        aborted: Nexuses whose tasks PREEMPT AND ABORT aborts, all but the command itself
            (SPC-4 5.13.11.2). Doors that have tasks in flight act on it.
        seen_epoch: What the door is to hand in as `seen_epoch` with this nexus's next
            command: the attention epoch that the nexus has been shown by now.
    """

    state: LogicalUnitState
    reply: Reply = Reply()
    raised: tuple[tuple[Nexus, Attention], ...] = ()
    aborted: frozenset[Nexus] = frozenset()
    seen_epoch: int | None = None

    def shown(self, epoch: int | None) -> Outcome:
        """It, with this as `seen_epoch`."""
        if epoch == self.seen_epoch:
            return self
        return Outcome(self.state, self.reply, self.raised, self.aborted, epoch)


_CONFLICT = Reply(Status.RESERVATION_CONFLICT)


def conflict(state: LogicalUnitState) -> Outcome:
    """Refuse with RESERVATION CONFLICT, which carries no sense data."""
    return Outcome(state, _CONFLICT)


def refuse(state: LogicalUnitState, sense: Sense) -> Outcome:
    """Refuse with CHECK CONDITION; nothing changes."""
    return Outcome(state, Reply(Status.CHECK_CONDITION, sense))
