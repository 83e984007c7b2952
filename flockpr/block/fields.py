"""Where block commands keep their fields (SBC-3 5): decoders, one for each form of CDB."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final, TypeAlias

Extent: TypeAlias = Callable[[bytes], tuple[int, int]]
"""CDB to first LBA and number of blocks."""

_TEN: Final = Struct(">2xIxH").unpack_from
_TWELVE: Final = Struct(">2xII").unpack_from
_SIXTEEN: Final = Struct(">2xQI").unpack_from


def extent_6(cdb: bytes) -> tuple[int, int]:
    """READ(6) and its like: 21 bits of LBA, and 0 blocks are 256."""
    return (cdb[1] & 0x1F) << 16 | cdb[2] << 8 | cdb[3], cdb[4] or 256


def extent_10(cdb: bytes) -> tuple[int, int]:
    """The 10-byte form."""
    lba, blocks = _TEN(cdb)
    return lba, blocks


def extent_12(cdb: bytes) -> tuple[int, int]:
    """The 12-byte form."""
    lba, blocks = _TWELVE(cdb)
    return lba, blocks


def extent_16(cdb: bytes) -> tuple[int, int]:
    """The 16-byte form."""
    lba, blocks = _SIXTEEN(cdb)
    return lba, blocks


def extent_compare_and_write(cdb: bytes) -> tuple[int, int]:
    """COMPARE AND WRITE: 8 bits of length (SBC-3 5.2)."""
    return int.from_bytes(cdb[2:10], "big"), cdb[13]


def extent_16_one(cdb: bytes) -> tuple[int, int]:
    """A 16-byte CDB with an LBA alone: the range is that block (GET LBA STATUS)."""
    return int.from_bytes(cdb[2:10], "big"), 1


def number(first: int, size: int) -> Callable[[bytes], int]:
    """A decoder of a field of `size` bytes at byte `first`."""
    end = first + size

    def read(cdb: bytes) -> int:
        return int.from_bytes(cdb[first:end], "big")

    return read
