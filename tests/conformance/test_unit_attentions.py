"""Unit attention conditions: queueing, reporting, clearing (SAM-5 5.14; SPC-4 5.13)."""

from __future__ import annotations

import pytest

from flockpr.core.events import LogicalUnitReset, PowerCycle
from flockpr.spc.codes import Attention
from tests.support.scsi import (
    CLEAR,
    INQUIRY,
    KEY_A,
    KEY_B,
    KEY_C,
    MOVE,
    PREEMPT,
    READ_10,
    REGISTER,
    RELEASE,
    RELEASE_6,
    REPORT_LUNS,
    REQUEST_SENSE,
    RESERVE,
    RESERVE_6,
    TEST_UNIT_READY,
    WE,
    WERO,
    WRITE_10,
    A,
    B,
    C,
    D,
    Unit,
    assert_attention,
    assert_conflict,
    assert_good,
    in_cdb,
    move_list,
    nexus,
    transport_id,
)

PREEMPTED = Attention.REGISTRATIONS_PREEMPTED
CLEARED = Attention.RESERVATIONS_PREEMPTED
RELEASED = Attention.RESERVATIONS_RELEASED


def preempted() -> Unit:
    """A unit on which B lost its registration and has not heard of it."""
    unit = Unit(report=True).enter(a=KEY_A, b=KEY_B)
    assert_good(unit.out(A, PREEMPT, KEY_A, KEY_B))
    return unit


def pending(unit: Unit) -> dict[str, list[Attention]]:
    """What is pending, by short name."""
    return {
        entry.nexus.initiator_port.name.rpartition(":")[2]: list(entry.codes)
        for entry in unit.state.attentions
    }


def test_attention_of_clear_is_2a03() -> None:
    """CLEAR: RESERVATIONS PREEMPTED, 2A/03 [SPC-4 5.13.11.2.7 e); 2A/03]"""
    unit = Unit(report=True).enter(a=KEY_A, b=KEY_B)
    unit.out(A, CLEAR, KEY_A)
    assert_attention(unit.send(B, TEST_UNIT_READY), CLEARED)


def test_attention_of_lost_registration_is_2a05() -> None:
    """PREEMPT: REGISTRATIONS PREEMPTED, 2A/05 [SPC-4 5.13.11.2.5 d); 2A/05]"""
    assert_attention(preempted().send(B, TEST_UNIT_READY), PREEMPTED)


def test_attention_of_release_is_2a04() -> None:
    """RELEASE: RESERVATIONS RELEASED, 2A/04 [SPC-4 5.13.11.2.2 c); 2A/04]"""
    unit = Unit(report=True).enter(a=KEY_A, b=KEY_B).hold(A, WERO)
    unit.out(A, RELEASE, KEY_A, type_=WERO)
    assert_attention(unit.send(B, TEST_UNIT_READY), RELEASED)


def test_attention_never_goes_to_the_sender() -> None:
    """Victims are told, the sender is not [SPC-4 5.13.11.2.4.3 and 5.13.11.2.7 e)]"""
    unit = preempted()
    assert_good(unit.send(A, TEST_UNIT_READY))
    unit.out(A, CLEAR, KEY_A)
    assert_good(unit.send(A, TEST_UNIT_READY))


def test_attention_removed_nexus_gets_only_2a05() -> None:
    """Who is removed when the type changes gets 2A/05 alone [SPC-4 5.13.11.2.4.3 f)]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_C).hold(A, WE)
    unit.out(B, PREEMPT, KEY_B, KEY_A, type_=WERO)
    assert pending(unit) == {"a": [PREEMPTED], "c": [RELEASED]}


def test_attention_none_for_what_takes_nothing_from_anybody() -> None:
    """REGISTER, key change, RESERVE, REGISTER AND MOVE raise none [SPC-4 5.13.7 to 5.13.9]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_C)
    unit.out(B, REGISTER, KEY_B, KEY_C)
    unit.hold(A, WERO)
    data = move_list(KEY_A, KEY_C, transport_id(D))
    assert_good(unit.raw_out(A, MOVE, data))
    assert pending(unit) == {}


@pytest.mark.parametrize(
    "cdb", [TEST_UNIT_READY, READ_10, WRITE_10, in_cdb(0), in_cdb(2), RELEASE_6]
)
def test_attention_stops_one_command_and_is_gone(cdb: bytes) -> None:
    """Told once, the command is not performed, then it is gone [SAM-5 5.14; clearing]"""
    unit = Unit(report=True).enter(a=KEY_A, b=KEY_B)
    unit.out(A, CLEAR, KEY_A)
    assert_attention(unit.send(B, cdb), CLEARED)
    assert_good(unit.send(B, cdb))


def test_attention_stops_persistent_reserve_out() -> None:
    """PERSISTENT RESERVE OUT is not exempt: not performed [SAM-5 5.14; PR OUT]"""
    unit = preempted()
    assert_attention(unit.out(B, REGISTER, 0, KEY_B), PREEMPTED)
    assert unit.keys == {A: KEY_A}
    assert_good(unit.out(B, REGISTER, 0, KEY_B))


def test_attention_stops_spc2_reserve() -> None:
    """RESERVE(6) is not exempt either [SAM-5 5.14; RESERVE]"""
    unit = Unit(report=True).enter(a=KEY_A, b=KEY_B)
    unit.out(A, CLEAR, KEY_A)
    assert_attention(unit.send(B, RESERVE_6), CLEARED)
    assert unit.state.spc2 is None


@pytest.mark.parametrize("cdb", [INQUIRY, REPORT_LUNS])
def test_attention_inquiry_and_report_luns_leave_it(cdb: bytes) -> None:
    """INQUIRY and REPORT LUNS are performed and clear nothing [SAM-5 5.14; exempt commands]"""
    unit = preempted()
    assert_good(unit.send(B, cdb))
    assert unit.unchanged
    assert_attention(unit.send(B, TEST_UNIT_READY), PREEMPTED)


@pytest.mark.parametrize("descriptor", [False, True])
def test_attention_request_sense_tells_it_as_data(descriptor: bool) -> None:
    """REQUEST SENSE: GOOD, told as data, then gone [SPC-4 6.39 REQUEST SENSE; SAM-5 5.14]"""
    unit = preempted()
    reply = unit.send(B, bytes((0x03, descriptor, 0, 0, 252, 0)))
    assert_good(reply)
    if descriptor:
        assert reply.data == bytes((0x72, 6, 0x2A, 5, 0, 0, 0, 0))
    else:
        assert reply.data == bytes((0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x2A, 5, 0, 0, 0, 0))
    assert pending(unit) == {}
    assert_good(unit.send(B, TEST_UNIT_READY))


def test_attention_request_sense_without_one_has_no_data() -> None:
    """Nothing pending: the door answers REQUEST SENSE itself [SPC-4 6.39 REQUEST SENSE]"""
    reply = Unit(report=True).send(A, REQUEST_SENSE)
    assert_good(reply)
    assert reply.data == b""


def test_attention_same_code_is_queued_once() -> None:
    """The same code is not queued twice for one nexus [SAM-5 5.14; queueing]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    unit.out(A, PREEMPT, KEY_A, KEY_B)
    unit.out(B, REGISTER, 0, KEY_B)
    unit.out(A, PREEMPT, KEY_A, KEY_B)
    assert pending(unit) == {"b": [PREEMPTED]}


def test_attention_different_codes_come_in_order() -> None:
    """One per command, the oldest first [SAM-5 5.14; order]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    unit.out(A, PREEMPT, KEY_A, KEY_B)
    unit.out(B, REGISTER, 0, KEY_B)
    unit.out(A, CLEAR, KEY_A)
    assert pending(unit) == {"b": [PREEMPTED, CLEARED]}
    unit.report = True
    assert_attention(unit.send(B, TEST_UNIT_READY), PREEMPTED)
    assert_attention(unit.send(B, TEST_UNIT_READY), CLEARED)
    assert_good(unit.send(B, TEST_UNIT_READY))


def test_attention_reset_class_comes_first() -> None:
    """Reset-class ones come before all others [SAM-5 5.14; ranking]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    unit.out(A, PREEMPT, KEY_A, KEY_B)
    unit.happen(LogicalUnitReset())
    unit.report = True
    assert_attention(unit.send(B, TEST_UNIT_READY), Attention.LOGICAL_UNIT_RESET)
    assert_attention(unit.send(B, TEST_UNIT_READY), PREEMPTED)


def test_attention_power_on_comes_before_reset() -> None:
    """29/00 outranks 29/03 [SAM-5 5.14; ranking]"""
    unit = Unit().enter(a=KEY_A)
    unit.happen(PowerCycle())
    unit.happen(LogicalUnitReset())
    unit.report = True
    assert_attention(unit.send(A, TEST_UNIT_READY), Attention.POWER_ON)
    assert_attention(unit.send(A, TEST_UNIT_READY), Attention.LOGICAL_UNIT_RESET)


def test_attention_waits_for_nexus_that_is_away() -> None:
    """A victim that is logged out finds it when it comes back [SAM-5 5.14; nexus]"""
    unit = preempted()
    unit.epochs.clear()
    assert_attention(unit.send(B, TEST_UNIT_READY), PREEMPTED)


def test_attention_is_the_nexuss_alone() -> None:
    """Other ports of the same initiator do not get it [SAM-5 5.14; nexus]"""
    unit = preempted()
    for other in (nexus("b", isid=1), nexus("b", 2), C):
        assert_good(unit.send(other, TEST_UNIT_READY))


def test_attention_not_reported_is_neither_told_nor_cleared() -> None:
    """A door that reports none leaves them pending [project ruling: doors without attentions]"""
    unit = preempted()
    for cdb in (TEST_UNIT_READY, REQUEST_SENSE, in_cdb(0)):
        assert_good(unit.send(B, cdb, report=False))
        assert unit.unchanged
    assert_attention(unit.send(B, TEST_UNIT_READY), PREEMPTED)


def test_attention_telling_is_a_change_of_state() -> None:
    """Told by one host, it is gone for all hosts [SAM-5 5.14; clearing]"""
    unit = preempted()
    unit.send(B, TEST_UNIT_READY)
    assert not unit.unchanged


def test_attention_overflow_becomes_an_epoch() -> None:
    """More victims than may be remembered: an epoch tells them 29/00 [project ruling: overflow]"""
    unit = Unit(pending=1, report=True)
    for of in (A, B, C):
        assert_good(unit.send(of, TEST_UNIT_READY))
    unit.enter(a=KEY_A, b=KEY_B, c=KEY_C)
    unit.out(A, CLEAR, KEY_A)
    assert len(unit.state.attentions) == 1
    assert unit.state.overflowed
    told = [unit.send(of, TEST_UNIT_READY) for of in (B, C)]
    for reply in told:
        assert_attention(reply, Attention.POWER_ON)


def test_attention_overflow_tells_strangers_too() -> None:
    """After an overflow a nexus that no door remembers finds 29/00 [project ruling: overflow]"""
    unit = Unit(pending=1, report=True).enter(a=KEY_A, b=KEY_B, c=KEY_C)
    unit.out(A, CLEAR, KEY_A)
    assert_attention(unit.send(D, TEST_UNIT_READY), Attention.POWER_ON)
    assert_good(unit.send(D, TEST_UNIT_READY))


def test_attention_kept_while_commands_conflict() -> None:
    """A command that conflicts leaves 2A/05 for the next one [SAM-5 5.3.3; precedence]"""
    unit = Unit(report=True).enter(a=KEY_A, b=KEY_B).hold(A, WERO)
    unit.out(A, PREEMPT, KEY_A, KEY_B)
    assert_conflict(unit.send(B, WRITE_10))
    assert_conflict(unit.out(B, RESERVE, KEY_B, type_=WERO))
    assert unit.unchanged
    assert_attention(unit.send(B, TEST_UNIT_READY), PREEMPTED)
    assert_conflict(unit.send(B, WRITE_10))
