"""Finding things in the repository's Markdown."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^```")
_ROW = re.compile(r"^\|(.+)\|\s*$")


def pages() -> list[pathlib.Path]:
    """Every Markdown file that people read."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def read(name: str) -> str:
    """A page by its path in the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """The page without its fenced blocks."""
    kept, fenced = [], False
    for line in text.split("\n"):
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            kept.append(line)
    return "\n".join(kept)


def block_after(text: str, marker: str) -> str:
    """The fenced block that follows a marker line, without its fences."""
    lines = text.split("\n")
    start = lines.index(marker)
    begin = next(n for n in range(start, len(lines)) if _FENCE.match(lines[n])) + 1
    end = next(n for n in range(begin, len(lines)) if _FENCE.match(lines[n]))
    return "\n".join(lines[begin:end])


def section(text: str, heading: str) -> str:
    """What stands under a heading line, up to the next heading of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    lines = text.split("\n")
    start = lines.index(heading) + 1
    following = re.compile(rf"^#{{1,{level}}} ")
    end = next((n for n in range(start, len(lines)) if following.match(lines[n])), len(lines))
    return "\n".join(lines[start:end])


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every table row, without heading and rule."""
    inside = False
    for line in text.split("\n"):
        row = _ROW.match(line)
        if row is None:
            inside = False
            continue
        cells = [cell.strip() for cell in row[1].split("|")]
        if set("".join(cells)) <= set("-: "):
            inside = True
        elif inside:
            yield cells


def anchors(text: str) -> set[str]:
    """The fragments by which a page's headings can be linked to, as GitHub makes them."""
    found = set()
    for line in prose(text).split("\n"):
        if re.match(r"^#{1,6} ", line):
            title = re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower())
            found.add(title.replace(" ", "-"))
    return found
