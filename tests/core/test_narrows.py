"""What narrows access: no nexus and no command may lose it unnoticed."""

from __future__ import annotations

import itertools

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.core.access import allowed, narrows
from flockpr.core.events import Event, LogicalUnitReset, NexusLoss, PowerCycle, occur
from flockpr.core.model import (
    LogicalUnitState,
    Nexus,
    Registration,
    Reservation,
    Spc2Reservation,
)
from flockpr.spc.codes import ReservationType
from tests.support.access_rows import ACCESS_ROWS, cdb_of
from tests.support.scsi import A, B, C, nexus
from tests.support.states import reachable_states, valid_states

CDBS = [cdb_of(head) for _, head, _ in ACCESS_ROWS]
EVERYBODY = [A, B, C, nexus("never-named", 2)]


def by_force(before: LogicalUnitState, after: LogicalUnitState, who: list[Nexus]) -> bool:
    """Every nexus and every command of the standard's table, one by one."""
    return any(
        allowed(before, one, cdb) and not allowed(after, one, cdb) for one in who for cdb in CDBS
    )


def small_states() -> list[LogicalUnitState]:
    """Every state of up to two registrants, each type, each holder, each SPC-2 holder."""
    states = [LogicalUnitState()]
    states += [LogicalUnitState(spc2=Spc2Reservation(of, 0)) for of in (A, B, C)]
    for registered in ((A,), (B,), (A, B)):
        registrations = tuple(Registration(of, 1, slot) for slot, of in enumerate(registered))
        without = LogicalUnitState(registrations=registrations)
        states.append(without)
        for kind in ReservationType:
            holders = (None,) if kind.all_registrants else registered
            states += [attrs.evolve(without, reservation=Reservation(kind, of)) for of in holders]
    return states


SMALL = small_states()


def test_narrows_between_any_two_small_states_is_what_brute_force_finds() -> None:
    """SPC-4 table 65, SPC-2 table 9: all types, all standings, every command of the table."""
    found = {True: 0, False: 0}
    for before, after in itertools.product(SMALL, SMALL):
        expected = by_force(before, after, EVERYBODY)
        assert narrows(before, after) is expected, (before, after)
        found[expected] += 1
    assert min(found.values()) > 100


@given(valid_states() | reachable_states(), valid_states() | reachable_states())
def test_narrows_between_any_two_states_is_what_brute_force_finds(
    before: LogicalUnitState, after: LogicalUnitState
) -> None:
    """Also for states that no single command leads between."""
    who = [nexus("never-named", 2), *before.by_nexus, *after.by_nexus]
    who += [state.spc2.holder for state in (before, after) if state.spc2 is not None]

    assert narrows(before, after) is by_force(before, after, who)


@given(valid_states(), st.sampled_from(["power", "reset", "loss"]))
def test_narrows_by_an_event_never(state: LogicalUnitState, event: str) -> None:
    """SPC-4 5.13.5: power cycles, resets and lost nexuses only ever free reservations."""
    holder = A if state.spc2 is None else state.spc2.holder
    events: dict[str, Event] = {
        "power": PowerCycle(),
        "reset": LogicalUnitReset(),
        "loss": NexusLoss(holder),
    }

    assert not narrows(state, occur(state, events[event]).state)


@pytest.mark.parametrize("kind", ReservationType, ids=lambda kind: kind.name)
def test_narrows_by_losing_a_registration_goes_by_type(kind: ReservationType) -> None:
    """SPC-4 table 65: B's registration gave it access under the registrants types only."""
    holder = None if kind.all_registrants else A
    registrations = (Registration(A, 1, 0), Registration(B, 2, 1))
    before = LogicalUnitState(registrations=registrations, reservation=Reservation(kind, holder))
    after = attrs.evolve(before, registrations=registrations[:1])

    assert narrows(before, after) is (kind.registrants_only or kind.all_registrants)
    assert not narrows(after, before)
