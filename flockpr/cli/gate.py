"""`flockpr gate`: who holds permits and who waits, and answering for a host that is dead."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from flockpr.cli.common import (
    add_json,
    add_root,
    emit,
    emit_json,
    emit_nothing,
    error_document,
    find_root,
    naming,
    report,
)
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.gate_view import force_lines, gate_lines, host_lines
from flockpr.cli.text import printable
from flockpr.errors import StoreError

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs
    from flockpr.gate.overview import LunGate, Overview


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "gate", help="who may read and write, who waits for whom, and a host that is dead"
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="who holds permits, who knocks, who is silent")
    show.add_argument("lun", nargs="?", metavar="LUN", help="one logical unit (default: all)")
    add_root(show)
    add_json(show)
    show.set_defaults(run=_show)
    force = actions.add_parser(
        "force",
        help="declare a host fenced that keeps others waiting",
        description="Shows what it would do; does it with --yes. From then on no command of any "
        "host waits for the permits of that host, until it has been rebooted. If it can still "
        "write, data is destroyed: fence it first, by power or at the storage, and say how in "
        "--proof.",
    )
    which = force.add_mutually_exclusive_group(required=True)
    which.add_argument("lun", nargs="?", metavar="LUN", help="the logical unit that waits")
    which.add_argument("--all", action="store_true", help="any logical unit of the root")
    force.add_argument("--host", required=True, metavar="HOST", help="its name or number")
    force.add_argument(
        "--proof",
        required=True,
        metavar="TEXT",
        help="how it is known that the host cannot write any more; kept with the declaration",
    )
    force.add_argument("--yes", action="store_true", help="do it; without, only look")
    force.add_argument(
        "--yes-it-is-fenced",
        action="store_true",
        help="do it although the host was heard of a minute ago",
    )
    add_root(force)
    add_json(force)
    force.set_defaults(run=_force)
    forget = actions.add_parser(
        "forget",
        help="remove what was declared of a host that has been rebooted since",
        description="Shows what it would do; does it with --yes. The declaration keeps targets of "
        "that boot of the host from serving, so be sure that it is over.",
    )
    forget.add_argument("--host", required=True, metavar="HOST", help="its name or number")
    forget.add_argument("--yes", action="store_true", help="do it; without, only look")
    add_root(forget)
    add_json(forget)
    forget.set_defaults(run=_forget)


def _show(args: argparse.Namespace) -> int:
    from flockpr.gate.overview import Overview

    root = find_root(args)
    names = _names(root, args.lun)
    overview = Overview.of(root)
    code, gates, documents = _gates("gate show", root, names, overview)
    hosts = [overview.host_to_json(number) for number in overview.concerned(gates)]
    if args.json:
        emit_json({"root": root, "hosts": hosts, "luns": documents})
        return code
    blocks = [host_lines(hosts)]
    blocks += [gate_lines(one) for one in documents if one["error"] is None]
    emit([line for block in blocks for line in ("", *block)][1:])
    if not names:
        emit_nothing(root)
    return code


def _names(root: str, lun: str | None) -> list[str]:
    """The logical unit that was named, or all."""
    from flockpr.store.listing import list_luns, read_identity

    if lun:
        return [read_identity(root, lun).name]
    return [listing.name for listing in list_luns(root)]


def _gates(
    verb: str, root: str, names: list[str], overview: Overview
) -> tuple[ExitCode, list[LunGate], list[dict[str, Any]]]:
    """The gates of some logical units, and the objects that stand for them."""
    from flockpr.gate.overview import look
    from flockpr.store.listing import read_identity

    code = ExitCode.GOOD
    gates: list[LunGate] = []
    documents: list[dict[str, Any]] = []
    for name in names:
        try:
            identity = read_identity(root, name)
            gate = look(root, identity)
        except StoreError as error:
            # The other logical units are none the worse for this one.
            code = report(verb, error)
            documents.append({"name": name, "error": error_document(error)})
            continue
        document = None if gate is None else overview.gate_to_json(gate)
        documents.append({"name": name, "lun": identity.lun, "gate": document, "error": None})
        gates += [] if gate is None else [gate]
    return code, gates, documents


def _force(args: argparse.Namespace) -> int:
    from flockpr import events
    from flockpr.gate import forcing, stuck
    from flockpr.gate.fenced import check_proof
    from flockpr.gate.overview import Overview
    from flockpr.store.opening import open_store

    root = find_root(args)
    proof = check_proof(args.proof)
    names = _names(root, args.lun)
    overview = Overview.of(root)
    code, gates, documents = _gates("gate force", root, names, overview)
    if code and not args.all:
        return code
    with naming(os.path.join(root, args.lun or "")):
        number = forcing.resolve(overview, gates, args.host)
    # One that has all permits is not let pass by any declaration, so none is written.
    holding = stuck.gates_of(overview, gates, number)
    if holding and not any(gate.permits.get(number) for gate in gates):
        raise stuck.no_help(overview, holding, number)
    plan = forcing.plan(overview, gates, number)
    answered = forcing.answers(plan)
    forcing.check(plan, answered=answered, sure=args.yes_it_is_fenced or not args.yes)
    declared = plan.declared
    if (args.yes or args.yes_it_is_fenced) and declared is None:
        numbers = {gate.lun for gate in plan.gates}
        concerned = [one["name"] for one in documents if one.get("lun") in numbers]
        stores = [open_store(os.path.join(root, name)) for name in concerned]  # for events
        try:
            declared = forcing.carry_out(plan, proof, args.lun or "")
            events.flush()
        finally:
            for store in stores:
                store.close()
        overview = Overview.of(root)
    document = {
        "root": root,
        "done": declared is not None,
        "host": overview.host_to_json(number),
        "luns": [
            {"name": one["name"], "lun": one["lun"]}
            for one in documents
            if one.get("lun") in {gate.lun for gate in plan.gates}
        ],
        "stuck": [one["name"] for one in documents if one.get("lun") in {h.lun for h in holding}],
        "fresh": plan.fresh,
        "proof": declared.proof if declared else proof,
    }
    if args.json:
        emit_json(document)
    else:
        emit(force_lines(document, already=plan.declared is not None))
    return ExitCode.GOOD


def _forget(args: argparse.Namespace) -> int:
    from flockpr.gate import forgetting
    from flockpr.gate.overview import Overview

    root = find_root(args)
    overview = Overview.of(root)
    with naming(root):
        numbers = forgetting.declared(overview, args.host)
    code, gates, _ = _gates("gate forget", root, _names(root, None), overview)
    if code:
        return code  # its locks may be where nobody could look
    for number in numbers:
        forgetting.check(overview, gates, number)
    hosts = [overview.host_to_json(number) for number in numbers]
    if args.yes:
        for number in numbers:
            forgetting.carry_out(overview, number)
    if args.json:
        emit_json({"root": root, "done": args.yes, "hosts": hosts})
        return ExitCode.GOOD
    done = "forgotten" if args.yes else "would be forgotten; say --yes if it has been rebooted"
    emit([printable(f"{overview.label(number)}: {done}") for number in numbers])
    return ExitCode.GOOD
