"""Registrations: order, slots and the limit."""

from __future__ import annotations

import attrs
import pytest

from flockpr.core.model import SLOTS, LogicalUnitState, Registration, Reservation
from flockpr.core.registry import enrol, free_slot, unregister, withdraw
from flockpr.spc.codes import Attention, ReservationType
from tests.support.scsi import A, B, C, D, nexus

THREE = LogicalUnitState(
    registrations=(Registration(A, 1, 7), Registration(B, 2, 8, True), Registration(C, 3, 9)),
    next_slot=10,
)


@pytest.mark.parametrize(
    ("used", "start", "slot"),
    [
        ((), 0, 0),
        ((), 5, 5),
        ((5, 6), 5, 7),
        ((4, 6), 5, 5),
        ((SLOTS - 1,), SLOTS - 1, 0),
        ((SLOTS - 1, 0, 1), SLOTS - 1, 2),
        ((), SLOTS, 0),
    ],
)
def test_free_slot_goes_round(used: tuple[int, ...], start: int, slot: int) -> None:
    """The lowest free number at or after the start, and after the last one the first."""
    assert free_slot(used, start) == slot


def test_enrol_of_a_newcomer_comes_last_and_moves_the_next_slot() -> None:
    """A slot is not given out again soon: its byte range may still be held for the last owner."""
    state = enrol(THREE, (D,), 4, all_target_ports=False, limit=8)

    assert state is not None
    assert state.registrations == (*THREE.registrations, Registration(D, 4, 10))
    assert state.next_slot == 11
    again = enrol(withdraw(state, (D,)), (D,), 4, all_target_ports=False, limit=8)
    assert again is not None
    assert again.by_nexus[D].slot == 11


def test_enrol_of_a_known_nexus_keeps_place_slot_and_flag() -> None:
    """A change of key is no new registration; ALL_TG_PT once set stays."""
    state = enrol(THREE, (A, B), 5, all_target_ports=False, limit=3)

    assert state is not None
    assert state.registrations[:2] == (Registration(A, 5, 7), Registration(B, 5, 8, True))
    assert state.next_slot == THREE.next_slot
    flagged = enrol(THREE, (A,), 1, all_target_ports=True, limit=3)
    assert flagged is not None
    assert flagged.by_nexus[A].all_target_ports


@pytest.mark.parametrize(("limit", "fits"), [(3, False), (4, False), (5, True)])
def test_enrol_beyond_the_limit_is_all_or_nothing(limit: int, fits: bool) -> None:
    """SPC-4 5.13.7: no room for one is no registration for any."""
    state = enrol(THREE, (D, nexus("e")), 4, all_target_ports=False, limit=limit)

    assert (state is not None) is fits


def test_enrol_of_two_skips_slots_in_use() -> None:
    """Slots are unique also among those given out by one command."""
    state = enrol(
        attrs.evolve(THREE, next_slot=6), (D, nexus("e")), 4, all_target_ports=False, limit=8
    )

    assert state is not None
    assert [r.slot for r in state.registrations] == [7, 8, 9, 6, 10]
    assert state.next_slot == 11


@pytest.mark.parametrize("kind", ReservationType)
def test_unregister_of_the_holder_releases_but_for_all_registrants(kind: ReservationType) -> None:
    """SPC-4 5.13.11.2: only the Registrants Only types tell the others."""
    holder = None if kind.all_registrants else A
    state = attrs.evolve(THREE, reservation=Reservation(kind, holder))

    after, raised = unregister(state, (A,))
    assert [r.nexus for r in after.registrations] == [B, C]
    assert (after.reservation is None) is (not kind.all_registrants)
    told = {(B, Attention.RESERVATIONS_RELEASED), (C, Attention.RESERVATIONS_RELEASED)}
    assert set(raised) == (told if kind.registrants_only else set())


def test_unregister_of_the_last_registrant_releases_all_registrants() -> None:
    """SPC-4 5.13.11.2: the reservation goes with the last of its holders, and nobody is told."""
    kind = ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS
    state = attrs.evolve(THREE, reservation=Reservation(kind, None))

    after, raised = unregister(state, (A, B, C))
    assert (after.registrations, after.reservation, raised) == ((), None, ())


def test_unregister_of_a_sibling_port_tells_only_who_is_left() -> None:
    """With ALL_TG_PT=1 who leaves in the same act is no survivor."""
    kind = ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY
    state = attrs.evolve(THREE, reservation=Reservation(kind, A))

    after, raised = unregister(state, (A, B))
    assert after.reservation is None
    assert raised == ((C, Attention.RESERVATIONS_RELEASED),)
