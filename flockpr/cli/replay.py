"""`flockpr replay`: a trace of commands, sent again; the answers compared with those recorded."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flockpr.cli.common import add_json, add_root, emit, emit_json, find_root
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.progress import Progress
from flockpr.cli.text import parse_seconds, printable
from flockpr.errors import ConfigError, FlockprError, StoreError

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs
    from flockpr.cli.replay_doors import Answer
    from flockpr.logical_unit import LogicalUnit

_DIFFERENT = ExitCode.FAILED
_FIELDS = ("status", "sense", "data_in")
MAX_TRACE = 64 << 20
"""Bytes of a trace."""


class Unanswered(FlockprError):
    """A target or device gave no answer to a command."""

    remedy = "see what the target's log says; --timeout SECONDS lets a slow one have more time"


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "replay", help="send a trace of commands again and compare the answers"
    )
    parser.add_argument(
        "trace",
        metavar="TRACE",
        help="a file of documents as flockpr-sg-persist --json prints them",
    )
    parser.add_argument(
        "--against",
        metavar="LUN",
        help="a logical unit, iscsi://HOST[:PORT]/TARGET/LUN, or a device such as /dev/sg2 "
        "(default: a new logical unit, for this only)",
    )
    parser.add_argument(
        "--only", metavar="NAME", help="only the commands of this initiator of the trace"
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        choices=_FIELDS,
        help="do not compare this; may be repeated",
    )
    parser.add_argument(
        "--all-commands",
        action="store_true",
        help="to a target or device also those that are neither about reservations nor only ask: "
        "they may change its data",
    )
    parser.add_argument(
        "--chap", metavar="FILE", help="the file with the secrets of CHAP, as of flockpr target"
    )
    parser.add_argument(
        "--timeout",
        type=parse_seconds,
        default=30.0,
        metavar="SECONDS",
        help="that a target or device may take for a login, and for each command (30)",
    )
    add_root(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay, and say what differs."""
    commands = _chosen(args, list(read_trace(args.trace)))
    found = [one for one in _replay(args, commands) if one["field"] not in args.ignore]
    document = {"trace": args.trace, "against": args.against, "count": len(commands)}
    if args.json:
        emit_json({**document, "differences": found})
    else:
        emit([printable(line) for line in _lines(len(commands), found)])
    return _DIFFERENT if found else ExitCode.GOOD


def _chosen(args: argparse.Namespace, commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The commands that are to be sent."""
    if args.only is None:
        return commands
    wanted = args.only.lower()
    chosen = [one for one in commands if wanted in (one["port"].text, one["port"].name)]
    if not chosen:
        names = ", ".join(sorted({one["port"].text for one in commands}))
        raise ConfigError(f"--only {args.only}: the trace has {names or 'no commands'}")
    return chosen


def _replay(
    args: argparse.Namespace, commands: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    import tempfile

    from flockpr.cli.replay_doors import is_remote
    from flockpr.logical_unit import LogicalUnit
    from flockpr.store.listing import read_identity
    from flockpr.store.provision import create_lun

    if args.against and is_remote(args.against):
        return _elsewhere(args, commands)
    if args.chap:
        raise ConfigError("--chap is for --against iscsi://...")
    if args.against:
        root = find_root(args)
        name = read_identity(root, args.against).name
        with LogicalUnit.open(os.path.join(root, name), door="cli") as unit:
            return play(_of_unit(unit), commands)
    with tempfile.TemporaryDirectory(prefix="flockpr-replay-") as root:
        create_lun(root, "replay", target_ports=sorted({one["target_port"] for one in commands}))
        with LogicalUnit.open(os.path.join(root, "replay"), door="cli") as unit:
            return play(_of_unit(unit), commands)


def _elsewhere(
    args: argparse.Namespace, commands: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Replay against a target or a device."""
    from flockpr.cli.replay_doors import HARMLESS, Remote

    for number, one in enumerate(commands, start=1):
        if one["command"][0] not in HARMLESS and not args.all_commands:
            raise ConfigError(
                f"{args.trace}: command {number}, {one['cdb']}, may change the data of "
                f"{args.against}; nothing was sent",
                "--all-commands sends all of them",
            )
    ports = [one["port"] for one in commands]
    with Remote(args.against, ports, args.chap, args.timeout) as there:

        def send(one: Mapping[str, Any]) -> Answer:
            recorded = len(str(one.get("data_in") or "")) // 2
            return there.send(one["port"], one["command"], one["data"], recorded)

        return play(send, commands)


def _of_unit(unit: LogicalUnit) -> Callable[[Mapping[str, Any]], Answer]:
    from flockpr.core.model import Nexus

    def send(one: Mapping[str, Any]) -> Answer:
        return unit.execute(Nexus(one["port"], one["target_port"]), one["command"], one["data"])

    return send


def read_trace(path: str) -> Iterator[dict[str, Any]]:
    """The commands of a trace.

    Raises:
        ConfigError: It is no trace; says where.
        OSError: It cannot be read.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read(MAX_TRACE)
    decoder = json.JSONDecoder()
    place, number = 0, 0
    while (place := _skip_blanks(text, place)) < len(text):
        number += 1
        try:
            value, place = decoder.raw_decode(text, place)
        except ValueError as error:
            raise ConfigError(f"{path}: document {number} is no JSON: {error}") from None
        yield _command(value, f"{path}: document {number}")


def _skip_blanks(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _command(value: Any, where: str) -> dict[str, Any]:
    from flockpr.spc.transport_id import InitiatorPort

    if not isinstance(value, dict):
        raise ConfigError(f"{where}: no object")
    try:
        port = value.get("target_port", 1)
        if not isinstance(port, int) or not 0 < port < 65536:
            raise ValueError(f"target_port {port!r}")
        return {
            **value,
            "target_port": port,
            "port": InitiatorPort.from_text(str(value["initiator"])),
            "command": _cdb(value["cdb"]),
            "data": bytes.fromhex(value.get("data_out") or ""),
        }
    except (KeyError, TypeError, ValueError) as error:
        remedy = "it needs initiator, cdb in hex, and for some commands data_out in hex"
        raise ConfigError(f"{where}: no command ({error})", remedy) from None


def _cdb(text: str) -> bytes:
    command = bytes.fromhex(text)
    if not command:
        raise ValueError("cdb is empty")
    return command


def play(
    send: Callable[[Mapping[str, Any]], Answer], commands: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Send the commands, in order.

    Args:
        send: Sends one, and returns its answer.
        commands: Of `read_trace`.

    Returns:
        The answers that differ.
    """
    with Progress("replay", "commands") as progress:
        return list(_played(send, commands, progress))


def _played(
    send: Callable[[Mapping[str, Any]], Answer],
    commands: Sequence[Mapping[str, Any]],
    progress: Progress,
) -> Iterator[dict[str, Any]]:
    for number, one in enumerate(commands, start=1):
        progress.tell(number - 1, len(commands))
        try:
            result = send(one)
        except StoreError:
            raise
        except FlockprError as error:
            where = f"command {number} of {len(commands)}, {one['cdb']}"
            raise Unanswered(f"{error}; at {where}, and nothing more was sent") from error
        head = {"number": number, "initiator": str(one["initiator"]), "cdb": str(one["cdb"])}
        for field, recorded, answered in _compared(one, result):
            if recorded != answered:
                yield {**head, "field": field, "recorded": recorded, "answered": answered}


def _compared(one: Mapping[str, Any], result: Answer) -> Iterator[tuple[str, str, str]]:
    """What the trace has of an answer, beside what was answered."""
    from flockpr.cli.log import status_text
    from flockpr.spc.sense import parse_sense

    if "status" in one:
        yield "status", status_text(one["status"]), status_text(int(result.status))
    if "sense" in one:
        sense = parse_sense(result.sense)
        yield "sense", _sense(one["sense"]), "none" if sense is None else str(sense)
    if "data_in" in one:
        yield "data_in", str(one["data_in"]), result.data_in.hex()


def _sense(recorded: object) -> str:
    if not isinstance(recorded, dict):
        return "none"
    numbers = (recorded.get(key) for key in ("key", "asc", "ascq"))
    return "/".join(f"{n:02X}" if isinstance(n, int) else "?" for n in numbers)


def _lines(count: int, differences: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for one in differences:
        lines.append(f"{one['number']}: {one['initiator']}, {one['cdb']}: {one['field']}")
        lines += [f"- {one['recorded']}", f"+ {one['answered']}"]
    differing = len({one["number"] for one in differences})
    same = "all as recorded" if not differing else f"{differing} answered otherwise"
    return [*lines, f"{count} commands, {same}"]
