"""Command descriptor blocks: bytes to typed commands and back (SPC-4 6.15, 6.16; SPC-2).

`parse_command` refuses only what is refused whoever sends it. SCOPE and TYPE are handed
on as they are, because only the state machine knows where they are used, and faults of
the parameter list too, because RESERVATION CONFLICT outranks them.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs

from flockpr.spc.codes import InAction, Opcode, OutAction
from flockpr.spc.prout_list import PROutParameters, parse_parameter_list
from flockpr.spc.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_OPCODE,
    INVALID_SERVICE_ACTION,
    Sense,
    cdb_field,
)


@attrs.frozen
class PersistentReserveIn:
    """PERSISTENT RESERVE IN.

    Attributes:
        service_action: One of `InAction`.
        allocation_length: ALLOCATION LENGTH in bytes, 16 bits; 0 is no error.
    """

    service_action: int
    allocation_length: int


@attrs.frozen
class PersistentReserveOut:
    """PERSISTENT RESERVE OUT.

    Attributes:
        service_action: One of `OutAction`.
        scope: SCOPE as it came, 4 bits.
        type: TYPE as it came, 4 bits.
        parameters: What could be read of the parameter list, and its fault.
    """

    service_action: int
    scope: int
    type: int
    parameters: PROutParameters


@attrs.frozen
class Reserve:
    """RESERVE(6) or RESERVE(10) of the whole logical unit (SPC-2)."""

    opcode: int = Opcode.RESERVE_6


@attrs.frozen
class Release:
    """RELEASE(6) or RELEASE(10) of the whole logical unit (SPC-2)."""

    opcode: int = Opcode.RELEASE_6


@attrs.frozen
class OtherCommand:
    """Any other command: the state machine only says whether it is admitted.

    Attributes:
        cdb: Its bytes, as they came.
        opcode: Operation code.
        service_action: The service action, if the operation code has them: 16 bits for
            variable length CDBs (7Fh), else 5.
    """

    cdb: bytes
    opcode: int
    service_action: int | None = None


@attrs.frozen
class Refused:
    """A command that is refused whoever sends it, whatever the state.

    Attributes:
        sense: What CHECK CONDITION says.
    """

    sense: Sense


Command: TypeAlias = (
    PersistentReserveIn | PersistentReserveOut | Reserve | Release | OtherCommand | Refused
)

PR_CDB_LENGTH = 10

_VARIABLE_LENGTH = 0x7F
_LENGTHS = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}
"""CDB length by group code (bits 7-5 of the opcode); 3 has none, 6 and 7 are the vendor's."""

_WITH_SERVICE_ACTION = frozenset((0x48, 0x83, 0x84, 0x86, 0x87, 0x8C, 0x9D, 0x9E, 0x9F))
_WITH_SERVICE_ACTION |= frozenset((0xA3, 0xA4, 0xA9, 0xAB))

_NACA = 0x04
_THIRD_PARTY, _EXTENT = 0x10, 0x01

_IN_ACTIONS = tuple(InAction)
_OUT_ACTIONS = tuple(OutAction)
_SHORT = Refused(INVALID_FIELD_IN_CDB)
_NO_OPCODE = Refused(INVALID_OPCODE)
_NO_SERVICE_ACTION = Refused(INVALID_SERVICE_ACTION)


def parse_command(
    cdb: bytes, data_out: bytes = b"", *, long_parameter_length: bool = True
) -> Command:
    """Read one command; any bytes give a command.

    Args:
        cdb: The CDB; bytes after those its opcode needs are ignored.
        data_out: The data that came with it.
        long_parameter_length: Whether PARAMETER LIST LENGTH of PERSISTENT RESERVE OUT is
            bytes 5-8; False for clients that know bytes 7-8 only (QEMU).

    Returns:
        The command, or `Refused`: 05/20/00 for an empty CDB; 05/24/00 for one shorter than
        its opcode needs, for a service action of PERSISTENT RESERVE IN or OUT that is not
        implemented, for NACA=1, and for EXTENT=1 or 3RDPTY=1.
    """
    if not cdb:
        return _NO_OPCODE
    opcode = cdb[0]
    if opcode == Opcode.PERSISTENT_RESERVE_IN:
        return _parse_in(cdb)
    if opcode == Opcode.PERSISTENT_RESERVE_OUT:
        return _parse_out(cdb, data_out, long_parameter_length)
    if opcode == _VARIABLE_LENGTH:
        return _parse_variable(cdb)
    length = _LENGTHS.get(opcode >> 5)
    if length is not None:
        if len(cdb) < length:
            return _SHORT
        if cdb[length - 1] & _NACA:
            return Refused(cdb_field(length - 1, 2))
    return _parse_other(cdb, opcode)


def _parse_in(cdb: bytes) -> Command:
    if len(cdb) < PR_CDB_LENGTH:
        return _SHORT
    action = cdb[1] & 0x1F
    if action >= len(_IN_ACTIONS):
        return _NO_SERVICE_ACTION
    if cdb[9] & _NACA:
        return Refused(cdb_field(9, 2))
    return PersistentReserveIn(_IN_ACTIONS[action], cdb[7] << 8 | cdb[8])


def _parse_out(cdb: bytes, data_out: bytes, long_parameter_length: bool) -> Command:
    if len(cdb) < PR_CDB_LENGTH:
        return _SHORT
    action = cdb[1] & 0x1F
    if action >= len(_OUT_ACTIONS):
        return _NO_SERVICE_ACTION
    if cdb[9] & _NACA:
        return Refused(cdb_field(9, 2))
    length = int.from_bytes(cdb[5 if long_parameter_length else 7 : 9], "big")
    parameters = parse_parameter_list(action, length, data_out)
    return PersistentReserveOut(_OUT_ACTIONS[action], cdb[2] >> 4, cdb[2] & 0x0F, parameters)


def _parse_variable(cdb: bytes) -> Command:
    """Read a variable length CDB: CONTROL is byte 1, the service action bytes 8-9."""
    if len(cdb) < PR_CDB_LENGTH:
        return _SHORT
    if cdb[7] < 2 or len(cdb) < 8 + cdb[7]:
        return Refused(cdb_field(7))
    if cdb[1] & _NACA:
        return Refused(cdb_field(1, 2))
    return OtherCommand(cdb, _VARIABLE_LENGTH, cdb[8] << 8 | cdb[9])


def _parse_other(cdb: bytes, opcode: int) -> Command:
    match opcode:
        case Opcode.RESERVE_6 | Opcode.RESERVE_10:
            return _refuse_extent(cdb) or Reserve(opcode)
        case Opcode.RELEASE_6 | Opcode.RELEASE_10:
            return _refuse_extent(cdb) or Release(opcode)
    return OtherCommand(cdb, opcode, cdb[1] & 0x1F if opcode in _WITH_SERVICE_ACTION else None)


def _refuse_extent(cdb: bytes) -> Refused | None:
    """Refuse what a reservation of the whole unit by its sender cannot express."""
    if cdb[1] & _THIRD_PARTY:
        return Refused(cdb_field(1, 4))
    if cdb[1] & _EXTENT:
        return Refused(cdb_field(1, 0))
    return None


def encode_persistent_reserve_in(service_action: int, allocation_length: int = 8192) -> bytes:
    """Return the 10 bytes of a PERSISTENT RESERVE IN.

    Raises:
        ValueError: The service action does not fit a byte.
        OverflowError: The allocation length does not fit 16 bits.
    """
    head = bytes((Opcode.PERSISTENT_RESERVE_IN, service_action, 0, 0, 0, 0, 0))
    return head + allocation_length.to_bytes(2, "big") + b"\0"


def encode_persistent_reserve_out(
    service_action: int, parameter_list_length: int = 24, *, scope: int = 0, type_: int = 0
) -> bytes:
    """Return the 10 bytes of a PERSISTENT RESERVE OUT.

    Raises:
        ValueError: The service action, SCOPE or TYPE does not fit a byte.
        OverflowError: The list length does not fit 32 bits.
    """
    head = bytes((Opcode.PERSISTENT_RESERVE_OUT, service_action, scope << 4 | type_, 0, 0))
    return head + parameter_list_length.to_bytes(4, "big") + b"\0"


def encode_reserve(opcode: int = Opcode.RESERVE_6) -> bytes:
    """Return the CDB of RESERVE or RELEASE, (6) or (10), of the whole logical unit."""
    return bytes((opcode,)).ljust(_LENGTHS[opcode >> 5], b"\0")
