"""TransportIDs of the protocols other than iSCSI: 24 bytes each (SPC-4 7.6.4).

No initiator port of the emulator has one, so most programs never need them.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs

from flockpr.spc.transport_id import MIN_LENGTH, InitiatorPort

_SPI, _SBP, _SRP, _SAS, _SOP = 0x1, 0x3, 0x4, 0x6, 0xA


@attrs.frozen
class FibreChannel:
    """Protocol 0h: the worldwide port name, 64 bits."""

    port_name: int


@attrs.frozen
class ParallelScsi:
    """Protocol 1h: SCSI address and relative initiator port identifier, 16 bits each."""

    address: int
    relative_port: int


@attrs.frozen
class Sbp:
    """Protocol 3h (IEEE 1394): EUI-64, 64 bits."""

    eui64: int


@attrs.frozen
class Srp:
    """Protocol 4h (RDMA): initiator port identifier, 128 bits."""

    port_identifier: int


@attrs.frozen
class Sas:
    """Protocol 6h: SAS address, 64 bits."""

    address: int


@attrs.frozen
class Sop:
    """Protocol Ah (SCSI over PCIe): routing identifier, 16 bits."""

    routing_id: int


FixedId: TypeAlias = FibreChannel | ParallelScsi | Sbp | Srp | Sas | Sop
TransportId: TypeAlias = InitiatorPort | FixedId


def encode(transport_id: FixedId) -> bytes:
    """Return the TransportID's bytes.

    Raises:
        OverflowError: A number does not fit its field.
    """
    data = bytearray(MIN_LENGTH)
    match transport_id:
        case FibreChannel(port_name):
            data[8:16] = port_name.to_bytes(8, "big")
        case ParallelScsi(address, relative_port):
            data[0] = _SPI
            data[2:4] = address.to_bytes(2, "big")
            data[6:8] = relative_port.to_bytes(2, "big")
        case Sbp(eui64):
            data[0] = _SBP
            data[8:16] = eui64.to_bytes(8, "big")
        case Srp(identifier):
            data[0] = _SRP
            data[8:24] = identifier.to_bytes(16, "big")
        case Sas(address):
            data[0] = _SAS
            data[4:12] = address.to_bytes(8, "big")
        case Sop(routing_id):
            data[0] = _SOP
            data[2:4] = routing_id.to_bytes(2, "big")
    return bytes(data)


def parse(entry: bytes) -> FixedId | None:
    """Read a TransportID of 24 bytes; None for an unknown format or protocol."""
    if entry[0] >> 6:
        return None  # only format 00b is defined for these protocols
    match entry[0] & 0x0F:
        case 0x0:
            return FibreChannel(_number(entry[8:16]))
        case 0x1:
            return ParallelScsi(_number(entry[2:4]), _number(entry[6:8]))
        case 0x3:
            return Sbp(_number(entry[8:16]))
        case 0x4:
            return Srp(_number(entry[8:24]))
        case 0x6:
            return Sas(_number(entry[4:12]))
        case 0xA:
            return Sop(_number(entry[2:4]))
    return None


def _number(field: bytes) -> int:
    return int.from_bytes(field, "big")
