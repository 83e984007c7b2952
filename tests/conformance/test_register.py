"""PERSISTENT RESERVE OUT, REGISTER: the rows of SPC-4 table 67, and what unregistering does."""

from __future__ import annotations

import pytest

from flockpr.spc.codes import Attention
from tests.support.scsi import (
    ALL_REGISTRANTS,
    INVALID_FIELD_IN_LIST,
    KEY_A,
    KEY_B,
    KEY_C,
    NO_RESOURCES,
    ONE_HOLDER,
    REGISTER,
    REGISTER_IGNORE,
    REGISTRANTS_ONLY,
    TYPES,
    WE,
    WERO,
    A,
    B,
    C,
    Unit,
    assert_conflict,
    assert_good,
    assert_refused,
    iscsi_id,
    nexus,
    told,
    transport_id,
)


def test_register_nothing_to_register_counts_only() -> None:
    """An unregistered nexus with two zero keys: GOOD, counted [SPC-4 table 67; row 1]"""
    unit = Unit()
    assert_good(unit.out(A, REGISTER, 0, 0))
    assert (unit.keys, unit.generation) == ({}, 1)


def test_register_nothing_to_register_takes_aptpl() -> None:
    """Even then the APTPL bit is processed [SPC-4 5.13.7 b); table 67 row 1]"""
    unit = Unit()
    unit.out(A, REGISTER, 0, 0, aptpl=True)
    assert unit.state.aptpl


@pytest.mark.parametrize("ids", [[], [b"no TransportID at all"], [transport_id(B)]])
def test_register_nothing_to_register_ignores_spec_i_pt(ids: list[bytes]) -> None:
    """SPEC_I_PT is ignored when there is nothing to register [SPC-4 table 67; row 1]"""
    unit = Unit()
    assert_good(unit.out(A, REGISTER, 0, 0, ids=ids, all_ports=True))
    assert unit.keys == {}


def test_register_new_key_registers_nexus() -> None:
    """RESERVATION KEY 0 and a new key register the nexus [SPC-4 table 67; row 2]"""
    unit = Unit()
    assert_good(unit.out(A, REGISTER, 0, KEY_A))
    assert (unit.keys, unit.generation, unit.raised) == ({A: KEY_A}, 1, set())


def test_register_listed_ports_registers_them_all() -> None:
    """SPEC_I_PT registers the sender and every listed port [SPC-4 table 67; row 3]"""
    unit = Unit()
    listed = nexus("b", isid=0x400001370000)
    assert_good(unit.out(A, REGISTER, 0, KEY_A, ids=[transport_id(listed), transport_id(C)]))
    assert unit.keys == {A: KEY_A, listed: KEY_A, C: KEY_A}
    assert (unit.generation, unit.raised) == (1, set())


@pytest.mark.parametrize("sark", [0, KEY_A])
@pytest.mark.parametrize("ids", [None, [transport_id(B)]])
def test_register_unregistered_with_key_conflicts(sark: int, ids: list[bytes] | None) -> None:
    """An unregistered nexus must give RESERVATION KEY 0 [SPC-4 table 67; row 4]"""
    unit = Unit()
    assert_conflict(unit.out(A, REGISTER, KEY_A, sark, ids=ids))
    assert unit.unchanged


@pytest.mark.parametrize("key", [0, KEY_B])
@pytest.mark.parametrize("sark", [0, KEY_C])
@pytest.mark.parametrize("ids", [None, []])
def test_register_wrong_key_conflicts(key: int, sark: int, ids: list[bytes] | None) -> None:
    """A registered nexus must give its own key, not another's [SPC-4 table 67; row 5]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    assert_conflict(unit.out(A, REGISTER, key, sark, ids=ids))
    assert unit.unchanged


@pytest.mark.parametrize("sark", [0, KEY_C])
def test_register_registered_with_list_refused(sark: int) -> None:
    """SPEC_I_PT from a registered nexus is refused [SPC-4 table 67; rows 7 and 9]"""
    unit = Unit().enter(a=KEY_A)
    reply = unit.out(A, REGISTER, KEY_A, sark, ids=[transport_id(B)])
    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(20, 3))
    assert unit.unchanged


@pytest.mark.parametrize("type_", TYPES)
def test_register_holder_changes_key_stays_holder(type_: int) -> None:
    """A change of key leaves the reservation alone [SPC-4 table 67; row 8]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
    held = unit.reservation
    assert_good(unit.out(A, REGISTER, KEY_A, KEY_C))
    assert (unit.keys, unit.reservation) == ({A: KEY_C, B: KEY_B}, held)
    assert (unit.generation, unit.raised) == (3, set())


def test_register_same_key_again_is_good() -> None:
    """Registering again with the same key is no error [SPC-4 5.13.7; table 67 row 8]"""
    unit = Unit().enter(a=KEY_A)
    assert_good(unit.out(A, REGISTER, KEY_A, KEY_A))
    assert (unit.keys, unit.generation) == ({A: KEY_A}, 2)


def test_register_zero_unregisters() -> None:
    """A zero SERVICE ACTION RESERVATION KEY unregisters [SPC-4 table 67; row 6]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    assert_good(unit.out(A, REGISTER, KEY_A, 0))
    assert (unit.keys, unit.generation, unit.raised) == ({B: KEY_B}, 3, set())


@pytest.mark.parametrize("type_", TYPES)
def test_register_under_reservation_of_another_is_good(type_: int) -> None:
    """Reservations never block a registration [SPC-4 5.13.7 a); table 66 REGISTER]"""
    unit = Unit().enter(a=KEY_A).hold(A, type_)
    assert_good(unit.out(B, REGISTER, 0, KEY_B))
    assert unit.keys == {A: KEY_A, B: KEY_B}


@pytest.mark.parametrize(("scope", "type_"), [(0, 0), (15, 15), (1, 2)])
def test_register_ignores_scope_and_type(scope: int, type_: int) -> None:
    """SCOPE and TYPE are ignored [SPC-4 5.13.7 c); table 216 REGISTER]"""
    assert_good(Unit().out(A, REGISTER, 0, KEY_A, scope=scope, type_=type_))


def test_register_one_key_on_many_nexuses_is_good() -> None:
    """One key may be registered by many nexuses [SPC-4 5.13.1 and 5.13.7]"""
    unit = Unit().enter(a=KEY_A, b=KEY_A)
    assert unit.keys == {A: KEY_A, B: KEY_A}
    unit.out(A, REGISTER, KEY_A, KEY_C)
    assert unit.keys == {A: KEY_C, B: KEY_A}


def test_register_identity_is_the_nexus() -> None:
    """Other ISIDs and other target ports are other nexuses [SPC-4 5.13.1 and 5.13.7]"""
    unit = Unit(target_ports=(1, 2))
    others = [nexus("a"), nexus("a", 2), nexus("a", isid=1), nexus("a", isid=2)]
    for number, other in enumerate(others, 1):
        assert_good(unit.out(other, REGISTER, 0, number))
    assert unit.keys == {other: number for number, other in enumerate(others, 1)}


def test_register_beyond_capacity_refused() -> None:
    """No room for another registration: 05/55/04, nothing changed [SPC-4 5.13.7]"""
    unit = Unit(limit=2).enter(a=KEY_A, b=KEY_B)
    assert_refused(unit.out(C, REGISTER, 0, KEY_C), NO_RESOURCES)
    assert unit.unchanged
    assert_good(unit.out(B, REGISTER, KEY_B, KEY_C))


def test_register_1024_nexuses_have_room() -> None:
    """1,024 registrations fit, one more does not [SPC-4 5.13.7]"""
    unit = Unit()
    for number in range(1024):
        assert_good(unit.out(nexus(f"n{number}"), REGISTER, 0, number + 1))
    assert_refused(unit.out(A, REGISTER, 0, KEY_A), NO_RESOURCES)
    assert len(unit.keys) == 1024


# ------------------------------------------------------------------ SPEC_I_PT


def test_register_list_with_one_registered_port_registers_nobody() -> None:
    """A listed port that is registered already: nobody is [SPC-4 table 67; note b]"""
    unit = Unit().enter(c=KEY_C)
    ids = [transport_id(B), transport_id(C)]
    reply = unit.out(A, REGISTER, 0, KEY_A, ids=ids)
    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(28 + len(ids[0]), None))
    assert unit.unchanged


def test_register_list_beyond_capacity_registers_nobody() -> None:
    """All or nothing also when there is no room for all of them [SPC-4 6.16.3 SPEC_I_PT]"""
    unit = Unit(limit=2)
    reply = unit.out(A, REGISTER, 0, KEY_A, ids=[transport_id(B), transport_id(C)])
    assert_refused(reply, NO_RESOURCES)
    assert unit.unchanged


def test_register_list_with_own_port_counts_it_once() -> None:
    """The sender's own port in the list counts once [SPC-4 6.16.3; ruling on the own port]"""
    unit = Unit(limit=2)
    assert_good(unit.out(A, REGISTER, 0, KEY_A, ids=[transport_id(A), transport_id(B)]))
    assert unit.keys == {A: KEY_A, B: KEY_A}


def test_register_list_with_port_twice_counts_it_once() -> None:
    """A port that is listed twice counts once [SPC-4 6.16.3; ruling on duplicates]"""
    unit = Unit(limit=2)
    assert_good(unit.out(A, REGISTER, 0, KEY_A, ids=[transport_id(B), transport_id(B)]))
    assert unit.keys == {A: KEY_A, B: KEY_A}


def test_register_empty_list_is_a_plain_register() -> None:
    """SPEC_I_PT with no TransportIDs registers the sender [SPC-4 6.16.3; ruling on empty lists]"""
    unit = Unit()
    assert_good(unit.out(A, REGISTER, 0, KEY_A, ids=[]))
    assert unit.keys == {A: KEY_A}


def test_register_listed_names_compare_without_case() -> None:
    """ISCSI names and ISID digits compare without regard to case [SPC-4 7.6.4.6]"""
    unit = Unit()
    unit.out(nexus("b", isid=0xABCDEF), REGISTER, 0, KEY_B)
    text = "IQN.2026-01.Org.Example:B,i,0x000000ABCDEF"
    reply = unit.out(A, REGISTER, 0, KEY_A, ids=[iscsi_id(text)])
    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(28, None))


def test_register_listed_ports_are_registered_at_the_same_target_port() -> None:
    """Listed ports are registered where the command came in [SPC-4 table 69; row 3]"""
    unit = Unit(target_ports=(1, 2))
    unit.out(nexus("a", 2), REGISTER, 0, KEY_A, ids=[transport_id(B)])
    assert unit.keys == {nexus("a", 2): KEY_A, nexus("b", 2): KEY_A}


# ------------------------------------------------------------------ ALL_TG_PT


@pytest.mark.parametrize("action", [REGISTER, REGISTER_IGNORE])
def test_register_all_target_ports_registers_each(action: int) -> None:
    """ALL_TG_PT registers at every target port, counted once [SPC-4 table 69; row 2]"""
    unit = Unit(target_ports=(1, 2, 3))
    assert_good(unit.out(A, action, 0, KEY_A, all_ports=True))
    assert unit.keys == {nexus("a", port): KEY_A for port in (1, 2, 3)}
    assert (unit.generation, unit.raised) == (1, set())


@pytest.mark.parametrize("action", [REGISTER, REGISTER_IGNORE])
def test_register_one_target_port_leaves_others_alone(action: int) -> None:
    """Without ALL_TG_PT only the port of the command is registered [SPC-4 table 69; row 1]"""
    unit = Unit(target_ports=(1, 2))
    assert_good(unit.out(A, action, 0, KEY_A))
    assert unit.keys == {A: KEY_A}


def test_register_listed_at_all_target_ports_registers_each() -> None:
    """SPEC_I_PT with ALL_TG_PT registers all ports at all ports [SPC-4 table 69; row 4]"""
    unit = Unit(target_ports=(1, 2))
    assert_good(unit.out(A, REGISTER, 0, KEY_A, ids=[transport_id(B)], all_ports=True))
    assert unit.keys == {nexus(name, port): KEY_A for name in "ab" for port in (1, 2)}


def test_register_listed_at_all_target_ports_one_registered_refused() -> None:
    """Then a listed port must be unregistered at all of them [SPC-4 tables 67 note b and 69]"""
    unit = Unit(target_ports=(1, 2))
    unit.out(nexus("b", 2), REGISTER, 0, KEY_B)
    reply = unit.out(A, REGISTER, 0, KEY_A, ids=[transport_id(B)], all_ports=True)
    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(28, None))
    assert unit.unchanged


@pytest.mark.parametrize("action", [REGISTER, REGISTER_IGNORE])
def test_register_all_target_ports_overwrites_other_keys(action: int) -> None:
    """A port with another key takes the new one [SPC-4 6.16.3 ALL_TG_PT; ruling on mismatch]"""
    unit = Unit(target_ports=(1, 2))
    unit.out(nexus("a", 2), REGISTER, 0, KEY_B)
    assert_good(unit.out(A, action, 0, KEY_A, all_ports=True))
    assert unit.keys == {A: KEY_A, nexus("a", 2): KEY_A}


@pytest.mark.parametrize("action", [REGISTER, REGISTER_IGNORE])
def test_register_all_target_ports_beyond_capacity_registers_none(action: int) -> None:
    """All target ports or none [SPC-4 5.13.7; 6.16.3 ALL_TG_PT]"""
    unit = Unit(target_ports=(1, 2), limit=1)
    assert_refused(unit.out(A, action, 0, KEY_A, all_ports=True), NO_RESOURCES)
    assert unit.unchanged


@pytest.mark.parametrize("action", [REGISTER, REGISTER_IGNORE])
def test_register_all_target_ports_zero_unregisters_each(action: int) -> None:
    """ALL_TG_PT with a zero key unregisters at every target port [SPC-4 6.16.3 ALL_TG_PT]"""
    unit = Unit(target_ports=(1, 2))
    unit.out(A, REGISTER, 0, KEY_A, all_ports=True)
    assert_good(unit.out(A, action, KEY_A, 0, all_ports=True))
    assert unit.keys == {}


def test_register_zero_without_all_target_ports_unregisters_one() -> None:
    """The bit need not be repeated to leave one port [SPC-4 6.16.3 ALL_TG_PT]"""
    unit = Unit(target_ports=(1, 2))
    unit.out(A, REGISTER, 0, KEY_A, all_ports=True)
    assert_good(unit.out(A, REGISTER, KEY_A, 0))
    assert unit.keys == {nexus("a", 2): KEY_A}


def test_register_all_target_ports_flag_outlives_change_of_key() -> None:
    """The flag stays through a change of key without it [SPC-4 6.15.5; ruling on ALL_TG_PT]"""
    unit = Unit()
    unit.out(A, REGISTER, 0, KEY_A, all_ports=True)
    unit.out(A, REGISTER, KEY_A, KEY_B)
    assert unit.state.by_nexus[A].all_target_ports


# ------------------------------------------------------------------ APTPL, unregistering


@pytest.mark.parametrize("action", [REGISTER, REGISTER_IGNORE])
def test_register_last_aptpl_counts_for_all(action: int) -> None:
    """The last accepted APTPL is the unit's, whoever sent it [SPC-4 5.13.5.1; 6.16.3 APTPL]"""
    unit = Unit()
    unit.out(A, action, 0, KEY_A, aptpl=True)
    assert unit.state.aptpl
    unit.out(B, action, 0, KEY_B)
    assert not unit.state.aptpl


@pytest.mark.parametrize("action", [REGISTER, REGISTER_IGNORE])
def test_register_unregistering_takes_aptpl_too(action: int) -> None:
    """APTPL of an unregistration is processed as well [SPC-4 5.13.7 b)]"""
    unit = Unit()
    unit.out(A, action, 0, KEY_A, aptpl=True)
    unit.out(A, action, KEY_A, 0)
    assert not unit.state.aptpl


def test_register_refused_leaves_aptpl() -> None:
    """A registration that is refused leaves APTPL as it was [SPC-4 5.13.5.1]"""
    unit = Unit(limit=1)
    unit.enter(a=KEY_A)
    unit.out(B, REGISTER, 0, KEY_B, aptpl=True)
    unit.out(B, REGISTER, KEY_B, KEY_B, aptpl=True)
    assert not unit.state.aptpl


@pytest.mark.parametrize("action", [REGISTER, REGISTER_IGNORE])
def test_unregister_without_reservation_only_leaves(action: int) -> None:
    """No reservation: the registration goes, nothing else [SPC-4 5.13.11.2.3; row 1]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    assert_good(unit.out(A, action, KEY_A, 0))
    assert (unit.keys, unit.raised) == ({B: KEY_B}, set())


@pytest.mark.parametrize("action", [REGISTER, REGISTER_IGNORE])
@pytest.mark.parametrize("type_", ONE_HOLDER)
def test_unregister_non_holder_leaves_reservation(action: int, type_: int) -> None:
    """A nexus that is no holder leaves the reservation alone [SPC-4 5.13.11.2.3; row 1]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
    assert_good(unit.out(B, action, KEY_B, 0))
    assert (unit.keys, unit.reservation, unit.raised) == ({A: KEY_A}, (type_, A), set())


@pytest.mark.parametrize("action", [REGISTER, REGISTER_IGNORE])
@pytest.mark.parametrize("type_", [1, 3])
def test_unregister_holder_of_exclusive_type_releases_silently(action: int, type_: int) -> None:
    """The holder of WE or EA leaves: released, nobody is told [SPC-4 5.13.11.2.3; row 2]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
    assert_good(unit.out(A, action, KEY_A, 0))
    assert (unit.keys, unit.reservation, unit.raised) == ({B: KEY_B}, None, set())


@pytest.mark.parametrize("action", [REGISTER, REGISTER_IGNORE])
@pytest.mark.parametrize("type_", REGISTRANTS_ONLY)
def test_unregister_holder_of_registrants_only_tells_others(action: int, type_: int) -> None:
    """The holder of WERO or EARO leaves: 2A/04 to the others [SPC-4 5.13.11.2.3; row 3]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_C).hold(A, type_)
    assert_good(unit.out(A, action, KEY_A, 0))
    assert (unit.keys, unit.reservation) == ({B: KEY_B, C: KEY_C}, None)
    assert unit.raised == told(Attention.RESERVATIONS_RELEASED, B, C)


@pytest.mark.parametrize("action", [REGISTER, REGISTER_IGNORE])
@pytest.mark.parametrize("type_", ALL_REGISTRANTS)
def test_unregister_all_registrants_not_the_last_keeps_it(action: int, type_: int) -> None:
    """All Registrants: who reserved may leave, it stays [SPC-4 5.13.11.2.3; row 4]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
    assert_good(unit.out(A, action, KEY_A, 0))
    assert (unit.keys, unit.reservation, unit.raised) == ({B: KEY_B}, (type_, None), set())


@pytest.mark.parametrize("action", [REGISTER, REGISTER_IGNORE])
@pytest.mark.parametrize("type_", ALL_REGISTRANTS)
def test_unregister_all_registrants_the_last_releases(action: int, type_: int) -> None:
    """All Registrants: released with the last registration [SPC-4 5.13.11.2.3; row 5]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
    unit.out(A, action, KEY_A, 0)
    assert_good(unit.out(B, action, KEY_B, 0))
    assert (unit.keys, unit.reservation, unit.raised) == ({}, None, set())


def test_unregister_holder_at_another_port_by_all_target_ports_releases() -> None:
    """With ALL_TG_PT the holder may be a sibling port [SPC-4 5.13.11.2.3; 6.16.3 ALL_TG_PT]"""
    unit = Unit(target_ports=(1, 2)).enter(b=KEY_B)
    sibling = nexus("a", 2)
    unit.out(A, REGISTER, 0, KEY_A, all_ports=True)
    unit.hold(sibling, WERO)
    assert_good(unit.out(A, REGISTER, KEY_A, 0, all_ports=True))
    assert (unit.keys, unit.reservation) == ({B: KEY_B}, None)
    assert unit.raised == told(Attention.RESERVATIONS_RELEASED, B)


def test_unregister_at_one_port_leaves_holder_at_another() -> None:
    """Leaving one port does not release what another port holds [SPC-4 5.13.11.2.3]"""
    unit = Unit(target_ports=(1, 2))
    unit.out(A, REGISTER, 0, KEY_A, all_ports=True)
    unit.hold(nexus("a", 2), WE)
    assert_good(unit.out(A, REGISTER, KEY_A, 0))
    assert unit.reservation == (WE, nexus("a", 2))
