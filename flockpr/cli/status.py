"""`flockpr status`: who is registered, who holds, who is alive, who serves."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

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
from flockpr.cli.gate_view import busy, current, detail_lines, host_lines
from flockpr.cli.promise_view import configured_terms, promise_document, promise_summary
from flockpr.cli.text import duration, printable, table
from flockpr.errors import StoreError

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs
    from flockpr.gate.overview import LunGate, Overview
    from flockpr.store.identity import LunIdentity


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser("status", help="registrations, reservation and liveness")
    parser.add_argument("lun", nargs="?", metavar="LUN", help="one logical unit (default: all)")
    add_root(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the status of one logical unit, or of all in the root."""
    from flockpr.gate.overview import Overview
    from flockpr.logical_unit import LogicalUnit
    from flockpr.store.provision import list_luns, read_identity

    terms = configured_terms("status", args.config)
    root = find_root(args)
    if args.lun:
        names = [read_identity(root, args.lun).name]
    else:
        names = [listing.name for listing in list_luns(root)]
    code = ExitCode.GOOD
    overview = Overview.of(root)
    gates: list[LunGate] = []
    documents: list[dict[str, Any]] = []
    for name in names:
        try:
            with LogicalUnit.open(os.path.join(root, name), door="cli") as unit:
                documents.append(
                    {
                        **unit.status().to_json(),
                        "promise": promise_document(terms, root, unit.identity.image),
                        "image": unit.identity.image,
                        "gate": gate_document(overview, unit.identity, gates),
                        "error": None,
                    }
                )
                fault = unit.lock_fault()
            if fault is not None:
                note("status", fault, "liveness is unknown")
        except StoreError as error:
            # The other logical units are none the worse for this one.
            code = report("status", error)
            documents.append({"name": name, "error": error_document(error)})
    hosts = [overview.host_to_json(number) for number in overview.concerned(gates)]
    if args.json:
        emit_json({"root": root, "hosts": hosts, "luns": documents})
        return code
    blocks = [describe(document) for document in documents if document["error"] is None]
    if shown := current(hosts, documents):
        blocks.append(host_lines(shown))
    emit([line for block in blocks for line in ("", *block)][1:])
    if not names:
        emit([f"no logical units in {printable(root)}; `flockpr lun create NAME` makes one"])
    return code


def gate_document(
    overview: Overview, identity: LunIdentity, gates: list[LunGate]
) -> dict[str, Any] | None:
    """The gate of one logical unit, which is added to `gates`; None where there is none to show."""
    from flockpr.gate.overview import look

    try:
        gate = look(overview.root, identity)
    except StoreError as error:
        note("status", error, "who has permits is unknown")
        return None
    if gate is None:
        return None
    gates.append(gate)
    return overview.gate_to_json(gate)


def describe(document: dict[str, Any]) -> list[str]:
    """Lines for people about one logical unit.

    Args:
        document: `UnitStatus.to_json()`, and what is promised.
    """
    age = document["age_s"]
    lines = [
        f"{printable(document['name'])}: generation {document['generation']}, "
        f"APTPL {'on' if document['aptpl'] else 'off'}, transaction {document['number']}"
        + ("" if age is None else f", changed {duration(age)} ago"),
        f"  reservation: {_reservation(document)}",
    ]
    registrations = document["registrations"]
    rows = [
        (
            one["initiator"],
            str(one["target_port"]),
            one["key"],
            one["liveness"],
            one["host"] or "",
            one["door"] or "",
            "holder" if one["holder"] else "",
        )
        for one in registrations
    ]
    if rows:
        lines += table(
            ("INITIATOR", "PORT", "KEY", "LIVENESS", "HOST", "DOOR", "ROLE"), rows, indent="  "
        )
    else:
        lines.append("  no registrations")
    if (promise := document["promise"]) is not None:
        lines += promise_summary(promise, image=document["image"] is not None)
    if busy(document["gate"]):
        lines += detail_lines(document["gate"])
    pending = len(document["attentions"])
    if pending:
        lines.append(f"  unit attentions wait for {pending} initiator{'s' * (pending > 1)}")
    if document["published"] != document["number"]:
        lines.append("  registry.json lags behind; the next command or daemon publishes it again")
    return lines


def _reservation(document: dict[str, Any]) -> str:
    """The reservation in words."""
    reservation = document["reservation"]
    spc2 = document["spc2"]
    if reservation is not None and reservation["holder"] is not None:
        by = f"{_port(reservation['holder'])}, key {reservation['key']}"
        return printable(f"{reservation['type_name']}, held by {by}")
    if reservation is not None:
        return printable(f"{reservation['type_name']}, held by every registrant")
    if spc2 is not None:
        return printable(f"SPC-2 RESERVE, held by {_port(spc2)} ({spc2['liveness']})")
    return "none"


def _port(nexus: dict[str, Any]) -> str:
    return f"{nexus['initiator']} (port {nexus['target_port']})"
