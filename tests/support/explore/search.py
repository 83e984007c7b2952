"""Going through all schedules that depart from the usual one at most so often.

The search is one of sparse departures (see `run`): from a run, every other choice at every
point of it that the bounds allow, and so on from there. Three things keep it small without
leaving anything out:

- A choice is not followed where it comes to the same as the same choice one point later: when
  nothing that then happens before the task that was passed over goes on touches what its step
  touches. So a departure is followed where it makes a difference for the first time.
- A run is given up where it comes to a state that was seen before, with at least as many
  departures left: what each task has done and found by then is the same, in whatever order it
  did what does not matter to others.
- What nobody else can see is no point at all (see `server`).

Steps of one process always count as touching the same thing, since they share its memory; so
do an answer and a read or write, since it is their order that is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from tests.support.explore.run import ON_HOSTS, Choice, Event, Run, Script
from tests.support.explore.scenario import Scenario
from tests.support.explore.tasks import Access


@attrs.frozen
class Bounds:
    """How far a search goes.

    Attributes:
        changes: So often somebody else goes on than usual.
        faults: So much goes wrong.
        kinds: What may go wrong (see `run.FAULTS`); "cut@B" is that of one host.
    """

    changes: int
    faults: int = 0
    kinds: tuple[str, ...] = ()

    def after(self, choice: Choice) -> Bounds | None:
        """What is left of it after a choice; None where it does not allow it."""
        kind = choice[0]
        if kind == "land":
            return self
        if kind in ("go", "stall"):
            return attrs.evolve(self, changes=self.changes - 1) if self.changes else None
        return attrs.evolve(self, faults=self.faults - 1) if self.faults else None


class Failed(AssertionError):
    """A schedule breaks an invariant."""

    def __init__(self, run: Run) -> None:
        super().__init__(str(run.error))
        self.run = run


Footprint = dict[str, int]
"""By task: what the others touch before it goes on, as bits; under "" what all touch who are
not named, since they never go on."""


class _Accesses:
    """Accesses as bits of a number, and which of them get in each other's way."""

    def __init__(self) -> None:
        self._bits: dict[Access, int] = {}
        self._against: dict[Access, int] = {}
        self._of: dict[str, list[Access]] = {}
        self._sums: dict[tuple[Access, ...], tuple[int, int, int]] = {}
        self._changes = 0

    def of(self, accesses: tuple[Access, ...]) -> tuple[int, int]:
        """What these are, and what is in their way."""
        found = self._sums.get(accesses)
        if found is not None and found[2] == self._changes:
            return found[0], found[1]
        for access in accesses:
            if access not in self._bits:
                self._add(access)
        bits = against = 0
        for access in accesses:
            bits |= self._bits[access]
            against |= self._against[access]
        self._sums[accesses] = bits, against, self._changes
        return bits, against

    def _add(self, access: Access) -> None:
        self._changes += 1
        bit = 1 << len(self._bits)
        self._bits[access] = bit
        self._against[access] = 0
        others = self._of.setdefault(access[0], [])
        others.append(access)
        for other in others:
            meet = other[1] < access[2] and access[1] < other[2]
            if meet and (access[3] or other[3]):
                self._against[access] |= self._bits[other]
                self._against[other] |= bit


@attrs.define(eq=False)
class Search:
    """One search.

    Args:
        scenario: What the hosts do.
        bounds: How far it goes.
        most: Runs after which it is given up.
        memory: States that are remembered at the most.

    Attributes:
        runs: Schedules that were played.
        same: Choices that were not followed, since they come to the same as others.
        known: Runs that were given up in a state seen before.
        points: Steps of all runs.
        complete: All was seen.
    """

    scenario: Scenario
    bounds: Bounds
    most: int = 10_000_000
    memory: int = 600_000
    each: Callable[[Run], None] = lambda _: None
    runs: int = 0
    same: int = 0
    known: int = 0
    points: int = 0
    complete: bool = True
    _seen: dict[tuple[int, str], list[tuple[int, int, Footprint]]] = attrs.Factory(dict)
    _accesses: _Accesses = attrs.Factory(_Accesses)

    @property
    def states(self) -> int:
        """Different states that were come to."""
        return len(self._seen)

    def go(self) -> Search:
        """Search.

        Raises:
            Failed: With the first schedule that breaks something.
        """
        self._explore({}, self.bounds)
        return self

    def _explore(self, script: Script, bounds: Bounds) -> tuple[Footprint, int]:
        """All schedules that begin with this one.

        Returns:
            The footprint from its last departure on, and what that step itself touches.
        """
        if self.runs >= self.most:
            self.complete = False
            return {"": 0}, 0
        start = max(script, default=-1) + 1
        known: list[Footprint] = []

        def seen(key: tuple[int, str]) -> bool:
            for changes, faults, footprint in self._seen.get(key, ()):
                if changes >= bounds.changes and faults >= bounds.faults:
                    known.append(footprint)
                    return True
            return False

        run = Run(self.scenario, script, bounds.kinds if bounds.faults else (), seen).go()
        self.runs += 1
        self.points += len(run.events)
        self.known += run.known
        if run.error is not None:
            raise Failed(run)
        self.each(run)
        events = run.events[: run.ends]
        footprint = self._backwards(run, events, start, bounds, known[0] if known else {"": 0})
        if not start or start > len(events):
            return footprint, 0
        bits, _ = self._accesses.of(events[start - 1].accesses)
        return _with(footprint, events[start - 1], bits), bits

    def _backwards(
        self, run: Run, events: list[Event], start: int, bounds: Bounds, footprint: Footprint
    ) -> Footprint:
        """Follow the other choices, the last point first, since it tells of those before.

        Returns:
            The footprint from point `start` on.
        """
        later: dict[Choice, Footprint] = {}
        for number in range(len(events) - 1, start - 1, -1):
            event = events[number]
            bits, against = self._accesses.of(event.accesses)
            usual = footprint = _with(footprint, event, bits)
            found: dict[Choice, Footprint] = {}
            for choice in event.choices:
                left = bounds.after(choice)
                if left is None:
                    continue
                before = later.get(choice)
                if before and not before.get(event.task, before[""]) & against:
                    self.same += 1
                    found[choice] = _moved(before, event, bits)
                    footprint = _union(footprint, found[choice])
                    continue
                after, own = self._explore({**run.script, number: choice}, left)
                footprint = _union(footprint, after)
                if choice[0] in (*ON_HOSTS, "land"):
                    # Whoever was to go on does so next: what moves is what goes wrong, alone.
                    found[choice] = {"": own}
                elif choice[0] != "request":
                    found[choice] = after
            found["go", event.task] = usual
            later = found
            self._remember(event, bounds, footprint)
        return footprint

    def _remember(self, event: Event, bounds: Bounds, footprint: Footprint) -> None:
        if len(self._seen) < self.memory and self.complete:
            known = self._seen.setdefault(event.key, [])
            known[:] = [
                entry for entry in known if entry[0] > bounds.changes or entry[1] > bounds.faults
            ]
            known.append((bounds.changes, bounds.faults, footprint))


def _with(footprint: Footprint, event: Event, bits: int) -> Footprint:
    """The footprint from one step earlier on."""
    after = {name: found | bits for name, found in footprint.items()}
    if event.task:
        after[event.task] = 0
    return after


def _moved(footprint: Footprint, event: Event, bits: int) -> Footprint:
    """That of a choice, made one step earlier."""
    mine = footprint.get(event.task, footprint[""])
    return {name: found | bits for name, found in footprint.items()} | {event.task: mine}


def _union(one: Footprint, other: Footprint) -> Footprint:
    if not other:
        return one
    names = one.keys() | other.keys()
    rest, others = one[""], other[""]
    return {name: one.get(name, rest) | other.get(name, others) for name in names}


def chosen(events: list[Event]) -> Iterator[tuple[int, Choice]]:
    """The departures of a run."""
    for number, event in enumerate(events):
        if event.choice is not None:
            yield number, event.choice
