"""Checks that the service actions of PERSISTENT RESERVE OUT have in common."""

from __future__ import annotations

from flockpr.core.model import Registration
from flockpr.spc.cdb import PersistentReserveOut
from flockpr.spc.codes import LU_SCOPE, ReservationType
from flockpr.spc.prout_list import PROutParameters
from flockpr.spc.sense import INVALID_SCOPE, INVALID_TYPE, PARAMETER_LIST_LENGTH_ERROR, Sense

_TYPES = frozenset(ReservationType)


def wrong_key(own: Registration, parameters: PROutParameters) -> bool:
    """Tell whether RESERVATION KEY is readable and not the sender's (SPC-4 6.16.3).

    A list too short to hold the key is not a wrong key but a length error.
    """
    return parameters.reservation_key not in (None, own.key)


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
