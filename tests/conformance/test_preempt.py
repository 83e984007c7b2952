"""PERSISTENT RESERVE OUT, PREEMPT (SPC-4 5.13.11.2.4 and 5.13.11.2.5).

PREEMPT AND ABORT decides alike, so every row is shown for both; what it aborts is in
`test_preempt_and_abort`.
"""

from __future__ import annotations

import pytest

from flockpr.spc.codes import Attention
from tests.support.scsi import (
    ALL_REGISTRANTS,
    EA,
    EAAR,
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_LIST,
    KEY_A,
    KEY_B,
    KEY_C,
    KEY_D,
    ONE_HOLDER,
    PREEMPT,
    PREEMPT_ABORT,
    REGISTER,
    REGISTER_IGNORE,
    TYPES,
    WE,
    WERO,
    A,
    B,
    C,
    D,
    Unit,
    assert_conflict,
    assert_good,
    assert_refused,
    told,
)

PREEMPTED = Attention.REGISTRATIONS_PREEMPTED
RELEASED = Attention.RESERVATIONS_RELEASED
BOTH = pytest.mark.parametrize("action", [PREEMPT, PREEMPT_ABORT])


@BOTH
@pytest.mark.parametrize("held", [None, *TYPES])
def test_preempt_unknown_key_conflicts(action: int, held: int | None) -> None:
    """A key that nobody has registered: conflict [SPC-4 5.13.11.2.5; PREEMPT row 1]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    if held:
        unit.hold(A, held)
    assert_conflict(unit.out(A, action, KEY_A, KEY_D, type_=WERO))
    assert_conflict(unit.out(B, action, KEY_B, KEY_D, type_=WERO))
    assert unit.unchanged


@BOTH
def test_preempt_zero_without_reservation_conflicts(action: int) -> None:
    """Key 0 and no reservation: nobody has that key [SPC-4 5.13.11.2.5; PREEMPT row 2]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    assert_conflict(unit.out(A, action, KEY_A, 0, type_=WERO))
    assert unit.unchanged


@BOTH
@pytest.mark.parametrize("type_", [0, 2, 15, WERO])
def test_preempt_without_reservation_removes_registrations(action: int, type_: int) -> None:
    """No reservation: all with the key go, none is made [SPC-4 5.13.11.2.5; PREEMPT row 3]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_B, d=KEY_D)
    assert_good(unit.out(A, action, KEY_A, KEY_B, type_=type_))
    assert (unit.keys, unit.reservation) == ({A: KEY_A, D: KEY_D}, None)
    assert (unit.generation, unit.raised) == (5, told(PREEMPTED, B, C))


@BOTH
def test_preempt_own_key_without_reservation_removes_sender(action: int) -> None:
    """No reservation, own key: the sender goes too, untold [SPC-4 5.13.11.2.5; PREEMPT row 3]"""
    unit = Unit().enter(a=KEY_A, b=KEY_A, c=KEY_C)
    assert_good(unit.out(A, action, KEY_A, KEY_A))
    assert (unit.keys, unit.generation) == ({C: KEY_C}, 4)
    assert unit.raised == told(PREEMPTED, B)


@BOTH
@pytest.mark.parametrize("held", ONE_HOLDER)
@pytest.mark.parametrize("type_", [0, 15, WERO])
def test_preempt_zero_with_single_holder_refused(action: int, held: int, type_: int) -> None:
    """Key 0 and one holder: 05/26/00, TYPE unseen [SPC-4 table 72; PREEMPT row 4]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, held)
    for of in (A, B):
        reply = unit.out(of, action, unit.key(of), 0, type_=type_)
        assert_refused(reply, INVALID_FIELD_IN_LIST, field=(8, 7))
    assert unit.unchanged


@BOTH
@pytest.mark.parametrize("held", ONE_HOLDER)
@pytest.mark.parametrize("type_", TYPES)
def test_preempt_holder_takes_over(action: int, held: int, type_: int) -> None:
    """The holder's key: sender holds, with its type [SPC-4 5.13.11.2.4.3; PREEMPT row 5]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_A, d=KEY_D).hold(A, held)
    assert_good(unit.out(B, action, KEY_B, KEY_A, type_=type_))
    assert unit.keys == {B: KEY_B, D: KEY_D}
    assert unit.reservation == (type_, None if type_ in ALL_REGISTRANTS else B)
    changed = told(RELEASED, D) if type_ != held else set()
    assert (unit.generation, unit.raised) == (5, told(PREEMPTED, A, C) | changed)


@BOTH
@pytest.mark.parametrize("held", ONE_HOLDER)
def test_preempt_holder_with_whom_sender_shares_key_survives(action: int, held: int) -> None:
    """A sender that shares the holder's key survives [SPC-4 5.13.11.2.4.3 b); PREEMPT row 5]"""
    unit = Unit().enter(a=KEY_A, b=KEY_A, c=KEY_C).hold(A, held)
    assert_good(unit.out(B, action, KEY_A, KEY_A, type_=held))
    assert (unit.keys, unit.reservation) == ({B: KEY_A, C: KEY_C}, (held, B))
    assert unit.raised == told(PREEMPTED, A)


@BOTH
@pytest.mark.parametrize("held", ONE_HOLDER)
@pytest.mark.parametrize("type_", TYPES)
def test_preempt_own_reservation_renews_it(action: int, held: int, type_: int) -> None:
    """The holder preempts itself: stays, retypes [SPC-4 5.13.11.2.4.3; PREEMPT row 6]"""
    unit = Unit().enter(a=KEY_A, b=KEY_A, c=KEY_C).hold(A, held)
    assert_good(unit.out(A, action, KEY_A, KEY_A, type_=type_))
    assert unit.keys == {A: KEY_A, C: KEY_C}
    assert unit.reservation == (type_, None if type_ in ALL_REGISTRANTS else A)
    changed = told(RELEASED, C) if type_ != held else set()
    assert (unit.generation, unit.raised) == (4, told(PREEMPTED, B) | changed)


@BOTH
def test_preempt_follows_current_key_of_holder(action: int) -> None:
    """The key that counts is the one that the holder has now [SPC-4 5.13.7; PREEMPT row 5]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_A).hold(A, WE)
    unit.out(A, REGISTER, KEY_A, KEY_D)
    assert_good(unit.out(B, action, KEY_B, KEY_A, type_=WE))
    assert (unit.keys, unit.reservation) == ({A: KEY_D, B: KEY_B}, (WE, A))
    assert_good(unit.out(B, action, KEY_B, KEY_D, type_=WE))
    assert (unit.keys, unit.reservation) == ({B: KEY_B}, (WE, B))


@BOTH
@pytest.mark.parametrize("held", ONE_HOLDER)
@pytest.mark.parametrize(("scope", "type_"), [(0, 0), (15, 15), (0, EA)])
def test_preempt_other_key_only_removes_registrations(
    action: int, held: int, scope: int, type_: int
) -> None:
    """Another key: registrations go, TYPE unseen [SPC-4 5.13.11.2.5 b); PREEMPT row 7]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_C).hold(A, held)
    assert_good(unit.out(B, action, KEY_B, KEY_C, scope=scope, type_=type_))
    assert (unit.keys, unit.reservation) == ({A: KEY_A, B: KEY_B}, (held, A))
    assert (unit.generation, unit.raised) == (4, told(PREEMPTED, C))


@BOTH
@pytest.mark.parametrize("held", ONE_HOLDER)
def test_preempt_own_key_of_non_holder_removes_sender(action: int, held: int) -> None:
    """A non-holder's own key: it goes too, untold [SPC-4 5.13.11.2.5 d); PREEMPT row 7]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_B).hold(A, held)
    assert_good(unit.out(B, action, KEY_B, KEY_B, type_=held))
    assert (unit.keys, unit.reservation) == ({A: KEY_A}, (held, A))
    assert unit.raised == told(PREEMPTED, C)
    assert_good(unit.out(B, REGISTER_IGNORE, 0, KEY_B))


@BOTH
@pytest.mark.parametrize("held", ALL_REGISTRANTS)
@pytest.mark.parametrize("type_", TYPES)
def test_preempt_zero_all_registrants_leaves_only_sender(
    action: int, held: int, type_: int
) -> None:
    """All Registrants, key 0: all others out [SPC-4 5.13.11.2.4.3 b); PREEMPT row 8]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_C).hold(A, held)
    assert_good(unit.out(B, action, KEY_B, 0, type_=type_))
    assert unit.keys == {B: KEY_B}
    assert unit.reservation == (type_, None if type_ in ALL_REGISTRANTS else B)
    assert (unit.generation, unit.raised) == (4, told(PREEMPTED, A, C))


@BOTH
@pytest.mark.parametrize("held", ALL_REGISTRANTS)
@pytest.mark.parametrize("type_", [0, 15, WE])
def test_preempt_key_all_registrants_only_removes_registrations(
    action: int, held: int, type_: int
) -> None:
    """All Registrants, a key: registrations go, it stays [SPC-4 5.13.11.2.5; PREEMPT row 9]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_C).hold(A, held)
    assert_good(unit.out(B, action, KEY_B, KEY_A, type_=type_))
    assert (unit.keys, unit.reservation) == ({B: KEY_B, C: KEY_C}, (held, None))
    assert (unit.generation, unit.raised) == (4, told(PREEMPTED, A))


@BOTH
@pytest.mark.parametrize("held", ALL_REGISTRANTS)
def test_preempt_own_key_all_registrants_removes_sender(action: int, held: int) -> None:
    """All Registrants, own key: the sender goes too [SPC-4 5.13.11.2.5; PREEMPT row 9]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_B).hold(A, held)
    assert_good(unit.out(B, action, KEY_B, KEY_B, type_=held))
    assert (unit.keys, unit.reservation) == ({A: KEY_A}, (held, None))
    assert unit.raised == told(PREEMPTED, C)


@BOTH
@pytest.mark.parametrize("held", ALL_REGISTRANTS)
def test_preempt_last_registrants_releases_all_registrants(action: int, held: int) -> None:
    """All Registrants, nobody left: released [SPC-4 table 71; PREEMPT row 9]"""
    unit = Unit().enter(a=KEY_A, b=KEY_A).hold(A, held)
    assert_good(unit.out(B, action, KEY_A, KEY_A, type_=held))
    assert (unit.keys, unit.reservation) == ({}, None)
    assert unit.raised == told(PREEMPTED, A)


@BOTH
@pytest.mark.parametrize("type_", [0, 2, 4, 9, 15])
def test_preempt_bad_type_refused_where_a_reservation_results(action: int, type_: int) -> None:
    """TYPE counts in the rows that make a reservation [SPC-4 table 216; PREEMPT rows 5, 6, 8]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, WE)
    for of in (A, B):
        reply = unit.out(of, action, unit.key(of), KEY_A, type_=type_)
        assert_refused(reply, INVALID_FIELD_IN_CDB, cdb=(2, 3))
        assert unit.unchanged
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, EAAR)
    reply = unit.out(B, action, KEY_B, 0, type_=type_)
    assert_refused(reply, INVALID_FIELD_IN_CDB, cdb=(2, 3))
    assert unit.unchanged


@BOTH
@pytest.mark.parametrize("scope", [1, 2, 15])
def test_preempt_bad_scope_refused_where_a_reservation_results(action: int, scope: int) -> None:
    """SCOPE counts there as well [SPC-4 table 216; PREEMPT rows 5, 6, 8]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, WE)
    for of in (A, B):
        reply = unit.out(of, action, unit.key(of), KEY_A, scope=scope, type_=WE)
        assert_refused(reply, INVALID_FIELD_IN_CDB, cdb=(2, 7))
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, EAAR)
    reply = unit.out(B, action, KEY_B, 0, scope=scope, type_=WE)
    assert_refused(reply, INVALID_FIELD_IN_CDB, cdb=(2, 7))


@BOTH
@pytest.mark.parametrize("held", [None, *TYPES])
def test_preempt_by_unregistered_nexus_conflicts(action: int, held: int | None) -> None:
    """An unregistered nexus conflicts [SPC-4 5.13.7; table 66 PREEMPT]"""
    unit = Unit().enter(a=KEY_A)
    if held:
        unit.hold(A, held)
    for key in (0, KEY_A):
        assert_conflict(unit.out(D, action, key, KEY_A, type_=WE))
    assert unit.unchanged


@BOTH
@pytest.mark.parametrize("key", [0, KEY_A])
def test_preempt_wrong_key_conflicts(action: int, key: int) -> None:
    """RESERVATION KEY must be the sender's [SPC-4 6.16.3 RESERVATION KEY]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, WE)
    assert_conflict(unit.out(B, action, key, KEY_A, type_=WE))
    assert unit.unchanged


@BOTH
def test_preempt_ignores_other_fields(action: int) -> None:
    """APTPL and ALL_TG_PT are ignored [SPC-4 table 216; PREEMPT]"""
    unit = Unit(target_ports=(1, 2)).enter(a=KEY_A, b=KEY_B)
    assert_good(unit.out(A, action, KEY_A, KEY_B, aptpl=True, all_ports=True))
    assert (unit.keys, unit.state.aptpl) == ({A: KEY_A}, False)
