"""`flockpr timeline`: registrations, the holder and conflicts over time, as a picture."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from flockpr.cli.common import add_json, add_root, emit_json, find_root
from flockpr.cli.exit_codes import ExitCode
from flockpr.errors import ConfigError

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs
    from flockpr.unit_view import UnitView

_CONFLICT = 0x18
_KINDS = (".svg", ".html")


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "timeline", help="registrations, holder and conflicts over time, as a picture"
    )
    parser.add_argument("lun", metavar="LUN")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="FILE.svg or FILE.html (default: SVG to stdout)"
    )
    parser.add_argument(
        "--limit", type=_positive, default=100, metavar="N", help="the newest N transactions (100)"
    )
    add_root(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def run(args: argparse.Namespace) -> int:
    """Draw the picture, or print what would be drawn."""
    from flockpr.cli.timeline_svg import draw, page
    from flockpr.store.listing import read_identity
    from flockpr.unit_view import UnitView

    kind = os.path.splitext(args.output)[1].lower() if args.output else ".svg"
    if kind not in _KINDS:
        raise ConfigError(f"--output {args.output}: neither .svg nor .html")
    root = find_root(args)
    name = read_identity(root, args.lun).name
    with UnitView.of(os.path.join(root, name)) as unit:
        states = collect(unit, args.limit)
        conflicts = _conflicts(unit, states)
    if args.json:
        emit_json({"root": root, "name": name, "states": states, "conflicts": conflicts})
        return ExitCode.GOOD
    picture = draw(name, states, conflicts)
    text = page(name, picture) if kind == ".html" else picture
    if not args.output:
        sys.stdout.write(text)
        return ExitCode.GOOD
    with open(args.output, "w", encoding="utf-8") as file:
        file.write(text)
    return ExitCode.GOOD


def collect(unit: UnitView, limit: int) -> list[dict[str, Any]]:
    """The newest states that are kept, oldest first, and the commands that made them.

    Args:
        unit: The logical unit.
        limit: How many.

    Raises:
        StoreError: It cannot be read.
    """
    last = unit.status().to_json()["number"]
    first = max(1, unit.oldest_state(), last - limit + 1)
    commands: dict[int, list[str]] = {}
    for record in unit.history(first):
        told = f"{record.applied.action} {record.applied.nexus}".strip()
        commands.setdefault(record.number, []).append(told)
    states = []
    for number in range(first, last + 1):
        one = unit.status_at(number).to_json()
        reservation = one["reservation"]
        states.append(
            {
                "number": number,
                "time": one["committed_at"],
                "commands": commands.get(number, []),
                "type_name": None if reservation is None else reservation["type_name"],
                "registrations": [
                    {
                        key: registration[key]
                        for key in ("initiator", "target_port", "key", "holder")
                    }
                    for registration in one["registrations"]
                ],
            }
        )
    return states


def _conflicts(unit: UnitView, states: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Conflicts since the first state, as far as the journals go, oldest first."""
    begun = str(states[0]["time"]) if states else ""
    found = [
        {
            "time": str(one.get("time")),
            "initiator": str(one["initiator"]),
            "action": str(one["action"]),
        }
        for one in unit.refusals()
        if one.get("status") == _CONFLICT and one.get("initiator") and "action" in one
    ]
    return sorted((one for one in found if one["time"] >= begun), key=lambda one: one["time"])
