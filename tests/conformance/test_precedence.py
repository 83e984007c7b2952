"""Which of several reasons to refuse is told (SAM-5 5.3.3; the order of checks)."""

from __future__ import annotations

import pytest

from flockpr.core.events import LogicalUnitReset, PowerCycle
from flockpr.spc.codes import Attention
from tests.support.scsi import (
    CLEAR,
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_LIST,
    INVALID_RELEASE,
    KEY_A,
    KEY_B,
    KEY_C,
    KEY_D,
    LIST_LENGTH,
    MOVE,
    PREEMPT,
    PREEMPT_ABORT,
    REGISTER,
    RELEASE,
    RESERVE,
    RESERVE_6,
    TEST_UNIT_READY,
    WE,
    WEAR,
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
    assert_refused,
    basic_list,
    in_cdb,
    iscsi_id,
    move_list,
    transport_id,
)

RESET = Attention.LOGICAL_UNIT_RESET
PREEMPTED = Attention.REGISTRATIONS_PREEMPTED


def after_reset() -> Unit:
    """A holds WE, B is registered; both have a reset to hear of."""
    unit = Unit(report=True).enter(a=KEY_A, b=KEY_B).hold(A, WE)
    unit.happen(LogicalUnitReset())
    return unit


def removed() -> Unit:
    """A holds WE; B lost its registration, which it has to hear of, and is registered again."""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, WE)
    unit.out(A, PREEMPT, KEY_A, KEY_B)
    unit.enter(b=KEY_B)
    unit.report = True
    return unit


# ------------------------------------------------------------------ 1. not implemented


@pytest.mark.parametrize("action", [0x08, 0x09, 0x1F])
def test_unknown_action_before_everything(action: int) -> None:
    """An unknown service action outranks attentions and conflicts [order of checks; step 1]"""
    for unit in (after_reset(), removed()):
        for of in (B, D):
            assert_refused(unit.out(of, action), INVALID_FIELD_IN_CDB, cdb=(1, 4))
            assert unit.unchanged
            assert_refused(unit.send(of, in_cdb(action)), INVALID_FIELD_IN_CDB, cdb=(1, 4))
            assert unit.unchanged


def test_unknown_action_before_spc2_reservation() -> None:
    """It outranks an SPC-2 reservation as well [order of checks; step 1]"""
    unit = Unit()
    unit.send(A, RESERVE_6)
    assert_refused(unit.out(B, 0x08), INVALID_FIELD_IN_CDB, cdb=(1, 4))
    assert_refused(unit.send(B, in_cdb(4)), INVALID_FIELD_IN_CDB, cdb=(1, 4))


# ------------------------------------------------------------------ 2. reset-class attentions


def test_reset_attention_before_conflict_of_write() -> None:
    """29/03 outranks RESERVATION CONFLICT [SAM-5 5.3.3; order of checks, step 2]"""
    unit = after_reset()
    assert_attention(unit.send(B, WRITE_10), RESET)
    assert_conflict(unit.send(B, WRITE_10))


@pytest.mark.parametrize("action", [RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_ABORT, MOVE])
def test_reset_attention_before_conflict_of_wrong_key(action: int) -> None:
    """29/03 outranks the conflict of a wrong key [SAM-5 5.3.3; order of checks, step 2]"""
    unit = after_reset()
    assert_attention(unit.out(B, action, KEY_D, KEY_D, type_=WE), RESET)
    assert_conflict(unit.out(B, action, KEY_D, KEY_D, type_=WE))


@pytest.mark.parametrize("cdb", [WRITE_10, in_cdb(0), RESERVE_6])
def test_reset_attention_before_conflict_of_spc2(cdb: bytes) -> None:
    """29/00 outranks the conflict of an SPC-2 reservation [SAM-5 5.3.3; step 2]"""
    unit = Unit(report=True)
    assert_good(unit.send(B, TEST_UNIT_READY))
    unit.happen(PowerCycle())
    assert_good(unit.send(A, RESERVE_6))
    assert_attention(unit.send(B, cdb), Attention.POWER_ON)
    assert_conflict(unit.send(B, cdb))


def test_reset_attention_before_conflict_of_unregistered() -> None:
    """29/00 outranks the conflict of an unregistered nexus [SAM-5 5.3.3; step 2]"""
    unit = Unit(report=True)
    assert_good(unit.send(D, TEST_UNIT_READY))
    unit.happen(PowerCycle())
    assert_attention(unit.out(D, CLEAR), Attention.POWER_ON)
    assert_conflict(unit.out(D, CLEAR))


# ------------------------------------------------------------------ 3 to 5. conflicts


def test_conflict_of_spc2_before_other_attentions() -> None:
    """An SPC-2 reservation outranks 2A/05 [SAM-5 5.3.3; order of checks, step 3]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    unit.out(A, PREEMPT, KEY_A, KEY_B)
    unit.out(A, REGISTER, KEY_A, 0)
    unit.send(A, RESERVE_6)
    unit.report = True
    for reply in (unit.send(B, in_cdb(0)), unit.out(B, REGISTER, 0, KEY_B)):
        assert_conflict(reply)
        assert unit.unchanged


@pytest.mark.parametrize("action", [RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_ABORT, MOVE])
def test_conflict_of_unregistered_before_other_attentions(action: int) -> None:
    """So does being unregistered [SAM-5 5.3.3; order of checks, step 4]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, WERO)
    unit.out(A, PREEMPT, KEY_A, KEY_B)
    unit.report = True
    assert_conflict(unit.out(B, action, KEY_B, KEY_A, type_=WERO))
    assert unit.unchanged


@pytest.mark.parametrize("action", [RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_ABORT, MOVE])
@pytest.mark.parametrize("length", [0, 4, 24])
def test_conflict_of_unregistered_needs_no_list(action: int, length: int) -> None:
    """Being unregistered needs no list, no TYPE, no SCOPE [order of checks; step 4]"""
    unit = Unit().enter(a=KEY_A)
    assert_conflict(unit.raw_out(D, action, bytes(length), type_=0, scope=3))


@pytest.mark.parametrize(
    "action", [RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_ABORT, MOVE, REGISTER]
)
def test_conflict_of_wrong_key_before_other_attentions(action: int) -> None:
    """So does a wrong key [SAM-5 5.3.3; order of checks, step 8]"""
    unit = removed()
    assert_conflict(unit.out(B, action, KEY_D, KEY_A, type_=WE))
    assert unit.unchanged


def test_conflict_of_reservation_before_other_attentions() -> None:
    """RESERVE and MOVE by a non-holder outrank 2A/05 [SAM-5 5.3.3; order of checks, step 5]"""
    unit = removed()
    assert_conflict(unit.out(B, RESERVE, KEY_B, type_=WE))
    data = move_list(KEY_B, KEY_C, transport_id(C))
    assert_conflict(unit.raw_out(B, MOVE, data))
    assert unit.unchanged


def test_conflict_of_unknown_key_before_other_attentions() -> None:
    """So does a preempt of a key that nobody has [SAM-5 5.3.3; order of checks, step 10]"""
    unit = removed()
    assert_conflict(unit.out(B, PREEMPT, KEY_B, KEY_D))
    assert unit.unchanged


def test_conflict_of_another_type_before_other_attentions() -> None:
    """So does RESERVE of another type by the holder [SAM-5 5.3.3; order of checks, step 10]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(B, WERO)
    unit.out(B, RELEASE, KEY_B, type_=WERO)
    unit.hold(A, WE)
    unit.report = True
    assert unit.state.pending[A]
    assert_conflict(unit.out(A, RESERVE, KEY_A, type_=WERO))
    assert unit.unchanged


@pytest.mark.parametrize("data", [basic_list(KEY_D)[:8], basic_list(KEY_D) + b"more"])
@pytest.mark.parametrize(
    "action", [REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_ABORT, MOVE]
)
def test_conflict_of_wrong_key_before_list_length(action: int, data: bytes) -> None:
    """A wrong key outranks a wrong length [ruling: conflicts before faults; step 8]"""
    unit = Unit().enter(a=KEY_A).hold(A, WE)
    assert_conflict(unit.raw_out(A, action, data, type_=WE))


@pytest.mark.parametrize("action", [RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_ABORT])
def test_conflict_of_wrong_key_before_bad_fields(action: int) -> None:
    """A wrong key outranks TYPE, SCOPE and SPEC_I_PT [ruling: conflicts before faults; step 8]"""
    unit = Unit().enter(a=KEY_A)
    data = basic_list(KEY_D, 0, spec=True)
    assert_conflict(unit.raw_out(A, action, data, type_=15, scope=7))


def test_conflict_of_unregistered_key_before_list_faults() -> None:
    """REGISTER with a key from nowhere outranks its list [ruling: conflicts before faults]"""
    unit = Unit()
    for data in (basic_list(KEY_D)[:8], basic_list(KEY_D, KEY_A, ids=[b"x" * 24])):
        assert_conflict(unit.raw_out(A, REGISTER, data))


def test_conflict_of_unknown_key_before_faults() -> None:
    """An unknown key to preempt outranks SPEC_I_PT and length [ruling: conflicts before faults]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, WE)
    for data in (basic_list(KEY_A, KEY_D, spec=True), basic_list(KEY_A, KEY_D)[:16]):
        assert_conflict(unit.raw_out(A, PREEMPT, data, type_=15, scope=1))


def test_conflict_of_move_before_list_faults() -> None:
    """A move that nobody may make outranks its list [ruling: conflicts before faults]"""
    for type_, of in ((WE, B), (WEAR, A)):
        unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
        bad = move_list(unit.key(of), 0, iscsi_id("c"), port=99, length=1)
        assert_conflict(unit.raw_out(of, MOVE, bad))


# ------------------------------------------------------------------ 6. other attentions


@pytest.mark.parametrize(
    ("action", "key", "sark", "type_", "scope"),
    [
        (RELEASE, KEY_B, 0, 15, 0),
        (RELEASE, KEY_B, 0, WE, 1),
        (PREEMPT, KEY_B, 0, WE, 0),
        (PREEMPT, KEY_B, KEY_A, 15, 0),
    ],
)
def test_other_attention_before_faults(
    action: int, key: int, sark: int, type_: int, scope: int
) -> None:
    """2A/05 outranks CHECK CONDITION for faults [SAM-5 5.3.3; order of checks, step 6]"""
    unit = removed()
    assert_attention(unit.out(B, action, key, sark, type_=type_, scope=scope), PREEMPTED)
    assert unit.out(B, action, key, sark, type_=type_, scope=scope).sense is not None


def test_other_attention_before_list_faults() -> None:
    """2A/05 outranks a list of the wrong length [SAM-5 5.3.3; order of checks, step 6]"""
    for data in (b"", basic_list(KEY_B)[:20], basic_list(KEY_B, KEY_C, spec=True) + bytes(4)):
        unit = removed()
        assert_attention(unit.raw_out(B, REGISTER, data), PREEMPTED)
        assert unit.raw_out(B, REGISTER, data).status == 2


# ------------------------------------------------------------------ 7 to 10. faults


@pytest.mark.parametrize("action", [RESERVE, RELEASE])
def test_cdb_fault_before_list_fault(action: int) -> None:
    """TYPE outranks length and SPEC_I_PT [order of checks; step 7 before 9]"""
    unit = Unit().enter(a=KEY_A)
    for data in (basic_list(KEY_A) + b"more", basic_list(KEY_A, spec=True)):
        reply = unit.raw_out(A, action, data, type_=15)
        assert_refused(reply, INVALID_FIELD_IN_CDB, cdb=(2, 3))


def test_scope_before_type() -> None:
    """SCOPE is looked at before TYPE [order of checks; step 7]"""
    unit = Unit().enter(a=KEY_A)
    reply = unit.out(A, RESERVE, KEY_A, type_=15, scope=1)
    assert_refused(reply, INVALID_FIELD_IN_CDB, cdb=(2, 7))


def test_list_length_before_contents() -> None:
    """The length outranks a zero key and an invalid release [order of checks; step 7 before 9]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, WE)
    long = basic_list(KEY_A, 0) + b"more"
    assert_refused(unit.raw_out(A, PREEMPT, long, type_=WE), LIST_LENGTH)
    assert_refused(unit.raw_out(A, RELEASE, long, type_=WERO), LIST_LENGTH)


def test_spec_i_pt_before_zero_key_and_invalid_release() -> None:
    """SPEC_I_PT outranks a zero key and an invalid release [order of checks; steps 9 and 10]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, WE)
    data = basic_list(KEY_A, 0, spec=True)
    for action, type_ in ((PREEMPT, WE), (RELEASE, WERO)):
        reply = unit.raw_out(A, action, data, type_=type_)
        assert_refused(reply, INVALID_FIELD_IN_LIST, field=(20, 3))
    assert_refused(unit.out(A, RELEASE, KEY_A, type_=WERO), INVALID_RELEASE)
