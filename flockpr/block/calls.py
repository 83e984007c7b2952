"""Every system call on a disk's image, in one replaceable object.

Tests put a failing, slow or recording one in its place; nothing else in `flockpr.block`
touches an image. Each method is the bare call: no retry, no translation, no policy.
"""

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from flockpr.block.ring import Ring
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate: Final[Callable[..., int]] = _libc.fallocate
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.fallocate.restype = ctypes.c_int


class ImageCalls(Syscalls):
    """The real ones. Errors are `OSError`."""

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        """The system call preadv."""
        return os.preadv(fd, buffers, offset)

    def pwritev(
        self, fd: int, buffers: Sequence[memoryview | bytes], offset: int, *, durable: bool = False
    ) -> int:
        """The system call pwritev2; `durable` is RWF_DSYNC: back only when it is on disk."""
        return os.pwritev(fd, buffers, offset, os.RWF_DSYNC if durable else 0)

    def ring(self, room: int) -> Ring[Any] | None:
        """For reads and writes that the kernel carries out meanwhile; None where all of them have
        to go through `preadv` and `pwritev`, or where the system has none.
        """
        try:
            return Ring(room)
        except OSError as error:
            log.debug("no asynchronous input and output: %s", error)
            return None

    def fdatasync(self, fd: int) -> None:
        """The system call fdatasync."""
        os.fdatasync(fd)

    def punch(self, fd: int, offset: int, length: int) -> None:
        """The system call fallocate: deallocate a range, which reads as zeros after it."""
        # Python has no fallocate; ctypes lets go of the GIL meanwhile.
        if _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def seek_data(self, fd: int, offset: int) -> int:
        """Where data begins at or after `offset`; OSError ENXIO when there is none."""
        return os.lseek(fd, offset, os.SEEK_DATA)

    def seek_hole(self, fd: int, offset: int) -> int:
        """Where a hole begins at or after `offset`; the end of the file is one."""
        return os.lseek(fd, offset, os.SEEK_HOLE)

    def size(self, fd: int) -> int:
        """Size of the file in bytes."""
        return os.fstat(fd).st_size

    def size_of(self, path: str) -> int:
        """Size of the file of this name, in bytes."""
        return os.stat(path).st_size

    def pause(self, seconds: float) -> None:
        """Wait a moment, between two tries for a lock."""
        time.sleep(seconds)
