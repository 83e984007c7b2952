"""One logical unit behind several doors: who is alive, who is told what, what failures say."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flockpr.core.model import Nexus, UnitConfig
from flockpr.errors import (
    Busy,
    LunExists,
    LunNotFound,
    NewerFormat,
    OutcomeUnknown,
    StateLost,
    StateUnreadable,
    StoreError,
    StoreUnavailable,
)
from flockpr.logical_unit import LogicalUnit, Result
from flockpr.spc.codes import Status
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from flockpr.store.syscalls import Syscalls
from tests.support import docs
from tests.support.lun_tools import (
    BECOMING,
    INTERVENTION,
    LOST,
    NO_LUN,
    UNKNOWN,
    Triple,
    register,
    sense_of,
)
from tests.support.scsi import (
    INQUIRY,
    PREEMPT,
    REGISTER,
    RELEASE_6,
    REPORT_LUNS,
    REQUEST_SENSE,
    RESERVE,
    RESERVE_6,
    TEST_UNIT_READY,
    A,
    B,
    C,
    basic_list,
    in_cdb,
    keys_in,
    nexus,
    out_cdb,
    transport_id,
)

POWER_ON: Triple = (6, 0x29, 0)
REGISTRATIONS_PREEMPTED: Triple = (6, 0x2A, 5)
GOOD, CONFLICT = Status.GOOD, Status.RESERVATION_CONFLICT


@pytest.fixture
def lun(tmp_path: Path) -> str:
    """A lock directory."""
    create_lun(str(tmp_path), "disk")
    return str(tmp_path / "disk")


@pytest.fixture
def one(lun: str) -> Iterator[LogicalUnit]:
    """It, opened by one daemon."""
    with LogicalUnit.open(lun, host="host-1") as unit:
        yield unit


@pytest.fixture
def two(lun: str) -> Iterator[LogicalUnit]:
    """It, opened by another daemon."""
    with LogicalUnit.open(lun, host="host-2") as unit:
        yield unit


def ready(unit: LogicalUnit, of: Nexus) -> Result:
    """TEST UNIT READY."""
    return unit.execute(of, TEST_UNIT_READY)


def keys(unit: LogicalUnit) -> list[int]:
    """The registered keys."""
    result = unit.execute(nexus("looker"), in_cdb(0, 65535), report_attentions=False)
    assert result.status == GOOD
    return keys_in(result.data_in)


def liveness(unit: LogicalUnit) -> dict[str, str]:
    """By initiator's (short) name, what the status says."""
    found = unit.status().to_json()["registrations"]
    return {entry["initiator"].rpartition(":")[2]: entry["liveness"] for entry in found}


def actions(unit: LogicalUnit, since: int = 2) -> list[str]:
    """The audit trail's actions."""
    return [record.applied.action for record in unit.history(since)]


# --------------------------------------------------------------------------- SPC-2 holders


def test_spc2_reservation_stands_while_its_holders_daemon_lives(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """SPC-2 5.5.1: it excludes others, whatever daemon they come through."""
    assert one.execute(A, RESERVE_6).status == GOOD

    for unit in (one, two):
        assert ready(unit, B).status == CONFLICT
        assert unit.execute(B, RESERVE_6).status == CONFLICT
    assert ready(two, A).status == GOOD  # the same nexus, elsewhere: a migration
    assert actions(one) == ["SPC-2 RESERVE"]


def test_spc2_reservation_of_a_closed_daemon_is_freed_by_the_next_command(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """Its holder's nexus is lost; the trail says so."""
    one.execute(A, RESERVE_6)
    one.close()

    assert ready(two, B).status == GOOD
    assert two.execute(B, RESERVE_6).status == GOOD
    lost = next(two.history(3))
    assert (lost.applied.action, lost.applied.nexus) == ("NEXUS LOSS", A.initiator_port.text)
    assert lost.host == "host-2"


def test_spc2_reservation_of_a_killed_daemon_is_freed_by_the_next_command(
    lun: str, two: LogicalUnit
) -> None:
    """SIGKILL: nothing ran any more that could have released it."""
    code = (
        "import sys\n"
        "from flockpr.logical_unit import LogicalUnit\n"
        "from tests.support.scsi import A, RESERVE_6\n"
        "unit = LogicalUnit.open(sys.argv[1])\n"
        "print(unit.execute(A, RESERVE_6).status.name, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, lun],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=docs.ROOT,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"GOOD\n"
        assert ready(two, B).status == CONFLICT
        child.kill()
        child.wait(60)

    assert ready(two, B).status == GOOD


def test_spc2_reservation_ends_when_its_holder_leaves(one: LogicalUnit, two: LogicalUnit) -> None:
    """At once, and not when another nexus leaves."""
    one.execute(A, RESERVE_6)
    ready(one, B)
    one.leave(B)
    assert ready(two, B).status == CONFLICT

    one.leave(A)

    assert two.snapshot().state.spc2 is None
    assert ready(two, B).status == GOOD
    assert actions(two) == ["SPC-2 RESERVE", "NEXUS LOSS"]


def test_spc2_reservation_is_released_by_its_holder_through_another_daemon(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """The first daemon then stands for nobody."""
    one.execute(A, RESERVE_6)
    assert two.execute(A, RELEASE_6).status == GOOD
    assert two.execute(B, RESERVE_6).status == GOOD

    assert ready(one, A).status == CONFLICT


# --------------------------------------------------------------------------- presence


def test_registrant_is_alive_while_a_daemon_stands_for_it(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """Seen by others; registrations outlive their registrants (SPC-4 5.13.5)."""
    register(one, A, 1)
    register(two, B, 2)
    for unit in (one, two):
        assert liveness(unit) == {"a": "alive", "b": "alive"}

    one.leave(A)
    assert liveness(two) == {"a": "gone", "b": "alive"}
    assert keys(two) == [1, 2]
    one.attend(A)
    assert liveness(two) == {"a": "alive", "b": "alive"}
    one.close()
    assert liveness(two) == {"a": "gone", "b": "alive"}


def test_status_says_who_served_a_registrant_last(one: LogicalUnit, two: LogicalUnit) -> None:
    """By its last registration command."""
    register(one, A, 1)
    register(two, B, 2)

    found = one.status().to_json()["registrations"]

    assert [(entry["host"], entry["door"]) for entry in found] == [
        ("host-1", "api"),
        ("host-2", "api"),
    ]


def test_attending_stranger_takes_no_range(one: LogicalUnit, two: LogicalUnit) -> None:
    """Only registrants have one."""
    one.attend(C)
    register(one, A, 1)

    assert liveness(two) == {"a": "alive"}
    assert keys(two) == [1]


def test_registrant_that_another_removed_has_no_range_after_its_next_command(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """Its slot may be given to somebody else one day."""
    register(one, A, 1)
    register(two, B, 2)
    slot = one.snapshot().state.by_nexus[A].slot
    two.execute(B, out_cdb(PREEMPT), basic_list(2, 1))
    assert two._store.alive(slot) is True

    one.execute(A, TEST_UNIT_READY)

    assert two._store.alive(slot) is False


def test_migrated_registrant_is_alive_at_its_destination(
    one: LogicalUnit, two: LogicalUnit, caplog: pytest.LogCaptureFixture
) -> None:
    """The source holds the range until it leaves; then the destination's upkeep takes it."""
    register(one, A, 1)
    two.attend(A)
    assert "a migration under way" in caplog.text
    one.leave(A)
    assert liveness(one) == {"a": "gone"}

    two.tidy()

    assert liveness(one) == {"a": "alive"}


# --------------------------------------------------------------------------- attentions


def preempted(one: LogicalUnit) -> None:
    """B throws A out; A is to be told."""
    register(one, A, 1)
    register(one, B, 2)
    assert one.execute(B, out_cdb(PREEMPT), basic_list(2, 1)).status == GOOD


def test_attention_is_reported_once_whatever_daemon_is_asked(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """SAM-5 5.14: reporting clears it, everywhere; and the trail shows it."""
    preempted(one)
    assert one.status().to_json()["attentions"] == [
        {"initiator": A.initiator_port.text, "target_port": 1, "codes": ["2a/05"]}
    ]

    assert sense_of(ready(two, A)) == REGISTRATIONS_PREEMPTED
    for unit in (one, two, one):
        assert ready(unit, A).status == GOOD
        assert ready(unit, B).status == GOOD
    assert actions(one)[-1] == "UNIT ATTENTION 2a/05"


def test_attention_is_reported_once_to_many_who_ask_at_once(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """The commit decides who."""
    preempted(one)
    start = threading.Barrier(6)
    senses: list[Triple | None] = []

    def ask(unit: LogicalUnit) -> None:
        start.wait(60)
        senses.extend(sense_of(ready(unit, A)) for _ in range(3))

    threads = [threading.Thread(target=ask, args=(unit,)) for unit in (one, two) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(senses) == 18
    assert [sense for sense in senses if sense] == [REGISTRATIONS_PREEMPTED]


def test_attention_that_is_not_reported_stays(one: LogicalUnit, two: LogicalUnit) -> None:
    """The helper door's default: it waits for a door that shows it."""
    preempted(one)
    quiet = two.execute(A, TEST_UNIT_READY, report_attentions=False)

    assert quiet.status == GOOD
    assert sense_of(ready(one, A)) == REGISTRATIONS_PREEMPTED


def test_power_cycle_is_told_to_everyone_through_every_daemon(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """29/00 for registrants and for whoever is logged in, once; APTPL=0 keeps nothing."""
    register(one, A, 1)
    two.attend(B)
    assert ready(two, C).status == GOOD

    one.power_cycle()

    assert [sense_of(ready(two, of)) for of in (A, B, C)] == [POWER_ON] * 3
    assert [ready(two, of).status for of in (A, B, C)] == [GOOD] * 3
    assert keys(two) == []
    assert two.snapshot().state.generation == 0
    assert two.status().to_json()["power_cycles"] == 1
    assert ready(two, nexus("fresh")).status == GOOD


def test_power_cycle_keeps_what_was_registered_with_aptpl(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """SPC-4 5.13.5; seen by the other daemon, which goes on from there."""
    one.execute(A, out_cdb(REGISTER), basic_list(0, 1, aptpl=True))
    one.execute(A, out_cdb(RESERVE, type_=1), basic_list(1))
    one.power_cycle()

    assert two.snapshot().state.generation == 0
    assert keys(two) == [1]
    assert two.execute(B, out_cdb(RESERVE, type_=1), basic_list(2)).status == CONFLICT


def _crowd(prefix: str, count: int) -> list[Nexus]:
    return [nexus(f"{prefix}{number}") for number in range(count)]


def _register_all(unit: LogicalUnit, who: list[Nexus], key: int) -> Result:
    """One REGISTER with SPEC_I_PT=1 for all of them; the first sends it."""
    ids = [transport_id(of) for of in who[1:]]
    data = basic_list(0, key, ids=ids)
    return unit.execute(who[0], out_cdb(REGISTER, len(data)), data, report_attentions=False)


def test_attentions_beyond_the_bound_are_29_00_for_those_who_missed_them(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """1,024 nexuses may wait; beyond, whoever was left out is told to look again."""
    register(one, A, 0xA)
    for turn, name in enumerate(("p", "q")):
        crowd = _crowd(name, 1000)
        two.attend(crowd[-1])  # logged in at that daemon, at the present epoch
        assert _register_all(one, crowd, 0xB).status == GOOD
        assert one.execute(A, out_cdb(PREEMPT), basic_list(0xA, 0xB)).status == GOOD
        assert one.snapshot().state.overflowed is bool(turn)

    state = two.snapshot().state
    assert len(state.attentions) == 1024
    assert sense_of(ready(two, nexus("p0"))) == POWER_ON  # also what it does not need to know
    assert sense_of(ready(two, nexus("p0"))) == REGISTRATIONS_PREEMPTED
    assert ready(two, nexus("p0")).status == GOOD
    for victim in ("q999", "q998"):  # one that this daemon knows, and one that no daemon knows
        assert sense_of(ready(two, nexus(victim))) == POWER_ON
        assert ready(two, nexus(victim)).status == GOOD

    one.power_cycle()
    assert two.snapshot().state.overflowed is False


def test_attentions_beyond_a_small_bound_are_told_once_each(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """The same with two who may wait: nobody is forgotten."""
    for unit in (one, two):
        unit._decisions.config = UnitConfig(max_pending=2)
    crowd = _crowd("p", 5)
    register(one, A, 0xA)
    _register_all(one, crowd, 0xB)
    one.execute(A, out_cdb(PREEMPT), basic_list(0xA, 0xB))

    for of in crowd:
        told = []
        while (sense := sense_of(ready(two, of))) is not None:
            told.append(sense)
            assert len(told) < 5
        assert told
        assert set(told) <= {POWER_ON, REGISTRATIONS_PREEMPTED}


# --------------------------------------------------------------------------- limits


def test_registration_beyond_the_1024th_is_refused(one: LogicalUnit, two: LogicalUnit) -> None:
    """SPC-4 5.13.7: 05/55/04 through the whole stack; all the others stand, and can be read."""
    crowd = _crowd("n", 1020)
    assert _register_all(one, crowd, 1).status == GOOD
    for number in range(4):
        assert register(two, nexus(f"m{number}"), 2).status == GOOD

    before = two.snapshot()
    assert sense_of(register(one, A, 3)) == (5, 0x55, 4)
    assert sense_of(_register_all(two, [A, B], 3)) == (5, 0x55, 4)

    assert one.snapshot().number == before.number
    assert keys(two) == [1] * 1020 + [2] * 4
    assert register(one, crowd[0], 0, own=1).status == GOOD  # one leaves, one may come
    assert register(two, A, 3).status == GOOD
    assert len(keys(one)) == 1024


def test_registrations_through_two_daemons_at_once_are_all_kept(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """Each commit builds on the one before, whoever made it."""
    errors: list[Result] = []

    def work(unit: LogicalUnit, prefix: str) -> None:
        for number, of in enumerate(_crowd(prefix, 15), start=1):
            result = register(unit, of, number)
            if result.status != GOOD:
                errors.append(result)

    threads = [
        threading.Thread(target=work, args=(unit, prefix))
        for unit, prefix in ((one, "a"), (one, "b"), (two, "c"), (two, "d"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)

    assert errors == []
    state = one.snapshot().state
    assert sorted(keys(two)) == sorted(list(range(1, 16)) * 4)
    assert state.generation == 60
    assert len({entry.slot for entry in state.registrations}) == 60
    assert actions(one) == ["REGISTER"] * 60


# --------------------------------------------------------------------------- failures

FAILURES: list[tuple[StoreError, Status | Triple, str]] = [
    (Busy("late"), Status.BUSY, "BUSY, nothing was done"),
    (StoreUnavailable("EIO"), BECOMING, "NOT READY 02/04/01, input or output failed"),
    (StateUnreadable("bad"), LOST, "DATA PROTECT 07/44/01, the state cannot be read"),
    (NewerFormat("new"), LOST, "DATA PROTECT 07/44/01, the state cannot be read"),
    (StateLost("back"), LOST, "or went backwards"),
    (LunNotFound("gone"), NO_LUN, "05/25/00, there is no such LUN"),
    (OutcomeUnknown("?"), UNKNOWN, "ABORTED COMMAND 0B/08/01, outcome unknown"),
    (LunExists("?"), LOST, ""),
    (StoreError("?"), LOST, ""),
]
_PERSON = "NOT READY 02/04/03, a person must help (full, read-only, no rights)"
for _number, _sense, _words in (
    (errno.ENOSPC, INTERVENTION, _PERSON),
    (errno.EDQUOT, INTERVENTION, _PERSON),
    (errno.EROFS, INTERVENTION, _PERSON),
    (errno.EACCES, INTERVENTION, _PERSON),
    (errno.EPERM, INTERVENTION, _PERSON),
    (errno.EIO, BECOMING, ""),
    (errno.ESTALE, BECOMING, ""),
    (errno.EMFILE, BECOMING, ""),
):
    _error = StoreUnavailable(errno.errorcode[_number])
    _error.errno = _number
    FAILURES.append((_error, _sense, _words))


@pytest.mark.parametrize(
    ("error", "answer", "words"),
    FAILURES,
    ids=[f"{type(row[0]).__name__}-{row[0].what}" for row in FAILURES],
)
def test_failure_of_the_store_is_answered_as_the_decision_says(
    one: LogicalUnit,
    error: StoreError,
    answer: Status | Triple,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """docs/decisions/0006, line by line; nothing is answered as if the state were empty."""
    page = " ".join(docs.read("docs/decisions/0006-waiting-and-failing.md").split())
    assert words in page

    def fail() -> None:
        raise error

    monkeypatch.setattr(one._store, "head", fail)
    for cdb, data in (
        (in_cdb(0), b""),
        (out_cdb(REGISTER), basic_list(0, 1)),
        (TEST_UNIT_READY, b""),
        (RESERVE_6, b""),
    ):
        result = one.execute(A, cdb, data)
        assert result.data_in == b""
        if isinstance(answer, Status):
            assert (result.status, result.sense) == (answer, b"")
        else:
            assert sense_of(result) == answer
    for cdb in (INQUIRY, REPORT_LUNS, REQUEST_SENSE):
        assert one.execute(A, cdb) == Result(GOOD)
    monkeypatch.undo()
    assert keys(one) == []


class Faulty(Syscalls):
    """A file system whose link and fsync can be told to fail."""

    def __init__(self) -> None:
        self.link_fails = ""
        self.sync_fails = False

    def link(self, source: str, target: str, *, dir_fd: int) -> None:
        if self.link_fails != "lost":
            super().link(source, target, dir_fd=dir_fd)
        if self.link_fails:
            raise OSError(errno.EIO, "no answer")

    def fsync(self, fd: int) -> None:
        if self.sync_fails and os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EIO, "no answer")
        super().fsync(fd)


@pytest.fixture
def faulty(lun: str) -> Iterator[tuple[LogicalUnit, Faulty]]:
    """A daemon on such a file system, which does not wait long."""
    syscalls = Faulty()
    with LogicalUnit(LockDirectory(lun, syscalls=syscalls, patience=0.05)) as unit:
        yield unit, syscalls


def test_commit_whose_link_is_lost_is_unknown_and_then_had_no_effect(
    faulty: tuple[LogicalUnit, Faulty], two: LogicalUnit
) -> None:
    """0B/08/01; afterwards its number is taken, so that it can never land."""
    unit, syscalls = faulty
    syscalls.link_fails = "lost"
    assert sense_of(register(unit, A, 1)) == UNKNOWN
    assert unit.execute(B, in_cdb(0)).status == Status.BUSY  # not known yet: ask again
    syscalls.link_fails = ""

    assert keys(unit) == keys(two) == []
    assert unit.snapshot().number == 2
    assert actions(two) == []
    assert register(unit, A, 1).status == GOOD
    assert keys(two) == [1]


def test_commit_whose_answer_is_lost_is_unknown_and_then_took_effect(
    faulty: tuple[LogicalUnit, Faulty], two: LogicalUnit
) -> None:
    """The link was made, whatever the file server said: it is found by its id, once."""
    unit, syscalls = faulty
    syscalls.link_fails = "answer lost"
    result = register(unit, A, 1)
    syscalls.link_fails = ""

    # The link is repeated, and EEXIST with one's own id is the answer that was lost.
    assert result.status == GOOD or sense_of(result) == UNKNOWN
    assert keys(two) == keys(unit) == [1]
    assert unit.snapshot().state.generation == 1
    assert actions(two) == ["REGISTER"]


def test_commit_that_cannot_be_synced_is_unknown_and_nothing_is_answered_until_it_is(
    faulty: tuple[LogicalUnit, Faulty], two: LogicalUnit
) -> None:
    """A reply may not tell what a power cut undoes."""
    unit, syscalls = faulty
    syscalls.sync_fails = True
    assert sense_of(register(unit, A, 1)) == UNKNOWN
    assert sense_of(unit.execute(A, in_cdb(0))) == BECOMING
    syscalls.sync_fails = False

    assert keys(unit) == keys(two) == [1]


def test_command_behind_another_is_busy_after_its_time(one: LogicalUnit) -> None:
    """It does not wait for ever for its turn, and nothing was done."""
    with one._lock:
        result = one.execute(A, out_cdb(REGISTER), basic_list(0, 1), timeout=0.02)

    assert result == Result(Status.BUSY)
    assert keys(one) == []


def test_command_whose_time_is_over_is_busy_and_not_done(one: LogicalUnit) -> None:
    """Withdrawn at the last moment before the link."""
    late = one.execute(A, out_cdb(REGISTER), basic_list(0, 1), may_issue=lambda: False)
    assert late == Result(Status.BUSY)
    assert one.execute(A, out_cdb(REGISTER), basic_list(0, 1), timeout=0) == Result(Status.BUSY)
    assert keys(one) == []


def test_reserve_holds_its_range_before_it_is_committed(one: LogicalUnit, two: LogicalUnit) -> None:
    """A moment without would look to others like a lost nexus, and free the reservation."""
    slot = one.snapshot().state.next_slot
    held: list[bool | None] = []

    def asked() -> bool:
        held.append(two._store.alive(slot))
        return True

    assert one.execute(A, RESERVE_6, may_issue=asked).status == GOOD
    assert held == [True]
    reserved = one.snapshot().state.spc2
    assert reserved is not None
    assert reserved.slot == slot


def test_withdrawn_reserve_leaves_no_range_behind(one: LogicalUnit, two: LogicalUnit) -> None:
    """Or it would stand for whoever gets the reservation, and its slot, afterwards."""
    assert one.execute(A, RESERVE_6, may_issue=lambda: False).status == Status.BUSY
    assert two.execute(B, RESERVE_6).status == GOOD
    two.close()

    assert ready(one, C).status == GOOD


# --------------------------------------------------------------------------- the record


def test_audit_trail_names_every_kind_of_command(lun: str) -> None:
    """What changed the state, with keys, generations and what it raised."""
    with LogicalUnit.open(lun, door="target", host="h") as unit:
        unit.execute(A, RESERVE_6)
        unit.execute(A, RELEASE_6)
        preempted(unit)
        unit.execute(A, TEST_UNIT_READY)
        unit.power_cycle()
        records = list(unit.history(2))

    assert [record.applied.action for record in records] == [
        "SPC-2 RESERVE",
        "SPC-2 RELEASE",
        "REGISTER",
        "REGISTER",
        "PREEMPT",
        "UNIT ATTENTION 2a/05",
        "POWER CYCLE",
    ]
    preempt = records[4].applied
    assert (preempt.key, preempt.service_action_key, preempt.opcode) == (2, 1, 0x5F)
    assert (preempt.generation_before, preempt.generation_after) == (2, 3)
    assert preempt.raised == (f"{A.initiator_port.text}@1 2a/05",)
    power = records[-1].applied
    assert (power.nexus, power.target_port, power.opcode) == ("", 0, None)
    assert (power.generation_before, power.generation_after) == (3, 0)
    assert {(record.host, record.applied.door) for record in records} == {("h", "target")}
    assert [record.number for record in records] == list(range(2, 9))


@pytest.mark.parametrize(
    "call",
    [
        lambda unit: unit.execute(A, in_cdb(0)),
        lambda unit: unit.execute(A, out_cdb(REGISTER), basic_list(0, 1)),
    ],
)
def test_closed_unit_is_not_ready(one: LogicalUnit, call: Callable[[LogicalUnit], Result]) -> None:
    """It answers, and nothing from memory."""
    register(one, A, 1)
    one.close()

    assert sense_of(call(one)) == BECOMING
