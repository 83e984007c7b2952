"""Longer runs by chance: hosts are told what to do, step on, stall, are cut off, die, come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.explore.live import Live
from tests.support.explore.run import ON_LINKS
from tests.support.explore.scenario import Play, Scenario
from tests.support.explore.story import tell

pytestmark = pytest.mark.timeout(900)  # many runs, on a machine that may be busy

TASKS = ("A", "A2", "B", "B2", "C")
MOST_FAULTS = 3
_names = st.sampled_from("abc")
_keys = st.integers(1, 3)
_types = st.sampled_from((1, 3, 5, 6, 7, 8))
_commands: st.SearchStrategy[Play] = st.one_of(
    st.tuples(st.just(6), _names, st.just(0), _keys),
    st.tuples(st.just(6), _names, st.just(0), st.integers(0, 3)),
    st.tuples(st.just(1), _names, _keys, st.just(0), _types),
    st.tuples(st.sampled_from((2, 3)), _names, _keys, st.just(0), _types),
    st.tuples(st.sampled_from((4, 5)), _names, _keys, _keys, _types),
    st.tuples(st.just("keys"), _names),
    st.tuples(st.sampled_from(("spc2", "spc2 release")), _names),
    st.tuples(st.just("power cycle")),
)
_transfers: st.SearchStrategy[Play] = st.tuples(st.sampled_from(("write", "write", "read")), _names)
_upkeep: st.SearchStrategy[Play] = st.sampled_from((("tidy",), ("wait", 1.0)))
_tasks = st.sampled_from(TASKS)
_hosts = st.sampled_from("ABC")


class Hosts(RuleBasedStateMachine):
    """Three hosts, two of them with two sessions."""

    def __init__(self) -> None:
        super().__init__()
        self.live: Live | None = None
        self.faults = 0
        self.broken = False

    @initialize(
        gated=st.sampled_from((True, True, False)),
        pruning=st.booleans(),
        publishing=st.booleans(),
        forget=st.booleans(),
    )
    def begin(self, gated: bool, pruning: bool, publishing: bool, forget: bool) -> None:
        """Of what kind the logical unit and its file system are."""
        scenario = Scenario(
            "by chance",
            {},
            before=((6, "a", 0, 1), (6, "b", 0, 2), (1, "a", 1, 0)),
            gated=gated,
            pruning=pruning,
            publishing=publishing,
            forgetful=forget,
        )
        self.live = Live.of(scenario, TASKS)

    def _do(self, what: Callable[[Live], Any]) -> None:
        assert self.live is not None
        try:
            what(self.live)
        except AssertionError as error:
            self.broken = True
            self.live.error = error
            error.add_note(tell(self.live))
            raise

    @rule(task=_tasks, play=_commands, steps=st.integers(0, 12))
    def command(self, task: str, play: Play, steps: int) -> None:
        """Somebody is asked for something, and may begin with it."""
        self._do(lambda live: live.tell(task, play))
        self._do(lambda live: live.step(task, steps))

    @rule(task=_tasks, plays=st.lists(_transfers, min_size=1, max_size=3), steps=st.integers(0, 20))
    def transfer(self, task: str, plays: list[Play], steps: int) -> None:
        """Reads and writes."""
        assert self.live is not None
        if self.live.scenario.gated:
            for play in plays:
                self.command(task, play, 0)
            self._do(lambda live: live.step(task, steps))

    @rule(task=_tasks, play=_upkeep)
    def upkeep(self, task: str, play: Play) -> None:
        """A daemon publishes and prunes, or waits."""
        self._do(lambda live: live.tell(task, play))

    @rule(task=_tasks, steps=st.integers(1, 60))
    def go_on(self, task: str, steps: int) -> None:
        """Time passes."""
        self._do(lambda live: live.step(task, steps))

    @rule(task=_tasks)
    def stall(self, task: str) -> None:
        """What somebody asks the server for takes long."""
        self._do(lambda live: live.wrong("stall", task))

    @precondition(lambda self: self.faults < MOST_FAULTS)
    @rule(host=_hosts, kind=st.sampled_from(("lease", "cut", "hang", "die", "gone", "caches")))
    def fault(self, host: str, kind: str) -> None:
        """Of a host; one lives to the end."""
        assert self.live is not None
        if host in self.live.alive() and (len(self.live.alive()) > 1 or kind in ("lease", "cut")):
            self.faults += 1
            self._do(lambda live: live.wrong(kind, host))

    @precondition(lambda self: self.faults < MOST_FAULTS)
    @rule(host=_hosts, how=st.sampled_from(ON_LINKS))
    def trouble(self, host: str, how: str) -> None:
        """With the next LINK or RENAME of a host."""
        self.faults += 1
        self._do(lambda live: live.trouble(host, how))

    @rule(host=_hosts)
    def land(self, host: str) -> None:
        """A request that was on its way arrives."""
        self._do(lambda live: live.wrong("land", host))

    def teardown(self) -> None:
        """All do what they still have to, and everything must be in order."""
        if self.live is None:
            return
        try:
            if not self.broken:
                self._do(lambda live: live.finish())
        finally:
            self.live.end()


def test_runs_by_chance_keep_the_promises() -> None:
    """A few, the same each time: a failure here is one that a change has brought."""
    once = settings(
        max_examples=40, stateful_step_count=40, deadline=None, derandomize=True, database=None
    )
    run_state_machine_as_test(Hosts, settings=once)


def test_late_commit_is_not_taken_for_that_of_an_equal_command_after_it() -> None:
    """Found by chance: the first is told that nobody knows, the second that nothing was done."""
    hosts = Hosts()
    hosts.begin(gated=True, pruning=False, publishing=False, forget=False)
    hosts.trouble(host="A", how="late for good")
    hosts.command(play=(6, "a", 0, 1), steps=0, task="A")
    hosts.command(play=(6, "a", 0, 1), steps=0, task="A")
    hosts.teardown()


@pytest.mark.sweep
@pytest.mark.timeout(0)
def test_many_long_runs_by_chance_keep_the_promises() -> None:
    """Others each time."""
    often = settings(max_examples=5000, stateful_step_count=80, deadline=None)
    run_state_machine_as_test(Hosts, settings=often)
