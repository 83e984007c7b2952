"""Power cycles, resets and nexus loss (SPC-4 5.13.5)."""

from __future__ import annotations

import pytest

from flockpr.core.events import LogicalUnitReset, NexusLoss, PowerCycle
from flockpr.spc.codes import Attention
from tests.support.scsi import (
    ALL_REGISTRANTS,
    CLEAR,
    KEY_A,
    KEY_B,
    REGISTER,
    RESERVE_6,
    TEST_UNIT_READY,
    TYPES,
    WERO,
    WRITE_10,
    A,
    B,
    C,
    D,
    Unit,
    assert_attention,
    assert_conflict,
    assert_good,
    in_cdb,
)


def held(type_: int, *, aptpl: bool) -> Unit:
    """A holds, B is registered too."""
    unit = Unit()
    unit.out(A, REGISTER, 0, KEY_A, aptpl=aptpl)
    unit.out(B, REGISTER, 0, KEY_B, aptpl=aptpl)
    return unit.hold(A, type_)


@pytest.mark.parametrize("type_", TYPES)
def test_power_without_aptpl_loses_everything(type_: int) -> None:
    """APTPL 0: reservation and registrations are gone [SPC-4 5.13.5.1; APTPL=0]"""
    unit = held(type_, aptpl=False)
    unit.happen(PowerCycle())
    assert (unit.keys, unit.reservation, unit.generation) == ({}, None, 0)
    assert not unit.state.aptpl
    assert_good(unit.send(D, WRITE_10))


@pytest.mark.parametrize("type_", TYPES)
def test_power_with_aptpl_keeps_everything(type_: int) -> None:
    """APTPL 1: all kept, PRGENERATION is zero [SPC-4 5.13.5.1; APTPL=1]"""
    unit = held(type_, aptpl=True)
    unit.happen(PowerCycle())
    assert unit.keys == {A: KEY_A, B: KEY_B}
    assert unit.reservation == (type_, None if type_ in ALL_REGISTRANTS else A)
    assert (unit.generation, unit.state.aptpl) == (0, True)
    assert_conflict(unit.send(D, WRITE_10))


def test_power_last_aptpl_of_anybody_decides() -> None:
    """The last accepted APTPL decides for all [SPC-4 6.16.3; APTPL]"""
    unit = held(WERO, aptpl=True)
    unit.out(C, REGISTER, 0, 0, aptpl=False)
    unit.happen(PowerCycle())
    assert unit.keys == {}


def test_power_without_registrations_counts_too() -> None:
    """PRGENERATION is zero after power on in any case [SPC-4 6.15.2; PRGENERATION]"""
    unit = Unit().enter(a=KEY_A)
    unit.out(A, CLEAR, KEY_A)
    unit.happen(PowerCycle())
    assert (unit.generation, unit.state.power_cycles) == (0, 1)


@pytest.mark.parametrize("aptpl", [False, True])
def test_power_registered_nexuses_find_29_00(aptpl: bool) -> None:
    """Registered nexuses find 29/00, kept or not, and no 2A/xx [SPC-4 5.13.5.1; SAM-5 5.14]"""
    unit = held(WERO, aptpl=aptpl)
    unit.happen(PowerCycle())
    unit.epochs.clear()
    unit.report = True
    for of in (A, B):
        assert_attention(unit.send(of, TEST_UNIT_READY), Attention.POWER_ON)
        assert_good(unit.send(of, TEST_UNIT_READY))


def test_power_logged_in_nexuses_find_29_00() -> None:
    """A nexus that a door knows finds 29/00 once, registered or not [SAM-5 5.14; power on]"""
    unit = Unit(report=True)
    assert_good(unit.send(D, TEST_UNIT_READY))
    unit.happen(PowerCycle())
    assert_attention(unit.send(D, TEST_UNIT_READY), Attention.POWER_ON)
    assert_good(unit.send(D, TEST_UNIT_READY))


def test_power_registered_and_logged_in_nexus_finds_29_00_once() -> None:
    """Known to door and state, still told once [SAM-5 5.14; queueing]"""
    unit = Unit(report=True)
    unit.out(A, REGISTER, 0, KEY_A, aptpl=True)
    unit.happen(PowerCycle())
    assert_attention(unit.send(A, TEST_UNIT_READY), Attention.POWER_ON)
    assert_good(unit.send(A, TEST_UNIT_READY))


def test_power_new_nexus_finds_nothing() -> None:
    """A nexus that logs in afterwards finds none [SAM-5 5.14; power on]"""
    unit = Unit(report=True).enter(a=KEY_A)
    unit.happen(PowerCycle())
    assert_good(unit.send(D, TEST_UNIT_READY))


def test_power_drops_older_attentions() -> None:
    """What was pending is dropped, 29/00 stands for it [SAM-5 5.14; power on]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    unit.out(A, CLEAR, KEY_A)
    unit.happen(PowerCycle())
    unit.report = True
    assert_attention(unit.send(B, TEST_UNIT_READY), Attention.POWER_ON)
    assert_good(unit.send(B, TEST_UNIT_READY))


@pytest.mark.parametrize("aptpl", [False, True])
@pytest.mark.parametrize("type_", TYPES)
def test_reset_keeps_registrations_and_reservation(aptpl: bool, type_: int) -> None:
    """A reset changes neither, APTPL 0 too [SPC-4 5.13.1; logical unit reset]"""
    unit = held(type_, aptpl=aptpl)
    keys, reservation, generation = unit.keys, unit.reservation, unit.generation
    unit.happen(LogicalUnitReset())
    assert (unit.keys, unit.reservation, unit.generation) == (keys, reservation, generation)


def test_reset_tells_registered_nexuses() -> None:
    """Registered nexuses find 29/03 [SAM-5 5.14; logical unit reset]"""
    unit = held(WERO, aptpl=False)
    unit.happen(LogicalUnitReset())
    unit.report = True
    assert_attention(unit.send(B, TEST_UNIT_READY), Attention.LOGICAL_UNIT_RESET)
    assert_good(unit.send(B, TEST_UNIT_READY))


@pytest.mark.parametrize("type_", TYPES)
def test_nexus_loss_keeps_registrations_and_reservation(type_: int) -> None:
    """Logout or nexus loss changes neither, of the holder too [SPC-4 5.13.1; nexus loss]"""
    unit = held(type_, aptpl=False)
    unit.happen(NexusLoss(A))
    assert unit.unchanged


def test_power_drops_spc2_reservation_and_its_conflicts() -> None:
    """After power on PERSISTENT RESERVE IN works again [SPC-4 5.13.3; power on]"""
    unit = Unit()
    unit.send(A, RESERVE_6)
    unit.happen(PowerCycle())
    assert_good(unit.send(B, in_cdb(0)))


def test_generation_wraps_to_zero() -> None:
    """PRGENERATION is 32 bits and wraps [SPC-4 6.15.2; PRGENERATION]"""
    from attrs import evolve

    unit = Unit()
    unit.state = evolve(unit.state, generation=2**32 - 1)
    unit.enter(a=KEY_A)
    assert unit.generation == 0
