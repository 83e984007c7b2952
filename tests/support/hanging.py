"""A file server of which one call does not return."""

from __future__ import annotations

import fcntl
import os
import stat
import threading

from flockpr.store.syscalls import Syscalls

LONG = 60.0


class Hanging(Syscalls):
    """A file system of which one system call does not return while `gate` is closed."""

    def __init__(self) -> None:
        self.call = ""
        self.gate = threading.Event()
        self.stuck = threading.Event()
        self._passing = 0

    def hang_in(self, call: str, *, after: int = 0) -> None:
        """From now on, in this call, when it has passed `after` times; what hangs goes on."""
        gate, self.gate = self.gate, threading.Event()
        self.stuck.clear()
        self.call, self._passing = call, after
        gate.set()

    def release(self) -> None:
        """The file server is back."""
        self.call = ""
        self.gate.set()

    def _pass(self, call: str) -> None:
        if call != self.call:
            return
        if self._passing:
            self._passing -= 1
            return
        gate = self.gate  # before anybody is told: it is another one for what hangs next
        self.stuck.set()
        gate.wait(LONG)

    def open(self, path: str, flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        self._pass("open")
        return super().open(path, flags, mode, dir_fd=dir_fd)

    def stat(self, name: str, *, dir_fd: int) -> os.stat_result:
        self._pass("stat")
        return super().stat(name, dir_fd=dir_fd)

    def write(self, fd: int, data: bytes) -> int:
        self._pass("write")
        return super().write(fd, data)

    def link(self, source: str, target: str, *, dir_fd: int) -> None:
        self._pass("link")
        super().link(source, target, dir_fd=dir_fd)

    def unlink(self, name: str, *, dir_fd: int) -> None:
        self._pass("unlink")
        super().unlink(name, dir_fd=dir_fd)

    def close(self, fd: int) -> None:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
            self._pass("close of a file")
        super().close(fd)

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        self._pass("unlock" if kind == fcntl.F_UNLCK else "lock")
        super().set_lock(fd, kind, start, length)

    def find_lock(self, fd: int, kind: int, start: int, length: int) -> tuple[int, int, int]:
        self._pass("find_lock")
        return super().find_lock(fd, kind, start, length)

    def fsync(self, fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            self._pass("sync")
        super().fsync(fd)
