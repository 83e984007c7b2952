"""`flockpr probe`: test a directory before it is trusted."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from flockpr.cli.common import add_json, emit, emit_json
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.text import printable, table

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs
    from flockpr.probe.report import Report

_DOORS = {"advisory": "the helper door", "gated": "the target door"}


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "probe",
        help="test a directory before it is trusted, alone or with a second host",
        description="Tries in a directory of its own below DIR what flockpr relies on, and says "
        "for each door: yes, only with, or no. Leaves with 1 if a door is refused.",
    )
    parser.add_argument("directory", metavar="DIR", help="the root, or what it is to be made in")
    parser.add_argument(
        "--peer",
        action="store_true",
        help="with a second host: run it on both; the first waits for the second",
    )
    parser.add_argument(
        "--wait",
        type=_seconds,
        metavar="SECONDS",
        help="with --peer, wait so long for the second host (default: 600)",
    )
    parser.add_argument(
        "--patience",
        type=_seconds,
        metavar="SECONDS",
        help="give up what has not answered by then (default: 100)",
    )
    parser.add_argument(
        "--tier", choices=tuple(_DOORS), help="leave with 1 only if this one is refused"
    )
    parser.add_argument(
        "--forget",
        action="store_true",
        help="try nothing: remove what probes on this host have found there",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Probe, keep what was found, and print the verdict."""
    import signal
    import threading

    from flockpr.probe.conduct import PATIENCE, WAIT, Probe
    from flockpr.probe.verdict import Answer

    if args.forget:
        return _forget(args)
    if threading.current_thread() is threading.main_thread():
        # Whoever ends the probe has it tidy up.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    probe = Probe(
        os.path.abspath(args.directory),
        PATIENCE if args.patience is None else args.patience,
        say=_say,
    )
    report = probe.run(peer=args.peer, wait=WAIT if args.wait is None else args.wait)
    _keep(report)
    if args.json:
        emit_json(report.to_json())
    else:
        emit(describe(report))
    tiers = (args.tier,) if args.tier else tuple(_DOORS)
    refused = any(report.answers()[tier] is Answer.NO for tier in tiers)
    return ExitCode.FAILED if refused else ExitCode.GOOD


def _keep(report: Report) -> None:
    """For the daemons; a directory that cannot be written has its verdict all the same."""
    from flockpr.probe import kept

    try:
        if not kept.keep(report):
            _say("not kept for the daemons, since not everything could be found out")
    except OSError as error:
        _say(f"cannot be kept for the daemons: {error.strerror}")


def _forget(args: argparse.Namespace) -> int:
    from flockpr.probe import kept

    directory = os.path.abspath(args.directory)
    forgotten = kept.forget(directory)
    if args.json:
        emit_json({"directory": directory, "forgotten": forgotten})
    else:
        emit([f"{printable(directory)}: {'forgotten' if forgotten else 'nothing is kept there'}"])
    return ExitCode.GOOD


def _say(line: str) -> None:
    print(f"flockpr probe: {printable(line)}", file=sys.stderr)


def describe(report: Report) -> list[str]:
    """Lines for people."""
    document = report.to_json()
    lines = [f"{printable(document['directory'])}"]
    for host in document["hosts"]:
        options = ",".join(dict.fromkeys(host["options"]))
        mount = f"{host['type']}, {host['source']} on {host['mount_point']}, {options}"
        lines.append(printable(f"  {host['name']}: {mount if host['type'] else 'unknown mount'}"))
    for tier, door in _DOORS.items():
        verdict = document[tier]
        lines.append(f"{tier} ({door}): {verdict['verdict']}")
        lines += [f"  only if: {printable(one)}" for one in verdict["conditions"]]
        lines += [f"  because: {printable(one)}" for one in verdict["reasons"]]
        lines += [f"  remedy: {printable(one)}" for one in verdict["remedies"]]
    rows = [
        (one["outcome"], one["title"], one["host"], one["what"]) for one in document["findings"]
    ]
    lines += table(("FOUND", "STEP", "HOST", "WHAT"), rows)
    lines += [f"removed, of a probe that crashed: {one}" for one in document["removed"]]
    lines += [f"could not be removed: {one}" for one in document["left"]]
    return lines


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3000:  # a probe that takes an hour looks like a crashed one
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3000")
    return value
