"""Holes: UNMAP, WRITE SAME, GET LBA STATUS, SANITIZE (SBC-3 4.7, 5; SPC-4).

A block that is unmapped reads as zeros (LBPRZ=1), on every file system: where there are no
holes, zeros are written.
"""

from __future__ import annotations

from typing import Final

from flockpr.block import senses
from flockpr.block.device import Answer, Device, Task
from flockpr.block.fields import Extent
from flockpr.block.inquiry import LIMITS
from flockpr.block.reply import GOOD, good
from flockpr.block.senses import Located
from flockpr.spc.sense import (
    INVALID_FIELD_IN_PARAMETER_LIST,
    PARAMETER_LIST_LENGTH_ERROR,
    Sense,
    cdb_field,
)
from flockpr.store.images import BLOCK

_NDOB, _UNMAP, _ANCHOR = 0x01, 0x08, 0x10
_DESCRIPTOR: Final = 16
MAX_STATUS: Final = 256
"""LBA status descriptors in one answer; each may cost two system calls."""

_LONGEST: Final = 0xFFFF_FFFF

BLOCK_ERASE, EXIT_FAILURE_MODE = 0x02, 0x1F


def unmap(device: Device, task: Task) -> Answer:
    """UNMAP: all descriptors are checked before the first is carried out (SBC-3 5.28)."""
    cdb = task.cdb
    if cdb[1] & 1:
        return cdb_field(1, 0)  # ANCHOR: ANC_SUP is 0
    length = int.from_bytes(cdb[7:9], "big")
    ranges = _unmap_list(bytes(task.data[:length]), length)
    if isinstance(ranges, Sense):
        return ranges
    total = 0
    for lba, blocks in ranges:
        fault = device.outside(lba, blocks)
        if fault is not None:
            return fault
        total += blocks
    if total > LIMITS.unmap:
        return INVALID_FIELD_IN_PARAMETER_LIST
    for lba, blocks in ranges:
        if blocks:
            device.medium.zero(lba * BLOCK, blocks * BLOCK, task.cancelled)
    return GOOD


def _unmap_list(data: bytes, length: int) -> list[tuple[int, int]] | Sense:
    if not length:
        return []
    if len(data) < 8:
        return PARAMETER_LIST_LENGTH_ERROR
    size = int.from_bytes(data[2:4], "big")
    if 8 + size > len(data):
        return PARAMETER_LIST_LENGTH_ERROR
    # A descriptor that does not fit is ignored (SBC-3 5.28.2).
    count = size // _DESCRIPTOR
    if count > LIMITS.unmap_descriptors:
        return INVALID_FIELD_IN_PARAMETER_LIST
    found = []
    for index in range(count):
        at = 8 + _DESCRIPTOR * index
        lba = int.from_bytes(data[at : at + 8], "big")
        found.append((lba, int.from_bytes(data[at + 8 : at + 12], "big")))
    return found


class WriteSame:
    """WRITE SAME(10), (16)."""

    def __init__(self, extent: Extent, length_at: int, *, may_lack_data: bool) -> None:
        self._extent = extent
        self._length_at = length_at
        self._may_lack_data = may_lack_data

    def __call__(self, device: Device, task: Task) -> Answer:
        """Write one block many times; with UNMAP=1 and zeros, deallocate (SBC-3 5.45)."""
        cdb = task.cdb
        if cdb[1] & 0xE0:
            return cdb_field(1, 7)
        if cdb[1] & _ANCHOR:
            return cdb_field(1, 4)
        no_data = self._may_lack_data and bool(cdb[1] & _NDOB)
        if not no_data and (cdb[1] & 0x06 or (cdb[1] & 1 and not self._may_lack_data)):
            return cdb_field(1, 2)  # LBDATA and PBDATA are obsolete and change the data
        lba, blocks = self._extent(cdb)
        fault = device.outside(lba, blocks)
        if fault is not None:
            return fault
        to_the_end = not blocks
        blocks = blocks or device.medium.blocks - lba
        if blocks > LIMITS.write_same:
            return cdb_field(self._length_at)
        pattern = memoryview(bytes(BLOCK)) if no_data else task.data[:BLOCK]
        if not no_data and (task.expected_out not in (None, BLOCK) or len(pattern) < BLOCK):
            return cdb_field(self._length_at)
        if not blocks:
            return GOOD
        # A block that is not zeros is written (SBC-3 4.7.3.4.4), because unmapped blocks read
        # as zeros. But "unmap up to the end" is said by initiators that leave anything in the
        # block, and other targets take it for what it says.
        unmap = cdb[1] & _UNMAP and (to_the_end or not any(pattern))
        if unmap:
            device.medium.zero(lba * BLOCK, blocks * BLOCK, task.cancelled)
        else:
            device.medium.fill_range(pattern, lba * BLOCK, blocks * BLOCK, task.cancelled)
        return GOOD


def get_lba_status(device: Device, task: Task) -> Answer:
    """GET LBA STATUS (SBC-3 5.6): runs of mapped and of deallocated blocks."""
    lba = int.from_bytes(task.cdb[2:10], "big")
    length = int.from_bytes(task.cdb[10:14], "big")
    if lba >= device.medium.blocks:
        return Located(senses.LBA_OUT_OF_RANGE, lba)
    most = max(1, min((length - 8) // _DESCRIPTOR, MAX_STATUS))
    runs = _block_runs(device, lba, most)
    body = b"".join(
        first.to_bytes(8, "big") + (end - first).to_bytes(4, "big") + bytes((not mapped, 0, 0, 0))
        for first, end, mapped in runs
    )
    return good((len(body) + 4).to_bytes(4, "big") + bytes(4) + body, length)


def _block_runs(device: Device, lba: int, most: int) -> list[tuple[int, int, bool]]:
    """Runs of blocks from `lba` on: first, the one after the last, whether mapped.

    A block counts as mapped when any part of it may hold data, because what is told to be
    deallocated is not copied by a backup. A run has at most 32 bits of blocks.
    """
    runs: list[tuple[int, int, bool]] = []
    for _, end, data in device.medium.extents(lba * BLOCK, 2 * most):
        first = runs[-1][1] if runs else lba
        last = -(-end // BLOCK) if data else end // BLOCK
        if last <= first:
            continue  # less than a block
        if runs and runs[-1][2] == data:
            first = runs.pop()[0]
        elif len(runs) == most:
            break
        runs.append((first, min(last, first + _LONGEST), data))
        if last - first > _LONGEST:
            break
    return runs


def sanitize(device: Device, task: Task) -> Answer:
    """SANITIZE: BLOCK ERASE deallocates the whole medium; done when answered, so IMMED
    changes nothing and there is no failure mode to exit (SBC-3 5.23).
    """
    cdb = task.cdb
    for byte in range(2, 7):
        if cdb[byte]:
            return cdb_field(byte)
    if cdb[1] & 0x40:
        return cdb_field(1, 6)
    if cdb[7] or cdb[8]:
        return cdb_field(7)
    if cdb[1] & 0x1F == EXIT_FAILURE_MODE:
        return GOOD
    medium = device.medium
    medium.look_now()
    if not medium.punch_range(0, medium.blocks * BLOCK, task.cancelled):
        return senses.SANITIZE_FAILED
    medium.sync()
    return device.unstable(task) or GOOD
