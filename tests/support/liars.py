"""File systems that do not keep what flockpr relies on, each in one way, over the real one."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import time
from typing import Any

from flockpr.probe.helpers import value_of
from flockpr.probe.operations import Operations
from flockpr.store.syscalls import Syscalls


class NeverConflicts(Syscalls):
    """Locks are granted to everybody: nolock, seen from two hosts."""

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        """Granted."""

    def get_lock(self, fd: int, kind: int, start: int, length: int) -> int:
        """Nobody has it."""
        return fcntl.F_UNLCK


class WholeFileLocks(Syscalls):
    """Locks of bytes are made of flock: FUSE without byte-range locks."""

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        """Every byte at once."""
        super().set_lock(fd, kind, 0, 0)

    def get_lock(self, fd: int, kind: int, start: int, length: int) -> int:
        """Of every byte."""
        return super().get_lock(fd, kind, 0, 0)


class FlockOfBytes(Syscalls):
    """flock is made of locks of bytes, as on NFS."""

    def flock(self, fd: int, operation: int) -> None:
        """Lock all bytes."""
        super().set_lock(fd, fcntl.F_WRLCK, 0, 0)


class DropsAtClose(Syscalls):
    """Locks go when any descriptor of the file is closed, as those of a process do."""

    def __init__(self) -> None:
        self._locked: dict[int, tuple[int, int]] = {}

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        """Remembered."""
        super().set_lock(fd, kind, start, length)
        status = os.fstat(fd)
        self._locked[fd] = (status.st_dev, status.st_ino)

    def close(self, fd: int) -> None:
        """Drop the locks of all descriptors of the file."""
        status = os.fstat(fd)
        self._locked.pop(fd, None)
        for other, key in self._locked.items():
            if key == (status.st_dev, status.st_ino):
                super().set_lock(other, fcntl.F_UNLCK, 0, 0)
        super().close(fd)


class NoLocks(Syscalls):
    """There is no lock manager."""

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        """Fails."""
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


class LinkOverwrites(Syscalls):
    """link takes a name away from whoever has it."""

    def link(self, source: str, target: str, *, dir_fd: int) -> None:
        """Always succeeds."""
        try:
            super().link(source, target, dir_fd=dir_fd)
        except FileExistsError:
            os.unlink(target, dir_fd=dir_fd)
            super().link(source, target, dir_fd=dir_fd)


class LinkForgets(LinkOverwrites):
    """link takes a name away only from a file that was linked itself: it knows what is old."""

    def link(self, source: str, target: str, *, dir_fd: int) -> None:
        """Succeeds in a race."""
        if "-slot-" in target:
            super().link(source, target, dir_fd=dir_fd)
        else:
            Syscalls.link(self, source, target, dir_fd=dir_fd)


class RememberedAbsence(Syscalls):
    """A name that was looked for in vain stays absent."""

    def __init__(self) -> None:
        self._absent: set[str] = set()

    def open(self, path: str, flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        """Fails if it ever failed."""
        if path in self._absent and not flags & os.O_CREAT:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        try:
            return super().open(path, flags, mode, dir_fd=dir_fd)
        except FileNotFoundError:
            self._absent.add(path)
            raise


class RememberedListing(Syscalls):
    """The first listing of a directory is the last."""

    def __init__(self) -> None:
        self._listings: dict[int, list[str]] = {}

    def listdir(self, fd: int) -> list[str]:
        """What it was."""
        number = os.fstat(fd).st_ino
        return self._listings.setdefault(number, super().listdir(fd))


class RememberedFile(Syscalls):
    """A name leads for ever to the file that it led to first."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}

    def open(self, path: str, flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        """The first one again."""
        if flags & (os.O_CREAT | os.O_DIRECTORY):
            return super().open(path, flags, mode, dir_fd=dir_fd)
        if path not in self._first:
            self._first[path] = super().open(path, flags, mode, dir_fd=dir_fd)
        os.lseek(self._first[path], 0, os.SEEK_SET)
        return os.dup(self._first[path])


class StaleWhileReplaced(Syscalls):
    """A file has been replaced whenever it is read, so many times: no lie, NFS does so.

    Args:
        times: How often.
    """

    def __init__(self, times: float) -> None:
        self.left = times

    def open(self, path: str, flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        """ESTALE where a file is opened that is there."""
        opened = super().open(path, flags, mode, dir_fd=dir_fd)
        if path.endswith("-file") and self.left > 0:
            self.left -= 1
            os.close(opened)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return opened


class CopiesForRename(Syscalls):
    """rename copies, in pieces."""

    def rename(self, source: str, target: str, *, source_fd: int, target_fd: int) -> None:
        """Half of it, and a little later the rest."""
        old = os.open(source, os.O_RDONLY, dir_fd=source_fd)
        new = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=target_fd)
        data = os.read(old, 1 << 16)
        os.write(new, data[: len(data) // 2])
        time.sleep(0.05)
        os.write(new, data[len(data) // 2 :])
        os.close(old)
        os.close(new)
        os.unlink(source, dir_fd=source_fd)


class NoDirectorySync(Syscalls):
    """A directory cannot be synchronized."""

    def fsync(self, fd: int) -> None:
        """Of files only."""
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        super().fsync(fd)


class NoDirect(Syscalls):
    """There is no O_DIRECT."""

    def open(self, path: str, flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        """Fails with it."""
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return super().open(path, flags, mode, dir_fd=dir_fd)


class NoHoles(Syscalls):
    """No holes can be made."""

    def punch(self, fd: int, offset: int, length: int) -> None:
        """Fails."""
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


class NoRoom(Syscalls):
    """The disk is full."""

    def mkdir(self, name: str, mode: int, *, dir_fd: int | None = None) -> None:
        """Fails."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class LocksHang(Syscalls):
    """A file server that is gone."""

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        """Never returns."""
        threading.Event().wait()


class Inside:
    """An actor in this process, with a file system of its own."""

    def __init__(self, path: str, syscalls: Syscalls) -> None:
        self._operations = Operations(path, syscalls)
        self._answer: dict[str, Any] = {}
        self._thread: threading.Thread | None = None

    def start(self, what: str, **arguments: Any) -> None:
        """Do it in a thread."""

        def perform() -> None:
            self._answer = self._operations.perform({"do": what, "with": arguments})

        self._thread = threading.Thread(target=perform, daemon=True)
        self._thread.start()

    def finish(self) -> Any:
        """Wait for it."""
        assert self._thread is not None
        self._thread.join(100)
        assert not self._thread.is_alive()
        return value_of(self._answer)
