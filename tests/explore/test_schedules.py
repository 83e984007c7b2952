"""Two or three hosts, two or three things each: every schedule within bounds keeps the promises.

Nobody reads or writes who has lost access once that was answered GOOD; what was acknowledged
stays, what was refused never happened, an order of all commands explains every answer, and
when all is over everybody who lives works. The sound package passes here what notices the broken
ones in `test_mutants`.
"""

from __future__ import annotations

import pytest

from tests.support.explore.counts import count
from tests.support.explore.run import FAULTS
from tests.support.explore.scenario import Scenario
from tests.support.explore.scenarios import (
    IGNORE,
    ON_LINKS,
    ON_VIEWS,
    SCENARIOS,
    A,
    B,
    kinds_of,
)
from tests.support.explore.search import Bounds, Search

pytestmark = pytest.mark.timeout(900)  # many runs, on a machine that may be busy

each = pytest.mark.parametrize("name", list(SCENARIOS))


def _in_ci(name: str) -> tuple[str, ...]:
    """What goes wrong in the short runs."""
    scenario = SCENARIOS[name]
    if scenario.gated:
        return ("lease", "cut")
    return ("die", *ON_LINKS, *(ON_VIEWS if scenario.publishing else ()))


@each
def test_one_change_in_every_schedule_keeps_the_promises(name: str) -> None:
    """Somebody else goes on than usual, or an answer takes long, once."""
    assert count(name, Bounds(changes=1)) > 10


@each
def test_one_fault_in_every_schedule_keeps_the_promises(name: str) -> None:
    """A lease is lost, a host is cut off or dies, a LINK or RENAME loses its reply or is late."""
    search = Search(SCENARIOS[name], Bounds(changes=0, faults=1, kinds=_in_ci(name))).go()
    assert search.complete
    assert search.runs > 10


@pytest.mark.parametrize("kinds", [("die",), ("cut",), ("link late",)], ids="+".join)
def test_errands_that_are_late_or_never_done_break_no_promise(kinds: tuple[str, ...]) -> None:
    """A thread closes and removes what was written aside, while others commit and prune."""
    scenario = Scenario(
        "cleared away later",
        {
            "A": ((IGNORE, "a", 0, A), (IGNORE, "a", 0, B), (IGNORE, "a", 0, A)),
            "B": ((IGNORE, "b", 0, B), ("tidy",)),
        },
        gated=False,
        pruning=True,
        errands=True,
    )
    for bounds in (Bounds(changes=1), Bounds(changes=0, faults=1, kinds=kinds)):
        search = Search(scenario, bounds).go()
        assert search.complete
        assert search.runs > 10


def test_every_fault_happens_in_some_schedule() -> None:
    """Or a search that never makes one would prove nothing."""
    made: set[str] = set()
    for name in ("published by both", "preempted before it writes"):
        scenario = SCENARIOS[name]
        search = Search(
            scenario,
            Bounds(changes=0, faults=1, kinds=kinds_of(scenario)),
            each=lambda run: made.update(
                f"{run.events[number].request.name} {what}" if kind == "request" else kind
                for number, (kind, what) in run.script.items()
            ),
        )
        search.go()
    assert made == {*FAULTS, "land"}


@pytest.mark.sweep
@pytest.mark.timeout(0)
@each
def test_one_fault_of_any_kind_in_every_schedule_keeps_the_promises(name: str) -> None:
    """The figures of this and of those that follow are in docs/verification.md."""
    kinds = kinds_of(SCENARIOS[name])
    assert count(name, Bounds(changes=0, faults=1, kinds=kinds)) > 100


@pytest.mark.sweep
@pytest.mark.timeout(0)
@each
def test_two_changes_in_every_schedule_keep_the_promises(name: str) -> None:
    """Twice somebody else goes on than usual, or an answer takes long."""
    assert count(name, Bounds(changes=2)) > 100


@pytest.mark.sweep
@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name, scenario in SCENARIOS.items() for kind in kinds_of(scenario)],
)
def test_one_change_and_one_fault_in_every_schedule_keep_the_promises(name: str, kind: str) -> None:
    """A search for each kind of faults: there is one of them at the most in a schedule."""
    assert count(name, Bounds(changes=1, faults=1, kinds=(kind,)), kind) > 10
