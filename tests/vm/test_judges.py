"""The judges of the fault matrix: they must see what they are there to see."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from flockpr.core.model import LogicalUnitState
from flockpr.spc.codes import Status
from tests.support.daemons import Sent, out, read
from tests.support.iscsi_client import Reply
from tests.support.linearizability import NotLinearizable
from tests.support.scsi import PREEMPT, REGISTER_IGNORE, RESERVE, WERO, nexus
from tests.vm.duel import Fenced
from tests.vm.history import Answer, Command, History, Record, acknowledged_share, decide
from tests.vm.matrix import seen
from tests.vm.scene import Scene, Window
from tests.vm.stamps import (
    BLOCK,
    SECTOR,
    SECTORS,
    Ledger,
    Outcome,
    Stamp,
    Violation,
    block_of,
    judge_fenced,
    judge_open,
    judge_sealed,
    stamps_in,
)
from tests.vm.writer import told_what_came_of_it

A, B = nexus("a", 2), nexus("b", 1)


def written(*outcomes: Outcome) -> Ledger:
    """A ledger with a write of block 0 for each outcome, at the moments 1, 2 and so on."""
    ledger = Ledger("a")
    for moment, outcome in enumerate(outcomes, start=1):
        ledger.end(ledger.issue(0, moment), outcome, moment + 0.5)
    return ledger


def judged(ledger: Ledger, *numbers: int | None, after: int = 0) -> None:
    """Judge block 0 with the stamps of these writes in its sectors."""
    stamps = [None if number is None else Stamp("a", number, 0) for number in numbers]
    judge_open(ledger, after, {0: None}, {0: stamps})


def test_stamps_block_round_trip() -> None:
    """What is written is what is read, each sector for itself."""
    stamp = Stamp("duel0", 77, 3)
    assert stamps_in(block_of(stamp)) == [stamp] * SECTORS
    assert stamps_in(bytes(BLOCK)) == [None] * SECTORS


def test_stamps_torn_sector_is_a_violation() -> None:
    """A sector that is half of one write and half of another was never written."""
    one, other = block_of(Stamp("a", 1, 0)), block_of(Stamp("a", 2, 0))
    with pytest.raises(Violation, match="torn"):
        stamps_in(one[:256] + other[256:])
    with pytest.raises(Violation, match="misplaced"):
        stamps_in(one[SECTOR : 2 * SECTOR])
    assert stamps_in(one[:SECTOR] + other[SECTOR:])[:2] == [Stamp("a", 1, 0), Stamp("a", 2, 0)]


@pytest.mark.parametrize("found", [(2,), (3,), (2, 3)])
def test_open_blocks_may_hold_the_acknowledged_or_what_came_after(found: tuple[int, ...]) -> None:
    """A write whose fate nobody knows may have landed, wholly or in part."""
    judged(written(Outcome.GOOD, Outcome.GOOD, Outcome.UNKNOWN), *found)


@pytest.mark.parametrize("found", [1, None])
def test_open_blocks_without_the_acknowledged_are_a_violation(found: int | None) -> None:
    """An acknowledged write was lost."""
    with pytest.raises(Violation):
        judged(written(Outcome.GOOD, Outcome.GOOD), found)


def test_open_blocks_with_a_refused_write_are_a_violation() -> None:
    """What was answered RESERVATION CONFLICT may not be there."""
    with pytest.raises(Violation, match="refused"):
        judged(written(Outcome.GOOD, Outcome.REFUSED), 2)


def test_open_blocks_with_a_write_from_before_are_a_violation() -> None:
    """A write of the time before he was fenced has come late."""
    ledger = written(Outcome.UNKNOWN, Outcome.REFUSED)
    judged(ledger, None, after=2)
    with pytest.raises(Violation):
        judged(ledger, 1, after=2)


def test_sealed_blocks_with_anything_else_are_a_violation() -> None:
    """One sector of the loser over the winner's."""
    seal = Stamp("b", 9, 0)
    judge_sealed({0: seal}, {0: [seal] * SECTORS})
    with pytest.raises(Violation, match="after GOOD"):
        judge_sealed({0: seal}, {0: [*[seal] * 7, Stamp("a", 1, 0)]})


def test_fenced_write_that_is_acknowledged_is_a_violation() -> None:
    """Sent after GOOD and carried out; sent before it may be answered later."""
    judge_fenced(written(Outcome.GOOD, Outcome.REFUSED), 1.2)
    with pytest.raises(Violation):
        judge_fenced(written(Outcome.GOOD, Outcome.GOOD), 1.2)


Trail = list[dict[str, object]]


def story(*steps: tuple[Command, bool]) -> tuple[History, Trail]:
    """The record of commands one after the other, and the trail that they leave; those with
    False were not answered.
    """
    history, trail, state = History("disk"), Trail(), LogicalUnitState()
    for moment, (command, answered) in enumerate(steps):
        after, answer = decide(state, command)
        told = answer if answered else None
        history.records.append(Record("c", 0, command, moment, moment + 0.5, told))
        if after is not state:
            trail.append(_recorded(command, state, after))
        state = after
    return history, trail


def _recorded(
    command: Command, before: LogicalUnitState, after: LogicalUnitState
) -> dict[str, object]:
    own, new = (command.sent.data_out[at : at + 8].hex() for at in (0, 8))
    names = {REGISTER_IGNORE: "REGISTER AND IGNORE EXISTING KEY", RESERVE: "RESERVE"}
    return {
        "initiator": command.who.initiator_port.text,
        "target_port": command.who.target_port,
        "action": names.get(command.sent.cdb[1], "PREEMPT"),
        "key": f"0x{own}",
        "service_action_key": f"0x{new}",
        "opcode": command.sent.cdb[0],
        "type": command.sent.cdb[2] & 15,
        "status": 0,
        "generation_before": before.generation,
        "generation_after": after.generation,
    }


def told(answered: bool = True) -> list[tuple[Command, bool]]:
    """A and B register, A reserves, B takes it, A looks."""
    take: Sent = out(PREEMPT, 2, 1, type_=WERO)
    return [
        (Command(A, out(REGISTER_IGNORE, 0, 1)), True),
        (Command(B, out(REGISTER_IGNORE, 0, 2)), True),
        (Command(A, out(RESERVE, 1, type_=WERO)), True),
        (Command(B, take), answered),
        (Command(A, read(1)), True),
    ]


def test_history_that_can_be_true_is_accepted() -> None:
    """Also where an answer is missing: the trail tells whether the command was carried out."""
    for answered in (True, False):
        history, trail = story(*told(answered))
        assert history.settle(trail) == 5


def test_history_not_carried_out_and_not_answered_is_accepted() -> None:
    """A command in flight at a crash need not have happened."""
    history, trail = story(*told()[:3])
    lost = Command(B, out(PREEMPT, 2, 1, type_=WERO))
    history.records.append(Record("c", 0, lost, 3.0, 3.5, None))
    assert history.settle(trail) == 4


def _lose(trail: Trail) -> None:
    del trail[3]


def _twice(trail: Trail) -> None:
    trail.append(trail[3])


def _other(trail: Trail) -> None:
    trail[2] = trail[2] | {"type": 1}


@pytest.mark.parametrize("spoil", [_lose, _twice, _other])
def test_history_against_the_trail_is_refused(spoil: Callable[[Trail], None]) -> None:
    """An acknowledged command that is not in the trail, one that is there twice, another one."""
    history, trail = story(*told())
    spoil(trail)
    with pytest.raises(NotLinearizable):
        history.settle(trail)


def test_history_with_two_holders_is_refused() -> None:
    """Whoever reads the reservation after a PREEMPT sees the new holder."""
    history, trail = story(*told())
    last = history.records[-1]
    stale, _ = story(*told()[:3], (Command(A, read(1)), True))
    history.records[-1] = Record("c", 0, last.command, 4.0, 4.5, stale.records[-1].answer)
    with pytest.raises(NotLinearizable):
        history.settle(trail)


def test_share_counts_what_no_window_overlaps() -> None:
    """BUSY outside of a window counts against us, inside it does not."""
    command = Command(A, read())
    records = [
        Record("c", 0, command, moment, moment + 1, Answer(status))
        for moment, status in ((0.0, 0), (2.0, 8), (4.0, 8), (6.0, 0))
    ]
    assert acknowledged_share(records, [(2.5, 3.5)]) == (3, 2)


@pytest.mark.parametrize(
    ("status", "key", "expected"),
    [
        (Status.GOOD, None, True),
        (Status.RESERVATION_CONFLICT, None, True),
        (Status.TASK_ABORTED, None, True),
        (Status.CHECK_CONDITION, 6, True),
        (Status.BUSY, None, False),
        (Status.CHECK_CONDITION, 2, False),
    ],
)
def test_read_or_write_is_served_where_the_client_knows_what_came_of_it(
    status: Status, key: int | None, expected: bool
) -> None:
    """A conflict is an answer; that the disk is busy or not ready is none."""
    sense = b"" if key is None else bytes([0x72, key, 0, 0, 0, 0, 0, 0])
    assert told_what_came_of_it(Reply(status, sense)) is expected


def test_disk_that_was_taken_before_the_bound_counted_was_taken_at_once() -> None:
    """A command that waits may get its way before the test has seen that it can."""
    nobody: Any = None
    scene = Scene(nobody, nobody, 30.0, nobody, [])
    window = Window(begun=0.0)

    scene.alone(window, Fenced(nobody, nobody, good=1.0, seconds=5.0, seals={}), since=4.0)

    assert window.alone == 0.0
    assert scene.remarks == ["taken 0 s after"]
    with pytest.raises(AssertionError):
        scene.alone(window, Fenced(nobody, nobody, good=35.0, seconds=5.0, seals={}), since=4.0)


@pytest.mark.parametrize("hosts", [(), (0,), (1, 1), (0, 1)])
def test_turned_away_only_where_each_host_had_no_room(
    monkeypatch: pytest.MonkeyPatch, hosts: tuple[int, ...]
) -> None:
    """A host that commits all the same says that the disk is not full."""
    monkeypatch.setattr("tests.vm.scene.PATIENCE", 0.0)
    history = History("free")
    command, no_room = Command(A, read()), Answer(2, (2, 4, 3))
    told = [
        Record("early", 0, command, 0.0, 1.0, no_room),
        Record("lost", 1, command, 2.0, 3.0, None),
    ]
    told += [Record("busy", host, command, 2.0, 3.0, Answer(8)) for host in (0, 1)]
    history.records = told + [Record("c", host, command, 2.0, 3.0, no_room) for host in hosts]
    crowd: Any = [SimpleNamespace(host=0), SimpleNamespace(host=1)]
    nobody: Any = SimpleNamespace(check=lambda: None)
    scene = Scene(nobody, nobody, 30.0, history, crowd)

    if set(hosts) == {0, 1}:
        scene.turned_away(1.5)
    else:
        with pytest.raises(AssertionError, match="still commit"):
            scene.turned_away(1.5)


@pytest.mark.parametrize(
    ("differs", "same"), [({"liveness": "gone"}, True), ({"key": "b2"}, False), ({}, True)]
)
def test_hosts_see_the_same_where_keys_and_holders_are_the_same(
    differs: dict[str, str], same: bool
) -> None:
    """Who lives is seen from one host sooner than from the other; who is registered is not."""
    entry = {"initiator": "a", "target_port": 2, "key": "a1", "holder": True, "liveness": "alive"}
    rest = {"error": None, "generation": 3, "reservation": None, "spc2": None, "txid": "1"}

    one = seen({"registrations": [entry], **rest, "age_s": 1.0})
    other = seen({"registrations": [entry | differs], **rest, "age_s": 2.0})

    assert (one == other) is same
