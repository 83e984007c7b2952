"""Reservation keys as people type them: in hex, or as the text that some cluster software uses."""

from __future__ import annotations

import argparse
import re
from typing import Any, NamedTuple

_HEX = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,16})")
_TEXT = "text:"


class KeyPattern(NamedTuple):  # no attrs here: the command line starts without it
    """What a key is compared with: one of the two is given.

    Attributes:
        number: The key.
        text: The key as text, whatever zeros stand before or behind it.
    """

    number: int | None = None
    text: str | None = None

    def matches(self, key: object) -> bool:
        """Whether a key, as documents have it, is meant."""
        number = _number(key)
        if number is None:
            return False
        if self.number is not None:
            return number == self.number
        from flockpr.unit_status import readable_key

        return readable_key(number) == self.text

    def __str__(self) -> str:
        return f"0x{self.number:016x}" if self.number is not None else f"{self.text!r}"


def _number(key: object) -> int | None:
    if not isinstance(key, str):
        return None
    found = _HEX.fullmatch(key)
    return None if found is None else int(found[1], 16)


def parse_key(text: str) -> KeyPattern:
    """A key: hex digits, else text of up to 8 characters; ``text:`` before it says that it is text.

    Raises:
        argparse.ArgumentTypeError: It is neither.
    """
    found = _HEX.fullmatch(text)
    if found:
        return KeyPattern(number=int(found[1], 16))
    plain = text.removeprefix(_TEXT)
    if not 0 < len(plain) <= 8 or not plain.isascii() or not plain.isprintable():
        message = f"{text!r} is no key: 1 to 16 hex digits, or up to 8 characters of text"
        raise argparse.ArgumentTypeError(message)
    return KeyPattern(text=plain)


def concerns(record: dict[str, Any], pattern: KeyPattern) -> bool:
    """Whether a record of the log has the key in it."""
    return pattern.matches(record["key"]) or pattern.matches(record["service_action_key"])
