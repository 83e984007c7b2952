"""Checks that the service actions of PERSISTENT RESERVE OUT have in common."""

from __future__ import annotations

from flockpr.core.model import LogicalUnitState, Registration
from flockpr.core.outcome import Outcome, conflict, refuse
from flockpr.spc.cdb import PersistentReserveOut
from flockpr.spc.codes import LU_SCOPE, ReservationType
from flockpr.spc.prout_list import PROutParameters
from flockpr.spc.sense import INVALID_SCOPE, INVALID_TYPE, PARAMETER_LIST_LENGTH_ERROR, Sense

_TYPES = frozenset(ReservationType)


def key_fault(
    state: LogicalUnitState, own: Registration, parameters: PROutParameters
) -> Outcome | None:
    """Refuse unless RESERVATION KEY is the sender's (SPC-4 6.16.3).

    A list too short to hold the key is no conflict but a length error, and that before all
    other faults: which of them, or whether a conflict, comes first would hang on the key.
    """
    if parameters.reservation_key is None:
        return refuse(state, PARAMETER_LIST_LENGTH_ERROR)
    return None if parameters.reservation_key == own.key else conflict(state)


def scope_type_fault(command: PersistentReserveOut) -> Sense | None:
    """Return 05/24/00 for a SCOPE or TYPE that is not valid, where they are used (SPC-4 6.16.2)."""
    if command.scope != LU_SCOPE:
        return INVALID_SCOPE
    return None if command.type in _TYPES else INVALID_TYPE


def list_fault(parameters: PROutParameters) -> Sense | None:
    """Return the fault of a parameter list, after which its keys can be relied upon."""
    if parameters.fault is not None:
        return parameters.fault
    keys = (parameters.reservation_key, parameters.service_action_reservation_key)
    # The parser gives no such list; one made by hand must not crash the machine.
    return PARAMETER_LIST_LENGTH_ERROR if None in keys else None
