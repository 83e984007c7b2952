"""PERSISTENT RESERVE OUT, RELEASE (SPC-4 5.13.11.2.2)."""

from __future__ import annotations

import pytest

from flockpr.spc.codes import Attention
from tests.support.scsi import (
    ALL_REGISTRANTS,
    INVALID_FIELD_IN_CDB,
    INVALID_RELEASE,
    KEY_A,
    KEY_B,
    KEY_C,
    ONE_HOLDER,
    RELEASE,
    TYPES,
    WE,
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


@pytest.mark.parametrize("type_", TYPES)
def test_release_nothing_held_changes_nothing(type_: int) -> None:
    """No reservation: GOOD, no change [SPC-4 5.13.11.2.2; RELEASE row 1]"""
    unit = Unit().enter(a=KEY_A)
    assert_good(unit.out(A, RELEASE, KEY_A, type_=type_))
    assert unit.unchanged


@pytest.mark.parametrize("held", ONE_HOLDER)
@pytest.mark.parametrize("type_", TYPES)
def test_release_by_registered_non_holder_changes_nothing(held: int, type_: int) -> None:
    """A registered non-holder: GOOD, no change [SPC-4 5.13.11.2.2; RELEASE row 2]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, held)
    assert_good(unit.out(B, RELEASE, KEY_B, type_=type_))
    assert unit.unchanged


@pytest.mark.parametrize("held", TYPES)
@pytest.mark.parametrize("type_", TYPES)
def test_release_another_type_by_holder_refused(held: int, type_: int) -> None:
    """The holder names another type: 05/26/04 [SPC-4 5.13.11.2.2; RELEASE row 3]"""
    if held == type_:
        return
    unit = Unit().enter(a=KEY_A).hold(A, held)
    assert_refused(unit.out(A, RELEASE, KEY_A, type_=type_), INVALID_RELEASE)
    assert unit.unchanged


@pytest.mark.parametrize("type_", [1, 3])
def test_release_exclusive_type_tells_nobody(type_: int) -> None:
    """WE and EA: released, registrations stay, nobody is told [SPC-4 5.13.11.2.2; RELEASE row 4]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
    assert_good(unit.out(A, RELEASE, KEY_A, type_=type_))
    assert (unit.keys, unit.reservation) == ({A: KEY_A, B: KEY_B}, None)
    assert (unit.generation, unit.raised) == (2, set())


@pytest.mark.parametrize("type_", [5, 6, 7, 8])
def test_release_shared_type_tells_other_registrants(type_: int) -> None:
    """RO and AR types: 2A/04 to every other registrant [SPC-4 5.13.11.2.2 c); RELEASE row 5]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_C).hold(A, type_)
    assert_good(unit.out(A, RELEASE, KEY_A, type_=type_))
    assert (unit.reservation, unit.generation, len(unit.keys)) == (None, 3, 3)
    assert unit.raised == told(Attention.RESERVATIONS_RELEASED, B, C)


@pytest.mark.parametrize("type_", ALL_REGISTRANTS)
def test_release_all_registrants_by_another_registrant_releases(type_: int) -> None:
    """All Registrants: any registrant releases it [SPC-4 5.13.10; RELEASE row 5]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
    assert_good(unit.out(B, RELEASE, KEY_B, type_=type_))
    assert unit.reservation is None
    assert unit.raised == told(Attention.RESERVATIONS_RELEASED, A)


@pytest.mark.parametrize("type_", TYPES)
def test_release_by_unregistered_nexus_conflicts(type_: int) -> None:
    """An unregistered nexus conflicts even if nothing is held [SPC-4 5.13.7; table 66]"""
    unit = Unit().enter(a=KEY_A)
    assert_conflict(unit.out(D, RELEASE, 0, type_=type_))
    unit.hold(A, type_)
    assert_conflict(unit.out(D, RELEASE, KEY_A, type_=type_))


@pytest.mark.parametrize("held", [None, *ONE_HOLDER])
def test_release_wrong_key_conflicts(held: int | None) -> None:
    """A wrong key conflicts also where it would change nothing [SPC-4 6.16.3 RESERVATION KEY]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    if held:
        unit.hold(A, held)
    for of in (A, B):
        assert_conflict(unit.out(of, RELEASE, KEY_C, type_=held or WE))
    assert unit.unchanged


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("of", [A, B])
@pytest.mark.parametrize("type_", [0, 2, 4, 9, 15])
def test_release_bad_type_refused(held: bool, of: object, type_: int) -> None:
    """An obsolete or reserved TYPE is refused, holder or not [SPC-4 6.15.3.4; RELEASE]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    if held:
        unit.hold(A, WE)
    sender = A if of is A else B
    reply = unit.out(sender, RELEASE, unit.key(sender), type_=type_)
    assert_refused(reply, INVALID_FIELD_IN_CDB, cdb=(2, 3))
    assert unit.unchanged


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("scope", [1, 2, 3, 15])
def test_release_bad_scope_refused(held: bool, scope: int) -> None:
    """So is a SCOPE other than LU_SCOPE [SPC-4 6.15.3.3; RELEASE]"""
    unit = Unit().enter(a=KEY_A)
    if held:
        unit.hold(A, WE)
    reply = unit.out(A, RELEASE, KEY_A, scope=scope, type_=WE)
    assert_refused(reply, INVALID_FIELD_IN_CDB, cdb=(2, 7))
    assert unit.unchanged


def test_release_ignores_other_fields() -> None:
    """SARK, APTPL and ALL_TG_PT are ignored [SPC-4 table 216; RELEASE]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_C).hold(A, WE)
    assert_good(unit.out(A, RELEASE, KEY_A, KEY_B, type_=WE, aptpl=True, all_ports=True))
    assert (unit.keys, unit.state.aptpl) == ({A: KEY_A, B: KEY_B, C: KEY_C}, False)
