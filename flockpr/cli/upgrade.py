"""`flockpr upgrade`: let the daemons write a newer on-disk format."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from flockpr.cli.common import (
    add_json,
    add_root,
    emit,
    emit_json,
    error_document,
    find_root,
    report,
)
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.text import printable
from flockpr.errors import StoreError

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "upgrade", help="switch logical units to the newest on-disk format, once all hosts read it"
    )
    parser.add_argument("lun", nargs="*", metavar="LUN", help="these only (default: all)")
    add_root(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Bring the logical units to the newest format; one that is there is left untouched."""
    from flockpr.store.listing import list_luns
    from flockpr.store.provision import upgrade_lun

    root = find_root(args)
    code = ExitCode.GOOD
    documents: list[dict[str, object]] = []
    lines: list[str] = []
    names = args.lun or [listing.name for listing in list_luns(root)]
    for name in names:
        try:
            before, now = upgrade_lun(root, name)
        except StoreError as error:
            code = report("upgrade", error)
            documents.append({"name": name, "error": error_document(error)})
            continue
        what = "is the newest, nothing to do" if before == now else f"instead of {before} from now"
        lines.append(f"{printable(name)}: format {now} {what}")
        documents.append({"name": name, "before": before, "now": now, "error": None})
    if args.json:
        emit_json({"root": root, "luns": documents})
    else:
        emit(lines if names else [f"no logical units in {printable(root)}"])
    return code
