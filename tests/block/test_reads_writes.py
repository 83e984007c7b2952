"""READ and WRITE in all their forms, and what their CDBs are refused for."""

from __future__ import annotations

import pathlib

import pytest

from flockpr.block import MAX_TRANSFER, Direction, transfer_of
from flockpr.spc.codes import Status
from tests.support import sbc_cdbs as cdbs
from tests.support.disks import BLOCK, Rig, rigs

OUT_OF_RANGE = (5, 0x21, 0)
INVALID_FIELD = (5, 0x24, 0)
LAST = 2048


def blocks(count: int, first: int = 1) -> bytes:
    """Blocks that differ from each other."""
    return b"".join(bytes((first + index & 0xFF,)) * BLOCK for index in range(count))


@pytest.mark.parametrize("width", [6, 10, 12, 16])
def test_write_then_read_every_width_gives_the_same_back(rig: Rig, width: int) -> None:
    """SBC-3 5.10, 5.35: what was written is read, and lies at its place in the image."""
    rig.good(cdbs.write(7, 5, width), blocks(5))
    assert rig.good(cdbs.read(6, 7, width)) == bytes(BLOCK) + blocks(5) + bytes(BLOCK)
    assert rig.content(7, 5) == blocks(5)


def test_read_6_of_zero_blocks_reads_256(rig: Rig) -> None:
    """SBC-3 5.9: TRANSFER LENGTH 0 of READ(6) and WRITE(6) means 256 blocks."""
    rig.good(cdbs.write(3, 256, 6), blocks(256))
    assert cdbs.read(3, 256, 6)[4] == 0
    assert rig.good(cdbs.read(3, 256, 6)) == blocks(256)


@pytest.mark.parametrize("width", [10, 12, 16])
@pytest.mark.parametrize("make", [cdbs.read, cdbs.write, cdbs.verify, cdbs.write_and_verify])
def test_zero_blocks_anywhere_on_the_medium_is_good_without_effect(
    rig: Rig, width: int, make: object
) -> None:
    """SBC-3 4.5: no blocks are no error, also right behind the last one, but not further."""
    assert callable(make)
    for lba in (0, LAST - 1, LAST):
        assert rig.good(make(lba, 0, width)) == b""
    assert rig.code(make(LAST + 1, 0, width)) == OUT_OF_RANGE


@pytest.mark.parametrize("width", [10, 12, 16])
@pytest.mark.parametrize("make", [cdbs.read, cdbs.write, cdbs.verify, cdbs.write_and_verify])
def test_range_beyond_the_end_is_refused_and_nothing_is_done(
    rig: Rig, width: int, make: object
) -> None:
    """SBC-3 4.5: 05/21/00 if any block is beyond the medium, and none is touched."""
    assert callable(make)
    far = (1 << 32) - 1 if width < 16 else (1 << 64) - 1
    for lba, count in ((LAST, 1), (LAST - 1, 2), (far, 1), (far, 2), (far - 1, 3), (1 << 31, 1)):
        data = blocks(count) if make is not cdbs.read else b""
        assert rig.code(make(lba, count, width), data) == OUT_OF_RANGE
    assert rig.content(LAST - 1, 2) == bytes(BLOCK)


def test_range_beyond_the_end_names_the_lba(rig: Rig) -> None:
    """SPC-4 4.5.3: VALID and INFORMATION with 05/21/00, for as far as 32 bits go."""
    sense = rig.run(cdbs.read(LAST + 5, 1)).sense
    assert sense[0] == 0xF0
    assert sense[3:7] == (LAST + 5).to_bytes(4, "big")
    assert rig.run(cdbs.read(1 << 40, 1, 16)).sense[0] == 0x70


@pytest.mark.parametrize("width", [10, 12, 16])
@pytest.mark.parametrize("make", [cdbs.read, cdbs.write, cdbs.verify, cdbs.write_and_verify])
def test_protection_fields_are_refused_without_protection_information(
    rig: Rig, width: int, make: object
) -> None:
    """SBC-3 4.21: RDPROTECT, WRPROTECT, VRPROTECT other than 000b are 05/24/00."""
    assert callable(make)
    for value in range(1, 8):
        cdb = bytearray(make(0, 1, width))
        cdb[1] |= value << 5
        answer = rig.run(bytes(cdb), bytes(BLOCK))
        assert answer.code == INVALID_FIELD
        assert answer.sense[15:18] == bytes((0xCF, 0, 1))


@pytest.mark.parametrize("width", [12, 16])
def test_transfer_beyond_the_maximum_is_refused_and_asks_for_no_data(
    tmp_path: pathlib.Path, width: int
) -> None:
    """SBC-3 6.6.4: more than MAXIMUM TRANSFER LENGTH is 05/24/00, and moves nothing."""
    most = MAX_TRANSFER // BLOCK
    for rig in rigs(tmp_path, blocks=4 * most):
        rig.good(cdbs.write(0, most, width), bytes(MAX_TRANSFER))
        assert rig.good(cdbs.read(0, most, width)) == bytes(MAX_TRANSFER)
        for make in (cdbs.write, cdbs.read, cdbs.verify, cdbs.write_and_verify):
            assert transfer_of(make(0, most + 1, width)).length == 0
            assert rig.code(make(0, most + 1, width)) == INVALID_FIELD


@pytest.mark.parametrize(
    ("cdb", "direction", "length"),
    [
        (cdbs.read(0, 3), Direction.IN, 3 * BLOCK),
        (cdbs.write(0, 3), Direction.OUT, 3 * BLOCK),
        (cdbs.write(0, 0, 6), Direction.OUT, 256 * BLOCK),
        (cdbs.verify(0, 3), Direction.OUT, 0),
        (cdbs.verify(0, 3, flags=2), Direction.OUT, 3 * BLOCK),
        (cdbs.verify(0, 3, flags=6), Direction.OUT, BLOCK),
        (cdbs.write_and_verify(0, 3), Direction.OUT, 3 * BLOCK),
        (cdbs.write_same(0, 100), Direction.OUT, BLOCK),
        (cdbs.write_same(0, 100, 16, flags=1), Direction.OUT, 0),
        (cdbs.compare_and_write(0, 4), Direction.OUT, 8 * BLOCK),
        (cdbs.unmap((0, 1), (2, 3))[0], Direction.OUT, 40),
        (cdbs.TEST_UNIT_READY, Direction.NONE, 0),
        (cdbs.inquiry(length=300), Direction.IN, 300),
        (bytes((0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0)), Direction.OUT, 24),
        (b"", Direction.NONE, 0),
        (b"\x2a", Direction.NONE, 0),
        (b"\x9e", Direction.NONE, 0),
        (b"\xff" * 16, Direction.NONE, 0),
    ],
)
def test_transfer_of_a_cdb_says_what_it_moves(
    cdb: bytes, direction: Direction, length: int
) -> None:
    """What a CDB moves is known from its bytes alone; any bytes have an answer."""
    assert (transfer_of(cdb).direction, transfer_of(cdb).length) == (direction, length)


def test_short_data_writes_whole_blocks_only(rig: Rig) -> None:
    """RFC 7143 11.4.5.2: what the initiator did not bring is not written, nor half a block."""
    rig.good(cdbs.write(0, 4), b"x" * (2 * BLOCK + 100))
    assert rig.content(0, 4) == b"x" * 2 * BLOCK + bytes(2 * BLOCK)
    rig.good(cdbs.write(8, 1), b"")
    rig.good(cdbs.write(8, 1), b"y" * 200)
    assert rig.content(8, 1) == bytes(BLOCK)


def test_more_data_than_asked_for_is_left(rig: Rig) -> None:
    """SBC-3 5.35: TRANSFER LENGTH says how much is written, not how much came."""
    rig.good(cdbs.write(0, 1), b"x" * 3 * BLOCK)
    assert rig.content(0, 2) == b"x" * BLOCK + bytes(BLOCK)


def test_write_from_any_memory_is_as_from_aligned_memory(rig: Rig) -> None:
    """Direct I/O refuses memory that is not aligned; the initiator never hears of it."""
    data = blocks(1100)
    odd = memoryview(bytearray(b"." + data))[1:]
    reply = rig.disk.execute(rig.session, cdbs.write(5, 1100), odd)
    assert reply.status is Status.GOOD
    assert rig.content(5, 1100) == data


def test_write_with_fua_is_durable_and_without_it_is_not(rig: Rig) -> None:
    """SBC-3 5.35: FUA=1 is answered when the data are on the medium."""
    rig.good(cdbs.write(0, 1), bytes(BLOCK))
    assert not any("dsync" in name for name in rig.calls.names())
    for width in (10, 12, 16):
        rig.good(cdbs.write(0, 1, width, fua=True), bytes(BLOCK))
        assert rig.calls.names()[-1] == "pwritev+dsync"
    rig.good(cdbs.write(0x80000 & 0x1F, 1, 6), bytes(BLOCK))
    assert not any("dsync" in name for name in rig.calls.names())


@pytest.mark.parametrize("width", [10, 16])
def test_synchronize_cache_waits_for_the_storage(rig: Rig, width: int) -> None:
    """SBC-3 5.27: GOOD only after fdatasync, with IMMED too; beyond the end 05/21/00."""
    rig.good(cdbs.synchronize_cache(0, 0, width))
    assert rig.calls.names() == ["fdatasync"]
    immediate = bytearray(cdbs.synchronize_cache(5, 10, width))
    immediate[1] |= 2
    rig.good(bytes(immediate))
    assert rig.calls.names() == ["fdatasync"]
    assert rig.code(cdbs.synchronize_cache(LAST, 1, width)) == OUT_OF_RANGE


@pytest.mark.parametrize("opcode", [0x34, 0x90])
def test_prefetch_checks_its_range_and_reads_nothing(rig: Rig, opcode: int) -> None:
    """SBC-3 5.8: GOOD, because nothing is cached; CONDITION MET would promise that."""
    width = {0x34: 10, 0x90: 16}[opcode]
    cdb = bytearray(cdbs.read(0, 256, width))
    cdb[0] = opcode
    rig.good(bytes(cdb))
    cdb[1] = 2
    rig.good(bytes(cdb))
    assert rig.calls.names() == []
    beyond = bytearray(cdbs.read(LAST - 1, 2, width))
    beyond[0] = opcode
    assert rig.code(bytes(beyond)) == OUT_OF_RANGE


def test_reads_cut_short_by_the_kernel_are_completed(rig: Rig) -> None:
    """A system call may move less than it was asked for; a command may not."""
    rig.calls.most = 4096
    rig.good(cdbs.write(0, 64), blocks(64))
    assert rig.good(cdbs.read(0, 64)) == blocks(64)


@pytest.mark.parametrize("cdb", [b"", b"\xff", b"\x29" * 10, b"\x9d\x10" + bytes(14)])
def test_unknown_operation_code_is_refused(rig: Rig, cdb: bytes) -> None:
    """SPC-4 4.3.2: an operation code that is not implemented is 05/20/00."""
    assert rig.code(cdb) == (5, 0x20, 0)


def test_unknown_service_action_is_refused_with_a_pointer(rig: Rig) -> None:
    """SPC-4 4.3.4.2: a service action that is not implemented is 05/24/00."""
    answer = rig.run(bytes((0x9E, 0x1F, *bytes(14))))
    assert answer.code == INVALID_FIELD
    assert answer.sense[15:18] == bytes((0xCC, 0, 1))


def test_cdb_cut_short_is_refused(rig: Rig) -> None:
    """SPC-4 4.3.1: a CDB that ends before its fields is 05/24/00, whatever the command."""
    for cdb in (cdbs.read(0, 1), cdbs.write(0, 1, 16), cdbs.inquiry(), bytes(6)):
        for end in range(1, len(cdb)):
            assert rig.code(cdb[:end])[0] == 5


def test_naca_is_refused(rig: Rig) -> None:
    """SAM-5 5.6: ACA is not supported (NORMACA=0), so NACA=1 is 05/24/00."""
    for cdb in (cdbs.read(0, 1), cdbs.write(0, 1, 16), cdbs.inquiry(), bytes(6)):
        changed = bytearray(cdb)
        changed[-1] |= 4
        assert rig.code(bytes(changed)) == INVALID_FIELD
