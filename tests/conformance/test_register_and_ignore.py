"""PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY: the rows of SPC-4 table 68."""

from __future__ import annotations

import pytest

from tests.support.scsi import (
    INVALID_FIELD_IN_LIST,
    KEY_A,
    KEY_B,
    KEY_C,
    NO_RESOURCES,
    REGISTER_IGNORE,
    TYPES,
    A,
    B,
    C,
    Unit,
    assert_good,
    assert_refused,
    transport_id,
)


@pytest.mark.parametrize("key", [0, KEY_B])
def test_ignore_nothing_to_register_counts_only(key: int) -> None:
    """An unregistered nexus with a zero new key: GOOD, counted [SPC-4 table 68; row 1]"""
    unit = Unit()
    assert_good(unit.out(A, REGISTER_IGNORE, key, 0, aptpl=True))
    assert (unit.keys, unit.generation, unit.state.aptpl) == ({}, 1, True)


@pytest.mark.parametrize("key", [0, KEY_B])
def test_ignore_new_key_registers_whatever_the_old_key_says(key: int) -> None:
    """An unregistered nexus is registered [SPC-4 table 68; row 2]"""
    unit = Unit()
    assert_good(unit.out(A, REGISTER_IGNORE, key, KEY_A))
    assert (unit.keys, unit.generation, unit.raised) == ({A: KEY_A}, 1, set())


@pytest.mark.parametrize("key", [0, KEY_A, KEY_B])
def test_ignore_registered_zero_unregisters_whatever_the_key(key: int) -> None:
    """A registered nexus with a zero new key is unregistered [SPC-4 table 68; row 3]"""
    unit = Unit().enter(a=KEY_A)
    assert_good(unit.out(A, REGISTER_IGNORE, key, 0))
    assert (unit.keys, unit.generation) == ({}, 2)


@pytest.mark.parametrize("key", [0, KEY_A, KEY_B])
@pytest.mark.parametrize("type_", TYPES)
def test_ignore_holder_changes_key_stays_holder(key: int, type_: int) -> None:
    """A registered nexus takes the new key, the holder stays it [SPC-4 table 68; row 4]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
    held = unit.reservation
    assert_good(unit.out(A, REGISTER_IGNORE, key, KEY_C))
    assert (unit.keys, unit.reservation) == ({A: KEY_C, B: KEY_B}, held)
    assert (unit.generation, unit.raised) == (3, set())


@pytest.mark.parametrize("type_", TYPES)
def test_ignore_under_reservation_of_another_is_good(type_: int) -> None:
    """Reservations never block it [SPC-4 5.13.7 a); table 66 REGISTER AND IGNORE]"""
    unit = Unit().enter(a=KEY_A).hold(A, type_)
    assert_good(unit.out(B, REGISTER_IGNORE, 0, KEY_B))
    assert unit.keys == {A: KEY_A, B: KEY_B}


@pytest.mark.parametrize("registered", [False, True])
def test_ignore_with_list_refused(registered: bool) -> None:
    """SPEC_I_PT is not for this service action [SPC-4 table 69; note a]"""
    unit = Unit()
    if registered:
        unit.enter(a=KEY_A)
    reply = unit.out(A, REGISTER_IGNORE, 0, KEY_A, ids=[transport_id(B)])
    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(20, 3))
    assert unit.unchanged


def test_ignore_beyond_capacity_refused() -> None:
    """No room for another registration: 05/55/04 [SPC-4 5.13.7]"""
    unit = Unit(limit=2).enter(a=KEY_A, b=KEY_B)
    assert_refused(unit.out(C, REGISTER_IGNORE, 0, KEY_C), NO_RESOURCES)
    assert unit.unchanged


@pytest.mark.parametrize(("scope", "type_"), [(0, 0), (15, 15), (1, 2)])
def test_ignore_ignores_scope_and_type(scope: int, type_: int) -> None:
    """SCOPE and TYPE are ignored [SPC-4 5.13.7 c); table 216 REGISTER AND IGNORE]"""
    assert_good(Unit().out(A, REGISTER_IGNORE, 0, KEY_A, scope=scope, type_=type_))
