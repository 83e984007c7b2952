"""RESERVE and RELEASE of SPC-2 beside persistent reservations (SPC-4 5.13.3)."""

from __future__ import annotations

import attrs
import pytest

from flockpr.core.model import SLOTS
from flockpr.spc.codes import Status
from tests.support.scsi import (
    ALL_REGISTRANTS,
    KEY_A,
    KEY_B,
    REGISTER_IGNORE,
    REGISTRANTS_ONLY,
    RELEASE_6,
    RELEASE_10,
    RESERVE_6,
    RESERVE_10,
    TYPES,
    A,
    B,
    C,
    Unit,
    assert_conflict,
    assert_good,
)


@pytest.mark.parametrize(("take", "free"), [(RESERVE_6, RELEASE_6), (RESERVE_10, RELEASE_10)])
def test_reserve_is_first_come_until_released(take: bytes, free: bytes) -> None:
    """SPC-2 5.5.1: a repeated RESERVE is GOOD, another's conflicts, another's RELEASE is idle."""
    unit = Unit()

    assert_good(unit.send(A, take))
    assert_good(unit.send(A, take))
    assert unit.unchanged
    assert_conflict(unit.send(B, take))
    assert_good(unit.send(B, free))
    assert unit.unchanged
    assert_good(unit.send(A, free))
    assert unit.state.spc2 is None
    assert_good(unit.send(B, take))


def test_reserve_takes_the_next_slot_round_robin() -> None:
    """The byte range of the last holder is not taken for the next one."""
    unit = Unit()
    unit.state = attrs.evolve(unit.state, next_slot=SLOTS - 1)

    slots = []
    for of in (A, B):
        unit.send(of, RESERVE_6)
        assert unit.state.spc2 is not None
        slots.append(unit.state.spc2.slot)
        unit.send(of, RELEASE_6)
    assert (slots, unit.state.next_slot) == ([SLOTS - 1, 0], 1)


@pytest.mark.parametrize("cdb", [RESERVE_6, RELEASE_10])
@pytest.mark.parametrize("type_", [0, *TYPES])
def test_reserve_and_release_with_keys_are_good_only_for_the_privileged(
    cdb: bytes, type_: int
) -> None:
    """SPC-4 5.13.3: GOOD without effect for holders, and registrants under shared types."""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    if type_:
        unit.hold(A, type_)

    shared = type_ in REGISTRANTS_ONLY or type_ in ALL_REGISTRANTS
    good = {A: type_ != 0, B: shared, C: False}
    for of, expected in good.items():
        assert (unit.send(of, cdb).status == Status.GOOD) is expected
        assert unit.unchanged


def test_registering_after_the_release_works_again() -> None:
    """SPC-4 5.13.3: the two kinds exclude each other, one at a time."""
    unit = Unit()
    unit.send(A, RESERVE_6)
    assert_conflict(unit.out(B, REGISTER_IGNORE, 0, KEY_B))
    unit.send(A, RELEASE_6)

    assert_good(unit.out(B, REGISTER_IGNORE, 0, KEY_B))
    assert_conflict(unit.send(A, RESERVE_6))
