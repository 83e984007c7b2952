"""The doorbell: how a target hears that somebody waits for its permit.

One file for all LUNs of a root, a byte each: who waits holds the byte exclusively, and who
serves asks now and then whether anybody does. That costs one system call for all LUNs
together. A file of its own, because on NFS a question about a lock of the image would go
through the description that the question's answer is about.

Asked as a reader asks, of an exclusive lock, through a description opened read-write: the one
combination that every file system answers rightly.
"""

from __future__ import annotations

import errno
import fcntl
import os
from types import TracebackType
from typing import Self

from flockpr.gate.image import lock_byte
from flockpr.store import files
from flockpr.store.layout import DOORBELL, KNOCK
from flockpr.store.syscalls import Syscalls

_ABSENT_FOR_A_MOMENT = 3
"""Times to open it: somebody else may make it, or remove it, in between."""


class Doorbell:
    """One open file description of a root's doorbell: to ring, or to listen. Not to do both:
    a holder's own lock is invisible to its own questions.

    Args:
        root: The root directory.
        syscalls: Where the calls go.

    Raises:
        StoreError: It cannot be opened, or made.
    """

    def __init__(self, root: str, syscalls: Syscalls) -> None:
        self.path = os.path.join(root, DOORBELL)
        self._sys = syscalls
        try:
            self._fd = _open(root, syscalls)
        except OSError as error:
            raise files.unavailable(error, "cannot be opened", self.path) from error

    def ring(self, number: int) -> bool:
        """Ring for a LUN, until closed; False while somebody else rings for it.

        Raises:
            StoreError: Locks fail there.
        """
        return lock_byte(self._sys, self._fd, fcntl.F_WRLCK, KNOCK + number, self.path)

    def heard(self, first: int, last: int | None = None) -> bool:
        """Whether anybody rings for a LUN, or for any from number `first` to `last`.

        Raises:
            StoreError: It cannot be asked.
        """
        length = 1 if last is None else last - first + 1
        try:
            found = self._sys.get_lock(self._fd, fcntl.F_RDLCK, KNOCK + first, length)
        except OSError as error:
            raise files.unavailable(error, "cannot be asked", self.path) from error
        return found != fcntl.F_UNLCK

    def current(self) -> bool:
        """Whether this is still the file that others ring."""
        fd = -1
        try:
            fd = self._sys.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            there, here = self._sys.fstat(fd), self._sys.fstat(self._fd)
        except OSError:
            return False
        finally:
            if fd >= 0:
                files.close_quietly(self._sys, fd)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def close(self) -> None:
        """Stop ringing, or listening."""
        if self._fd >= 0:
            files.close_quietly(self._sys, self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def provide(root: str, syscalls: Syscalls) -> None:
    """Make the doorbell of a root, if it has none; whoever may write the root can.

    Raises:
        StoreError: It cannot be made.
    """
    Doorbell(root, syscalls).close()


def _open(root: str, syscalls: Syscalls) -> int:
    """Open it, made where it is missing, and shared with those who share the root."""
    path = os.path.join(root, DOORBELL)
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    for _ in range(_ABSENT_FOR_A_MOMENT):
        try:
            return syscalls.open(path, flags)
        except FileNotFoundError:
            pass
        root_fd = syscalls.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            mode = 0o660 if syscalls.fstat(root_fd).st_mode & 0o020 else 0o600
            fd = syscalls.open(DOORBELL, flags | os.O_CREAT | os.O_EXCL, mode, dir_fd=root_fd)
        except FileExistsError:
            continue
        finally:
            files.close_quietly(syscalls, root_fd)
        try:
            syscalls.fchmod(fd, mode)  # whatever the umask
        except OSError:
            files.close_quietly(syscalls, fd)
            raise
        return fd
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
