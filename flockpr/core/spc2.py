"""RESERVE and RELEASE of SPC-2, with compatible reservation handling (SPC-4 5.13.3).

A logical unit never has a SPC-2 and a persistent reservation at once: while anything is
registered RESERVE does not reserve, and while a RESERVE holds nothing can be registered.
"""

from __future__ import annotations

import attrs

from flockpr.core.model import SLOTS, LogicalUnitState, Nexus, Spc2Reservation
from flockpr.core.outcome import Outcome, conflict
from flockpr.core.registry import free_slot
from flockpr.core.standing import has_access


def reserve(state: LogicalUnitState, nexus: Nexus) -> Outcome:
    """Decide a RESERVE(6) or RESERVE(10)."""
    if state.registrations:
        return _compatible(state, nexus)
    if state.spc2 is not None:
        return Outcome(state) if state.spc2.holder == nexus else conflict(state)
    slot = free_slot((), state.next_slot)
    held = Spc2Reservation(nexus, slot)
    return Outcome(attrs.evolve(state, spc2=held, next_slot=(slot + 1) % SLOTS))


def release(state: LogicalUnitState, nexus: Nexus) -> Outcome:
    """Decide a RELEASE(6) or RELEASE(10); without effect, but GOOD, from a non-holder."""
    if state.registrations:
        return _compatible(state, nexus)
    return Outcome(freed(state, nexus))


def freed(state: LogicalUnitState, nexus: Nexus) -> LogicalUnitState:
    """Return the state without the SPC-2 reservation of a nexus; the same if it has none."""
    if state.spc2 is None or state.spc2.holder != nexus:
        return state
    return attrs.evolve(state, spc2=None)


def _compatible(state: LogicalUnitState, nexus: Nexus) -> Outcome:
    """Answer while keys are registered: GOOD without effect to the privileged (5.13.3).

    Those are the persistent reservation's holder, and every registered nexus under the
    Registrants Only and All Registrants types. Without a reservation nobody is.
    """
    if state.reservation is not None and has_access(state, nexus):
        return Outcome(state)
    return conflict(state)
