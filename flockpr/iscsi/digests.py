"""CRC32C header and data digests (RFC 7143 13.1 and 11.1).

The checksum itself comes from the package `crc32c`, imported when the first connection
negotiates a digest: most never do. It takes any buffer; an alternative that insists on
`bytes` would copy every data segment once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

DIGEST_LENGTH: Final = 4

Buffer = bytes | bytearray | memoryview
Checksum = Callable[[Buffer, int], int]
"""Of the next bytes and the value so far (0 at the start)."""


def load() -> Checksum:
    """The checksum function."""
    import crc32c

    return crc32c.crc32c


def to_bytes(value: int) -> bytes:
    """A digest as it travels: the one field of iSCSI that is little-endian (13.1)."""
    return value.to_bytes(DIGEST_LENGTH, "little")
