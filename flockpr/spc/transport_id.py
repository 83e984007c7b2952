"""TransportIDs: how an initiator port is named in parameter lists (SPC-4 7.6.4).

The emulator's own initiator ports have iSCSI names, so `InitiatorPort` is the decoded
form of an iSCSI TransportID. The other protocols decode to values of their own: a list
that holds one is refused by the state machine, with a pointer to the entry, and not by
the parser, which has to step over it to find the next one.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import attrs

MIN_LENGTH = 24
"""Shortest TransportID in bytes; all but the iSCSI ones have exactly this length."""

MAX_NAME_BYTES = 223
MAX_ISID = (1 << 48) - 1

_SEPARATOR = ",i,0x"
_UNFIT = re.compile(r"[\x00-\x20\x7f-\x9f\s]")
_ISID_TEXT = re.compile(r"[0-9a-f]{12}")

_FIBRE_CHANNEL, _SPI, _SBP, _SRP, _ISCSI, _SAS, _SOP = 0x0, 0x1, 0x3, 0x4, 0x5, 0x6, 0xA
_WITH_ISID = 1  # FORMAT CODE 01b of the iSCSI TransportID


def _lower(name: str) -> str:
    return name.lower()


def _check_name(_port: object, _attribute: object, name: str) -> None:
    size = len(name.encode())  # a lone surrogate raises UnicodeEncodeError, a ValueError
    if not 1 <= size <= MAX_NAME_BYTES:
        raise ValueError(f"initiator name must be 1 to {MAX_NAME_BYTES} bytes, not {size}")
    if _UNFIT.search(name):
        raise ValueError("initiator name must not hold spaces or control characters")
    if _SEPARATOR in name:
        raise ValueError(f"initiator name must not hold {_SEPARATOR!r}")


def _check_isid(_port: object, _attribute: object, isid: int | None) -> None:
    if isid is not None and not 0 <= isid <= MAX_ISID:
        raise ValueError("ISID must have 48 bits")


def _isid_order(isid: int | None) -> int:
    # None and a number do not compare, and both forms of one name may be in one registry.
    return -1 if isid is None else isid


@attrs.frozen(order=True, cache_hash=True)
class InitiatorPort:
    """An initiator port with an iSCSI name: the initiator's half of an I_T nexus.

    Names compare without regard to case, so they are kept in lower case.

    Attributes:
        name: iSCSI name, 1 to 223 bytes of UTF-8 without spaces, control characters or
            the separator ``,i,0x``.
        isid: Initiator session identifier, 48 bits, or None where there is no session.

    Raises:
        ValueError: The name or the ISID breaks these rules.
    """

    name: str = attrs.field(converter=_lower, validator=_check_name)
    isid: int | None = attrs.field(default=None, validator=_check_isid, order=_isid_order)

    @property
    def text(self) -> str:
        """The name, followed by ``,i,0x`` and 12 hex digits if there is an ISID."""
        if self.isid is None:
            return self.name
        return f"{self.name}{_SEPARATOR}{self.isid:012x}"

    @classmethod
    def from_text(cls, text: str) -> InitiatorPort:
        """Read what `text` writes; the case of letters does not matter.

        Raises:
            ValueError: It is no such text.
        """
        name, separator, digits = text.lower().partition(_SEPARATOR)
        if not separator:
            return cls(name)
        if not _ISID_TEXT.fullmatch(digits):
            raise ValueError(f"an ISID is 12 hex digits after {_SEPARATOR!r}")
        return cls(name, int(digits, 16))

    def __str__(self) -> str:
        return self.text


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


TransportId: TypeAlias = InitiatorPort | FibreChannel | ParallelScsi | Sbp | Srp | Sas | Sop


@attrs.frozen
class TransportIdFault:
    """Bytes that are no TransportID.

    Attributes:
        offset: Where the TransportID starts that cannot be read.
        truncated: It goes on beyond the bytes that were given.
    """

    offset: int
    truncated: bool = False


@attrs.frozen
class ListedTransportId:
    """A TransportID of a list and the byte where it starts, for the field pointer."""

    offset: int
    transport_id: TransportId


def encode(transport_id: TransportId) -> bytes:
    """Return the TransportID's bytes; 45h for an initiator port with ISID, 05h without.

    Raises:
        OverflowError: A number does not fit its field.
    """
    if isinstance(transport_id, InitiatorPort):
        return _encode_iscsi(transport_id)
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


def _encode_iscsi(port: InitiatorPort) -> bytes:
    text = port.text.encode() + b"\0"
    # ADDITIONAL LENGTH is at least 20 and a multiple of 4 (SPC-4 7.6.4.6).
    length = max(MIN_LENGTH - 4, -(-len(text) // 4) * 4)
    first = _ISCSI if port.isid is None else _WITH_ISID << 6 | _ISCSI
    return bytes((first, 0)) + length.to_bytes(2, "big") + text.ljust(length, b"\0")


def parse_transport_id(data: bytes, offset: int = 0) -> TransportId | TransportIdFault:
    """Read the TransportID at `offset`; bytes after it are not looked at.

    Args:
        data: Any bytes.
        offset: Where it starts; beyond the end counts as truncated.
    """
    found = _parse(data, offset, len(data))
    return found if isinstance(found, TransportIdFault) else found[0]


def parse_transport_ids(
    data: bytes, offset: int, end: int
) -> tuple[tuple[ListedTransportId, ...], TransportIdFault | None]:
    """Read TransportIDs that lie back to back in ``data[offset:end]``.

    Returns:
        Those that precede the first fault, and that fault; None if there is none.
    """
    listed: list[ListedTransportId] = []
    end = min(end, len(data))
    while offset < end:
        found = _parse(data, offset, end)
        if isinstance(found, TransportIdFault):
            return tuple(listed), found
        listed.append(ListedTransportId(offset, found[0]))
        offset += found[1]
    return tuple(listed), None


def _parse(data: bytes, offset: int, end: int) -> tuple[TransportId, int] | TransportIdFault:
    """Return the TransportID at `offset` and its length in bytes."""
    if end - offset < MIN_LENGTH:
        return TransportIdFault(offset, truncated=True)
    if data[offset] & 0x0F == _ISCSI:
        return _parse_iscsi(data, offset, end)
    fixed = _parse_fixed(data[offset : offset + MIN_LENGTH])
    return TransportIdFault(offset) if fixed is None else (fixed, MIN_LENGTH)


def _parse_fixed(entry: bytes) -> TransportId | None:
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


def _parse_iscsi(data: bytes, offset: int, end: int) -> tuple[TransportId, int] | TransportIdFault:
    """Read an iSCSI TransportID, of which at least 24 bytes are there."""
    additional = data[offset + 2] << 8 | data[offset + 3]
    length = 4 + additional
    if length < MIN_LENGTH or additional % 4:
        return TransportIdFault(offset)
    if offset + length > end:
        return TransportIdFault(offset, truncated=True)
    # The first null ends the whole text: "name\0,i,0x..." (written by an old target) is
    # format 01b without its separator and is refused like any other.
    text, null, _padding = data[offset + 4 : offset + length].partition(b"\0")
    if not null:
        return TransportIdFault(offset)
    try:
        port = InitiatorPort.from_text(text.decode())
    except ValueError:
        return TransportIdFault(offset)
    if data[offset] >> 6 != (0 if port.isid is None else _WITH_ISID):
        return TransportIdFault(offset)
    return port, length


def _number(field: bytes) -> int:
    return int.from_bytes(field, "big")
