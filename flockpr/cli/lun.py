"""`flockpr lun`: create, list, show, grow, clone, delete and power-cycle logical units."""

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
    emit_nothing,
    error_document,
    find_root,
    may_be_configured,
    note,
    report,
)
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.lun_view import HEADINGS, Viewer, lines, row
from flockpr.cli.promise_view import declare_configured, promise_document, promise_lines
from flockpr.cli.text import printable, table
from flockpr.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs
    from flockpr.store.identity import LunIdentity


def add(verbs: Verbs) -> None:
    """Describe the verb and its own verbs."""
    parser = verbs.add_parser("lun", help="create, list, show, grow, clone, delete, power-cycle")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    create = actions.add_parser(
        "create", help="make a new logical unit: its lock directory, and with --size its image"
    )
    create.add_argument("name", metavar="NAME")
    create.add_argument("--group", help="share the directory with this group (default: nobody)")
    create.add_argument("--size", metavar="SIZE", help="make an image of this size, such as 10G")
    create.add_argument(
        "--image",
        metavar="FILE",
        help="the image, relative to the root: as it is, or made by --size (default with --size: "
        "images/NAME.img)",
    )
    _add_ports(create)
    create.add_argument(
        "--wwid",
        action="append",
        default=[],
        metavar="ID",
        help="identifier of the host's device, as sysfs writes it; may be repeated",
    )
    create.add_argument("--serial", help="unit serial number (default: a new one)")
    create.add_argument(
        "--store",
        choices=("lockdir", "sqlite"),
        help="what keeps its transactions: files in a directory, or a database, on a file system "
        "of this host only (default: `store` of the configuration, else lockdir)",
    )
    create.add_argument(
        "--passed",
        action="store_true",
        help="mark the disk with these identifiers as one that keeps its reservations itself: it "
        "is emulated on no host",
    )
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
    delete.add_argument(
        "--image", action="store_true", help="delete its image, too (default: the image stays)"
    )
    add_json(delete)
    _finish(delete, _delete)

    grow = actions.add_parser("grow", help="make the image of a logical unit larger, in use or not")
    grow.add_argument("name", metavar="NAME")
    grow.add_argument("--size", metavar="SIZE", required=True, help="the new size, such as 20G")
    add_json(grow)
    _finish(grow, _grow)

    clone = actions.add_parser(
        "clone", help="make a new logical unit with a copy of another one's image"
    )
    clone.add_argument("name", metavar="NAME")
    clone.add_argument("new", metavar="NEW")
    clone.add_argument("--group", help="share it with this group (default: nobody)")
    clone.add_argument("--image", metavar="FILE", help="the copy (default: images/NEW.img)")
    clone.add_argument("--serial", help="unit serial number (default: a new one)")
    clone.add_argument(
        "--live",
        action="store_true",
        help="although it is in use: what a power cut would leave, where the file system can "
        "copy a file in one moment (reflink)",
    )
    _add_ports(clone)
    add_json(clone)
    _finish(clone, _clone)

    cycle = actions.add_parser(
        "power-cycle",
        help="act as if the unit had lost power: what was registered with APTPL=0 is gone",
    )
    cycle.add_argument("name", metavar="NAME")
    add_json(cycle)
    _finish(cycle, _power_cycle)


def _add_ports(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target-port",
        action="append",
        default=[],
        type=int,
        metavar="N",
        help="a portal with this tag may serve it, too (with an image always: 2); may be repeated",
    )


def _finish(parser: argparse.ArgumentParser, run: object) -> None:
    add_root(parser)
    parser.set_defaults(run=run)


def _create(args: argparse.Namespace) -> int:
    from flockpr.cli.text import parse_size
    from flockpr.store.images import check_usable
    from flockpr.store.provision import create_lun

    root = find_root(args)
    size = None if args.size is None else parse_size(args.size)
    if args.image is not None and size is None:
        check_usable(root, args.image)
    missing = not os.path.lexists(root)
    identity = create_lun(
        root,
        args.name,
        group=args.group,
        image=args.image,
        size=size,
        wwids=tuple(args.wwid),
        serial=args.serial,
        target_ports=args.target_port,
        store=_store(args),
        passed=args.passed,
    )
    if missing:
        # Under a mount point that is not mounted it would be on this host alone.
        print(
            f"flockpr lun create: {printable(root)} did not exist and was made; if it belongs on "
            "a share, mount that first and create the logical unit there",
            file=sys.stderr,
        )
    _show_new(args, root, identity, "created")
    return ExitCode.GOOD


def _store(args: argparse.Namespace) -> str:
    """What keeps the transactions of a new logical unit: the option, then the configuration."""
    from flockpr.store.kinds import LOCKDIR

    if args.store is not None:
        return str(args.store)
    if args.passed or not may_be_configured(args.config):
        return LOCKDIR
    from flockpr.daemon.config import load_settings

    try:
        return load_settings({"config": args.config}).create.store or LOCKDIR
    except ConfigError as error:
        # Whoever said where the root is can do without the file.
        note("lun create", error, "its transactions are in a lock directory")
        return LOCKDIR


def _show_new(args: argparse.Namespace, root: str, identity: LunIdentity, done: str) -> None:
    viewer = Viewer(args, root)
    document = viewer.document(identity)
    # Nothing is promised of a disk that keeps its reservations itself.
    passed = identity.passed
    promise = None if passed else promise_document(viewer.terms, root, identity.image)
    if args.json:
        emit_json({"root": root, "lun": document, "promise": promise})
    else:
        shown = ("naa", "serial", "lun", "size", "image", "iqn", "passed")
        emit([f"{done} {identity.name} in {printable(root)}", *lines(root, document, shown)])
        if promise is not None:
            emit(promise_lines(promise, image=identity.image is not None))


def _list(args: argparse.Namespace) -> int:
    from flockpr.store.listing import list_luns

    root = find_root(args)
    code = ExitCode.GOOD
    viewer = Viewer(args, root)
    documents: list[dict[str, object]] = []
    rows: list[tuple[str, ...]] = []
    for listing in list_luns(root, passed=True):
        identity = listing.identity
        if identity is None:
            # One damaged directory must not hide the others.
            fault = listing.error or StoreError("cannot be read", os.path.join(root, listing.name))
            code = report("lun list", fault)
            documents.append({"name": listing.name, "error": error_document(fault)})
            continue
        document = viewer.document(identity)
        documents.append({**document, "error": None})
        rows.append(row(document))
    if args.json:
        emit_json({"root": root, "luns": documents})
    elif rows:
        emit(table(HEADINGS, rows))
    elif not documents:
        emit_nothing(root)
    return code


def _show(args: argparse.Namespace) -> int:
    from flockpr.store.listing import read_identity

    root = find_root(args)
    document = Viewer(args, root).document(read_identity(root, args.name))
    if args.json:
        emit_json({"root": root, "lun": document})
    else:
        emit(lines(root, document))
    return ExitCode.GOOD


def _delete(args: argparse.Namespace) -> int:
    from flockpr.store.listing import read_identity
    from flockpr.store.removal import delete_lun

    root = find_root(args)
    image = read_identity(root, args.name).image
    if args.image:
        from flockpr.block.upkeep import delete_with_image

        delete_with_image(root, args.name, force=args.force)
    else:
        delete_lun(root, args.name, force=args.force)
    left = image is not None and os.path.lexists(os.path.join(root, image))
    if args.json:
        kept = image if left else None
        emit_json({"root": root, "name": args.name, "deleted": True, "image_left": kept})
        return ExitCode.GOOD
    emit([f"deleted {args.name}"])
    if left:
        emit([f"its image is still there: {printable(str(image))}"])
    return ExitCode.GOOD


def _grow(args: argparse.Namespace) -> int:
    from flockpr.block.upkeep import grow_lun
    from flockpr.cli.text import parse_size, size_text

    size = parse_size(args.size)
    declare_configured("lun grow", args.config)
    root = find_root(args)
    before = grow_lun(root, args.name, size)
    if args.json:
        emit_json({"root": root, "name": args.name, "size": size, "before": before})
        return ExitCode.GOOD
    emit(
        [
            f"{args.name}: {size_text(size)}"
            + (f", was {size_text(before)}" if before < size else "")
        ]
    )
    return ExitCode.GOOD


def _clone(args: argparse.Namespace) -> int:
    from flockpr.block.upkeep import clone_lun
    from flockpr.cli.clone_progress import counting
    from flockpr.cli.progress import Progress

    root = find_root(args)
    with Progress("lun clone", "MiB") as progress:
        identity = clone_lun(
            root,
            args.name,
            args.new,
            group=args.group,
            image=args.image,
            serial=args.serial,
            target_ports=args.target_port,
            live=args.live,
            calls=counting(progress),
        )
    _show_new(args, root, identity, f"cloned {args.name} to")
    return ExitCode.GOOD


def _power_cycle(args: argparse.Namespace) -> int:
    from flockpr.logical_unit import LogicalUnit
    from flockpr.store.listing import read_identity

    root = find_root(args)
    name = read_identity(root, args.name).name
    with LogicalUnit.open(os.path.join(root, name), door="cli") as unit:
        fault = unit.lock_fault()
        if fault is not None:  # it needs no locks, but whoever is there should mend them
            note("lun power-cycle", fault, "done all the same")
        unit.power_cycle()
        left = len(unit.status().to_json()["registrations"])
    if args.json:
        emit_json({"root": root, "name": name, "registrations_kept": left})
        return ExitCode.GOOD
    emit([f"power-cycled {name}: {left} registrations were kept (APTPL)"])
    return ExitCode.GOOD
