"""A file system in memory behind the `Syscalls` seam, with what a disk and a server may do.

`Disk` is what several hosts share. It tells what was written from what is on stable storage:
`cut` makes the disk that a power loss leaves behind, where of everything that was not synced
any part may be there and any part missing, each directory entry and each file for itself.

`Client` is one process on one host: its descriptors, its locks, its name cache. It can be
told to be as forgetful as an NFS client, to fail single calls, and to die at any call.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Callable
from typing import NoReturn, TypeVar

import attrs

from flockpr.store.statx import Attributes
from flockpr.store.syscalls import Syscalls
from flockpr.store.vigil import Vigil

T = TypeVar("T")

DEVICE = 42
_ROOT = 1
LOCK_END = 1 << 63
"""End of a range that goes on to the end of what a file can be."""


class Killed(BaseException):  # nothing in the package may catch it
    """The process died at this call: nothing after it happens."""


@attrs.define
class FileNode:
    """A regular file (or, for foreign things in a file's place, anything else)."""

    number: int
    mode: int
    mtime_ns: int
    data: bytes = b""
    durable: bytes = b""
    links: int = 1
    gid: int = 0


Change = tuple[tuple[str, int | None], ...]
"""Names that change together: what they lead to from now on, None for nothing."""


@attrs.define
class DirNode:
    """A directory: its names now, those on stable storage, and the changes in between."""

    number: int
    mode: int
    mtime_ns: int
    names: dict[str, int] = attrs.Factory(dict)
    durable: dict[str, int] = attrs.Factory(dict)
    pending: list[Change] = attrs.Factory(list)
    removed: bool = False
    gid: int = 0


Node = FileNode | DirNode


@attrs.define(eq=False)
class OpenFile:
    """An open file description.

    Attributes:
        lost: Ranges whose lock went with a lease: while there is one, reads and writes fail
            (NFSv4: EIO, until it is closed or what was lost is unlocked; seen).
    """

    node: Node
    flags: int
    offset: int = 0
    lost: list[tuple[int, int]] = attrs.Factory(list)


@attrs.frozen
class Lock:
    """A byte-range lock of an open file description."""

    owner: OpenFile
    kind: int
    start: int
    end: int


@attrs.frozen
class Call:
    """One system call of one client, as taps see it."""

    name: str
    what: str


def fail(number: int, what: str = "") -> NoReturn:
    """Raise the OSError of an errno."""
    raise OSError(number, os.strerror(number), what)


class Disk:
    """What all hosts share: inodes, directories, byte-range locks, calls that land late."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {_ROOT: DirNode(_ROOT, stat.S_IFDIR | 0o755, 1)}
        self.locks: dict[int, list[Lock]] = {}
        self.late: list[Callable[[], None]] = []
        self.linked: Callable[[Client, str, bytes], None] | None = None
        self.version = 0
        self._tick = 1
        self._next = _ROOT + 1

    @property
    def root(self) -> DirNode:
        """The root directory."""
        node = self.nodes[_ROOT]
        assert isinstance(node, DirNode)
        return node

    def tick(self) -> int:
        """A new time stamp."""
        self._tick += 1
        return self._tick

    def new_file(self, mode: int, data: bytes = b"") -> FileNode:
        """A file that no name leads to yet."""
        node = FileNode(self._next, mode, self.tick(), data)
        self._next += 1
        self.nodes[node.number] = node
        return node

    def new_directory(self, mode: int) -> DirNode:
        """A directory that no name leads to yet."""
        node = DirNode(self._next, stat.S_IFDIR | mode, self.tick())
        self._next += 1
        self.nodes[node.number] = node
        return node

    def change(self, directory: DirNode, *changes: tuple[str, int | None]) -> None:
        """Change names; volatile until the directory is synced."""
        if directory.removed:
            fail(errno.ENOENT)
        for name, number in changes:
            before = directory.names.pop(name, None)
            if before is not None:
                self._count(before, -1)
            if number is not None:
                directory.names[name] = number
                self._count(number, +1)
        directory.pending.append(changes)
        self.version += 1
        directory.mtime_ns = self.tick()

    def _count(self, number: int, by: int) -> None:
        node = self.nodes[number]
        if isinstance(node, FileNode):
            node.links += by
        elif by < 0 and node.number != _ROOT:
            node.removed = not node.names and not self._named(node.number)

    def _named(self, number: int) -> bool:
        return any(
            number in node.names.values()
            for node in self.nodes.values()
            if isinstance(node, DirNode)
        )

    def sync(self, node: Node) -> None:
        """What fsync promises: a file's contents, or a directory's names."""
        self.version += 1
        if isinstance(node, FileNode):
            node.durable = node.data
        else:
            node.durable = dict(node.names)
            node.pending.clear()

    def sync_all(self) -> None:
        """Everything on stable storage, as after a long quiet time."""
        for node in self.nodes.values():
            self.sync(node)

    def land(self) -> None:
        """Let the calls that were on their way arrive."""
        late, self.late = self.late, []
        for call in late:
            call()

    def cut(self, choose: Callable[[int], int]) -> Disk:
        """The disk after a power loss at this moment; this one stays as it is.

        Args:
            choose: A number from 0 to n - 1, for n: the fate of one thing not synced.
        """
        after = Disk()
        after._tick, after._next = self._tick, self._next
        after.nodes = {}
        for number, node in self.nodes.items():
            if isinstance(node, FileNode):
                data = node.data if node.data == node.durable else _torn(node, choose)
                after.nodes[number] = attrs.evolve(node, data=data, durable=data, links=0)
            else:
                names = dict(node.durable)
                for changes in node.pending:
                    if choose(2):
                        _apply(names, changes)
                after.nodes[number] = attrs.evolve(
                    node, names=names, durable=dict(names), pending=[], removed=False
                )
        after._count_links()
        return after

    def copy(self) -> Disk:
        """The same disk again, without open files and locks."""
        after = Disk()
        after._tick, after._next = self._tick, self._next
        after.nodes = {
            number: attrs.evolve(node, links=0)
            if isinstance(node, FileNode)
            else attrs.evolve(
                node, names=dict(node.names), durable=dict(node.durable), pending=[*node.pending]
            )
            for number, node in self.nodes.items()
        }
        after._count_links()
        return after

    def _count_links(self) -> None:
        for node in self.nodes.values():
            for target in node.names.values() if isinstance(node, DirNode) else ():
                found = self.nodes[target]
                if isinstance(found, FileNode):
                    found.links += 1

    def find(self, path: str) -> Node:
        """The node at an absolute path."""
        node: Node = self.root
        for part in path.strip("/").split("/"):
            if not isinstance(node, DirNode):
                fail(errno.ENOTDIR, path)
            number = node.names.get(part)
            if number is None:
                fail(errno.ENOENT, path)
            node = self.nodes[number]
        return node

    def directory(self, path: str) -> DirNode:
        """The directory at an absolute path."""
        node = self.find(path)
        assert isinstance(node, DirNode)
        return node

    def contents(self, path: str) -> bytes:
        """The bytes of the file at an absolute path."""
        node = self.find(path)
        assert isinstance(node, FileNode)
        return node.data


def _apply(names: dict[str, int], changes: Change) -> None:
    for name, number in changes:
        if number is None:
            names.pop(name, None)
        else:
            names[name] = number


def _torn(node: FileNode, choose: Callable[[int], int]) -> bytes:
    """What a power loss may leave of a file that was not synced."""
    match choose(5):
        case 0:
            return node.durable
        case 1:
            return node.data
        case 2:
            return b"\0" * len(node.data)
        case 3:
            return node.data[: choose(len(node.data) + 1)]
    at = choose(len(node.data) + 1)
    return node.data[:at] + b"\0" * (len(node.data) - at)


Tap = Callable[["Client", Call], None]


class Client(Syscalls):
    """One process: a `Syscalls` over a `Disk`.

    Args:
        disk: The disk.
        forgetful: Names once looked up, absent ones too, are believed until the directory
            is opened anew, as by an NFS client; `coherent` then says no.
        before: Called before each call takes effect; may raise.
        after: Called after each call took effect; an OSError that it raises is a reply
            that was lost.
    """

    def __init__(
        self,
        disk: Disk,
        *,
        forgetful: bool = False,
        before: Tap | None = None,
        after: Tap | None = None,
    ) -> None:
        self.disk = disk
        self.forgetful = forgetful
        self.before = before
        self.after = after
        self.every: Callable[[], None] | None = None
        self.dead = False
        self.fds: dict[int, OpenFile] = {}
        self.calls: list[Call] = []
        self.handles: dict[str, Node] = {}
        """Names that `stat_now` takes for these files, which the server has open yet."""
        self._cache: dict[int, dict[str, int | None]] = {}

    # ------------------------------------------------------------------ the process

    def die(self) -> None:
        """End at once, as by SIGKILL: descriptors and locks go, nothing else happens."""
        self.dead = True
        for handle in self.fds.values():
            self._forget_locks(handle)
        self.fds.clear()

    def _do(self, name: str, what: str, action: Callable[[], T]) -> T:
        call = Call(name, what)
        if self.dead:
            raise Killed
        self.calls.append(call)
        if self.every is not None:
            self.every()
        if self.before is not None:
            self.before(self, call)
        result = action()
        if self.after is not None:
            self.after(self, call)
        return result

    def _forget_locks(self, handle: OpenFile) -> None:
        held = self.disk.locks.get(handle.node.number)
        if held:
            self.disk.locks[handle.node.number] = [x for x in held if x.owner is not handle]

    def lose_lease(self) -> None:
        """The host was cut off for longer than its lease, and somebody asked for its locks: they
        are gone, and nobody tells it.
        """
        for handle in self.fds.values():
            held = self.disk.locks.get(handle.node.number, ())
            handle.lost += [(x.start, x.end) for x in held if x.owner is handle]
            self._forget_locks(handle)

    def _fenced(self, handle: OpenFile) -> None:
        """Reads and writes through a description that has lost a lock do not pass the server."""
        if handle.lost:
            fail(errno.EIO)

    def _handle(self, fd: int) -> OpenFile:
        if fd not in self.fds:
            fail(errno.EBADF)
        return self.fds[fd]

    def _dir(self, fd: int) -> DirNode:
        node = self._handle(fd).node
        if not isinstance(node, DirNode):
            fail(errno.ENOTDIR)
        return node

    # ------------------------------------------------------------------ names

    def _lookup(self, directory: DirNode, name: str) -> int | None:
        if not self.forgetful:
            return directory.names.get(name)
        cache = self._cache.setdefault(directory.number, {})
        return cache.setdefault(name, directory.names.get(name))

    def _learn(self, directory: DirNode, name: str, number: int | None) -> None:
        if self.forgetful:
            self._cache.setdefault(directory.number, {})[name] = number

    def _node(self, number: int) -> Node:
        node = self.disk.nodes[number]
        if isinstance(node, FileNode) and node.links <= 0 and self.forgetful:
            fail(errno.ESTALE)
        return node

    def _resolve(self, path: str, dir_fd: int | None) -> tuple[DirNode, str, int | None]:
        """The directory that holds the last name, that name, and what it leads to."""
        *parents, name = path.strip("/").split("/")
        if path.startswith("/"):
            dir_fd = None
        if dir_fd is None:
            directory: Node = self.disk.root
        else:
            directory = self._dir(dir_fd)
        for part in parents:
            assert isinstance(directory, DirNode)
            number = directory.names.get(part)
            if number is None:
                fail(errno.ENOENT, path)
            directory = self._node(number)
        if not isinstance(directory, DirNode):
            fail(errno.ENOTDIR, path)
        if dir_fd is None:  # the way to a mount point is not the file server's to keep
            return directory, name, directory.names.get(name)
        return directory, name, self._lookup(directory, name)

    # ------------------------------------------------------------------ Syscalls

    def open(self, path: str, flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        """See `Syscalls.open`."""
        return self._do("open", path, lambda: self._open(path, flags, mode, dir_fd))

    def _open(self, path: str, flags: int, mode: int, dir_fd: int | None) -> int:
        if path == "/":
            return self._opened(self.disk.root, flags)
        directory, name, number = self._resolve(path, dir_fd)
        if flags & os.O_CREAT and flags & os.O_EXCL:
            number = directory.names.get(name)  # the server decides
            if number is not None:
                fail(errno.EEXIST, path)
        if number is None:
            if not flags & os.O_CREAT:
                fail(errno.ENOENT, path)
            node: Node = self.disk.new_file(stat.S_IFREG | mode)
            node.gid = directory.gid if directory.mode & stat.S_ISGID else 0
            assert isinstance(node, FileNode)
            node.links = 0
            self.disk.change(directory, (name, node.number))
            self._learn(directory, name, node.number)
        else:
            node = self._node(number)
        kind = stat.S_IFMT(node.mode)
        if kind == stat.S_IFLNK and flags & os.O_NOFOLLOW:
            fail(errno.ENOTDIR if flags & os.O_DIRECTORY else errno.ELOOP, path)
        if flags & os.O_DIRECTORY and kind != stat.S_IFDIR:
            fail(errno.ENOTDIR, path)
        if kind == stat.S_IFDIR and flags & (os.O_WRONLY | os.O_RDWR):
            fail(errno.EISDIR, path)
        if kind == stat.S_IFSOCK:
            fail(errno.ENXIO, path)
        return self._opened(node, flags)

    def _opened(self, node: Node, flags: int) -> int:
        if flags & os.O_DIRECTORY:
            self._cache.pop(node.number, None)
        fd = next(n for n in range(3, 4096) if n not in self.fds)
        self.fds[fd] = OpenFile(node, flags)
        return fd

    def close(self, fd: int) -> None:
        """See `Syscalls.close`. The descriptor is gone even where the call fails."""
        if self.dead:
            raise Killed
        handle = self.fds.pop(fd, None)
        if handle is None:
            fail(errno.EBADF)
        self._forget_locks(handle)
        self._do("close", "", lambda: None)

    def duplicate(self, fd: int) -> int:
        """See `Syscalls.duplicate`."""
        return self._do("duplicate", "", lambda: self._opened(self._handle(fd).node, 0))

    def read(self, fd: int, size: int) -> bytes:
        """See `Syscalls.read`."""
        return self._do("read", "", lambda: self._read(fd, size))

    def _read(self, fd: int, size: int) -> bytes:
        handle = self._handle(fd)
        if isinstance(handle.node, DirNode):
            fail(errno.EISDIR)
        data = handle.node.data[handle.offset : handle.offset + size]
        handle.offset += len(data)
        return data

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """See `Syscalls.pread`."""
        return self._do("pread", "", lambda: self._pread(fd, size, offset))

    def _pread(self, fd: int, size: int, offset: int) -> bytes:
        handle = self._handle(fd)
        assert isinstance(handle.node, FileNode)
        self._fenced(handle)
        return handle.node.data[offset : offset + size]

    def pread_into(self, fd: int, buffer: mmap.mmap, offset: int) -> int:
        """See `Syscalls.pread_into`."""
        data = self._do("pread_into", "", lambda: self._pread(fd, len(buffer), offset))
        buffer[: len(data)] = data
        return len(data)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """See `Syscalls.pwrite`; past every cache, as with O_DIRECT."""
        return self._do("pwrite", f"{offset}", lambda: self._pwrite(fd, data, offset))

    def _pwrite(self, fd: int, data: bytes, offset: int) -> int:
        handle = self._handle(fd)
        assert isinstance(handle.node, FileNode)
        self._fenced(handle)
        old = handle.node.data
        handle.node.data = old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]
        handle.node.mtime_ns = self.disk.tick()
        self.disk.version += 1
        return len(data)

    def write(self, fd: int, data: bytes) -> int:
        """See `Syscalls.write`. Large writes are short ones."""
        return self._do("write", "", lambda: self._write(fd, data[:65536]))

    def _write(self, fd: int, data: bytes) -> int:
        handle = self._handle(fd)
        assert isinstance(handle.node, FileNode)
        if handle.flags & os.O_APPEND:
            handle.offset = len(handle.node.data)
        old, at = handle.node.data, handle.offset
        handle.node.data = old[:at].ljust(at, b"\0") + data + old[at + len(data) :]
        handle.node.mtime_ns = self.disk.tick()
        self.disk.version += 1
        handle.offset += len(data)
        return len(data)

    def fsync(self, fd: int) -> None:
        """See `Syscalls.fsync`."""
        node = self._handle(fd).node
        kind = "directory" if isinstance(node, DirNode) else "file"
        self._do("fsync", kind, lambda: self.disk.sync(node))

    def link(self, source: str, target: str, *, dir_fd: int) -> None:
        """See `Syscalls.link`."""
        directory = self._dir(dir_fd)
        self._do("link", target, lambda: self.link_now(directory, source, target))

    def link_now(self, directory: DirNode, source: str, target: str) -> None:
        """What the server does for LINK, whenever it arrives."""
        number = directory.names.get(source)
        if number is None:
            fail(errno.ENOENT, source)
        cached = self._cache.get(directory.number, {}).get(target)
        if target in directory.names or cached is not None:
            fail(errno.EEXIST, target)
        if isinstance(self.disk.nodes[number], DirNode):
            fail(errno.EPERM, source)
        self.disk.change(directory, (target, number))
        self._learn(directory, target, number)
        self._tell(target, number)

    def _tell(self, name: str, number: int) -> None:
        node = self.disk.nodes[number]
        if self.disk.linked is not None and isinstance(node, FileNode):
            self.disk.linked(self, name, node.data)

    def rename(self, source: str, target: str, *, source_fd: int, target_fd: int) -> None:
        """See `Syscalls.rename`. Both names are in one directory."""
        directory = self._dir(source_fd)
        if self._dir(target_fd) is not directory:
            fail(errno.EXDEV)
        self._do("rename", target, lambda: self.rename_now(directory, source, target))

    def rename_now(self, directory: DirNode, source: str, target: str) -> None:
        """What the server does for RENAME, whenever it arrives."""
        number = directory.names.get(source)
        if number is None:
            fail(errno.ENOENT, source)
        replaced = directory.names.get(target)
        if replaced == number:
            return  # two names of one inode: rename silently does nothing
        if replaced is not None:
            self._check_replaceable(self.disk.nodes[number], self.disk.nodes[replaced])
        self.disk.change(directory, (target, number), (source, None))
        self._learn(directory, source, None)
        self._learn(directory, target, number)
        self._tell(target, number)

    def _check_replaceable(self, node: Node, replaced: Node) -> None:
        if isinstance(node, DirNode):
            if not isinstance(replaced, DirNode):
                fail(errno.ENOTDIR)
            if replaced.names:
                fail(errno.ENOTEMPTY)
        elif isinstance(replaced, DirNode):
            fail(errno.EISDIR)

    def unlink(self, name: str, *, dir_fd: int) -> None:
        """See `Syscalls.unlink`."""
        self._do("unlink", name, lambda: self._unlink(name, dir_fd))

    def _unlink(self, name: str, dir_fd: int) -> None:
        directory, name, number = self._resolve(name, dir_fd)
        if number is None or name not in directory.names:
            fail(errno.ENOENT, name)
        if isinstance(self.disk.nodes[directory.names[name]], DirNode):
            fail(errno.EISDIR, name)
        self.disk.change(directory, (name, None))
        self._learn(directory, name, None)

    def listdir(self, fd: int) -> list[str]:
        """See `Syscalls.listdir`."""
        return self._do("listdir", "", lambda: list(self._dir(fd).names))

    def stat(self, name: str, *, dir_fd: int) -> os.stat_result:
        """See `Syscalls.stat`."""
        return self._do("stat", name, lambda: self._stat(name, dir_fd))

    def _stat(self, name: str, dir_fd: int) -> os.stat_result:
        _, _, number = self._resolve(name, dir_fd)
        if number is None:
            fail(errno.ENOENT, name)
        return _status(self.disk.nodes[number])  # attributes come from the cache, stale or not

    def stat_now(self, name: str, *, dir_fd: int) -> Attributes:
        """See `Syscalls.stat_now`. The name comes from the cache, what it leads to does not."""
        return self._do("stat now", name, lambda: self._stat_now(name, dir_fd))

    def _stat_now(self, name: str, dir_fd: int) -> Attributes:
        if name in self.handles:
            return _attributes(self.handles[name])
        _, _, number = self._resolve(name, dir_fd)
        if number is None:
            fail(errno.ENOENT, name)
        return _attributes(self._node(number))

    def which(self, name: str, *, dir_fd: int) -> tuple[int, int]:
        """See `Syscalls.which`."""
        status = self._do("which", name, lambda: self._stat(name, dir_fd))
        return status.st_dev, status.st_ino

    def fstat(self, fd: int) -> os.stat_result:
        """See `Syscalls.fstat`."""
        return self._do("fstat", "", lambda: _status(self._handle(fd).node))

    def fchmod(self, fd: int, mode: int) -> None:
        """See `Syscalls.fchmod`."""
        self._do("fchmod", "", lambda: self._set_mode(fd, mode))

    def _set_mode(self, fd: int, mode: int) -> None:
        node = self._handle(fd).node
        node.mode = stat.S_IFMT(node.mode) | mode

    def fchown(self, fd: int, uid: int, gid: int) -> None:
        """See `Syscalls.fchown`."""
        self._do("fchown", f"{uid}", lambda: setattr(self._handle(fd).node, "gid", gid))

    def mkdir(self, name: str, mode: int, *, dir_fd: int | None = None) -> None:
        """See `Syscalls.mkdir`."""
        self._do("mkdir", name, lambda: self._mkdir(name, mode, dir_fd))

    def _mkdir(self, name: str, mode: int, dir_fd: int | None) -> None:
        directory, name, _ = self._resolve(name, dir_fd)
        if name in directory.names:
            fail(errno.EEXIST, name)
        if directory.removed:
            fail(errno.ENOENT, name)
        node = self.disk.new_directory(mode)
        self.disk.change(directory, (name, node.number))
        self._learn(directory, name, node.number)

    def rmdir(self, name: str, *, dir_fd: int) -> None:
        """See `Syscalls.rmdir`."""
        self._do("rmdir", name, lambda: self._rmdir(name, dir_fd))

    def _rmdir(self, name: str, dir_fd: int) -> None:
        directory, name, number = self._resolve(name, dir_fd)
        if number is None or name not in directory.names:
            fail(errno.ENOENT, name)
        node = self.disk.nodes[number]
        if not isinstance(node, DirNode):
            fail(errno.ENOTDIR, name)
        if node.names:
            fail(errno.ENOTEMPTY, name)
        self.disk.change(directory, (name, None))
        self._learn(directory, name, None)

    # ------------------------------------------------------------------ locks

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        """See `Syscalls.set_lock`."""
        self._do("lock", f"{kind} {start:#x}", lambda: self._set_lock(fd, kind, start, length))

    def _set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        handle = self._handle(fd)
        held = self.disk.locks.setdefault(handle.node.number, [])
        end = start + length if length else LOCK_END
        if kind != fcntl.F_UNLCK and self._conflict(handle, kind, start, end) is not None:
            fail(errno.EAGAIN)
        # Of a range that is there only the middle may change: what is left of it stays.
        mine = [x for x in held if x.owner is handle and x.start < end and start < x.end]
        held[:] = [x for x in held if x not in mine]
        for lock in mine:
            left, right = (lock.start, min(start, lock.end)), (max(end, lock.start), lock.end)
            held += [Lock(handle, lock.kind, *part) for part in (left, right) if part[0] < part[1]]
        if kind == fcntl.F_UNLCK:
            handle.lost = [x for x in handle.lost if not (start <= x[0] and x[1] <= end)]
        else:
            held.append(Lock(handle, kind, start, end))

    def _conflict(self, handle: OpenFile, kind: int, start: int, end: int) -> Lock | None:
        for lock in self.disk.locks.get(handle.node.number, ()):
            exclusive = fcntl.F_WRLCK in (kind, lock.kind)
            if lock.owner is not handle and exclusive and lock.start < end and start < lock.end:
                return lock
        return None

    def get_lock(self, fd: int, kind: int, start: int, length: int) -> int:
        """See `Syscalls.get_lock`."""
        return self._do("getlk", f"{start:#x}", lambda: self._get_lock(fd, kind, start, length))

    def _get_lock(self, fd: int, kind: int, start: int, length: int) -> int:
        return self._find_lock(fd, kind, start, length)[0]

    def find_lock(self, fd: int, kind: int, start: int, length: int) -> tuple[int, int, int]:
        """See `Syscalls.find_lock`."""
        return self._do(
            "getlk", f"{start:#x}+{length:#x}", lambda: self._find_lock(fd, kind, start, length)
        )

    def _find_lock(self, fd: int, kind: int, start: int, length: int) -> tuple[int, int, int]:
        end = start + length if length else LOCK_END
        lock = self._conflict(self._handle(fd), kind, start, end)
        if lock is None:
            return fcntl.F_UNLCK, start, length
        return lock.kind, lock.start, 0 if lock.end == LOCK_END else lock.end - lock.start

    def coherent(self, fd: int) -> bool:
        """See `Syscalls.coherent`."""
        self._handle(fd)
        return not self.forgetful

    def answers_now(self, fd: int) -> bool:
        """See `Syscalls.answers_now`."""
        self._handle(fd)
        return self.forgetful

    def await_changes(self, fd: int) -> None:
        """See `Syscalls.await_changes`: a call is one step here, so none is half done."""

    def keep_vigil(self, fd: int) -> Vigil:
        """See `Syscalls.keep_vigil`."""
        return Watcher(self.disk, self._dir(fd))


class Watcher:
    """Says what the kernel would: whether anything in a directory is not as it was."""

    def __init__(self, disk: Disk, directory: DirNode) -> None:
        self._disk = disk
        self._directory = directory
        self._before: object = None

    def _now(self) -> object:
        found = ((name, self._disk.nodes[at]) for name, at in self._directory.names.items())
        return sorted(
            (name, node.number, node.mtime_ns, len(node.data))
            for name, node in found
            if isinstance(node, FileNode)
        )

    def begin(self) -> None:
        """See `Vigil.begin`."""
        self._before = self._now()

    def undisturbed(self) -> bool:
        """See `Vigil.undisturbed`."""
        return self._before == self._now()

    def quiet(self) -> bool:
        """See `Vigil.quiet`."""
        return self.undisturbed()

    def end(self) -> None:
        """See `Vigil.end`."""
        self._before = None


def _attributes(node: Node) -> Attributes:
    now = _status(node)
    return Attributes(now.st_dev, now.st_ino, now.st_mtime_ns, now.st_size, now.st_nlink)


def _status(node: Node) -> os.stat_result:
    size = len(node.data) if isinstance(node, FileNode) else 0
    links = max(0, node.links) if isinstance(node, FileNode) else 0 if node.removed else 2
    seconds = node.mtime_ns // 10**9
    fields = (node.mode, node.number, DEVICE, links, 0, node.gid, size, seconds, seconds, seconds)
    return os.stat_result(fields, {"st_mtime_ns": node.mtime_ns, "st_mtime": float(seconds)})
