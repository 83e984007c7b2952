"""Sense data: what CHECK CONDITION says (SPC-4 4.5; reference values of 7.5).

A `Sense` is a value; how it looks on the wire is decided where it leaves, because the
format depends on the Control mode page (or the DESC bit), not on what went wrong.
"""

from __future__ import annotations

import attrs

from flockpr.spc.codes import Attention

NOT_READY = 0x02
HARDWARE_ERROR = 0x04
ILLEGAL_REQUEST = 0x05
UNIT_ATTENTION = 0x06
DATA_PROTECT = 0x07
ABORTED_COMMAND = 0x0B

FIXED_LENGTH = 18
"""Bytes of fixed format sense data."""

_SKSV, _CD, _BPV = 0x80, 0x40, 0x08


@attrs.frozen
class FieldPointer:
    """Where the field in error is (SPC-4 4.5.2.4.2).

    Attributes:
        in_cdb: True for the CDB, False for the parameter list.
        byte: Index of the field's first byte, from 0.
        bit: Leftmost bit of the field (7 is the most significant), or None when only
            the byte is meant.
    """

    in_cdb: bool
    byte: int
    bit: int | None = None


@attrs.frozen
class Sense:
    """Sense key, additional sense code and qualifier, and the field in error if known.

    Attributes:
        key: Sense key, 4 bits.
        asc: ADDITIONAL SENSE CODE, 8 bits.
        ascq: ADDITIONAL SENSE CODE QUALIFIER, 8 bits.
        pointer: The field in error; only with ILLEGAL REQUEST.
    """

    key: int
    asc: int
    ascq: int
    pointer: FieldPointer | None = None

    def fixed(self) -> bytes:
        """Return fixed format sense data for a current error: 18 bytes, 70h first."""
        head = bytes((0x70, 0, self.key, 0, 0, 0, 0, FIXED_LENGTH - 8, 0, 0, 0, 0))
        return head + bytes((self.asc, self.ascq, 0)) + self._specific()

    def descriptor(self) -> bytes:
        """Return descriptor format sense data, 72h first: 8 bytes, or 16 with a pointer."""
        specific = self._specific()
        if not specific[0]:
            return bytes((0x72, self.key, self.asc, self.ascq, 0, 0, 0, 0))
        head = bytes((0x72, self.key, self.asc, self.ascq, 0, 0, 0, 8))
        return head + b"\x02\x06\x00\x00" + specific + b"\x00"

    def _specific(self) -> bytes:
        """Return the three SENSE KEY SPECIFIC bytes; zeros when there is no pointer."""
        pointer = self.pointer
        # A field beyond byte 65535 of a long list cannot be pointed at with 16 bits, and a
        # pointer cut to 16 bits would name an innocent field.
        if pointer is None or pointer.byte > 0xFFFF:
            return bytes(3)
        flags = _SKSV | (_CD if pointer.in_cdb else 0)
        if pointer.bit is not None:
            flags |= _BPV | pointer.bit
        return bytes((flags, pointer.byte >> 8, pointer.byte & 0xFF))

    def __str__(self) -> str:
        return f"{self.key:02X}/{self.asc:02X}/{self.ascq:02X}"


INVALID_OPCODE = Sense(ILLEGAL_REQUEST, 0x20, 0x00)
INVALID_FIELD_IN_CDB = Sense(ILLEGAL_REQUEST, 0x24, 0x00)
LUN_NOT_SUPPORTED = Sense(ILLEGAL_REQUEST, 0x25, 0x00)
INVALID_FIELD_IN_PARAMETER_LIST = Sense(ILLEGAL_REQUEST, 0x26, 0x00)
INVALID_RELEASE = Sense(ILLEGAL_REQUEST, 0x26, 0x04)
PARAMETER_LIST_LENGTH_ERROR = Sense(ILLEGAL_REQUEST, 0x1A, 0x00)
INSUFFICIENT_REGISTRATION_RESOURCES = Sense(ILLEGAL_REQUEST, 0x55, 0x04)
RESERVATION_INFORMATION_LOST = Sense(DATA_PROTECT, 0x44, 0x01)
NOT_READY_BECOMING = Sense(NOT_READY, 0x04, 0x01)
NOT_READY_INTERVENTION = Sense(NOT_READY, 0x04, 0x03)
IO_PROCESS_TERMINATED = Sense(ABORTED_COMMAND, 0x00, 0x06)
COMMUNICATION_FAILURE = Sense(ABORTED_COMMAND, 0x08, 0x00)
OUTCOME_UNKNOWN = Sense(ABORTED_COMMAND, 0x08, 0x01)
INTERNAL_TARGET_FAILURE = Sense(HARDWARE_ERROR, 0x44, 0x00)


def cdb_field(byte: int, bit: int | None = None) -> Sense:
    """Return INVALID FIELD IN CDB with a pointer to that byte (and bit) of the CDB."""
    return attrs.evolve(INVALID_FIELD_IN_CDB, pointer=FieldPointer(True, byte, bit))


def list_field(byte: int, bit: int | None = None) -> Sense:
    """Return INVALID FIELD IN PARAMETER LIST with a pointer into the parameter list."""
    return attrs.evolve(INVALID_FIELD_IN_PARAMETER_LIST, pointer=FieldPointer(False, byte, bit))


INVALID_SERVICE_ACTION = cdb_field(1, 4)
INVALID_SCOPE = cdb_field(2, 7)
INVALID_TYPE = cdb_field(2, 3)
INVALID_SPEC_I_PT = list_field(20, 3)
INVALID_ALL_TG_PT = list_field(20, 2)
INVALID_SERVICE_ACTION_RESERVATION_KEY = list_field(8, 7)
INVALID_RELATIVE_TARGET_PORT = list_field(18)

_ATTENTIONS = {code: Sense(UNIT_ATTENTION, code >> 8, code & 0xFF) for code in Attention}


def attention(code: Attention) -> Sense:
    """Return the sense that reports a unit attention condition: 06/ASC/ASCQ."""
    return _ATTENTIONS[code]


def parse_sense(data: bytes) -> Sense | None:
    """Read sense data of a current error, fixed (70h) or descriptor (72h) format.

    Args:
        data: Any bytes; cut sense data and bytes after it are fine.

    Returns:
        The sense, with its field pointer if it has one, or None when `data` is neither
        format or ends before the additional sense codes.
    """
    response = data[0] & 0x7F if data else 0
    data = data[: 8 + data[7]] if len(data) > 7 else data  # ADDITIONAL SENSE LENGTH
    if response == 0x70 and len(data) >= 14:
        key, codes, specific = data[2], data[12:14], data[15:18]
    elif response == 0x72 and len(data) >= 4:
        key, codes, specific = data[1], data[2:4], _specific_descriptor(data)
    else:
        return None
    return Sense(key & 0x0F, codes[0], codes[1], _pointer(key & 0x0F, specific))


def _specific_descriptor(data: bytes) -> bytes:
    """Return the three bytes of the sense key specific descriptor (type 02h), or none."""
    offset = 8
    while offset + 2 <= len(data):
        if data[offset] == 0x02:
            return data[offset + 4 : offset + 7]
        offset += 2 + data[offset + 1]
    return b""


def _pointer(key: int, specific: bytes) -> FieldPointer | None:
    """Read the three SENSE KEY SPECIFIC bytes; with other keys they mean other things."""
    if key != ILLEGAL_REQUEST or len(specific) < 3 or not specific[0] & _SKSV:
        return None
    bit = specific[0] & 0x07 if specific[0] & _BPV else None
    return FieldPointer(bool(specific[0] & _CD), specific[1] << 8 | specific[2], bit)
