"""PERSISTENT RESERVE OUT parameter lists (SPC-4 6.16.3 and 6.16.4).

Reading never refuses: RESERVATION CONFLICT outranks a fault of the list, and only the
state machine knows whether there is a conflict. So a list gives what could be read of it
and, beside it, the fault that it will be refused for if nothing outranks it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from flockpr.spc.codes import OutAction
from flockpr.spc.sense import INVALID_SPEC_I_PT, PARAMETER_LIST_LENGTH_ERROR, Sense, list_field
from flockpr.spc.transport_id import (
    MIN_LENGTH,
    ListedTransportId,
    TransportIdFault,
    encode,
    parse_transport_id,
    parse_transport_ids,
)

if TYPE_CHECKING:
    from flockpr.spc.transport_id import TransportId

BASIC_LENGTH = 24
"""Bytes of a basic list without TransportIDs, and of the fixed part of the other one."""

SPEC_I_PT_LENGTH = 28
"""Where the TransportIDs of a basic list start."""

MAX_LENGTH = 1 << 18
"""Longest list that is taken; 1,024 TransportIDs of the greatest length fit."""

_SPEC_I_PT, _ALL_TG_PT, _APTPL = 0x08, 0x04, 0x01
_UNREG = 0x02
_KEYS = struct.Struct(">QQ")


@attrs.frozen
class PROutParameters:
    """What could be read of a parameter list.

    Attributes:
        reservation_key: RESERVATION KEY; None when fewer than 8 bytes came.
        service_action_reservation_key: SERVICE ACTION RESERVATION KEY; None when fewer
            than 16 bytes came.
        aptpl: The APTPL bit, where the list reaches that far.
        all_tg_pt: The ALL_TG_PT bit; not of REGISTER AND MOVE.
        spec_i_pt: The SPEC_I_PT bit; not of REGISTER AND MOVE.
        unreg: The UNREG bit; only of REGISTER AND MOVE.
        relative_target_port: Of the destination nexus; only of REGISTER AND MOVE.
        transport_ids: The TransportIDs before the first fault, with the bytes where they
            start. REGISTER AND MOVE has one, at byte 24.
        fault: 05/1A/00 or 05/26/00 for the first fault that the list shows by itself, or
            None. Keys are None only beside a fault.
        short_of_spec_i_pt: The fault is only that SPEC_I_PT=1 asks for more than these 24
            to 27 bytes; it counts for nothing where SPEC_I_PT is ignored.
    """

    reservation_key: int | None = None
    service_action_reservation_key: int | None = None
    aptpl: bool = False
    all_tg_pt: bool = False
    spec_i_pt: bool = False
    unreg: bool = False
    relative_target_port: int = 0
    transport_ids: tuple[ListedTransportId, ...] = ()
    fault: Sense | None = None
    short_of_spec_i_pt: bool = False

    @property
    def transport_id(self) -> TransportId | None:
        """The first TransportID: the destination of REGISTER AND MOVE."""
        return self.transport_ids[0].transport_id if self.transport_ids else None


def parse_parameter_list(service_action: int, length: int, data_out: bytes) -> PROutParameters:
    """Read the parameter list of one PERSISTENT RESERVE OUT command.

    Args:
        service_action: Its service action; any number.
        length: PARAMETER LIST LENGTH of its CDB. Data beyond it is no part of the list;
            a list that ends before it is a length fault.
        data_out: The bytes that came.
    """
    data = data_out[:length]
    if service_action == OutAction.REGISTER_AND_MOVE:
        return _parse_move(length, data)
    if length == BASIC_LENGTH == len(data) and not data[20] & _SPEC_I_PT:
        key, action_key = _KEYS.unpack_from(data)
        flags = data[20]
        return PROutParameters(key, action_key, bool(flags & _APTPL), bool(flags & _ALL_TG_PT))
    return _parse_basic(service_action, length, data)


def _parse_basic(service_action: int, length: int, data: bytes) -> PROutParameters:
    """Read a basic list that is faulty or has SPEC_I_PT=1."""
    flags = data[20] if len(data) > 20 else 0
    spec_i_pt = bool(flags & _SPEC_I_PT)
    listed: tuple[ListedTransportId, ...] = ()
    fault: Sense | None = PARAMETER_LIST_LENGTH_ERROR
    short_of_spec_i_pt = False
    if spec_i_pt and service_action != OutAction.REGISTER:
        fault = INVALID_SPEC_I_PT  # whatever the length
    elif spec_i_pt and _complete(length, data) and length >= SPEC_I_PT_LENGTH:
        listed, fault = _parse_listed(data)
    elif spec_i_pt and _complete(length, data) and length >= BASIC_LENGTH:
        short_of_spec_i_pt = True
    return PROutParameters(
        reservation_key=_key(data, 0),
        service_action_reservation_key=_key(data, 8),
        aptpl=bool(flags & _APTPL),
        all_tg_pt=bool(flags & _ALL_TG_PT),
        spec_i_pt=spec_i_pt,
        transport_ids=listed,
        fault=fault,
        short_of_spec_i_pt=short_of_spec_i_pt,
    )


def _parse_listed(data: bytes) -> tuple[tuple[ListedTransportId, ...], Sense | None]:
    """Read TRANSPORTID PARAMETER DATA LENGTH and what it covers; the rest is ignored."""
    end = SPEC_I_PT_LENGTH + int.from_bytes(data[24:28], "big")
    if end > len(data):
        return (), list_field(24)
    listed, fault = parse_transport_ids(data, SPEC_I_PT_LENGTH, end)
    return listed, None if fault is None else list_field(fault.offset)


def _parse_move(length: int, data: bytes) -> PROutParameters:
    """Read a REGISTER AND MOVE list (SPC-4 6.16.4)."""
    flags = data[17] if len(data) > 17 else 0
    listed: tuple[ListedTransportId, ...] = ()
    fault: Sense | None = PARAMETER_LIST_LENGTH_ERROR
    if _complete(length, data) and length >= BASIC_LENGTH:
        listed, fault = _parse_destination(data)
    return PROutParameters(
        reservation_key=_key(data, 0),
        service_action_reservation_key=_key(data, 8),
        aptpl=bool(flags & _APTPL),
        unreg=bool(flags & _UNREG),
        relative_target_port=int.from_bytes(data[18:20], "big"),
        transport_ids=listed,
        fault=fault,
    )


def _parse_destination(data: bytes) -> tuple[tuple[ListedTransportId, ...], Sense | None]:
    """Read TRANSPORTID LENGTH and the one TransportID; what follows it is ignored."""
    length = int.from_bytes(data[20:24], "big")
    end = BASIC_LENGTH + length
    if length < MIN_LENGTH or length % 4 or end > len(data):
        return (), list_field(20)
    found = parse_transport_id(data[:end], BASIC_LENGTH)
    if isinstance(found, TransportIdFault):
        # Cut short by TRANSPORTID LENGTH: that field is in error, not the TransportID.
        return (), list_field(20 if found.truncated else BASIC_LENGTH)
    return (ListedTransportId(BASIC_LENGTH, found),), None


def _complete(length: int, data: bytes) -> bool:
    """Whether the list is as long as its CDB says, and no longer than is taken."""
    return len(data) == length <= MAX_LENGTH


def _key(data: bytes, offset: int) -> int | None:
    key = data[offset : offset + 8]
    return int.from_bytes(key, "big") if len(key) == 8 else None


def encode_basic_list(
    reservation_key: int = 0,
    service_action_reservation_key: int = 0,
    *,
    aptpl: bool = False,
    all_tg_pt: bool = False,
    transport_ids: Sequence[TransportId] | None = None,
) -> bytes:
    """Return the list of every service action but REGISTER AND MOVE.

    Args:
        reservation_key: RESERVATION KEY, 64 bits.
        service_action_reservation_key: SERVICE ACTION RESERVATION KEY, 64 bits.
        aptpl: APTPL.
        all_tg_pt: ALL_TG_PT.
        transport_ids: With SPEC_I_PT=1; None for SPEC_I_PT=0 and a list of 24 bytes.

    Raises:
        struct.error: A key does not fit 64 bits.
    """
    flags = (_APTPL if aptpl else 0) | (_ALL_TG_PT if all_tg_pt else 0)
    flags |= 0 if transport_ids is None else _SPEC_I_PT
    fixed = _KEYS.pack(reservation_key, service_action_reservation_key) + bytes(
        (0, 0, 0, 0, flags, 0, 0, 0)
    )
    if transport_ids is None:
        return fixed
    entries = b"".join(map(encode, transport_ids))
    return fixed + len(entries).to_bytes(4, "big") + entries


def encode_move_list(
    reservation_key: int,
    service_action_reservation_key: int,
    transport_id: TransportId,
    relative_target_port: int = 1,
    *,
    unreg: bool = False,
    aptpl: bool = False,
) -> bytes:
    """Return the list of REGISTER AND MOVE.

    Args:
        reservation_key: RESERVATION KEY, 64 bits.
        service_action_reservation_key: Key for the destination nexus, 64 bits.
        transport_id: Initiator port of the destination nexus.
        relative_target_port: Target port of the destination nexus, 16 bits.
        unreg: UNREG.
        aptpl: APTPL.

    Raises:
        struct.error: A key does not fit 64 bits.
        OverflowError: `relative_target_port` does not fit 16 bits.
    """
    flags = (_UNREG if unreg else 0) | (_APTPL if aptpl else 0)
    entry = encode(transport_id)
    return b"".join(
        (
            _KEYS.pack(reservation_key, service_action_reservation_key),
            bytes((0, flags)),
            relative_target_port.to_bytes(2, "big"),
            len(entry).to_bytes(4, "big"),
            entry,
        )
    )
