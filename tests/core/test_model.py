"""States that are made of others."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from flockpr.core.model import LogicalUnitState, Registration, Reservation
from flockpr.spc.codes import ReservationType
from tests.support.scsi import nexus
from tests.support.spc_strategies import QUIET
from tests.support.states import valid_states

_A, _B = nexus("a"), nexus("b")
_CHANGES: dict[str, Any] = {
    "generation": 7,
    "aptpl": True,
    "registered": {_B: Registration(_B, 2, 5), _A: Registration(_A, 1, 4)},
    "reservation": Reservation(ReservationType.WRITE_EXCLUSIVE, _A),
    "next_slot": 9,
}


@QUIET
@given(valid_states(), st.sets(st.sampled_from(sorted(_CHANGES))), st.booleans())
def test_state_having_something_else_keeps_all_the_rest(
    state: LogicalUnitState, names: set[str], looked_up: bool
) -> None:
    """As `attrs.evolve`, and its registrations are found by nexus as those of any state."""
    assert not looked_up or len(state.by_nexus) == len(state.registrations)
    changes = {name: _CHANGES[name] for name in names}
    after = state.having(**changes)
    registered = changes.pop("registered", None)
    if registered is not None:
        changes["registrations"] = tuple(registered.values())
    expected = attrs.evolve(state, **changes)
    assert after == expected
    assert list(after.by_nexus.items()) == list(expected.by_nexus.items())
    assert after.pending == expected.pending


def test_state_can_lose_its_reservation_and_its_registrations() -> None:
    """Nothing is not the same as no change."""
    held = Reservation(ReservationType.EXCLUSIVE_ACCESS, _A)
    state = LogicalUnitState(registrations=(Registration(_A, 1, 0),), reservation=held)
    after = state.having(registered={}, reservation=None)
    assert (after.registrations, after.by_nexus, after.reservation) == ((), {}, None)
