"""The three REGISTER service actions: order of faults, all or nothing, what is kept."""

from __future__ import annotations

import pytest

from flockpr.core.model import LogicalUnitState
from flockpr.spc.codes import Status
from tests.support.scsi import (
    EA,
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_LIST,
    KEY_A,
    KEY_B,
    LIST_LENGTH,
    MOVE,
    NO_RESOURCES,
    REGISTER,
    REGISTER_IGNORE,
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
    iscsi_id,
    move_list,
    nexus,
    transport_id,
)

SAS = bytes((0x06,)) + bytes(23)
A2, B2 = nexus("a", 2), nexus("b", 2)


def test_register_of_1024_fits_and_the_next_is_refused_unchanged() -> None:
    """SPC-4 5.13.7: beyond the limit 05/55/04, and nothing changes."""
    unit = Unit()
    for number in range(1024):
        assert unit.out(nexus(f"n{number}"), REGISTER, 0, number + 1).status == Status.GOOD

    assert_refused(unit.out(A, REGISTER, 0, KEY_A), NO_RESOURCES)
    assert unit.unchanged
    assert_refused(unit.out(A, REGISTER_IGNORE, 0, KEY_A), NO_RESOURCES)
    assert (len(unit.keys), unit.generation) == (1024, 1024)
    assert len({r.slot for r in unit.state.registrations}) == 1024
    assert_good(unit.out(nexus("n5"), REGISTER, 6, 0))
    assert_good(unit.out(A, REGISTER, 0, KEY_A))


def test_register_of_1024_listed_ports_is_one_act() -> None:
    """SPC-4 5.13.7: SPEC_I_PT registers all or none, and counts once."""
    ids = [iscsi_id(f"iqn.2026-01.org.example:n{number}") for number in range(1023)]
    unit = Unit()

    assert_good(unit.out(A, REGISTER, 0, KEY_A, ids=ids))
    assert (len(unit.keys), unit.generation, set(unit.keys.values())) == (1024, 1, {KEY_A})
    full = Unit(limit=1023)
    assert_refused(full.out(A, REGISTER, 0, KEY_A, ids=ids), NO_RESOURCES)
    assert full.state == LogicalUnitState()


def test_register_with_a_list_takes_each_port_once() -> None:
    """The sender's own port and a repeated one count once."""
    unit = Unit()

    ids = [transport_id(of) for of in (B, A, B, C)]
    assert_good(unit.out(A, REGISTER, 0, KEY_A, ids=ids))
    assert list(unit.keys) == [A, B, C]


@pytest.mark.parametrize(
    ("ids", "byte"),
    [
        ([transport_id(C), transport_id(B)], 28 + len(transport_id(C))),
        ([transport_id(B), SAS], 28),
        ([SAS, transport_id(B)], 28),
        ([transport_id(C), SAS, b"\x85" + bytes(23)], 28 + len(transport_id(C))),
        ([transport_id(C), b"\x85" + bytes(23), SAS], 28 + len(transport_id(C))),
    ],
)
def test_register_with_a_faulty_list_points_to_its_first_fault(ids: list[bytes], byte: int) -> None:
    """SPC-4 6.16.3: registered already, another protocol or malformed, in order of the list."""
    unit = Unit().enter(b=KEY_B)

    reply = unit.out(A, REGISTER, 0, KEY_A, ids=ids)
    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(byte, None))
    assert unit.unchanged


def test_register_with_all_ports_registers_its_own_first() -> None:
    """SPC-4 5.13.7: ALL_TG_PT acts through each target port; a sibling's key is overwritten."""
    unit = Unit(target_ports=(1, 2)).enter(a=KEY_A)

    assert_good(unit.out(A2, REGISTER, 0, KEY_B, all_ports=True))
    assert unit.keys == {A: KEY_B, A2: KEY_B}
    assert all(r.all_target_ports for r in unit.state.registrations)
    assert_good(unit.out(A, REGISTER, KEY_B, KEY_A))
    assert unit.state.by_nexus[A].all_target_ports
    fresh = Unit(target_ports=(1, 2))
    fresh.out(A2, REGISTER, 0, KEY_B, all_ports=True)
    assert list(fresh.keys) == [A2, A]


def test_register_with_all_ports_finds_a_listed_port_at_any_of_them() -> None:
    """SPC-4 6.16.3: a listed port that is registered at one port refuses all."""
    unit = Unit(target_ports=(1, 2))
    unit.out(B2, REGISTER, 0, KEY_B)

    reply = unit.out(A, REGISTER, 0, KEY_A, all_ports=True, ids=[transport_id(B)])
    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(28, None))
    assert_good(unit.out(A, REGISTER, 0, KEY_A, ids=[transport_id(B)]))


def test_register_of_zero_with_all_ports_unregisters_them_all() -> None:
    """SPC-4 5.13.7: the sender's key decides for every port."""
    unit = Unit(target_ports=(1, 2)).enter(a=KEY_A)
    unit.out(A2, REGISTER, 0, KEY_B)

    assert_good(unit.out(A, REGISTER, KEY_A, 0, all_ports=True))
    assert (unit.keys, unit.generation) == ({}, 3)


@pytest.mark.parametrize(("aptpl", "action"), [(True, REGISTER), (False, REGISTER_IGNORE)])
def test_register_takes_aptpl_from_whoever_was_last(aptpl: bool, action: int) -> None:
    """SPC-4 5.13.5: one APTPL for the logical unit; a refused command leaves it."""
    unit = Unit()
    unit.out(A, REGISTER, 0, KEY_A, aptpl=not aptpl)

    assert_good(unit.out(B, action, 0, KEY_B, aptpl=aptpl))
    assert unit.state.aptpl is aptpl
    assert_conflict(unit.out(B, REGISTER, KEY_A, 7, aptpl=not aptpl))
    assert unit.state.aptpl is aptpl


@pytest.mark.parametrize("size", [24, 25, 27])
def test_register_of_nothing_ignores_a_short_spec_i_pt_list(size: int) -> None:
    """SPC-4 table 67: with nothing to do SPEC_I_PT is ignored, so 24 bytes are enough."""
    data = basic_list(spec=True).ljust(size, b"\0")

    assert_good(Unit().raw_out(A, REGISTER, data))
    assert_refused(Unit().raw_out(A, REGISTER, basic_list(0, 1, spec=True)), LIST_LENGTH)
    assert_refused(Unit().raw_out(A, REGISTER, data, length=40), LIST_LENGTH)


def test_register_of_nothing_ignores_faults_of_transport_ids() -> None:
    """SPC-4 table 67: whatever the other bits say."""
    unit = Unit()

    assert_good(unit.out(A, REGISTER, 0, 0, ids=[SAS, b"rubbish"], all_ports=True))
    assert unit.keys == {}


def test_register_ignoring_keys_refuses_spec_i_pt_with_nothing_to_do() -> None:
    """SPC-4 6.16.3: SPEC_I_PT belongs to REGISTER alone."""
    reply = Unit().out(A, REGISTER_IGNORE, 0, 0, ids=[])

    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(20, 3))


@pytest.mark.parametrize("ids", [[], [SAS], [transport_id(C)]])
def test_register_of_a_registered_nexus_refuses_spec_i_pt(ids: list[bytes]) -> None:
    """SPC-4 6.16.3: only who registers anew may list others; the length comes first."""
    unit = Unit().enter(a=KEY_A)

    for sark in (0, 7):
        reply = unit.out(A, REGISTER, KEY_A, sark, ids=ids)
        assert_refused(reply, INVALID_FIELD_IN_LIST, field=(20, 3))
        assert unit.unchanged
    assert_refused(unit.raw_out(A, REGISTER, basic_list(KEY_A, 7, spec=True)), LIST_LENGTH)


def test_move_keeps_the_place_of_a_known_destination() -> None:
    """SPC-4 5.13.8: the destination's key is replaced; UNREG removes the sender afterwards."""
    unit = Unit().enter(b=KEY_B, a=KEY_A).hold(A, WERO)
    slot = unit.state.by_nexus[B].slot

    data = move_list(KEY_A, 9, transport_id(B), unreg=True, aptpl=True)
    assert_good(unit.raw_out(A, MOVE, data, type_=15, scope=15))
    assert (unit.keys, unit.reservation) == ({B: 9}, (WERO, B))
    assert (unit.state.by_nexus[B].slot, unit.state.aptpl) == (slot, True)
    assert unit.raised == set()


def test_move_into_a_full_unit_is_refused_even_with_unreg() -> None:
    """SPC-4 5.13.8: the destination is registered before the sender leaves."""
    unit = Unit(limit=2).enter(a=KEY_A, b=KEY_B).hold(A, EA)

    reply = unit.raw_out(A, MOVE, move_list(KEY_A, 9, transport_id(C), unreg=True))
    assert_refused(reply, NO_RESOURCES)
    assert unit.unchanged
    assert_good(unit.raw_out(A, MOVE, move_list(KEY_A, 9, transport_id(B))))


@pytest.mark.parametrize(
    ("data", "byte"),
    [
        (move_list(KEY_A, 0, SAS, port=9, length=20), 8),
        (move_list(KEY_A, 9, SAS, port=9, length=20), 18),
        (move_list(KEY_A, 9, SAS, length=20), 20),
        (move_list(KEY_A, 9, SAS), 24),
        (move_list(KEY_A, 9, transport_id(A2), port=2), 24),
    ],
)
def test_move_with_several_faults_points_to_the_first(data: bytes, byte: int) -> None:
    """SPC-4 6.16.4: faults of the list in the order of their bytes."""
    unit = Unit(target_ports=(1, 2)).enter(a=KEY_A, b=KEY_B).hold(A, EA)

    assert_refused(unit.raw_out(A, MOVE, data[:23]), LIST_LENGTH)
    reply = unit.raw_out(A, MOVE, data)
    assert_refused(reply, INVALID_FIELD_IN_LIST)
    assert reply.sense is not None
    assert reply.sense.pointer is not None
    assert reply.sense.pointer.byte == byte
    assert unit.unchanged


def test_move_without_a_reservation_outranks_list_faults_but_not_a_wrong_key() -> None:
    """SPC-4 5.13.8: 05/24/00 when there is nothing to move."""
    unit = Unit().enter(a=KEY_A)

    assert_refused(unit.raw_out(A, MOVE, basic_list(KEY_A)[:16]), INVALID_FIELD_IN_CDB)
    assert_conflict(unit.raw_out(A, MOVE, basic_list(KEY_B)[:16]))


def test_move_by_who_may_not_is_a_conflict_without_looking_at_the_list() -> None:
    """SPC-4 table 66: non-holders, and anybody under an All Registrants type."""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, EA)
    assert_conflict(unit.raw_out(B, MOVE, b""))
    assert_conflict(unit.raw_out(D, MOVE, b""))

    shared = Unit().enter(a=KEY_A).hold(A, WEAR)
    assert_conflict(shared.raw_out(A, MOVE, b""))
