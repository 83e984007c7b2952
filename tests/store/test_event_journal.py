"""Events of a logical unit are in its journal, for whoever asks why a node stood still."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from flockpr import events
from flockpr.errors import StoreUnavailable
from flockpr.events import Event, Kind
from flockpr.store import journal, whereabouts
from flockpr.store.journal import EventJournal, event_to_json
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from flockpr.store.syscalls import Syscalls
from tests.support import docs
from tests.support.lun_tools import append

LONG = 60.0
SIZE = 1 << 20


@pytest.fixture
def lun(tmp_path: Path) -> str:
    """A logical unit with an image."""
    create_lun(str(tmp_path), "disk", size=SIZE)
    return str(tmp_path / "disk")


def noted(path: str) -> list[dict[str, Any]]:
    """All events in the journals, once they are written."""
    assert events.flush(LONG)
    store = LockDirectory(path)
    try:
        return sorted(store.noted_events(), key=lambda line: str(line["time"]))
    finally:
        store.close()


def kinds(path: str) -> list[str]:
    """Their kinds."""
    return [line["event"] for line in noted(path)]


def test_event_of_the_image_is_in_the_journal_once(lun: str, tmp_path: Path) -> None:
    """However many doors of the process have the logical unit open."""
    image = str(tmp_path / "images" / "disk.img")
    stores = [LockDirectory(lun, host="node1", serves=True) for _ in range(2)]
    events.silent_host(image, "node2", 1.5)
    (line,) = noted(lun)
    for store in stores:
        store.close()

    assert (line["event"], line["where"], line["host"]) == ("silent-host", image, "node1")
    assert "node2" in line["text"]


def test_event_after_the_last_close_is_not(lun: str) -> None:
    """The journal belongs to those who have it open."""
    LockDirectory(lun).close()
    events.lost_permit(lun)
    assert kinds(lun) == []


def test_event_is_no_refused_command(lun: str) -> None:
    """Each kind of line has its own view."""
    store = LockDirectory(lun)
    events.lost_permit(lun)
    assert kinds(lun) == ["lost-permit"]
    assert list(store.refusals()) == []
    store.close()


def test_commit_that_another_one_made_first_is_an_event(lun: str) -> None:
    """The command is decided again; somebody may want to know how often."""
    one, two = LockDirectory(lun), LockDirectory(lun)
    one.head()
    base = two.head()
    append(one, 1)

    assert two.commit(base, base.state, [], served={}) is None
    assert kinds(lun) == ["commit-conflict"]
    for store in (one, two):
        store.close()


def test_lock_directory_that_goes_and_comes_back_is_two_events(
    lun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first cannot be written while it is away; the second says how long that was."""
    monkeypatch.setattr(whereabouts, "PATH_CHECK", 0.0)
    store = LockDirectory(lun, serves=True)
    before = events.counts().get((Kind.LOST_MOUNT, lun), 0)
    os.rename(lun, f"{lun}.away")
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            store.head()
    assert events.counts()[Kind.LOST_MOUNT, lun] == before + 1
    assert events.flush(LONG)
    os.rename(f"{lun}.away", lun)
    store.head()
    store.head()

    assert kinds(lun) == ["mount-back"]
    store.close()


def test_locks_that_were_lost_are_an_event(lun: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by the upkeep of a daemon, which takes them again."""
    store = LockDirectory(lun, serves=True)
    store.head()
    monkeypatch.setattr(store._presence, "lost_locks", lambda: True)
    store.tidy()

    assert kinds(lun) == ["lost-locks"]
    store.close()


def test_journal_of_events_is_bounded(lun: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full one is set aside, and the one before that is gone."""
    monkeypatch.setattr(journal, "MAX_BYTES", 1000)
    written = EventJournal(Syscalls(), lun, host="node1", mode=0o600)
    for number in range(50):
        written.write(Event(Kind.LOST_PERMIT, lun, f"text {number}", 1e9 + number))

    files = list((Path(lun) / "journal").iterdir())
    assert len(files) == 2
    assert all(path.stat().st_size <= 1000 for path in files)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)
    assert any("text 49" in path.read_text() for path in files)


def test_members_of_an_event_are_in_the_page(lun: str) -> None:
    """In the page of the format, in order."""
    EventJournal(Syscalls(), lun, host="node1", mode=0o600).write(
        Event(Kind.LOST_PERMIT, lun, "text", 1e9)
    )
    (line,) = noted(lun)
    page = docs.section(docs.read("docs/format.md"), "## Events")
    assert list(line) == [row[0].strip("`") for row in docs.rows(page)]


def test_event_as_a_line_has_a_time_like_all_others() -> None:
    """UTC, ISO 8601 with microseconds."""
    line = event_to_json(Event(Kind.LOST_MOUNT, "/srv", "gone", 0.0))
    assert line == {
        "time": "1970-01-01T00:00:00.000000Z",
        "event": "lost-mount",
        "where": "/srv",
        "text": "gone",
    }
    assert json.loads(json.dumps(line)) == line
