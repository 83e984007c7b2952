"""`flockpr log`: the audit trail of a logical unit."""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import fnmatch
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from flockpr.cli.common import add_json, add_root, emit, emit_json, find_root
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.keys import KeyPattern, concerns, parse_key
from flockpr.cli.text import printable, table

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs

Record: TypeAlias = dict[str, Any]
"""One record as `--json` shows it (docs/cli.md)."""

_SPAN = re.compile(r"(\d{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser("log", help="every command that changed a logical unit")
    parser.add_argument("lun", metavar="LUN")
    parser.add_argument(
        "--since",
        type=parse_since,
        metavar="TIME",
        help="from this time on: 2026-01-31, 2026-01-31T12:00:00Z (local time without a zone), "
        "or a span back from now such as 90s, 15m, 12h, 7d",
    )
    parser.add_argument(
        "--nexus",
        metavar="NAME",
        help="only this initiator, as the log writes it; * and ? stand for any characters",
    )
    parser.add_argument(
        "--key",
        type=parse_key,
        metavar="KEY",
        help="only what this reservation key was sent with: hex digits, or the text that it is",
    )
    parser.add_argument(
        "--refused",
        action="store_true",
        help="the commands that were refused or changed nothing, from the daemons' journals",
    )
    parser.add_argument(
        "--events",
        action="store_true",
        help="what happened to its locks and its gate instead of commands, from the journals",
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="the newest N")
    add_root(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def parse_since(text: str) -> dt.datetime:
    """A point in time, from a span back from now or an ISO 8601 date or time.

    Raises:
        argparse.ArgumentTypeError: It is neither.
    """
    span = _SPAN.fullmatch(text)
    try:
        if span:
            back = dt.timedelta(seconds=int(span[1]) * _SECONDS[span[2]])
            return dt.datetime.now(dt.UTC) - back
        return dt.datetime.fromisoformat(text).astimezone(dt.UTC)
    except (ValueError, OverflowError) as error:
        message = f"{text!r} is neither a time (2026-01-31T12:00:00Z) nor a span (15m, 12h, 7d)"
        raise argparse.ArgumentTypeError(message) from error


def select(
    records: Iterable[Record],
    *,
    since: dt.datetime | None,
    nexus: str | None,
    key: KeyPattern | None = None,
) -> Iterator[Record]:
    """The records from a time on, of an initiator given by name or pattern, with a key."""
    for record in records:
        if key is not None and not concerns(record, key):
            continue
        if since is not None and not _at_or_after(record["time"], since):
            continue
        name = str(record["initiator"])
        if nexus is not None and name != nexus and not fnmatch.fnmatchcase(name, nexus):
            continue
        yield record


def _at_or_after(time: object, since: dt.datetime) -> bool:
    try:
        return dt.datetime.fromisoformat(str(time)) >= since
    except (ValueError, TypeError):
        return False  # no time, or one without a zone: nothing that flockpr wrote


def run(args: argparse.Namespace) -> int:
    """Print the records, oldest first, and say where the history begins."""
    from flockpr.store.listing import read_identity
    from flockpr.unit_view import UnitView

    root = find_root(args)
    name = read_identity(root, args.lun).name
    with UnitView.of(os.path.join(root, name)) as unit:
        records: Iterable[Record]
        if args.refused or args.events:
            begins = None
            # Each daemon has a journal of its own; their clocks are all there is to go by.
            refused = map(_complete, unit.refusals()) if args.refused else ()
            noted = map(_of_event, unit.events()) if args.events else ()
            records = sorted((*refused, *noted), key=lambda one: str(one["time"]))
        else:
            begins = unit.history_begins()
            records = (_complete(record.to_json()) for record in unit.history())
        rest = iter(records)
        first = next(rest, None)
        everything = itertools.chain([first] if first else [], rest)
        chosen = select(everything, since=args.since, nexus=args.nexus, key=args.key)
        shown = list(collections.deque(chosen, maxlen=args.limit))
    begins_at = first["time"] if first else None
    if args.json:
        head = {"root": root, "name": name, "refused": args.refused, "events": args.events}
        emit_json({**head, "begins": begins, "begins_at": begins_at, "records": shown})
        return ExitCode.GOOD
    where = f" with transaction {begins}" if begins is not None else ""
    emit(
        [
            f"{name}: {'history begins' if begins is not None else 'journals begin'}{where}"
            + (f" at {printable(str(begins_at))}" if begins_at else "")
        ]
    )
    emit(table(_HEADERS, [_row(record) for record in shown]) or ["no records match"])
    return ExitCode.GOOD


_KEYS = (
    *("number", "time", "initiator", "target_port", "action", "opcode", "key"),
    *("service_action_key", "type", "status", "generation_before", "generation_after"),
    *("raised", "host", "daemon", "door", "txid", "event", "where", "text"),
)


def _complete(record: Record) -> Record:
    """A record with every documented key, in the documented order, and whatever else it has.

    A refused command belongs to no transaction, and a journal is read as it is found.
    """
    return {**{key: record.get(key) for key in _KEYS}, **record}


def _of_event(event: Record) -> Record:
    """An event as a record: what a command has and it has not is zero or empty."""
    nothing: Record = {"initiator": "", "target_port": 0, "status": 0, "raised": [], "door": ""}
    nothing |= {"generation_before": 0, "generation_after": 0}
    return _complete({**nothing, "action": event["event"], **event})


_HEADERS = (
    *("NUMBER", "TIME", "INITIATOR", "ACTION", "KEY", "SERVICE KEY", "TYPE", "STATUS"),
    *("GENERATION", "HOST", "DOOR", "EVENT", "WHAT"),
)


def _row(record: Record) -> tuple[str, ...]:
    before, after = record["generation_before"], record["generation_after"]
    time = re.sub(r"\.\d+Z$", "Z", str(record["time"]))
    if record["event"] is not None:
        what = (_text(record["host"]), "", _text(record["event"]), _text(record["text"]))
        return ("", time, *[""] * 7, *what)
    return (
        _text(record["number"]),
        time,
        _text(record["initiator"]),
        _text(record["action"]),
        _text(record["key"]),
        _text(record["service_action_key"]),
        _text(record["type"] or None),
        status_text(record["status"]),
        _text(after) if before == after else f"{before} -> {after}",
        _text(record["host"]),
        _text(record["door"]),
        "",
        "",
    )


def _text(value: object) -> str:
    return "" if value is None else str(value)


def status_text(status: object) -> str:
    """A SCSI status in words, whatever a journal has in its place."""
    from flockpr.spc.codes import Status

    names = {int(code): code.name.replace("_", " ") for code in Status}
    return names.get(status, str(status)) if isinstance(status, int) else _text(status)
