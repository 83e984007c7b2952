"""Scenes with power cuts: scripts of commands by two daemons, judged at every system call.

A scene raises AssertionError when the store breaks a promise. The fault tests play them with
the store as it is; the mutant tests play the same ones with a store that was broken on
purpose, and want the error.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from flockpr.logical_unit import Result
from flockpr.spc.codes import Status
from tests.support.simfs import Call, Client
from tests.support.simworld import Daemon, Play, World

GOOD = Result(Status.GOOD)
CONFLICT = Result(Status.RESERVATION_CONFLICT)
BUSY = Result(Status.BUSY)

Script = Sequence[tuple[int, Play]]
"""Which daemon carries out which command, in order."""

EVERYTHING: Script = (
    (0, (6, "a", 0, 1)),
    (1, (6, "b", 0, 2)),
    (0, (1, "a", 1, 0)),
    (1, ("keys", "b")),
    (1, ("together", (6, "c", 0, 3), ("keys", "c"), (1, "c", 9, 0), (6, "c", 0, 4))),
    (1, (4, "b", 2, 1)),
    (0, ("keys", "a")),
    (0, ("tidy",)),
    (1, ("power cycle",)),
    (0, ("spc2", "a")),
    (1, ("spc2", "b")),
    (0, ("spc2 release", "a")),
    (1, ("tidy",)),
)
"""Each kind of command once, with archiving and pruning in between."""


def random_script(rng: random.Random, length: int) -> Script:
    """Commands of two daemons, mostly ones that change something."""
    script: list[tuple[int, Play]] = []
    for _ in range(length):
        together = ("together", *(_one_of_several(rng) for _ in range(3)))
        plays = (*_commands(rng), *(together,) * 4, ("tidy",), ("power cycle",))
        script.append((rng.randrange(2), rng.choice(plays)))
    return script


def _one_of_several(rng: random.Random) -> Play:
    """A command that can share a commit."""
    return rng.choice([play for play in _commands(rng) if play[0] != "glance"])


def _commands(rng: random.Random) -> tuple[Play, ...]:
    name, key, other = rng.choice("abc"), rng.randrange(1, 4), rng.randrange(1, 4)
    return (
        *((6, name, 0, key),) * 5,
        *((1, name, key, 0),) * 3,
        *((4, name, key, other),) * 2,
        (2, name, key, 0),
        (3, name, key, 0),
        *(("keys", name),) * 3,
        *(("glance", name),) * 2,
        ("spc2", name),
        ("spc2 release", name),
    )


def cut_at_every_change(world: World, rng: random.Random) -> Callable[[], None]:
    """A probe that lets the power fail if the disk changed since it was called last: three
    times, once losing all that was not synced, once keeping it, once by chance.
    """
    seen = [-1]

    def probe() -> None:
        if world.disk.version == seen[0]:
            return
        seen[0] = world.disk.version
        for choose in (lambda _: 0, lambda n: min(1, n - 1), rng.randrange):
            world.judge_recovery(world.disk.cut(choose))

    return probe


def power_cuts(
    script: Script, rng: random.Random, *, stalls: float = 0.0, forgetful: bool = False
) -> World:
    """Two daemons carry out a script, and the power fails after each of their system calls.

    Args:
        script: The commands.
        rng: Decides what a power cut leaves, and who stalls where.
        stalls: How often, per call, the one daemon is stopped at a system call for the
            next command of the script, which the other then carries out.
        forgetful: Name caches.
    """
    world = World(segment=2, forgetful=forgetful)
    todo = list(script)
    busy: list[Daemon] = []

    def perform(daemon: Daemon, play: Play) -> None:
        busy.append(daemon)
        try:
            daemon.play(play)
        finally:
            busy.remove(daemon)
        world.clock.now += 2.0

    def before(_: Client, __: Call) -> None:
        probe()
        idle = [daemon for daemon in daemons if daemon not in busy]
        if idle and todo and rng.random() < stalls:
            perform(idle[0], todo.pop(0)[1])

    with world.clock.installed():
        probe = cut_at_every_change(world, rng)
        # Who is stopped at a call would keep its order lock for ever.
        daemons = [world.daemon(order=not stalls, keep=2, settle=0) for _ in range(2)]
        for daemon in daemons:
            daemon.client.before = before
        while todo:
            who, play = todo.pop(0)
            perform(daemons[who], play)
        probe()
        world.judge()
        for daemon in daemons:
            daemon.unit.close()
            assert not daemon.client.fds
    return world


def stall(daemon: Daemon, name: str, what: str, during: Callable[[], None]) -> None:
    """Stop a daemon once, before its next call of that name, for something else to happen."""

    def before(client: Client, call: Call) -> None:
        if call.name == name and what in call.what:
            client.before = None
            during()

    daemon.client.before = before


def reply_before_durability(play: Play) -> None:
    """A is stopped between its link and its sync; B answers what depends on A's transaction;
    the power fails with all that was not synced.
    """
    world = World()
    with world.clock.installed():
        a, b = world.daemon(order=False), world.daemon()
        b.register("b", 2)

        def during() -> None:
            b.play(play)
            world.judge_recovery(world.disk.cut(lambda _: 0))

        stall(a, "fsync", "directory", during)
        assert a.register("a", 1) == GOOD
        world.judge()
