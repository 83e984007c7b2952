"""INQUIRY: standard data and vital product data (SPC-4 6.6, 7.8; SBC-3 6.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from flockpr.block.reply import ScsiReply, good
from flockpr.spc.sense import Sense, cdb_field
from flockpr.store.identity import LunIdentity

VENDOR: Final = b"FLOCKPR "
PRODUCT: Final = b"VIRTUAL-DISK    "
REVISION: Final = b"0001"

NO_UNIT: Final = 0x7F
"""PERIPHERAL QUALIFIER 3 and type 1Fh: the target supports no logical unit there."""

VERSIONS: Final = (0x00A0, 0x0960, 0x0460, 0x04C0)
"""Version descriptors: SAM-5, iSCSI, SPC-4, SBC-3 (SPC-4 6.6.3)."""

PORT_GROUP: Final = 1
"""The one target port group that all ports are in: all are as good as each other."""
_PROTOCOL_ISCSI: Final = 0x50
_PIV: Final = 0x80
_OF_UNIT, _OF_PORT, _OF_TARGET = 0x00, 0x10, 0x20
_VENDOR_TYPE, _NAA, _RELATIVE_PORT, _PORT_GROUP_TYPE, _NAME_STRING = 1, 3, 4, 5, 8
_BINARY, _ASCII, _UTF8 = 1, 2, 3


@attrs.frozen
class Limits:
    """What one command may ask for (SBC-3 6.6.4), in blocks.

    Attributes:
        transfer: MAXIMUM TRANSFER LENGTH.
        compare_and_write: MAXIMUM COMPARE AND WRITE LENGTH.
        unmap: MAXIMUM UNMAP LBA COUNT, of all descriptors together.
        unmap_descriptors: MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT.
        write_same: MAXIMUM WRITE SAME LENGTH.
    """

    transfer: int = 8192
    compare_and_write: int = 255
    unmap: int = 262144
    unmap_descriptors: int = 256
    write_same: int = 32768


LIMITS: Final = Limits()


@attrs.frozen
class Face:
    """What a logical unit looks like through one target port.

    Attributes:
        identity: Of the logical unit.
        removable: RMB.
        physical_exponent: LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT.
        target_name: The target's iSCSI name; empty if it has none.
        target_port: Relative target port identifier.
    """

    identity: LunIdentity
    removable: bool = False
    physical_exponent: int = 3
    target_name: str = ""
    target_port: int = 1


def inquiry(cdb: bytes, face: Face) -> ScsiReply | Sense:
    """Answer INQUIRY for a logical unit that exists."""
    evpd, code, length = cdb[1] & 1, cdb[2], int.from_bytes(cdb[3:5], "big")
    if cdb[1] & 2:  # CMDDT: obsolete, and something else was meant
        return cdb_field(1, 1)
    if not evpd:
        return cdb_field(2) if code else good(standard(0, removable=face.removable), length)
    page = PAGES.get(code)
    if page is None:
        return cdb_field(2)
    body = page(face)
    return good(bytes((0, code)) + len(body).to_bytes(2, "big") + body, length)


def standard(peripheral: int, *, removable: bool = False) -> bytes:
    """Standard INQUIRY data, 96 bytes.

    Args:
        peripheral: Byte 0: qualifier and type.
        removable: RMB.
    """
    data = bytearray(96)
    data[0] = peripheral
    data[1] = 0x80 if removable else 0
    data[2] = 0x06  # SPC-4
    data[3] = 0x12  # HISUP; RESPONSE DATA FORMAT 2
    data[4] = len(data) - 5
    data[5] = 0x10  # TPGS 01b: implicit asymmetric access, so REPORT TARGET PORT GROUPS
    data[6] = 0x10  # MULTIP
    data[7] = 0x02  # CMDQUE
    data[8:16], data[16:32], data[32:36] = VENDOR, PRODUCT, REVISION
    for index, version in enumerate(VERSIONS):
        data[58 + 2 * index : 60 + 2 * index] = version.to_bytes(2, "big")
    return bytes(data)


def _supported(_face: Face) -> bytes:
    return bytes(sorted(PAGES))


def _serial(face: Face) -> bytes:
    return face.identity.serial.encode()


def _identification(face: Face) -> bytes:
    """Page 83h: the logical unit, the port that it is seen through, the target."""
    identity = face.identity
    port = face.target_port.to_bytes(2, "big")
    vendor = (VENDOR + identity.serial.encode())[:252]
    found = [
        _designator(_OF_UNIT | _NAA, _BINARY, bytes.fromhex(identity.naa.removeprefix("naa."))),
        _designator(_OF_UNIT | _VENDOR_TYPE, _ASCII, vendor),
        _designator(_OF_PORT | _RELATIVE_PORT, _BINARY, bytes(2) + port),
        _designator(_OF_PORT | _PORT_GROUP_TYPE, _BINARY, bytes(2) + PORT_GROUP.to_bytes(2, "big")),
    ]
    if face.target_name:
        name = f"{face.target_name},t,0x{face.target_port:04x}"
        found.append(_designator(_OF_PORT | _NAME_STRING, _UTF8, _string(name)))
        found.append(_designator(_OF_TARGET | _NAME_STRING, _UTF8, _string(face.target_name)))
    return b"".join(found)


def _designator(kind: int, code_set: int, value: bytes) -> bytes:
    """A designation descriptor (SPC-4 7.8.6.1); of ports and targets also their protocol."""
    protocol = _PROTOCOL_ISCSI if kind & 0x30 else 0
    piv = _PIV if kind & 0x30 else 0
    return bytes((protocol | code_set, piv | kind, 0, len(value))) + value


def _string(text: str) -> bytes:
    """A SCSI name string: UTF-8, NUL, padded to a multiple of four (SPC-4 7.8.6.11)."""
    data = text.encode()[:251] + b"\0"
    return data + bytes(-len(data) % 4)


def _extended(_face: Face) -> bytes:
    """Page 86h: no protection information; task attributes; a volatile cache."""
    return bytes((0, 0x07, 0x01)).ljust(60, b"\0")


def _block_limits(face: Face) -> bytes:
    """Page B0h (SBC-3 6.6.4); WSNZ=0: WRITE SAME of 0 blocks goes to the end, if that is not
    further than its limit.
    """
    physical = 1 << face.physical_exponent
    data = bytearray(60)
    data[1] = LIMITS.compare_and_write
    data[2:4] = physical.to_bytes(2, "big")
    data[4:8] = LIMITS.transfer.to_bytes(4, "big")
    data[16:20] = LIMITS.unmap.to_bytes(4, "big")
    data[20:24] = LIMITS.unmap_descriptors.to_bytes(4, "big")
    data[24:28] = physical.to_bytes(4, "big")
    data[28:32] = (0x8000_0000).to_bytes(4, "big")  # UGAVALID, aligned at LBA 0
    data[32:40] = LIMITS.write_same.to_bytes(8, "big")
    return bytes(data)


def _characteristics(_face: Face) -> bytes:
    """Page B1h: does not rotate; after a block erase reads succeed (WABEREQ 01b)."""
    return bytes((0x00, 0x01, 0x00, 0x40)).ljust(60, b"\0")


def _provisioning(_face: Face) -> bytes:
    """Page B2h: LBPU, LBPWS, LBPWS10, LBPRZ=001b; thin provisioned."""
    return bytes((0, 0xE4, 0x02, 0))


PAGES: Final[dict[int, Callable[[Face], bytes]]] = {
    0x00: _supported,
    0x80: _serial,
    0x83: _identification,
    0x86: _extended,
    0xB0: _block_limits,
    0xB1: _characteristics,
    0xB2: _provisioning,
}
