"""Unit attentions: who waits for which, and which one comes first.

The queues are part of the state that all hosts share, because the victim of a preempt is
as a rule served by another host than the one that preempted it, and may be logged out.

There may be more initiators than the state can hold. So the queues are bounded, and what
does not fit is not lost but made coarser: the epoch rises, and every nexus that has not
been shown this epoch finds 29/00, which tells an initiator to assume the worst. A door
keeps in memory which epoch it has shown to a nexus. A nexus that no door remembers has
missed nothing that a fresh login does not tell it, unless attentions were dropped, one of
which may have been its own.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from flockpr.core.model import LogicalUnitState, Nexus, PendingAttentions
from flockpr.spc.codes import Attention

Raised = tuple[tuple[Nexus, Attention], ...]
"""Attentions to be queued, in the order in which they are raised."""


def up_to_date(state: LogicalUnitState, seen_epoch: int | None) -> bool:
    """Tell whether a nexus has been shown the present attention epoch.

    Args:
        state: The state.
        seen_epoch: The epoch that the door has shown to it; None if the door does not
            know the nexus.
    """
    if seen_epoch is None:
        return not state.overflowed
    # Not "<": a door that saw a higher epoch saw a state that is gone.
    return seen_epoch == state.attention_epoch


def pending(state: LogicalUnitState, nexus: Nexus, seen_epoch: int | None) -> tuple[Attention, ...]:
    """Return what waits for a nexus, oldest first; a missed epoch counts as 29/00."""
    codes = state.pending.get(nexus, ())
    if up_to_date(state, seen_epoch) or Attention.POWER_ON in codes:
        return codes
    return (*codes, Attention.POWER_ON)


def most_urgent(codes: tuple[Attention, ...]) -> Attention:
    """Return the one to report: 29/00, /02, /03, /07, then the oldest (SAM-5 5.14).

    Args:
        codes: What waits, oldest first; at least one.
    """
    # `min` takes the first of equals, so the others keep their order.
    return min(codes, key=lambda code: code if code.reset_class else 0xFFFF)


def queue(state: LogicalUnitState, raised: Raised, max_pending: int) -> LogicalUnitState:
    """Queue attentions; none twice for a nexus (SAM-5 5.14), none beyond the bound.

    Args:
        state: The state.
        raised: What to queue.
        max_pending: How many nexuses may have attentions pending. When there are more, the
            epoch rises once and `overflowed` is set.

    Returns:
        The state with them; the same object when that changes nothing.
    """
    if not raised:
        return state
    waiting = dict(state.pending)
    queued = dropped = False
    for nexus, code in raised:
        codes = waiting.get(nexus, ())
        if code in codes:
            continue
        if not codes and len(waiting) >= max_pending:
            dropped = True
            continue
        waiting[nexus] = (*codes, code)
        queued = True
    if queued:
        state = attrs.evolve(state, attentions=_entries(waiting.items()))
    if dropped:
        epoch = state.attention_epoch + 1
        state = attrs.evolve(state, attention_epoch=epoch, overflowed=True)
    return state


def clear(state: LogicalUnitState, nexus: Nexus, code: Attention) -> LogicalUnitState:
    """Drop an attention that was reported.

    Returns:
        The state without it; the same object if it was not in the queue, as 29/00 for a
        missed epoch is not.
    """
    if code not in state.pending.get(nexus, ()):
        return state
    waiting = dict(state.pending)
    waiting[nexus] = tuple(other for other in waiting[nexus] if other is not code)
    left = ((who, codes) for who, codes in waiting.items() if codes)
    return attrs.evolve(state, attentions=_entries(left))


def _entries(
    items: Iterable[tuple[Nexus, tuple[Attention, ...]]],
) -> tuple[PendingAttentions, ...]:
    return tuple(PendingAttentions(nexus, codes) for nexus, codes in items)
