"""`flockpr status`: who is registered, who holds, who is alive, who serves."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flockpr.cli.common import add_json, add_root, emit, emit_json, emit_nothing, find_root
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.promise_view import configured_terms
from flockpr.cli.style import style_for
from flockpr.cli.text import printable

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs
    from flockpr.filesystems import Terms


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser("status", help="registrations, reservation and liveness")
    parser.add_argument("lun", nargs="?", metavar="LUN", help="one logical unit (default: all)")
    parser.add_argument(
        "--at",
        type=transaction,
        metavar="N",
        help="as it was after transaction N; needs LUN (`flockpr log` shows the numbers)",
    )
    add_root(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def transaction(text: str) -> int:
    """The number of a transaction.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 10**16:
        raise argparse.ArgumentTypeError(f"{text!r} is no transaction: a number from 1 on")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Print the status of one logical unit, or of all in the root."""
    from flockpr.cli.status_documents import collect, names_of
    from flockpr.cli.status_view import screen
    from flockpr.errors import ConfigError

    if args.at is not None:
        if not args.lun:
            raise ConfigError("--at needs the name of a logical unit")
        return _past(args)
    terms = configured_terms("status", args.config)
    root = find_root(args)
    names = names_of(root, args.lun)
    collected = collect("status", root, names, terms)
    probes = _probes(root, terms)
    if args.json:
        found = {"hosts": collected.hosts, "luns": collected.luns, "probes": probes}
        emit_json({"root": root, **found})
        return collected.code
    emit(screen(collected, style_for()))
    emit([_probe_line(one) for one in probes])
    if not names:
        emit_nothing(root)
    return collected.code


def _probes(root: str, terms: Terms) -> list[dict[str, Any]]:
    """The array `probes`: what probes on this host have found there, the newest first."""
    from flockpr.probe import kept

    found = kept.find(root, terms.sources)
    return [] if found is None else found.to_json()


def _probe_line(probe: Mapping[str, Any]) -> str:
    who = " and ".join(probe["hosts"])
    told = f"advisory {probe['advisory']}, gated {probe['gated']}"
    other = "" if probe["current"] else "; WITH ANOTHER MOUNT OR OTHER OPTIONS"
    return printable(f"probed on {who} at {probe['time']}: {told}{other}")


def _past(args: argparse.Namespace) -> int:
    from flockpr.cli.status_documents import names_of, status_document
    from flockpr.cli.status_view import describe
    from flockpr.unit_view import UnitView

    root = find_root(args)
    (name,) = names_of(root, args.lun)
    with UnitView.of(os.path.join(root, name)) as unit:
        found = status_document(unit, args.at)
        image = unit.identity.image
    # What can only be known of this moment is null.
    document = {**found, "promise": None, "image": image, "gate": None, "error": None}
    if args.json:
        emit_json({"root": root, "hosts": [], "luns": [document], "probes": []})
    else:
        emit(describe({**document, "published": "past"}, style_for()))
    return ExitCode.GOOD
