"""`flockpr import`: take over what was registered and reserved at another target."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from flockpr.cli.common import add_json, add_root, emit, emit_json, find_root
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.exporting import FORMATS, pair
from flockpr.cli.text import printable
from flockpr.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs
    from flockpr.core.events import Adoption

MAX_FILE = 16 << 20
"""Bytes of a file that is taken."""


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "import", help="take over registrations and reservation from another target's file"
    )
    parser.add_argument("lun", metavar="LUN", help="a logical unit on which nobody is registered")
    parser.add_argument("file", metavar="FILE", help="what was saved or exported there")
    parser.add_argument("--format", choices=FORMATS, help="whose file it is (default: found out)")
    parser.add_argument(
        "--target-port",
        type=int,
        metavar="N",
        help="register all at this relative target port (default: as the file says)",
    )
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        type=pair,
        metavar="OLD=NEW",
        help="an initiator has this name here; may be repeated",
    )
    parser.add_argument("--yes", action="store_true", help="do it (default: show it)")
    add_root(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show what would be taken over; with --yes take it over, in one transaction."""
    from flockpr.cli.formats import detect, find
    from flockpr.cli.formats.resolve import resolve
    from flockpr.logical_unit import LogicalUnit
    from flockpr.store.listing import read_identity

    root = find_root(args)
    identity = read_identity(root, args.lun)
    data = _read(args.file)
    format_name = args.format or detect(data, args.file)
    try:
        registry = find(format_name).read(data)
        adoption, notes = resolve(registry, identity, args.target_port, dict(args.rename))
    except ConfigError as error:
        raise ConfigError(f"{args.file} ({format_name}): {error}", error.remedy) from None
    path = os.path.join(root, identity.name)
    with LogicalUnit.open(path, door="cli") as unit:
        state = unit.snapshot().state
        _check_free(state, path)
        passed = adoption.generation is not None and adoption.generation <= state.generation
        if passed:
            notes.append(f"PRGENERATION, since that of {identity.name} is {state.generation}")
        number = unit.adopt(adoption).number if args.yes else None
    document = {
        "root": root,
        "name": identity.name,
        "file": args.file,
        "format_name": format_name,
        **_shown(adoption),
        "generation": None if passed else adoption.generation,
        "notes": notes,
        "done": args.yes,
        "number": number,
    }
    if args.json:
        emit_json(document)
    else:
        emit([printable(line) for line in _lines(document, find(format_name).TITLE)])
    return ExitCode.GOOD


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise ConfigError(f"{path}: larger than {MAX_FILE >> 20} MiB, and no such file")
    return data


def _check_free(state: Any, path: str) -> None:
    """Say early, also of what is only shown, that nothing is overwritten."""
    from flockpr.store.removal import usage

    used = usage(state)
    if used:
        remedy = "`flockpr status` shows by whom; unregister them, or import into a new one"
        raise StoreError(f"{used}; nothing is overwritten", path, remedy)


def _shown(adoption: Adoption) -> dict[str, Any]:
    from flockpr.store.base import key_text
    from flockpr.unit_status import TYPE_NAMES

    held = adoption.reservation
    registrations = [
        {
            "initiator": one.nexus.initiator_port.text,
            "target_port": one.nexus.target_port,
            "key": key_text(one.key),
            "all_target_ports": one.all_target_ports,
            "holder": held is not None and held.holder in (None, one.nexus),
        }
        for one in adoption.registrations
    ]
    reservation = None
    if held is not None:
        reservation = {"type": int(held.type), "type_name": TYPE_NAMES[held.type]}
    return {
        "registrations": registrations,
        "reservation": reservation,
        "aptpl": adoption.aptpl,
    }


def _lines(document: dict[str, Any], title: str) -> list[str]:
    count = len(document["registrations"])
    done = "imported" if document["done"] else "would import"
    lines = [
        f"{done} {count} registration{'s'[: count != 1]} into {document['name']}, from {title}"
    ]
    for one in document["registrations"]:
        text = f"  {one['initiator']} at target port {one['target_port']}, key {one['key']}"
        lines.append(text + (", holder" if one["holder"] else ""))
    held = document["reservation"]
    lines.append(f"reservation: {'none' if held is None else held['type_name']}")
    generation = document["generation"]
    counted = "counts on" if generation is None else str(generation)
    lines.append(f"PRGENERATION: {counted}; APTPL: {int(document['aptpl'])}")
    lines += [f"not taken from the file: {note}" for note in document["notes"]]
    if document["done"]:
        lines.append(f"transaction {document['number']}")
    else:
        lines.append("nothing was done; do it with --yes")
    return lines
