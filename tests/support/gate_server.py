"""A simulated file server with one image, and clients of it that fail in all the ways that count.

The locks are a table, and time is simulated. Everything that a client asks of the server is a
point where another may go on. A client whose lease ended has lost its locks; reads and writes
through a description that had one fail from then on, until it is closed or has given all back,
as NFSv4 has it. The locks of a client that is gone stay until its lease is over *and* somebody
wants what they cover.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat
from collections.abc import Callable, Iterator

import attrs

from flockpr.store.syscalls import Syscalls
from tests.support.simtime import Clock, Scheduler

LEASE = 0.01
"""Seconds after which the locks of a client that is silent may be given to others ..."""
ENDING = 0.05
"""... and that the server takes for it, from when somebody wants what they cover."""
CUT = 0.012
"""Seconds that a host is cut off: longer than its lease."""


class Died(BaseException):
    """The host is gone; nothing of it goes on, not even what it would do at the end."""


@attrs.frozen
class Lock:
    """A range that a description has exclusively, or shared."""

    start: int
    end: int
    kind: int


@attrs.define(eq=False)
class Description:
    """An open file description of a client.

    Attributes:
        locks: Those that the server knows.
        believed: Those that the client believes to have.
        lost: It had some that the server took away, and has not given all back since.
    """

    client: Client
    inode: int
    locks: list[Lock] = attrs.Factory(list)
    believed: list[Lock] = attrs.Factory(list)
    lost: bool = False

    def take(self, lock: Lock) -> None:
        """Have a lock; of what was had there before nothing is left."""
        self.locks = [*without(self.locks, lock.start, lock.end), lock]
        self.believed = [*without(self.believed, lock.start, lock.end), lock]

    def give_back(self, start: int, end: int) -> None:
        """Have no lock in a range."""
        self.locks = without(self.locks, start, end)
        self.believed = without(self.believed, start, end)
        self.lost = self.lost and bool(self.believed)

    def lose(self) -> None:
        """The server takes all locks away."""
        self.lost = self.lost or bool(self.locks)
        self.locks = []


def without(locks: list[Lock], start: int, end: int) -> list[Lock]:
    """What of some locks is outside a range."""
    left = []
    for lock in locks:
        if lock.start < min(start, lock.end):
            left.append(attrs.evolve(lock, end=min(start, lock.end)))
        if lock.end > max(end, lock.start):
            left.append(attrs.evolve(lock, start=max(end, lock.start)))
    return left


@attrs.define(eq=False)
class Server:
    """Files, locks, and who is gone.

    Attributes:
        lease: Seconds after which it gives the locks of a client that is gone to others
            (NFSv4); None: it never does (NFSv3).
        early: It does so at once, before the client is fenced (GFS2).
        declared: Numbers of the hosts that an operator declared fenced.
    """

    clock: Clock = attrs.Factory(Clock)
    scheduler: Scheduler | None = None
    lease: float | None = LEASE
    early: bool = False
    declared: frozenset[int] = frozenset()
    files: dict[str, int] = attrs.Factory(dict)
    descriptions: list[Description] = attrs.Factory(list)
    devices: Iterator[int] = attrs.Factory(lambda: itertools.count(1))

    def point(self) -> None:
        """Somebody else may go on."""
        assert self.scheduler is not None
        self.scheduler.point()

    def conflict(self, mine: Description, kind: int, start: int, end: int) -> Lock | None:
        """Some lock of another description that is in the way; not the lowest."""
        for other in reversed(self.descriptions):
            if other is mine or other.inode != mine.inode:
                continue
            for lock in other.locks:
                exclusive = fcntl.F_WRLCK in (kind, lock.kind)
                if exclusive and lock.start < end and start < lock.end:
                    return lock
        return None

    def expire(self, mine: Description, start: int, end: int) -> None:
        """Somebody wants a range: end the leases of clients that are gone and have it."""
        now = self.clock.now
        for client in {d.client for d in self.descriptions if d.client.gone is not None}:
            assert client.gone is not None
            if self.early:
                client.forget()
            elif self.lease is not None and now >= client.gone + self.lease:
                if client.wanted is None and self._has(client, mine, start, end):
                    client.wanted = now
                if client.wanted is not None and now >= client.wanted + ENDING:
                    client.forget()

    def _has(self, client: Client, mine: Description, start: int, end: int) -> bool:
        return any(
            lock.start < end and start < lock.end
            for description in self.descriptions
            if description.client is client and description.inode == mine.inode
            for lock in description.locks
        )


class Client(Syscalls):
    """One process on one host; its files have a device number of their own.

    Attributes:
        host: Name of the host.
        faults: By number of a call: what happens to the host just before it.
        calls: So many there were.
        gone: Since when the host is dead.
        wanted: Since when somebody wants what it has, its lease being over.
    """

    def __init__(self, server: Server, host: str, faults: dict[int, str] | None = None) -> None:
        self.server = server
        self.host = host
        self.faults = faults or {}
        self.calls = 0
        self.gone: float | None = None
        self.wanted: float | None = None
        self.hangs_until = 0.0
        self.device = next(server.devices)
        self.on_death: Callable[[], None] = lambda: None
        self._open: dict[int, Description] = {}
        self._next = itertools.count(100)

    def call(self) -> None:
        """Something is asked of the server."""
        self._check()
        self.calls += 1
        match self.faults.get(self.calls, "").split():
            case ["cut"]:
                for description in self._open.values():
                    description.lose()
                self.server.clock.sleep(CUT)
            case ["forget"]:
                self.forget()  # as a NFSv3 server that restarts and asks nobody
                self.server.clock.sleep(CUT)
            case ["die"]:
                self.die()
            case ["hang", seconds]:
                self.hangs_until = self.server.clock.now + float(seconds)
        self.server.point()
        self._check()

    def _check(self) -> None:
        while self.gone is None and (left := self.hangs_until - self.server.clock.now) > 0:
            self.server.clock.sleep(left)
        if self.gone is not None:
            raise Died

    def forget(self) -> None:
        """The server forgets the locks, and nothing shows that it did."""
        for description in self._open.values():
            description.locks = []

    def die(self) -> None:
        """The host loses its power."""
        self.gone = self.server.clock.now
        self.on_death()

    # ------------------------------------------------------------------ system calls

    def write(self, fd: int, data: bytes) -> int:
        """A write that arrives at the server now."""
        self.call()
        if self._open[fd].lost:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return len(data)

    def open(self, path: str, flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        self.call()
        name = os.path.basename(path) or "/"
        inode = self.server.files.setdefault(name, len(self.server.files) + 1)
        fd = next(self._next)
        self._open[fd] = Description(self, inode)
        self.server.descriptions.append(self._open[fd])
        return fd

    def close(self, fd: int) -> None:
        self.call()
        description = self._open.pop(fd)
        description.locks.clear()
        self.server.descriptions.remove(description)

    def fstat(self, fd: int) -> os.stat_result:
        return self._status(self._open[fd].inode)

    def stat(self, name: str, *, dir_fd: int) -> os.stat_result:
        return self._status(self.server.files[os.path.basename(name)])

    def _status(self, inode: int) -> os.stat_result:
        return os.stat_result((stat.S_IFREG | 0o600, inode, self.device, 1, 0, 0, 4096, 0, 0, 0))

    def pread_into(self, fd: int, buffer: object, offset: int) -> int:
        self.call()
        if self._open[fd].lost:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return 0

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        self.call()
        description, end = self._open[fd], start + length
        if kind == fcntl.F_UNLCK:
            description.give_back(start, end)
            return
        self.server.expire(description, start, end)
        if self.server.conflict(description, kind, start, end):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        description.take(Lock(start, end, kind))

    def find_lock(self, fd: int, kind: int, start: int, length: int) -> tuple[int, int, int]:
        self.call()
        found = self.server.conflict(self._open[fd], kind, start, start + length)
        if found is None:
            return fcntl.F_UNLCK, start, length
        return found.kind, found.start, found.end - found.start
