"""Commands of a logical unit with an image: which take the gate, and what they are told."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flockpr import InAction, LogicalUnit, OutAction, Status, create_lun
from flockpr.core.access import allowed
from flockpr.core.model import Nexus
from flockpr.errors import Busy, StoreUnavailable
from flockpr.gate import Gate, Held, Permit
from flockpr.gate.image import SYSCALLS
from flockpr.logical_unit import Narrowing, decisions
from flockpr.logical_unit.results import Result
from flockpr.spc.prout_list import encode_move_list
from flockpr.spc.sense import INTERNAL_TARGET_FAILURE, NOT_READY_INTERVENTION, OUTCOME_UNKNOWN
from flockpr.units import Units, worker
from tests.support.gates import LONG, Aside, Failing, eventually, only_one_take, soon, usable
from tests.support.luns import out
from tests.support.scsi import (
    READ_10,
    RELEASE_6,
    RESERVE_6,
    WRITE_10,
    A,
    B,
    C,
    basic_list,
    in_cdb,
    out_cdb,
)
from tests.support.starved import starve

GOOD, CONFLICT, BUSY = Status.GOOD, Status.RESERVATION_CONFLICT, Status.BUSY
READ_KEYS = in_cdb(InAction.READ_KEYS)
TYPE = 5  # Write Exclusive, registrants only
KEYS = {A: 0xA1, B: 0xB2, C: 0xC3}


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A LUN with an image, on which A holds a reservation and B is registered."""
    create_lun(str(tmp_path), "disk", image="disk.img", size=1 << 20)
    with LogicalUnit.open(str(tmp_path / "disk")) as unit:
        for nexus in (A, B):
            assert out(unit, nexus, OutAction.REGISTER, new=KEYS[nexus]) is GOOD
        assert out(unit, A, OutAction.RESERVE, own=KEYS[A], type_=TYPE) is GOOD
    return str(tmp_path)


@pytest.fixture
def unit(root: str) -> Iterator[LogicalUnit]:
    """Opened as the command line opens it."""
    with LogicalUnit.open(f"{root}/disk") as unit:
        yield unit


@pytest.fixture
def units(root: str) -> Iterator[Units]:
    """A daemon's."""
    units = Units(root, timeout=LONG)
    yield units
    units.close()


@pytest.fixture
def permit(root: str) -> Iterator[Permit]:
    """A target's, which is reading or writing at the moment."""
    with LogicalUnit.open(f"{root}/disk") as unit:
        permit = Permit(root, unit.identity.lun, "disk.img", on_open=lambda _: None)
        assert permit.enter(soon())
        yield permit
    permit.close()


def preempt(
    unit: LogicalUnit, of: Nexus = B, victim: Nexus = A, *, timeout: float = LONG
) -> Result:
    """PREEMPT AND ABORT."""
    cdb = out_cdb(OutAction.PREEMPT_AND_ABORT, type_=TYPE)
    return unit.execute(of, cdb, basic_list(KEYS[of], KEYS[victim]), timeout=timeout)


def without_attentions(unit: LogicalUnit, action: OutAction, victim: Nexus) -> Status:
    """A command of B that preempts, whatever B would be told of first."""
    cdb, data = out_cdb(action, type_=TYPE), basic_list(KEYS[B], KEYS[victim])
    return unit.execute(B, cdb, data, report_attentions=False).status


def moved(unit: LogicalUnit) -> Status:
    """REGISTER AND MOVE of A, which holds the reservation, to C; A is not registered any more."""
    data = encode_move_list(KEYS[A], KEYS[C], C.initiator_port, C.target_port, unreg=True)
    return unit.execute(A, out_cdb(OutAction.REGISTER_AND_MOVE, length=len(data)), data).status


def number(unit: LogicalUnit) -> int:
    """Of the newest transaction."""
    return unit.snapshot().number


def test_preempt_waits_for_the_reads_and_writes_in_flight(
    root: str, unit: LogicalUnit, permit: Permit
) -> None:
    """Not before they have ended is it committed, let alone answered."""
    before = number(unit)
    answer = Aside(lambda: preempt(unit))
    eventually(lambda: not usable(permit), "nobody bars it")
    assert number(unit) == before
    assert not answer.done

    permit.leave()

    result = answer.result()
    assert result == Result(GOOD, aborted=frozenset({A}))
    assert not allowed(unit.snapshot().state, A, WRITE_10)


def test_preempt_that_waits_too_long_is_busy_and_nothing_is_committed(
    unit: LogicalUnit, permit: Permit, caplog: pytest.LogCaptureFixture
) -> None:
    """Never a silent GOOD."""
    before = unit.snapshot()
    with caplog.at_level(logging.CRITICAL):
        assert preempt(unit, timeout=0.1) == Result(BUSY)

    assert unit.snapshot() == before
    permit.leave()
    assert preempt(unit).status is GOOD


Step = Callable[[LogicalUnit], object]
NARROWING: dict[str, tuple[list[Step], Step]] = {
    "PREEMPT": ([], lambda u: out(u, B, OutAction.PREEMPT, own=KEYS[B], new=KEYS[A], type_=TYPE)),
    "PREEMPT AND ABORT": ([], lambda u: preempt(u).status),
    "PREEMPT AND ABORT without a reservation": (
        [lambda u: out(u, A, OutAction.RELEASE, own=KEYS[A], type_=TYPE)],
        lambda u: without_attentions(u, OutAction.PREEMPT_AND_ABORT, A),
    ),
    "PREEMPT AND ABORT of oneself without a reservation": (
        [lambda u: out(u, A, OutAction.RELEASE, own=KEYS[A], type_=TYPE)],
        lambda u: without_attentions(u, OutAction.PREEMPT_AND_ABORT, B),
    ),
    "unregister": ([], lambda u: out(u, B, OutAction.REGISTER, own=KEYS[B])),
    "RESERVE": (
        [lambda u: out(u, A, OutAction.RELEASE, own=KEYS[A], type_=TYPE)],
        lambda u: out(u, A, OutAction.RESERVE, own=KEYS[A], type_=TYPE),
    ),
    "REGISTER AND MOVE": ([], moved),
    "RESERVE(6)": (
        [lambda u: out(u, A, OutAction.CLEAR, own=KEYS[A])],
        lambda u: u.execute(A, RESERVE_6, report_attentions=False).status,
    ),
}
WIDENING: dict[str, Step] = {
    "REGISTER": lambda u: out(u, C, OutAction.REGISTER, new=KEYS[C]),
    "a change of key": lambda u: out(u, B, OutAction.REGISTER, own=KEYS[B], new=9),
    "CLEAR": lambda u: out(u, B, OutAction.CLEAR, own=KEYS[B]),
    "RELEASE": lambda u: out(u, A, OutAction.RELEASE, own=KEYS[A], type_=TYPE),
    "READ KEYS": lambda u: u.execute(A, READ_KEYS).status,
    "a conflict": lambda u: u.execute(C, WRITE_10).status,
    "a read": lambda u: u.execute(C, READ_10).status,
    "RELEASE(6)": lambda u: u.execute(A, RELEASE_6).status,
    "a power cycle": lambda u: u.power_cycle(timeout=LONG),
    "a reset": lambda u: u.reset(timeout=LONG),
}


@pytest.mark.parametrize("name", NARROWING)
def test_command_that_narrows_access_takes_the_gate(
    unit: LogicalUnit, permit: Permit, name: str
) -> None:
    """By whatever service action."""
    before, command = NARROWING[name]
    for step in before:
        assert step(unit) is GOOD
    answer = Aside(lambda: command(unit))
    eventually(lambda: not usable(permit), "it does not take the gate")
    assert not answer.done
    permit.leave()
    assert answer.result() is GOOD


def test_preempt_without_a_reservation_does_not_wait(unit: LogicalUnit, permit: Permit) -> None:
    """It ends no commands, and takes nothing from anybody."""
    assert out(unit, A, OutAction.RELEASE, own=KEYS[A], type_=TYPE) is GOOD
    assert without_attentions(unit, OutAction.PREEMPT, A) is GOOD
    assert permit.held


@pytest.mark.parametrize("name", WIDENING)
def test_command_that_only_widens_access_does_not_wait(
    unit: LogicalUnit, permit: Permit, name: str
) -> None:
    """Nor does one that changes nothing, or is refused."""
    WIDENING[name](unit)
    assert permit.held


@pytest.mark.parametrize("name", WIDENING)
def test_command_that_only_widens_access_needs_no_image(
    root: str, unit: LogicalUnit, name: str
) -> None:
    """Reservations can be looked at, and given up, when the image is away."""
    os.unlink(f"{root}/disk.img")
    WIDENING[name](unit)


@pytest.mark.parametrize("how", ["missing", "directory", "not mine", "symbolic link"])
def test_command_that_narrows_access_without_the_image_is_not_ready(
    root: str,
    unit: LogicalUnit,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    """02/04/03, and the log names the image: nothing is committed that nobody can enforce."""
    image = f"{root}/disk.img"
    if how == "not mine":
        server = Failing()
        server.errors["direct"] = errno.EACCES
        assert unit._gate is not None
        monkeypatch.setattr(unit._gate, "syscalls", server)
    else:
        os.rename(image, image + "~")
    if how == "directory":
        os.mkdir(image)
    if how == "symbolic link":
        os.symlink(image + "~", image)
    before = unit.snapshot()

    assert preempt(unit) == Result.check(NOT_READY_INTERVENTION)

    assert unit.snapshot() == before
    assert image in caplog.text


def test_lun_without_an_image_has_no_gate(tmp_path: Path) -> None:
    """Nobody reads or writes there through us."""
    create_lun(str(tmp_path), "disk")
    with LogicalUnit.open(str(tmp_path / "disk")) as unit:
        assert out(unit, A, OutAction.REGISTER, new=1) is GOOD
        assert out(unit, A, OutAction.RESERVE, own=1, type_=TYPE) is GOOD
    assert not (tmp_path / ".doorbell").exists()


def test_command_is_decided_again_when_it_has_the_permit(
    root: str, unit: LogicalUnit, permit: Permit
) -> None:
    """While it waited its key was changed by another door: conflict, and nothing is done."""
    answer = Aside(lambda: preempt(unit))
    eventually(lambda: not usable(permit), "it does not take the gate")
    with LogicalUnit.open(f"{root}/disk") as other:
        assert out(other, B, OutAction.REGISTER, own=KEYS[B], new=9) is GOOD
    permit.leave()

    assert answer.result() == Result(CONFLICT)
    assert allowed(unit.snapshot().state, A, WRITE_10)


def test_command_that_comes_to_narrow_while_it_is_decided_takes_the_gate_then(
    root: str, unit: LogicalUnit, permit: Permit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is the state that the commit replaces: under Write Exclusive B loses nothing
    with its registration, under the type that A has taken instead it does.
    """
    permit.leave()

    def retype(type_: int) -> None:
        with LogicalUnit.open(f"{root}/disk") as other:
            before = other.snapshot().state.reservation
            assert before is not None
            assert out(other, A, OutAction.RELEASE, own=KEYS[A], type_=before.type) is GOOD
            assert out(other, A, OutAction.RESERVE, own=KEYS[A], type_=type_) is GOOD
        assert permit.enter(soon())

    retype(1)
    waits = iter([True])

    def order() -> bool:
        if not next(waits, False):
            return False
        permit.leave()
        retype(TYPE)
        return True

    monkeypatch.setattr(unit._store, "order", order)
    unregister = out_cdb(OutAction.REGISTER)
    data = basic_list(KEYS[B], 0)
    answer = Aside(lambda: unit.execute(B, unregister, data, report_attentions=False))
    eventually(lambda: not usable(permit), "it does not take the gate")
    assert not answer.done
    permit.leave()
    assert answer.result() == Result(GOOD)


def test_good_does_not_leave_before_the_permit_is_proven(
    root: str,
    unit: LogicalUnit,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Committed, but the permit was lost and cannot be had again: outcome unknown. What
    depends on it then waits for a proof as well, also where it changes nothing.
    """
    server = Failing()
    assert unit._gate is not None
    monkeypatch.setattr(unit._gate, "syscalls", server)
    server.errors["pread_into"] = errno.EIO
    with caplog.at_level(logging.CRITICAL), only_one_take():
        assert preempt(unit, timeout=LONG) == Result.check(OUTCOME_UNKNOWN)
    assert not allowed(unit.snapshot().state, A, WRITE_10)
    reserve = out_cdb(OutAction.RESERVE, type_=TYPE)

    def again() -> Result:
        return unit.execute(B, reserve, basic_list(KEYS[B], 0), timeout=LONG)

    with caplog.at_level(logging.CRITICAL), only_one_take():
        assert again() == Result.check(OUTCOME_UNKNOWN)
        with LogicalUnit.open(f"{root}/disk") as door:  # another one of this process
            monkeypatch.setattr(door, "_made_gate", unit._gate)
            asked = door.execute(B, reserve, basic_list(KEYS[B], 0), timeout=LONG)
        assert asked == Result.check(OUTCOME_UNKNOWN)
    assert unit.execute(B, READ_KEYS).status is GOOD

    server.errors.clear()
    assert again() == Result(GOOD)
    eventually(lambda: not knocks(unit), "it knocks on")
    server.calls.clear()
    assert again() == Result(GOOD)
    assert server.calls == []


def knocks(unit: LogicalUnit) -> bool:
    """Whether somebody who was not in time knocks in the background, by calls of the same gate."""
    name = f"knock-{unit.identity.lun}"
    return any(thread.name == name for thread in threading.enumerate())


def test_reserve_that_finds_it_done_waits_until_that_is_proven(
    unit: LogicalUnit, permit: Permit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reserved may not have proven it yet, in a process or on a host of its own, or never
    has: a target may go by the state before, and the initiator that repeats its command on
    another path would be told GOOD. Once this process has proven it, it costs nothing.
    """
    monkeypatch.setattr(decisions, "_proven", {})  # as another process finds it
    server = Failing()
    assert unit._gate is not None
    monkeypatch.setattr(unit._gate, "syscalls", server)

    def again(timeout: float = LONG) -> Status:
        data = basic_list(KEYS[A], 0)
        return unit.execute(A, out_cdb(OutAction.RESERVE, type_=TYPE), data, timeout=timeout).status

    assert again(0.2) is BUSY
    permit.leave()
    assert again() is GOOD
    eventually(lambda: not knocks(unit), "it knocks on")
    server.calls.clear()
    assert again() is GOOD
    assert out(unit, C, OutAction.REGISTER, new=KEYS[C]) is GOOD  # takes nothing from anybody
    assert again() is GOOD
    assert server.calls == []


def test_preempt_of_somebody_without_access_waits_until_that_is_proven(
    unit: LogicalUnit, permit: Permit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B lost its access by a reservation that may not be proven yet; GOOD says that it has none."""
    permit.leave()
    exclusive = 3
    assert out(unit, A, OutAction.RELEASE, own=KEYS[A], type_=TYPE) is GOOD
    assert out(unit, A, OutAction.RESERVE, own=KEYS[A], type_=exclusive) is GOOD
    monkeypatch.setattr(decisions, "_proven", {})  # as another process finds it
    assert permit.enter(soon())
    cdb, data = out_cdb(OutAction.PREEMPT, type_=exclusive), basic_list(KEYS[A], KEYS[B])
    asked = unit.execute(A, cdb, data, report_attentions=False, timeout=0.2)
    assert asked.status is BUSY
    permit.leave()
    assert unit.execute(A, cdb, data, report_attentions=False, timeout=LONG).status is GOOD


def test_reserve_is_not_known_to_be_proven_while_that_is_under_way(
    root: str, unit: LogicalUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command on another path, between the commit and its proof, waits for a proof of
    its own.
    """
    assert unit._gate is not None
    assert out(unit, A, OutAction.RELEASE, own=KEYS[A], type_=TYPE) is GOOD
    at_proof, go_on = threading.Event(), threading.Event()
    prove = Held.prove

    def slow(held: Held) -> bool:
        at_proof.set()
        assert go_on.wait(60)
        return prove(held)

    monkeypatch.setattr(Held, "prove", slow)
    reserve, data = out_cdb(OutAction.RESERVE, type_=TYPE), basic_list(KEYS[A], 0)
    first = Aside(lambda: unit.execute(A, reserve, data, timeout=LONG))
    assert at_proof.wait(60)
    with LogicalUnit.open(f"{root}/disk") as other:
        assert other.execute(A, reserve, data, timeout=0.2).status is BUSY
        go_on.set()
        assert first.result() == Result(GOOD)
        assert other.execute(A, reserve, data, timeout=LONG) == Result(GOOD)


def test_power_that_comes_and_goes_while_a_command_waits_is_decided_on(
    unit: LogicalUnit, permit: Permit
) -> None:
    """APTPL was 0: nobody is registered any more."""
    answer = Aside(lambda: preempt(unit))
    eventually(lambda: not usable(permit), "it does not take the gate")
    unit.power_cycle()
    permit.leave()
    result = answer.result()
    assert isinstance(result, Result)
    assert result.status is Status.CHECK_CONDITION
    assert result.sense[12:14] == b"\x29\x00"


def test_other_commands_of_the_unit_go_on_while_one_waits(
    units: Units, unit: LogicalUnit, permit: Permit
) -> None:
    """One hung target must not stop all PERSISTENT RESERVE INs."""
    cdb = out_cdb(OutAction.PREEMPT, type_=TYPE)
    waiting = [
        units.submit("disk", B, cdb, basic_list(KEYS[B], KEYS[A]), report_attentions=False)
        for _ in range(3)
    ]
    eventually(lambda: not usable(permit), "it does not take the gate")
    for _ in range(20):
        assert units.submit("disk", C, READ_KEYS).result(LONG).status is GOOD
        assert units.submit("disk", A, WRITE_10).result(LONG).status is GOOD
        assert units.state("disk").result(LONG).number == number(unit)
    register = out_cdb(OutAction.REGISTER)
    added = units.submit("disk", C, register, basic_list(0, KEYS[C]), report_attentions=False)
    assert added.result(LONG).status is GOOD
    assert not any(future.done() for future in waiting)

    permit.leave()

    assert [future.result(LONG).status for future in waiting] == [GOOD, CONFLICT, CONFLICT]


def test_command_that_waits_is_busy_in_time(
    root: str, unit: LogicalUnit, permit: Permit, caplog: pytest.LogCaptureFixture
) -> None:
    """Bounded, whatever it waits for, and those behind it too."""
    units = Units(root, timeout=0.3)
    before = number(unit)
    cdb = out_cdb(OutAction.PREEMPT, type_=TYPE)
    with caplog.at_level(logging.CRITICAL):
        waiting = [units.submit("disk", B, cdb, basic_list(KEYS[B], KEYS[A])) for _ in range(4)]
        assert [future.result(LONG) for future in waiting] == [Result(BUSY)] * 4
        assert units.close(LONG)
    assert number(unit) == before
    permit.leave()


def test_command_whose_nexus_leaves_while_it_waits_is_never_done(
    root: str, permit: Permit, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody would ever end the reservation of one that is gone."""
    units = Units(root, timeout=LONG)
    with LogicalUnit.open(f"{root}/disk") as unit:
        assert out(unit, A, OutAction.CLEAR, own=KEYS[A]) is GOOD
    units.attend("disk", C)
    waiting = units.submit("disk", C, RESERVE_6, report_attentions=False)
    eventually(lambda: not usable(permit), "it does not take the gate")
    with caplog.at_level(logging.CRITICAL):
        units.leave("disk", C)
        assert waiting.result(LONG) == Result(BUSY)
    # The one of that name that came after it is another one.
    units.attend("disk", C)
    again = units.submit("disk", C, RESERVE_6, report_attentions=False)
    permit.leave()
    assert again.result(LONG).status is GOOD
    assert units.submit("disk", B, READ_10, report_attentions=False).result(LONG).status is CONFLICT
    units.leave("disk", C)
    done = units.submit("disk", B, READ_10, report_attentions=False).result(LONG)
    assert done.status is GOOD
    assert units.close(LONG)


def test_internal_error_while_a_command_waits_is_answered_and_survived(
    units: Units,
    unit: LogicalUnit,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """04/44/00 for that command; those behind it go on."""
    cdb, data = out_cdb(OutAction.PREEMPT, type_=TYPE), basic_list(KEYS[B], KEYS[A])

    def broken(*_: object) -> Result:
        raise RuntimeError("a mistake of ours")

    with monkeypatch.context() as patch, caplog.at_level(logging.CRITICAL):
        patch.setattr(LogicalUnit, "_narrow", broken)
        answer = units.submit("disk", B, cdb, data, report_attentions=False).result(LONG)
    assert answer == Result.check(INTERNAL_TARGET_FAILURE)

    again = units.submit("disk", B, cdb, data, report_attentions=False).result(LONG)
    assert again == Result(GOOD)
    assert not allowed(unit.snapshot().state, A, WRITE_10)


def test_command_for_which_there_is_no_thread_is_busy_and_the_next_has_one(
    units: Units,
    unit: LogicalUnit,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The system starts no thread for a moment: nothing is done, and nothing stays broken."""
    cdb, data = out_cdb(OutAction.PREEMPT, type_=TYPE), basic_list(KEYS[B], KEYS[A])
    before = number(unit)
    failed = starve(monkeypatch, "gate-")
    with caplog.at_level(logging.CRITICAL):
        answer = units.submit("disk", B, cdb, data, report_attentions=False).result(LONG)
    assert failed == ["gate-disk"]
    assert answer == Result(BUSY)
    assert number(unit) == before

    again = units.submit("disk", B, cdb, data, report_attentions=False).result(LONG)
    assert again == Result(GOOD)


def test_commands_that_wait_count_among_those_that_may(
    root: str, permit: Permit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """More are TASK SET FULL: no client takes all memory by way of a target that hangs."""
    monkeypatch.setattr(worker, "MAX_QUEUED", 3)
    units = Units(root, timeout=LONG)
    cdb, data = out_cdb(OutAction.PREEMPT, type_=TYPE), basic_list(KEYS[B], KEYS[A])
    answers = [units.submit("disk", B, cdb, data, report_attentions=False) for _ in range(3)]
    line = units._workers["disk", "api"]._line
    eventually(lambda: len(line.waiting()) == 3, "they do not wait")
    full = units.submit("disk", B, READ_KEYS).result(LONG)
    assert full == Result(Status.TASK_SET_FULL)
    with pytest.raises(Busy):
        units.state("disk").result(LONG)
    permit.leave()
    with caplog.at_level(logging.CRITICAL):
        assert [answer.result(LONG).status for answer in answers] == [GOOD, CONFLICT, CONFLICT]
        assert units.close(LONG)


def test_state_of_a_lun_is_the_same_object_while_nothing_is_committed(units: Units) -> None:
    """A door decides by it, and computes from it once."""
    one, two = (units.state("disk").result(LONG) for _ in range(2))
    assert one.state is two.state
    assert one.number == two.number
    register = out_cdb(OutAction.REGISTER)
    done = units.submit("disk", C, register, basic_list(0, 5), report_attentions=False)
    assert done.result(LONG).status is GOOD

    three = units.state("disk").result(LONG)
    assert three.number == one.number + 1
    assert C in three.state.by_nexus


def test_state_of_a_lun_that_is_missing_is_an_error(root: str, units: Units) -> None:
    """Never an empty one; and not for ever."""
    units.state("disk").result(LONG)
    os.rename(f"{root}/disk", f"{root}/.away")

    def missing() -> bool:
        error = units.state("disk").exception(LONG)
        return isinstance(error, StoreUnavailable)

    eventually(missing, "it is still served")


def test_state_that_is_not_had_in_time_is_busy(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A door must not wait longer than its client."""
    go = threading.Event()
    units = Units(root, timeout=0.2)

    def slowly(_: LogicalUnit) -> None:
        assert go.wait(LONG)

    with monkeypatch.context() as patch:
        patch.setattr(LogicalUnit, "served_state", slowly)
        with pytest.raises(Busy):
            units.state("disk").result(LONG)
        go.set()
        assert units.close(LONG)


def test_reset_is_told_to_those_whom_the_state_names(units: Units) -> None:
    """29/03 for A and B; SPC-4 5.13.5: reservations stay, a SPC-2 one ends."""
    units.reset("disk").result(LONG)

    for nexus in (A, B):
        told = units.submit("disk", nexus, WRITE_10).result(LONG)
        assert told.sense[12:14] == b"\x29\x03"
        assert units.submit("disk", nexus, WRITE_10).result(LONG).status is GOOD
    assert units.submit("disk", C, WRITE_10).result(LONG).status is CONFLICT


def test_reset_frees_a_spc_2_reservation(root: str, units: Units, unit: LogicalUnit) -> None:
    """SPC-2 5.5.1."""
    assert out(unit, A, OutAction.CLEAR, own=KEYS[A]) is GOOD
    held = units.submit("disk", A, RESERVE_6, report_attentions=False)
    assert held.result(LONG).status is GOOD
    units.reset("disk").result(LONG)
    assert units.state("disk").result(LONG).state.spc2 is None
    assert list(unit.history())[-1].applied.action == "LOGICAL UNIT RESET"


def test_attempt_hands_back_what_would_have_to_wait(unit: LogicalUnit) -> None:
    """And has done nothing until it is run."""
    before = number(unit)
    cdb = out_cdb(OutAction.PREEMPT, type_=TYPE)
    narrowing = unit.attempt(B, cdb, basic_list(KEYS[B], KEYS[A]))
    assert isinstance(narrowing, Narrowing)
    assert number(unit) == before
    assert narrowing.run() == Result(GOOD)
    assert number(unit) == before + 1


def test_permits_of_a_process_share_their_system_calls() -> None:
    """One watch listens for all of them."""
    assert Gate("/r", 1, "i").syscalls is SYSCALLS
