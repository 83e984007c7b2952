"""What the hosts of the explored schedules do: two or three of them, two or three things each."""

from __future__ import annotations

from typing import Final

import attrs

from tests.support.explore.run import FAULTS
from tests.support.explore.scenario import Play, Scenario
from tests.support.explore.search import Bounds

REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, ABORT, IGNORE = range(7)
A, B, C = 0xA, 0xB, 0xC

_BOTH: tuple[Play, ...] = ((IGNORE, "a", 0, A), (IGNORE, "b", 0, B))
_HELD: tuple[Play, ...] = (*_BOTH, (RESERVE, "a", A, 0))
"""A and B are registered, and A holds a reservation that lets registrants write."""

ON_HOSTS: Final = ("lease", "cut", "hang", "die", "gone")
ON_LINKS: Final = tuple(kind for kind in FAULTS if kind.startswith("link"))
ON_VIEWS: Final = tuple(kind for kind in FAULTS if kind.startswith("rename"))

_SCENARIOS = (
    # ------------------------------------------------------------------ with targets
    Scenario(
        "preempted while it writes",
        {
            "A": (("write", "a"), ("wait", 1.0), ("write", "a")),
            "B": ((PREEMPT, "b", B, A),),
        },
        before=_HELD,
    ),
    Scenario(
        "preempted before it writes",
        {"A": (("wait", 0.5), ("write", "a")), "B": ((PREEMPT, "b", B, A),)},
        before=_HELD,
    ),
    Scenario(
        "each preempts the other",
        {
            "A": ((PREEMPT, "a", A, B), ("write", "a")),
            "B": ((PREEMPT, "b", B, A), ("write", "b")),
        },
        before=_HELD,
    ),
    Scenario(
        "preempted by one whose key is changed meanwhile",
        {
            "A": (("write", "a"), ("write", "a")),
            "B": ((PREEMPT, "b", B, A),),
            "C": ((IGNORE, "b", 0, C), ("keys", "c")),
        },
        before=_HELD,
    ),
    Scenario(
        "reserved while another writes",
        {
            "A": ((RESERVE, "a", A, 0, 1), ("write", "a"), (RELEASE, "a", A, 0, 1)),
            "B": (("write", "b"), ("read", "b"), ("write", "b")),
        },
        before=_BOTH,
    ),
    Scenario(
        "preempted in its own process",
        {
            "A": (("write", "a"), ("write", "a")),
            "A2": ((PREEMPT, "b", B, A),),
            "B": (("write", "b"), ("keys", "b")),
        },
        before=_HELD,
    ),
    Scenario(
        "preempted, repeated and aborted",
        {
            "A": (("write", "a"), ("write", "a")),
            "B": ((PREEMPT, "b", B, A), (ABORT, "b", B, A)),
            "C": (("read", "a"), ("write", "a")),
        },
        before=_HELD,
    ),
    Scenario(
        "unregistered while it writes, exclusively",
        {
            "A": ((IGNORE, "a", 0, 0), (IGNORE, "a", 0, A)),
            "B": (("read", "b"), ("write", "a"), ("read", "a")),
        },
        before=(*_BOTH, (RESERVE, "b", B, 0, 6)),
    ),
    Scenario(
        "dead, declared fenced, and preempted",
        {
            "A": (("write", "a"), ("vanish",)),
            "B": (("wait", 1.0), (PREEMPT, "b", B, A), ("write", "b")),
            "C": (("wait", 2.0), ("fence", "A"), ("write", "b")),
        },
        before=_HELD,
        lease=None,
    ),
    Scenario(
        "declared fenced, and alive",
        {
            "B": (("fence", "A"), ("look",), ("wait", 0.5), (PREEMPT, "b", B, A)),
            "A": (("wait", 0.25), ("write", "a"), ("write", "a")),
        },
        before=_HELD,
    ),
    Scenario(
        "dead until the lease is over, and preempted",
        {
            "A": (("write", "a"), ("vanish",)),
            "B": ((PREEMPT, "b", B, A), ("write", "b")),
            "C": (("write", "b"), ("write", "b")),
        },
        before=_HELD,
        lease=6.0,
    ),
    # ------------------------------------------------------------------ the chain alone
    Scenario(
        "both register",
        {"A": ((IGNORE, "a", 0, A), ("keys", "a")), "B": ((IGNORE, "b", 0, B), ("keys", "b"))},
        gated=False,
    ),
    Scenario(
        "both reserve, without the lock for order",
        {
            "A": ((RESERVE, "a", A, 0), (RELEASE, "a", A, 0)),
            "B": ((RESERVE, "b", B, 0), ("keys", "b")),
            "C": (("keys", "c"), ("keys", "c")),
        },
        before=_BOTH,
        gated=False,
        order=False,
    ),
    Scenario(
        "cleared, power-cycled and reserved",
        {
            "A": ((CLEAR, "a", A, 0), (IGNORE, "a", 0, A)),
            "B": ((RESERVE, "b", B, 0), (PREEMPT, "b", B, A)),
            "C": (("power cycle",), ("keys", "c")),
        },
        before=_BOTH,
        gated=False,
    ),
    Scenario(
        "together",
        {
            "A": (("together", (IGNORE, "a", 0, A), (IGNORE, "d", 0, A), ("keys", "a")),),
            "B": (("together", (IGNORE, "b", 0, B), (RESERVE, "b", B, 0)), ("keys", "b")),
        },
        gated=False,
        order=False,
    ),
    Scenario(
        "both reserve as in SPC-2",
        {
            "A": (("spc2", "a"), ("spc2 release", "a")),
            "B": (("spc2", "b"), ("keys", "b"), ("spc2 release", "b")),
        },
        gated=False,
        order=False,
    ),
    Scenario(
        "published by both",
        {"A": ((IGNORE, "a", 0, A), ("keys", "a")), "B": ((IGNORE, "b", 0, B), ("keys", "b"))},
        gated=False,
        publishing=True,
    ),
    Scenario(
        "pruned by one",
        {
            "C": (("keys", "c"), ("wait", 6.0), ("keys", "c")),
            "A": ((IGNORE, "a", 0, A),),
            "B": ((IGNORE, "b", 0, B), (IGNORE, "b", 0, C), (IGNORE, "b", 0, A), ("tidy",)),
        },
        gated=False,
        pruning=True,
        order=False,
    ),
)
SCENARIOS: Final = {scenario.name: scenario for scenario in _SCENARIOS}


@attrs.frozen
class Task:
    """A search that the tests do.

    Attributes:
        name: Of the scenario.
        bounds: How far.
    """

    name: str
    bounds: Bounds

    def __str__(self) -> str:
        kinds = sorted({kind.partition(" ")[0] for kind in self.bounds.kinds})
        wrong = f" {self.bounds.faults} of {'+'.join(kinds)}" if self.bounds.faults else ""
        return f"{self.name}, {self.bounds.changes} changes{wrong}"


def kinds_of(scenario: Scenario) -> tuple[str, ...]:
    """What can go wrong in a scenario, and make a difference."""
    kinds = (*ON_HOSTS, "caches", *ON_LINKS)
    return (*kinds, *ON_VIEWS) if scenario.publishing else kinds
