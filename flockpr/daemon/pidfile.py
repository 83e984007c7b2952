"""The pidfile of qemu-pr-helper: a decimal number and a newline, open and locked for life.

It is never removed: unlinking a locked file lets a second process lock a new file of the same
name beside the first. Whoever finds it unlocked knows that its number is history.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from types import TracebackType
from typing import Self

from flockpr.errors import FlockprError


class PidfileError(FlockprError):
    """The pidfile cannot be made, or another process has it locked."""


class Pidfile:
    """A pidfile that is held from construction to `close` or the end of the process.

    The lock is one of the open file description: it goes with the process through a fork, and
    conflicts with the POSIX lock that qemu-pr-helper and libvirt put on theirs.

    Args:
        path: Where.

    Raises:
        PidfileError: It cannot be created, or is locked.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = _open_and_lock(path)

    def write(self) -> None:
        """Put the number of this process in; after a fork, the child calls it.

        Raises:
            PidfileError: It cannot be written.
        """
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            raise PidfileError(f"Cannot write pid file '{self.path}': {error.strerror}") from error

    def close(self) -> None:
        """Let the lock go; the file stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _open_and_lock(path: str) -> int:
    while True:
        try:
            # Not O_NOFOLLOW: a link that an administrator put there is followed by the real
            # helper, too. O_NONBLOCK: a FIFO in its place must not hang the start.
            flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise PidfileError(f"Cannot create pid file '{path}': {error.strerror}") from error
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _whole_file())
            if _same_file(descriptor, path):
                return descriptor
        except OSError as error:
            os.close(descriptor)
            raise PidfileError(f"Cannot lock pid file: {error.strerror} ('{path}')") from error
        # Replaced between open and lock: what we have locked is nobody's pidfile any more.
        os.close(descriptor)


def _whole_file() -> bytes:
    """A struct flock: an exclusive lock from 0 to the end, however far that moves."""
    return struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def _same_file(descriptor: int, path: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False
