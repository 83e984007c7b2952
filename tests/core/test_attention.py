"""Unit attentions: queues, their bound, rank, and the epoch that stands for what was dropped."""

from __future__ import annotations

import pytest

from flockpr.core.attention import clear, most_urgent, pending, queue, up_to_date
from flockpr.core.model import LogicalUnitState, PendingAttentions
from flockpr.spc.codes import Attention
from tests.support.scsi import A, B, C, D

POWER_ON = Attention.POWER_ON
PREEMPTED = Attention.REGISTRATIONS_PREEMPTED
RELEASED = Attention.RESERVATIONS_RELEASED
EMPTY = LogicalUnitState()


def test_queue_keeps_the_order_in_which_attentions_were_raised() -> None:
    """SAM-5 5.14: oldest first, one queue for each nexus."""
    state = queue(EMPTY, ((A, RELEASED), (B, PREEMPTED), (A, PREEMPTED)), 8)

    assert state.attentions == (
        PendingAttentions(A, (RELEASED, PREEMPTED)),
        PendingAttentions(B, (PREEMPTED,)),
    )


def test_queue_with_a_pending_code_changes_nothing() -> None:
    """The same attention is not queued twice, and an unchanged state is the same object."""
    state = queue(EMPTY, ((A, RELEASED),), 8)

    assert queue(state, ((A, RELEASED),), 8) is state
    assert queue(state, (), 8) is state


def test_queue_beyond_the_bound_raises_the_epoch_once() -> None:
    """What does not fit in becomes an epoch for all, and the flag for strangers."""
    state = queue(EMPTY, ((A, RELEASED), (B, RELEASED), (C, RELEASED), (D, RELEASED)), 2)

    assert [entry.nexus for entry in state.attentions] == [A, B]
    assert (state.attention_epoch, state.overflowed) == (1, True)


def test_queue_at_the_bound_still_takes_more_for_a_known_nexus() -> None:
    """The bound counts nexuses, so a nexus that has a queue loses nothing."""
    full = queue(EMPTY, ((A, RELEASED), (B, RELEASED)), 2)

    state = queue(full, ((B, PREEMPTED),), 2)
    assert state.pending[B] == (RELEASED, PREEMPTED)
    assert not state.overflowed


def test_queue_overflow_alone_changes_no_queue() -> None:
    """An overflow that queues nothing still is a change: the epoch has to be committed."""
    full = queue(EMPTY, ((A, RELEASED),), 1)

    state = queue(full, ((B, RELEASED),), 1)
    assert state.attentions == full.attentions
    assert state.attention_epoch == 1


def test_clear_of_the_last_code_drops_the_entry() -> None:
    """A nexus with nothing pending takes no place."""
    state = queue(EMPTY, ((A, RELEASED), (B, RELEASED)), 8)

    assert clear(state, A, RELEASED).attentions == (PendingAttentions(B, (RELEASED,)),)


def test_clear_keeps_the_other_codes_in_order() -> None:
    """One attention is reported for each command (SAM-5 5.14)."""
    state = queue(EMPTY, ((A, RELEASED), (A, POWER_ON), (A, PREEMPTED)), 8)

    assert clear(state, A, POWER_ON).pending[A] == (RELEASED, PREEMPTED)


def test_clear_of_what_is_not_pending_returns_the_same_state() -> None:
    """29/00 for a missed epoch stands in no queue: showing it is no transaction."""
    state = queue(EMPTY, ((A, RELEASED),), 8)

    assert clear(state, A, POWER_ON) is state
    assert clear(state, B, RELEASED) is state


@pytest.mark.parametrize(
    ("codes", "first"),
    [
        ((PREEMPTED, RELEASED), PREEMPTED),
        ((RELEASED, PREEMPTED), RELEASED),
        ((RELEASED, Attention.NEXUS_LOSS), Attention.NEXUS_LOSS),
        ((Attention.NEXUS_LOSS, Attention.LOGICAL_UNIT_RESET), Attention.LOGICAL_UNIT_RESET),
        ((Attention.LOGICAL_UNIT_RESET, Attention.BUS_RESET), Attention.BUS_RESET),
        ((Attention.BUS_RESET, POWER_ON), POWER_ON),
        ((Attention.COMMANDS_CLEARED, PREEMPTED), Attention.COMMANDS_CLEARED),
        ((PREEMPTED, Attention.COMMANDS_CLEARED), PREEMPTED),
    ],
)
def test_most_urgent_ranks_resets_and_then_age(
    codes: tuple[Attention, ...], first: Attention
) -> None:
    """SAM-5 5.14: 29/00, 29/02, 29/03, 29/07, then the oldest."""
    assert most_urgent(codes) is first


@pytest.mark.parametrize(
    ("epoch", "overflowed", "seen", "expected"),
    [
        (3, False, 3, True),
        (3, True, 3, True),
        (3, False, 2, False),
        (3, False, 4, False),
        (3, False, None, True),
        (3, True, None, False),
    ],
)
def test_up_to_date_compares_the_epoch_a_door_has_shown(
    epoch: int, overflowed: bool, seen: int | None, expected: bool
) -> None:
    """A nexus that no door knows has missed something only if attentions were dropped."""
    state = LogicalUnitState(attention_epoch=epoch, overflowed=overflowed)

    assert up_to_date(state, seen) is expected


def test_pending_of_a_missed_epoch_adds_power_on_once() -> None:
    """A power cycle that is in the queue and in the epoch is one event to its nexus."""
    lagging = LogicalUnitState(
        attentions=(PendingAttentions(A, (POWER_ON,)), PendingAttentions(B, (RELEASED,))),
        attention_epoch=1,
    )

    assert pending(lagging, A, 0) == (POWER_ON,)
    assert pending(lagging, B, 0) == (RELEASED, POWER_ON)
    assert pending(lagging, C, 0) == (POWER_ON,)
    assert pending(lagging, C, 1) == ()
