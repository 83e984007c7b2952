"""PERSISTENT RESERVE OUT as those take it who have no room for TransportIDs."""

from __future__ import annotations

import struct

import attrs

from flockpr.logical_unit import Result
from flockpr.spc import sense as senses
from flockpr.spc.codes import OutAction, ReservationType

LIST_LENGTH = 24

_KEYS = struct.Struct(">QQ")
_UNCHECKED = frozenset(
    (OutAction.REGISTER, OutAction.CLEAR, OutAction.REGISTER_AND_IGNORE_EXISTING_KEY)
)
"""Service actions whose SCOPE and TYPE are ignored (SPC-4 table 213)."""


@attrs.frozen
class Change:
    """What a command asks for.

    Attributes:
        action: Service action; not REGISTER AND MOVE.
        key: RESERVATION KEY.
        other: SERVICE ACTION RESERVATION KEY.
        type: Of the reservation; 0 where it is ignored and none.
        aptpl: APTPL.
        all_target_ports: ALL_TG_PT.
    """

    action: OutAction
    key: int
    other: int
    type: int
    aptpl: bool
    all_target_ports: bool


def change_of(cdb: bytes, data_out: bytes, *, all_target_ports: bool) -> Change | Result:
    """What a command asks for, or its refusal: in the order of SPC-4, the service action, fields
    of the CDB, the list.

    Args:
        cdb: The command.
        data_out: Its parameter list.
        all_target_ports: Whether ALL_TG_PT can be said on.
    """
    try:
        action = OutAction(cdb[1] & 0x1F)
    except ValueError:
        return Result.check(senses.INVALID_FIELD_IN_CDB)
    if action == OutAction.REGISTER_AND_MOVE:
        return Result.check(senses.INVALID_FIELD_IN_CDB)
    kind = cdb[2] & 0x0F
    known = kind in set(ReservationType)
    if action not in _UNCHECKED and (cdb[2] >> 4 or not known):
        return Result.check(senses.INVALID_FIELD_IN_CDB)
    if len(data_out) != LIST_LENGTH:
        return Result.check(senses.PARAMETER_LIST_LENGTH_ERROR)
    flags = data_out[20]
    if flags & 0x08 or (flags & 0x04 and not all_target_ports):  # SPEC_I_PT, ALL_TG_PT
        return Result.check(senses.INVALID_FIELD_IN_PARAMETER_LIST)
    key, other = _KEYS.unpack_from(data_out)
    kind = kind if known else 0
    return Change(action, key, other, kind, bool(flags & 0x01), bool(flags & 0x04))
