"""TransportIDs: how an initiator port is named in parameter lists (SPC-4 7.6.4).

The emulator's own initiator ports have iSCSI names, so `InitiatorPort` is the decoded
form of an iSCSI TransportID. The other protocols decode to values of their own, which are
in `fixed_ids` and loaded with the first of them: a list that holds one is refused by the
state machine, with a pointer to the entry, and not by the parser, which has to step over
it to find the next one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from flockpr._lazy import loader

if TYPE_CHECKING:
    from flockpr.spc.fixed_ids import FibreChannel, ParallelScsi, Sas, Sbp, Sop, Srp, TransportId

__all__ = [
    "MAX_ISID",
    "MAX_NAME_BYTES",
    "MIN_LENGTH",
    "FibreChannel",
    "InitiatorPort",
    "ListedTransportId",
    "ParallelScsi",
    "Sas",
    "Sbp",
    "Sop",
    "Srp",
    "TransportId",
    "TransportIdFault",
    "encode",
    "parse_transport_id",
    "parse_transport_ids",
]

_OTHERS = ("FibreChannel", "ParallelScsi", "Sas", "Sbp", "Sop", "Srp", "TransportId")
__getattr__ = loader(__name__, {"flockpr.spc.fixed_ids": _OTHERS})

MIN_LENGTH = 24
"""Shortest TransportID in bytes; all but the iSCSI ones have exactly this length."""

MAX_NAME_BYTES = 223
MAX_ISID = (1 << 48) - 1

_SEPARATOR = ",i,0x"
_UNFIT = re.compile(r"[\x00-\x20\x7f-\x9f\s]")
_ISID_TEXT = re.compile(r"[0-9a-f]{12}")

_ISCSI = 0x5
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
    from flockpr.spc import fixed_ids

    return fixed_ids.encode(transport_id)


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
    from flockpr.spc import fixed_ids

    fixed = fixed_ids.parse(data[offset : offset + MIN_LENGTH])
    return TransportIdFault(offset) if fixed is None else (fixed, MIN_LENGTH)


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
