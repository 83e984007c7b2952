"""`flockpr export`: registrations and reservation as another target's file, and what that loses."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from flockpr.cli.common import add_json, add_root, emit_json, find_root
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.text import printable
from flockpr.errors import ConfigError

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs
    from flockpr.cli.formats.registry import Source, Wanted, Written
    from flockpr.core.model import LogicalUnitState
    from flockpr.store.identity import LunIdentity

FORMATS = ("lio", "scst", "scst-file", "spdk", "sg_persist")


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "export", help="write registrations and reservation as another target's file"
    )
    parser.add_argument("lun", metavar="LUN")
    parser.add_argument("--format", choices=FORMATS, required=True, help="whose file")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="into this file (default: standard output)"
    )
    parser.add_argument(
        "--target-node", metavar="IQN", help="lio: name of LIO's target (default: that of the LUN)"
    )
    parser.add_argument(
        "--tag", type=int, default=1, metavar="N", help="lio: its portal group tag (1)"
    )
    parser.add_argument("--uuid", default="", metavar="UUID", help="spdk: UUID of the bdev")
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        type=pair,
        metavar="NAME=UUID",
        help="spdk: which NVMe host an initiator is; may be repeated",
    )
    add_root(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def pair(text: str) -> tuple[str, str]:
    """The two sides of an equals sign."""
    left, equals, right = text.partition("=")
    if not left or not equals or not right:
        raise argparse.ArgumentTypeError(f"{text!r}: not of the form A=B")
    return left.lower(), right


def run(args: argparse.Namespace) -> int:
    """Write the file, and say on standard error what it does not say."""
    from flockpr.cli.formats import find
    from flockpr.cli.formats.registry import Source
    from flockpr.core.model import UnitConfig
    from flockpr.store.listing import read_identity
    from flockpr.unit_view import UnitView

    root = find_root(args)
    name = read_identity(root, args.lun).name
    with UnitView.of(os.path.join(root, name)) as unit:
        state, identity = unit.snapshot().state, unit.identity
    source = Source(state, UnitConfig(target_ports=identity.target_ports))
    written: Written = find(args.format).write(source, _wanted(args, identity, source))
    losses = [*_unsaid(state), *written.losses]
    if args.output:
        _replace(args.output, written.data)
    if args.json:
        emit_json(_document(args, root, name, written.data, losses))
        return ExitCode.GOOD
    if not args.output:
        sys.stdout.flush()
        sys.stdout.buffer.write(written.data)
    for loss in losses:
        print(f"flockpr export: not in the file: {printable(loss)}", file=sys.stderr)
    return ExitCode.GOOD


def _wanted(args: argparse.Namespace, identity: LunIdentity, source: Source) -> Wanted:
    from flockpr.cli.formats.registry import Wanted
    from flockpr.store.identity import target_name

    if not 0 <= args.tag <= 0xFFFF:
        raise ConfigError(f"--tag {args.tag}: not from 0 to 65535")
    hosts = dict(args.host)
    registered = {one.nexus.initiator_port for one in source.state.registrations}
    known = {port.text for port in registered} | {port.name for port in registered}
    for name in hosts:
        if name not in known:
            raise ConfigError(f"--host {name}: not registered on {identity.name}")
    target = args.target_node or target_name(identity)
    return Wanted(target, args.tag, identity.lun, args.uuid, hosts)


def _unsaid(state: LogicalUnitState) -> list[str]:
    """What no format has a place for."""
    unsaid = []
    if state.spc2 is not None:
        unsaid.append(f"the SPC-2 reservation of {state.spc2.holder.initiator_port.text}")
    if state.attentions:
        names = ", ".join(one.nexus.initiator_port.text for one in state.attentions)
        unsaid.append(f"the unit attentions that wait for {names}")
    return unsaid


def _replace(path: str, data: bytes) -> None:
    """Write a file that is never seen half written."""
    aside = f"{path}.{os.getpid()}.tmp"
    with open(aside, "wb") as file:
        file.write(data)
    os.replace(aside, path)


def _document(
    args: argparse.Namespace, root: str, name: str, data: bytes, losses: list[str]
) -> dict[str, Any]:
    binary = args.format == "scst-file"
    return {
        "root": root,
        "name": name,
        "format_name": args.format,
        "output": args.output,
        "encoding": "hex" if binary else "utf-8",
        "content": data.hex() if binary else data.decode(),
        "losses": losses,
    }
