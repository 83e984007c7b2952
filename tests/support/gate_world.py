"""One image on a file server, and hosts that lose their leases: all schedules of a few of them.

The locks are a table, the hosts are clients of it, and time is simulated. A client whose lease
ended has lost its locks; reads and writes through a description that had one fail from then
on, until it is closed, as NFSv4 has it. Everything that a client asks of the server is a point
where another may go on. `flockpr.gate` runs on this as it is; the little that stands for a
target and for a command is below.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import random
import stat
import types
from collections.abc import Iterator
from unittest import mock

import attrs

from flockpr.gate import Doorbell, Gate, Permit, local, narrowing, permit
from flockpr.store.syscalls import Syscalls
from tests.support.simtime import Choose, Clock, Scheduler, Task

NUMBER = 1
PATIENCE = 2.0
"""Seconds that a command waits: far longer than any schedule makes it, if it can end at all."""
SLOW = 0.004
"""Seconds that a write takes on its way to the disk."""
LEASE = 0.01
"""Seconds that a host is cut off."""


@attrs.define(eq=False)
class Description:
    """An open file description of a client."""

    client: Client
    inode: int
    locks: dict[int, int] = attrs.Factory(dict)
    lost: bool = False


@attrs.define(eq=False)
class World:
    """The server: files, locks, and the state of the logical unit.

    Attributes:
        fenced: What is committed: the nexus may not write any more.
        good: When the command was answered GOOD.
        writes: From when to when something was written by a state that lets the nexus write.
    """

    clock: Clock = attrs.Factory(Clock)
    scheduler: Scheduler | None = None
    files: dict[str, int] = attrs.Factory(dict)
    descriptions: list[Description] = attrs.Factory(list)
    fenced: bool = False
    good: float | None = None
    writes: list[tuple[float, float]] = attrs.Factory(list)
    refused: int = 0
    failed: int = 0
    points: int = 0
    calls: int = 0

    def point(self) -> None:
        """Somebody else may go on."""
        assert self.scheduler is not None
        self.scheduler.point()

    def conflicts(self, mine: Description, kind: int, start: int) -> bool:
        """Whether another description's lock is in the way."""
        return any(
            fcntl.F_WRLCK in (kind, held)
            for other in self.descriptions
            if other is not mine and other.inode == mine.inode
            for at, held in other.locks.items()
            if at == start
        )


class Client(Syscalls):
    """One process on one host.

    Attributes:
        cut_at: Number of the call before which its host is cut off for longer than the lease,
            so that it has lost its locks when it can go on. 0 for never.
        calls: So many there were.
    """

    def __init__(self, world: World, cut_at: int = 0) -> None:
        self.world = world
        self.cut_at = cut_at
        self.calls = 0
        self._open: dict[int, Description] = {}
        self._next = itertools.count(100)

    def call(self) -> None:
        """Something is asked of the server."""
        self.calls += 1
        if self.calls == self.cut_at:
            for description in self._open.values():
                description.lost = description.lost or bool(description.locks)
                description.locks.clear()
            self.world.clock.sleep(LEASE)
        self.world.point()

    def write(self, fd: int, data: bytes) -> int:
        """A write that arrives at the server now."""
        self.call()
        if self._open[fd].lost:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return len(data)

    def open(self, path: str, flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        self.call()
        name = os.path.basename(path) or "/"
        inode = self.world.files.setdefault(name, len(self.world.files) + 1)
        fd = next(self._next)
        self._open[fd] = Description(self, inode)
        self.world.descriptions.append(self._open[fd])
        return fd

    def close(self, fd: int) -> None:
        self.call()
        description = self._open.pop(fd)
        description.locks.clear()
        self.world.descriptions.remove(description)

    def fstat(self, fd: int) -> os.stat_result:
        return os.stat_result(
            (stat.S_IFREG | 0o600, self._open[fd].inode, 9, 1, 0, 0, 4096, 0, 0, 0)
        )

    def stat(self, name: str, *, dir_fd: int) -> os.stat_result:
        return _status(self.world.files[os.path.basename(name)])

    def pread_into(self, fd: int, buffer: object, offset: int) -> int:
        self.call()
        if self._open[fd].lost:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return 0

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        self.call()
        description = self._open[fd]
        if kind == fcntl.F_UNLCK:
            description.locks.pop(start, None)
            return
        if self.world.conflicts(description, kind, start):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        description.locks[start] = kind

    def get_lock(self, fd: int, kind: int, start: int, length: int) -> int:
        self.call()
        found = any(
            self.world.conflicts(self._open[fd], kind, at) for at in range(start, start + length)
        )
        return fcntl.F_WRLCK if found else fcntl.F_UNLCK


def _status(inode: int) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | 0o600, inode, 9, 1, 0, 0, 4096, 0, 0, 0))


@attrs.define(eq=False)
class SimTarget:
    """A target that writes `times` times, if it may, and listens at the doorbell meanwhile."""

    world: World
    times: int
    cut_at: int = 0
    client: Client = attrs.field(init=False)
    permit: Permit = attrs.field(init=False)
    _allowed: bool = False
    _over: bool = False

    def __attrs_post_init__(self) -> None:
        self.client = Client(self.world, self.cut_at)
        self.permit = Permit("/root", NUMBER, "image", on_open=self._read, syscalls=self.client)

    def _read(self, _: float) -> None:
        self.client.call()
        self._allowed = not self.world.fenced

    def run(self) -> None:
        """Write, and be used by nobody any more afterwards."""
        done = 0
        self.permit.attend()
        while done < self.times:
            if self.permit.enter(self.world.clock.now + 2 * PATIENCE):
                done += 1
                self._write()
            self.world.clock.sleep(SLOW / 4)
        self.permit.rest()
        self._over = True

    def _write(self) -> None:
        world, may = self.world, self._allowed
        begun = world.clock.now
        try:
            if may:
                world.clock.sleep(SLOW)
                self.client.write(self.permit.fd, b"x")
                world.writes.append((begun, world.clock.now))
            else:
                world.refused += 1
        except OSError:
            world.failed += 1
            assert self.permit.lost()
        finally:
            self.permit.leave()

    def listen(self) -> None:
        """What the watch does, on its own thread."""
        with Doorbell("/root", Client(self.world)) as bell:
            while not self._over:
                if self.permit.held:
                    self.permit.knock(bell.heard(NUMBER))
                self.world.clock.sleep(0.002)


@attrs.define(eq=False)
class SimCommand:
    """A command that takes the right to write away."""

    world: World
    cut_at: int = 0
    client: Client = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.client = Client(self.world, self.cut_at)

    def run(self) -> None:
        """Until it was answered, GOOD or not."""
        gate = Gate("/root", NUMBER, "image", syscalls=self.client)
        self.world.clock.sleep(SLOW)  # the targets are under way
        with gate.narrow(self.world.clock.now + PATIENCE) as held:
            self.client.call()
            self.world.fenced = True  # a link that lands, however late
            held.committed = True
            if held.prove():
                self.world.good = self.world.clock.now


@contextlib.contextmanager
def installed(world: World) -> Iterator[None]:
    """The gate sees this world's time, and no threads of its own."""
    clock = world.clock
    fake = types.SimpleNamespace(monotonic=lambda: clock.now, sleep=clock.sleep)
    dice = types.SimpleNamespace(uniform=lambda low, high: (low + high) / 2)
    watch = types.SimpleNamespace(add=lambda _: None)

    def wait(waiting: Permit, deadline: float) -> bool:
        waiting._lock.release()
        clock.sleep(0.001)
        waiting._lock.acquire()
        return clock.now < deadline

    instead = [
        *((module, "time", fake) for module in (permit, narrowing)),
        *((module, "random", dice) for module in (permit, narrowing)),
        *((module, "log", mock.Mock()) for module in (permit, narrowing)),
        (local, "permits_of", mock.Mock(return_value=[])),
        (permit, "watch_of", mock.Mock(return_value=watch)),
        (Permit, "_release_aside", Permit._release),
        (Permit, "_wait", wait),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, value in instead:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


def play(
    choose: Choose, *, targets: int = 2, writes: int = 4, cut: tuple[str, int] = ("", 0)
) -> World:
    """One schedule.

    Args:
        choose: The schedule.
        targets: How many there are.
        writes: How often each writes.
        cut: Who is cut off for longer than its lease, "command" or "target", and at which call.

    Raises:
        AssertionError: Something was written after GOOD by a state before, or the command
            was not answered although nobody stands in its way for good.
    """
    world = World()
    who, at = cut
    with installed(world):
        world.scheduler = scheduler = Scheduler(world.clock, choose)
        command = SimCommand(world, at if who == "command" else 0)
        scheduler.add("command", command.run)
        for number in range(targets):
            target = SimTarget(world, writes, at if who == "target" and not number else 0)
            scheduler.add(f"target {number}", target.run)
            scheduler.add(f"listener {number}", target.listen)
        scheduler.run()
    world.points = scheduler.points
    world.calls = command.client.calls if who == "command" else target.client.calls
    judge(world)
    return world


def judge(world: World) -> None:
    """No write by the old state is under way at GOOD, or begins after it; and GOOD comes."""
    assert world.good is not None, "never GOOD"
    wrong = [write for write in world.writes if write[1] > (world.good or 0.0)]
    assert world.failed <= 1, "a descriptor that was lost is used again"
    assert not wrong, f"written {wrong} after GOOD at {world.good}"


def changing(turns: dict[int, int]) -> Choose:
    """The schedule that runs each task until it ends or sleeps, but goes on with another at some
    points: by number of the point, the first, second, ... of those who could.
    """

    def choose(point: int, current: Task | None, ready: list[Task]) -> Task:
        if point not in turns:
            return ready[0] if current is None else current
        others = [task for task in ready if task is not current] or ready
        return others[turns[point] % len(others)]

    return choose


def schedules(points: int, tasks: int) -> Iterator[dict[int, int]]:
    """Every schedule with at most one change that is not forced."""
    yield {}
    for point in range(1, points + 1):
        for other in range(tasks - 1):
            yield {point: other}


def walking(dice: random.Random) -> Choose:
    """A schedule by chance: at each point, mostly, whoever runs goes on."""
    often = dice.choice((0.05, 0.2, 0.5))

    def choose(_: int, current: Task | None, ready: list[Task]) -> Task:
        return dice.choice(ready) if current is None or dice.random() < often else current

    return choose
