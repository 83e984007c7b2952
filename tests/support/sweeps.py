"""Sweeps: every system call of every store operation fails once, or is the last one.

An operation is prepared in a fresh world and carried out by daemon A, whose calls are
counted; then once more for each call and each way to fail.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator

import attrs

from flockpr.errors import StoreError
from flockpr.store import layout
from flockpr.store.lockdir import LockDirectory
from tests.support.lun_tools import directory_of
from tests.support.scenes import GOOD
from tests.support.scsi import nexus
from tests.support.simfs import Call, Client, Killed, Tap
from tests.support.simworld import LUN, NOTHING_DONE, OUTCOME_UNKNOWN, Daemon, Play, World

ERRNOS = (
    errno.ENOSPC,
    errno.EIO,
    errno.EROFS,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENOENT,
    errno.EACCES,
)
LOSABLE = ("link", "rename", "unlink", "fsync", "write", "fchmod", "lock")
"""Calls that may take effect and fail all the same, their reply lost."""


@attrs.frozen
class Stage:
    """A world with two daemons, and what daemon A is to do in it."""

    world: World
    a: Daemon
    b: Daemon
    act: Callable[[], object]


def _stage(
    act: Callable[[Daemon, Daemon], object], *before: tuple[int, Play], forgetful: bool = False
) -> Stage:
    world = World(segment=2, forgetful=forgetful)
    a = world.daemon(keep=2, settle=0, patience=1.0)
    b = world.daemon(keep=2, settle=0)
    a.register("a", 1)
    b.register("b", 2)
    a.keys()
    for who, play in before:
        (a, b)[who].play(play)
    world.clock.now += 10.0
    return Stage(world, a, b, lambda: act(a, b))


def _contended(a: Daemon, b: Daemon) -> None:
    """B commits between A's look at the head and A's link."""
    done: list[bool] = []

    def may_issue() -> bool:
        if not done:
            done.append(True)
            b.register("b", 7)
        return True

    a.register("a", 5, may_issue=may_issue)


TOGETHER: tuple[Play, ...] = (
    ("keys", "b"),
    (6, "a", 0, 5),
    (1, "b", 99, 0),
    (1, "a", 5, 0),
    ("keys", "a"),
    (6, "c", 0, 6),
    (6, "a", 0, 9),
)
"""Reads, changes and a refusal; some are decided on what those before them change."""


def _glance(a: Daemon, b: Daemon) -> None:
    """Read without asking anybody, before and after somebody else's commit; the third time it is
    not even looked for.
    """
    a.keys("a")
    for _ in range(3):
        a.glance("a")
    b.register("b", 7)
    for _ in range(4):
        a.glance("a")


def _together(a: Daemon, _: Daemon) -> None:
    a.send_together(*TOGETHER)


def _together_contended(a: Daemon, b: Daemon) -> None:
    """B commits between A's look at the head and A's link: all are decided again."""
    done: list[bool] = []

    def may_issue(_: int) -> bool:
        if not done:
            done.append(True)
            b.preempt("b", 2, 1)
        return True

    a.send_together(*TOGETHER, may_issue=may_issue)


def _together_late(a: Daemon, _: Daemon) -> None:
    """The time of one is over when all are about to be committed."""
    a.send_together(*TOGETHER, may_issue=lambda index: index != 3)


def _reopen(a: Daemon, _: Daemon) -> None:
    """A second opening by the same process."""
    LockDirectory(LUN, syscalls=a.client).close()


def _prune(a: Daemon, _: Daemon) -> None:
    """Seen first, pruned then."""
    a.keys()
    a.tidy()


def _history(a: Daemon, _: Daemon) -> None:
    """Everything from the beginning, without a hole."""
    told = a.world.judge_trail(a.unit.history())
    assert told == set(range(1, len(told) + 1))
    assert a.unit.history_begins() == 1
    list(a.unit.refusals())


def _commit_and_prune(number: int) -> tuple[tuple[int, Play], ...]:
    return ((1, (6, "c", 0, 3 + number)), (1, ("tidy",)))


_CLEARED: tuple[tuple[int, Play], ...] = ((1, (3, "b", 2, 0)),)
_HELD: tuple[tuple[int, Play], ...] = (*_CLEARED, (1, ("spc2", "b")))
_TAKEN: tuple[int, Play] = (0, ("spc2", "a"))


def _make(
    act: Callable[[Daemon, Daemon], object], *before: tuple[int, Play]
) -> Callable[[bool], Stage]:
    return lambda forgetful: _stage(act, *before, forgetful=forgetful)


OPERATIONS: dict[str, Callable[[bool], Stage]] = {
    "open": _make(_reopen),
    "read keys": _make(lambda a, _: a.keys()),
    "read keys of another's commit": _make(lambda a, _: a.keys(), (1, (6, "c", 0, 3))),
    "read keys after pruning": _make(
        lambda a, _: a.keys(), *(play for n in range(5) for play in _commit_and_prune(n))
    ),
    "register": _make(lambda a, _: a.register("a", 5)),
    "register against another": _make(_contended),
    "conflict": _make(lambda a, _: a.reserve("a", 99)),
    "together": _make(_together),
    "together against another": _make(_together_contended),
    "together, one late": _make(_together_late),
    "together, SPC-2": _make(
        lambda a, _: a.play(("together", ("spc2", "a"), ("spc2", "b"), ("spc2 release", "a"))),
        *_CLEARED,
    ),
    "glance": _make(_glance),
    "preempt": _make(lambda a, _: a.preempt("a", 1, 2)),
    "spc2 reserve": _make(lambda a, _: a.play(("spc2", "a")), *_CLEARED),
    "spc2 conflict": _make(lambda a, _: a.play(("spc2", "a")), *_HELD),
    "spc2 release": _make(lambda a, _: a.play(("spc2 release", "a")), *_CLEARED, _TAKEN),
    "spc2 leave": _make(lambda a, _: a.unit.leave(nexus("a")), *_CLEARED, _TAKEN),
    "attend": _make(lambda a, _: a.unit.attend(nexus("a"))),
    "power cycle": _make(lambda a, _: a.power_cycle()),
    "publish": _make(lambda a, _: a.tidy(), (0, (6, "a", 0, 9))),
    "prune": _make(_prune, *((1, (6, "c", 0, 3 + n)) for n in range(4))),
    "status": _make(lambda a, _: a.unit.status().to_json()),
    "history": _make(_history),
    "close": _make(lambda a, _: a.unit.close()),
}


def calls_of(name: str, *, forgetful: bool = False) -> list[Call]:
    """The system calls that an operation makes when nothing fails."""
    stage = OPERATIONS[name](forgetful)
    with stage.world.clock.installed():
        first = len(stage.a.client.calls)
        stage.act()
        return stage.a.client.calls[first:]


def faults_of(
    name: str, *, every: bool = True, forgetful: bool = False
) -> Iterator[tuple[int, int, bool]]:
    """Every call, errno, and whether the call takes effect before it fails.

    Args:
        name: The operation.
        every: Every errno for each call; else EIO, ENOENT of a name, and one other in turn.
        forgetful: Name caches.
    """
    for index, call in enumerate(calls_of(name, forgetful=forgetful)):
        others = [number for number in ERRNOS if number not in (errno.EIO, errno.ENOENT)]
        chosen: tuple[int, ...] = (errno.EIO, others[index % len(others)])
        if call.name in ("open", "stat"):
            chosen = (*chosen, errno.ENOENT)
        if every:
            chosen = ERRNOS
        for number in chosen:
            yield index, number, False
        for number in (errno.EIO, errno.ENOSPC) if call.name in LOSABLE else ():
            yield index, number, True


def stalled(name: str, index: int, *, forgetful: bool = False) -> None:
    """One operation that is stopped at one call, while another daemon commits and prunes."""
    stage = OPERATIONS[name](forgetful)
    world, a = stage.world, stage.a
    with world.clock.installed():
        c = world.daemon(keep=2, settle=0)

        def strike(_: Client, __: Call) -> None:
            for number in range(4):
                c.power_cycle()
                assert c.register("c", number + 1) == GOOD
                world.clock.now += 2.0
                c.tidy()

        at_call(a.client, index, False, strike)
        stage.act()
        a.client.before = None
        if name != "close":
            assert a.keys() == c.keys()
        settled(world)


def denies_a_successor(daemon: Daemon, call: Call, number: int) -> bool:
    """Whether the fault is a lie that nobody can see through: a commit of somebody else that
    is there is said to be absent, by a file system that is not allowed to.
    """
    if number != errno.ENOENT or layout.COMMIT_NAME.fullmatch(call.what) is None:
        return False
    known = directory_of(daemon.unit)._transactions.known
    return known is not None and int(call.what[:16]) > known.number and call.name != "link"


def at_call(client: Client, index: int, late: bool, strike: Tap) -> None:
    """Let something happen before, or right after, the call of that index from now on."""
    left = [index]
    meant: list[Call] = []

    def before(client: Client, call: Call) -> None:
        left[0] -= 1
        if left[0] == -1:
            meant.append(call)
            if not late:
                strike(client, call)

    def after(client: Client, call: Call) -> None:
        if late and meant and call is meant[0]:
            strike(client, call)

    client.before, client.after = before, after


def fault(name: str, index: int, number: int, late: bool, *, forgetful: bool = False) -> None:
    """One operation in which one call fails; then everything must be as it should."""
    stage = OPERATIONS[name](forgetful)
    world, a = stage.world, stage.a
    with world.clock.installed():

        def strike(_: Client, call: Call) -> None:
            if not denies_a_successor(a, call, number):
                raise OSError(number, os.strerror(number))

        opened = set(a.client.fds)
        at_call(a.client, index, late, strike)
        with contextlib.suppress(StoreError):
            stage.act()
        a.client.before = a.client.after = None
        if name == "open":
            assert set(a.client.fds) == opened
        if name != "close":
            world.clock.now += 10.0
            a.power_cycle()
            assert a.register("later", 8) == GOOD
            assert a.keys() == stage.b.keys()
            a.tidy()
            assert a.unit.status().published == world.newest
            a.unit.close()
        assert not a.client.fds, "a descriptor leaked"
        settled(world)


def kill(name: str, index: int, *, forgetful: bool = False) -> None:
    """One operation in which the process dies at one call; the other daemon goes on."""
    stage = OPERATIONS[name](forgetful)
    world = stage.world
    with world.clock.installed():

        def strike(client: Client, _: Call) -> None:
            client.die()
            raise Killed

        at_call(stage.a.client, index, False, strike)
        with contextlib.suppress(Killed):
            stage.act()
        world.judge_recovery(world.disk.cut(lambda _: 0))
        stage.b.power_cycle()
        assert stage.b.register("later", 8) == GOOD
        world.clock.now += 10.0
        stage.b.tidy()
        assert stage.b.unit.status().published == world.newest
        settled(world)


def settled(world: World) -> None:
    """All replies fit, and the power may fail."""
    for sent in world.sent:
        assert (
            sent.result is None
            or sent.answered
            or sent.result
            in (
                OUTCOME_UNKNOWN,
                *NOTHING_DONE,
            )
        )
    world.judge()
    world.judge_recovery(world.disk.cut(lambda _: 0))
