"""Numbers on the command line, read as liberally as C's sscanf and sg3_utils read them."""

from __future__ import annotations

import re

_HEX = re.compile(r"\s*([+-]?)(?:0[xX](?=[0-9a-fA-F]))?([0-9a-fA-F]+)")
_UNSIGNED = re.compile(r"\s*([+-]?)([0-9]+)")
_NUMBER = re.compile(r"([+-]?\d+)([a-zA-Z]*)")
_FACTORS = {
    "": 1,
    "c": 1,
    "w": 2,
    "b": 512,
    "k": 1 << 10,
    "kib": 1 << 10,
    "kb": 1000,
    "kd": 1000,
    "m": 1 << 20,
    "mib": 1 << 20,
    "mb": 10**6,
    "md": 10**6,
    "g": 1 << 30,
    "gib": 1 << 30,
    "gb": 10**9,
    "gd": 10**9,
}


def scan_hex(text: str, bits: int) -> int | None:
    """What ``sscanf("%x")`` makes of the text; what follows the digits does not count.

    Args:
        text: With or without 0x.
        bits: Size of the number: 64 bits saturate, fewer are cut out of 64.

    Returns:
        The number, or None where it begins with no digit.
    """
    return _fit(_HEX.match(text), 16, bits)


def scan_unsigned(text: str, bits: int = 32) -> int | None:
    """What ``sscanf("%u")`` makes of the text; None where it begins with no digit."""
    return _fit(_UNSIGNED.match(text), 10, bits)


def _fit(found: re.Match[str] | None, base: int, bits: int) -> int | None:
    if found is None:
        return None
    number = min(int(found[2], base), (1 << 64) - 1)
    return (-number if found[1] == "-" else number) % (1 << bits)


def parse_count(text: str) -> int | None:
    """A number as sg3_utils takes it: decimal, 0x..., ...h, or with k, m, g, b, kB ...

    Returns:
        The number; None when it is none, or negative.
    """
    text = text.strip()
    if re.fullmatch(r"0[xX][0-9a-fA-F]+", text):
        return int(text, 16)
    if re.fullmatch(r"[0-9a-fA-F]+[hH]", text):
        return int(text[:-1], 16)
    found = _NUMBER.fullmatch(text)
    if found is None or found[2].lower() not in _FACTORS:
        return None
    number = int(found[1]) * _FACTORS[found[2].lower()]
    return number if number >= 0 else None
