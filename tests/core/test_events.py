"""Power cycles, resets and lost nexuses."""

from __future__ import annotations

import attrs
import pytest

from flockpr.core.events import (
    Adopted,
    Adoption,
    LogicalUnitReset,
    NexusLoss,
    PowerCycle,
    occur,
)
from flockpr.core.model import (
    LogicalUnitState,
    Nexus,
    PendingAttentions,
    Reservation,
    UnitConfig,
)
from flockpr.spc.codes import Attention, ReservationType, Status
from tests.support.scsi import (
    CLEAR,
    KEY_A,
    KEY_B,
    REGISTER,
    RESERVE_6,
    TEST_UNIT_READY,
    WE,
    WRITE_10,
    A,
    B,
    C,
    Unit,
    assert_attention,
    assert_conflict,
    assert_good,
    told,
)

POWER_ON = (Attention.POWER_ON,)


def unit_with(*, aptpl: bool) -> Unit:
    """A holds, B is registered, C has an attention pending."""
    unit = Unit(report=True)
    unit.out(C, REGISTER, 0, 3)
    unit.out(A, REGISTER, 0, KEY_A)
    unit.out(A, CLEAR, KEY_A)
    unit.out(A, REGISTER, 0, KEY_A)
    unit.out(B, REGISTER, 0, KEY_B, aptpl=aptpl)
    return unit.hold(A, WE)


@pytest.mark.parametrize("aptpl", [True, False])
def test_power_cycle_keeps_what_is_persistent_only_with_aptpl(aptpl: bool) -> None:
    """SPC-4 5.13.5: PRGENERATION is 0 either way, and all who are named find 29/00 alone."""
    unit = unit_with(aptpl=aptpl)

    unit.happen(PowerCycle())
    state = unit.state
    assert (unit.keys, unit.reservation) == (
        ({A: KEY_A, B: KEY_B}, (WE, A)) if aptpl else ({}, None)
    )
    assert (state.generation, state.aptpl) == (0, aptpl)
    assert (state.power_cycles, state.attention_epoch, state.overflowed) == (1, 1, False)
    assert state.pending == {A: POWER_ON, B: POWER_ON, C: POWER_ON}
    assert unit.raised == told(Attention.POWER_ON, A, B, C)
    assert state.next_slot == unit.before.next_slot


def test_power_cycle_is_told_once_to_registered_and_logged_in() -> None:
    """A queue entry and a missed epoch are one event."""
    unit = unit_with(aptpl=True)
    stranger = attrs.evolve(C, target_port=2)
    unit.send(stranger, TEST_UNIT_READY)
    unit.happen(PowerCycle())

    for of in (A, stranger):
        assert_attention(unit.send(of, TEST_UNIT_READY), Attention.POWER_ON)
        assert_good(unit.send(of, TEST_UNIT_READY))


def test_power_cycle_frees_a_spc2_reservation_and_tells_its_holder() -> None:
    """SPC-4 5.13.3; the holder's door may not live to remember it."""
    unit = Unit()
    unit.send(A, RESERVE_6)

    unit.happen(PowerCycle())
    assert unit.state.spc2 is None
    assert unit.state.pending == {A: POWER_ON}


def test_power_cycle_ends_an_overflow_unless_names_do_not_fit() -> None:
    """Registered nexuses come first; for the rest the flag speaks."""
    unit = Unit(pending=2).enter(a=KEY_A, b=KEY_B)
    unit.state = attrs.evolve(unit.state, overflowed=True, attention_epoch=5)
    unit.happen(PowerCycle())
    assert (unit.state.overflowed, unit.state.attention_epoch) == (False, 6)

    unit = Unit(pending=2).enter(a=KEY_A, b=KEY_B)
    unit.state = attrs.evolve(unit.state, attentions=(PendingAttentions(C, POWER_ON),))
    unit.happen(PowerCycle())
    assert list(unit.state.pending) == [A, B]
    assert unit.state.overflowed


def test_logical_unit_reset_frees_spc2_and_tells_its_holder() -> None:
    """SPC-2 5.5.1: the only trace of the lost reservation is 29/03."""
    unit = Unit()
    unit.send(A, RESERVE_6)

    unit.happen(LogicalUnitReset())
    assert unit.state.spc2 is None
    assert unit.raised == told(Attention.LOGICAL_UNIT_RESET, A)


def test_logical_unit_reset_leaves_what_is_persistent() -> None:
    """SPC-4 5.13.5: registrations, reservation and PRGENERATION stay, APTPL=0 too."""
    unit = unit_with(aptpl=False)

    unit.happen(LogicalUnitReset())
    assert attrs.evolve(unit.state, attentions=unit.before.attentions) == unit.before
    cleared = Attention.RESERVATIONS_PREEMPTED
    reset = Attention.LOGICAL_UNIT_RESET
    assert unit.state.pending == {A: (reset,), B: (reset,), C: (cleared, reset)}
    again = unit.state
    assert unit.happen(LogicalUnitReset()).state is again


def test_nexus_loss_frees_only_its_own_spc2_reservation() -> None:
    """SPC-4 5.13.5: a logout takes nothing else with it, and says nothing."""
    unit = Unit()
    unit.send(A, RESERVE_6)
    unit.happen(NexusLoss(B))
    assert unit.unchanged
    assert_conflict(unit.send(B, RESERVE_6))
    unit.happen(NexusLoss(A))
    assert (unit.state.spc2, unit.raised) == (None, set())

    held = unit_with(aptpl=False)
    held.happen(NexusLoss(A))
    assert held.unchanged


@pytest.mark.parametrize("event", [LogicalUnitReset(), NexusLoss(A)])
def test_event_on_an_untouched_unit_changes_nothing(event: LogicalUnitReset | NexusLoss) -> None:
    """An event without effect is no transaction; a power cycle always is one."""
    state = LogicalUnitState()

    assert occur(state, event).state is state
    assert occur(state, PowerCycle()).state.power_cycles == 1


ADOPTION = Adoption(
    (Adopted(A, KEY_A), Adopted(B, KEY_B, all_target_ports=True)),
    Reservation(ReservationType.WRITE_EXCLUSIVE, A),
    aptpl=True,
    generation=9,
)


def test_adoption_registers_and_reserves_at_once() -> None:
    """What another target had; nobody is told, for nobody lost anything here."""
    unit = Unit(report=True)
    unit.happen(ADOPTION)
    state = unit.state
    assert (unit.keys, unit.reservation) == ({A: KEY_A, B: KEY_B}, (WE, A))
    assert (state.generation, state.aptpl, state.attentions, unit.raised) == (9, True, (), set())
    assert [one.all_target_ports for one in state.registrations] == [False, True]
    assert len({one.slot for one in state.registrations}) == 2
    assert_conflict(unit.send(C, WRITE_10, bytes(512)))


def test_adoption_without_a_generation_counts_on() -> None:
    """PRGENERATION is 32 bits, and after the highest comes 0."""
    event = attrs.evolve(ADOPTION, generation=None)
    for before, after in ((4, 5), (0xFFFF_FFFF, 0)):
        state = LogicalUnitState(generation=before)
        assert occur(state, event).state.generation == after


@pytest.mark.parametrize(("before", "after"), [(8, 9), (9, 10), (0xFFFF_FFFF, 0)])
def test_adoption_never_lowers_nor_keeps_the_generation(before: int, after: int) -> None:
    """Registrations changed, and an initiator sees that by it."""
    assert occur(LogicalUnitState(generation=before), ADOPTION).state.generation == after


@pytest.mark.parametrize("begin", [(A, REGISTER, 0, KEY_A), (C, REGISTER, 0, 3)])
def test_adoption_where_somebody_is_registered_conflicts(
    begin: tuple[Nexus, int, int, int],
) -> None:
    """Nothing is overwritten, also what is the same."""
    unit = Unit()
    unit.out(*begin)
    outcome = occur(unit.state, ADOPTION)
    assert (outcome.state, outcome.reply.status) == (unit.state, Status.RESERVATION_CONFLICT)


def test_adoption_where_a_spc2_reservation_is_conflicts() -> None:
    """SPC-4 5.13.3: the two kinds do not stand beside each other."""
    unit = Unit()
    unit.send(C, RESERVE_6)
    assert occur(unit.state, ADOPTION).reply.status is Status.RESERVATION_CONFLICT


@pytest.mark.parametrize(
    ("event", "config"),
    [
        (attrs.evolve(ADOPTION, registrations=()), UnitConfig()),
        (attrs.evolve(ADOPTION, registrations=(Adopted(A, 0),)), UnitConfig()),
        (attrs.evolve(ADOPTION, registrations=(Adopted(B, 1),)), UnitConfig()),
        (attrs.evolve(ADOPTION, registrations=(Adopted(A, 1), Adopted(A, 1))), UnitConfig()),
        (attrs.evolve(ADOPTION, generation=1 << 32), UnitConfig()),
        (ADOPTION, UnitConfig(target_ports=(2,))),
        (ADOPTION, UnitConfig(max_registrations=1)),
    ],
)
def test_adoption_of_what_cannot_be_is_refused_whole(event: Adoption, config: UnitConfig) -> None:
    """No key, no such port, no room, a holder that is not registered: all or none."""
    state = LogicalUnitState()
    outcome = occur(state, event, config=config)
    assert outcome.state is state
    assert outcome.reply.status is Status.CHECK_CONDITION
