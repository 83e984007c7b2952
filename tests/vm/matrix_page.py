"""The table of the fault matrix in docs/promises.md, made from the figures of whole runs.

After a run that kept its figures::

    python -m tests.vm.matrix_page
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
EVIDENCE = DOCS / "evidence"
PAGE = DOCS / "promises.md"
BEGIN, END = "<!-- matrix -->", "<!-- end of matrix -->"
_ORDER = ("NFSv4.2", "NFSv4.1", "NFSv4.0", "NFSv3", "GFS2")
_NOTHING = "-"


def documents(folder: Path = EVIDENCE) -> list[dict[str, Any]]:
    """The figures that are kept, a document per file system."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("matrix-*.json")]
    return sorted(found, key=lambda one: _ORDER.index(one["column"]))


def cell(row: dict[str, Any] | None) -> str:
    """What the table says of one row on one file system."""
    if row is None:
        return _NOTHING
    if row["outcome"] != "held":
        return str(row["outcome"])
    shares = [
        f"{100 * row[acknowledged] / row[asked]:.1f} %"
        for acknowledged, asked in (("acknowledged", "outside"), ("transferred", "transfers"))
        if row.get(asked)
    ]
    stretch = f" × {row['slack']:.1f}" if row["slack"] > 1 else ""
    served = ", ".join(shares) or "100.0 %"
    return f"{row['recovery']:.0f} s of {row['bound']:.0f} s{stretch}, {served}"


def table(columns: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown."""
    names: list[str] = []
    for column in columns:
        names += [row["row"] for row in column["rows"] if row["row"] not in names]
    lines = [
        "| fault | " + " | ".join(column["column"] for column in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in names:
        cells = [_row(column, name) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("| in all | " + " | ".join(_sums(column) for column in columns) + " |")
    return "\n".join(lines)


def _row(column: dict[str, Any], name: str) -> str:
    found = [row for row in column["rows"] if row["row"] == name]
    return cell(found[0] if found else None)


def _sums(column: dict[str, Any]) -> str:
    def total(key: str) -> int:
        return sum(row[key] for row in column["rows"])

    return (
        f"{total('commands')} commands, {total('writes')} writes, "
        f"{total('rounds')} PREEMPTs, {total('checked')} blocks"
    )


def section(columns: Sequence[dict[str, Any]]) -> str:
    """Everything between the two marks."""
    notes = "\n".join(_note(column) for column in columns)
    return f"{BEGIN}\n\n{table(columns)}\n\n{notes}\n\n{END}"


def _note(column: dict[str, Any]) -> str:
    """What it was run on; the bounds of a busy machine are those of a quiet one times this."""
    slack = max((row["slack"] for row in column["rows"]), default=1.0)
    busy = f", bounds stretched by up to {slack:.1f}" if slack > 1 else ""
    on = ", ".join(f"{name} {value}" for name, value in column["on"].items())
    tested = ", ".join(dict.fromkeys(row["revision"] for row in column["rows"] if row["revision"]))
    return f"- {column['column']}: {on}, flockpr {tested}{busy}"


def current(page: str) -> str:
    """What stands between the marks now, with them."""
    return page[page.index(BEGIN) : page.index(END) + len(END)]


def main() -> None:
    """Write the section anew."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page.replace(current(page), section(documents())), encoding="utf-8")


if __name__ == "__main__":
    main()
