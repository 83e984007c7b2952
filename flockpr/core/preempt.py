"""PREEMPT and PREEMPT AND ABORT (SPC-4 5.13.11.2, figure 9)."""

from __future__ import annotations

import attrs

from flockpr.core.model import LogicalUnitState, Nexus, Registration, Reservation, UnitConfig
from flockpr.core.outcome import Outcome, conflict, refuse
from flockpr.core.prout_checks import key_fault, list_fault, scope_type_fault
from flockpr.core.registry import withdraw
from flockpr.spc.cdb import PersistentReserveOut
from flockpr.spc.codes import Attention, OutAction, ReservationType
from flockpr.spc.sense import (
    INVALID_SERVICE_ACTION_RESERVATION_KEY,
    PARAMETER_LIST_LENGTH_ERROR,
)


def preempt(
    state: LogicalUnitState,
    own: Registration,
    command: PersistentReserveOut,
    _config: UnitConfig,
) -> Outcome:
    """Decide a PREEMPT or PREEMPT AND ABORT of a registered nexus."""
    parameters = command.parameters
    refused = key_fault(state, own, parameters)
    if refused is not None:
        return refused
    key = parameters.service_action_reservation_key
    if key is None:
        # Whom it would preempt, and so whether TYPE counts, cannot be known.
        return refuse(state, PARAMETER_LIST_LENGTH_ERROR)
    matched = _matched(state, key)
    zero = key == 0 and state.reservation is not None
    if not matched and not zero:
        return conflict(state)  # a key that nobody has, and 0 without a reservation
    takes_over = _takes_over(state, key)
    fault = (scope_type_fault(command) if takes_over else None) or list_fault(parameters)
    if fault is not None:
        return refuse(state, fault)
    if not matched:
        return refuse(state, INVALID_SERVICE_ACTION_RESERVATION_KEY)  # 0, not All Registrants
    outcome = (
        _take_over(state, own, command, matched) if takes_over else _remove(state, own, matched)
    )
    if command.service_action != OutAction.PREEMPT_AND_ABORT:
        return outcome
    # Every nexus whose key matched, the holder and the sender not excepted.
    return attrs.evolve(outcome, aborted=matched)


def _matched(state: LogicalUnitState, key: int) -> frozenset[Nexus]:
    """Return the nexuses that a SERVICE ACTION RESERVATION KEY stands for."""
    held = state.reservation
    if key == 0:
        everyone = held is not None and held.type.all_registrants
        return frozenset(state.by_nexus) if everyone else frozenset()
    return frozenset(r.nexus for r in state.registrations if r.key == key)


def _takes_over(state: LogicalUnitState, key: int) -> bool:
    """Tell whether preempting this key gives the reservation to the sender.

    That goes by the key that the holder has now, and by 0 for All Registrants types.
    """
    held = state.reservation
    if held is None:
        return False
    if held.holder is None:
        return key == 0
    holder = state.by_nexus.get(held.holder)
    return holder is not None and holder.key == key


def _take_over(
    state: LogicalUnitState,
    own: Registration,
    command: PersistentReserveOut,
    matched: frozenset[Nexus],
) -> Outcome:
    """Remove the others that match and reserve with the CDB's type; the sender survives."""
    kind = ReservationType(command.type)
    changed = state.reservation is not None and state.reservation.type is not kind
    holder = None if kind.all_registrants else own.nexus
    removed = matched - {own.nexus}
    after = withdraw(state, removed).having(reservation=Reservation(kind, holder))
    raised = _preempted(state, own, removed)
    if changed:
        others = (r.nexus for r in after.registrations if r.nexus != own.nexus)
        raised += tuple((nexus, Attention.RESERVATIONS_RELEASED) for nexus in others)
    return Outcome(after, raised=raised)


def _remove(state: LogicalUnitState, own: Registration, matched: frozenset[Nexus]) -> Outcome:
    """Remove all that match, the sender too; the reservation stays and TYPE is ignored."""
    after = withdraw(state, matched)
    if not after.registrations:
        # Only All Registrants or no reservation: another's holder does not match here.
        after = after.having(reservation=None)
    return Outcome(after, raised=_preempted(state, own, matched))


def _preempted(
    state: LogicalUnitState, own: Registration, removed: frozenset[Nexus]
) -> tuple[tuple[Nexus, Attention], ...]:
    """Return 2A/05 for those who lose their registration, but the sender."""
    return tuple(
        (r.nexus, Attention.REGISTRATIONS_PREEMPTED)
        for r in state.registrations
        if r.nexus in removed and r.nexus != own.nexus
    )
