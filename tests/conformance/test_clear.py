"""PERSISTENT RESERVE OUT, CLEAR (SPC-4 5.13.11.2.7)."""

from __future__ import annotations

import pytest

from flockpr.spc.codes import Attention
from tests.support.scsi import (
    CLEAR,
    KEY_A,
    KEY_B,
    KEY_C,
    REGISTER,
    TYPES,
    WE,
    A,
    B,
    C,
    D,
    Unit,
    assert_conflict,
    assert_good,
    told,
)


def test_clear_without_reservation_removes_registrations() -> None:
    """No reservation: all registrations go, others find 2A/03 [SPC-4 5.13.11.2.7; CLEAR]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_C)
    assert_good(unit.out(B, CLEAR, KEY_B))
    assert (unit.keys, unit.generation) == ({}, 4)
    assert unit.raised == told(Attention.RESERVATIONS_PREEMPTED, A, C)


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("sender", ["holder", "other"])
def test_clear_releases_whoever_holds(type_: int, sender: str) -> None:
    """Any registrant may clear any reservation [SPC-4 5.13.11.2.7; table 66 CLEAR]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
    of, victim = (A, B) if sender == "holder" else (B, A)
    assert_good(unit.out(of, CLEAR, unit.key(of)))
    assert (unit.keys, unit.reservation, unit.generation) == ({}, None, 3)
    assert unit.raised == told(Attention.RESERVATIONS_PREEMPTED, victim)
    assert unit.outcome.aborted == frozenset()


@pytest.mark.parametrize("held", [False, True])
def test_clear_by_unregistered_nexus_conflicts(held: bool) -> None:
    """An unregistered nexus conflicts [SPC-4 5.13.7; table 66 CLEAR]"""
    unit = Unit().enter(a=KEY_A)
    if held:
        unit.hold(A, WE)
    assert_conflict(unit.out(D, CLEAR, 0))
    assert_conflict(unit.out(D, CLEAR, KEY_A))


def test_clear_wrong_key_conflicts() -> None:
    """RESERVATION KEY must be the sender's [SPC-4 6.16.3 RESERVATION KEY]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    assert_conflict(unit.out(A, CLEAR, KEY_B))
    assert unit.unchanged


def test_clear_leaves_aptpl() -> None:
    """APTPL stays as it was [SPC-4 5.13.5.1; ruling on CLEAR]"""
    unit = Unit()
    unit.out(A, REGISTER, 0, KEY_A, aptpl=True)
    assert_good(unit.out(A, CLEAR, KEY_A))
    assert unit.state.aptpl


@pytest.mark.parametrize(("scope", "type_"), [(0, 0), (15, 15)])
def test_clear_ignores_other_fields(scope: int, type_: int) -> None:
    """SCOPE, TYPE, SARK, APTPL and ALL_TG_PT are ignored [SPC-4 table 216; CLEAR]"""
    unit = Unit().enter(a=KEY_A)
    reply = unit.out(A, CLEAR, KEY_A, KEY_C, scope=scope, type_=type_, aptpl=True, all_ports=True)
    assert_good(reply)
    assert not unit.state.aptpl
