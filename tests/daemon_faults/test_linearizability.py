"""The checker itself: it must accept what can have happened, and nothing else."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.support.linearizability import NotLinearizable, Operation, Verdict, check

Command = tuple[str, int]


def register(state: int, command: Command) -> tuple[int, int] | None:
    """A register: "write" answers with what it replaced, "read" with what is there, "add" adds,
    "put" writes and always answers 0.
    """
    kind, value = command
    match kind:
        case "put":
            return value, 0
        case "write":
            return value, state
        case "add":
            return state + value, state
        case "never":
            return None
    return state, state


def op(
    client: str, command: str, invoked: float, ended: float | None, answer: int | None
) -> Operation[Command, int]:
    """An operation on the register, such as "write 1"."""
    kind, value = command.split()
    return Operation(client, (kind, int(value)), invoked, ended, answer)


def judge(*history: Operation[Command, int]) -> Verdict[int]:
    """Check a history that starts with 0, twice: what it is told of readers is only for speed."""
    try:
        verdict = check(history, 0, register)
    except NotLinearizable:
        with pytest.raises(NotLinearizable):
            check(history, 0, register, reads=_reads)
        raise
    assert check(history, 0, register, reads=_reads).states == verdict.states
    return verdict


def _reads(command: Command) -> bool:
    return command[0] == "read"


def test_checker_sequence_that_fits_is_accepted() -> None:
    """A sequential history with the model's answers is linearizable."""
    verdict = judge(op("a", "write 1", 0, 1, 0), op("a", "read 0", 2, 3, 1))
    assert verdict.states == {1}


def test_checker_stale_read_is_rejected() -> None:
    """A read that began after a write was answered must see it."""
    with pytest.raises(NotLinearizable, match="read"):
        judge(op("a", "write 1", 0, 1, 0), op("b", "read 0", 2, 3, 0))


def test_checker_overlapping_read_may_see_either() -> None:
    """While a write is under way a read may come before or after it."""
    for seen in (0, 1):
        judge(op("a", "write 1", 0, 10, 0), op("b", "read 0", 2, 3, seen))


def test_checker_two_readers_in_turn_may_not_go_back() -> None:
    """Once one client has seen a write, no later read misses it, though it is still under way."""
    write = op("a", "write 1", 0, 10, 0)
    judge(write, op("b", "read 0", 1, 2, 0), op("c", "read 0", 3, 4, 1))
    with pytest.raises(NotLinearizable):
        judge(write, op("b", "read 0", 1, 2, 1), op("c", "read 0", 3, 4, 0))


def test_checker_lost_update_is_rejected() -> None:
    """Two overlapping additions cannot both have found 0."""
    judge(op("a", "add 1", 0, 9, 0), op("b", "add 1", 0, 9, 1))
    with pytest.raises(NotLinearizable):
        judge(op("a", "add 1", 0, 9, 0), op("b", "add 1", 0, 9, 0))


def test_checker_touching_operations_may_overlap() -> None:
    """Two events at the same tick of the clock are taken for concurrent."""
    judge(op("a", "write 1", 0, 5, 0), op("b", "read 0", 5, 6, 0))


def test_checker_unknown_answer_may_or_may_not_have_happened() -> None:
    """A command in flight at a crash took effect wholly or not at all."""
    crashed = op("a", "write 1", 0, 1, None)
    for seen in (0, 1):
        judge(crashed, op("b", "read 0", 2, 3, seen))
    with pytest.raises(NotLinearizable):
        judge(crashed, op("b", "read 0", 2, 3, 2))


def test_checker_unknown_answer_takes_effect_once() -> None:
    """What a crash left open is settled once: it can neither come back nor happen twice."""
    crashed = op("a", "add 1", 0, 1, None)
    with pytest.raises(NotLinearizable):
        judge(crashed, op("b", "read 0", 2, 3, 1), op("b", "read 0", 4, 5, 0))
    with pytest.raises(NotLinearizable):
        judge(crashed, op("b", "read 0", 2, 3, 1), op("b", "read 0", 4, 5, 2))


def test_checker_unknown_answer_with_an_end_may_not_happen_after_it() -> None:
    """The command of a dead process cannot take effect later; one without an end can."""
    reads = op("b", "read 0", 2, 3, 0), op("b", "read 0", 4, 5, 1)
    judge(op("a", "write 1", 0, None, None), *reads)
    with pytest.raises(NotLinearizable):
        judge(op("a", "write 1", 0, 1, None), *reads)


def test_checker_unknown_answer_after_another_unknown_is_found() -> None:
    """Two commands in flight at once may both have happened, in either order."""
    crashed = op("a", "write 1", 0, 1, None), op("b", "add 10", 0, 1, None)
    for seen in (0, 1, 10, 11):
        judge(*crashed, op("c", "read 0", 2, 3, seen))
    with pytest.raises(NotLinearizable):
        judge(*crashed, op("c", "read 0", 2, 3, 12))


def test_checker_command_that_could_change_nothing_may_change_something_later() -> None:
    """A command that would change nothing at first need not have taken effect then."""
    judge(
        op("a", "write 1", 0, 4, 0),
        op("b", "put 0", 1, 5, 0),
        op("c", "read 0", 2, 3, 1),
        op("c", "read 0", 6, 7, 0),
    )


def test_checker_command_that_the_model_excludes_is_rejected() -> None:
    """Where the model knows no such step an answered command cannot be explained."""
    with pytest.raises(NotLinearizable, match="cannot happen"):
        judge(op("a", "never 0", 0, 1, 0))
    assert judge(op("a", "never 0", 0, 1, None)).states == {0}


def test_checker_end_that_is_not_accepted_is_rejected() -> None:
    """The last state counts: an unknown command may have to have happened."""
    crashed = op("a", "write 1", 0, None, None)
    assert check([crashed], 0, register, accept=lambda s: s == 1).states == {1}
    with pytest.raises(NotLinearizable, match="end"):
        check([crashed], 0, register, accept=lambda s: s == 2)


def test_checker_search_that_outgrows_its_bound_gives_no_verdict() -> None:
    """A search that is given up is neither a pass nor a failure of the history."""
    many = [op(str(n), f"add {1 << n}", 0, None, None) for n in range(12)]
    with pytest.raises(RuntimeError, match="no verdict"):
        check(many, 0, register, most=1000)


def test_operation_that_ends_before_it_begins_is_refused() -> None:
    """A history with impossible times is a fault of the recorder."""
    with pytest.raises(ValueError, match="before"):
        op("a", "read 0", 2, 1, 0)
    with pytest.raises(ValueError, match="some time"):
        op("a", "read 0", 2, None, 0)


def _brute_force(history: list[Operation[Command, int]]) -> bool:
    """Try every order of every subset that holds all answered operations."""
    optional = [o for o in history if o.answer is None]
    needed = [o for o in history if o.answer is not None]
    for size in range(len(optional) + 1):
        for chosen in itertools.combinations(optional, size):
            if any(_fits(order) for order in itertools.permutations([*needed, *chosen])):
                return True
    return False


def _fits(order: tuple[Operation[Command, int], ...]) -> bool:
    state = 0
    for position, operation in enumerate(order):
        later = order[position + 1 :]
        if any(o.ended is not None and o.ended < operation.invoked for o in later):
            return False
        outcome = register(state, operation.command)
        if outcome is None or operation.answer not in (None, outcome[1]):
            return False
        state = outcome[0]
    return True


def test_checker_agrees_with_brute_force() -> None:
    """On small random histories the verdict is that of trying every order."""
    source = random.Random(20261)
    verdicts = []
    for _ in range(1500):
        history = []
        for number in range(source.randint(2, 5)):
            invoked = source.randint(0, 6)
            ended = invoked + source.randint(0, 4)
            command = source.choice(("read 0", "read 0", "add 1", "add 2", "write 1", "put 0"))
            answer = source.choice((0, 0, 1, 1, 2, None))
            late = None if answer is None and source.random() < 0.3 else ended
            history.append(op(str(number), command, invoked, late, answer))
        expected = _brute_force(history)
        verdicts.append(expected)
        try:
            judge(*history)
        except NotLinearizable:
            assert not expected, history
        else:
            assert expected, history
    assert 200 < sum(verdicts) < 1300  # both verdicts were put to the test
