"""Plain text for people: columns, ages, and nothing that a terminal would obey.

Names of initiators and hosts come out of documents that other machines wrote, so whatever is
not printable is escaped before it reaches a terminal.
"""

from __future__ import annotations

import argparse
import re
import unicodedata
from collections.abc import Callable, Sequence

from flockpr.errors import ConfigError

_WIDE = ("W", "F")
_SIZE = re.compile(r"([0-9]{1,19})([KMGTPE]?)(?:iB|B)?", re.IGNORECASE)
_UNITS = "KMGTPE"


def printable(text: str) -> str:
    """The text with control, format and lone surrogate characters written as escapes."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def width(text: str) -> int:
    """Columns that a printable text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in _WIDE else 1
        for one in text
    )


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    indent: str = "",
    paint: Callable[[str, str], str] | None = None,
) -> list[str]:
    """Lines of left-aligned columns, two blanks apart, without trailing blanks.

    Args:
        headers: One heading per column.
        rows: Cells; every row as long as `headers`.
        indent: Put before every line.
        paint: Colours a cell, given its heading; what it adds must take no room.

    Returns:
        The heading line and one line per row; a column whose cells are all empty is left out.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    shown = [column for column in range(len(headers)) if any(row[column] for row in cells)]
    if not shown:
        return []
    lines = [[headers[column] for column in shown]]
    lines += [[row[column] for column in shown] for row in cells]
    widths = [max(width(line[column]) for line in lines) for column in range(len(shown))]

    def line_of(line: Sequence[str], heading: bool) -> str:
        parts = []
        for cell, head, room in zip(line, lines[0], widths, strict=True):
            painted = cell if heading or paint is None else paint(head, cell)
            parts.append(painted + " " * (room - width(cell)))
        return (indent + "  ".join(parts)).rstrip()

    return [line_of(line, number == 0) for number, line in enumerate(lines)]


def duration(seconds: float) -> str:
    """A length of time in the largest unit that still says something: 42 s, 7 min, 3 h, 12 d."""
    whole = max(0, int(seconds))
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if whole < limit:
            return f"{whole // size} {unit}"
    return f"{whole // 86400} d"


def parse_size(text: str) -> int:
    """Bytes from a number with a unit: 512, 64M, 10G, 10GiB. A unit is a power of 1024.

    Raises:
        ConfigError: It is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is no size: a number with K, M, G, T, P or E, such as 10G")
    exponent = 1 + _UNITS.index(match[2].upper()) if match[2] else 0
    return int(match[1]) << 10 * exponent


def parse_seconds(text: str) -> float:
    """A time that is waited: 0.05 seconds to a day.

    Raises:
        ArgumentTypeError: It is none.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0.05 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not 0.05 to 86400 seconds")
    return seconds


def size_text(size: int) -> str:
    """A size for people, exact: 10 GiB, 1536 KiB, 1000 bytes."""
    exponent = 0
    while exponent < len(_UNITS) and size and size % 1024 == 0:
        size >>= 10
        exponent += 1
    return f"{size} {_UNITS[exponent - 1]}iB" if exponent else f"{size} bytes"
