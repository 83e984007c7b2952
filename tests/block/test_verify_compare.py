"""VERIFY, WRITE AND VERIFY, COMPARE AND WRITE, ORWRITE."""

from __future__ import annotations

import os
import threading
import time

import pytest

from flockpr.block.medium import CHUNK
from flockpr.block.ranges import COMPARE_BASE
from flockpr.spc.codes import Status
from tests.support import sbc_cdbs as cdbs
from tests.support.disks import BLOCK, Rig, hold, wait_until

MISCOMPARE = (0xE, 0x1D, 0)
INVALID_FIELD = (5, 0x24, 0)


def orwrite(lba: int, count: int, flags: int = 0) -> bytes:
    """ORWRITE(16)."""
    return bytes((0x8B, flags)) + cdbs.write(lba, count, 16)[2:]


def pattern(size: int) -> bytes:
    """Bytes without a period of a block."""
    return bytes((index * 7 + index // 251) & 0xFF for index in range(size))


@pytest.mark.parametrize("width", [10, 12, 16])
def test_verify_with_byte_check_compares(rig: Rig, width: int) -> None:
    """SBC-3 5.33: BYTCHK=01b compares block by block; INFORMATION is the first difference."""
    data = bytearray(pattern(3 * CHUNK + BLOCK))
    count = len(data) // BLOCK
    rig.good(cdbs.write(9, count), bytes(data))
    rig.good(cdbs.verify(9, count, width, flags=2), bytes(data))
    for offset in (0, 5000, CHUNK, len(data) - 1):
        data[offset] ^= 1
        answer = rig.run(cdbs.verify(9, count, width, flags=2), bytes(data))
        assert answer.code == MISCOMPARE
        assert int.from_bytes(answer.sense[3:7], "big") == offset
        data[offset] ^= 1


@pytest.mark.parametrize("width", [10, 12, 16])
def test_verify_without_byte_check_reads_and_compares_nothing(rig: Rig, width: int) -> None:
    """SBC-3 5.33: BYTCHK=00b is a medium verification; data that came all the same are left."""
    rig.good(cdbs.verify(0, 600, width), b"x" * BLOCK)
    assert sum(length or 0 for _, _, length in rig.calls.log) == 600 * BLOCK


@pytest.mark.parametrize("width", [10, 12, 16])
def test_verify_with_one_block_compares_each_with_it(rig: Rig, width: int) -> None:
    """SBC-3 5.33: BYTCHK=11b compares every block with the one that came."""
    rig.good(cdbs.write_same(0, 10), b"s" * BLOCK)
    rig.good(cdbs.verify(0, 10, width, flags=6), b"s" * BLOCK)
    assert rig.code(cdbs.verify(0, 11, width, flags=6), b"s" * BLOCK) == MISCOMPARE
    assert rig.code(cdbs.verify(0, 10, width, flags=6), b"s") == INVALID_FIELD


@pytest.mark.parametrize("width", [10, 12, 16])
def test_verify_with_reserved_byte_check_is_refused(rig: Rig, width: int) -> None:
    """SBC-3 5.33: BYTCHK=10b is reserved: 05/24/00 with a pointer to it."""
    answer = rig.run(cdbs.verify(0, 1, width, flags=4), bytes(BLOCK))
    assert answer.code == INVALID_FIELD
    assert answer.sense[15:18] == bytes((0xCA, 0, 1))


@pytest.mark.parametrize("width", [10, 12, 16])
@pytest.mark.parametrize("flags", [0, 2])
def test_write_and_verify_is_durable_and_read_back(rig: Rig, width: int, flags: int) -> None:
    """SBC-3 5.43: written to the medium, then verified from the medium."""
    rig.good(cdbs.write_and_verify(4, 2, width, flags=flags), b"v" * 2 * BLOCK)
    assert rig.calls.names() == ["pwritev+dsync", "preadv"]
    assert rig.content(4, 2) == b"v" * 2 * BLOCK


def test_write_and_verify_of_a_medium_that_forgets_is_a_miscompare(rig: Rig) -> None:
    """SBC-3 5.43: BYTCHK=01b tells when the medium holds something else than was written."""

    def forget(name: str) -> None:
        if name == "preadv":
            with rig.path.open("r+b") as image:
                image.seek(4 * BLOCK)
                image.write(b"?")

    rig.calls.hook = forget
    assert rig.code(cdbs.write_and_verify(4, 1, flags=2), b"v" * BLOCK) == MISCOMPARE


def test_compare_and_write_that_matches_writes(rig: Rig) -> None:
    """SBC-3 5.2: the first half is compared, the second half written."""
    rig.good(cdbs.write(2, 255), b"a" * 255 * BLOCK)
    rig.good(cdbs.compare_and_write(2, 255), b"a" * 255 * BLOCK + b"b" * 255 * BLOCK)
    assert rig.content(1, 257) == bytes(BLOCK) + b"b" * 255 * BLOCK + bytes(BLOCK)


def test_compare_and_write_that_differs_writes_nothing(rig: Rig) -> None:
    """SBC-3 5.2: 0E/1D/00, INFORMATION is the offset of the first byte that differs."""
    rig.good(cdbs.write(0, 2), b"a" * 2 * BLOCK)
    data = bytearray(b"a" * 2 * BLOCK + b"b" * 2 * BLOCK)
    data[700] = 0
    answer = rig.run(cdbs.compare_and_write(0, 2), bytes(data))
    assert answer.code == MISCOMPARE
    assert (answer.sense[0], answer.sense[3:7]) == (0xF0, (700).to_bytes(4, "big"))
    assert rig.content(0, 2) == b"a" * 2 * BLOCK


@pytest.mark.parametrize("size", [0, 1, 2 * BLOCK - 1])
def test_compare_and_write_without_both_halves_is_refused(rig: Rig, size: int) -> None:
    """SBC-3 5.2: with less data the halves could not be told apart: 05/24/00."""
    assert rig.code(cdbs.compare_and_write(0, 1), bytes(size)) == INVALID_FIELD


@pytest.mark.parametrize("announced", [BLOCK, 4 * BLOCK])
def test_compare_and_write_of_another_announced_length_is_refused(rig: Rig, announced: int) -> None:
    """What the initiator wants to send does not fit NUMBER OF LOGICAL BLOCKS: 05/24/00."""
    cdb = cdbs.compare_and_write(0, 1)
    assert rig.code(cdb, bytes(2 * BLOCK), expected_out=announced) == INVALID_FIELD
    rig.good(cdb, bytes(2 * BLOCK), expected_out=2 * BLOCK)


def test_compare_and_write_of_no_blocks_is_good(rig: Rig) -> None:
    """SBC-3 5.2: NUMBER OF LOGICAL BLOCKS 0 is no error."""
    rig.good(cdbs.compare_and_write(0, 0), b"", expected_out=0)


def test_compare_and_write_obeys_fua(rig: Rig) -> None:
    """SBC-3 5.2: FUA=1 is answered when the data are on the medium."""
    cdb = bytearray(cdbs.compare_and_write(0, 1))
    rig.good(bytes(cdb), bytes(2 * BLOCK))
    assert rig.calls.names() == ["preadv", "pwritev"]
    cdb[1] = 8
    rig.good(bytes(cdb), bytes(2 * BLOCK))
    assert rig.calls.names() == ["preadv", "pwritev+dsync"]


def test_compare_and_write_by_many_threads_counts_right(rig: Rig) -> None:
    """SBC-3 5.2: compare and write are one act: a counter that many raise loses nothing."""

    def add(times: int) -> None:
        done = 0
        while done < times:
            now = int.from_bytes(rig.good(cdbs.read(0, 1))[:8], "big")
            old, new = (n.to_bytes(8, "big").ljust(BLOCK, b"\0") for n in (now, now + 1))
            answer = rig.run(cdbs.compare_and_write(0, 1), old + new)
            if answer.status is Status.GOOD:
                done += 1
            else:
                assert answer.code == MISCOMPARE

    threads = [threading.Thread(target=add, args=(25,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert int.from_bytes(rig.content(0, 1)[:8], "big") == 100


def test_compare_and_write_waits_for_another_process(rig: Rig) -> None:
    """Two targets of one image exclude each other's COMPARE AND WRITE by a byte range."""
    other = hold(rig.path, COMPARE_BASE + BLOCK, BLOCK)
    rig.good(cdbs.compare_and_write(0, 1), bytes(2 * BLOCK))
    rig.good(cdbs.compare_and_write(2, 1), bytes(2 * BLOCK))
    answers: list[Status] = []

    def run() -> None:
        answers.append(rig.run(cdbs.compare_and_write(0, 2), bytes(4 * BLOCK)).status)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.05)
    assert not answers
    os.close(other)
    thread.join(60)
    assert answers == [Status.GOOD]


def test_compare_and_write_that_never_gets_its_blocks_is_busy(rig: Rig) -> None:
    """A wait for another process is bounded: BUSY, and nothing was done."""
    other = hold(rig.path, COMPARE_BASE, BLOCK)
    try:
        answer = rig.run(cdbs.compare_and_write(0, 1), bytes(BLOCK) + b"n" * BLOCK)
        assert answer.status is Status.BUSY
    finally:
        os.close(other)
    assert rig.content(0, 1) == bytes(BLOCK)
    rig.good(cdbs.compare_and_write(0, 1), bytes(BLOCK) + b"n" * BLOCK)


def test_write_waits_for_a_compare_and_write_of_the_same_blocks(rig: Rig) -> None:
    """A write in between compare and write would be lost without a trace."""
    reading, go_on = threading.Event(), threading.Event()

    def stop(name: str) -> None:
        if name == "preadv":
            reading.set()
            assert go_on.wait(60)

    rig.calls.hook = stop
    done: list[str] = []

    def compare() -> None:
        rig.good(cdbs.compare_and_write(0, 2), bytes(2 * BLOCK) + b"c" * 2 * BLOCK)
        done.append("compare and write")

    def write() -> None:
        rig.good(cdbs.write(1, 1), b"w" * BLOCK)
        done.append("write")

    threads = [threading.Thread(target=compare), threading.Thread(target=write)]
    threads[0].start()
    assert reading.wait(60)
    threads[1].start()
    rig.good(cdbs.write(2, 1), b"o" * BLOCK)  # another range does not wait
    wait_until(lambda: rig.disk._medium.ranges._waiting == 1)
    assert not done
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert rig.content(0, 3) == b"c" * BLOCK + b"w" * BLOCK + b"o" * BLOCK


def test_orwrite_sets_bits(rig: Rig) -> None:
    """SBC-3 5.14: the result is the OR of what was there and what came."""
    size = 2 * CHUNK + 3 * BLOCK
    rig.good(cdbs.write(1, size // BLOCK), b"\x0f" * size)
    more = bytes(index & 0xF0 for index in range(size))
    rig.good(orwrite(1, size // BLOCK), more)
    assert rig.content(1, size // BLOCK) == bytes(0x0F | byte for byte in more)
    assert rig.content(0, 1) == bytes(BLOCK)


def test_orwrite_obeys_fua(rig: Rig) -> None:
    """SBC-3 5.14: FUA=1 is answered when the data are on the medium."""
    rig.good(orwrite(0, 1, flags=8), bytes(BLOCK))
    assert rig.calls.names() == ["preadv", "pwritev+dsync"]
