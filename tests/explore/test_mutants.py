"""The search can fail: each of these broken packages is noticed by going through schedules."""

from __future__ import annotations

import pytest

from tests.support.explore.mutants import HUNTS, Hunt
from tests.support.explore.search import Failed, Search
from tests.support.explore.story import shrink, tell

pytestmark = pytest.mark.timeout(900)  # many runs, on a machine that may be busy


@pytest.mark.parametrize("hunt", HUNTS, ids=lambda hunt: hunt.mutant.name)
def test_broken_package_is_noticed(hunt: Hunt) -> None:
    """By a schedule within the bounds that the sound one passes (see `test_schedules`), and by
    what the rule is there for.
    """
    with hunt.mutant.applied(), pytest.raises(Failed, match=hunt.breaks):
        Search(hunt.scenario, hunt.bounds).go()


def test_failing_schedule_is_shrunk_to_a_story() -> None:
    """What is left has no command and no departure too many, and can be read."""
    (hunt,) = (hunt for hunt in HUNTS if hunt.mutant.name == "no drain")
    with hunt.mutant.applied():
        with pytest.raises(Failed) as caught:
            Search(hunt.scenario, hunt.bounds).go()
        smallest = shrink(caught.value, hunt.bounds)
        story = tell(smallest.run)

    assert len(smallest.run.script) == 1
    assert {name: len(plays) for name, plays in smallest.run.scenario.tasks.items()} == {
        "A": 1,
        "B": 1,
    }
    assert "what A asks for takes long" in story
    assert "is asked: b: PR OUT" in story
    assert "gives back the permit" in story
    assert "was executed after it had lost access" in story
