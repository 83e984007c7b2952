"""UNMAP, WRITE SAME, GET LBA STATUS, SANITIZE."""

from __future__ import annotations

import errno
import os

import pytest

from flockpr.block.inquiry import LIMITS
from flockpr.spc.codes import Status
from tests.support import sbc_cdbs as cdbs
from tests.support.disks import BLOCK, Rig

OUT_OF_RANGE = (5, 0x21, 0)
INVALID_FIELD = (5, 0x24, 0)
INVALID_LIST = (5, 0x26, 0)
LIST_LENGTH = (5, 0x1A, 0)
LAST = 2048
PAGE = 8
MAPPED, DEALLOCATED = 0, 1


@pytest.fixture(params=[True, False], ids=["holes", "no-holes"])
def holes(request: pytest.FixtureRequest, rig: Rig) -> bool:
    """With and without a file system that has holes."""
    if not request.param:
        rig.calls.errors["punch"] = OSError(errno.EOPNOTSUPP, "no")
    return bool(request.param)


def status(rig: Rig, lba: int, length: int = 4096) -> list[tuple[int, int, int]]:
    """GET LBA STATUS: first LBA, blocks, provisioning status."""
    data = rig.good(cdbs.get_lba_status(lba, length))
    assert len(data) == min(length, 4 + int.from_bytes(data[:4], "big"))
    rest = data[8:]
    return [
        (
            int.from_bytes(rest[at : at + 8], "big"),
            int.from_bytes(rest[at + 8 : at + 12], "big"),
            rest[at + 12],
        )
        for at in range(0, len(rest), 16)
    ]


def test_unmap_makes_zeros_and_nothing_else(rig: Rig, holes: bool) -> None:
    """SBC-3 4.7.3.4: LBPRZ=1: an unmapped block reads as zeros, its neighbours as before."""
    rig.good(cdbs.write(0, 100), b"x" * 100 * BLOCK)
    rig.good(*cdbs.unmap((3, 1), (20, 40), (99, 1)))
    expected = bytearray(b"x" * 100 * BLOCK)
    for first, count in ((3, 1), (20, 40), (99, 1)):
        expected[first * BLOCK : (first + count) * BLOCK] = bytes(count * BLOCK)
    assert rig.good(cdbs.read(0, 100)) == bytes(expected)


def test_unmap_of_nothing_is_good(rig: Rig) -> None:
    """SBC-3 5.28: no list, no descriptor, no blocks: no error, also right behind the end."""
    rig.good(*cdbs.unmap())
    rig.good(bytes((0x42, *bytes(9))))
    rig.good(*cdbs.unmap(*((lba, 0) for lba in range(256))))
    rig.good(*cdbs.unmap((LAST, 0)))
    assert rig.calls.names() == []


def test_unmap_checks_everything_before_it_does_anything(rig: Rig) -> None:
    """SBC-3 5.28: one range beyond the end refuses them all."""
    rig.good(cdbs.write(0, 1), b"x" * BLOCK)
    for lba, count in ((LAST, 1), (LAST - 1, 2), ((1 << 64) - 1, 1), (LAST + 1, 0)):
        assert rig.code(*cdbs.unmap((0, 1), (lba, count))) == OUT_OF_RANGE
    assert rig.content(0, 1) == b"x" * BLOCK


def test_unmap_beyond_its_limits_is_refused(rig: Rig) -> None:
    """SBC-3 6.6.4: more descriptors, or more blocks, than page B0h allows: 05/26/00."""
    count = LIMITS.unmap_descriptors + 1
    assert rig.code(*cdbs.unmap(*((0, 1) for _ in range(count)))) == INVALID_LIST
    many = LIMITS.unmap // LAST + 1
    assert rig.code(*cdbs.unmap(*((0, LAST) for _ in range(many)))) == INVALID_LIST


def test_unmap_list_cut_short_is_a_list_length_error(rig: Rig) -> None:
    """SBC-3 5.28: a list that ends within its header, or before what it announces: 05/1A/00."""
    cdb, data = cdbs.unmap((0, 1), (5, 1))
    for end in range(len(data)):
        assert rig.code(cdb, data[:end]) == LIST_LENGTH
        short = cdb[:7] + end.to_bytes(2, "big") + cdb[9:]
        if end:
            assert rig.code(short, data) == LIST_LENGTH


def test_unmap_ignores_an_incomplete_descriptor(rig: Rig) -> None:
    """SBC-3 5.28.2: what does not make a whole descriptor at the end of the list is ignored."""
    rig.good(cdbs.write(0, 16), b"x" * 16 * BLOCK)
    _, data = cdbs.unmap((0, 1), (8, 1))
    data = data[:2] + (24).to_bytes(2, "big") + data[4:32]
    rig.good(bytes((0x42, *bytes(6), 0, 32, 0)), data)
    assert rig.content(0, 16) == bytes(BLOCK) + b"x" * 15 * BLOCK


def test_unmap_with_anchor_is_refused(rig: Rig) -> None:
    """SBC-3 5.28: ANC_SUP=0, so ANCHOR=1 is 05/24/00."""
    cdb, data = cdbs.unmap((0, 1))
    assert rig.code(cdb[:1] + b"\x01" + cdb[2:], data) == INVALID_FIELD


@pytest.mark.parametrize("width", [10, 16])
@pytest.mark.parametrize("flags", [0, 8])
def test_write_same_repeats_its_block(rig: Rig, width: int, flags: int, holes: bool) -> None:
    """SBC-3 5.45: UNMAP=1 may not deallocate what would read as something else."""
    rig.good(cdbs.write_same(5, 1500, width, flags=flags), b"s" * BLOCK)
    assert rig.content(4, 1502) == bytes(BLOCK) + b"s" * 1500 * BLOCK + bytes(BLOCK)
    assert "punch" not in rig.calls.names()


@pytest.mark.parametrize("width", [10, 16])
def test_write_same_unmap_of_zeros_deallocates(rig: Rig, width: int, holes: bool) -> None:
    """SBC-3 5.45: UNMAP=1 with a block of zeros; where there are no holes, zeros are written."""
    rig.good(cdbs.write(0, 200), b"x" * 200 * BLOCK)
    rig.calls.log.clear()
    rig.good(cdbs.write_same(8, 160, width, flags=8), bytes(BLOCK))
    assert rig.calls.names()[0] == "punch"
    assert rig.good(cdbs.read(7, 162)) == b"x" * BLOCK + bytes(160 * BLOCK) + b"x" * BLOCK


@pytest.mark.parametrize("flags", [1, 9])
def test_write_same_without_data_writes_zeros(rig: Rig, flags: int) -> None:
    """SBC-3 5.45: NDOB=1 of the 16-byte form takes no data and writes zeros."""
    rig.good(cdbs.write(0, 9), b"x" * 9 * BLOCK)
    rig.good(cdbs.write_same(1, 7, 16, flags=flags), b"", expected_out=0)
    assert rig.content(0, 9) == b"x" * BLOCK + bytes(7 * BLOCK) + b"x" * BLOCK


@pytest.mark.parametrize("width", [10, 16])
def test_write_same_of_zero_blocks_goes_to_the_end(rig: Rig, width: int) -> None:
    """SBC-3 5.45: WSNZ=0: NUMBER OF LOGICAL BLOCKS 0 means all up to the last."""
    rig.good(cdbs.write_same(LAST - 5, 0, width), b"s" * BLOCK)
    assert rig.content(LAST - 6, 6) == bytes(BLOCK) + b"s" * 5 * BLOCK
    rig.good(cdbs.write_same(LAST, 0, width), b"t" * BLOCK)
    assert rig.code(cdbs.write_same(LAST + 1, 0, width), bytes(BLOCK)) == OUT_OF_RANGE
    assert rig.path.stat().st_size == LAST * BLOCK


@pytest.mark.parametrize("width", [10, 16])
def test_write_same_unmap_to_the_end_deallocates_whatever_the_block_holds(
    rig: Rig, width: int
) -> None:
    """SBC-3 5.45: UNMAP=1 and 0 blocks: the block is not looked at, as with other targets."""
    rig.good(cdbs.write(LAST - 8, 8), b"x" * 8 * BLOCK)
    rig.good(cdbs.write_same(LAST - 5, 0, width, flags=8), b"s" * BLOCK)
    assert rig.content(LAST - 6, 6) == b"x" * BLOCK + bytes(5 * BLOCK)


@pytest.mark.parametrize("width", [10, 16])
@pytest.mark.parametrize("flags", [0x10, 0x18, 0x20, 0x04, 0x02])
def test_write_same_with_what_is_not_supported_is_refused(rig: Rig, width: int, flags: int) -> None:
    """SBC-3 5.45: ANCHOR, WRPROTECT, and the obsolete LBDATA and PBDATA are 05/24/00."""
    assert rig.code(cdbs.write_same(0, 1, width, flags=flags), bytes(BLOCK)) == INVALID_FIELD


def test_write_same_10_has_no_ndob(rig: Rig) -> None:
    """SBC-3 5.44: byte 1 bit 0 of WRITE SAME(10) is obsolete RELADR: 05/24/00."""
    assert rig.code(cdbs.write_same(0, 1, flags=1), bytes(BLOCK)) == INVALID_FIELD


@pytest.mark.parametrize("width", [10, 16])
@pytest.mark.parametrize("announced", [BLOCK // 2, 2 * BLOCK])
def test_write_same_of_another_announced_length_is_refused(
    rig: Rig, width: int, announced: int
) -> None:
    """SBC-3 5.45: it takes one block, not half of one and not two."""
    data = bytes(min(announced, BLOCK))
    cdb = cdbs.write_same(0, 1, width, flags=8)
    assert rig.code(cdb, data, expected_out=announced) == INVALID_FIELD


def test_write_same_beyond_its_limit_is_refused(rig: Rig) -> None:
    """SBC-3 6.6.4: more than MAXIMUM WRITE SAME LENGTH is 05/24/00, after the range check."""
    with rig.path.open("r+b") as image:
        image.truncate((LIMITS.write_same + 100) * BLOCK)
    rig.good(cdbs.READ_CAPACITY_10)
    rig.run(cdbs.TEST_UNIT_READY)
    too_many = LIMITS.write_same + 1
    assert rig.code(cdbs.write_same(0, too_many, 16), bytes(BLOCK)) == INVALID_FIELD
    assert rig.code(cdbs.write_same(0, 0, 16), bytes(BLOCK)) == INVALID_FIELD
    assert rig.code(cdbs.write_same(100, too_many, 16), bytes(BLOCK)) == OUT_OF_RANGE
    rig.good(cdbs.write_same(100, LIMITS.write_same, 16, flags=8), bytes(BLOCK))


def test_write_same_that_is_cancelled_ends(rig: Rig) -> None:
    """SAM-5 5.3.1: a command that another nexus aborts ends with TASK ABORTED, soon."""
    answers = iter((False, False, True))
    answer = rig.run(cdbs.write_same(0, LAST), b"s" * BLOCK, cancelled=lambda: next(answers, True))
    assert answer.status is Status.TASK_ABORTED
    assert rig.calls.names().count("pwritev") < 4


def test_lba_status_of_a_fresh_disk_is_one_hole(rig: Rig) -> None:
    """SBC-3 5.6: deallocated from the LBA asked for to the end."""
    assert status(rig, 0) == [(0, LAST, DEALLOCATED)]
    assert status(rig, 77) == [(77, LAST - 77, DEALLOCATED)]
    assert status(rig, LAST - 1) == [(LAST - 1, 1, DEALLOCATED)]


def test_lba_status_tells_data_from_holes(rig: Rig) -> None:
    """SBC-3 5.6: runs in order, without gaps, beginning where it was asked for."""
    rig.good(cdbs.write(2 * PAGE, 4 * PAGE), b"x" * 4 * PAGE * BLOCK)
    rig.good(*cdbs.unmap((3 * PAGE, PAGE)))
    found = status(rig, 1)
    assert found == [
        (1, 2 * PAGE - 1, DEALLOCATED),
        (2 * PAGE, PAGE, MAPPED),
        (3 * PAGE, PAGE, DEALLOCATED),
        (4 * PAGE, 2 * PAGE, MAPPED),
        (6 * PAGE, LAST - 6 * PAGE, DEALLOCATED),
    ]
    assert status(rig, 2 * PAGE + 3)[0] == (2 * PAGE + 3, PAGE - 3, MAPPED)


def test_lba_status_of_a_partly_written_page_is_mapped(rig: Rig) -> None:
    """A block that may hold data is never told to be deallocated."""
    rig.good(cdbs.write(9, 1), b"x" * BLOCK)
    runs = status(rig, 0)
    assert next(run for run in runs if run[0] <= 9 < run[0] + run[1])[2] == MAPPED


def test_lba_status_cut_by_its_allocation_length_is_no_error(rig: Rig) -> None:
    """SPC-4 4.3.4.6: as many descriptors as fit; the first one always counts."""
    rig.good(cdbs.write(2 * PAGE, PAGE), b"x" * PAGE * BLOCK)
    assert status(rig, 0, 24) == [(0, 2 * PAGE, DEALLOCATED)]
    assert status(rig, 0, 40) == [(0, 2 * PAGE, DEALLOCATED), (2 * PAGE, PAGE, MAPPED)]
    assert len(rig.good(cdbs.get_lba_status(0, 4))) == 4
    assert rig.good(cdbs.get_lba_status(0, 0)) == b""


def test_lba_status_beyond_the_end_is_refused(rig: Rig) -> None:
    """SBC-3 5.6: the starting LBA has to exist."""
    for lba in (LAST, LAST + 1, 1 << 63, (1 << 64) - 1):
        assert rig.code(cdbs.get_lba_status(lba, 24)) == OUT_OF_RANGE


def test_lba_status_without_seek_hole_is_all_mapped(rig: Rig) -> None:
    """A file system that cannot tell says that there is data, which is safe."""
    rig.calls.seek_data = lambda fd, offset: offset  # type: ignore[method-assign]
    rig.calls.seek_hole = lambda fd, offset: LAST * BLOCK  # type: ignore[method-assign]
    assert status(rig, 0) == [(0, LAST, MAPPED)]


def sanitize(action: int, **changes: int) -> bytes:
    """SANITIZE with some bytes changed: `b3=1` is byte 3."""
    cdb = bytearray((0x48, action, *bytes(8)))
    for name, value in changes.items():
        cdb[int(name[1:])] |= value
    return bytes(cdb)


def test_sanitize_block_erase_leaves_nothing(rig: Rig) -> None:
    """SBC-3 5.23: after a block erase everything is deallocated and reads as zeros."""
    rig.good(cdbs.write(0, 8), b"x" * 8 * BLOCK)
    rig.good(cdbs.write(LAST - 8, 8), b"x" * 8 * BLOCK)
    rig.calls.log.clear()
    rig.good(sanitize(2))
    assert rig.calls.names() == ["punch", "fdatasync"]
    assert rig.content(0, LAST) == bytes(LAST * BLOCK)
    assert status(rig, 0) == [(0, LAST, DEALLOCATED)]
    assert os.stat(rig.path).st_size == LAST * BLOCK


def test_sanitize_where_there_are_no_holes_fails_and_says_so(rig: Rig) -> None:
    """SBC-3 5.23: zeros over everything would take hours; 03/31/03 SANITIZE COMMAND FAILED."""
    rig.calls.errors["punch"] = OSError(errno.EOPNOTSUPP, "no")
    assert rig.code(sanitize(2)) == (3, 0x31, 3)


@pytest.mark.parametrize(
    "changes", [{"b1": 0x40}, {"b8": 8}, {"b7": 1}] + [{f"b{byte}": 1} for byte in range(2, 7)]
)
def test_sanitize_with_reserved_fields_is_refused(rig: Rig, changes: dict[str, int]) -> None:
    """SBC-3 5.23: what destroys everything is done only when all of it was understood."""
    rig.good(cdbs.write(0, 1), b"x" * BLOCK)
    assert rig.code(sanitize(2, **changes)) == INVALID_FIELD
    assert rig.content(0, 1) == b"x" * BLOCK


def test_sanitize_exit_failure_mode_is_good(rig: Rig) -> None:
    """SBC-3 5.23: there is never a failure mode to exit."""
    rig.good(sanitize(0x1F))
    assert rig.code(sanitize(0x1F, b8=8)) == INVALID_FIELD


@pytest.mark.parametrize("action", [0, 1, 3, 4, 0x1E])
def test_sanitize_with_another_service_action_is_refused(rig: Rig, action: int) -> None:
    """SBC-3 5.23: OVERWRITE and CRYPTOGRAPHIC ERASE are not implemented."""
    assert rig.code(sanitize(action)) == INVALID_FIELD
