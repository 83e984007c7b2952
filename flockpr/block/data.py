"""Commands that move blocks: READ, WRITE, VERIFY, WRITE AND VERIFY, COMPARE AND WRITE,
ORWRITE, PRE-FETCH, SYNCHRONIZE CACHE (SBC-3 5).

There is no cache here. A write is on its way to the storage when it is answered, and
SYNCHRONIZE CACHE or FUA wait until the storage says that it is stable; so WCE is reported.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from flockpr.block import senses
from flockpr.block.device import Answer, Device, Task
from flockpr.block.fields import (
    Extent,
    extent_16,
    extent_compare_and_write,
)
from flockpr.block.inquiry import LIMITS
from flockpr.block.medium import Cancelled, pieces
from flockpr.block.reply import GOOD, ScsiReply
from flockpr.block.senses import Located
from flockpr.spc.codes import Status
from flockpr.spc.sense import Sense, cdb_field
from flockpr.store.images import BLOCK

_PROTECT: Final = cdb_field(1, 7)
_FUA: Final = 0x08


def _refusal(
    device: Device, cdb: bytes, lba: int, blocks: int, *, length_at: int, most: int
) -> Sense | Located | None:
    """What every command with a range refuses (SBC-3 4.5, 4.22.3, 6.6.4).

    The range comes before the limit, so that an initiator that reads the capacity and one
    that reads the limits both find what they look for.
    """
    if cdb[1] & 0xE0 and cdb[0] > 0x1F:
        return _PROTECT  # RDPROTECT and its kin: there is no protection information
    if lba + blocks > device.medium.blocks:
        return Located(senses.LBA_OUT_OF_RANGE, lba)
    return cdb_field(length_at) if blocks > most else None


Span: TypeAlias = tuple[int, int]
"""Offset of the first byte on the medium, and bytes."""


class Read:
    """READ(6), (10), (12), (16)."""

    def __init__(self, extent: Extent, length_at: int) -> None:
        self.extent = extent
        self._length_at = length_at

    def __call__(self, device: Device, task: Task) -> Answer:
        """Read into the buffer that the door of the disk has got for it."""
        lba, blocks = self.extent(task.cdb)
        fault = _refusal(
            device, task.cdb, lba, blocks, length_at=self._length_at, most=LIMITS.transfer
        )
        if fault is not None:
            return fault
        buffer = task.buffer
        if not blocks or buffer is None:
            return GOOD
        device.medium.read(buffer.view, lba * BLOCK)
        task.buffer = None
        return ScsiReply(Status.GOOD, b"", (buffer.view,), buffer.release)

    def span(self, device: Device, cdb: bytes) -> Span | None:
        """What it reads, by one call; None where it is refused or reads nothing."""
        lba, blocks = self.extent(cdb)
        at = self._length_at
        if not blocks or _refusal(device, cdb, lba, blocks, length_at=at, most=LIMITS.transfer):
            return None
        return lba * BLOCK, blocks * BLOCK


class Write:
    """WRITE(6), (10), (12), (16)."""

    def __init__(self, extent: Extent, length_at: int) -> None:
        self._extent = extent
        self._length_at = length_at

    def __call__(self, device: Device, task: Task) -> Answer:
        """Write what has come; of a block that came in part, nothing."""
        cdb = task.cdb
        lba, blocks = self._extent(cdb)
        at = self._length_at
        fault = _refusal(device, cdb, lba, blocks, length_at=at, most=LIMITS.transfer)
        if fault is not None:
            return fault
        durable = bool(cdb[1] & _FUA and cdb[0] > 0x1F)
        view = _whole_blocks(task.data, blocks)
        if view:
            device.medium.write(view, lba * BLOCK, durable=durable)
        return (device.unstable(task) if durable else None) or GOOD

    def span(self, device: Device, cdb: bytes) -> Span | None:
        """What it writes, by one call; None where it is refused or writes nothing, and with FUA:
        that may take a call more.
        """
        lba, blocks = self._extent(cdb)
        at = self._length_at
        if not blocks or _refusal(device, cdb, lba, blocks, length_at=at, most=LIMITS.transfer):
            return None
        if cdb[1] & _FUA and cdb[0] > 0x1F:
            return None
        return lba * BLOCK, blocks * BLOCK


class WriteAndVerify:
    """WRITE AND VERIFY(10), (12), (16): written, made stable, read back."""

    def __init__(self, extent: Extent, length_at: int) -> None:
        self._extent = extent
        self._length_at = length_at

    def __call__(self, device: Device, task: Task) -> Answer:
        """BYTCHK 0 reads the blocks back, 1 compares them too (SBC-3 5.43)."""
        cdb = task.cdb
        lba, blocks = self._extent(cdb)
        at = self._length_at
        fault = _refusal(device, cdb, lba, blocks, length_at=at, most=LIMITS.transfer)
        if fault is not None:
            return fault
        check = cdb[1] >> 1 & 3
        if check > 1:
            return cdb_field(1, 2)
        view = _whole_blocks(task.data, blocks)
        if not view:
            return GOOD
        device.medium.write(view, lba * BLOCK, durable=True)
        fault = device.unstable(task)
        if fault is not None:
            return fault
        return _compare(device, task, lba, len(view) // BLOCK, view if check else None)


class Verify:
    """VERIFY(10), (12), (16)."""

    def __init__(self, extent: Extent, length_at: int) -> None:
        self._extent = extent
        self._length_at = length_at

    def __call__(self, device: Device, task: Task) -> Answer:
        """BYTCHK 0 reads, 1 compares with as many blocks, 3 with one (SBC-3 5.33)."""
        cdb = task.cdb
        lba, blocks = self._extent(cdb)
        at = self._length_at
        fault = _refusal(device, cdb, lba, blocks, length_at=at, most=LIMITS.transfer)
        if fault is not None:
            return fault
        check = cdb[1] >> 1 & 3
        if check == 2:
            return cdb_field(1, 2)
        if check == 3:
            if len(task.data) < BLOCK or not blocks:
                return GOOD if not blocks else cdb_field(1, 2)
            return _compare_same(device, task, lba, blocks)
        if check == 1:
            view = _whole_blocks(task.data, blocks)
            return _compare(device, task, lba, len(view) // BLOCK, view)
        return _compare(device, task, lba, blocks, None)


def _compare(
    device: Device, task: Task, lba: int, blocks: int, expected: memoryview | None
) -> Answer:
    with device.medium.scratch() as scratch:
        for start, size in pieces(blocks * BLOCK):
            if task.cancelled():
                raise Cancelled
            found = scratch.view[:size]
            device.medium.read(found, lba * BLOCK + start)
            if expected is not None:
                offset = _difference(found, expected[start : start + size])
                if offset is not None:
                    return Located(senses.MISCOMPARE, start + offset)
    return GOOD


def _compare_same(device: Device, task: Task, lba: int, blocks: int) -> Answer:
    one = task.data[:BLOCK]
    for number in range(blocks):
        answer = _compare(device, task, lba + number, 1, one)
        if answer is not GOOD:
            return answer
    return GOOD


class CompareAndWrite:
    """COMPARE AND WRITE (SBC-3 5.2): blocks to compare, then blocks to write."""

    extent = staticmethod(extent_compare_and_write)

    def __call__(self, device: Device, task: Task) -> Answer:
        """Compare and write as one act."""
        cdb = task.cdb
        lba, blocks = extent_compare_and_write(cdb)
        fault = _refusal(device, cdb, lba, blocks, length_at=13, most=LIMITS.compare_and_write)
        if fault is not None:
            return fault
        size = blocks * BLOCK
        if task.expected_out not in (None, 2 * size) or len(task.data) < 2 * size:
            return cdb_field(13)  # what to compare and what to write could not be told apart
        if not blocks:
            return GOOD
        medium, offset = device.medium, lba * BLOCK
        with medium.alone(offset, size), medium.scratch() as scratch:
            found = scratch.view[:size]
            medium.read(found, offset)
            wrong = _difference(found, task.data[:size])
            if wrong is not None:
                return Located(senses.MISCOMPARE, wrong)
            found[:] = task.data[size : 2 * size]
            durable = bool(cdb[1] & _FUA)
            medium.write_alone(found, offset, durable=durable)
        return (device.unstable(task) if durable else None) or GOOD


class OrWrite:
    """ORWRITE(16) (SBC-3 5.14)."""

    extent = staticmethod(extent_16)

    def __call__(self, device: Device, task: Task) -> Answer:
        """Set the bits that are set in the data-out."""
        cdb = task.cdb
        lba, blocks = extent_16(cdb)
        fault = _refusal(device, cdb, lba, blocks, length_at=10, most=LIMITS.transfer)
        if fault is not None:
            return fault
        view = _whole_blocks(task.data, blocks)
        if not view:
            return GOOD
        medium, offset = device.medium, lba * BLOCK
        durable = bool(cdb[1] & _FUA)
        with medium.alone(offset, len(view)), medium.scratch() as scratch:
            for start, size in pieces(len(view)):
                found = scratch.view[:size]
                medium.read(found, offset + start)
                more = int.from_bytes(view[start : start + size], "little")
                bits = int.from_bytes(found, "little") | more
                found[:] = bits.to_bytes(size, "little")
                medium.write_alone(found, offset + start, durable=durable)
        return (device.unstable(task) if durable else None) or GOOD


class Prefetch:
    """PRE-FETCH(10), (16): there is no cache to fill, so GOOD and never CONDITION MET."""

    def __init__(self, extent: Extent) -> None:
        self._extent = extent

    def __call__(self, device: Device, task: Task) -> Answer:
        """Check the range."""
        lba, blocks = self._extent(task.cdb)
        return device.outside(lba, blocks) or GOOD


class SynchronizeCache:
    """SYNCHRONIZE CACHE(10), (16)."""

    def __init__(self, extent: Extent) -> None:
        self._extent = extent

    def __call__(self, device: Device, task: Task) -> Answer:
        """Make everything stable, whatever the range; IMMED waits all the same, because an
        early GOOD would leave nobody to tell of a failure.
        """
        lba, blocks = self._extent(task.cdb)
        fault = device.outside(lba, blocks)
        if fault is not None:
            return fault
        device.medium.sync()
        return device.unstable(task) or GOOD


def _whole_blocks(data: memoryview, blocks: int) -> memoryview:
    size = blocks * BLOCK
    return data if len(data) == size else data[: min(size, len(data) // BLOCK * BLOCK)]


def _difference(found: memoryview, expected: memoryview) -> int | None:
    """Offset of the first byte that differs, or None."""
    one, other = bytes(found), bytes(expected)
    if one == other:
        return None
    start = 0
    while one[start : start + 4096] == other[start : start + 4096]:
        start += 4096
    pairs = zip(one[start:], other[start:], strict=True)
    return start + next(index for index, (left, right) in enumerate(pairs) if left != right)
