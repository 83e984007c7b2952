"""`flockpr log`: the audit trail, filtered."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import pathlib
from typing import Any

import pytest

from flockpr.cli import main
from flockpr.cli.log import parse_since, select
from flockpr.events import Event, Kind
from flockpr.store.journal import EventJournal
from flockpr.store.syscalls import Syscalls
from tests.support.luns import contested_lun

Capture = pytest.CaptureFixture[str]

NOW = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)


@pytest.fixture
def root(tmp_path: pathlib.Path) -> str:
    """A root with one logical unit that has a history."""
    contested_lun(str(tmp_path))
    return str(tmp_path)


def record(initiator: str, hour: int) -> dict[str, Any]:
    """As much of a record as the filters look at."""
    return {"initiator": initiator, "time": f"2026-01-31T{hour:02}:00:00.000000Z"}


def actions(capsys: Capture) -> list[str]:
    """The actions of the JSON document that was printed."""
    return [one["action"] for one in json.loads(capsys.readouterr().out)["records"]]


def test_log_shows_every_transaction_and_where_it_begins(root: str, capsys: Capture) -> None:
    """Oldest first: creation, two registrations, one reservation."""
    assert main(["log", "disk", "--root", root]) == 0

    begins, headings, *lines = capsys.readouterr().out.splitlines()
    assert begins.startswith("disk: history begins with transaction 1 at 20")
    assert headings.split()[:4] == ["NUMBER", "TIME", "INITIATOR", "ACTION"]
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4"]
    assert "0x00000000000000a1" in lines[1]
    assert "0 -> 1" in lines[1]
    assert "RESERVE" in lines[3]


def test_log_json_limit_keeps_the_newest(root: str, capsys: Capture) -> None:
    """In order of time all the same."""
    assert main(["log", "disk", "--root", root, "--json", "--limit", "2"]) == 0

    assert actions(capsys) == ["REGISTER", "RESERVE"]


def test_log_nexus_matches_name_and_pattern(root: str, capsys: Capture) -> None:
    """Exactly, or with * and ?."""
    for pattern, expected in (
        ("iqn.2026-01.example:bob", ["REGISTER"]),
        ("*:ALICE", []),
        ("*:al?ce", ["REGISTER", "RESERVE"]),
    ):
        assert main(["log", "disk", "--root", root, "--json", "--nexus", pattern]) == 0
        assert actions(capsys) == expected


def test_log_since_future_shows_nothing(root: str, capsys: Capture) -> None:
    """It says so, and where the history begins."""
    assert main(["log", "disk", "--root", root, "--since", "2999-01-01"]) == 0

    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("disk: history begins with transaction 1")
    assert second == "no records match"


def test_log_refused_shows_the_journals(root: str, capsys: Capture) -> None:
    """Why did this node get a conflict?"""
    assert main(["log", "disk", "--root", root, "--refused"]) == 0

    begins, _, *lines = capsys.readouterr().out.splitlines()
    assert begins.startswith("disk: journals begin at 20")
    assert any("RESERVE" in line and "RESERVATION CONFLICT" in line for line in lines)


def test_log_refused_foreign_journal_lines_do_no_harm(root: str, capsys: Capture) -> None:
    """A journal is read as it is found, by a terminal too."""
    path = os.path.join(root, "disk", "journal", "zz.jsonl")
    with open(path, "w", encoding="utf-8") as journal:
        journal.write('{"initiator": "\\u001b[2J", "time": 5, "status": "x"}\n{"a": 1}\n[]\nx\n')

    assert main(["log", "disk", "--root", root, "--refused"]) == 0
    assert main(["log", "disk", "--root", root, "--refused", "--since", "1d"]) == 0

    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-31T12:00:00Z", NOW),
        ("2026-01-31T13:00:00+01:00", NOW),
    ],
)
def test_parse_since_time_with_zone_is_that_moment(text: str, time: dt.datetime) -> None:
    """ISO 8601."""
    assert parse_since(text) == time


def test_parse_since_time_without_zone_is_local() -> None:
    """As a person types it."""
    assert parse_since("2026-01-31") == dt.datetime(2026, 1, 31).astimezone()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43200), ("7d", 604800)]
)
def test_parse_since_span_counts_back_from_now(text: str, seconds: int) -> None:
    """Give or take what the machine dawdles."""
    before = dt.datetime.now(dt.UTC)

    back = parse_since(text) + dt.timedelta(seconds=seconds)

    assert before <= back <= dt.datetime.now(dt.UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "5", "1w", "99999999d", "2026-13-01"])
def test_parse_since_nonsense_is_refused(text: str) -> None:
    """With what is understood."""
    with pytest.raises(argparse.ArgumentTypeError, match="neither a time"):
        parse_since(text)


def test_select_since_keeps_that_moment_and_later() -> None:
    """The bound is part of it; a record without a readable time is left out."""
    records = [record("a", 11), record("b", 12), record("c", 13), {"initiator": "d", "time": None}]

    chosen = select(records, since=NOW, nexus=None)

    assert [one["initiator"] for one in chosen] == ["b", "c"]


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_log_wrong_limit_is_a_usage_error(limit: str, root: str, capsys: Capture) -> None:
    """At least one."""
    assert main(["log", "disk", "--root", root, "--limit", limit]) == 2
    assert "--limit" in capsys.readouterr().err


def test_log_events_are_shown_instead_of_commands(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """When, on which host, what, in words; nothing that only commands have."""
    root = str(tmp_path)
    contested_lun(root)
    journal = EventJournal(Syscalls(), f"{root}/disk", host="node7", mode=0o600)
    journal.write(Event(Kind.SILENT_HOST, f"{root}/x", "node8 does not answer", 1e9))
    capsys.readouterr()

    assert main(["log", "disk", "--events", "--root", root]) == 0
    head, headings, line = capsys.readouterr().out.splitlines()
    assert head == "disk: journals begin at 2001-09-09T01:46:40.000000Z"
    assert headings.split() == ["TIME", "HOST", "EVENT", "WHAT"]
    assert line.split(maxsplit=3) == [
        *("2001-09-09T01:46:40Z", "node7", "silent-host", "node8 does not answer")
    ]


def test_log_events_and_refused_are_shown_in_order(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What happened before a command was refused stands before it."""
    root = str(tmp_path)
    contested_lun(root)
    journal = EventJournal(Syscalls(), f"{root}/disk", host="node7", mode=0o600)
    for time in (1e9, 9e9):
        journal.write(Event(Kind.LOST_PERMIT, f"{root}/x", "lost", time))
    capsys.readouterr()

    assert main(["log", "disk", "--events", "--refused", "--root", root, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [one["action"] for one in shown["records"]] == ["lost-permit", "RESERVE", "lost-permit"]
    assert [one["event"] for one in shown["records"]] == ["lost-permit", None, "lost-permit"]
    assert shown["events"]
    assert shown["refused"]
    assert main(["log", "disk", "--refused", "--root", root, "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)["records"]
    assert record["action"] == "RESERVE"
