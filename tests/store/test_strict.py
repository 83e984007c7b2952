"""Strict JSON: each reading function refuses what is not exactly so, and says where."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.store.strict import Malformed, Reader, loads
from tests.support.spc_strategies import QUIET

Read = Callable[[Reader], Any]

READS: list[tuple[str, Read, list[Any], list[Any]]] = [
    ("integer", lambda r: r.integer("x", 2, 9), [2, 9], [1, 10, True, 2.0, "2", None, [], {}]),
    ("boolean", lambda r: r.boolean("x"), [True, False], [0, 1, "true", None, [], {}]),
    ("string", lambda r: r.string("x", most=3), ["", "abc"], ["abcd", 1, None, True, [], {}]),
    (
        "optional string",
        lambda r: r.optional_string("x", most=3),
        [None, "", "abc"],
        ["abcd", 1, False, [], {}],
    ),
    (
        "hexadecimal",
        lambda r: r.hexadecimal("x", 4),
        ["00ff", "abcd"],
        ["", "abc", "abcde", "ABCD", "0x12", " abc", "abg1", "-123", "\u0661234", None, 1234],
    ),
    (
        "optional integer",
        lambda r: r.optional_integer("x", 0, 3),
        [None, 0, 3],
        [-1, 4, False, 1.0, "1", [], {}],
    ),
    ("items", lambda r: r.items("x", 2), [[], [1, None]], [[1, 2, 3], {}, "ab", None, 2]),
]


@pytest.mark.parametrize(("name", "read", "right", "wrong"), READS, ids=[row[0] for row in READS])
def test_reader_takes_what_is_exact_and_refuses_the_rest(
    name: str, read: Read, right: list[Any], wrong: list[Any]
) -> None:
    """Bounds are inclusive, and no type passes for another."""
    for value in right:
        assert read(Reader({"x": value}, "here")) == value
    for value in wrong:
        with pytest.raises(Malformed, match=r"here\.x"):
            pytest.fail(f"{name} read {value!r} as {read(Reader({'x': value}, 'here'))!r}")


def test_reader_reads_keys_of_sixteen_digits_only() -> None:
    """64 bits as text, in one form."""
    reader = Reader({"x": "0x00000000000000a1", "y": None}, "here")

    assert reader.key("x") == 0xA1
    assert reader.optional_key("x") == 0xA1
    assert reader.optional_key("y") is None
    values = ["0xa1", "0X00000000000000a1", "0x00000000000000A1", "0x0000_0000_0000_a1", 161]
    for wrong in values:
        with pytest.raises(Malformed, match=r"here\.x"):
            Reader({"x": wrong}, "here").key("x")
    with pytest.raises(Malformed, match=r"here\.y"):
        Reader({"y": None}, "here").key("y")


def test_reader_reads_arrays_of_short_strings() -> None:
    """Elements are looked at too."""
    assert Reader({"x": ["a", ""]}, "here").strings("x", 2, longest=1) == ("a", "")
    values: list[Any] = [["a", 1], [None], ["ab"], ["a"] * 3, "ab"]
    for wrong in values:
        with pytest.raises(Malformed, match=r"here\.x"):
            Reader({"x": wrong}, "here").strings("x", 2, longest=1)


def test_reader_of_what_is_no_object_is_refused() -> None:
    """Whatever else it is."""
    values: list[Any] = [[], "x", 1, None, True]
    for wrong in values:
        with pytest.raises(Malformed, match="here is no object"):
            Reader(wrong, "here")


def test_reader_of_a_child_knows_its_place() -> None:
    """A message names the whole path."""
    reader = Reader({"a": {"b": 1}, "n": None, "l": []}, "top")

    with pytest.raises(Malformed, match=r"top\.a\.b"):
        reader.child("a").string("b")
    with pytest.raises(Malformed, match=r"top\.l"):
        reader.child("l")
    with pytest.raises(Malformed, match=r"top\.n"):
        reader.child("n")
    assert reader.optional_child("n") is None
    assert reader.optional_child("a") is not None


def test_reader_done_names_what_nobody_read() -> None:
    """All of it, in order."""
    reader = Reader({"z": 1, "a": 2, "b": 3}, "here")
    reader.raw("b")

    with pytest.raises(Malformed, match="unknown fields: a, z"):
        reader.done()
    reader.raw("a")
    reader.raw("z")
    reader.done()


def test_reader_of_a_missing_field_is_refused() -> None:
    """Missing is not null."""
    with pytest.raises(Malformed, match=r"here\.x is missing"):
        Reader({}, "here").optional_string("x")


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@QUIET
@given(_values)
def test_loads_of_json_is_its_value(value: Any) -> None:
    """Strict, and still JSON."""
    assert loads(json.dumps(value).encode()) == value


@QUIET
@given(st.binary(max_size=60))
def test_loads_of_any_bytes_is_a_value_or_malformed(data: bytes) -> None:
    """No other exception comes out."""
    with contextlib.suppress(Malformed):
        loads(data)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":1}',
        b'[{"b":{"a":1,"a":2}}]',
        b'{"a":1,"\\u0061":2}',
        b"NaN",
        b"[-Infinity]",
        b"[" * 100_000,
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\x00}\x00",
        b"",
        b"{} {}",
        b"1" * 5000,
    ],
    ids=range(11),
)
def test_loads_of_what_a_loose_parser_takes_is_refused(text: bytes) -> None:
    """Twice the same key, also when it is escaped; not a number; too deep; other encodings."""
    with pytest.raises(Malformed):
        loads(text)
