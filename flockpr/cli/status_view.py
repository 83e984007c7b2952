"""What `flockpr status` and `flockpr watch` show a person."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flockpr.cli.gate_view import busy, current, detail_lines, host_lines
from flockpr.cli.promise_view import promise_summary
from flockpr.cli.status_documents import Collected, age_of
from flockpr.cli.style import PLAIN, Style
from flockpr.cli.text import duration, printable, table
from flockpr.unit_status import view_lags

HEADERS = (
    *("INITIATOR", "PORT", "KEY", "LIVENESS", "HOST", "DOOR"),
    *("REGISTERED", "KEY TEXT", "WAITING", "ROLE"),
)


def screen(collected: Collected, style: Style = PLAIN) -> list[str]:
    """Lines about all logical units and hosts, with blank lines between them."""
    blocks = [describe(one, style) for one in collected.luns if one["error"] is None]
    if shown := current(collected.hosts, collected.luns):
        blocks.append(host_lines(shown))
    return [line for block in blocks for line in ("", *block)][1:]


def describe(document: Mapping[str, Any], style: Style = PLAIN) -> list[str]:
    """Lines about one logical unit.

    Args:
        document: Of `status_documents`.
        style: Colours.
    """
    rows = registration_rows(document["registrations"])
    lines = table(HEADERS, rows, indent="  ", paint=painter(style)) or [NOBODY]
    return [*lines_above(document, style), *lines, *lines_below(document, style)]


NOBODY = "  no registrations"


def lines_above(document: Mapping[str, Any], style: Style = PLAIN) -> list[str]:
    """What stands above the table of the registrants."""
    age = document["age_s"]
    name = style.strong(printable(document["name"]))
    return [
        f"{name}: generation {document['generation']}, "
        f"APTPL {'on' if document['aptpl'] else 'off'}, transaction {document['number']}"
        + ("" if age is None else f", changed {duration(age)} ago"),
        f"  reservation: {reservation_text(document)}",
    ]


def lines_below(document: Mapping[str, Any], style: Style = PLAIN) -> list[str]:
    """What stands below it."""
    lines: list[str] = []
    if (promise := document.get("promise")) is not None:
        lines += promise_summary(promise, image=document["image"] is not None)
    if busy(document.get("gate")):
        lines += detail_lines(document["gate"])
    pending = len(document["attentions"])
    if pending:
        text = f"unit attentions wait for {pending} initiator{'s' * (pending > 1)}"
        lines.append(f"  {style.warning(text)}")
    if document["published"] != "past" and view_lags(document):
        lines.append("  registry.json lags behind; the next command or daemon publishes it again")
    return lines


def registration_rows(registrations: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The rows of the table of the registrants, a cell for each of `HEADERS`."""
    now = dt.datetime.now(dt.UTC)
    rows: list[tuple[str, ...]] = []
    for one in registrations:
        age = age_of(one.get("registered_at"), now)
        waiting = " ".join(one["attentions"])
        rows.append(
            (
                one["initiator"],
                str(one["target_port"]),
                one["key"],
                one["liveness"],
                one["host"] or "",
                one["door"] or "",
                "" if age is None else f"{duration(age)} ago",
                one["key_text"] or "",
                waiting,
                "holder" if one["holder"] else "",
            )
        )
    return rows


def meaning(heading: str, cell: str) -> str:
    """What a cell of that table says, as a name of `Style`: how it is shown; empty: nothing."""
    if heading == "LIVENESS":
        return {"alive": "good", "gone": "bad", "unknown": "warning"}.get(cell, "")
    if heading == "ROLE" and cell:
        return "strong"
    return "warning" if heading == "WAITING" and cell else ""


def painter(style: Style) -> Callable[[str, str], str] | None:
    """Colours of the cells of that table; None without colours."""
    if style is PLAIN:
        return None

    def paint(heading: str, cell: str) -> str:
        name = meaning(heading, cell)
        return str(getattr(style, name)(cell)) if name else cell

    return paint


def reservation_text(document: Mapping[str, Any]) -> str:
    """The reservation in words."""
    reservation = document["reservation"]
    spc2 = document["spc2"]
    if reservation is not None and reservation["holder"] is not None:
        by = f"{port_text(reservation['holder'])}, key {reservation['key']}"
        return printable(f"{reservation['type_name']}, held by {by}")
    if reservation is not None:
        return printable(f"{reservation['type_name']}, held by every registrant")
    if spc2 is not None:
        return printable(f"SPC-2 RESERVE, held by {port_text(spc2)} ({spc2['liveness']})")
    return "none"


def port_text(nexus: Mapping[str, Any]) -> str:
    """A nexus in words."""
    return f"{nexus['initiator']} (port {nexus['target_port']})"
