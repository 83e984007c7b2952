"""PERSISTENT RESERVE OUT: order of checks, RESERVE, RELEASE and CLEAR.

Clauses are those of SPC-4 r36f. Each service action first looks for everything that is
RESERVATION CONFLICT, because that outranks every CHECK CONDITION that these functions can
give (SAM-5 5.3.3), then for faults, and changes the state last.

PRGENERATION and the attention queues are not touched here: `machine` does both, in one
place, for whatever comes out GOOD.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from flockpr.core.model import LogicalUnitState, Nexus, Registration, Reservation, UnitConfig
from flockpr.core.outcome import Outcome, conflict, refuse
from flockpr.core.preempt import preempt
from flockpr.core.prout_checks import key_fault, list_fault, scope_type_fault
from flockpr.core.registering import move, register
from flockpr.core.standing import holds
from flockpr.spc.cdb import PersistentReserveOut
from flockpr.spc.codes import LU_SCOPE, Attention, OutAction, ReservationType
from flockpr.spc.sense import INVALID_RELEASE

Handler = Callable[[LogicalUnitState, Registration, PersistentReserveOut, UnitConfig], Outcome]
"""A service action that only a registered nexus may use; it is given its registration."""


def decide(
    state: LogicalUnitState, nexus: Nexus, command: PersistentReserveOut, config: UnitConfig
) -> Outcome:
    """Decide a PERSISTENT RESERVE OUT as though no unit attention were pending.

    Args:
        state: The state.
        nexus: Who sends it.
        command: The command; its service action is one of `OutAction`.
        config: The logical unit's limits and target ports.

    Returns:
        What it comes to. PRGENERATION is still the old one and `raised` is not queued.
    """
    if state.spc2 is not None:
        return conflict(state)  # 5.13.3: from anyone, the SPC-2 holder included
    action = command.service_action
    if action in (OutAction.REGISTER, OutAction.REGISTER_AND_IGNORE_EXISTING_KEY):
        return register(state, nexus, command, config)
    own = state.by_nexus.get(nexus)
    if own is None:
        # Table 66 and 5.13.7: with or without a reservation, and before the list is looked at.
        return conflict(state)
    return _FOR_REGISTERED[action](state, own, command, config)


def reserve(
    state: LogicalUnitState,
    own: Registration,
    command: PersistentReserveOut,
    _config: UnitConfig,
) -> Outcome:
    """RESERVE (5.13.9)."""
    held = state.reservation
    if held is not None and not holds(state, own.nexus):
        return conflict(state)  # table 66: whatever else is wrong
    parameters = command.parameters
    refused = key_fault(state, own, parameters)
    if refused is not None:
        return refused
    if held is not None and not _same(held, command):
        # Also for codes that are not valid: two faults at once, and the conflict wins.
        return conflict(state)
    fault = scope_type_fault(command) or list_fault(parameters)
    if fault is not None:
        return refuse(state, fault)
    if held is not None:
        return Outcome(state)  # the holder repeats itself
    kind = ReservationType(command.type)
    holder = None if kind.all_registrants else own.nexus
    return Outcome(state.having(reservation=Reservation(kind, holder)))


def release(
    state: LogicalUnitState,
    own: Registration,
    command: PersistentReserveOut,
    _config: UnitConfig,
) -> Outcome:
    """RELEASE (5.13.11.2, releasing)."""
    refused = key_fault(state, own, command.parameters)
    if refused is not None:
        return refused  # also where the release would have had no effect
    fault = scope_type_fault(command) or list_fault(command.parameters)
    if fault is not None:
        return refuse(state, fault)
    held = state.reservation
    if held is None or not holds(state, own.nexus):
        return Outcome(state)  # GOOD, or multipath clients could not release on all paths
    if not _same(held, command):
        return refuse(state, INVALID_RELEASE)
    released = state.having(reservation=None)
    if not (held.type.registrants_only or held.type.all_registrants):
        return Outcome(released)
    others = (r.nexus for r in state.registrations if r.nexus != own.nexus)
    return Outcome(released, raised=tuple((n, Attention.RESERVATIONS_RELEASED) for n in others))


def clear(
    state: LogicalUnitState,
    own: Registration,
    command: PersistentReserveOut,
    _config: UnitConfig,
) -> Outcome:
    """CLEAR (5.13.11.2, clearing); from any registrant, holder or not."""
    refused = key_fault(state, own, command.parameters)
    if refused is not None:
        return refused
    fault = list_fault(command.parameters)
    if fault is not None:
        return refuse(state, fault)
    others = (r.nexus for r in state.registrations if r.nexus != own.nexus)
    return Outcome(
        state.having(registered={}, reservation=None),  # APTPL stays as it was
        raised=tuple((n, Attention.RESERVATIONS_PREEMPTED) for n in others),
    )


def _same(held: Reservation, command: PersistentReserveOut) -> bool:
    """Tell whether a command names the scope and type of the reservation."""
    return command.scope == LU_SCOPE and command.type == held.type


_FOR_REGISTERED: Final[Mapping[int, Handler]] = MappingProxyType(
    {
        OutAction.RESERVE: reserve,
        OutAction.RELEASE: release,
        OutAction.CLEAR: clear,
        OutAction.PREEMPT: preempt,
        OutAction.PREEMPT_AND_ABORT: preempt,
        OutAction.REGISTER_AND_MOVE: move,
    }
)
