"""`flockpr upgrade`: let the daemons write a newer on-disk format."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from flockpr.cli.common import add_root, emit, find_root, report
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.text import printable
from flockpr.errors import StoreError

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs

NEWEST = 1
"""The newest format that this version writes; there has been only one."""


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "upgrade", help="switch logical units to the newest on-disk format, once all hosts read it"
    )
    parser.add_argument("lun", nargs="*", metavar="LUN", help="these only (default: all)")
    add_root(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Bring the logical units to `NEWEST`; one that is there already is left untouched."""
    from flockpr.store.provision import list_luns, read_identity

    root = find_root(args)
    code = ExitCode.GOOD
    names = args.lun or [listing.name for listing in list_luns(root)]
    for name in names:
        try:
            identity = read_identity(root, name)
        except StoreError as error:
            code = report("upgrade", error)
            continue
        emit([f"{printable(name)}: format {identity.format} is the newest, nothing to do"])
    if not names:
        emit([f"no logical units in {printable(root)}"])
    return code
