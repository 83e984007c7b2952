"""Targets and commands of several hosts at one image: all schedules of a few of them.

`flockpr.gate` runs as it is on a simulated file server (`gate_server`); the little that stands
for a target and for a command is below.
"""

from __future__ import annotations

import contextlib
import random
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import attrs

from flockpr.errors import Busy, HostFenced
from flockpr.gate import (
    Doorbell,
    Gate,
    ImageFile,
    Permit,
    aside,
    ears,
    fenced,
    fences,
    local,
    narrowing,
    pauses,
    permit,
    places,
    roster,
    rounds,
    silence,
    stake,
)
from flockpr.store.layout import HOSTS
from tests.support.gate_server import LEASE, Client, Died, Server
from tests.support.simtime import Choose, Scheduler, Task

NUMBER = 1
PATIENCE = 2.0
"""Seconds that a command waits: far longer than any schedule makes it, if it can end at all."""
SLOW = 0.004
"""Seconds that a write takes on its way to the disk."""
GRACE = 0.05
"""Seconds that all targets stand still for one that does not answer."""
ENDLESS = 0.3
"""Seconds of ringing after which somebody is not heeded all the time."""
CALM = 0.2
"""Seconds that a target which was late may be kept away while others are waited for."""
FENCING = 0.3
"""Seconds after which a node that was lost is fenced (GFS2)."""
BEAT = 0.002
"""Seconds between two questions at the doorbell."""
NUMBERS = {"one": 0, "two": 1, "three": 500, "four": HOSTS - 1, "five": 150}
"""Of hosts; neighbours, and the ends of the range."""

_MODULES = (ears, fences, narrowing, pauses, permit, rounds, silence, stake)


@attrs.define(eq=False)
class World(Server):
    """The server, the state of the logical unit, and what came of it all.

    Attributes:
        fenced: What is committed: the nexus may not write any more.
        good: When the first command was answered GOOD.
        writes: From when to when something was written by a state that lets the nexus write.
        holding: Commands that have the gate at this moment.
        standstill: Longest time that a target without faults could not write ...
        stops: ... and how often that was most of a grace.
        commands: Those that are not over.
    """

    fenced: bool = False
    good: float | None = None
    writes: list[tuple[float, float]] = attrs.Factory(list)
    refused: int = 0
    failed: int = 0
    holding: int = 0
    most_holding: int = 0
    busy: int = 0
    points: int = 0
    calls: int = 0
    standstill: float = 0.0
    stops: int = 0
    commands: int = 0
    left_out: frozenset[int] = frozenset()
    left: int = 0
    knocks: list[Callable[[], None]] = attrs.Factory(list)
    names: list[str] = attrs.Factory(list)

    def cluster_lock(self, _: ImageFile, deadline: float) -> bool:
        """As GFS2: waits until every node that was lost is fenced."""
        while (until := self._fencing()) > self.clock.now:
            if self.clock.now >= deadline:
                return False
            self.clock.sleep(min(until, deadline) - self.clock.now)
        return True

    def _fencing(self) -> float:
        gone = [d.client.gone for d in self.descriptions if d.client.gone is not None]
        return max((at + FENCING for at in gone), default=0.0)


@attrs.define(eq=False)
class SimTarget:
    """A target that writes `times` times, if it may, and until all commands are over, and listens
    at the doorbell meanwhile.

    Attributes:
        slow: Seconds that each write takes.
        beat: Seconds between two questions at the doorbell.
    """

    world: World
    client: Client
    times: int
    slow: float = SLOW
    beat: float = BEAT
    permit: Permit = attrs.field(init=False)
    _allowed: bool = False
    _over: bool = False
    _writing: float | None = None
    _last: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.permit = Permit(
            "/root",
            NUMBER,
            "image",
            on_open=self._read,
            host=self.client.host,
            syscalls=self.client,
        )
        self.client.on_death = self._die

    def _read(self, _: float) -> None:
        self.client.call()
        self._allowed = not self.world.fenced

    def _die(self) -> None:
        """What it has sent lands; on GFS2 until it is fenced, else before its lease ends."""
        if self._writing is not None:
            end = self.world.clock.now + (FENCING if self.world.early else LEASE) * 0.99
            self.world.writes.append((self._writing, end))

    def run(self) -> None:
        """Write, and be used by nobody any more afterwards."""
        try:
            self._run()
        finally:
            self._over = True

    def _run(self) -> None:
        done = kept_out = 0
        self.permit.attend()
        self._last = self.world.clock.now
        while done < self.times or self.world.commands:
            if self.permit.enter(self.world.clock.now + 2 * PATIENCE):
                done += 1
                self._write()
            elif isinstance(self.permit.fault, HostFenced):
                break
            else:
                kept_out += 1
                assert kept_out < 3, "a target is kept out for good"
            self.world.clock.sleep(SLOW / 4)
        self.permit.rest()

    def _write(self) -> None:
        world, may = self.world, self._allowed
        self._writing = begun = world.clock.now
        if self.slow == SLOW and not self.client.faults:
            world.standstill = max(world.standstill, begun - self._last)
            world.stops += begun - self._last > GRACE * 0.8
        try:
            if may:
                world.clock.sleep(self.slow)
                self.client.write(self.permit.fd, b"x")
                world.writes.append((begun, world.clock.now))
            else:
                world.refused += 1
        except OSError:
            world.failed += 1
            assert self.permit.lost()
        finally:
            self._writing = None
            self._last = world.clock.now
            self.permit.leave()

    def crowd(self) -> None:
        """A second writer: the target is never idle by itself."""
        self.world.clock.sleep(self.slow / 2)
        while not self._over:
            if self.permit.enter(self.world.clock.now + 2 * PATIENCE):
                self.world.clock.sleep(self.slow)
                self.permit.leave()
            self.world.clock.sleep(SLOW / 4)

    def listen(self) -> None:
        """What the watch does, on its own thread."""
        client = Client(self.world, self.client.host)
        deaf = ears.ears_of("/root", client).deaf
        with contextlib.suppress(Died), Doorbell("/root", client, self.permit.host) as bell:
            while not self._over and self.client.gone is None:
                if self.permit.held and self.world.clock.now >= self.client.hangs_until:
                    self.permit.knock(bell.wanted(NUMBER, self.permit.host, deaf))
                self.world.clock.sleep(self.beat)


@attrs.define(eq=False)
class SimCommand:
    """A command that takes the right to write away, sent again while it is BUSY.

    Attributes:
        at: When, in seconds.
        patience: How long it waits.
        tries: How often it is sent.
        pause: Seconds between two.
        answered: When, and how long that took, each time.
        before: Called at the beginning.
        busied: Called when it was BUSY.
        knows: It has seen before which hosts are declared fenced.
    """

    world: World
    client: Client
    at: float = SLOW
    patience: float = PATIENCE
    tries: int = 1
    pause: float = 0.5
    answered: list[tuple[str, float]] = attrs.Factory(list)
    before: Callable[[], None] = lambda: None
    busied: Callable[[], None] = lambda: None
    knows: bool = False

    def run(self) -> None:
        """Until it was answered GOOD, or as often as it is sent."""
        world = self.world
        lock = world.cluster_lock if world.early else None
        gate = Gate(
            "/root", NUMBER, "image", host=self.client.host, cluster_lock=lock, syscalls=self.client
        )
        world.clock.sleep(self.at)
        self.before()
        if self.knows:
            fences.fences_of("/root", self.client).look()
        for _ in range(self.tries):
            begun = world.clock.now
            try:
                answer = self._once(gate)
            except Busy as busy:
                world.busy += 1
                world.names.append(str(busy))
                self.busied()
                answer = "busy"
            self.answered.append((answer, world.clock.now - begun))
            if answer == "good":
                return
            world.clock.sleep(self.pause)

    def _once(self, gate: Gate) -> str:
        world = self.world
        with gate.narrow(world.clock.now + self.patience) as held:
            world.holding += 1
            world.most_holding = max(world.holding, world.most_holding)
            self.client.call()
            world.fenced = True  # a link that lands, however late
            world.left_out |= held.left_out
            held.committed = True
            proven = held.prove()
            world.holding -= 1
            if not proven:
                return "unproven"
            world.good = min(world.clock.now, world.good or world.clock.now)
            return "good"


@contextlib.contextmanager
def installed(world: World) -> Iterator[None]:
    """The gate sees this world's time, and no threads of its own."""
    clock = world.clock
    fake = types.SimpleNamespace(monotonic=lambda: clock.now, sleep=clock.sleep)
    dice = types.SimpleNamespace(uniform=lambda low, high: (low + high) / 2)

    def wait(waiting: Permit, deadline: float) -> bool:
        waiting._lock.release()
        clock.sleep(0.001)
        waiting._lock.acquire()
        return clock.now < deadline

    def check(_: str, number: int, __: object) -> None:
        if number in world.declared:
            raise HostFenced("is declared fenced")

    def thread(target: Callable[..., None], args: tuple[Any, ...], **_: object) -> Any:
        return types.SimpleNamespace(start=lambda: world.knocks.append(lambda: target(*args)))

    threads = types.SimpleNamespace(Lock=threading.Lock, Thread=thread)
    instead: list[tuple[Any, str, object]] = [
        *((module, "time", fake) for module in _MODULES if hasattr(module, "time")),
        *((module, "random", dice) for module in _MODULES if hasattr(module, "random")),
        *((module, "log", mock.Mock()) for module in _MODULES if hasattr(module, "log")),
        *((module, "host_number", NUMBERS.__getitem__) for module in (permit, narrowing)),
        *((module, "events", mock.Mock()) for module in (permit, narrowing, rounds, stake)),
        (places, "random", random.Random(1)),
        (ears, "ENDLESS", ENDLESS),
        (ears, "DEAF", 2 * ENDLESS),
        (ears, "HEED", 2 * GRACE),
        (rounds, "GRACE", GRACE),
        (rounds, "CALM", CALM),
        (rounds, "PATIENCE", GRACE / 2),
        (pauses, "LONGEST", GRACE / 10),
        (stake, "NUDGE", LEASE),
        (fences, "LOOK_AGAIN", LEASE),
        (silence, "EVERY", LEASE),
        (silence, "threading", threads),
        (silence, "_silences", {}),
        (fences, "_fences", {}),
        (ears, "_ears", {}),
        (local, "_permits", {}),
        (fenced, "numbers", lambda *_: world.declared),
        (fenced, "check", check),
        (roster, "waiting", mock.MagicMock()),
        (roster, "beat", mock.Mock()),
        (roster, "name_of", lambda _, number, __: f"host {number}"),
        (permit, "watch_of", mock.Mock(return_value=types.SimpleNamespace(add=lambda _: None))),
        (aside, "begin", lambda work: work()),
        (aside, "within", lambda work, _: work()),
        (Permit, "_wait", wait),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, value in instead:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


Build = Callable[[World], tuple[list[SimTarget], list[SimCommand]]]
"""Makes the targets and the commands of a scene."""


def act(world: World, choose: Choose, build: Build, *, crowds: bool = False) -> list[SimCommand]:
    """One schedule of a scene, which ends when all commands and all targets have."""
    with installed(world):
        world.scheduler = scheduler = Scheduler(world.clock, choose)
        targets, commands = build(world)

        def until_all_is_over(body: Callable[[], None]) -> Callable[[], None]:
            world.left += 1

            def run() -> None:
                try:
                    with contextlib.suppress(Died):
                        body()
                finally:
                    world.left -= 1
                    world.commands -= isinstance(getattr(body, "__self__", None), SimCommand)

            return run

        def knock() -> None:
            while world.left or world.knocks:
                if world.knocks:
                    with contextlib.suppress(Died):
                        world.knocks.pop()()
                world.clock.sleep(LEASE)

        world.commands = len(commands)
        for number, command in enumerate(commands):
            scheduler.add(f"command {number}", until_all_is_over(command.run))
        for number, target in enumerate(targets):
            scheduler.add(f"target {number}", until_all_is_over(target.run))
            scheduler.add(f"listener {number}", target.listen)
            if crowds:
                scheduler.add(f"crowd {number}", until_all_is_over(target.crowd))
        if any(command.patience < PATIENCE for command in commands):
            scheduler.add("knock", knock)
        scheduler.run()
    world.points = scheduler.points
    return commands


def judge(world: World) -> None:
    """No write by the old state is under way at GOOD, or begins after it; and GOOD comes."""
    assert world.good is not None, "never GOOD"
    wrong = [write for write in world.writes if write[1] > (world.good or 0.0)]
    assert not wrong, f"written {wrong} after GOOD at {world.good}"


def play(
    choose: Choose, *, targets: int = 2, writes: int = 4, cut: tuple[str, int] = ("", 0)
) -> World:
    """One schedule of targets and a command of as many hosts.

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
    clients: list[Client] = []

    def build(world: World) -> tuple[list[SimTarget], list[SimCommand]]:
        names = ["command", *(f"target {number}" for number in range(targets))]
        for name, host in zip(names, NUMBERS, strict=False):
            faulty = at if name.startswith(who or "-") and name[-1] in "d0" else 0
            clients.append(Client(world, host, {faulty: "cut"} if faulty else {}))
        command = SimCommand(world, clients[0])
        return [SimTarget(world, client, writes) for client in clients[1:]], [command]

    act(world, choose, build)
    world.calls = clients[0 if who == "command" else 1].calls
    assert world.failed <= 1, "a descriptor that was lost is used again"
    judge(world)
    return world


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
