"""Buffers: aligned, bounded, given back; ranges in use."""

from __future__ import annotations

import ctypes
import logging
import threading
import time

import pytest

from flockpr.block.image import QEMU_PERMISSIONS, QEMU_UNSHARED, QEMU_USED
from flockpr.block.pool import MAX_BUFFER, MIN_BUFFER, Pool
from flockpr.block.quiet import MAX_REMEMBERED, QuietLog
from flockpr.block.ranges import COMPARE_BASE, Contended, Ranges
from flockpr.gate import places
from tests.support import docs


def test_buffers_are_aligned_and_exactly_as_long() -> None:
    """Direct I/O wants memory that begins at a page."""
    pool = Pool()
    for size in (1, 511, 512, 4096, 4097, 65536, 65537, MAX_BUFFER - 1, MAX_BUFFER):
        buffer = pool.acquire(size)
        assert buffer is not None
        assert len(buffer.view) == size
        assert not buffer.view.readonly
        assert ctypes.addressof(ctypes.c_char.from_buffer(buffer.view)) % 4096 == 0
        buffer.release()
        buffer.release()
    assert pool.lent == 0


@pytest.mark.parametrize("size", [0, -1, MAX_BUFFER + 1])
def test_buffers_of_impossible_sizes_are_misuse(size: int) -> None:
    """A caller has to look at the length before."""
    with pytest.raises(ValueError, match="no buffer"):
        Pool().acquire(size)


def test_pool_lends_no_more_than_its_limit() -> None:
    """Whatever peers ask for, memory stays bounded; None says that there is no more."""
    pool = Pool(2 * MAX_BUFFER)
    held = [pool.acquire(MAX_BUFFER), pool.acquire(MAX_BUFFER // 2 + 1)]
    assert all(held)
    assert pool.acquire(1) is None
    assert pool.acquire(1, 0.01) is None
    assert held[0] is not None
    held[0].release()
    assert pool.acquire(MAX_BUFFER) is not None


def test_pool_waits_for_what_is_given_back() -> None:
    """A read waits a bounded time for the memory of another one."""
    pool = Pool(MAX_BUFFER)
    held = pool.acquire(MAX_BUFFER)
    assert held is not None
    timer = threading.Timer(0.05, held.release)
    timer.start()
    assert pool.acquire(MAX_BUFFER, 60) is not None
    timer.join()


def test_pool_keeps_memory_for_the_next_and_not_beyond_its_limit() -> None:
    """The same mapping comes back; kept ones make room when other sizes are wanted."""
    pool = Pool(MAX_BUFFER)
    first = pool.acquire(5000)
    assert first is not None
    first.view[:4] = b"kept"
    first.release()
    again = pool.acquire(8192)
    assert again is not None
    assert bytes(again.view[:4]) == b"kept"
    again.release()
    for power in range(12, 23):
        buffer = pool.acquire(1 << power)
        assert buffer is not None
        buffer.release()
    assert pool._kept <= MAX_BUFFER
    assert MIN_BUFFER == 4096


def test_writers_share_and_exclusive_ones_do_not() -> None:
    """Two writes of the same blocks are the initiators' business; compare and write is ours."""
    ranges = Ranges()
    soon = time.monotonic() + 0.02
    one, other = ranges.enter(0, 10, soon), ranges.enter(5, 15, soon)
    with pytest.raises(Contended), ranges.alone(14, 20, soon):
        pass
    with ranges.alone(15, 20, soon):
        with pytest.raises(Contended):
            ranges.enter(19, 30, time.monotonic() + 0.02)
        with pytest.raises(Contended), ranges.alone(10, 16, time.monotonic() + 0.02):
            pass
        ranges.leave(ranges.enter(20, 30, time.monotonic() + 60))
    ranges.leave(one)
    ranges.leave(other)
    with ranges.alone(0, 100, time.monotonic() + 60):
        pass
    assert not ranges._writers
    assert not ranges._exclusive


def test_exclusive_one_is_not_starved_by_writers() -> None:
    """Writers that come after it wait for it, or there would always be one more."""
    ranges = Ranges()
    ticket = ranges.enter(0, 10, time.monotonic() + 60)
    order: list[str] = []

    def compare() -> None:
        with ranges.alone(0, 10, time.monotonic() + 60):
            order.append("compare")

    def write() -> None:
        mine = ranges.enter(0, 10, time.monotonic() + 60)
        order.append("write")
        ranges.leave(mine)

    threads = [threading.Thread(target=compare), threading.Thread(target=write)]
    threads[0].start()
    while ranges._waiting < 1:
        time.sleep(0.001)
    threads[1].start()
    while ranges._waiting < 2:
        time.sleep(0.001)
    ranges.leave(ticket)
    for thread in threads:
        thread.join(60)
    assert order == ["compare", "write"]


def test_quiet_log_says_the_same_once(caplog: pytest.LogCaptureFixture) -> None:
    """What a client can provoke as often as it likes does not fill the log."""
    quiet = QuietLog(logging.getLogger("quiet"))
    for number in range(1000):
        quiet.error("same", "complaint %d", number)
        quiet.error(number, "other %d", number)
    assert sum("complaint" in record.message for record in caplog.records) <= 5
    assert sum("other" in record.message for record in caplog.records) == 1000
    assert len(quiet._said) <= MAX_REMEMBERED


def test_bytes_of_the_image_are_those_of_the_page() -> None:
    """docs/format.md names what else is locked on an image, and nothing overlaps the permit."""
    words = " ".join(docs.read("docs/format.md").split())
    assert f"holds `{COMPARE_BASE:#x}` + *n* to *m*" in words
    last = QEMU_PERMISSIONS - 1
    assert f"bytes {QEMU_UNSHARED} to {QEMU_UNSHARED + last} shared" in words
    assert f"bytes {QEMU_USED} to {QEMU_USED + last} is held" in words
    assert places.ALL_PERMITS.start + places.ALL_PERMITS.length < COMPARE_BASE < (1 << 63)
