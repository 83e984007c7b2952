"""Plain text for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.cli.text import duration, printable, table, width


@given(st.text())
def test_printable_any_text_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    """Names come from documents that others wrote."""
    assert printable(text).isprintable()


def test_printable_escape_sequence_becomes_visible() -> None:
    """An initiator cannot clear an operator's screen."""
    assert printable("a\x1b[2Jb\nc") == r"a\x1b[2Jb\nc"


def test_table_rows_align_below_headings() -> None:
    """Columns are as wide as their widest cell; no line ends in blanks."""
    assert table(("NAME", "N"), [("a", "1"), ("longer", "22")], indent="  ") == [
        "  NAME    N",
        "  a       1",
        "  longer  22",
    ]


def test_table_wide_characters_align() -> None:
    """A character that takes two columns counts as two."""
    lines = table(("A", "B"), [("日本", "x"), ("abcd", "y")])

    assert {width(line) for line in lines} == {7}


def test_table_empty_column_is_left_out() -> None:
    """A column without a single value says nothing."""
    assert table(("A", "B"), [("1", ""), ("2", "")]) == ["A", "1", "2"]


def test_table_without_rows_is_nothing() -> None:
    """No heading over an empty table."""
    assert table(("A", "B"), []) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172800, "2 d")],
)
def test_duration_length_takes_the_largest_telling_unit(seconds: float, text: str) -> None:
    """A clock that went back is no negative age."""
    assert duration(seconds) == text
