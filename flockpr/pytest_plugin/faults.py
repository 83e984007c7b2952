"""Faults of one host: its calls into the shared directory fail, hang, or are its last."""

from __future__ import annotations

import contextlib
import errno as errnos
import fcntl
import os
from collections.abc import Callable
from typing import Final, Literal

import attrs

from flockpr.store.layout import ASIDE_PREFIX, COMMIT_NAME
from flockpr.store.syscalls import Syscalls

Point = Literal["before-temporary", "after-temporary", "before-link", "after-link", "before-reply"]
"""A moment in the life of a command that changes something:

* `before-temporary`: nothing was written yet;
* `after-temporary`: the new state is in a file of its own, whole and synced;
* `before-link`: the same, and the next call would make it count;
* `after-link`: it counts, and nothing was answered;
* `before-reply`: all is done, and the answer is lost.
"""
POINTS: Final = (
    "before-temporary",
    "after-temporary",
    "before-link",
    "after-link",
    "before-reply",
)


class HostDiedError(BaseException):
    """The process is no more; nothing that would tidy up may run."""


class UnreachableError(BaseException):
    """A call that does not return: the share cannot be reached."""


@attrs.define
class Fault:
    """What happens at a point.

    Attributes:
        point: Where; None: at every call.
        strike: Called there; raises, or lets time pass.
        times: How often it still happens; None: until it is taken back.
    """

    point: Point | None
    strike: Callable[[], None]
    times: int | None = 1


class HostCalls(Syscalls):
    """The system calls of one host."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.reachable = True
        self.dead = False
        self._open: set[int] = set()
        self._aside: set[int] = set()
        self._locks: dict[int, set[tuple[int, int]]] = {}
        self._lost: set[int] = set()

    # ------------------------------------------------------------------ what befalls it

    def at(self, point: Point) -> None:
        """The host has come to a point."""
        for fault in list(self.faults):
            if fault.point == point:
                self._strike(fault)

    def _strike(self, fault: Fault) -> None:
        if fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                self.faults.remove(fault)
        fault.strike()

    def _pass(self) -> None:
        """Before every call."""
        if self.dead:
            raise HostDiedError
        if not self.reachable:
            raise UnreachableError
        for fault in list(self.faults):
            if fault.point is None:
                self._strike(fault)

    def die(self) -> None:
        """The kernel closes what the process had open, and with it its locks."""
        self.dead = True
        for fd in self._open:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._open.clear()
        self._locks.clear()

    def lose_locks(self) -> None:
        """The server takes the locks away: the lease ran out. Reads through their descriptors
        are EIO from then on, as on NFSv4.
        """
        for fd, ranges in self._locks.items():
            for start, length in ranges:
                super().set_lock(fd, fcntl.F_UNLCK, start, length)
            self._lost.add(fd)
        self._locks.clear()

    # ------------------------------------------------------------------ the calls

    def open(self, path: str, flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        """See `Syscalls`."""
        self._pass()
        aside = path.startswith(ASIDE_PREFIX) and bool(flags & os.O_CREAT)
        if aside:
            self.at("before-temporary")
        fd = super().open(path, flags, mode, dir_fd=dir_fd)
        self._open.add(fd)
        if aside:
            self._aside.add(fd)
        return fd

    def close(self, fd: int) -> None:
        """See `Syscalls`."""
        if self.dead:
            return  # the kernel did it
        self._open.discard(fd)
        self._locks.pop(fd, None)
        self._lost.discard(fd)
        super().close(fd)

    def fsync(self, fd: int) -> None:
        """See `Syscalls`."""
        self._pass()
        super().fsync(fd)
        if fd in self._aside:
            self._aside.discard(fd)
            self.at("after-temporary")

    def link(self, source: str, target: str, *, dir_fd: int) -> None:
        """See `Syscalls`."""
        self._pass()
        commit = COMMIT_NAME.fullmatch(target) is not None
        if commit:
            self.at("before-link")
        super().link(source, target, dir_fd=dir_fd)
        if commit:
            self.at("after-link")

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """See `Syscalls`."""
        self._pass()
        if fd in self._lost:
            raise OSError(errnos.EIO, os.strerror(errnos.EIO))
        return super().pread(fd, size, offset)

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        """See `Syscalls`."""
        self._pass()
        super().set_lock(fd, kind, start, length)
        ranges = self._locks.setdefault(fd, set())
        if kind == fcntl.F_UNLCK:
            ranges.discard((start, length))
        else:
            ranges.add((start, length))

    def read(self, fd: int, size: int) -> bytes:
        """See `Syscalls`."""
        self._pass()
        return super().read(fd, size)

    def write(self, fd: int, data: bytes) -> int:
        """See `Syscalls`."""
        self._pass()
        return super().write(fd, data)

    def rename(self, source: str, target: str, *, source_fd: int, target_fd: int) -> None:
        """See `Syscalls`."""
        self._pass()
        super().rename(source, target, source_fd=source_fd, target_fd=target_fd)

    def unlink(self, name: str, *, dir_fd: int) -> None:
        """See `Syscalls`."""
        self._pass()
        super().unlink(name, dir_fd=dir_fd)

    def listdir(self, fd: int) -> list[str]:
        """See `Syscalls`."""
        self._pass()
        return super().listdir(fd)

    def stat(self, name: str, *, dir_fd: int) -> os.stat_result:
        """See `Syscalls`."""
        self._pass()
        return super().stat(name, dir_fd=dir_fd)

    def fstat(self, fd: int) -> os.stat_result:
        """See `Syscalls`."""
        self._pass()
        return super().fstat(fd)

    def get_lock(self, fd: int, kind: int, start: int, length: int) -> int:
        """See `Syscalls`."""
        self._pass()
        return super().get_lock(fd, kind, start, length)


def failing(name: str) -> Callable[[], None]:
    """Raises the error of this name: ``ENOSPC``, ``ESTALE``, ``EIO`` ..."""
    number = getattr(errnos, name)

    def strike() -> None:
        raise OSError(number, os.strerror(number))

    return strike
