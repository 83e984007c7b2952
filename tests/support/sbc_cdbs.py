"""CDBs of block commands, built for tests from SBC-3's tables; blocks, not bytes."""

from __future__ import annotations

TEST_UNIT_READY = bytes(6)
SYNCHRONIZE_CACHE = bytes((0x35, *bytes(9)))
READ_CAPACITY_10 = bytes((0x25, *bytes(9)))
READ_CAPACITY_16 = bytes((0x9E, 0x10, *bytes(11), 32, 0, 0))

_READ = {6: 0x08, 10: 0x28, 12: 0xA8, 16: 0x88}
_WRITE = {6: 0x0A, 10: 0x2A, 12: 0xAA, 16: 0x8A}
_VERIFY = {10: 0x2F, 12: 0xAF, 16: 0x8F}
_WRITE_AND_VERIFY = {10: 0x2E, 12: 0xAE, 16: 0x8E}


def _blocks(opcode: int, lba: int, count: int, width: int, flags: int = 0) -> bytes:
    """The common layout of the commands that name a range of blocks."""
    if width == 6:
        return bytes((opcode, *lba.to_bytes(3, "big"), count & 0xFF, 0))
    if width == 10:
        return bytes((opcode, flags, *lba.to_bytes(4, "big"), 0, *count.to_bytes(2, "big"), 0))
    if width == 12:
        return bytes((opcode, flags, *lba.to_bytes(4, "big"), *count.to_bytes(4, "big"), 0, 0))
    return bytes((opcode, flags, *lba.to_bytes(8, "big"), *count.to_bytes(4, "big"), 0, 0))


def read(lba: int, count: int, width: int = 10, *, flags: int = 0) -> bytes:
    """READ."""
    return _blocks(_READ[width], lba, count, width, flags)


def write(lba: int, count: int, width: int = 10, *, fua: bool = False, flags: int = 0) -> bytes:
    """WRITE."""
    return _blocks(_WRITE[width], lba, count, width, flags | fua << 3)


def write_and_verify(lba: int, count: int, width: int = 10, *, flags: int = 0) -> bytes:
    """WRITE AND VERIFY."""
    return _blocks(_WRITE_AND_VERIFY[width], lba, count, width, flags)


def verify(lba: int, count: int, width: int = 10, *, flags: int = 0) -> bytes:
    """VERIFY; flags 02h compares with data."""
    return _blocks(_VERIFY[width], lba, count, width, flags)


def write_same(lba: int, count: int, width: int = 10, *, flags: int = 0) -> bytes:
    """WRITE SAME; flags 08h unmaps."""
    return _blocks({10: 0x41, 16: 0x93}[width], lba, count, width, flags)


def compare_and_write(lba: int, count: int) -> bytes:
    """COMPARE AND WRITE of at most 255 blocks; twice as many travel."""
    return bytes((0x89, 0, *lba.to_bytes(8, "big"), 0, 0, 0, count, 0, 0))


def synchronize_cache(lba: int = 0, count: int = 0, width: int = 10) -> bytes:
    """SYNCHRONIZE CACHE; no blocks means all of them."""
    return _blocks({10: 0x35, 16: 0x91}[width], lba, count, width)


def unmap(*ranges: tuple[int, int]) -> tuple[bytes, bytes]:
    """UNMAP of these ranges, (first block, blocks): the CDB and its list."""
    body = b"".join(lba.to_bytes(8, "big") + n.to_bytes(4, "big") + bytes(4) for lba, n in ranges)
    head = (len(body) + 6).to_bytes(2, "big") + len(body).to_bytes(2, "big") + bytes(4)
    data = head + body
    return bytes((0x42, *bytes(6), *len(data).to_bytes(2, "big"), 0)), data


def inquiry(page: int | None = None, length: int = 255) -> bytes:
    """INQUIRY, of the standard data or of a page of vital product data."""
    return bytes((0x12, page is not None, page or 0, *length.to_bytes(2, "big"), 0))


def mode_sense(page: int, length: int = 255) -> bytes:
    """MODE SENSE(6)."""
    return bytes((0x1A, 0, page, 0, length, 0))


def request_sense(length: int = 252) -> bytes:
    """REQUEST SENSE, fixed format."""
    return bytes((0x03, 0, 0, 0, length, 0))


def report_luns(length: int = 4096) -> bytes:
    """REPORT LUNS of all that are addressed."""
    return bytes((0xA0, *bytes(5), *length.to_bytes(4, "big"), 0, 0))


def get_lba_status(lba: int, length: int = 4096) -> bytes:
    """GET LBA STATUS(16)."""
    return bytes((0x9E, 0x12, *lba.to_bytes(8, "big"), *length.to_bytes(4, "big"), 0, 0))
