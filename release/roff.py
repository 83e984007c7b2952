"""Markdown, as far as the pages of this project use it, as man(7) macros."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_INLINE = re.compile(
    r"`(?P<code>[^`]+)`|\*\*(?P<bold>[^*]+)\*\*|\*(?P<italic>[^*]+)\*"
    r"|\[(?P<label>[^\]]+)\]\((?P<link>[^)\s]+)\)"
)
_ITEM = re.compile(r"^- ")
_RULE = re.compile(r"^\|[-| :]+\|$")


def escape(text: str) -> str:
    """Text that is to be seen as it is: no requests, no escapes, hyphens that can be copied."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = text.replace("'", "\\(aq").replace("`", "\\(ga").replace("^", "\\(ha")
    return "\n".join(
        "\\&" + line if line.startswith((".", "'")) else line for line in text.split("\n")
    )


def bold(text: str) -> str:
    """In bold face."""
    return f"\\fB{escape(text)}\\fR"


def italic(text: str) -> str:
    """In italics; what the reader has to replace."""
    return f"\\fI{escape(text)}\\fR"


def literal(lines: Iterable[str]) -> list[str]:
    """Lines that stay as they are."""
    return [".RS 4", ".EX", *(escape(line) for line in lines), ".EE", ".RE"]


def inline(text: str) -> str:
    """A sentence with its code, emphasis and links."""
    parts, end = [], 0
    for found in _INLINE.finditer(text):
        parts += [escape(text[end : found.start()]), _marked(found)]
        end = found.end()
    joined = "".join((*parts, escape(text[end:])))
    return "\\&" + joined if joined.startswith((".", "'")) else joined


def _marked(found: re.Match[str]) -> str:
    kind = found.lastgroup
    if kind == "link":
        return inline(found["label"])
    return italic(found[str(kind)]) if kind == "italic" else bold(found[str(kind)])


def convert(markdown: str) -> list[str]:
    """Paragraphs, lists, tables and fenced blocks; headings become subsections.

    Args:
        markdown: The text of a section.
    """
    lines: list[str] = []
    for block in _blocks(markdown):
        first = block[0]
        if first.startswith("<!--"):
            continue
        if first.startswith("```"):
            lines += literal(block[1:])
        elif first.startswith("#"):
            lines.append(f'.SS "{inline(first.lstrip("# "))}"')
        elif first.startswith("|"):
            lines += _table(block)
        elif _ITEM.match(first):
            lines += _items(block)
        else:
            lines += [".PP", *map(inline, block)]
    return lines


def _blocks(markdown: str) -> Iterator[list[str]]:
    """What stands between empty lines; a fenced block is one, whatever is in it."""
    block: list[str] = []
    fenced = False
    for line in markdown.strip("\n").split("\n"):
        if line.startswith("```"):
            if fenced:
                yield block
                block, fenced = [], False
                continue
            if block:
                yield block
            block, fenced = [line], True
        elif fenced or line.strip():
            if not fenced and block and (line.startswith("#") or block[0].startswith(("#", "<!"))):
                yield block
                block = []
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def _items(block: list[str]) -> list[str]:
    lines: list[str] = []
    for line in block:
        if _ITEM.match(line):
            lines += [".IP \\(bu 3", inline(line[2:])]
        else:
            lines.append(inline(line.strip()))
    return lines


def _table(block: list[str]) -> list[str]:
    """The first column as tags, the others as their text; man pages are narrow."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block]
    body = rows[2:] if len(block) > 1 and _RULE.match(block[1]) else rows
    lines: list[str] = []
    for first, *others in body:
        lines += [".TP", inline(first), inline("; ".join(filter(None, others))) or "\\&"]
    return lines
