"""`flockpr diff`: what changed between two transactions of a logical unit."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from flockpr.cli.common import add_json, add_root, emit, emit_json, find_root
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.status import transaction
from flockpr.cli.text import printable

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs

_PLAIN = ("generation", "aptpl", "power_cycles")
"""Keys of a status that are compared as they are."""


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser("diff", help="what changed between two transactions")
    parser.add_argument("lun", metavar="LUN")
    parser.add_argument("first", type=transaction, metavar="N", help="the earlier transaction")
    parser.add_argument(
        "last", type=transaction, nargs="?", metavar="M", help="the later one (default: the newest)"
    )
    add_root(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the differences, and the commands that made them."""
    from flockpr.store.listing import read_identity
    from flockpr.unit_view import UnitView

    root = find_root(args)
    name = read_identity(root, args.lun).name
    with UnitView.of(os.path.join(root, name)) as unit:
        before = unit.status_at(args.first).to_json()
        after = (unit.status() if args.last is None else unit.status_at(args.last)).to_json()
        low, high = sorted((before["number"], after["number"]))
        records = [one.to_json() for one in unit.history(low + 1) if one.number <= high]
    document = {"root": root, "name": name, **compare(before, after), "commands": records}
    if args.json:
        emit_json(document)
    else:
        emit(_lines(document))
    return ExitCode.GOOD


def compare(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The differences of two documents of `UnitStatus.to_json`."""
    first, last = (_by_nexus(one) for one in (before, after))
    return {
        "from": {"number": before["number"], "committed_at": before["committed_at"]},
        "to": {"number": after["number"], "committed_at": after["committed_at"]},
        "changed": {
            key: {"from": before[key], "to": after[key]}
            for key in _PLAIN
            if before[key] != after[key]
        },
        "reservation": None
        if before["reservation"] == after["reservation"]
        else {"from": before["reservation"], "to": after["reservation"]},
        "registered": [_short(last[one]) for one in last if one not in first],
        "gone": [_short(first[one]) for one in first if one not in last],
        "rekeyed": [
            {**_short(last[one]), "before": first[one]["key"]}
            for one in last
            if one in first and first[one]["key"] != last[one]["key"]
        ],
        "attentions": {"from": before["attentions"], "to": after["attentions"]},
    }


def _by_nexus(document: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    return {(one["initiator"], one["target_port"]): one for one in document["registrations"]}


def _short(registration: dict[str, Any]) -> dict[str, Any]:
    return {key: registration[key] for key in ("initiator", "target_port", "key")}


def _lines(document: dict[str, Any]) -> list[str]:
    from flockpr.cli.status_view import reservation_text

    first, last = document["from"], document["to"]
    lines = [f"{document['name']}: transaction {first['number']} -> {last['number']}"]
    for key, values in document["changed"].items():
        lines.append(f"  {key.replace('_', ' ')}: {values['from']} -> {values['to']}")
    if document["reservation"] is not None:
        texts = [
            reservation_text({"reservation": document["reservation"][side], "spc2": None})
            for side in ("from", "to")
        ]
        lines += [f"- reservation: {texts[0]}", f"+ reservation: {texts[1]}"]
    lines += [f"- {_registration(one)}" for one in document["gone"]]
    lines += [f"+ {_registration(one)}" for one in document["registered"]]
    lines += [f"~ {_registration(one)}, was {one['before']}" for one in document["rekeyed"]]
    if document["attentions"]["from"] != document["attentions"]["to"]:
        counts = [len(document["attentions"][side]) for side in ("from", "to")]
        lines.append(f"  initiators with unit attentions: {counts[0]} -> {counts[1]}")
    if len(lines) == 1:
        lines.append("  no difference")
    lines += ["by:", *map(_command, document["commands"])] if document["commands"] else []
    return [printable(line) for line in lines]


def _registration(one: dict[str, Any]) -> str:
    return f"{one['initiator']} (port {one['target_port']}), key {one['key']}"


def _command(record: dict[str, Any]) -> str:
    who = record["initiator"] or record["host"]
    return f"  {record['number']}  {record['time']}  {who}  {record['action']}"
