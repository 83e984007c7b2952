"""`flockpr doctor`: why commands conflict, who is left over, and what it takes to put it right."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flockpr.cli.common import (
    add_json,
    add_root,
    emit,
    emit_json,
    error_document,
    find_root,
    naming,
    report,
)
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.text import printable
from flockpr.errors import Busy, ConfigError, FlockprError, StoreError

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs
    from flockpr.cli.doctor_plan import Plan
    from flockpr.logical_unit import LogicalUnit


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "doctor", help="why commands conflict, who is left over, and what to do about it"
    )
    parser.add_argument("lun", nargs="?", metavar="LUN", help="one logical unit (default: all)")
    parser.add_argument(
        "--nexus", metavar="NAME", help="explain what this initiator may do, and why not more"
    )
    parser.add_argument(
        "--evict",
        metavar="NAME",
        help="take away the registration of this initiator; shows what would happen, needs LUN",
    )
    parser.add_argument("--yes", action="store_true", help="do it")
    parser.add_argument(
        "--proof", metavar="TEXT", help="how it is known that the one to evict writes no more"
    )
    parser.add_argument("--force", action="store_true", help="evict without a proof")
    add_root(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Explain; with --evict plan a change, and with --yes make it."""
    if args.evict is not None and not args.lun:
        raise ConfigError("--evict needs the name of a logical unit")
    return _evict(args) if args.evict is not None else _explain(args)


def _explain(args: argparse.Namespace) -> int:
    from flockpr.cli.doctor_devices import find_passed
    from flockpr.cli.doctor_findings import examine
    from flockpr.cli.status_documents import names_of
    from flockpr.store.kinds import SQLITE, store_of
    from flockpr.unit_view import UnitView

    root = find_root(args)
    code = ExitCode.GOOD
    documents: list[dict[str, Any]] = []
    for name in names_of(root, args.lun):
        try:
            with UnitView.of(os.path.join(root, name)) as unit:
                status = unit.status().to_json()
                refusals = list(unit.refusals())
                findings = [*examine(status, refusals, args.nexus), *find_passed(root, name)]
                if store_of(os.path.join(root, name)) == SQLITE:
                    from flockpr.cli.doctor_database import find_damage

                    findings += find_damage(root, name)
            documents.append({"name": name, "findings": findings, "error": None})
        except StoreError as error:
            code = report("doctor", error)
            documents.append({"name": name, "findings": [], "error": error_document(error)})
    if args.json:
        emit_json({"root": root, "luns": documents})
        return code
    lines: list[str] = []
    for document in documents:
        if document["error"] is None:
            lines += _finding_lines(document["name"], document["findings"])
    emit([printable(line) for line in lines[1:]])
    return code


def _finding_lines(name: str, findings: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["", f"{name}:"]
    for one in findings:
        lines += _wrapped(one["text"], "  ")
        lines += [f"    try: {one['remedy']}"] if one["remedy"] else []
    return lines


def _wrapped(text: str, indent: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 96, initial_indent=indent, subsequent_indent=indent)


# ------------------------------------------------------------------ evicting


def _evict(args: argparse.Namespace) -> int:
    from flockpr.cli.doctor_plan import make_plan
    from flockpr.logical_unit import LogicalUnit
    from flockpr.store.listing import read_identity

    root = find_root(args)
    name = read_identity(root, args.lun).name
    with LogicalUnit.open(os.path.join(root, name), door="cli") as unit, naming(name):
        status = unit.status()
        plan = make_plan(status, args.evict)
        refusal = _why_not(args, plan, root)
        if args.yes and refusal is not None:
            raise refusal
        done = args.yes and _carry_out(unit, name, plan)
        after = unit.status().to_json()["registrations"] if done else None
    document = {"root": root, "name": name, **plan.to_json(), "done": done, "after": after}
    document["refused"] = None if refusal is None else str(refusal)
    if args.json:
        emit_json(document)
    else:
        emit([printable(line) for line in _plan_lines(plan, refusal, done=done)])
    return ExitCode.GOOD


def _why_not(args: argparse.Namespace, plan: Plan, root: str) -> ConfigError | None:
    """Why this must not be done as it stands."""
    if args.force or args.proof or plan.liveness == "gone" or _declared(root, plan.host):
        return None
    state = "alive" if plan.liveness == "alive" else "perhaps alive"
    return ConfigError(
        f"{plan.victim} is {state}: who is evicted while it writes loses data",
        "stop it first, and say how that is known with --proof TEXT; or --force",
    )


def _declared(root: str, host: str | None) -> bool:
    """Whether the registrant's host was declared fenced."""
    from flockpr.gate import fenced
    from flockpr.store.syscalls import Syscalls

    return any(one.host == host for one in fenced.read(root, Syscalls()).values() if one.host)


def _carry_out(unit: LogicalUnit, name: str, plan: Plan) -> bool:
    from flockpr.spc.codes import Status

    for step in plan.steps:
        # What waits to be told to the nexus in whose name this is sent goes on waiting for it.
        result = unit.execute(step.nexus, step.cdb, step.data_out, report_attentions=False)
        if result.status == Status.BUSY:
            raise Busy(f"{step.text}: it is busy", name, "run it again")
        if result.status != Status.GOOD:
            answer = result.status.name.replace("_", " ")
            raise FlockprError(
                f"{name}: {step.text}: answered {answer}; look again with `flockpr doctor`"
            )
    return True


def _plan_lines(plan: Plan, refusal: ConfigError | None, *, done: bool) -> list[str]:
    head = "evicted" if done else "would evict"
    key = plan.to_json()["key"]
    lines = [f"{head} {plan.victim}, key {key}, {plan.liveness}"]
    lines += [f"  {step.text}" for step in plan.steps]
    lines.append(f"then: {plan.reservation_after}")
    lines.append(f"  registered: {', '.join(plan.registered_after) or 'nobody'}")
    lines += [f"  {who} finds {what}" for who, what in plan.attentions]
    if not done and refusal is not None:
        lines.append(f"refused as it stands: {refusal}")
        lines.append(f"  remedy: {refusal.remedy}")
    elif not done:
        lines.append("nothing was done; do it with --yes")
    return lines
