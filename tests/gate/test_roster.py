"""The roster: what processes say of themselves, for people; nothing fails by it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flockpr.gate import roster
from flockpr.store.clock import seconds_since, utc_now
from tests.support.simfs import Call, Client, Disk

ME = 0x12345
OTHER = 0xABCDE


@pytest.fixture
def client() -> Client:
    """A process of its own on an empty disk."""
    return Client(Disk())


def names(disk: Disk) -> list[str]:
    """What is in the directory of records."""
    return sorted(disk.directory("/.hosts").names)


def put(root: Path, number: int, token: str = "00000001", /, **changes: object) -> Path:
    """A record of a process, with some members changed."""
    value: dict[str, Any] = {
        "format": 1,
        "number": f"{number:010x}",
        "host": "node7",
        "boot_id": "b",
        "pid": 1,
        "doors": ["iscsi"],
        "since": "2026-01-31T12:00:00.000000Z",
        "last_contact": "2026-01-31T12:00:00.000000Z",
        "waits": [],
    }
    path = root / ".hosts" / f"{number:010x}-{token}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value | changes))
    return path


def test_announce_of_a_process_is_read_back(client: Client) -> None:
    """Its host, its process, its door, and that it was now."""
    assert roster.read("/", client) == {}
    assert roster.announce("/", ME, "iscsi", client)

    record = roster.read("/", client)[ME]
    assert record.name == os.uname().nodename
    assert record.doors == ("iscsi",)
    assert [process.pid for process in record.processes] == [os.getpid()]
    age = seconds_since(record.last_contact)
    assert age is not None
    assert 0 <= age < 600


def test_announce_often_writes_seldom(client: Client) -> None:
    """It may be called in each turn of a loop."""
    assert roster.announce("/", ME, "iscsi", client)
    calls = len(client.calls)

    assert [roster.announce("/", ME, "iscsi", client) for _ in range(100)] == [False] * 100
    assert not roster.beat("/", ME, client)
    assert len(client.calls) == calls


def test_announce_after_the_interval_writes_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same file."""
    monkeypatch.setattr(roster, "BEAT", 0.0)
    roster.announce("/", ME, "iscsi", client)
    first = roster.read("/", client)[ME]
    assert roster.announce("/", ME, "iscsi", client)

    (process,) = roster.read("/", client)[ME].processes
    assert process.last_contact >= first.last_contact
    assert process.since == first.processes[0].since
    assert len(names(client.disk)) == 1


def test_announce_at_another_door_is_written_at_once(client: Client) -> None:
    """One process has both."""
    roster.announce("/", ME, "iscsi", client)
    assert roster.announce("/", ME, "helper", client)

    assert roster.read("/", client)[ME].doors == ("helper", "iscsi")


def test_processes_of_one_host_do_not_overwrite_each_other() -> None:
    """Each has a file of its own; people see one host."""
    disk = Disk()
    one, two = Client(disk), Client(disk)
    roster.announce("/", ME, "iscsi", one)
    roster.announce("/", ME, "helper", two)

    record = roster.read("/", one)[ME]
    assert len(names(disk)) == 2
    assert record.doors == ("helper", "iscsi")
    assert len(record.processes) == 2


def test_waiting_for_hosts_is_shown_while_it_lasts(client: Client) -> None:
    """For which logical unit and for whom; the doors stay."""
    roster.announce("/", ME, "iscsi", client)
    with roster.waiting("/", ME, 7, [OTHER, 3], client):
        (process,) = roster.read("/", client)[ME].processes
        assert [(wait.lun, wait.hosts) for wait in process.waits] == [(7, (3, OTHER))]
        assert process.doors == ("iscsi",)

    assert roster.read("/", client)[ME].processes[0].waits == ()


def test_waiting_by_a_process_without_a_door_leaves_nothing(client: Client) -> None:
    """A command line has nothing to say once it is done."""
    with roster.waiting("/", ME, 7, [OTHER], client):
        assert ME in roster.read("/", client)
    assert names(client.disk) == []


def test_waiting_that_fails_passes_the_error_on(client: Client) -> None:
    """And is not shown any more."""
    with pytest.raises(ValueError, match="mine"), roster.waiting("/", ME, 7, [OTHER], client):
        raise ValueError("mine")
    assert names(client.disk) == []


def test_announce_in_a_root_that_cannot_be_written_fails_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once, and once more after it worked."""
    monkeypatch.setattr(roster, "BEAT", 0.0)
    failing = True

    def refuse(client: Client, call: Call) -> None:
        if failing and call.name in ("mkdir", "write", "rename"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    client = Client(Disk(), before=refuse)
    for _ in range(3):
        assert roster.announce("/", ME, "iscsi", client)
    assert caplog.text.count("cannot be written") == 1
    failing = False
    roster.announce("/", ME, "iscsi", client)
    failing = True
    roster.announce("/", ME, "iscsi", client)
    assert caplog.text.count("cannot be written") == 2
    assert [name for name in names(client.disk) if name.startswith(".")] == []


FOREIGN: dict[str, dict[str, object]] = {
    "newer": {"format": 2},
    "another host's": {"number": f"{ME:010x}"},
    "a bad time": {"last_contact": "yesterday"},
    "a bad wait": {"waits": [{"lun": 1, "since": "2026-01-31T12:00:00.000000Z", "for": ["x"]}]},
    "a bad door": {"doors": [1]},
    "a huge name": {"host": "x" * 1000},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_record_that_is_foreign_is_passed_over(tmp_path: Path, kind: str) -> None:
    """The others are shown."""
    put(tmp_path, OTHER, **FOREIGN[kind])
    put(tmp_path, 3)
    (tmp_path / ".hosts" / f"{5:010x}-00000001.json").write_text("no JSON")
    (tmp_path / ".hosts" / "README").write_text("mine")

    assert set(roster.read(str(tmp_path))) == {3}
    assert roster.name_of(str(tmp_path), OTHER) == "host 00000abcde"
    assert roster.name_of(str(tmp_path), 3) == "node7"


def test_record_with_members_of_a_newer_version_is_read(tmp_path: Path) -> None:
    """It is for people, so what is known of it is better than nothing."""
    put(tmp_path, OTHER, color="blue")
    assert OTHER in roster.read(str(tmp_path))


def test_read_of_a_root_that_is_missing_is_empty(tmp_path: Path) -> None:
    """Never an error."""
    assert roster.read(str(tmp_path / "gone")) == {}


def test_records_of_processes_that_are_gone_are_removed_by_the_next(tmp_path: Path) -> None:
    """Those of this host, and of others when they are a month old."""
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait(60)
    now = utc_now()
    dead = put(tmp_path, ME, "00000001", pid=gone.pid, last_contact=now)
    lives = put(tmp_path, ME, "00000002", pid=os.getpid(), last_contact=now)
    other = put(tmp_path, OTHER, "00000003", pid=gone.pid, last_contact=now)
    old = put(tmp_path, OTHER, "00000004", last_contact="2020-01-31T12:00:00.000000Z")
    foreign = put(tmp_path, OTHER, "00000005", format=2)
    roster.announce(str(tmp_path), ME, "iscsi")

    assert [path.exists() for path in (dead, lives, other, old, foreign)] == [
        *(False, True, True, False, True)
    ]
