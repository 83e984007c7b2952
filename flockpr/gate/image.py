"""Opening an image for reads and writes, and for the permit on the same description.

Never through the page cache: a buffered write is acknowledged before the file server has
seen it, and where the server has given the permit to somebody else meanwhile it is thrown
away afterwards, without a word to the guest. A direct write fails at once. Where a file
system has no direct input and output, O_DSYNC at least waits for the server's answer.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat

import attrs

from flockpr.errors import StoreError, StoreUnavailable
from flockpr.gate.places import Range
from flockpr.store import files
from flockpr.store.syscalls import Syscalls

SYSCALLS = Syscalls()
"""The real ones, shared by all permits and gates of the process."""
PROBE = 4096
"""Bytes that are read to see whether the server still honours a description; aligned, so that
it may be O_DIRECT.
"""
_PASSING = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)
"""Failures to open an image that may pass by waiting."""
_AT_FDCWD = -100
"""Of fcntl.h: a path is looked up as the process sees it."""


@attrs.define(eq=False)
class ImageFile:
    """An image, opened read-write.

    Attributes:
        path: Where.
        fd: Its descriptor; -1 when closed.
        direct: Reads and writes pass the page cache by.
        key: Device and inode: which file it is, by whatever path.
    """

    path: str
    fd: int
    direct: bool
    key: tuple[int, int]
    _sys: Syscalls

    def lock(self, place: Range) -> bool:
        """Take bytes exclusively, without waiting; False where somebody else has any of them.

        Raises:
            StoreUnavailable: Locks fail there for another reason.
        """
        return lock_bytes(self._sys, self.fd, fcntl.F_WRLCK, place, self.path)

    def unlock(self, place: Range) -> None:
        """Give bytes back.

        Raises:
            StoreUnavailable: It failed; only closing gives them back.
        """
        try:
            self._sys.set_lock(self.fd, fcntl.F_UNLCK, *place)
        except OSError as error:
            raise files.unavailable(error, "cannot be unlocked", self.path) from error

    def honoured(self) -> bool:
        """Whether a read through this descriptor still reaches the server: it does not once
        a lock on it was lost (NFSv4: EIO, until it is closed).

        The read is the proof only where it passes the page cache by, so `direct` matters.
        """
        with mmap.mmap(-1, PROBE) as buffer:
            try:
                self._sys.pread_into(self.fd, buffer, 0)
            except OSError:
                return False
        return True

    def current(self) -> bool:
        """Whether the path still leads to this file: a backup that was put in its place is
        another one, and the permit on this one fences nothing there.
        """
        try:
            found = self._sys.stat(self.path, dir_fd=_AT_FDCWD)
        except OSError:
            return True  # not there at the moment: no other one either
        return (found.st_dev, found.st_ino) == self.key

    def close(self) -> None:
        """Close it, which gives every lock of it back; nothing may use the descriptor now."""
        if self.fd >= 0:
            files.close_quietly(self._sys, self.fd)
            self.fd = -1


def open_image(path: str, syscalls: Syscalls) -> ImageFile:
    """Open an image read-write, as its data path does.

    Raises:
        StoreUnavailable: It is missing, may not be written, or is no regular file; names it.
    """
    try:
        fd, direct = _open(path, syscalls)
    except OSError as error:
        raise _unusable(error, path) from error
    try:
        status = syscalls.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            # A lock on a device node holds on this host only.
            raise OSError(errno.ENXIO, "is no regular file")
    except OSError as error:
        files.close_quietly(syscalls, fd)
        raise _unusable(error, path) from error
    return ImageFile(path, fd, direct, (status.st_dev, status.st_ino), syscalls)


def _open(path: str, syscalls: Syscalls) -> tuple[int, bool]:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return syscalls.open(path, flags | os.O_DIRECT), True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return syscalls.open(path, flags | os.O_DSYNC), False


def _unusable(error: OSError, path: str) -> StoreError:
    failure = StoreUnavailable(
        f"the image cannot be opened for reading and writing: {error.strerror}",
        path,
        "a command that takes access away needs the image: mount what it is on, restore it, or "
        "give this user the right to write it",
    )
    failure.errno = error.errno
    failure.for_a_person = error.errno not in _PASSING
    return failure


def lock_bytes(syscalls: Syscalls, fd: int, kind: int, place: Range, path: str) -> bool:
    """Take bytes without waiting; False where somebody else has any of them.

    Raises:
        StoreUnavailable: Locks fail there for another reason.
    """
    try:
        syscalls.set_lock(fd, kind, *place)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise files.unavailable(error, f"cannot lock byte {place.start:#x}", path) from error
    return True
