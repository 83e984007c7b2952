"""`flockpr log`: the audit trail of a logical unit."""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import fnmatch
import os
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from flockpr.cli.common import add_json, add_root, emit, emit_json, find_root
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.text import table

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs
    from flockpr.logical_unit import AuditRecord

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
    records: Iterable[AuditRecord], *, since: dt.datetime | None, nexus: str | None
) -> Iterator[AuditRecord]:
    """The records from a time on, of an initiator given by name or pattern."""
    for record in records:
        if since is not None and dt.datetime.fromisoformat(record.time) < since:
            continue
        if (
            nexus is not None
            and record.nexus != nexus
            and not fnmatch.fnmatchcase(record.nexus, nexus)
        ):
            continue
        yield record


def run(args: argparse.Namespace) -> int:
    """Print the records, oldest first, and say where the history begins."""
    from flockpr.logical_unit import LogicalUnit
    from flockpr.store.provision import read_identity

    root = find_root(args)
    name = read_identity(root, args.lun).name
    with LogicalUnit.open(os.path.join(root, name), door="cli") as unit:
        begins = unit.history_begins()
        chosen = select(unit.history(), since=args.since, nexus=args.nexus)
        records = list(collections.deque(chosen, maxlen=args.limit))
    if args.json:
        emit_json(
            {
                "root": root,
                "lun": name,
                "begins": begins,
                "records": [record_document(record) for record in records],
            }
        )
        return ExitCode.GOOD
    emit([f"{name}: history begins with transaction {begins}"])
    emit(table(_HEADERS, [_row(record) for record in records]) or ["no records match"])
    return ExitCode.GOOD


def record_document(record: AuditRecord) -> dict[str, object]:
    """One record as `--json` shows it (docs/cli.md); keys as hex, as everywhere."""
    return {
        "number": record.number,
        "time": record.time,
        "nexus": record.nexus,
        "target_port": record.target_port,
        "opcode": record.opcode,
        "service_action": record.service_action,
        "key": _key(record.key),
        "service_action_key": _key(record.service_action_key),
        "type": record.type,
        "status": record.status,
        "generation_before": record.generation_before,
        "generation_after": record.generation_after,
        "host": record.host,
        "daemon": record.daemon,
        "door": record.door,
        "txid": record.txid,
    }


_HEADERS = ("NUMBER", "TIME", "INITIATOR", "ACTION", "KEY", "SERVICE KEY", "GENERATION", "HOST")


def _row(record: AuditRecord) -> tuple[str, ...]:
    before, after = record.generation_before, record.generation_after
    return (
        str(record.number),
        record.time,
        record.nexus,
        record.service_action,
        _key(record.key) or "",
        _key(record.service_action_key) or "",
        str(after) if before == after else f"{before} -> {after}",
        record.host,
    )


def _key(key: int | str | None) -> str | None:
    return f"0x{key:016x}" if isinstance(key, int) else key
