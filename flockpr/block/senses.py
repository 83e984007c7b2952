"""Sense data that only a block device has (SBC-3, SPC-4 4.5), as values and as bytes.

The INFORMATION field says where: the LBA of a medium error, the offset of the first byte
that differs of a miscompare.
"""

from __future__ import annotations

from typing import Final

import attrs

from flockpr.spc.sense import DATA_PROTECT, ILLEGAL_REQUEST, NOT_READY, UNIT_ATTENTION, Sense

MEDIUM_ERROR: Final = 0x03
MISCOMPARE_KEY: Final = 0x0E

NO_SENSE: Final = Sense(0x00, 0x00, 0x00)
NO_MEDIUM: Final = Sense(NOT_READY, 0x3A, 0x00)
READ_ERROR: Final = Sense(MEDIUM_ERROR, 0x11, 0x00)
WRITE_ERROR: Final = Sense(MEDIUM_ERROR, 0x0C, 0x00)
SANITIZE_FAILED: Final = Sense(MEDIUM_ERROR, 0x31, 0x03)
LBA_OUT_OF_RANGE: Final = Sense(ILLEGAL_REQUEST, 0x21, 0x00)
SAVING_NOT_SUPPORTED: Final = Sense(ILLEGAL_REQUEST, 0x39, 0x00)
REMOVAL_PREVENTED: Final = Sense(ILLEGAL_REQUEST, 0x53, 0x02)
WRITE_PROTECTED: Final = Sense(DATA_PROTECT, 0x27, 0x00)
SOFTWARE_WRITE_PROTECTED: Final = Sense(DATA_PROTECT, 0x27, 0x02)
SPACE_ALLOCATION_FAILED: Final = Sense(DATA_PROTECT, 0x27, 0x07)
MISCOMPARE: Final = Sense(MISCOMPARE_KEY, 0x1D, 0x00)

BUS_RESET: Final = Sense(UNIT_ATTENTION, 0x29, 0x02)
LOGICAL_UNIT_RESET: Final = Sense(UNIT_ATTENTION, 0x29, 0x03)
MEDIUM_MAY_HAVE_CHANGED: Final = Sense(UNIT_ATTENTION, 0x28, 0x00)
MODE_PARAMETERS_CHANGED: Final = Sense(UNIT_ATTENTION, 0x2A, 0x01)
CAPACITY_CHANGED: Final = Sense(UNIT_ATTENTION, 0x2A, 0x09)
REPORTED_LUNS_CHANGED: Final = Sense(UNIT_ATTENTION, 0x3F, 0x0E)

_VALID: Final = 0x80


@attrs.frozen
class Located:
    """A sense with its INFORMATION field.

    Attributes:
        sense: What went wrong.
        information: Where: an LBA, or an offset in bytes; 64 bits.
    """

    sense: Sense
    information: int

    def fixed(self) -> bytes:
        """Fixed format; VALID only when the information fits its 32 bits (SPC-4 4.5.3)."""
        data = self.sense.fixed()
        if self.information > 0xFFFF_FFFF:
            return data
        return bytes((data[0] | _VALID,)) + data[1:3] + _be(self.information, 4) + data[7:]

    def descriptor(self) -> bytes:
        """Descriptor format with an information descriptor (SPC-4 4.5.2.2)."""
        data = self.sense.descriptor()
        more = b"\x00\x0a\x80\x00" + _be(self.information, 8)
        return data[:7] + bytes((data[7] + len(more),)) + more + data[8:]


def _be(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")
