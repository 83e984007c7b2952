"""PERSISTENT RESERVE IN payloads: to bytes for the target, from bytes for clients (SPC-4 6.15).

Payloads are encoded whole; `truncate` is the one place that applies ALLOCATION LENGTH,
so a length field always says how much there is and not how much was sent.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import attrs

from flockpr.spc.codes import LU_SCOPE
from flockpr.spc.transport_id import TransportIdFault, encode, parse_transport_id

if TYPE_CHECKING:
    from flockpr.spc.transport_id import TransportId

_HEADER = struct.Struct(">II")
_RESERVATION = struct.Struct(">IIQIBBH")
_RESERVATION_LENGTH = 0x10
_CAPABILITIES_LENGTH = 8
_DESCRIPTOR = struct.Struct(">Q4xBB4xHI")

_RLR_C, _CRH, _SIP_C, _ATP_C, _PTPL_C = 0x80, 0x10, 0x08, 0x04, 0x01
_TMV, _PTPL_A = 0x80, 0x01
_ALL_TG_PT, _R_HOLDER = 0x02, 0x01


def truncate(payload: bytes, allocation_length: int) -> bytes:
    """Return what of the payload is sent; no length is an error, 0 included."""
    return payload[:allocation_length]


@attrs.frozen
class Keys:
    """READ KEYS.

    Attributes:
        generation: PRGENERATION.
        keys: One key for each registered I_T nexus.
        missing: Bytes that ALLOCATION LENGTH cut off; 0 in what is encoded.
    """

    generation: int
    keys: tuple[int, ...] = ()
    missing: int = 0


@attrs.frozen
class HeldReservation:
    """The reservation of READ RESERVATION.

    Attributes:
        key: The holder's key; 0 for the All Registrants types.
        type: TYPE.
        scope: SCOPE.
    """

    key: int
    type: int
    scope: int = LU_SCOPE


@attrs.frozen
class ReservationReport:
    """READ RESERVATION.

    Attributes:
        generation: PRGENERATION.
        held: The reservation; None without one, or when it was cut off (`missing`).
        missing: Bytes that ALLOCATION LENGTH cut off.
    """

    generation: int
    held: HeldReservation | None = None
    missing: int = 0


@attrs.frozen
class Capabilities:
    """REPORT CAPABILITIES.

    Attributes:
        replace_lost: RLR_C.
        compatible_handling: CRH.
        specify_initiator_ports: SIP_C.
        all_target_ports: ATP_C.
        persist_capable: PTPL_C.
        persist_active: PTPL_A.
        allow_commands: ALLOW COMMANDS, 3 bits.
        types: The type codes that are supported, or None with TMV=0.
    """

    replace_lost: bool = False
    compatible_handling: bool = False
    specify_initiator_ports: bool = False
    all_target_ports: bool = False
    persist_capable: bool = False
    persist_active: bool = False
    allow_commands: int = 0
    types: frozenset[int] | None = None


@attrs.frozen
class FullStatus:
    """One registration of READ FULL STATUS.

    Attributes:
        key: Its key, also under an All Registrants reservation.
        transport_id: Its initiator port; None if the bytes that came are no TransportID.
        relative_target_port: Its target port; meaningless with `all_target_ports`.
        holder: R_HOLDER.
        type: TYPE of the reservation; 0 unless `holder`.
        scope: SCOPE of the reservation; 0 unless `holder`.
        all_target_ports: ALL_TG_PT.
    """

    key: int
    transport_id: TransportId | None
    relative_target_port: int = 1
    holder: bool = False
    type: int = 0
    scope: int = LU_SCOPE
    all_target_ports: bool = False


@attrs.frozen
class FullStatusReport:
    """READ FULL STATUS.

    Attributes:
        generation: PRGENERATION.
        registrations: One entry for each descriptor that came whole.
        missing: Bytes that ALLOCATION LENGTH cut off.
    """

    generation: int
    registrations: tuple[FullStatus, ...] = ()
    missing: int = 0


def encode_keys(generation: int, keys: Sequence[int]) -> bytes:
    """Return the READ KEYS payload: 8 bytes and 8 for each key."""
    return struct.pack(f">II{len(keys)}Q", generation, 8 * len(keys), *keys)


def encode_reservation(generation: int, held: HeldReservation | None) -> bytes:
    """Return the READ RESERVATION payload: 24 bytes, or 8 without a reservation."""
    if held is None:
        return _HEADER.pack(generation, 0)
    scope_type = held.scope << 4 | held.type
    return _RESERVATION.pack(generation, _RESERVATION_LENGTH, held.key, 0, 0, scope_type, 0)


def encode_capabilities(report: Capabilities) -> bytes:
    """Return the REPORT CAPABILITIES payload: 8 bytes."""
    flags = (
        (_RLR_C if report.replace_lost else 0)
        | (_CRH if report.compatible_handling else 0)
        | (_SIP_C if report.specify_initiator_ports else 0)
        | (_ATP_C if report.all_target_ports else 0)
        | (_PTPL_C if report.persist_capable else 0)
    )
    more = report.allow_commands << 4 | (_PTPL_A if report.persist_active else 0)
    mask = 0
    if report.types is not None:
        more |= _TMV
        # Byte 4 bit n stands for type n and byte 5 goes on with type 8: the mask is the
        # one little-endian number of the standard.
        mask = sum(1 << type_ for type_ in report.types)
    return (
        _CAPABILITIES_LENGTH.to_bytes(2, "big")
        + bytes((flags, more))
        + mask.to_bytes(2, "little")
        + bytes(2)
    )


def encode_full_status(generation: int, registrations: Iterable[FullStatus]) -> bytes:
    """Return the READ FULL STATUS payload: 8 bytes and a descriptor for each registration.

    Raises:
        ValueError: A registration has no TransportID.
    """
    body = b"".join(map(_encode_descriptor, registrations))
    return _HEADER.pack(generation, len(body)) + body


def _encode_descriptor(entry: FullStatus) -> bytes:
    if entry.transport_id is None:
        raise ValueError("a registration without a TransportID cannot be reported")
    transport_id = encode(entry.transport_id)
    flags = (_ALL_TG_PT if entry.all_target_ports else 0) | (_R_HOLDER if entry.holder else 0)
    scope_type = entry.scope << 4 | entry.type
    head = (entry.key, flags, scope_type, entry.relative_target_port, len(transport_id))
    return _DESCRIPTOR.pack(*head) + transport_id


def _header(data: bytes) -> tuple[int, bytes, int] | None:
    """Return PRGENERATION, the bytes that ADDITIONAL LENGTH covers, and how many lack."""
    if len(data) < _HEADER.size:
        return None
    generation, length = _HEADER.unpack_from(data)
    body = data[_HEADER.size : _HEADER.size + length]
    return generation, body, length - len(body)


def parse_keys(data: bytes) -> Keys | None:
    """Read a READ KEYS payload, whole or cut; None if not even the header came."""
    header = _header(data)
    if header is None:
        return None
    generation, body, missing = header
    count = len(body) // 8
    return Keys(generation, struct.unpack_from(f">{count}Q", body), missing)


def parse_reservation(data: bytes) -> ReservationReport | None:
    """Read a READ RESERVATION payload, whole or cut; None if not even the header came."""
    header = _header(data)
    if header is None:
        return None
    generation, body, missing = header
    if len(body) < 14:  # up to SCOPE and TYPE; what follows is obsolete
        return ReservationReport(generation, None, missing)
    held = HeldReservation(int.from_bytes(body[:8], "big"), body[13] & 0x0F, body[13] >> 4)
    return ReservationReport(generation, held, missing)


def parse_capabilities(data: bytes) -> Capabilities | None:
    """Read a REPORT CAPABILITIES payload of at least 6 bytes; else None."""
    if len(data) < 6:
        return None
    flags, more = data[2], data[3]
    mask = int.from_bytes(data[4:6], "little")
    return Capabilities(
        replace_lost=bool(flags & _RLR_C),
        compatible_handling=bool(flags & _CRH),
        specify_initiator_ports=bool(flags & _SIP_C),
        all_target_ports=bool(flags & _ATP_C),
        persist_capable=bool(flags & _PTPL_C),
        persist_active=bool(more & _PTPL_A),
        allow_commands=more >> 4 & 0x07,
        types=frozenset(n for n in range(16) if mask >> n & 1) if more & _TMV else None,
    )


def parse_full_status(data: bytes) -> FullStatusReport | None:
    """Read a READ FULL STATUS payload, whole or cut; None if not even the header came."""
    header = _header(data)
    if header is None:
        return None
    generation, body, missing = header
    entries: list[FullStatus] = []
    offset = 0
    while offset + _DESCRIPTOR.size <= len(body):
        key, flags, scope_type, port, length = _DESCRIPTOR.unpack_from(body, offset)
        start = offset + _DESCRIPTOR.size
        offset = start + length
        if offset > len(body):
            break
        found = parse_transport_id(body[start:offset])
        entries.append(
            FullStatus(
                key=key,
                transport_id=None if isinstance(found, TransportIdFault) else found,
                relative_target_port=port,
                holder=bool(flags & _R_HOLDER),
                type=scope_type & 0x0F,
                scope=scope_type >> 4,
                all_target_ports=bool(flags & _ALL_TG_PT),
            )
        )
    return FullStatusReport(generation, tuple(entries), missing)
