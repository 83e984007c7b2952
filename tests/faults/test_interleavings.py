"""Two daemons, two commands each: their system calls alternate in every way that there is.

Invariant: the chain is what the commands make it when applied one after the other, and every
reply fits a moment between its command and itself. Mostly without the order lock, which is
only a courtesy.
"""

from __future__ import annotations

import random

import pytest

from tests.support.interleave import (
    PLAYS,
    SPC2,
    Plays,
    by_chance,
    interleave,
    one_preemption,
    two_preemptions,
)
from tests.support.simtime import preempting

ALL: dict[str, tuple[Plays, bool]] = {
    **{name: (plays, True) for name, plays in PLAYS.items()},
    "spc2 and spc2": (SPC2, False),
}
each = pytest.mark.parametrize("name", list(ALL))


def points_of(name: str, *, order: bool = False, forgetful: bool = False) -> int:
    """Between how many calls the daemons can alternate."""
    plays, keys = ALL[name]
    never = preempting(frozenset())
    return interleave(plays, never, order=order, forgetful=forgetful, keys=keys)


@each
def test_one_change_at_any_call_leaves_replies_and_chain_consistent(name: str) -> None:
    """Every schedule with one preemption."""
    plays, keys = ALL[name]
    for choose in one_preemption(points_of(name)):
        interleave(plays, choose, keys=keys)


@each
@pytest.mark.parametrize("order", [False, True], ids=["no lock", "order lock"])
@pytest.mark.parametrize("forgetful", [False, True], ids=["coherent", "name caches"])
def test_changes_by_chance_leave_replies_and_chain_consistent(
    name: str, order: bool, forgetful: bool
) -> None:
    """Two preemptions anywhere, or many."""
    plays, keys = ALL[name]
    points = points_of(name, order=order, forgetful=forgetful)
    rng = random.Random(f"{name} {order} {forgetful}")
    chosen = [preempting(frozenset(rng.sample(range(1, points + 1), 2))) for _ in range(8)]
    for choose in (*chosen, *(by_chance(rng, change) for change in (0.05, 0.2, 0.5))):
        interleave(plays, choose, order=order, forgetful=forgetful, keys=keys)


@each
def test_errands_at_any_time_leave_replies_and_chain_consistent(name: str) -> None:
    """What was written aside is closed and removed while others commit and prune, or much later."""
    plays, keys = ALL[name]
    never = preempting(frozenset())
    points = interleave(plays, never, forgetful=True, keys=keys, errands=True)
    rng = random.Random(name)
    schedules = list(one_preemption(points))
    some = rng.sample(schedules, min(len(schedules), 60))
    for choose in (*some, *(by_chance(rng, change) for change in (0.05, 0.1, 0.2, 0.3, 0.5))):
        interleave(plays, choose, forgetful=True, keys=keys, errands=True)


@pytest.mark.sweep
@pytest.mark.timeout(7200)
@each
@pytest.mark.parametrize("forgetful", [False, True], ids=["coherent", "name caches"])
def test_two_changes_at_any_calls_leave_replies_and_chain_consistent(
    name: str, forgetful: bool
) -> None:
    """Every schedule with two preemptions, and a thousand by chance."""
    plays, keys = ALL[name]
    for choose in two_preemptions(points_of(name, forgetful=forgetful)):
        interleave(plays, choose, forgetful=forgetful, keys=keys)
    rng = random.Random(name)
    for number in range(1000):
        choose = by_chance(rng, rng.choice((0.02, 0.1, 0.3, 0.6)))
        even, errands = number % 2 == 0, forgetful and number % 3 == 0
        interleave(plays, choose, order=even, forgetful=forgetful, keys=keys, errands=errands)
