"""`flockpr lun`: create, list, show, delete and power-cycle logical units."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from flockpr.cli.common import (
    add_json,
    add_root,
    emit,
    emit_json,
    error_document,
    find_root,
    note,
    report,
)
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.text import printable, table
from flockpr.errors import StoreError

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs
    from flockpr.store.identity import LunIdentity


def add(verbs: Verbs) -> None:
    """Describe the verb and its own verbs."""
    parser = verbs.add_parser("lun", help="create, list, show, delete, power-cycle logical units")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    create = actions.add_parser("create", help="make the lock directory of a new logical unit")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--group", help="share the directory with this group (default: nobody)")
    create.add_argument("--image", metavar="FILE", help="backing image, relative to the root")
    create.add_argument(
        "--wwid",
        action="append",
        default=[],
        metavar="ID",
        help="identifier of the host's device, as sysfs writes it; may be repeated",
    )
    create.add_argument("--serial", help="unit serial number (default: a new one)")
    add_json(create)
    _finish(create, _create)

    listing = actions.add_parser("list", help="the logical units of the root")
    add_json(listing)
    _finish(listing, _list)

    show = actions.add_parser("show", help="what identifies a logical unit")
    show.add_argument("name", metavar="NAME")
    add_json(show)
    _finish(show, _show)

    delete = actions.add_parser("delete", help="remove a logical unit and all it remembers")
    delete.add_argument("name", metavar="NAME")
    delete.add_argument(
        "--force",
        action="store_true",
        help="even if initiators are registered or hold a reservation",
    )
    _finish(delete, _delete)

    cycle = actions.add_parser(
        "power-cycle",
        help="act as if the unit had lost power: what was registered with APTPL=0 is gone",
    )
    cycle.add_argument("name", metavar="NAME")
    _finish(cycle, _power_cycle)


def _finish(parser: argparse.ArgumentParser, run: object) -> None:
    add_root(parser)
    parser.set_defaults(run=run)


def identity_document(identity: LunIdentity) -> dict[str, object]:
    """The identity of a logical unit as `--json` shows it (docs/cli.md)."""
    return {
        "name": identity.name,
        "incarnation": identity.incarnation,
        "naa": identity.naa,
        "serial": identity.serial,
        "wwids": list(identity.wwids),
        "lun": identity.lun,
        "image": identity.image,
        "target_ports": list(identity.target_ports),
        "created": identity.created,
        "store_format": identity.format,
    }


def _lines(root: str, identity: LunIdentity) -> list[str]:
    rows = {
        "name": identity.name,
        "directory": os.path.join(root, identity.name),
        "NAA": identity.naa,
        "serial": identity.serial,
        "LUN": str(identity.lun),
        "wwids": " ".join(identity.wwids) or "none",
        "image": identity.image or "none",
        "target ports": " ".join(str(port) for port in identity.target_ports),
        "created": identity.created,
        "incarnation": identity.incarnation,
        "format": str(identity.format),
    }
    return [f"{name + ':':14}{printable(value)}" for name, value in rows.items()]


def _create(args: argparse.Namespace) -> int:
    from flockpr.store.provision import create_lun

    root = find_root(args)
    missing = not os.path.lexists(root)
    identity = create_lun(
        root,
        args.name,
        group=args.group,
        image=args.image,
        wwids=tuple(args.wwid),
        serial=args.serial,
    )
    if missing:
        # Under a mount point that is not mounted it would be on this host alone.
        print(
            f"flockpr lun create: {printable(root)} did not exist and was made; if it belongs on "
            "a share, mount that first and create the logical unit there",
            file=sys.stderr,
        )
    if args.json:
        emit_json({"root": root, "lun": identity_document(identity)})
    else:
        emit([f"created {identity.name} in {printable(root)}", *_lines(root, identity)[2:6]])
    return ExitCode.GOOD


def _list(args: argparse.Namespace) -> int:
    from flockpr.store.provision import list_luns

    root = find_root(args)
    code = ExitCode.GOOD
    documents: list[dict[str, object]] = []
    rows: list[tuple[str, ...]] = []
    for listing in list_luns(root):
        identity = listing.identity
        if identity is None:
            # One damaged directory must not hide the others.
            fault = listing.error or StoreError("cannot be read", os.path.join(root, listing.name))
            code = report("lun list", fault)
            documents.append({"name": listing.name, "error": error_document(fault)})
            continue
        documents.append({**identity_document(identity), "error": None})
        rows.append((str(identity.lun), identity.name, identity.naa, identity.image or ""))
    if args.json:
        emit_json({"root": root, "luns": documents})
    elif rows:
        emit(table(("LUN", "NAME", "NAA", "IMAGE"), rows))
    elif not documents:
        emit([f"no logical units in {printable(root)}; `flockpr lun create NAME` makes one"])
    return code


def _show(args: argparse.Namespace) -> int:
    from flockpr.store.provision import read_identity

    root = find_root(args)
    identity = read_identity(root, args.name)
    if args.json:
        emit_json({"root": root, "lun": identity_document(identity)})
    else:
        emit(_lines(root, identity))
    return ExitCode.GOOD


def _delete(args: argparse.Namespace) -> int:
    from flockpr.store.removal import delete_lun

    delete_lun(find_root(args), args.name, force=args.force)
    emit([f"deleted {args.name}"])
    return ExitCode.GOOD


def _power_cycle(args: argparse.Namespace) -> int:
    from flockpr.logical_unit import LogicalUnit
    from flockpr.store.provision import read_identity

    root = find_root(args)
    name = read_identity(root, args.name).name
    with LogicalUnit.open(os.path.join(root, name), door="cli") as unit:
        fault = unit.lock_fault()
        if fault is not None:  # it needs no locks, but whoever is there should mend them
            note("lun power-cycle", fault, "done all the same")
        unit.power_cycle()
        left = len(unit.status().to_json()["registrations"])
    emit([f"power-cycled {name}: {left} registrations were kept (APTPL)"])
    return ExitCode.GOOD
