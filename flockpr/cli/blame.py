"""`flockpr blame`: what became of a reservation key, and by whom."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from flockpr.cli.common import add_json, add_root, emit, emit_json, find_root, report
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.keys import KeyPattern, concerns, parse_key
from flockpr.cli.text import printable, table
from flockpr.errors import StoreError

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs

_REGISTER = ("REGISTER", "REGISTER AND IGNORE EXISTING KEY")
_PREEMPT = ("PREEMPT", "PREEMPT AND ABORT")


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "blame", help="who registered, used, preempted or cleared a reservation key"
    )
    parser.add_argument(
        "key", type=parse_key, metavar="KEY", help="hex digits, or the text that it is"
    )
    parser.add_argument("lun", nargs="?", metavar="LUN", help="one logical unit (default: all)")
    parser.add_argument(
        "--refused", action="store_true", help="also the commands that were refused"
    )
    add_root(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Tell the story of a key, logical unit by logical unit."""
    from flockpr.cli.status_documents import names_of

    root = find_root(args)
    code = ExitCode.GOOD
    entries: list[dict[str, Any]] = []
    now: list[dict[str, Any]] = []
    begins: dict[str, int] = {}
    for name in names_of(root, args.lun):
        try:
            _look(
                root,
                name,
                args.key,
                refused=args.refused,
                entries=entries,
                now=now,
                begins=begins,
            )
        except StoreError as error:
            code = report("blame", error)
    if args.json:
        head = {"root": root, "key": str(args.key), "refused": args.refused}
        luns = [{"name": name, "begins": number} for name, number in begins.items()]
        emit_json({**head, "luns": luns, "registered": now, "entries": entries})
        return code
    emit(_lines(args.key, entries, now, begins))
    return code


def _look(
    root: str,
    name: str,
    key: KeyPattern,
    *,
    refused: bool,
    entries: list[dict[str, Any]],
    now: list[dict[str, Any]],
    begins: dict[str, int],
) -> None:
    from flockpr.unit_view import UnitView

    with UnitView.of(os.path.join(root, name)) as unit:
        begins[name] = unit.history_begins()
        found = list(story((one.to_json() for one in unit.history()), key))
        if refused:
            found += [_refusal(one) for one in unit.refusals() if _has(one, key)]
            found.sort(key=lambda one: str(one["time"]))
        entries += [{"lun": name, **one} for one in found]
        for one in unit.status().to_json()["registrations"]:
            if key.matches(one["key"]):
                kept = ("initiator", "target_port", "key", "host", "liveness", "holder")
                now.append({"lun": name, **{field: one[field] for field in kept}})


def story(records: Iterable[dict[str, Any]], key: KeyPattern) -> Iterator[dict[str, Any]]:
    """What happened to a key.

    Args:
        records: Of the log, oldest first.
        key: It.

    Yields:
        The records that concern it, with `what` happened in words.
    """
    owners: set[tuple[str, int]] = set()
    for record in records:
        what = _told(record, key, owners)
        if what:
            yield _entry(record, what)


def _entry(record: dict[str, Any], what: str) -> dict[str, Any]:
    kept = ("number", "time", "initiator", "target_port", "action", "host", "door", "raised")
    return {"what": what, **{field: record.get(field) for field in kept}}


def _told(record: dict[str, Any], key: KeyPattern, owners: set[tuple[str, int]]) -> str:
    """What a record means for the key, in words; keeps account of who has it."""
    action, who = record["action"], (record["initiator"], record["target_port"])
    own, other = key.matches(record["key"]), key.matches(record["service_action_key"])
    if action == "IMPORT":
        if other:
            owners.add(who)
        return "was imported with it" if other else ""
    if action in _REGISTER:
        return _registering(record, who, other, owners)
    if action == "REGISTER AND MOVE":
        return "registered it for another" if other else "moved its reservation" if own else ""
    if action in _PREEMPT:
        return _preempting(record, who, own, other, owners)
    if action == "CLEAR":
        had = bool(owners)
        owners.clear()
        return "cleared all with it" if own else "cleared it with all others" if had else ""
    if own:
        return {"RESERVE": "reserved with it", "RELEASE": "released with it"}.get(action, "used it")
    if action == "POWER CYCLE" and owners:
        return "lost power: it is gone, unless registered with APTPL"
    return ""


def _registering(
    record: dict[str, Any], who: tuple[str, int], other: bool, owners: set[tuple[str, int]]
) -> str:
    if other:
        again = who in owners
        owners.add(who)
        return "registered it again" if again else "registered it"
    if who not in owners:
        return ""
    owners.discard(who)
    new = str(record["service_action_key"])
    return "unregistered it" if int(new, 16) == 0 else f"changed it to {new}"


def _preempting(
    record: dict[str, Any],
    who: tuple[str, int],
    own: bool,
    other: bool,
    owners: set[tuple[str, int]],
) -> str:
    victim = str(record["service_action_key"])
    if other and not own:
        owners.clear()
        return f"preempted it, with key {record['key']}"
    if int(victim, 16) == 0 and owners - {who}:
        owners &= {who}
        return f"preempted all others, with key {record['key']}"
    if other:
        owners &= {who}
        return "preempted the others that had it"
    return f"preempted key {victim} with it" if own else ""


def _has(record: dict[str, Any], key: KeyPattern) -> bool:
    """Whether a line of a journal, which may be anything, has the key."""
    return concerns({"key": None, "service_action_key": None, **record}, key)


def _refusal(record: dict[str, Any]) -> dict[str, Any]:
    from flockpr.cli.log import status_text

    answer = status_text(record.get("status"))
    return _entry({"raised": [], **record}, f"was refused: {answer}")


_HEADERS = ("LUN", "NUMBER", "TIME", "INITIATOR", "WHAT", "ACTION", "HOST", "DOOR")


def _lines(
    key: KeyPattern,
    entries: list[dict[str, Any]],
    now: list[dict[str, Any]],
    begins: dict[str, int],
) -> list[str]:
    rows = [
        tuple(
            "" if one[field] is None else str(one[field])
            for field in ("lun", "number", "time", "initiator", "what", "action", "host", "door")
        )
        for one in entries
    ]
    lines = table(_HEADERS, rows) or [f"nobody used key {key}"]
    for one in now:
        text = f"registered now: {one['initiator']} on {one['lun']}, {one['liveness']}"
        lines.append(printable(text + (", holder" if one["holder"] else "")))
    late = [f"{name} from transaction {number}" for name, number in begins.items() if number > 1]
    if late:
        lines.append(printable(f"the history begins late: {', '.join(late)}"))
    return lines
