"""Two daemons, a few commands each, and every way in which their system calls can alternate."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence

from flockpr.store.errands import Errands
from tests.support.simfs import Call, Client
from tests.support.simtime import Choose, Scheduler, Task, preempting
from tests.support.simworld import Daemon, Play, World

Plays = Sequence[Sequence[Play]]
"""By daemon: its commands, one after the other."""

PLAYS: dict[str, Plays] = {
    "register and register": (((6, "a", 0, 5), ("keys", "a")), ((6, "b", 0, 6), ("keys", "b"))),
    "reserve and reserve": (((1, "a", 1, 0), (2, "a", 1, 0)), ((1, "b", 2, 0), ("keys", "b"))),
    "preempt and preempt": (((4, "a", 1, 2), ("keys", "a")), ((4, "b", 2, 1), ("keys", "b"))),
    "preempt and reserve": (((4, "a", 1, 2), (1, "a", 1, 0)), ((1, "b", 2, 0), (3, "b", 2, 0))),
    "power cycle and register": ((("power cycle",), ("keys", "a")), ((6, "b", 0, 7),) * 2),
    "prune and register": (((6, "a", 0, 5), ("tidy",)), ((6, "b", 0, 6), (6, "b", 0, 7))),
    "together and together": (
        (("together", (6, "a", 0, 5), ("keys", "a"), (1, "c", 9, 0), (6, "a", 0, 6)),),
        (("together", (6, "b", 0, 7), (4, "b", 7, 1), ("keys", "b")), ("keys", "b")),
    ),
    "together and preempt": (
        (("together", (1, "a", 1, 0), ("keys", "b"), (6, "c", 0, 8), (2, "a", 1, 0)),),
        ((4, "b", 2, 1), (3, "b", 2, 0)),
    ),
    "glance and register": (
        (("keys", "a"), *(("glance", "a"),) * 3, (6, "a", 0, 5), *(("glance", "a"),) * 3),
        ((6, "b", 0, 6), (6, "b", 0, 7)),
    ),
    "prune and prune": (((6, "a", 0, 5), ("tidy",)), (("keys", "b"), ("tidy",))),
}
SPC2: Plays = ((("spc2", "a"), ("keys", "a")), (("spc2", "b"), ("keys", "b")))


class _Spawned(Errands):
    """Each errand is a task of its own, in whatever order the schedule has them."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler

    def run(self, work: Callable[[], None]) -> None:
        """See `Errands.run`."""
        if self._scheduler.running:
            self._scheduler.spawn("errand", work)
        else:
            work()


def interleave(
    plays: Plays,
    choose: Choose,
    *,
    order: bool = False,
    forgetful: bool = False,
    keys: bool = True,
    errands: bool = False,
) -> int:
    """Play, and judge the replies and the chain.

    Args:
        plays: The commands.
        choose: The schedule.
        order: Whether the order lock works; without it more can go wrong.
        forgetful: Name caches.
        errands: What no answer depends on is done by tasks of their own.
        keys: Whether nexuses A and B are registered beforehand, with keys 1 and 2.

    Returns:
        The number of points at which the schedule had a choice.
    """
    world = World(segment=2, forgetful=forgetful)
    with world.clock.installed():
        scheduler = Scheduler(world.clock, choose)
        daemons = [
            world.daemon(
                order=order, keep=2, settle=0, errands=_Spawned(scheduler) if errands else None
            )
            for _ in plays
        ]
        if keys:
            for name, key, daemon in zip("ab", (1, 2), daemons, strict=False):
                daemon.register(name, key)
        else:
            for daemon in daemons:
                daemon.keys()
        world.clock.now += 10.0

        def point(_: Client, __: Call) -> None:
            scheduler.point()

        def run(daemon: Daemon, commands: Sequence[Play]) -> None:
            for command in commands:
                daemon.play(command)

        for index, (daemon, commands) in enumerate(zip(daemons, plays, strict=True)):
            daemon.client.before = point
            scheduler.add(str(index), lambda d=daemon, c=commands: run(d, c))  # type: ignore[misc]
        scheduler.run()
        for daemon in daemons:
            daemon.client.before = None
        world.judge()
        _judge_agreement(world, daemons)
    return scheduler.points


def _judge_agreement(world: World, daemons: Sequence[Daemon]) -> None:
    """All see the same, a stranger too; and whoever holds a SPC-2 reservation is alive."""
    for document in world.truth.values():
        actions = [applied.action for applied in document.applied]
        assert "NEXUS LOSS" not in actions, "a live holder was freed"
    stranger = world.daemon()
    held = world.truth[world.newest].snapshot.state.spc2
    keys = stranger.keys()
    assert world.truth[world.newest].snapshot.state.spc2 == held, "a live holder was freed"
    for daemon in daemons:
        assert daemon.keys() == keys
    told = world.judge_trail(stranger.unit.history())
    assert {number for sent in world.sent for number in sent.numbers} <= told
    for daemon in (*daemons, stranger):
        daemon.unit.close()
        assert not daemon.client.fds


def one_preemption(points: int) -> Iterator[Choose]:
    """Every schedule that changes the daemon once before it has to."""
    for point in range(1, points + 1):
        yield preempting(frozenset((point,)))


def two_preemptions(points: int) -> Iterator[Choose]:
    """Every schedule that changes the daemon twice before it has to."""
    for pair in itertools.combinations(range(1, points + 1), 2):
        yield preempting(frozenset(pair))


def by_chance(rng: random.Random, change: float) -> Choose:
    """A schedule that changes the daemon now and then."""

    def choose(_: int, current: Task | None, ready: list[Task]) -> Task:
        if current is not None and rng.random() >= change:
            return current
        return rng.choice(ready)

    return choose
