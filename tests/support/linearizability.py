"""A linearizability checker: did all this happen one after the other, in an order that fits?

A history is a set of operations, each with the time it was invoked, the time its answer came,
and the answer. It is linearizable when every operation can be given one moment between the
two at which it took effect at once, so that a sequential model gives exactly these answers
(Herlihy and Wing 1990). The search is Wing and Gong's with memoisation, in the order of time
that Lowe gave it ("just in time", 2017): the history is walked event by event with the set of
all configurations that are still possible. A configuration is a state of the model and which
of the operations under way have taken effect in it; two ways to the same configuration are
one, which is what keeps the search small. So does this: a command that never changes anything
takes effect as soon as its answer fits, because waiting cannot help it or any other. (One that
only happens to change nothing must not: later it might.)

Of an operation whose answer is unknown either nothing happened or all of it, with any answer:
up to the end that is given for it (a client that saw the connection break, when the process is
dead by then), or at any time later if it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

import attrs

S = TypeVar("S", bound=Hashable)
C = TypeVar("C")
R = TypeVar("R")

Model = Callable[[S, C], tuple[S, R]]
"""The sequential specification: state and command to the next state and the answer. It may
also say None: the command cannot take effect in that state, whatever it answers."""


@attrs.frozen
class Operation(Generic[C, R]):
    """One command as its client saw it.

    Attributes:
        client: Who sent it, for people.
        command: What was sent.
        invoked: When it was sent; any clock, the same for all.
        ended: When its answer came, or when it can no longer take effect; None if it may take
            effect at any time after its invocation.
        answer: What came back; None if that is unknown.
    """

    client: str
    command: C
    invoked: float
    ended: float | None = None
    answer: R | None = None

    def __attrs_post_init__(self) -> None:
        if self.answer is not None and self.ended is None:
            raise ValueError("an answer has come at some time")
        if self.ended is not None and self.ended < self.invoked:
            raise ValueError("an answer cannot come before its command")


class NotLinearizable(AssertionError):
    """No order explains the history; says where the search ended."""


_Configuration = tuple[int, frozenset[int]]
"""Number of a possible state, and which operations under way have taken effect in it."""


@attrs.frozen
class Verdict(Generic[S]):
    """A history that is linearizable.

    Attributes:
        states: Every state that it can have ended in.
        widest: The largest number of configurations that had to be kept.
    """

    states: frozenset[S]
    widest: int


def check(
    history: Iterable[Operation[C, R]],
    initial: S,
    model: Callable[[S, C], tuple[S, R] | None],
    *,
    reads: Callable[[C], bool] = lambda _: False,
    accept: Callable[[S], bool] = lambda _: True,
    most: int = 100_000,
) -> Verdict[S]:
    """Find out whether a history is linearizable.

    Args:
        history: The operations, in any order.
        initial: The state before all of them.
        model: The specification; see `Model`.
        reads: Which commands change nothing in any state.
        accept: Which states the history may end in.
        most: Configurations beyond which the search is given up.

    Returns:
        What the end can have been.

    Raises:
        NotLinearizable: No order explains all answers, or none ends in an accepted state.
        RuntimeError: The search outgrew `most`: no verdict.
    """
    search = _Search(list(history), initial, model, reads, most)
    configurations: set[_Configuration] = {(0, frozenset())}
    for index, begins in _events(search.operations):
        if begins:
            search.pending.add(index)
            continue
        before = configurations
        configurations = search.settle(before, index)
        search.pending.discard(index)
        if not configurations:
            raise NotLinearizable(search.explain(index, before))
    reached = {search.states[number] for number, _ in search.reachable(configurations)}
    ends = frozenset(filter(accept, reached))
    if not ends:
        shown = "\n".join(f"  {state}" for state in list(reached)[:4])
        raise NotLinearizable(f"no accepted state at the end; possible are:\n{shown}")
    return Verdict(ends, search.widest)


def _events(operations: list[Operation[C, R]]) -> Iterator[tuple[int, bool]]:
    """Index and whether it is an invocation, in order of time. Of two events at the same
    moment the invocation comes first: the clock may not tell what overlapped.
    """
    events = [(operation.invoked, 0, index) for index, operation in enumerate(operations)]
    events += [(o.ended, 1, index) for index, o in enumerate(operations) if o.ended is not None]
    for _, ends, index in sorted(events):
        yield index, not ends


class _Search(Generic[S, C, R]):
    """The operations, which of them are under way, the states, and the steps of the search.

    States are numbered, because they may be large and are compared over and over.
    """

    def __init__(
        self,
        operations: list[Operation[C, R]],
        initial: S,
        model: Callable[[S, C], tuple[S, R] | None],
        reads: Callable[[C], bool],
        most: int,
    ) -> None:
        self.operations = operations
        self.pending: set[int] = set()
        self.states = [initial]
        self.widest = 1
        self._numbers = {initial: 0}
        self._effects: dict[tuple[int, int], int | None] = {}
        self._model = model
        self._readers = frozenset(
            index
            for index, operation in enumerate(operations)
            if operation.answer is not None and reads(operation.command)
        )
        self._most = most

    def settle(self, configurations: set[_Configuration], index: int) -> set[_Configuration]:
        """What is possible when operation `index` has ended: it has taken effect, after any
        others under way, or, if its answer is unknown, perhaps never will.
        """
        unknown = self.operations[index].answer is None
        settled = set()
        for state, done in self.reachable(configurations, index):
            if index in done:
                settled.add((state, done - {index}))
            elif unknown:
                settled.add((state, done))
        return settled

    def reachable(
        self, configurations: set[_Configuration], until: int | None = None
    ) -> set[_Configuration]:
        """All configurations that operations under way can lead to; those in which `until` has
        taken effect are not followed further, because the rest can take effect later.
        """
        found = {self._with_readers(one) for one in configurations}
        stack = list(found)
        while stack:
            state, done = stack.pop()
            if until is not None and until in done:
                continue
            for index in self.pending - done:
                effect = self._effect(state, index)
                if effect is None:
                    continue
                after = self._with_readers((effect, done | {index}))
                if after not in found:
                    found.add(after)
                    stack.append(after)
            if len(found) > self._most:
                raise RuntimeError(f"more than {self._most} configurations: no verdict")
        self.widest = max(self.widest, len(found))
        return found

    def _with_readers(self, one: _Configuration) -> _Configuration:
        """The same, and every reader whose answer fits here has taken effect."""
        state, done = one
        waiting = (self.pending & self._readers) - done
        readers = {index for index in waiting if self._effect(state, index) == state}
        return (state, done | readers) if readers else one

    def _effect(self, number: int, index: int) -> int | None:
        """Number of the state to which an operation leads; None where it does not fit."""
        key = number, index
        if key not in self._effects:
            self._effects[key] = self._compute(number, self.operations[index])
        return self._effects[key]

    def _compute(self, number: int, operation: Operation[C, R]) -> int | None:
        outcome = self._model(self.states[number], operation.command)
        if outcome is None or (operation.answer is not None and outcome[1] != operation.answer):
            return None
        found = self._numbers.setdefault(outcome[0], len(self.states))
        if found == len(self.states):
            self.states.append(outcome[0])
        return found

    def explain(self, index: int, before: set[_Configuration]) -> str:
        """Say at which answer the search ended, and what was possible until then."""
        operation = self.operations[index]
        lines = [f"no order explains {operation}"]
        lines += [f"  under way: {self.operations[other]}" for other in sorted(self.pending)]
        for number, _ in list(before)[:4]:
            outcome = self._model(self.states[number], operation.command)
            would = "cannot happen" if outcome is None else f"would answer {outcome[1]}"
            lines.append(f"  possible: {self.states[number]}\n    where it {would}")
        return "\n".join(lines)
