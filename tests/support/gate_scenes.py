"""What can happen to a command while some host does not answer, and what must come of it.

Each scene is played with schedules by chance; an `AssertionError` says what went wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.support.gate_server import ENDING, LEASE, Client
from tests.support.gate_world import (
    CALM,
    ENDLESS,
    FENCING,
    GRACE,
    NUMBERS,
    PATIENCE,
    SLOW,
    SimCommand,
    SimTarget,
    World,
    act,
    judge,
    walking,
)

LONG_LEASE = 0.3
SLACK = 0.03
"""Seconds that a schedule makes things take longer."""
FENCED = 0.3
"""When a host that died at the beginning is declared fenced, and has long been so."""
ONE_STOP = GRACE + SLACK
Scene = Callable[[int], World]


def _hosts(world: World, faults: str, at: int) -> tuple[Client, Client, Client]:
    """Of a command, of a target that lives, and of one that is not well from a call on."""
    command, alive, ill = list(NUMBERS)[:3]
    return Client(world, command), Client(world, alive), Client(world, ill, {at: faults})


def _play(
    seed: int,
    world: World,
    faults: str,
    *,
    patience: float = PATIENCE,
    tries: int = 1,
    slow: float = SLOW,
    commands: int = 1,
) -> list[SimCommand]:
    dice = random.Random(seed)

    def build(world: World) -> tuple[list[SimTarget], list[SimCommand]]:
        client, alive, ill = _hosts(world, faults, dice.randint(8, 24) if faults else 0)
        clients = [client, Client(world, "four")][:commands]
        sent = [SimCommand(world, one, at=0.04, patience=patience, tries=tries) for one in clients]
        return [SimTarget(world, alive, 4), SimTarget(world, ill, 4, slow=slow)], sent

    return act(world, walking(dice), build, crowds=slow > SLOW)


def hung(seed: int) -> World:
    """A target hangs for a while, and goes on then: with writes that it had begun."""
    world = World()
    _play(seed, world, "hang 0.4")
    judge(world)
    assert world.standstill < ONE_STOP, "others stand still for a host that hangs"
    return world


def hung_for_too_long(seed: int) -> World:
    """A target hangs for longer than the command waits: BUSY, and nothing is done; sent again
    later, it waits for that host before it stops the others.
    """
    world = World()
    (command,) = _play(seed, world, "hang 1.2", patience=0.2, tries=5)
    judge(world)
    assert world.standstill < ONE_STOP, "others stand still for too long"
    assert not world.busy or world.stops <= 2, "others stand still again and again"
    assert command.answered[-1][0] == "good"
    return world


def dead(seed: int) -> World:
    """The host of a target is gone: its lease ends only because somebody wants its permit."""
    world = World(lease=LONG_LEASE)
    _play(seed, world, "die")
    judge(world)
    assert world.standstill < ONE_STOP, "others stand still for a host that is dead"
    assert world.stops <= 2, "others stand still again and again"
    return world


def dead_for_longer_than_a_command_waits(seed: int) -> World:
    """BUSY; and when it is sent again, the lease has been ended."""
    world = World(lease=LONG_LEASE)
    (command,) = _play(seed, world, "die", patience=0.1, tries=2)
    judge(world)
    assert world.standstill < ONE_STOP, "others stand still for too long"
    if world.busy:
        assert command.answered[-1][1] < ENDING, "nobody has knocked meanwhile"
    return world


def gone_for_good(seed: int) -> World:
    """NFSv3: the locks of a dead host stay, until an operator declares it fenced."""
    world = World(lease=None)
    dice = random.Random(seed)

    def build(world: World) -> tuple[list[SimTarget], list[SimCommand]]:
        client, alive, ill = _hosts(world, "die", dice.randint(8, 24))
        command = SimCommand(world, client, at=0.04, patience=0.15, tries=4)
        command.busied = lambda: setattr(world, "declared", frozenset({NUMBERS["three"]}))
        return [SimTarget(world, alive, 4), SimTarget(world, ill, 4)], [command]

    (command,) = act(world, walking(dice), build)
    judge(world)
    assert world.standstill < ONE_STOP, "others stand still for too long"
    assert len(command.answered) <= 2, "a host that is declared fenced is waited for"
    if world.busy:
        assert world.left_out == {NUMBERS["three"]}
        assert "host 500" in world.names[0]
    return world


def lost_node(seed: int) -> World:
    """GFS2: its locks are given away at once, and what it had begun lands until it is fenced."""
    world = World(early=True)
    _play(seed, world, "die")
    judge(world)
    assert world.standstill < ONE_STOP, "others stand still until a node is fenced"
    return world


def node_that_is_not_fenced_in_time(seed: int) -> World:
    """GFS2: refused, and nothing committed, until it is."""
    world = World(early=True)
    (command,) = _play(seed, world, "die", patience=FENCING / 2, tries=3)
    judge(world)
    assert command.answered[-1][0] == "good"
    assert not world.busy or "fenced" in world.names[0]
    return world


def slow(seed: int) -> World:
    """Writes of a target take longer than a grace, and there is always one under way."""
    world = World()
    _play(seed, world, "", slow=3 * GRACE)
    judge(world)
    assert world.standstill < ONE_STOP, "others stand still for too long"
    return world


def late(seed: int) -> World:
    """A target, and another one, hear the doorbell later than a grace; and one host is dead."""
    world = World(lease=4 * CALM)
    dice = random.Random(seed)

    def build(world: World) -> tuple[list[SimTarget], list[SimCommand]]:
        client, alive, ill = _hosts(world, "die", dice.randint(8, 24))
        targets = [SimTarget(world, one, 4, beat=3 * GRACE) for one in (alive, ill)]
        targets.append(SimTarget(world, Client(world, "five"), 4, beat=3.7 * GRACE))
        return targets, [SimCommand(world, client, at=FENCED, patience=10 * CALM)]

    act(world, walking(dice), build)
    judge(world)
    assert world.standstill < CALM + 4 * GRACE, "late ones are kept away for a host that is dead"
    return world


def two_commands(seed: int) -> World:
    """Of two hosts, and a host that is dead: one after the other, and neither keeps the other
    from what it needs.
    """
    world = World(lease=LONG_LEASE)
    commands = _play(seed, world, "die", commands=2)
    judge(world)
    assert world.most_holding == 1
    answers = [command.answered[-1][0] for command in commands]
    assert answers == ["good", "good"], "each waits for what the other has"
    assert world.standstill < 2 * ONE_STOP, "others stand still for too long"
    return world


def around_a_fenced_host(seed: int) -> World:
    """All permits but those of a host in between are taken, piece by piece."""
    world = World(lease=None)
    dice = random.Random(seed)

    def build(world: World) -> tuple[list[SimTarget], list[SimCommand]]:
        command = SimCommand(world, Client(world, "one"), at=FENCED, knows=True)
        dead = SimTarget(world, Client(world, "two", {dice.randint(8, 20): "die"}), 4)
        command.before = lambda: setattr(world, "declared", frozenset({NUMBERS["two"]}))
        targets = [SimTarget(world, Client(world, name), 4) for name in ("three", "four")]
        return [dead, *targets], [command]

    act(world, walking(dice), build)
    judge(world)
    return world


def two_commands_and_a_fenced_host(seed: int) -> World:
    """Piece by piece, around hosts that are declared fenced, which one may know and one not."""
    world = World(lease=None)
    dice = random.Random(seed)

    def build(world: World) -> tuple[list[SimTarget], list[SimCommand]]:
        one, alive, ill = _hosts(world, "die", dice.randint(8, 24))
        other = Client(world, "four")
        commands = [SimCommand(world, client, at=FENCED) for client in (one, other)]
        fenced = frozenset({NUMBERS["three"], 100, 200})
        for command in commands:
            command.before = lambda: setattr(world, "declared", fenced)
            command.knows = seed % 3 > 0
        commands[0].knows = True
        clients = [alive, ill, Client(world, "five")]
        return [SimTarget(world, client, 4) for client in clients], commands

    commands = act(world, walking(dice), build)
    answers = [command.answered[-1][0] for command in commands]
    assert answers == ["good", "good"], "each waits for what the other has"
    judge(world)
    assert world.most_holding == 1
    return world


def fenced_ringer(seed: int) -> World:
    """NFSv3: a command that died while it rang is heard until its host is declared fenced."""
    world = World(lease=None)
    dice = random.Random(seed)

    def build(world: World) -> tuple[list[SimTarget], list[SimCommand]]:
        names = list(NUMBERS)
        dying = SimCommand(world, Client(world, names[0], {4: "die"}))
        other = SimCommand(world, Client(world, names[3]), at=0.5)
        other.before = lambda: setattr(world, "declared", frozenset({NUMBERS[names[0]]}))
        targets = [SimTarget(world, Client(world, name), 4) for name in names[1:3]]
        return targets, [dying, other]

    commands = act(world, walking(dice), build)
    judge(world)
    assert commands[1].answered[-1][0] == "good"
    return world


def stopped_ringer(seed: int) -> World:
    """A command is stopped while it rings; another one, of another host, comes meanwhile."""
    world = World()
    dice = random.Random(seed)

    def build(world: World) -> tuple[list[SimTarget], list[SimCommand]]:
        names = list(NUMBERS)
        stopped = Client(world, names[0], {4: "hang 1.0"})
        other = SimCommand(world, Client(world, names[3]), at=dice.uniform(0.1, 1.0), tries=4)
        targets = [SimTarget(world, Client(world, name), 4) for name in names[1:3]]
        return targets, [SimCommand(world, stopped, patience=0.5), other]

    commands = act(world, walking(dice), build)
    judge(world)
    assert commands[1].answered[-1][0] == "good"
    assert world.standstill < ENDLESS + 3 * GRACE, "all stand still for one who is stopped"
    return world


def command_dies(seed: int) -> World:
    """At any call: its rings and its permits end with its lease, if somebody wants them."""
    world = World()
    dice = random.Random(seed)

    def build(world: World) -> tuple[list[SimTarget], list[SimCommand]]:
        names = list(NUMBERS)
        dying = Client(world, names[0], {1 + seed % 12: "die"})
        commands = [SimCommand(world, dying), SimCommand(world, Client(world, names[3]), at=0.4)]
        return [SimTarget(world, Client(world, name), 4) for name in names[1:3]], commands

    commands = act(world, walking(dice), build)
    judge(world)
    assert commands[1].answered[-1][0] == "good"
    assert world.standstill < LEASE + 2 * ENDING + SLACK, "others stand still for a dead one"
    return world


def locks_forgotten(seed: int) -> World:
    """A server that restarts forgets what the command holds, and nobody is told (NFSv3)."""
    world = World(lease=None)
    dice = random.Random(seed)

    def build(world: World) -> tuple[list[SimTarget], list[SimCommand]]:
        names = list(NUMBERS)
        command = SimCommand(world, Client(world, names[0], {4 + seed % 8: "forget"}))
        return [SimTarget(world, Client(world, name), 4) for name in names[1:3]], [command]

    act(world, walking(dice), build)
    judge(world)
    return world


def one_process(seed: int) -> World:
    """The command comes to the process of a target; another one is elsewhere, and may hang."""
    world = World()
    dice = random.Random(seed)

    def build(world: World) -> tuple[list[SimTarget], list[SimCommand]]:
        ours, other = Client(world, "one"), Client(world, "two", {8 + seed % 12: "hang 0.3"})
        targets = [SimTarget(world, ours, 4), SimTarget(world, other, 4)]
        return targets, [SimCommand(world, ours)]

    act(world, walking(dice), build)
    judge(world)
    assert world.standstill < ONE_STOP, "the process stands still for another host"
    return world


SCENES: tuple[Scene, ...] = (
    hung,
    hung_for_too_long,
    dead,
    dead_for_longer_than_a_command_waits,
    gone_for_good,
    lost_node,
    node_that_is_not_fenced_in_time,
    slow,
    late,
    two_commands,
    around_a_fenced_host,
    two_commands_and_a_fenced_host,
    fenced_ringer,
    stopped_ringer,
    command_dies,
    locks_forgotten,
    one_process,
)
