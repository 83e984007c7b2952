"""Sequence numbers that wrap, and the window of commands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.iscsi.numbers import CommandWindow, precedes, successor

_NUMBERS = st.integers(0, 0xFFFFFFFF)


@given(_NUMBERS, st.integers(1, 0x7FFFFFFF))
def test_number_precedes_what_is_less_than_half_the_circle_ahead(first: int, step: int) -> None:
    """RFC 1982 3.2: also across 2**32."""
    later = (first + step) & 0xFFFFFFFF
    assert precedes(first, later)
    assert not precedes(later, first)
    assert not precedes(first, first)


def test_successor_of_the_last_number_is_zero() -> None:
    """RFC 1982 3.1: serial number addition."""
    assert successor(0xFFFFFFFF) == 0


@pytest.mark.parametrize("first", [0, 1, 100, 0x7FFFFFF0, 0xFFFFFFF0, 0xFFFFFFFF])
def test_window_contains_what_it_says(first: int) -> None:
    """RFC 7143 4.2.2.1: from ExpCmdSN to MaxCmdSN, both of them, in serial arithmetic."""
    window = CommandWindow(first, 64)
    assert window.maximum == (first + 63) & 0xFFFFFFFF
    assert window.contains(first)
    assert window.contains(window.maximum)
    assert not window.contains((first - 1) & 0xFFFFFFFF)
    assert not window.contains(successor(window.maximum))


def test_window_of_one_command_has_one_number() -> None:
    """The smallest window, and one of none."""
    window = CommandWindow(7, 1)
    assert [number for number in range(5, 10) if window.contains(number)] == [7]
    closed = CommandWindow(7, 0)
    assert not any(closed.contains(number) for number in range(5, 10))


def test_window_with_all_commands_outstanding_is_closed() -> None:
    """4.2.2.1: MaxCmdSN is ExpCmdSN - 1 then, and nothing is inside."""
    window = CommandWindow(0xFFFFFFFE, 4)
    for outstanding in range(1, 5):
        window.advance()
        window.widen(outstanding)
    assert window.expected == 2
    assert window.maximum == 1
    assert not any(window.contains(number) for number in (0, 1, 2, 3, 0xFFFFFFFF))
    window.widen(3)
    assert window.contains(2)
    assert not window.contains(3)


@given(_NUMBERS, st.lists(st.tuples(st.integers(0, 100), st.integers(1, 100), st.booleans())))
def test_window_that_changes_never_goes_back(
    first: int, steps: list[tuple[int, int, bool]]
) -> None:
    """4.2.2.1: MaxCmdSN must not decrease, whatever becomes of size and outstanding commands."""
    window = CommandWindow(first, 64)
    for outstanding, size, arrival in steps:
        before = window.maximum
        window.size = size
        if arrival and window.contains(window.expected):
            window.advance()
        window.widen(outstanding)
        assert not precedes(window.maximum, before)
        assert not precedes(successor(window.maximum), window.expected)
