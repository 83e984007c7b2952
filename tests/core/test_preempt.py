"""PREEMPT and PREEMPT AND ABORT where two rules meet."""

from __future__ import annotations

import pytest

from flockpr.core.model import Nexus
from flockpr.spc.codes import Attention
from tests.support.scsi import (
    EA,
    EAAR,
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_LIST,
    KEY_A,
    KEY_B,
    KEY_C,
    LIST_LENGTH,
    PREEMPT,
    PREEMPT_ABORT,
    WE,
    WEAR,
    WERO,
    A,
    B,
    C,
    D,
    Unit,
    assert_conflict,
    assert_good,
    assert_refused,
    basic_list,
    told,
)

LOST = Attention.REGISTRATIONS_PREEMPTED
RELEASED = Attention.RESERVATIONS_RELEASED


def three(type_: int = 0) -> Unit:
    """A, B and C are registered, B and D with one key; with a type B reserves."""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_C, d=KEY_B)
    return unit.hold(B, type_) if type_ else unit


def test_preempt_of_the_holder_takes_over_and_retypes() -> None:
    """SPC-4 5.13.11.2: all with the key go, 2A/05; who stays learns of the new type, 2A/04."""
    unit = three(WE)

    assert_good(unit.out(A, PREEMPT, KEY_A, KEY_B, type_=EA))
    assert (unit.keys, unit.reservation) == ({A: KEY_A, C: KEY_C}, (EA, A))
    assert unit.raised == told(LOST, B, D) | told(RELEASED, C)
    assert unit.outcome.aborted == frozenset()


def test_preempt_with_the_same_type_tells_survivors_nothing() -> None:
    """SPC-4 5.13.11.2: 2A/04 is for a change of type or scope."""
    unit = three(WE)

    unit.out(A, PREEMPT, KEY_A, KEY_B, type_=WE)
    assert unit.raised == told(LOST, B, D)


@pytest.mark.parametrize(("of", "sibling", "left"), [(B, D, [A, B, C]), (D, B, [A, C, D])])
def test_preempt_of_ones_own_key_that_the_holder_has_survives(
    of: Nexus, sibling: Nexus, left: list[Nexus]
) -> None:
    """SPC-4 5.13.11.2: the sender keeps its registration and holds, holder before or not."""
    unit = three(WE)

    assert_good(unit.out(of, PREEMPT_ABORT, KEY_B, KEY_B, type_=WE))
    assert (list(unit.keys), unit.reservation) == (left, (WE, of))
    assert unit.raised == told(LOST, sibling)
    assert unit.outcome.aborted == {B, D}


@pytest.mark.parametrize("type_", [0, WEAR])
def test_preempt_of_ones_own_key_elsewhere_removes_the_sender(type_: int) -> None:
    """SPC-4 5.13.11.2: without a single holder's key it only removes, and tells no sender."""
    unit = three(type_)

    assert_good(unit.out(B, PREEMPT, KEY_B, KEY_B, type_=15, scope=15))
    assert list(unit.keys) == [A, C]
    assert unit.raised == told(LOST, D)
    assert (unit.reservation is None) is (type_ == 0)


def test_preempt_of_the_last_registrants_releases_all_registrants() -> None:
    """SPC-4 5.13.11.2: an All Registrants reservation does not outlive its registrants."""
    unit = Unit().enter(b=KEY_B, d=KEY_B).hold(B, EAAR)

    assert_good(unit.out(D, PREEMPT, KEY_B, KEY_B))
    assert (unit.keys, unit.reservation, unit.generation) == ({}, None, 3)


def test_preempt_of_zero_under_all_registrants_removes_everyone_else() -> None:
    """SPC-4 5.13.11.2: the sender is the only registrant and holds with the CDB's type."""
    unit = three(WEAR)

    assert_good(unit.out(A, PREEMPT_ABORT, KEY_A, 0, type_=EAAR))
    assert (unit.keys, unit.reservation) == ({A: KEY_A}, (EAAR, None))
    assert unit.raised == told(LOST, B, C, D)
    assert unit.outcome.aborted == {A, B, C, D}


@pytest.mark.parametrize(
    ("type_", "sark", "data_length", "cdb_type"),
    [(0, 0, 24, 0), (0, 0x99, 24, 0), (WE, 0x99, 16, 15), (WEAR, 0x99, 30, 0)],
)
def test_preempt_of_an_unknown_key_is_a_conflict(
    type_: int, sark: int, data_length: int, cdb_type: int
) -> None:
    """SPC-4 5.13.11.2.5: 0 without a reservation included; it outranks every fault."""
    unit = three(type_)

    data = basic_list(KEY_A, sark).ljust(data_length, b"\0")[:data_length]
    assert_conflict(unit.raw_out(A, PREEMPT, data, type_=cdb_type))
    assert unit.unchanged


@pytest.mark.parametrize(
    ("sark", "size", "type_", "sense", "pointer"),
    [
        (KEY_B, 24, 0, INVALID_FIELD_IN_CDB, (2, 3)),
        (KEY_B, 20, 0, INVALID_FIELD_IN_CDB, (2, 3)),
        (KEY_B, 20, WE, LIST_LENGTH, None),
        (KEY_B, 15, 0, LIST_LENGTH, None),
        (KEY_C, 20, 0, LIST_LENGTH, None),
        (0, 20, 0, LIST_LENGTH, None),
    ],
)
def test_preempt_checks_the_type_only_where_a_reservation_results(
    sark: int, size: int, type_: int, sense: tuple[int, int, int], pointer: tuple[int, int] | None
) -> None:
    """SPC-4 6.16.2: TYPE counts when the holder is preempted, and then before the list."""
    unit = three(WERO)

    reply = unit.raw_out(A, PREEMPT, basic_list(KEY_A, sark)[:size], type_=type_)
    assert_refused(reply, sense, cdb=pointer)
    assert unit.unchanged


def test_preempt_of_zero_under_one_holder_is_an_invalid_field() -> None:
    """SPC-4 5.13.11.2: 05/26/00, with a pointer to the key; TYPE is not looked at."""
    reply = three(WE).out(A, PREEMPT, KEY_A, 0, type_=15)

    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(8, 7))


def test_preempt_and_abort_aborts_all_whose_key_matched() -> None:
    """SPC-4 5.13.11.2: also where the reservation stays as it is."""
    unit = three(EA)

    assert_good(unit.out(A, PREEMPT_ABORT, KEY_A, KEY_C))
    assert unit.outcome.aborted == {C}
    assert unit.reservation == (EA, B)
