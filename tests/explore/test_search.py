"""The search leaves out only what comes to the same, and finds the same each time."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from flockpr.gate import watch
from tests.support.explore.run import Choice, Run, number_of
from tests.support.explore.scenarios import SCENARIOS
from tests.support.explore.search import Bounds, Search

pytestmark = pytest.mark.timeout(900)  # many runs, on a machine that may be busy

Outcome = tuple[object, ...]


def outcome(run: Run) -> Outcome:
    """What a schedule comes to, as its hosts and the chain see it."""
    share = run.share
    replies = tuple(
        sorted(
            (sent.daemon.unit._store.host, str(sent.command), str(sent.result))
            for sent in share.sent
        )
    )
    chain = tuple(share.truth[number].snapshot.state for number in sorted(share.truth))
    return replies, chain, tuple(share.writes), share.refused


def all_runs(name: str, bounds: Bounds, script: dict[int, Choice]) -> Iterator[Run]:
    """Every schedule within the bounds, with nothing left out."""
    run = Run(SCENARIOS[name], script, bounds.kinds if bounds.faults else ()).go()
    assert run.error is None
    yield run
    for number in range(max(script, default=-1) + 1, run.ends or 0):
        for choice in run.events[number].choices:
            left = bounds.after(choice)
            if left is not None:
                yield from all_runs(name, left, {**script, number: choice})


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("both register", Bounds(1)),
        ("both register", Bounds(0, 1, ("link late", "link lost reply"))),
        ("preempted while it writes", Bounds(1)),
        ("each preempts the other", Bounds(0, 1, ("lease", "die"))),
        pytest.param("both register", Bounds(2), marks=pytest.mark.sweep),
        pytest.param("each preempts the other", Bounds(2), marks=pytest.mark.sweep),
        pytest.param("preempted while it writes", Bounds(1, 1, ("cut",)), marks=pytest.mark.sweep),
    ],
    ids=str,
)
@pytest.mark.timeout(3600)
def test_search_comes_to_every_outcome_that_all_schedules_have(name: str, bounds: Bounds) -> None:
    """With a fraction of the runs."""
    found: set[Outcome] = set()

    def note(run: Run) -> None:
        if not run.known:
            found.add(outcome(run))

    search = Search(SCENARIOS[name], bounds, each=note).go()
    every = list(all_runs(name, bounds, {}))

    assert {outcome(run) for run in every} == found
    assert search.runs < len(every)


def test_search_is_the_same_each_time() -> None:
    """So a count in the documentation means something, and a story can be told again."""
    counts = [
        (search.runs, search.same, search.known, search.states, search.points)
        for search in (
            Search(SCENARIOS["preempted while it writes"], Bounds(1)).go() for _ in range(2)
        )
    ]
    assert counts[0] == counts[1]


def test_states_in_which_two_have_changed_places_have_other_numbers() -> None:
    """Else what follows from the one would be left out as that of the other."""
    dice = random.Random(1)
    for _ in range(200):
        one, two = dice.getrandbits(61), dice.getrandbits(61)
        assert number_of("A", one) + number_of("B", two) != number_of("A", two) + number_of(
            "B", one
        )


def test_schedule_played_again_is_the_same() -> None:
    """All of its steps."""
    scenario = SCENARIOS["each preempts the other"]
    first = Run(scenario, {}).go()
    script: dict[int, Choice] = {5: ("go", "B"), 20: ("stall", "A")}
    for again in (script, script):
        runs = [Run(scenario, again).go() for _ in range(2)]
        steps = [[(e.task, e.request, e.at) for e in run.events] for run in runs]
        assert steps[0] == steps[1]
        assert len(list(itertools.takewhile(lambda e: e.choice is None, runs[0].events))) == 5
    assert first.error is None


def test_threads_of_earlier_tests_take_no_part() -> None:
    """What they left to end by itself goes on in real time, with real threads and locks."""
    usual = Search(SCENARIOS["both register"], Bounds(1)).go()
    over, rounds = threading.Event(), 0
    package: Any = watch  # as its own code sees its globals

    def left_behind() -> None:
        nonlocal rounds
        seen = package.threading.Event()
        while not over.is_set():
            package.time.sleep(0.0001)
            with package._lock:
                package._watches.pop(("/", None), None)
            one = package.threading.Thread(target=seen.set)
            one.start()
            one.join()
            rounds += seen.wait(10)

    thread = threading.Thread(target=left_behind)
    thread.start()
    try:
        beside = Search(SCENARIOS["both register"], Bounds(1)).go()
    finally:
        over.set()
        thread.join(60)

    assert rounds
    assert (beside.runs, beside.points, beside.states) == (
        usual.runs,
        usual.points,
        usual.states,
    )
