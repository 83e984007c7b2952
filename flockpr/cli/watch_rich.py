"""The screen of `flockpr watch` with rich: tables that fit the window, whatever its size.

Imported only on a terminal, and only where rich is installed (the extra `watch`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from flockpr.cli.gate_view import current, host_lines
from flockpr.cli.status_view import (
    HEADERS,
    NOBODY,
    lines_above,
    lines_below,
    meaning,
    registration_rows,
)
from flockpr.cli.style import Style
from flockpr.cli.text import printable
from flockpr.cli.watch import head_line, missing_line

if TYPE_CHECKING:
    from flockpr.cli.status_documents import Collected

_STYLES = {"good": "green", "bad": "red", "warning": "yellow", "strong": "bold", "": ""}
_WHOLE = ("PORT", "KEY", "LIVENESS", "ROLE")
"""Columns that are never cut: half of such a word would say nothing."""


class RichScreen:
    """The terminal. Use as a context manager.

    Args:
        console: It; standard output if not given.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(highlight=False, markup=False, emoji=False)
        self._live = Live(console=console, screen=True, auto_refresh=False)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, collected: Collected, errors: Sequence[str]) -> None:
        """Draw what was found, and what went wrong, over what is there."""
        self._live.update(_Fitting(Group(*_parts(collected, errors))), refresh=True)


class _Fitting:
    """As much as there is room for, and a line that says what is missing."""

    def __init__(self, whole: RenderableType) -> None:
        self._whole = whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.height or console.height
        lines = console.render_lines(self._whole, options.update(height=None), pad=False)
        if len(lines) > room:
            left = max(0, room - 1)
            lines = [*lines[:left], [Segment(missing_line(len(lines) - left))]]
        for line in lines:
            yield from line
            yield Segment.line()


def _parts(collected: Collected, errors: Sequence[str]) -> Iterator[RenderableType]:
    yield Text(head_line(), "dim")
    yield from (Text(printable(line), _STYLES["bad"]) for line in errors)
    for one in collected.luns:
        if one["error"] is None:
            yield ""
            yield from _lun(one)
    if shown := current(collected.hosts, collected.luns):
        yield ""
        yield from _texts(host_lines(shown))


def _lun(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    style = Style()
    yield from _texts(lines_above(document, style))
    rows = registration_rows(document["registrations"])
    yield Padding(_table(rows), (0, 0, 0, 2)) if rows else NOBODY
    yield from _texts(lines_below(document, style))


def _texts(lines: Sequence[str]) -> Iterator[Text]:
    """Lines with our own colours in them; what is too long goes on below."""
    return (Text.from_ansi(line) for line in lines)


def _table(rows: Sequence[Sequence[str]]) -> Table:
    """The registrants; a column that is empty is left out, as without rich."""
    shown = [number for number in range(len(HEADERS)) if any(row[number] for row in rows)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number in shown:
        heading = HEADERS[number]
        table.add_column(heading, no_wrap=heading in _WHOLE, overflow="fold")
    for row in rows:
        table.add_row(
            *(
                Text(printable(row[number]), _STYLES[meaning(HEADERS[number], row[number])])
                for number in shown
            )
        )
    return table
