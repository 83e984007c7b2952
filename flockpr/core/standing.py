"""How a nexus stands toward the persistent reservation."""

from __future__ import annotations

from flockpr.core.model import LogicalUnitState, Nexus


def holds(state: LogicalUnitState, nexus: Nexus) -> bool:
    """Tell whether a nexus is a reservation holder (SPC-4 5.13.9, 5.13.10).

    Under the All Registrants types every registered nexus is; under the others one is.
    """
    reservation = state.reservation
    if reservation is None:
        return False
    if reservation.type.all_registrants:
        return nexus in state.by_nexus
    return reservation.holder == nexus


def has_access(state: LogicalUnitState, nexus: Nexus) -> bool:
    """Tell whether the reservation, if there is one, leaves a nexus its full access.

    That is a holder, and every registered nexus under the Registrants Only types. Under
    plain Write Exclusive and Exclusive Access a registered nexus that does not hold the
    reservation has no more rights than a stranger (SPC-4 table 65).
    """
    reservation = state.reservation
    if reservation is None or holds(state, nexus):
        return True
    return reservation.type.registrants_only and nexus in state.by_nexus
