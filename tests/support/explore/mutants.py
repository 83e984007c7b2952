"""What is broken on purpose, and the search that must notice.

Some mutants are those of the stores and the gates; here they are found without a scene that was
made for them, by going through schedules. Others leave out rules that only several hosts need.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import attrs

from flockpr.gate import places
from flockpr.gate.rounds import Rounds
from flockpr.gate.stake import Stake
from tests.support import gate_mutants, store_mutants
from tests.support.explore.scenario import Scenario
from tests.support.explore.scenarios import ON_LINKS, SCENARIOS
from tests.support.explore.search import Bounds
from tests.support.store_mutants import Mutant


class Applicable(Protocol):
    """Something that breaks the package for a while."""

    @property
    def name(self) -> str:
        """What is broken."""

    def applied(self) -> AbstractContextManager[None]:
        """The package with it."""


@attrs.frozen
class Both:
    """Two rules left out, each of which makes up for the other."""

    one: Applicable
    other: Applicable

    @property
    def name(self) -> str:
        """What is broken."""
        return f"{self.one.name}, and {self.other.name}"

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The package without both."""
        with self.one.applied(), self.other.applied():
            yield


@attrs.frozen
class Hunt:
    """A mutant, and where it is found.

    Attributes:
        mutant: The mutant.
        where: Name of the scenario.
        bounds: Of the search.
        breaks: What it is that does not hold without it, as a pattern: another thing that fails
            proves nothing about the rule that was left out.
    """

    mutant: Applicable
    where: str
    bounds: Bounds
    breaks: str

    @property
    def scenario(self) -> Scenario:
        """The scenario."""
        return SCENARIOS[self.where]


_OLD: dict[str, Applicable] = {
    mutant.name: mutant for mutant in (*store_mutants.MUTANTS, *gate_mutants.MUTANTS)
}
_LATE_WRITE = r"^a write of a was executed after it had lost access by commit \d+, .* GOOD$"
_TWICE = r"^transaction \d+ was committed twice$"
_STALE = r"status=<Status.GOOD: 0>.* fits no moment"
_STUCK = "^nobody gets anywhere$"  # by a state that is never the newest no commit succeeds
_UNREADABLE = "^READ KEYS at last is CHECK CONDITION"
_DENIED = r"status=<Status.{}: \d+>.* although transaction"
_COMES_LATE = r"^transaction \d+ landed after a later command was answered without it$"
_UNPROVEN = _OLD["permit believed"]
_WRITES = "preempted while it writes"
_EARLY = "preempted before it writes"
_CHANGED = "preempted by one whose key is changed meanwhile"

HUNTS: tuple[Hunt, ...] = (
    # ------------------------------------------------------------------ the chain
    Hunt(_OLD["rename as the commit"], "both register", Bounds(1), _TWICE),
    Hunt(_OLD["stale-cache head: no directory revalidation"], "both register", Bounds(1), _STALE),
    Hunt(_OLD["no base check after link"], "pruned by one", Bounds(1), _UNREADABLE),
    Hunt(_OLD["phantom successor followed"], "pruned by one", Bounds(2), _STALE),
    Hunt(
        _OLD["publish read for a decision"],
        "published by both",
        Bounds(1, 1, ("rename late",)),
        _STUCK,
    ),
    Hunt(_OLD["BUSY after link"], "both register", Bounds(0, 1, ON_LINKS), _DENIED.format("BUSY")),
    Hunt(
        _OLD["any failure of link taken for a refusal"],
        "both register",
        Bounds(0, 1, ON_LINKS),
        _DENIED.format("CHECK_CONDITION"),
    ),
    Hunt(
        _OLD["unsettled transaction forgotten"],
        "both register",
        Bounds(0, 1, ON_LINKS),
        _COMES_LATE,
    ),
    # ------------------------------------------------------------------ the gate
    Hunt(_OLD["no drain"], _WRITES, Bounds(1), _LATE_WRITE),
    Hunt(_OLD["state not read again"], _WRITES, Bounds(1), _LATE_WRITE),
    Hunt(_OLD["permit on another description"], _WRITES, Bounds(0, 1, ("cut@A",)), _LATE_WRITE),
    Hunt(Both(_OLD["permit not waited for"], _UNPROVEN), _WRITES, Bounds(1), _LATE_WRITE),
    Hunt(_OLD["permit believed"], _EARLY, Bounds(1, 1, ("cut@B",)), _LATE_WRITE),
    Hunt(_OLD["answered before the proof"], _EARLY, Bounds(1, 1, ("cut@B",)), _LATE_WRITE),
    Hunt(_OLD["not decided again"], _CHANGED, Bounds(1), _STUCK),
    Hunt(_OLD["committed without the gate"], _WRITES, Bounds(1), _LATE_WRITE),
    # ------------------------------------------------------------------ its rules for many hosts
    Hunt(
        Mutant(
            "only some of the permits taken",
            places,
            "all_permits_but",
            "if start < end:",
            "if ranges and start < end:",
            (),
        ),
        _WRITES,
        Bounds(1),
        _LATE_WRITE,
    ),
    Hunt(
        Both(
            Mutant(
                "a silent host not waited for",
                Rounds,
                "obtain",
                "while not self._round():",
                "if not self._round() and False:",
                (),
            ),
            _UNPROVEN,
        ),
        _WRITES,
        Bounds(1),
        _LATE_WRITE,
    ),
    Hunt(
        Mutant(
            "a silent host left out like a fenced one",
            Rounds,
            "_take",
            "self._leave_out(self._fences.look())",
            "self._leave_out(self._in_the_way())",
            (),
        ),
        _WRITES,
        Bounds(1),
        _LATE_WRITE,
    ),
    Hunt(
        Mutant(
            "a fenced target serves",
            Stake,
            "take",
            "fenced.check(self._root, self._host, self._sys)",
            "pass",
            (),
        ),
        "declared fenced, and alive",
        Bounds(1),
        _LATE_WRITE,
    ),
)
