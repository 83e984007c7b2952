"""PERSISTENT RESERVE OUT, REGISTER AND MOVE (SPC-4 5.13.8, table 70)."""

from __future__ import annotations

import pytest

from flockpr.core.model import Nexus
from flockpr.core.outcome import Reply
from tests.support.scsi import (
    ALL_REGISTRANTS,
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_LIST,
    KEY_A,
    KEY_B,
    KEY_C,
    MOVE,
    NO_RESOURCES,
    ONE_HOLDER,
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
    assert_refused,
    move_list,
    nexus,
    transport_id,
)


def move(
    unit: Unit,
    of: Nexus,
    key: int,
    sark: int,
    to: Nexus,
    *,
    unreg: bool = False,
    aptpl: bool = False,
    type_: int = 0,
    scope: int = 0,
) -> Reply:
    """Send REGISTER AND MOVE to the nexus `to`."""
    data = move_list(key, sark, transport_id(to), port=to.target_port, unreg=unreg, aptpl=aptpl)
    return unit.raw_out(of, MOVE, data, type_=type_, scope=scope)


@pytest.mark.parametrize("held", [None, *TYPES])
def test_move_by_unregistered_nexus_conflicts(held: int | None) -> None:
    """An unregistered nexus conflicts [SPC-4 table 70; row 1]"""
    unit = Unit().enter(a=KEY_A)
    if held:
        unit.hold(A, held)
    assert_conflict(move(unit, D, 0, KEY_C, C))
    assert_conflict(move(unit, D, KEY_A, KEY_C, C))


def test_move_nothing_held_refused() -> None:
    """No reservation: 05/24/00, whatever the list says [SPC-4 5.13.8; MOVE row 2]"""
    unit = Unit().enter(a=KEY_A)
    assert_refused(move(unit, A, KEY_A, KEY_C, C), INVALID_FIELD_IN_CDB)
    assert_refused(move(unit, A, KEY_A, 0, A), INVALID_FIELD_IN_CDB)
    assert_refused(move(unit, A, KEY_A, KEY_C, nexus("c", 9)), INVALID_FIELD_IN_CDB)
    bad = move_list(KEY_A, KEY_C, bytes(24), length=3)
    assert_refused(unit.raw_out(A, MOVE, bad), INVALID_FIELD_IN_CDB)
    assert unit.unchanged


def test_move_nothing_held_wrong_key_conflicts() -> None:
    """No reservation and a wrong key: conflict [SPC-4 6.16.3; MOVE row 2, ruling on order]"""
    unit = Unit().enter(a=KEY_A)
    assert_conflict(move(unit, A, KEY_B, KEY_C, C))


@pytest.mark.parametrize("held", ALL_REGISTRANTS)
@pytest.mark.parametrize("of", ["a", "b"])
def test_move_all_registrants_conflicts(held: int, of: str) -> None:
    """All Registrants reservations cannot be moved [SPC-4 5.13.8; MOVE row 3]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, held)
    sender = nexus(of)
    assert_conflict(move(unit, sender, unit.key(sender), KEY_C, C))
    assert unit.unchanged


@pytest.mark.parametrize("held", ONE_HOLDER)
@pytest.mark.parametrize("key", [0, KEY_A, KEY_B])
def test_move_by_registered_non_holder_conflicts(held: int, key: int) -> None:
    """A registered nexus that is no holder conflicts [SPC-4 table 70; row 5]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, held)
    assert_conflict(move(unit, B, key, KEY_C, C))
    assert unit.unchanged


@pytest.mark.parametrize("held", ONE_HOLDER)
@pytest.mark.parametrize("key", [0, KEY_B])
def test_move_wrong_key_conflicts(held: int, key: int) -> None:
    """The holder with a wrong key conflicts [SPC-4 table 70; row 2]"""
    unit = Unit().enter(a=KEY_A).hold(A, held)
    assert_conflict(move(unit, A, key, KEY_C, C))
    assert_conflict(move(unit, A, key, 0, C))


@pytest.mark.parametrize("held", ONE_HOLDER)
def test_move_zero_key_refused(held: int) -> None:
    """A zero key for the destination is refused [SPC-4 table 70; row 3]"""
    unit = Unit().enter(a=KEY_A).hold(A, held)
    assert_refused(move(unit, A, KEY_A, 0, C), INVALID_FIELD_IN_LIST, field=(8, 7))
    assert unit.unchanged


@pytest.mark.parametrize("port", [1, 2])
def test_move_to_own_initiator_port_refused(port: int) -> None:
    """The own initiator port is refused, at any target port [SPC-4 5.13.8; MOVE row 7]"""
    unit = Unit(target_ports=(1, 2)).enter(a=KEY_A).hold(A, WE)
    assert_refused(move(unit, A, KEY_A, KEY_C, nexus("a", port)), INVALID_FIELD_IN_LIST)
    assert unit.unchanged


@pytest.mark.parametrize("held", ONE_HOLDER)
def test_move_to_unregistered_port_registers_it(held: int) -> None:
    """The destination is registered and holds, type kept [SPC-4 table 70; row 4, UNREG=0]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, held)
    assert_good(move(unit, A, KEY_A, KEY_C, C, type_=WE if held != WE else 3))
    assert unit.keys == {A: KEY_A, B: KEY_B, C: KEY_C}
    assert (unit.reservation, unit.generation, unit.raised) == ((held, C), 3, set())


@pytest.mark.parametrize("held", ONE_HOLDER)
def test_move_to_registered_port_replaces_its_key(held: int) -> None:
    """A registered destination takes the new key [SPC-4 5.13.8; table 70 row 4]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, held)
    assert_good(move(unit, A, KEY_A, KEY_C, B))
    assert unit.keys == {A: KEY_A, B: KEY_C}
    assert (unit.reservation, unit.generation, unit.raised) == ((held, B), 3, set())


@pytest.mark.parametrize("held", ONE_HOLDER)
@pytest.mark.parametrize("to", ["b", "c"])
def test_move_with_unreg_removes_sender(held: int, to: str) -> None:
    """UNREG=1: the sender leaves after the move, nobody is told [SPC-4 table 70; row 4, UNREG=1]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, held)
    assert_good(move(unit, A, KEY_A, KEY_C, nexus(to), unreg=True))
    assert A not in unit.keys
    assert unit.keys[nexus(to)] == KEY_C
    assert (unit.reservation, unit.generation) == ((held, nexus(to)), 3)
    assert unit.raised == set()


def test_move_to_another_target_port() -> None:
    """TransportID and port number name the destination [SPC-4 6.16.4 RELATIVE TARGET PORT]"""
    unit = Unit(target_ports=(1, 7)).enter(a=KEY_A).hold(A, WE)
    assert_good(move(unit, A, KEY_A, KEY_C, nexus("c", 7)))
    assert unit.reservation == (WE, nexus("c", 7))


def test_move_to_port_with_isid() -> None:
    """A format 01b TransportID names one session's port [SPC-4 7.6.4.6; MOVE]"""
    unit = Unit().enter(a=KEY_A).hold(A, WE)
    to = nexus("c", isid=0x400001370000)
    assert_good(move(unit, A, KEY_A, KEY_C, to))
    assert unit.reservation == (WE, to)


@pytest.mark.parametrize("port", [0, 2, 65535])
def test_move_to_unknown_target_port_refused(port: int) -> None:
    """An unknown relative target port is refused [SPC-4 6.16.4 RELATIVE TARGET PORT]"""
    unit = Unit().enter(a=KEY_A).hold(A, WE)
    reply = move(unit, A, KEY_A, KEY_C, nexus("c", port))
    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(18, None))
    assert unit.unchanged


def test_move_beyond_capacity_refused() -> None:
    """No room for the destination: 05/55/04 [SPC-4 5.13.8]"""
    unit = Unit(limit=2).enter(a=KEY_A, b=KEY_B).hold(A, WE)
    assert_refused(move(unit, A, KEY_A, KEY_C, C), NO_RESOURCES)
    assert unit.unchanged
    assert_good(move(unit, A, KEY_A, KEY_C, B))


def test_move_takes_aptpl() -> None:
    """The APTPL bit of its own list is processed [SPC-4 5.13.8 a); 5.13.5.1]"""
    unit = Unit().enter(a=KEY_A).hold(A, WE)
    assert_good(move(unit, A, KEY_A, KEY_C, C, aptpl=True))
    assert unit.state.aptpl
    unit.out(A, REGISTER, KEY_A, KEY_A, aptpl=True)
    assert_good(move(unit, C, KEY_C, KEY_B, B))
    assert not unit.state.aptpl


def test_move_refused_leaves_aptpl() -> None:
    """A move that is refused leaves APTPL as it was [SPC-4 5.13.5.1]"""
    unit = Unit().enter(a=KEY_A)
    move(unit, A, KEY_A, KEY_C, C, aptpl=True)
    assert not unit.state.aptpl


@pytest.mark.parametrize(("scope", "type_"), [(0, 0), (15, 15), (0, 2)])
def test_move_ignores_scope_and_type(scope: int, type_: int) -> None:
    """SCOPE and TYPE are ignored, against table 216 [SPC-4 5.13.8 b)]"""
    unit = Unit().enter(a=KEY_A).hold(A, WE)
    assert_good(move(unit, A, KEY_A, KEY_C, C, scope=scope, type_=type_))
    assert unit.reservation == (WE, C)
