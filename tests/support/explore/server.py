"""The file server as the hosts of a schedule see it, and what can go wrong with a request.

On top of `simfs`: a host that was cut off loses its locks, and reads and writes through a
description that had one fail; names, absent ones too, and listings are believed until their
directory is opened anew; a request can take effect without its reply, or long after its caller
has been told that it failed, or twice.

Each request says what it touches, so that the search knows whose order matters. What nobody
else can see or change (documents under construction, contents that never change, syncs) is no
point at which others go on: with it before or after their requests, all is the same.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import zlib
from collections.abc import Callable
from typing import TypeVar

import attrs

from flockpr.store import layout
from tests.support.explore import tasks
from tests.support.explore.tasks import Access, Request
from tests.support.simfs import LOCK_END, Call, Client, DirNode, Disk, FileNode, fail

T = TypeVar("T")

EVERYTHING = 1 << 64
_NUMBERED = re.compile(r"(\d{16})\.jsonl?")
_FIXED = frozenset({layout.IDENTITY, layout.LOCKS, layout.COMMITS, layout.AUDIT, layout.JOURNAL})
"""Names that lead to the same in every schedule."""


@attrs.define(eq=False)
class Late:
    """A request on its way, whose sender was told that it failed.

    Attributes:
        name: The call.
        what: Of what.
        land: Carries it out; OSError is an answer that nobody hears.
        accesses: What it touches.
    """

    name: str
    what: str
    land: Callable[[], None]
    accesses: tuple[Access, ...]


class Host(Client):
    """The system calls of one process on one host.

    Args:
        disk: The server.
        name: Of the host.
        pruning: Whether somebody prunes, so that documents under construction are looked at.

    Attributes:
        trouble: What happens to the next request of this host that changes a name.
        author: The task that made the request which takes effect.
        failing: Requests that change names fail until this time, without reaching the server.
        late: Requests on their way.
    """

    def __init__(
        self, disk: Disk, name: str, *, forgetful: bool = True, pruning: bool = False
    ) -> None:
        super().__init__(disk, forgetful=forgetful)
        self.name = name
        self.pruning = pruning
        self.trouble = ""
        self.failing = 0.0
        self.author = ""
        self.late: list[Late] = []
        self._paths: dict[int, str] = {}
        self._listings: dict[int, list[str]] = {}
        self._accesses: tuple[Access, ...] = ()
        self._again: Callable[[], object] | None = None

    # ------------------------------------------------------------------ points

    def _do(self, name: str, what: str, action: Callable[[], T]) -> T:
        accesses, self._accesses = self._accesses, ()
        schedule = tasks.running()
        if schedule is not None and not self.dead and schedule.ending:
            raise tasks.Ended
        if schedule is not None and not self.dead and accesses:
            schedule.point(Request(name, what, accesses))
        if name in ("link", "rename") and schedule is not None and not self.dead:
            return self._change(name, what, action, accesses)
        return super()._do(name, what, action)

    def _change(
        self, name: str, what: str, action: Callable[[], T], accesses: tuple[Access, ...]
    ) -> T:
        """A request that changes a name, with whatever the schedule does to it."""
        trouble, self.trouble = self.trouble, ""
        schedule = tasks.running()
        assert schedule is not None
        self.calls.append(Call(name, what))
        self.author = self._asking()
        again = self._again or action
        if schedule.now < self.failing:
            fail(errno.ETIMEDOUT)
        match trouble:
            case "lost reply":
                action()
                fail(errno.ETIMEDOUT)
            case "repeated":  # the reply was lost, and the client asked once more by itself
                action()
                return action()
            case "late" | "late for good":
                self._send(name, what, again, accesses)
                if trouble == "late for good":
                    self.failing = schedule.now + 5.0
                fail(errno.ETIMEDOUT)
            case "twice":  # a copy of it arrives once more, when nobody waits for it any more
                self._send(name, what, again, accesses)
                return action()
            case "refused":
                fail(errno.ENOSPC)
        return action()

    @staticmethod
    def _asking() -> str:
        schedule = tasks.running()
        task = None if schedule is None else schedule.current
        return "" if task is None else task.name

    def _send(
        self, name: str, what: str, again: Callable[[], object], accesses: tuple[Access, ...]
    ) -> None:
        """It is on its way, and arrives when the schedule says so."""
        author = self._asking()

        def land() -> None:
            self.author = author
            caches, self._cache = self._cache, {}  # the server knows nothing of those
            try:
                again()
            except OSError:
                pass  # an answer that nobody hears
            finally:
                self._cache = caches

        self.late.append(Late(name, what, land, accesses))

    # ------------------------------------------------------------------ what it touches

    def _path(self, path: str, dir_fd: int | None) -> str:
        if path.startswith("/") or dir_fd is None or dir_fd not in self._paths:
            return path
        return f"{self._paths[dir_fd]}/{path}"

    def _name(self, path: str, dir_fd: int | None, *, change: bool) -> tuple[Access, ...]:
        folder, _, name = self._path(path, dir_fd).rpartition("/")
        if name in _FIXED or not folder or name.endswith((".img", layout.DOORBELL)):
            return ()
        if name.startswith(layout.ASIDE_PREFIX):
            return (("asides", 0, 1, change),) if self.pruning else ()
        found = _NUMBERED.fullmatch(name)
        number = int(found[1]) if found else zlib.crc32(name.encode())
        return ((f"names {folder}" + ("" if found else "/*"), number, number + 1, change),)

    def _all_names(self, fd: int) -> tuple[Access, ...]:
        where = f"names {self._paths.get(fd, '')}"
        asides: tuple[Access, ...] = (("asides", 0, 1, False),) if self.pruning else ()
        if where.endswith((f"/{layout.COMMITS}", f"/{layout.AUDIT}")):
            return ((where, 0, EVERYTHING, False), *asides)
        return ((f"{where}/*", 0, EVERYTHING, False), *asides)

    def _range(self, fd: int, start: int, length: int, *, change: bool) -> Access:
        end = start + length if length else LOCK_END
        return (f"locks {self._paths.get(fd, '')}", start, end, change)

    def _bytes(self, fd: int, offset: int, size: int, *, change: bool) -> tuple[Access, ...]:
        path = self._paths.get(fd, "")
        if not path.endswith(".img"):
            return ((f"lease {self.name}", 0, 1, False),) if path.endswith(layout.LOCKS) else ()
        lease = (f"lease {self.name}", 0, 1, False)
        return ((f"data {path}", offset, offset + size, change), lease, ("answers", 0, 1, False))

    # ------------------------------------------------------------------ Syscalls

    def open(self, path: str, flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        """See `Syscalls.open`."""
        where = self._path(path, dir_fd)
        if not flags & os.O_DIRECTORY:
            self._accesses = self._name(path, dir_fd, change=bool(flags & os.O_CREAT))
        fd = super().open(path, flags, mode, dir_fd=dir_fd)
        self._paths[fd] = where
        return fd

    def _opened(self, node: DirNode | FileNode, flags: int) -> int:
        if flags & os.O_DIRECTORY:
            self._listings.pop(node.number, None)
        return super()._opened(node, flags)

    def close(self, fd: int) -> None:
        """See `Syscalls.close`."""
        handle = self.fds.get(fd)
        held = () if handle is None else self.disk.locks.get(handle.node.number, ())
        where = f"locks {self._paths.get(fd, '')}"
        mine = [lock for lock in held if lock.owner is handle]
        schedule = tasks.running()
        if mine and schedule is not None and not self.dead:
            # Here, since the locks go before the call is counted.
            accesses = tuple((where, lock.start, lock.end, True) for lock in mine)
            schedule.point(Request("close", where.removeprefix("locks "), accesses))
        self._paths.pop(fd, None)
        super().close(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """See `Syscalls.pread`."""
        self._accesses = self._bytes(fd, offset, size, change=False)
        return super().pread(fd, size, offset)

    def pread_into(self, fd: int, buffer: mmap.mmap, offset: int) -> int:
        """See `Syscalls.pread_into`: asked by the gate, to see whether a lock was lost."""
        self._accesses = ((f"lease {self.name}", 0, 1, False),)
        return super().pread_into(fd, buffer, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """See `Syscalls.pwrite`."""
        self._accesses = self._bytes(fd, offset, len(data), change=True)
        return super().pwrite(fd, data, offset)

    def link(self, source: str, target: str, *, dir_fd: int) -> None:
        """See `Syscalls.link`."""
        self._accesses = self._name(target, dir_fd, change=True)
        directory = self._dir(dir_fd)
        number = directory.names.get(source)
        self._again = lambda: self._link_node(directory, number, target)
        try:
            super().link(source, target, dir_fd=dir_fd)
        finally:
            self._again = None

    def _link_node(self, directory: DirNode, number: int | None, target: str) -> None:
        """A LINK that arrives late: it names the document by its handle, not by its name."""
        node = None if number is None else self.disk.nodes[number]
        if not isinstance(node, FileNode) or node.links <= 0:
            fail(errno.ESTALE)
        if target in directory.names:
            fail(errno.EEXIST)
        self.disk.change(directory, (target, number))
        self._tell(target, node.number)

    def rename(self, source: str, target: str, *, source_fd: int, target_fd: int) -> None:
        """See `Syscalls.rename`."""
        self._accesses = self._name(target, target_fd, change=True)
        super().rename(source, target, source_fd=source_fd, target_fd=target_fd)

    def unlink(self, name: str, *, dir_fd: int) -> None:
        """See `Syscalls.unlink`."""
        self._accesses = self._name(name, dir_fd, change=True)
        super().unlink(name, dir_fd=dir_fd)

    def stat(self, name: str, *, dir_fd: int) -> os.stat_result:
        """See `Syscalls.stat`."""
        self._accesses = self._name(name, dir_fd, change=False)
        return super().stat(name, dir_fd=dir_fd)

    def listdir(self, fd: int) -> list[str]:
        """See `Syscalls.listdir`. What was listed is believed, as names are."""
        self._accesses = self._all_names(fd)
        listed = super().listdir(fd)
        if not self.forgetful:
            return listed
        return self._listings.setdefault(self._handle(fd).node.number, listed)

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        """See `Syscalls.set_lock`."""
        lease = (f"lease {self.name}", 0, 1, False)
        self._accesses = (self._range(fd, start, length, change=True), lease)
        super().set_lock(fd, kind, start, length)

    def get_lock(self, fd: int, kind: int, start: int, length: int) -> int:
        """See `Syscalls.get_lock`."""
        self._accesses = (self._range(fd, start, length, change=False),)
        return super().get_lock(fd, kind, start, length)

    def find_lock(self, fd: int, kind: int, start: int, length: int) -> tuple[int, int, int]:
        """See `Syscalls.find_lock`."""
        self._accesses = (self._range(fd, start, length, change=False),)
        return super().find_lock(fd, kind, start, length)

    # ------------------------------------------------------------------ faults

    def held(self) -> tuple[Access, ...]:
        """The locks of this host, as what is touched when they go."""
        return tuple(
            (f"locks {self._paths.get(fd, '')}", lock.start, lock.end, True)
            for fd, handle in self.fds.items()
            for lock in self.disk.locks.get(handle.node.number, ())
            if lock.owner is handle
        )

    def forget_names(self) -> None:
        """The client's caches expire, all at once."""
        self._cache.clear()
        self._listings.clear()
