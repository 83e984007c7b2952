"""Strict JSON: what is not exactly as expected is refused, never repaired.

The standard parser accepts duplicate keys, NaN and documents nested as deep as the stack;
each of those could make a damaged or foreign document look like a valid one.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn


class Malformed(ValueError):
    """The text is not the document that it should be; the message says where."""


def loads(text: bytes) -> Any:
    """Parse strict JSON.

    Raises:
        Malformed: Not UTF-8, not JSON, duplicate keys, NaN or Infinity, or nested too deep.
    """
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_constant)
    except RecursionError:
        raise Malformed("nested too deep") from None
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8 at byte {error.start}") from None
    except Malformed:
        raise
    except ValueError as error:
        raise Malformed(f"not JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Malformed("a key stands twice in one object")
    return result


def _constant(name: str) -> NoReturn:
    raise Malformed(f"{name} is no JSON")


class Reader:
    """Takes one object apart, field by field, and knows where it is.

    Args:
        value: What should be an object.
        where: Its place in the document, for messages.
    """

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise Malformed(f"{where} is no object")
        self._value = value
        self._where = where
        self._left = set(value)

    def done(self) -> None:
        """Refuse fields that nobody asked for: they may mean something to who wrote them."""
        if self._left:
            raise Malformed(f"{self._where} has unknown fields: {', '.join(sorted(self._left))}")

    def names(self) -> list[str]:
        """The names of all members."""
        return list(self._value)

    def raw(self, name: str) -> Any:
        """A field of any type."""
        if name not in self._value:
            raise Malformed(f"{self._where}.{name} is missing")
        self._left.discard(name)
        return self._value[name]

    def integer(self, name: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self.raw(name)
        if type(value) is not int or not low <= value <= high:
            raise Malformed(f"{self._where}.{name} is no whole number from {low} to {high}")
        return value

    def boolean(self, name: str) -> bool:
        """True or false."""
        value = self.raw(name)
        if type(value) is not bool:
            raise Malformed(f"{self._where}.{name} is neither true nor false")
        return value

    def string(self, name: str, *, most: int = 512) -> str:
        """A string of at most `most` characters."""
        value = self.raw(name)
        if not isinstance(value, str) or len(value) > most:
            raise Malformed(f"{self._where}.{name} is no string of at most {most} characters")
        return value

    def optional_string(self, name: str, *, most: int = 4096) -> str | None:
        """A string or null."""
        return None if self.raw(name) is None else self.string(name, most=most)

    def hexadecimal(self, name: str, digits: int) -> str:
        """A string of exactly so many lower-case hexadecimal digits."""
        value = self.string(name)
        if len(value) != digits or value.strip("0123456789abcdef"):
            raise Malformed(f"{self._where}.{name} is not {digits} hexadecimal digits")
        return value

    def key(self, name: str) -> int:
        """A reservation key: "0x" and 16 hexadecimal digits."""
        value = self.string(name)
        if len(value) != 18 or not value.startswith("0x") or value[2:].strip("0123456789abcdef"):
            raise Malformed(f"{self._where}.{name} is no key of 0x and 16 hexadecimal digits")
        return int(value, 16)

    def optional_key(self, name: str) -> int | None:
        """A reservation key or null."""
        return None if self.raw(name) is None else self.key(name)

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number or null."""
        return None if self.raw(name) is None else self.integer(name, low, high)

    def items(self, name: str, most: int) -> list[Any]:
        """An array of at most `most` elements."""
        value = self.raw(name)
        if not isinstance(value, list) or len(value) > most:
            raise Malformed(f"{self._where}.{name} is no array of at most {most} elements")
        return value

    def strings(self, name: str, most: int, *, longest: int = 512) -> tuple[str, ...]:
        """An array of at most `most` strings of at most `longest` characters each."""
        value = self.items(name, most)
        if not all(isinstance(item, str) and len(item) <= longest for item in value):
            raise Malformed(f"{self._where}.{name} has an element that is no short string")
        return tuple(value)

    def child(self, name: str) -> Reader:
        """A field that is an object."""
        return Reader(self.raw(name), f"{self._where}.{name}")

    def optional_child(self, name: str) -> Reader | None:
        """A field that is an object or null."""
        return None if self.raw(name) is None else self.child(name)
