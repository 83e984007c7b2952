"""RESERVE and RELEASE of SPC-2 beside persistent reservations (SPC-4 5.13.3)."""

from __future__ import annotations

import pytest

from flockpr.core.events import LogicalUnitReset, NexusLoss, PowerCycle
from tests.support.access_rows import cdb_of
from tests.support.scsi import (
    INVALID_FIELD_IN_CDB,
    KEY_A,
    KEY_B,
    REGISTER,
    RELEASE_6,
    RELEASE_10,
    RESERVE_6,
    RESERVE_10,
    TYPES,
    A,
    B,
    C,
    D,
    Unit,
    assert_conflict,
    assert_good,
    assert_refused,
    in_cdb,
    nexus,
)

RESERVES = pytest.mark.parametrize("reserve", [RESERVE_6, RESERVE_10])
RELEASES = pytest.mark.parametrize("release", [RELEASE_6, RELEASE_10])


def reserved() -> Unit:
    """A unit that A has reserved the old way."""
    unit = Unit()
    assert_good(unit.send(A, RESERVE_6))
    assert unit.state.spc2 is not None
    return unit


@RESERVES
def test_spc2_reserve_free_unit_reserves(reserve: bytes) -> None:
    """Nothing registered, nothing reserved: the sender holds [SPC-2 RESERVE; cell free]"""
    unit = Unit()
    assert_good(unit.send(A, reserve))
    assert unit.state.spc2 is not None
    assert unit.state.spc2.holder == A
    assert (unit.generation, unit.raised) == (0, set())


@RESERVES
def test_spc2_reserve_again_by_holder_is_good(reserve: bytes) -> None:
    """The holder repeats it: GOOD [SPC-2 RESERVE; cell own]"""
    unit = reserved()
    assert_good(unit.send(A, reserve))
    assert unit.unchanged


@RESERVES
def test_spc2_reserve_held_by_another_conflicts(reserve: bytes) -> None:
    """Somebody else holds: conflict [SPC-2 RESERVE; cell other]"""
    unit = reserved()
    assert_conflict(unit.send(B, reserve))
    assert_conflict(unit.send(nexus("a", isid=1), reserve))
    assert unit.unchanged


@RELEASES
def test_spc2_release_by_holder_frees(release: bytes) -> None:
    """The holder frees it, whichever CDB reserved it [SPC-2 RELEASE; cell own]"""
    unit = reserved()
    assert_good(unit.send(A, release))
    assert (unit.state.spc2, unit.raised) == (None, set())
    assert_good(unit.send(B, RESERVE_10))


@RELEASES
def test_spc2_release_by_another_is_good_without_effect(release: bytes) -> None:
    """Somebody else: GOOD, no effect [SPC-2 RELEASE; cell other]"""
    unit = reserved()
    assert_good(unit.send(B, release))
    assert unit.unchanged


@RELEASES
def test_spc2_release_free_unit_is_good(release: bytes) -> None:
    """Nothing reserved: GOOD [SPC-2 RELEASE; cell free]"""
    unit = Unit()
    assert_good(unit.send(A, release))
    assert unit.unchanged


@pytest.mark.parametrize("cdb", [RESERVE_6, RESERVE_10, RELEASE_6, RELEASE_10])
@pytest.mark.parametrize("of", [A, B, D])
def test_spc2_beside_registrations_without_reservation_conflicts(cdb: bytes, of: object) -> None:
    """Keys but no reservation: conflict for all [SPC-4 5.13.3; cell keys registered]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    assert_conflict(unit.send(next(other for other in (A, B, D) if other is of), cdb))
    assert unit.unchanged


@pytest.mark.parametrize("cdb", [RESERVE_6, RESERVE_10, RELEASE_6, RELEASE_10])
@pytest.mark.parametrize("type_", TYPES)
def test_spc2_by_holder_of_persistent_reservation_has_no_effect(cdb: bytes, type_: int) -> None:
    """The holder: GOOD, nothing reserved or released [SPC-4 5.13.3 a); cell holder]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
    assert_good(unit.send(A, cdb))
    assert unit.unchanged


@pytest.mark.parametrize("cdb", [RESERVE_6, RESERVE_10, RELEASE_6, RELEASE_10])
@pytest.mark.parametrize("type_", [5, 6, 7, 8])
def test_spc2_by_registrant_of_shared_type_has_no_effect(cdb: bytes, type_: int) -> None:
    """Registered under RO or AR: GOOD, no effect [SPC-4 5.13.3 b); cell registrant]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
    assert_good(unit.send(B, cdb))
    assert unit.unchanged


@pytest.mark.parametrize("cdb", [RESERVE_6, RESERVE_10, RELEASE_6, RELEASE_10])
@pytest.mark.parametrize("type_", [1, 3])
def test_spc2_by_registered_non_holder_of_exclusive_type_conflicts(cdb: bytes, type_: int) -> None:
    """Registered, but WE or EA is another's: conflict [SPC-4 5.13.3; cell other]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
    assert_conflict(unit.send(B, cdb))
    assert unit.unchanged


@pytest.mark.parametrize("cdb", [RESERVE_6, RESERVE_10, RELEASE_6, RELEASE_10])
@pytest.mark.parametrize("type_", TYPES)
def test_spc2_by_stranger_beside_persistent_reservation_conflicts(cdb: bytes, type_: int) -> None:
    """Unregistered: conflict [SPC-4 5.13.3; cell other]"""
    unit = Unit().enter(a=KEY_A).hold(A, type_)
    assert_conflict(unit.send(D, cdb))
    assert unit.unchanged


@pytest.mark.parametrize("action", range(4))
@pytest.mark.parametrize("of", ["a", "b"])
def test_spc2_held_persistent_reserve_in_conflicts(action: int, of: str) -> None:
    """PERSISTENT RESERVE IN conflicts for all, the holder too [SPC-4 5.13.3; PR IN]"""
    assert_conflict(reserved().send(nexus(of), in_cdb(action)))


@pytest.mark.parametrize("action", range(8))
@pytest.mark.parametrize("of", ["a", "b"])
def test_spc2_held_persistent_reserve_out_conflicts(action: int, of: str) -> None:
    """PERSISTENT RESERVE OUT conflicts for all, the holder too [SPC-4 5.13.3; PR OUT]"""
    unit = reserved()
    assert_conflict(unit.out(nexus(of), action, 0, KEY_A))
    assert unit.unchanged


@pytest.mark.parametrize("cdb", [RESERVE_6, RESERVE_10, RELEASE_6, RELEASE_10])
@pytest.mark.parametrize("bits", [0x01, 0x10, 0x11])
def test_spc2_extent_and_third_party_refused(cdb: bytes, bits: int) -> None:
    """EXTENT and 3RDPTY are refused [SPC-2 RESERVE and RELEASE; EXTENT, 3RDPTY]"""
    unit = Unit()
    assert_refused(unit.send(A, bytes((cdb[0], bits)) + cdb[2:]), INVALID_FIELD_IN_CDB)
    assert unit.unchanged


PASSING = [
    *("12", "a0", "03", "4d", "25", "9e10", "a30a"),
    *("1b00000001", "1e00000000"),
]
STOPPED = [
    *("00", "08", "28", "2a", "1a", "5a", "15", "35", "42", "a30c", "84", "88", "8a"),
    *("1b00000000", "1b00000011", "1e00000001", "9e12", "c0"),
]


@pytest.mark.parametrize("head", PASSING)
def test_spc2_held_others_may_ask(head: str) -> None:
    """INQUIRY, READ CAPACITY and the like pass [SPC-2 5.5.1; exceptions]"""
    assert_good(reserved().send(B, cdb_of(head)))


@pytest.mark.parametrize("head", STOPPED)
def test_spc2_held_others_are_stopped(head: str) -> None:
    """All else conflicts for others, MODE SENSE too [SPC-2 5.5.1; RESERVE]"""
    assert_conflict(reserved().send(B, cdb_of(head)))


@pytest.mark.parametrize("head", [*PASSING, *STOPPED])
def test_spc2_held_holder_may_do_all(head: str) -> None:
    """The holder may do everything [SPC-2 5.5.1; RESERVE]"""
    assert_good(reserved().send(A, cdb_of(head)))


def test_spc2_reservation_dies_with_nexus_of_holder() -> None:
    """Logout or nexus loss of the holder frees it [SPC-2 5.5.1; nexus loss]"""
    unit = reserved()
    unit.happen(NexusLoss(B))
    assert unit.unchanged
    unit.happen(NexusLoss(A))
    assert (unit.state.spc2, unit.state.registrations) == (None, ())


def test_spc2_reservation_dies_with_reset() -> None:
    """A reset frees it, whoever holds it [SPC-2 5.5.1; reset]"""
    unit = reserved()
    unit.happen(LogicalUnitReset())
    assert unit.state.spc2 is None


def test_spc2_reservation_dies_with_power() -> None:
    """So does a power cycle [SPC-2 5.5.1; power on]"""
    unit = reserved()
    unit.happen(PowerCycle())
    assert unit.state.spc2 is None


def test_spc2_reservation_is_never_beside_a_registration() -> None:
    """Neither can be had while the other is there [SPC-4 5.13.3; exclusion]"""
    unit = reserved()
    assert_conflict(unit.out(A, REGISTER, 0, KEY_A))
    unit.send(A, RELEASE_6)
    unit.enter(c=KEY_A)
    assert_conflict(unit.send(C, RESERVE_6))
