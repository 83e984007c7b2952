"""PERSISTENT RESERVE OUT, RESERVE (SPC-4 5.13.9)."""

from __future__ import annotations

import pytest

from tests.support.scsi import (
    ALL_REGISTRANTS,
    INVALID_FIELD_IN_CDB,
    KEY_A,
    KEY_B,
    ONE_HOLDER,
    RESERVE,
    TYPES,
    WE,
    A,
    B,
    C,
    Unit,
    assert_conflict,
    assert_good,
    assert_refused,
)


@pytest.mark.parametrize("type_", ONE_HOLDER)
def test_reserve_free_unit_makes_sender_the_holder(type_: int) -> None:
    """No reservation: the sender becomes the holder [SPC-4 5.13.9; RESERVE row 1]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    assert_good(unit.out(A, RESERVE, KEY_A, type_=type_))
    assert (unit.reservation, unit.generation, unit.raised) == ((type_, A), 2, set())


@pytest.mark.parametrize("type_", ALL_REGISTRANTS)
def test_reserve_free_unit_all_registrants_has_no_single_holder(type_: int) -> None:
    """All Registrants: every registrant is a holder [SPC-4 5.13.10; RESERVE row 1]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    assert_good(unit.out(A, RESERVE, KEY_A, type_=type_))
    assert (unit.reservation, unit.generation, unit.raised) == ((type_, None), 2, set())


@pytest.mark.parametrize("type_", TYPES)
def test_reserve_again_by_holder_changes_nothing(type_: int) -> None:
    """The holder repeats it: GOOD, no change [SPC-4 5.13.9; RESERVE row 2]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
    assert_good(unit.out(A, RESERVE, KEY_A, type_=type_))
    assert unit.unchanged


@pytest.mark.parametrize("type_", ALL_REGISTRANTS)
def test_reserve_all_registrants_by_another_registrant_changes_nothing(type_: int) -> None:
    """All Registrants: any registrant may repeat it [SPC-4 5.13.10; RESERVE row 2]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
    assert_good(unit.out(B, RESERVE, KEY_B, type_=type_))
    assert unit.unchanged


@pytest.mark.parametrize("held", TYPES)
@pytest.mark.parametrize("wanted", TYPES)
def test_reserve_another_type_by_holder_conflicts(held: int, wanted: int) -> None:
    """The holder asks for another type: conflict [SPC-4 5.13.9; RESERVE row 3]"""
    if held == wanted:
        return
    unit = Unit().enter(a=KEY_A).hold(A, held)
    assert_conflict(unit.out(A, RESERVE, KEY_A, type_=wanted))
    assert unit.unchanged


@pytest.mark.parametrize("held", ALL_REGISTRANTS)
@pytest.mark.parametrize("wanted", TYPES)
def test_reserve_another_type_by_another_registrant_conflicts(held: int, wanted: int) -> None:
    """All Registrants: so does any other registrant [SPC-4 5.13.9; RESERVE row 3]"""
    if held == wanted:
        return
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, held)
    assert_conflict(unit.out(B, RESERVE, KEY_B, type_=wanted))


@pytest.mark.parametrize("held", ONE_HOLDER)
@pytest.mark.parametrize("wanted", TYPES)
def test_reserve_by_registered_non_holder_conflicts(held: int, wanted: int) -> None:
    """Somebody else holds it: conflict, whatever the type [SPC-4 5.13.9; RESERVE row 4]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, held)
    assert_conflict(unit.out(B, RESERVE, KEY_B, type_=wanted))
    assert unit.unchanged


@pytest.mark.parametrize("type_", TYPES)
def test_reserve_by_unregistered_nexus_conflicts(type_: int) -> None:
    """An unregistered nexus conflicts even if nothing is reserved [SPC-4 5.13.7; table 66]"""
    unit = Unit().enter(a=KEY_A)
    assert_conflict(unit.out(C, RESERVE, 0, type_=type_))
    unit.hold(A, WE)
    assert_conflict(unit.out(C, RESERVE, KEY_A, type_=type_))


@pytest.mark.parametrize("key", [0, KEY_B])
def test_reserve_wrong_key_conflicts(key: int) -> None:
    """RESERVATION KEY must be the sender's [SPC-4 6.16.3 RESERVATION KEY]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    assert_conflict(unit.out(A, RESERVE, key, type_=WE))
    assert unit.unchanged


@pytest.mark.parametrize("type_", [0, 2, 4, *range(9, 16)])
def test_reserve_free_unit_bad_type_refused(type_: int) -> None:
    """An obsolete or reserved TYPE is refused [SPC-4 6.15.3.4; RESERVE row 5]"""
    unit = Unit().enter(a=KEY_A)
    reply = unit.out(A, RESERVE, KEY_A, type_=type_)
    assert_refused(reply, INVALID_FIELD_IN_CDB, cdb=(2, 3))
    assert unit.unchanged


@pytest.mark.parametrize("scope", [1, 2, *range(3, 16)])
def test_reserve_free_unit_bad_scope_refused(scope: int) -> None:
    """A SCOPE other than LU_SCOPE is refused [SPC-4 6.15.3.3; RESERVE row 5]"""
    unit = Unit().enter(a=KEY_A)
    reply = unit.out(A, RESERVE, KEY_A, scope=scope, type_=WE)
    assert_refused(reply, INVALID_FIELD_IN_CDB, cdb=(2, 7))
    assert unit.unchanged


@pytest.mark.parametrize(("scope", "type_"), [(0, 0), (0, 15), (1, WE)])
def test_reserve_held_unit_bad_type_conflicts(scope: int, type_: int) -> None:
    """Conflict outranks a bad TYPE or SCOPE, for the holder too [SPC-4 5.13.9; RESERVE row 5]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, WE)
    assert_conflict(unit.out(A, RESERVE, KEY_A, scope=scope, type_=type_))
    assert_conflict(unit.out(B, RESERVE, KEY_B, scope=scope, type_=type_))


def test_reserve_ignores_other_fields() -> None:
    """SARK, APTPL and ALL_TG_PT are ignored [SPC-4 table 216; RESERVE]"""
    unit = Unit(target_ports=(1, 2)).enter(a=KEY_A)
    assert_good(unit.out(A, RESERVE, KEY_A, KEY_B, type_=WE, aptpl=True, all_ports=True))
    assert (unit.keys, unit.state.aptpl, unit.generation) == ({A: KEY_A}, False, 1)
