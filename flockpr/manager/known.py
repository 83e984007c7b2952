"""Descriptors whose logical unit was found a moment ago, so that it need not be looked up again.

What is remembered is not the descriptor's number but the disk behind it: of a file the inode
and the name under which it is open, which a rename changes; of a block device its number and
the sequence number that the kernel gives to each disk anew, so that another one that was
plugged into the same slot is another one here. It is believed for as long as the table of
identifiers of the root is, and not longer.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable, Hashable

from flockpr.device_index import INDEX_FRESH
from flockpr.filesystems.kinds import COHERENT
from flockpr.filesystems.mounts import filesystem_type
from flockpr.manager.device import DELETED
from flockpr.manager.views import VIEWS, name_of

MAX_KNOWN = 4096
"""Disks that are remembered; beyond it all are forgotten, which costs one look-up each."""

_BLKGETDISKSEQ = 0x80081280  # linux/fs.h, since Linux 5.15
_SEQUENCE = struct.Struct("Q")


def mark_of(descriptor: int, name: Callable[[int], str] = name_of) -> Hashable | None:
    """What tells the disk behind a descriptor from every other one; None where nothing does.

    Waits for nobody where the file is on a file system of this host.

    Args:
        descriptor: Of the disk.
        name: Tells the name under which a file is open.

    Raises:
        OSError: As fstat.
    """
    found = os.fstat(descriptor)
    try:
        if stat.S_ISREG(found.st_mode):
            path = name(descriptor)
            # A file that is deleted is no disk of anybody's, but may look like one that is
            # called so and had this inode a moment ago.
            return None if path.endswith(DELETED) else (found.st_dev, found.st_ino, path)
        if stat.S_ISBLK(found.st_mode):
            sequence = fcntl.ioctl(descriptor, _BLKGETDISKSEQ, bytes(_SEQUENCE.size))
            return found.st_rdev, sequence
    except OSError:
        pass  # an older kernel, a descriptor for another purpose: looked up each time
    return None


def on_this_host(descriptor: int) -> bool:
    """Whether it can be examined without waiting for another host."""
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode):
        return filesystem_type(found.st_dev) in COHERENT
    return stat.S_ISBLK(found.st_mode)


class Known:
    """The logical units of disks that were looked up. Thread-safe."""

    def __init__(self) -> None:
        self._luns: dict[Hashable, tuple[str, float]] = {}

    def note(self, mark: Hashable, lun: str, begun: float) -> None:
        """A disk was found to be that of a logical unit.

        Args:
            mark: Of the disk, from before it was looked up.
            lun: Name of the logical unit.
            begun: When the look-up began, by `time.monotonic`.
        """
        if len(self._luns) >= MAX_KNOWN:
            self._luns.clear()
        self._luns[mark] = lun, begun + INDEX_FRESH

    def lun_of(self, descriptor: int) -> str | None:
        """The logical unit that the disk was found to be that of; None if it has to be looked up,
        also where it cannot be examined: whoever looks it up says what is wrong.
        """
        try:
            found = self._luns.get(mark_of(descriptor, VIEWS.name_of))
        except OSError:
            return None
        if found is None or time.monotonic() >= found[1]:
            return None
        return found[0]
