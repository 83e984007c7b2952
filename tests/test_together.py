"""Commands that arrive while a commit is under way share the next one."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from flockpr.core.machine import step
from flockpr.core.model import Nexus
from flockpr.logical_unit import LogicalUnit, Narrowing, Order, Result
from flockpr.logical_unit import orders as limits
from flockpr.spc.cdb import parse_command
from flockpr.spc.codes import OutAction, Status
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from flockpr.units import Units, requests
from flockpr.units import worker as module
from tests.support.hanging import LONG, Hanging
from tests.support.lun_tools import (
    BECOMING,
    INTERVENTION,
    UNKNOWN,
    directory_of,
    register,
    sense_of,
)
from tests.support.scsi import (
    REGISTER,
    RELEASE_6,
    RESERVE_6,
    TEST_UNIT_READY,
    A,
    B,
    basic_list,
    in_cdb,
    keys_in,
    nexus,
    out_cdb,
)

GOOD = Result(Status.GOOD)
INTERNAL = (0x04, 0x44, 0x00)
BUSY = Result(Status.BUSY)
CONFLICT = Result(Status.RESERVATION_CONFLICT)
READ_KEYS = in_cdb(0)
IGNORE = OutAction.REGISTER_AND_IGNORE_EXISTING_KEY
WE = 1
EA = 3

Sent = tuple[Nexus, bytes, bytes]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """The file server of all LUNs that units open."""
    hanging = Hanging()

    def opened(path: str, **options: Any) -> LockDirectory:
        return LockDirectory(path, syscalls=hanging, **options)

    monkeypatch.setattr(module, "open_store", opened)
    yield hanging
    hanging.release()


@pytest.fixture
def root(tmp_path: Path) -> str:
    """One LUN."""
    create_lun(str(tmp_path), "disk")
    return str(tmp_path)


@pytest.fixture
def units(root: str, server: Hanging) -> Iterator[Units]:
    """A daemon."""
    units = Units(root, timeout=LONG)
    yield units
    server.release()
    units.close()


@pytest.fixture
def unit(root: str) -> Iterator[LogicalUnit]:
    """The LUN, opened by a daemon that keeps it tidy itself."""
    with LogicalUnit(LockDirectory(f"{root}/disk", patience=0.1), keep_tidy=False) as unit:
        yield unit


def send(units: Units, sent: Sent) -> Future[Result]:
    """One command."""
    of, cdb, data = sent
    return units.submit("disk", of, cdb, data, report_attentions=False)


def enter(of: Nexus, key: int) -> Sent:
    """REGISTER AND IGNORE EXISTING KEY."""
    return of, out_cdb(IGNORE), basic_list(0, key)


def out(of: Nexus, action: OutAction, own: int, new: int = 0, *, type_: int = WE) -> Sent:
    """PERSISTENT RESERVE OUT."""
    return of, out_cdb(action, type_=type_), basic_list(own, new)


def look(of: Nexus) -> Sent:
    """READ KEYS."""
    return of, READ_KEYS, b""


def together(
    unit: LogicalUnit,
    *several: Sent,
    may_issue: Callable[[int], bool] = lambda _: True,
    withdrawn: Callable[[int], bool] = lambda _: False,
    timeout: float = LONG,
) -> list[Result | Narrowing]:
    """Several commands at once."""
    deadline = time.monotonic() + timeout

    def order(number: int, sent: Sent) -> Order:
        of, cdb, data = sent
        command = parse_command(cdb, data)
        return Order(
            of, command, False, deadline, lambda: may_issue(number), lambda: withdrawn(number)
        )

    return unit.attempt_all([order(number, sent) for number, sent in enumerate(several)])


def lines(unit: LogicalUnit, since: int) -> list[list[tuple[str, str]]]:
    """The audit trail by transaction: who did what."""
    found: dict[int, list[tuple[str, str]]] = {}
    for record in unit.history(since):
        line = record.applied.nexus.rpartition(":")[2], record.applied.action
        found.setdefault(record.number, []).append(line)
    return list(found.values())


def journal(root: str) -> list[str]:
    """What was refused or changed nothing."""
    folder = Path(root, "disk", "journal")
    texts = "".join(path.read_text() for path in folder.iterdir())
    return [json.loads(line)["action"] for line in texts.splitlines()]


# --------------------------------------------------------------------------- one commit


def test_commands_that_arrive_during_a_commit_share_the_next(
    root: str, units: Units, server: Hanging
) -> None:
    """All are answered, each has a line of its own in the audit trail, in their order."""
    assert send(units, look(A)).result(LONG).status == Status.GOOD
    server.hang_in("link")
    first = send(units, enter(A, 1))
    assert server.stuck.wait(LONG)
    others = [send(units, enter(nexus(f"n{number}"), number + 2)) for number in range(9)]
    server.release()

    assert [future.result(LONG) for future in (first, *others)] == [GOOD] * 10
    with LogicalUnit.open(f"{root}/disk") as other:
        carried = lines(other, 2)
        assert [len(one) for one in carried] == [1, 9]
        assert [who for who, _ in carried[1]] == [f"n{number}" for number in range(9)]
        assert other.snapshot().state.generation == 10


def test_replies_of_a_shared_commit_wait_until_it_is_durable(units: Units, server: Hanging) -> None:
    """Those as well of commands that read, or were refused, by what others of it changed."""
    assert send(units, look(A)).result(LONG).status == Status.GOOD
    server.hang_in("link")
    first = send(units, enter(A, 1))
    assert server.stuck.wait(LONG)
    refused = out(B, OutAction.RESERVE, 7)
    behind = [send(units, sent) for sent in (enter(B, 2), look(B), refused)]
    server.hang_in("sync", after=1)  # the next commit's, with which it becomes durable

    assert first.result(LONG) == GOOD
    assert server.stuck.wait(LONG)
    assert not any(future.done() for future in behind)
    server.release()
    assert behind[0].result(LONG) == GOOD
    assert keys_in(behind[1].result(LONG).data_in) == [1, 2]
    assert behind[2].result(LONG) == CONFLICT


def test_commands_of_a_commit_see_what_those_before_them_changed(
    root: str, unit: LogicalUnit
) -> None:
    """As if each were alone: reads, refusals, changes and what changes nothing."""
    before = unit.snapshot().number
    answers = together(
        unit,
        look(A),
        enter(A, 1),
        look(A),
        out(A, OutAction.RESERVE, 9),
        out(A, OutAction.RESERVE, 1),
        out(A, OutAction.RESERVE, 1),
        enter(B, 2),
        out(B, OutAction.RESERVE, 2, type_=EA),
        (B, bytes((0x2A, *bytes(9))), b""),
        out(B, OutAction.REGISTER, 2, 0),
        look(B),
    )

    read = [answers[index] for index in (0, 2, 10)]
    assert [keys_in(answer.data_in) for answer in read if isinstance(answer, Result)] == [
        [],
        [1],
        [1],
    ]
    others = [answer for index, answer in enumerate(answers) if index not in (0, 2, 10)]
    assert others == [GOOD, CONFLICT, GOOD, GOOD, GOOD, CONFLICT, CONFLICT, GOOD]
    assert unit.snapshot().number == before + 1
    (carried,) = lines(unit, before + 1)
    assert [action for _, action in carried] == [
        "REGISTER AND IGNORE EXISTING KEY",
        "RESERVE",
        "REGISTER AND IGNORE EXISTING KEY",
        "REGISTER",
    ]
    assert journal(root) == ["RESERVE", "RESERVE", "RESERVE", "opcode 2ah"]


def test_commands_that_change_nothing_make_no_commit(unit: LogicalUnit) -> None:
    """However many they are."""
    assert register(unit, A, 1) == GOOD
    before = unit.snapshot()

    answers = together(unit, look(A), out(B, OutAction.RESERVE, 1), look(B))

    assert answers[1] == CONFLICT
    assert unit.snapshot() is before


def test_attentions_are_told_once_within_a_commit(unit: LogicalUnit) -> None:
    """SAM-5 5.14: the second command of a nexus finds what the first has left."""
    assert register(unit, A, 1) == GOOD
    unit.power_cycle()
    cdb = parse_command(TEST_UNIT_READY, b"")
    deadline = time.monotonic() + LONG
    orders = [Order(A, cdb, True, deadline, None, lambda: False) for _ in range(3)]

    first, *rest = unit.attempt_all(orders)

    assert isinstance(first, Result)
    assert sense_of(first) == (6, 0x29, 0)
    assert rest == [GOOD, GOOD]


def test_spc2_reservation_is_committed_alone(unit: LogicalUnit) -> None:
    """The byte range of its holder is had before its commit (SPC-4 5.13.3)."""
    before = unit.snapshot().number
    answers = together(
        unit,
        (A, RESERVE_6, b""),
        (B, TEST_UNIT_READY, b""),
        (B, RESERVE_6, b""),
        (A, RELEASE_6, b""),
        (B, RESERVE_6, b""),
        (A, TEST_UNIT_READY, b""),
        (B, RELEASE_6, b""),
        enter(A, 1),
        enter(B, 2),
    )

    assert answers == [GOOD, CONFLICT, CONFLICT, GOOD, GOOD, CONFLICT, GOOD, GOOD, GOOD]
    assert [len(one) for one in lines(unit, before + 1)] == [1, 1, 1, 1, 2]


def test_commit_carries_a_bounded_number_of_commands(
    unit: LogicalUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes later is not kept waiting by what comes ever earlier."""
    monkeypatch.setattr(limits, "MAX_TOGETHER", 4)
    before = unit.snapshot().number

    answers = together(unit, *(enter(nexus(f"n{number}"), number + 1) for number in range(10)))

    assert answers == [GOOD] * 10
    assert [len(one) for one in lines(unit, before + 1)] == [4, 4, 2]


# --------------------------------------------------------------------------- decided again


def test_lost_commit_decides_all_its_commands_again(root: str, unit: LogicalUnit) -> None:
    """Another daemon was first: whom it removed is refused, and reads see what it did."""
    for of, key in ((A, 1), (B, 2)):
        assert register(unit, of, key) == GOOD
    unit.snapshot()
    with LogicalUnit.open(f"{root}/disk") as other:

        def meanwhile(number: int) -> bool:
            if number == 0 and other.snapshot().state.generation == 2:
                sent = out(B, OutAction.PREEMPT, 2, 1)
                assert other.execute(*sent, report_attentions=False) == GOOD
            return True

        answers = together(
            unit,
            out(A, OutAction.RESERVE, 1),
            look(A),
            out(B, OutAction.REGISTER, 2, 3),
            out(B, OutAction.RESERVE, 3),
            may_issue=meanwhile,
        )

    assert isinstance(answers[1], Result)
    assert keys_in(answers[1].data_in) == [2]
    assert [answers[0], *answers[2:]] == [CONFLICT, GOOD, GOOD]
    assert [len(one) for one in lines(unit, 4)] == [1, 2]


def test_command_whose_time_is_over_at_the_commit_is_left_out(unit: LogicalUnit) -> None:
    """It is BUSY and never done; those behind it are decided as if it had not been there."""
    before = unit.snapshot().number

    answers = together(
        unit,
        enter(A, 1),
        enter(B, 2),
        out(B, OutAction.RESERVE, 2),
        look(A),
        may_issue=lambda number: number != 1,
    )

    assert isinstance(answers[3], Result)
    assert keys_in(answers[3].data_in) == [1]
    assert answers[:3] == [GOOD, BUSY, CONFLICT]
    assert [len(one) for one in lines(unit, before + 1)] == [1]


def test_commands_whose_time_is_over_are_all_busy(unit: LogicalUnit) -> None:
    """Nothing is committed; who only reads is answered."""
    before = unit.snapshot()

    answers = together(unit, enter(A, 1), enter(B, 2), look(A), may_issue=lambda _: False)

    assert answers[:2] == [BUSY, BUSY]
    assert isinstance(answers[2], Result)
    assert keys_in(answers[2].data_in) == []
    assert unit.snapshot() is before


def test_command_is_not_asked_to_be_issued_beside_one_that_nobody_waits_for(
    unit: LogicalUnit,
) -> None:
    """Once it said yes it may have been done, and a timeout would be an unknown outcome."""
    before = unit.snapshot().number
    asked: list[int] = []
    by_commit: list[list[int]] = []
    commit = unit._store.commit

    def may_issue(number: int) -> bool:
        asked.append(number)
        return True

    def watched(*arguments: Any, **options: Any) -> Any:
        already = len(asked)
        try:
            return commit(*arguments, **options)
        finally:
            by_commit.append(asked[already:])

    unit._store.commit = watched  # type: ignore[method-assign]
    answers = together(
        unit,
        enter(A, 1),
        enter(B, 2),
        enter(nexus("c"), 3),
        may_issue=may_issue,
        withdrawn=lambda number: number == 1,
    )

    assert answers == [GOOD, BUSY, GOOD]
    assert by_commit == [[], [0, 2]]
    assert [len(one) for one in lines(unit, before + 1)] == [2]


# --------------------------------------------------------------------------- failures


def failing(unit: LogicalUnit, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    """From now on a system call of the store fails."""

    def fails(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(directory_of(unit)._sys, call, fails)


def test_full_disk_refuses_what_changes_and_answers_what_reads(
    unit: LogicalUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads are decided anew, without what could not be written."""
    assert register(unit, A, 1) == GOOD
    failing(unit, monkeypatch, "write", errno.ENOSPC)

    answers = together(unit, enter(B, 2), look(B), enter(A, 3), out(B, OutAction.RESERVE, 9))

    results = [answer for answer in answers if isinstance(answer, Result)]
    assert [sense_of(results[index]) for index in (0, 2)] == [INTERVENTION] * 2
    assert keys_in(results[1].data_in) == [1]
    assert results[3] == CONFLICT


def test_commit_of_unknown_outcome_is_told_to_those_that_it_carried(
    unit: LogicalUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait for its outcome: BUSY while that cannot be had."""
    assert register(unit, A, 1) == GOOD
    with monkeypatch.context() as patch:
        failing(unit, patch, "link", errno.EIO)
        answers = together(unit, enter(B, 2), look(B), enter(A, 3))
    results = [answer for answer in answers if isinstance(answer, Result)]
    assert [sense_of(results[index]) for index in (0, 2)] == [UNKNOWN] * 2
    # Its number was taken by a transaction that changes nothing, or could not be.
    assert results[1] == BUSY or keys_in(results[1].data_in) == [1]

    read = unit.execute(*look(A), report_attentions=False)
    assert keys_in(read.data_in) == [1]


def test_commit_that_cannot_be_synced_answers_nobody_that_depends_on_it(
    unit: LogicalUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took effect, and may not survive."""
    assert register(unit, A, 1) == GOOD
    real = directory_of(unit)._sys.fsync

    def fails(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EIO, "no")
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(directory_of(unit)._sys, "fsync", fails)
        answers = together(unit, look(A), enter(B, 2), look(B))
    results = [answer for answer in answers if isinstance(answer, Result)]
    assert [sense_of(result) for result in results] == [BECOMING, UNKNOWN, BECOMING]

    assert keys_in(unit.execute(*look(A), report_attentions=False).data_in) == [1, 2]


def test_hung_commit_is_unknown_to_those_that_it_carries_and_busy_for_the_others(
    units: Units, server: Hanging
) -> None:
    """Answered when their time is over, whatever the file server does; then it takes effect."""
    assert send(units, look(A)).result(LONG).status == Status.GOOD
    server.hang_in("write")
    first = send(units, enter(A, 1))
    assert server.stuck.wait(LONG)
    behind = [send(units, sent) for sent in (enter(B, 2), look(B), out(B, OutAction.RESERVE, 9))]
    server.hang_in("link", after=1)
    assert first.result(LONG) == GOOD
    assert server.stuck.wait(LONG)
    worker = units._workers["disk", "api"]
    for request in (worker._current, *worker._queue):
        assert request is not None
        request.deadline = time.monotonic()

    assert sense_of(behind[0].result(LONG)) == UNKNOWN
    assert [future.result(LONG) for future in behind[1:]] == [BUSY, BUSY]
    server.release()
    assert keys_in(send(units, look(A)).result(LONG).data_in) == [1, 2]


def test_withdrawn_command_is_not_done_with_those_around_it(
    root: str, units: Units, server: Hanging
) -> None:
    """Its time is over while the commit before it hangs."""
    assert send(units, look(A)).result(LONG).status == Status.GOOD
    server.hang_in("link")
    first = send(units, enter(A, 1))
    assert server.stuck.wait(LONG)
    behind = [send(units, enter(nexus(f"n{number}"), number + 2)) for number in range(3)]
    waiting = units._workers["disk", "api"]._queue[1]
    waiting.deadline = time.monotonic()
    assert behind[1].result(LONG) == BUSY
    server.release()

    assert [future.result(LONG) for future in (first, behind[0], behind[2])] == [GOOD] * 3
    with LogicalUnit.open(f"{root}/disk") as other:
        assert sorted(r.key for r in other.snapshot().state.registrations) == [1, 2, 4]


def test_mistake_in_one_command_is_told_to_that_one_alone(
    unit: LogicalUnit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot happen, and does, leaves the others as they would be without it."""

    def breaks(state: Any, who: Nexus, *arguments: Any, **options: Any) -> Any:
        if who == B:
            raise ZeroDivisionError("cannot happen")
        return step(state, who, *arguments, **options)

    monkeypatch.setattr(limits, "step", breaks)

    answers = together(unit, enter(A, 1), enter(B, 2), out(A, OutAction.RESERVE, 1), look(A))

    results = [answer for answer in answers if isinstance(answer, Result)]
    assert [answers[0], answers[2]] == [GOOD, GOOD]
    assert sense_of(results[1]) == INTERNAL
    assert keys_in(results[3].data_in) == [1]
    assert "cannot happen" in caplog.text
    assert [r.key for r in unit.snapshot().state.registrations] == [1]


def test_mistake_after_a_commit_is_told_to_those_that_it_carried(
    unit: LogicalUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not carried out twice; those behind them are carried out."""
    monkeypatch.setattr(limits, "MAX_TOGETHER", 2)
    before = unit.snapshot().number
    real, broken = unit._decisions.standing.stand_for, ["once"]

    def breaks(*arguments: Any) -> None:
        if broken:
            broken.pop()
            raise ZeroDivisionError("cannot happen")
        real(*arguments)

    monkeypatch.setattr(unit._decisions.standing, "stand_for", breaks)

    answers = together(unit, enter(A, 1), out(A, OutAction.REGISTER, 1, 7), enter(B, 2))

    results = [answer for answer in answers if isinstance(answer, Result)]
    assert [sense_of(results[index]) for index in (0, 1)] == [INTERNAL] * 2
    assert answers[2] == GOOD
    assert [len(one) for one in lines(unit, before + 1)] == [2, 1]
    assert sorted(r.key for r in unit.snapshot().state.registrations) == [2, 7]


def test_command_that_cannot_be_read_does_not_keep_those_around_it(
    units: Units, server: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bytes are known with which that happens."""
    server.hang_in("link")
    first = send(units, enter(A, 1))
    assert server.stuck.wait(LONG)
    behind = [send(units, sent) for sent in (enter(B, 2), (A, b"\xff" * 6, b""), look(B))]

    def breaks(cdb: bytes, *arguments: Any, **options: Any) -> Any:
        if cdb[0] == 0xFF:
            raise ZeroDivisionError("cannot happen")
        return parse_command(cdb, *arguments, **options)

    monkeypatch.setattr(requests, "parse_command", breaks)
    server.release()

    assert [first.result(LONG), behind[0].result(LONG)] == [GOOD, GOOD]
    assert sense_of(behind[1].result(LONG)) == INTERNAL
    assert keys_in(behind[2].result(LONG).data_in) == [1, 2]


# --------------------------------------------------------------------------- the gate


def test_command_that_takes_access_away_does_not_keep_the_others(tmp_path: Path) -> None:
    """It waits for the gate and is committed alone; the others do not wait with it."""
    create_lun(str(tmp_path), "disk", image="image")
    (tmp_path / "image").write_bytes(bytes(4096))
    with LogicalUnit.open(str(tmp_path / "disk")) as unit:
        for of, key in ((A, 1), (B, 2)):
            assert register(unit, of, key) == GOOD
        before = unit.snapshot().number

        one, two, narrowing, four, five = together(
            unit,
            enter(nexus("c"), 3),
            look(A),
            out(A, OutAction.RESERVE, 1, type_=EA),
            enter(nexus("d"), 4),
            out(B, OutAction.RESERVE, 9),
        )
        assert [one, four, five] == [GOOD, GOOD, CONFLICT]
        assert isinstance(two, Result)
        assert keys_in(two.data_in) == [1, 2, 3]
        assert isinstance(narrowing, Narrowing)
        assert unit.snapshot().state.reservation is None

        assert narrowing.run() == GOOD
        assert unit.snapshot().state.reservation is not None
        assert [len(one) for one in lines(unit, before + 1)] == [2, 1]


# --------------------------------------------------------------------------- who comes and goes


def test_nexus_that_leaves_between_two_commands_ends_what_ends_with_it(
    units: Units, server: Hanging
) -> None:
    """What was queued before it left is of the one that left; the commit ends there."""
    assert send(units, (A, RESERVE_6, b"")).result(LONG) == GOOD
    server.hang_in("stat")
    hung = send(units, look(B))
    assert server.stuck.wait(LONG)
    conflict = send(units, enter(B, 2))
    units.leave("disk", A)
    after = send(units, enter(B, 2))
    server.release()

    assert hung.result(LONG).status == Status.GOOD or hung.result(LONG) == CONFLICT
    assert conflict.result(LONG) == CONFLICT
    assert after.result(LONG) == GOOD


def test_command_of_a_nexus_that_comes_back_is_not_of_the_one_that_left(
    root: str, units: Units, server: Hanging
) -> None:
    """Its leave has its place between them."""
    assert send(units, look(A)).result(LONG).status == Status.GOOD
    server.hang_in("stat")
    hung = send(units, look(B))
    assert server.stuck.wait(LONG)
    before = send(units, enter(A, 1))
    units.leave("disk", A)
    units.attend("disk", A)
    after = send(units, (A, out_cdb(REGISTER), basic_list(1, 5)))
    server.release()

    assert [hung.result(LONG).status, before.result(LONG), after.result(LONG)] == [
        Status.GOOD,
        GOOD,
        GOOD,
    ]
    with LogicalUnit.open(f"{root}/disk") as other:
        (entry,) = other.status().to_json()["registrations"]
        assert (entry["key"], entry["liveness"]) == ("0x0000000000000005", "alive")
        assert [len(one) for one in lines(other, 2)] == [1, 1]


def test_queue_is_full_with_those_that_are_being_committed(
    units: Units, server: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not answered counts, or memory would not be bounded."""
    monkeypatch.setattr(module, "MAX_QUEUED", 4)
    assert send(units, look(A)).result(LONG).status == Status.GOOD
    server.hang_in("write")
    first = send(units, enter(A, 1))
    assert server.stuck.wait(LONG)
    behind = [send(units, enter(nexus(f"n{number}"), number + 2)) for number in range(4)]
    server.hang_in("link", after=1)
    assert first.result(LONG) == GOOD
    assert server.stuck.wait(LONG)

    more = [send(units, enter(nexus(f"m{number}"), number + 20)) for number in range(2)]
    assert more[1].result(LONG) == Result(Status.TASK_SET_FULL)
    server.release()
    assert [future.result(LONG) for future in (*behind, more[0])] == [GOOD] * 5
