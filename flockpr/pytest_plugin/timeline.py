"""What happened to a logical unit in a test, told when the test fails."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

import attrs

from flockpr.spc.codes import Status
from flockpr.store.base import AuditRecord

DOOR = "pytest"
"""The door of what the plugin sends; in the timeline already when it is in the audit trail."""


@attrs.frozen
class Entry:
    """One line.

    Attributes:
        time: When.
        who: Initiator or node.
        what: Command, or event.
        answer: What was answered; empty for an event.
    """

    time: dt.datetime
    who: str
    what: str
    answer: str = ""


class Timeline:
    """The lines of one logical unit."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def note(self, time: dt.datetime, who: str, what: str, answer: str = "") -> None:
        """Add a line."""
        self._entries.append(Entry(time, who, what, answer))

    def extend(self, other: Timeline) -> None:
        """Add the lines of another one."""
        self._entries += other._entries

    def add_records(self, records: Iterable[AuditRecord]) -> None:
        """Add what others did, from the audit trail."""
        self.add_refusals({**record.to_json(), "status": 0} for record in records)

    def add_refusals(self, records: Iterable[dict[str, Any]]) -> None:
        """Add what others did, from journals: whatever is in them."""
        for record in records:
            try:
                time = dt.datetime.fromisoformat(str(record["time"]))
                if record["door"] == DOOR:
                    continue
                who = short(record["initiator"]) or str(record["host"])
                answer = Status(record["status"]).name.replace("_", " ")
                self.note(time, who, describe(record), answer)
            except (KeyError, ValueError, TypeError, AttributeError):
                continue  # a line of something else

    def render(self) -> str:
        """The lines in order of time, seconds from the first one."""
        entries = sorted(self._entries, key=lambda entry: entry.time)
        if not entries:
            return "nothing was sent"
        who = max(len(entry.who) for entry in entries)
        what = max(len(entry.what) for entry in entries)
        lines = []
        for entry in entries:
            seconds = (entry.time - entries[0].time).total_seconds()
            line = f"{seconds:9.3f}  {entry.who:{who}}  {entry.what:{what}}  {entry.answer}"
            lines.append(line.rstrip())
        return "\n".join(lines)


def short(initiator: str) -> str:
    """The last part of an initiator's name."""
    return initiator.rsplit(":", 1)[-1]


def describe(record: dict[str, Any]) -> str:
    """A command out of the audit trail or a journal, and the door through which it came."""
    parts = [str(record["action"])]
    parts += [f"key={int(record['key'], 16):#x}"] if record.get("key") else []
    sark = record.get("service_action_key")
    parts += [f"sark={int(sark, 16):#x}"] if sark and int(sark, 16) else []
    parts += [f"type={record['type']}"] if record.get("type") else []
    return f"{' '.join(parts)} ({record['door']})"
