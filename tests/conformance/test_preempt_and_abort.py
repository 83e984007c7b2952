"""PERSISTENT RESERVE OUT, PREEMPT AND ABORT (SPC-4 5.13.11.2.6): whose tasks are aborted."""

from __future__ import annotations

import pytest

from tests.support.scsi import (
    ALL_REGISTRANTS,
    CLEAR,
    KEY_A,
    KEY_B,
    KEY_C,
    KEY_D,
    ONE_HOLDER,
    PREEMPT,
    PREEMPT_ABORT,
    WE,
    A,
    B,
    C,
    D,
    Unit,
    assert_good,
)


@pytest.mark.parametrize("held", [None, *ONE_HOLDER])
def test_abort_every_nexus_with_the_key(held: int | None) -> None:
    """All nexuses with the key, holder or not [SPC-4 5.13.11.2.6; ABORT row 1]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_A, d=KEY_D)
    if held:
        unit.hold(A, held)
    assert_good(unit.out(B, PREEMPT_ABORT, KEY_B, KEY_A, type_=WE))
    assert unit.outcome.aborted == {A, C}


def test_abort_other_key_leaves_holder_alone() -> None:
    """A key that is not the holder's: its nexuses alone [SPC-4 5.13.11.2.6; ABORT row 1]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_C, d=KEY_D).hold(A, WE)
    assert_good(unit.out(B, PREEMPT_ABORT, KEY_B, KEY_D))
    assert unit.outcome.aborted == {D}


@pytest.mark.parametrize("held", [None, *ONE_HOLDER])
def test_abort_own_key_includes_sender(held: int | None) -> None:
    """The sender's other tasks too if its key matches [SPC-4 5.13.11.2.6; ABORT row 2]"""
    unit = Unit().enter(a=KEY_A, b=KEY_A, c=KEY_C)
    if held:
        unit.hold(A, held)
    assert_good(unit.out(A, PREEMPT_ABORT, KEY_A, KEY_A, type_=WE))
    assert unit.outcome.aborted == {A, B}


@pytest.mark.parametrize("held", ALL_REGISTRANTS)
def test_abort_zero_all_registrants_is_every_registrant(held: int) -> None:
    """All Registrants, key 0: every registered nexus [SPC-4 5.13.11.2.6; ABORT row 3]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_C).hold(A, held)
    assert_good(unit.out(B, PREEMPT_ABORT, KEY_B, 0, type_=WE))
    assert unit.outcome.aborted == {A, B, C}


@pytest.mark.parametrize("held", ALL_REGISTRANTS)
def test_abort_key_all_registrants_is_that_key(held: int) -> None:
    """All Registrants, a key: those that have it [SPC-4 5.13.11.2.6; ABORT row 1]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_C).hold(A, held)
    assert_good(unit.out(B, PREEMPT_ABORT, KEY_B, KEY_C))
    assert unit.outcome.aborted == {C}


@pytest.mark.parametrize("sark", [KEY_D, 0])
def test_abort_refused_aborts_nothing(sark: int) -> None:
    """A refused command aborts nothing [SPC-4 5.13.11.2.6; ABORT refused]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, WE)
    unit.out(B, PREEMPT_ABORT, KEY_B, sark, type_=WE)
    assert unit.unchanged
    assert unit.outcome.aborted == frozenset()


@pytest.mark.parametrize("action", [PREEMPT, CLEAR])
def test_preempt_and_clear_abort_nothing(action: int) -> None:
    """Only this service action aborts [SPC-4 5.13.11.2.4.3 and 5.13.11.2.7 d)]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, WE)
    assert_good(unit.out(B, action, KEY_B, KEY_A, type_=WE))
    assert unit.outcome.aborted == frozenset()
