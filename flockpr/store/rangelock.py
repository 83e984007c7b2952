"""Byte-range locks on open file descriptions, as a locker of portalocker.

Why OFD locks: a POSIX lock belongs to the process, and closing *any* descriptor of that file
drops it, so a `cat` in the same process would release every registrant; flock covers the
whole file, and on NFS it collides with byte ranges. An OFD lock belongs to one open file
description: two opens exclude each other even inside a process, and a lock ends only with
its last reference.

What a lock is not: a proof. On NFSv4 it is a lease that may be lost without a word; every
decision is made by the commit (see `commits`), and locks order work and stand for the living.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import tempfile
from collections.abc import Iterator

from flockpr.store.syscalls import Syscalls


@contextlib.contextmanager
def _some_temporary_directory() -> Iterator[None]:
    """Let portalocker be loaded where nothing can be written to, as in a confined service.

    It asks for the temporary directory when it is loaded, for classes that are not used here,
    and where there is none that can be written to, the question fails.
    """
    try:
        tempfile.gettempdir()
    except OSError:
        tempfile.tempdir = "/tmp"  # noqa: S108 - nothing is put there
        try:
            yield
        finally:
            tempfile.tempdir = None
    else:
        yield


with _some_temporary_directory():
    from portalocker import types
    from portalocker.constants import LockFlags
    from portalocker.exceptions import AlreadyLocked, LockException
    from portalocker.portalocker import BaseLocker

CONTENTION = frozenset({errno.EAGAIN, errno.EACCES})
"""What fcntl answers when somebody else holds a conflicting lock; the rest is failure."""


class OfdRange(BaseLocker):
    """Locks `length` bytes at `start` of a file, without waiting.

    Args:
        start: First byte.
        length: Number of bytes.
        syscalls: Where the calls go.
    """

    def __init__(self, start: int, length: int = 1, syscalls: Syscalls | None = None) -> None:
        self.start = start
        self.length = length
        self._syscalls = syscalls or Syscalls()

    def lock(self, file_obj: types.FileArgument, flags: LockFlags) -> None:
        """Lock the range.

        Args:
            file_obj: A file object or descriptor, open for writing for an exclusive lock.
            flags: EXCLUSIVE or SHARED; NON_BLOCKING must be there, because a wait on a
                network file system cannot be bounded.

        Raises:
            AlreadyLocked: Somebody else holds a conflicting lock.
            LockException: Anything else.
        """
        if not flags & LockFlags.NON_BLOCKING:
            raise LockException("a byte range is never waited for in the kernel", fh=file_obj)
        self.try_lock(file_obj, shared=not flags & LockFlags.EXCLUSIVE)

    def try_lock(self, file_obj: types.FileArgument, *, shared: bool = False) -> None:
        """As `lock` with NON_BLOCKING; to combine flags takes longer than the system call.

        Raises:
            AlreadyLocked: Somebody else holds a conflicting lock.
            LockException: Anything else.
        """
        self._set(file_obj, fcntl.F_RDLCK if shared else fcntl.F_WRLCK)

    def unlock(self, file_obj: types.FileArgument) -> None:
        """Unlock the range; not held is no error."""
        self._set(file_obj, fcntl.F_UNLCK)

    def held_by_another(self, file_obj: types.FileArgument) -> bool:
        """Whether another open file description holds the range exclusively.

        Asks as a reader would: that is right on every file system seen, while a writer's
        question is answered wrongly by NFSv3 servers and under NFSv4 delegations.

        Raises:
            LockException: The question could not be asked.
        """
        fd = _descriptor(file_obj)
        try:
            found = self._syscalls.get_lock(fd, fcntl.F_RDLCK, self.start, self.length)
        except OSError as error:
            raise LockException(error, fh=file_obj) from error
        return found != fcntl.F_UNLCK

    def _set(self, file_obj: types.FileArgument, kind: int) -> None:
        fd = _descriptor(file_obj)
        try:
            self._syscalls.set_lock(fd, kind, self.start, self.length)
        except OSError as error:
            if error.errno in CONTENTION:
                raise AlreadyLocked(error, fh=file_obj) from error
            raise LockException(error, fh=file_obj) from error


def _descriptor(file_obj: types.FileArgument) -> int:
    return file_obj if isinstance(file_obj, int) else file_obj.fileno()
