"""Two daemons, six clients, one logical unit, and daemons that are killed in between.

What the clients saw must have an order in which the rules give exactly these answers, the audit
trail must tell that order, and hardly anything may have been refused where nothing failed.
"""

from __future__ import annotations

import os
import random

import pytest

from flockpr.core.model import LogicalUnitState
from flockpr.store.layout import LOCKS
from tests.support.daemons import LUN, Answer, Daemon, Door, audit_trail, chain, committed
from tests.support.linearizability import NotLinearizable, Operation, check
from tests.support.traffic_recorder import (
    Client,
    Command,
    Host,
    Recorded,
    following,
    model,
    outside_windows,
    play,
    reads,
)

DOORS = {"one": ("a", "b", "shared"), "two": ("c", "d", "shared")}
"""By host the guests on it; the shared one runs on both, as during a migration."""


def _history(records: list[Recorded]) -> list[Operation[Command, Answer]]:
    """All that can have happened: what was refused must not have, so it is left out."""
    return [record.operation for record in records if not record.refused]


def _run(
    directory: str, commands: int, crashes: int, *, network: bool = False
) -> tuple[LogicalUnitState, list[Recorded], list[Host]]:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")  # shown with a failure
    choose = random.Random(seed)
    hosts, clients = [], []
    for name, guests in DOORS.items():
        doors = [Door(guest) for guest in guests]
        host = Host(Daemon(directory, name, doors), network=network)
        hosts.append(host)
        clients += [
            Client(f"{door.guest} on {name}", host, door, choose.getrandbits(32)) for door in doors
        ]
    initial = committed(directory)
    try:
        records = play(hosts, clients, commands=commands, crashes=crashes, choose=choose)
    finally:
        for host in hosts:
            host.daemon.kill()
    return initial, records, hosts


def _judge(directory: str, commands: int, crashes: int, *, network: bool = False) -> None:
    initial, records, hosts = _run(directory, commands, crashes, network=network)
    history, final = _history(records), committed(directory)
    trail = [record for record in audit_trail(directory) if record["opcode"] is not None]
    try:
        verdict = check(
            history,
            (initial, 0),
            following(trail),
            reads=reads,
            accept=lambda at: at == (final, len(trail)),
        )
    except NotLinearizable:
        # Is it the trail alone that is wrong? Then this passes, and the first error is the one.
        check(history, initial, model, reads=reads, accept=lambda state: state == final)
        raise
    chain(directory)

    calm = outside_windows(records, hosts)
    good = [record for record in calm if record.acknowledged]
    print(f"{len(records)} commands, {len(trail)} transactions, {len(calm)} in calm,", end=" ")
    print(f"{len(good)} of these acknowledged, at most {verdict.widest} configurations")
    assert len(good) >= 0.95 * len(calm)
    assert len(calm) >= commands * 0.8, "hardly anything ran while nothing failed"
    assert len(trail) >= len(records) / 20, "hardly anything changed the state"


def test_histories_of_daemons_that_die_are_linearizable(directory: str) -> None:
    """Every answer fits one order, the trail tells it, and 95 % are acknowledged in calm."""
    _judge(directory, 600, 3)


def test_histories_without_any_lock_are_linearizable(directory: str) -> None:
    """Locks are order, not safety: where none can be had, commits collide and nothing is lost."""
    os.unlink(os.path.join(directory, "root", LUN, LOCKS))
    _judge(directory, 400, 1)


@pytest.mark.timeout(600)
def test_histories_of_daemons_with_a_database_are_linearizable(database: str) -> None:
    """What one was killed in the middle of, the other plays back."""
    _judge(database, 120, 1)


@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("turn", range(3))
def test_long_histories_of_daemons_with_a_database_are_linearizable(
    database: str, turn: int
) -> None:
    """The same, longer."""
    _judge(database, 4000, 20)


@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("turn", range(3))
def test_long_histories_without_any_lock_are_linearizable(directory: str, turn: int) -> None:
    """The same, longer."""
    os.unlink(os.path.join(directory, "root", LUN, LOCKS))
    _judge(directory, 4000, 10)


@pytest.mark.sweep
@pytest.mark.peer("strace")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("network", [False, True], ids=["local", "network"])
@pytest.mark.parametrize("turn", range(5))
def test_long_histories_of_daemons_that_die_are_linearizable(
    directory: str, network: bool, turn: int
) -> None:
    """The same, longer, and also as on a network file system."""
    _judge(directory, 6000, 20, network=network)


def test_history_with_one_answer_changed_is_rejected(directory: str) -> None:
    """The judgement is no formality: one wrong answer among hundreds is found."""
    initial, records, _ = _run(directory, 150, 0)
    history = _history(records)
    check(history, initial, model, reads=reads)
    numbers = [
        number
        for number, operation in enumerate(history)
        if reads(operation.command) and operation.answer is not None
    ]
    caught = 0
    for number in numbers[::4]:
        operation = history[number]
        assert operation.answer is not None
        assert operation.ended is not None
        data = operation.answer.data
        wrong = Answer(0, data=data[:3] + bytes((data[3] ^ 1,)) + data[4:])  # PRGENERATION
        changed = Operation(
            operation.client, operation.command, operation.invoked, operation.ended, wrong
        )
        altered = [*history[:number], changed, *history[number + 1 :]]
        try:
            check(altered, initial, model, reads=reads)
        except NotLinearizable:
            caught += 1
    # A read that overlaps a commit may see either generation; most do not.
    assert caught > len(numbers[::4]) / 2
