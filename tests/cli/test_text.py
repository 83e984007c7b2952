"""Plain text for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.cli.text import duration, parse_size, printable, size_text, table, width
from flockpr.errors import ConfigError


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


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512),
        ("64M", 64 << 20),
        ("10G", 10 << 30),
        ("10g", 10 << 30),
        ("10GiB", 10 << 30),
        ("3KB", 3 << 10),
        (" 1T ", 1 << 40),
        ("2P", 2 << 50),
        ("1E", 1 << 60),
        ("0", 0),
    ],
)
def test_size_with_a_unit_is_bytes(text: str, size: int) -> None:
    """A unit is a power of 1024, as for truncate(1) and qemu-img."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1.5G", "1Z", "1 G", "0x10", "1e3", "9" * 20])
def test_size_that_is_none_is_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ConfigError, match="is no size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1000, "1000 bytes"),
        (1024, "1 KiB"),
        (1536 << 10, "1536 KiB"),
        (10 << 30, "10 GiB"),
        (1 << 60, "1 EiB"),
        (1 << 71, "2048 EiB"),
    ],
)
def test_size_for_people_is_exact(size: int, text: str) -> None:
    """The largest unit in which it is a whole number."""
    assert size_text(size) == text
