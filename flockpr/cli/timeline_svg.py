"""The picture of a timeline: one lane for each initiator, time from left to right by what happened.

A self-contained SVG: no script, no font, nothing to load. What a mouse rests on is explained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

_LEFT: Final = 16
_TOP: Final = 64
_LANE: Final = 44
_BAR: Final = 16
_STEP: Final = 34
_LETTER: Final = 7
"""About the width of a letter of the labels, in pixels."""
_STYLE: Final = (
    "text{font:12px sans-serif;fill:#222}.t{font-size:16px;font-weight:bold}.s{fill:#666}"
    ".r{fill:#9ecae1}.h{fill:#2171b5}.c{stroke:#cb181d;stroke-width:2.5}.l{stroke:#ddd}"
    ".k{font-size:10px;fill:#123}"
)

_PAGE_STYLE: Final = "body{margin:1em;font:14px sans-serif}div{overflow-x:auto}"


def draw(
    name: str, states: Sequence[Mapping[str, Any]], conflicts: Sequence[Mapping[str, Any]]
) -> str:
    """The SVG.

    Args:
        name: Of the logical unit.
        states: Of `timeline.collect`.
        conflicts: RESERVATION CONFLICTs, with `time`, `initiator` and `action`.
    """
    lanes = _lanes(states, conflicts)
    moments = sorted(
        [(str(one["time"]), 0, number) for number, one in enumerate(states)]
        + [(str(one["time"]), 1, number) for number, one in enumerate(conflicts)]
    )
    left = _LEFT + _LETTER * max((len(lane) for lane in lanes), default=0) + 24
    at = {(kind, number): left + _STEP * place for place, (_, kind, number) in enumerate(moments)}
    end = left + _STEP * max(1, len(moments))
    width, height = end + 24, _TOP + _LANE * max(1, len(lanes)) + 40
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(name)}</title><style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="26" class="t">{escape(name)}</text>',
        f'<text x="{_LEFT}" y="46" class="s">{escape(_span(states))}</text>',
    ]
    for place, lane in enumerate(lanes):
        middle = _TOP + _LANE * place + _LANE // 2
        parts.append(f'<text x="{_LEFT}" y="{middle + 4}">{escape(lane)}</text>')
        parts.append(f'<line class="l" x1="{left}" y1="{middle}" x2="{end}" y2="{middle}"/>')
        parts += _bars(lane, states, at, end, middle)
        parts += [
            _cross(at[1, number], middle, one)
            for number, one in enumerate(conflicts)
            if one["initiator"] == lane
        ]
    parts += _axis(states, at, height - 18)
    return "\n".join([*parts, "</svg>"]) + "\n"


def page(name: str, picture: str) -> str:
    """The SVG in a page of its own."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(name)}</title><style>{_PAGE_STYLE}</style></head><body>\n"
        f"<div>{picture}</div>\n"
        "<p>Light blue: registered. Dark blue: holds the reservation. Red cross: RESERVATION "
        "CONFLICT. From left to right in the order in which it happened, not to scale.</p>\n"
        "</body></html>\n"
    )


def _lanes(
    states: Iterable[Mapping[str, Any]], conflicts: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Everybody who appears, in the order of appearance."""
    names = [one["initiator"] for state in states for one in state["registrations"]]
    names += [one["initiator"] for one in conflicts]
    return list(dict.fromkeys(names))


def _span(states: Sequence[Mapping[str, Any]]) -> str:
    if not states:
        return "nothing is kept"
    first, last = states[0], states[-1]
    return f"transactions {first['number']} to {last['number']}, {first['time']} to {last['time']}"


def _bars(
    lane: str,
    states: Sequence[Mapping[str, Any]],
    at: Mapping[tuple[int, int], int],
    end: int,
    middle: int,
) -> list[str]:
    """A bar for each stretch of states in which an initiator is the same."""
    parts = []
    begun, before = 0, ""
    stretches: list[tuple[int, int, str, Mapping[str, Any]]] = []
    for number, state in enumerate([*states, {"registrations": []}]):
        own = [one for one in state["registrations"] if one["initiator"] == lane]
        now = f"{own[0]['key']} {any(one['holder'] for one in own)}" if own else ""
        if now != before:
            if before:
                stretches.append((begun, number, before, states[number - 1]))
            begun, before = number, now
    for first, after, what, state in stretches:
        key, _, holds = what.partition(" ")
        x = at[0, first]
        width = (at[0, after] if after < len(states) else end) - x
        held = f", holds {state['type_name']}" if holds == "True" else ""
        told = f"{lane}: key {key}{held}, from transaction {states[first]['number']}"
        top, kind = middle - _BAR // 2, "h" if held else "r"
        parts.append(
            f"<g><title>{escape(told)}</title>"
            f'<rect class="{kind}" x="{x}" y="{top}" width="{width}" height="{_BAR}" rx="3"/>'
            f'<text class="k" x="{x + 3}" y="{top - 3}">{escape(_short(key))}</text></g>'
        )
    return parts


def _short(key: str) -> str:
    return f"{int(key, 16):#x}"


def _cross(x: int, middle: int, conflict: Mapping[str, Any]) -> str:
    told = (
        f"{conflict['initiator']}: {conflict['action']}, RESERVATION CONFLICT, {conflict['time']}"
    )
    lines = "".join(
        f'<line class="c" x1="{x - 6}" y1="{middle - rise}" x2="{x + 6}" y2="{middle + rise}"/>'
        for rise in (6, -6)
    )
    return f"<g aria-label={quoteattr(told)}><title>{escape(told)}</title>{lines}</g>"


def _axis(
    states: Sequence[Mapping[str, Any]], at: Mapping[tuple[int, int], int], y: int
) -> list[str]:
    parts = []
    for number, state in enumerate(states):
        told = f"{state['number']}: {'; '.join(state['commands']) or 'nothing'}, {state['time']}"
        parts.append(
            f'<g><title>{escape(told)}</title><text class="s" x="{at[0, number]}" y="{y}">'
            f"{state['number']}</text></g>"
        )
    return parts
