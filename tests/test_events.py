"""Events: logged with a name that stays, counted, and written into the journal of their LUN."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from flockpr import events
from flockpr.events import Event, Kind

LONG = 60.0


@pytest.fixture
def where(tmp_path: object) -> str:
    """A place that no other test has events in."""
    return f"{tmp_path}/disk.img"


TELL: dict[Kind, Callable[[str], None]] = {
    Kind.LOST_PERMIT: events.lost_permit,
    Kind.LOST_LOCKS: events.lost_locks,
    Kind.LOST_MOUNT: lambda where: events.lost_mount(where, "is missing"),
    Kind.MOUNT_BACK: lambda where: events.mount_back(where, 12.0),
    Kind.COMMIT_CONFLICT: events.commit_conflict,
    Kind.FORCED_GATE: lambda where: events.forced_gate(where, ["node1", "node2"]),
    Kind.SILENT_HOST: lambda where: events.silent_host(where, "node1", 2.5),
    Kind.FENCED_HOST: lambda where: events.fenced_host(where, "this host was declared fenced"),
}


@pytest.mark.parametrize("kind", Kind)
def test_event_of_each_kind_is_logged_and_counted(
    kind: Kind, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The line names the place and the kind, and the counters of the process go up by one."""
    before = events.totals()[kind]
    with caplog.at_level(logging.DEBUG, "flockpr.events"):
        TELL[kind](where)

    (record,) = [one for one in caplog.records if where in one.getMessage()]
    assert vars(record)["event"] == str(kind)
    assert record.levelno == kind.level
    assert events.counts()[kind, where] == 1
    assert events.totals()[kind] == before + 1


def test_events_of_one_kind_in_one_place_are_shown_in_part(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A storm of them costs some lines; all are counted."""
    with caplog.at_level(logging.DEBUG, "flockpr.events"):
        for _ in range(events.BURST + 20):
            events.commit_conflict(where)
        events.lost_permit(where)

    shown = [vars(one)["event"] for one in caplog.records if where in one.getMessage()]
    assert shown == ["commit-conflict"] * events.BURST + ["lost-permit"]
    assert events.counts()[Kind.COMMIT_CONFLICT, where] == events.BURST + 20


def test_events_that_were_hidden_are_told_with_the_next(
    where: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a period is over, the next line says how many there were."""
    with caplog.at_level(logging.DEBUG, "flockpr.events"):
        for _ in range(events.BURST + 3):
            events.lost_permit(where)
        monkeypatch.setattr(events, "PERIOD", 0.0)
        events.lost_permit(where)

    lines = [one.getMessage() for one in caplog.records if where in one.getMessage()]
    assert "(and 3 more since)" in lines[-1]


def test_event_reaches_each_journal_once(where: str) -> None:
    """Two doors of one logical unit attach the same journal; a third belongs to another one."""
    got: list[tuple[str, Event]] = []
    events.attach(where, "disk", lambda event: got.append(("disk", event)))
    events.attach(where, "disk", lambda event: got.append(("again", event)))
    events.attach(f"{where}.other", "other", lambda event: got.append(("other", event)))
    try:
        events.lost_permit(where)
        assert events.flush(LONG)
    finally:
        events.detach(where, "disk")
        events.detach(where, "disk")
        events.detach(f"{where}.other", "other")
        events.detach(where, "disk")  # once too often

    assert [name for name, _ in got] == ["disk"]
    assert got[0][1].kind is Kind.LOST_PERMIT
    events.lost_permit(where)
    assert events.flush(LONG)
    assert len(got) == 1


def test_journal_that_hangs_holds_nobody_up(where: str) -> None:
    """Whoever tells an event returns at once; what follows is written later."""
    release, got = threading.Event(), []

    def hang(event: Event) -> None:
        release.wait(LONG)
        got.append(event.kind)

    events.attach(where, "disk", hang)
    try:
        events.lost_permit(where)
        events.silent_host(where, "node1", 1.0)
        assert not events.flush(0.01)
        release.set()
        assert events.flush(LONG)
    finally:
        release.set()
        events.detach(where, "disk")
    assert got == [Kind.LOST_PERMIT, Kind.SILENT_HOST]


@pytest.mark.parametrize("error", [OSError(5, "input or output failed"), ValueError("a slip")])
def test_journal_that_fails_loses_its_line_only(where: str, error: Exception) -> None:
    """The next event is written."""
    got: list[Kind] = []

    def write(event: Event) -> None:
        got.append(event.kind)
        if len(got) == 1:
            raise error

    events.attach(where, "disk", write)
    try:
        events.lost_permit(where)
        events.lost_mount(where)
        assert events.flush(LONG)
    finally:
        events.detach(where, "disk")
    assert got == [Kind.LOST_PERMIT, Kind.LOST_MOUNT]
