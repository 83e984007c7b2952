"""The audit trail: whole segments, bounded, complete, whoever archives and prunes meanwhile."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import math
import os
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flockpr.errors import StateUnreadable, StoreError
from flockpr.store import archive, directory
from flockpr.store.base import Applied, AuditRecord
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun, event
from flockpr.store.syscalls import Syscalls
from tests.support.lun_tools import append, tidy_now, tree

Open = Callable[..., LockDirectory]


@pytest.fixture
def lun(tmp_path: Path) -> str:
    """A lock directory."""
    create_lun(str(tmp_path), "disk")
    return str(tmp_path / "disk")


@pytest.fixture
def opened(lun: str) -> Iterator[Open]:
    """Opens it with segments of 4 and 4 commits kept, settled at once."""
    made: list[LockDirectory] = []

    def make(syscalls: Syscalls | None = None, *, settle: float = 0) -> LockDirectory:
        made.append(LockDirectory(lun, syscalls=syscalls, keep=4, segment=4, settle=settle))
        return made[-1]

    yield make
    for store in made:
        store.close()


def segments(lun: str) -> list[int]:
    """First numbers of the segments; nothing else lies in that directory."""
    return sorted(int(name.removesuffix(".jsonl")) for name in os.listdir(f"{lun}/audit"))


def commits(lun: str) -> list[int]:
    """Numbers of the commits that are there; nothing else lies in that directory."""
    return sorted(int(name.removesuffix(".json")) for name in os.listdir(f"{lun}/commits"))


def told(records: Iterator[AuditRecord]) -> list[int]:
    """Transaction numbers of the records."""
    return [record.number for record in records]


def test_history_of_commits_alone_is_complete(opened: Open) -> None:
    """From the creation on, with who and what."""
    store = opened()
    append(store, 3)

    records = list(store.history())

    assert [record.number for record in records] == [1, 2, 3, 4]
    assert [record.applied.action for record in records] == ["CREATE", "TEST 2", "TEST 3", "TEST 4"]
    assert {record.daemon for record in records[1:]} == {store.daemon}
    assert told(store.history(3)) == [3, 4]
    assert told(store.history(5)) == []
    assert store.history_begins() == 1


def test_tidy_archives_whole_segments_and_prunes_what_they_cover(opened: Open, lun: str) -> None:
    """The head and `keep` below it stay; a commit is never dropped before it is archived."""
    store = opened()
    append(store, 6)
    tidy_now(store)
    assert (segments(lun), commits(lun)) == ([], list(range(1, 8)))

    append(store, 7)
    tidy_now(store)

    assert segments(lun) == [1, 5]
    assert commits(lun) == list(range(9, 15))
    assert told(store.history()) == list(range(1, 15))
    assert told(store.history(6)) == list(range(6, 15))
    assert store.history_begins() == 1
    assert store.head().number == 14


def test_tidy_of_unsettled_commits_does_nothing(opened: Open, lun: str) -> None:
    """Slow readers and writers of other hosts still look at younger ones."""
    store = opened(settle=3600)
    append(store, 20)
    tidy_now(store)

    assert (segments(lun), commits(lun)) == ([], list(range(1, 22)))


def test_tidy_settles_by_what_was_seen_not_by_the_clock_of_files(
    opened: Open, lun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit goes when its successor has been seen for `settle` seconds."""
    now = time.monotonic()
    monkeypatch.setattr(directory, "time", types.SimpleNamespace(monotonic=lambda: now))
    store = opened(settle=60)
    append(store, 12)
    store.tidy()
    now += 59
    append(store, 12)
    store.tidy()
    assert commits(lun)[0] == 1

    now += 6
    store.tidy()

    assert commits(lun)[0] == 13  # 12 was seen to have a successor 65 seconds ago
    now += 60
    store.tidy()
    assert commits(lun)[0] == 21


def test_segments_are_lines_of_json_with_their_transaction(opened: Open, lun: str) -> None:
    """Readable with grep and jq."""
    store = opened()
    append(store, 12)
    tidy_now(store)

    lines = Path(lun, "audit", f"{5:016d}.jsonl").read_text().splitlines()

    assert [json.loads(line)["number"] for line in lines] == [5, 6, 7, 8]
    assert json.loads(lines[0])["action"] == "TEST 5"
    assert json.loads(lines[0])["host"] == store.host


def test_transaction_with_many_commands_or_none_is_kept_in_order(opened: Open, lun: str) -> None:
    """A record for each command; a transaction without any has none."""
    store = opened()
    for count in (2, 0, 3, 0, 0, 1, *[1] * 8):
        base = store.head()
        lines = [event(f"{base.number + 1}.{n}", 0, door="api") for n in range(count)]
        assert store.commit(base, base.state, lines, served={})
    before = list(store.history())
    tidy_now(store)

    assert segments(lun) == [1, 5]
    assert list(store.history()) == before
    actions = [record.applied.action for record in before][:8]
    assert actions == ["CREATE", "2.0", "2.1", "4.0", "4.1", "4.2", "7.0", "8.0"]


# --------------------------------------------------------------------------- retention


def _old_segments(lun: str, firsts: range, *, age: float) -> None:
    for first in firsts:
        path = f"{lun}/audit/{first:016d}.jsonl"
        Path(path).write_text("")
        os.utime(path, (time.time() - age, time.time() - age))


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep 8 transactions, an hour, and 6 segments."""
    monkeypatch.setattr(archive, "KEEP_TRANSACTIONS", 8)
    monkeypatch.setattr(archive, "KEEP_SECONDS", 3600)
    monkeypatch.setattr(archive, "KEEP_SEGMENTS", 6)


@pytest.mark.usefixtures("brief")
def test_old_segments_beyond_the_kept_transactions_go(opened: Open, lun: str) -> None:
    """Old alone is not enough, and neither is being many transactions ago."""
    store = opened()
    append(store, 16)
    tidy_now(store)
    assert segments(lun) == [1, 5, 9]
    for first in (1, 5):
        os.utime(f"{lun}/audit/{first:016d}.jsonl", (0, 0))

    append(store, 3)  # head 20: transactions 13 to 20 must stay, 9 to 12 are young
    tidy_now(store)

    assert segments(lun) == [9, 13]
    assert store.history_begins() == 9
    assert told(store.history()) == list(range(9, 21))


@pytest.mark.usefixtures("brief")
def test_too_many_segments_go_though_they_are_young(opened: Open, lun: str) -> None:
    """The directory is bounded, whatever the traffic."""
    store = opened()
    append(store, 60)
    tidy_now(store)

    assert len(segments(lun)) == 6
    assert store.history_begins() == segments(lun)[0]
    assert told(store.history()) == list(range(store.history_begins(), 62))


@pytest.mark.usefixtures("brief")
def test_transactions_that_are_promised_stay_however_old(opened: Open, lun: str) -> None:
    """And however many segments they fill."""
    store = opened()
    append(store, 15)
    tidy_now(store)
    for first in segments(lun):
        os.utime(f"{lun}/audit/{first:016d}.jsonl", (0, 0))
    append(store, 1)
    tidy_now(store)

    begins = store.history_begins()
    assert begins <= store.head().number - 8
    assert told(store.history()) == list(range(begins, 18))


# --------------------------------------------------------------------------- two stores


def test_segment_of_another_daemon_is_not_written_again(opened: Open, lun: str) -> None:
    """Written once, whole; the second only prunes."""
    first, second = opened(), opened()
    append(first, 12)
    tidy_now(first)
    before = {name: os.stat(f"{lun}/audit/{name}").st_ino for name in os.listdir(f"{lun}/audit")}
    second.head()
    tidy_now(second)

    found = {name: os.stat(f"{lun}/audit/{name}").st_ino for name in os.listdir(f"{lun}/audit")}
    assert found == before
    assert told(second.history()) == list(range(1, 14))


def test_commit_that_an_archiver_left_is_told_once(opened: Open, lun: str) -> None:
    """It crashed between archiving and pruning: the next one prunes."""

    class Crash(Syscalls):
        def unlink(self, name: str, *, dir_fd: int) -> None:
            if name.endswith(".json"):
                raise OSError(errno.EIO, "power went")
            super().unlink(name, dir_fd=dir_fd)

    store = opened(Crash())
    append(store, 13)
    tidy_now(store)
    assert segments(lun) == [1, 5]
    assert commits(lun)[0] == 1
    assert told(store.history()) == list(range(1, 15))

    other = opened()
    other.head()
    tidy_now(other)

    assert commits(lun) == list(range(9, 15))
    assert told(other.history()) == list(range(1, 15))


@pytest.mark.parametrize("step", ["write", "link", "fsync"])
def test_segment_that_cannot_be_written_prunes_nothing(
    opened: Open, lun: str, step: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Upkeep may fail; the trail may not lose a transaction by it. Next time it is done."""

    class Broken(Syscalls):
        armed = False

        def fail(self) -> None:
            if self.armed:
                raise OSError(errno.ENOSPC, "full")

        def write(self, fd: int, data: bytes) -> int:
            if step == "write":
                self.fail()
            return super().write(fd, data)

        def link(self, source: str, target: str, *, dir_fd: int) -> None:
            if step == "link":
                self.fail()
            super().link(source, target, dir_fd=dir_fd)

        def fsync(self, fd: int) -> None:
            if step == "fsync":
                self.fail()
            super().fsync(fd)

    syscalls = Broken()
    store = opened(syscalls)
    append(store, 13)
    store._next_upkeep = math.inf
    store.tidy()  # publish, so that only the archive is left to fail
    syscalls.armed = True
    before = tree(f"{lun}/commits")
    with caplog.at_level(logging.WARNING):
        tidy_now(store)

    assert "upkeep" in caplog.text
    assert tree(f"{lun}/commits") == before
    assert told(store.history()) == list(range(1, 15))
    syscalls.armed = False
    tidy_now(store)
    assert commits(lun)[0] == 9
    assert segments(lun) == [1, 5]


def test_history_has_no_holes_while_two_daemons_archive(opened: Open, lun: str) -> None:
    """Two stores commit and tidy as fast as they can; a third reads the trail all the time."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def work(store: LockDirectory) -> None:
        try:
            for count in itertools.count():
                if stop.is_set():
                    return
                base = store.head()
                if (
                    store.commit(base, base.state, [event("TEST", 0, door="api")], served={})
                    or count % 3 == 0
                ):
                    tidy_now(store)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(opened(),)) for _ in range(2)]
    reader = opened()
    for thread in threads:
        thread.start()
    try:
        deadline = time.monotonic() + 60
        rounds = highest = 0
        while (rounds < 40 or highest < 150) and time.monotonic() < deadline and not errors:
            since = max(1, highest - 30) if rounds % 2 else 1
            numbers = told(reader.history(since))
            assert numbers == list(range(since, since + len(numbers)))
            assert not numbers or numbers[-1] >= highest
            highest = numbers[-1]
            rounds += 1
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert errors == []
    assert segments(lun)
    last = reader.head().number
    assert told(reader.history()) == list(range(1, last + 1))


# --------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-10], "not JSON"),
        (lambda data: b"[]\n" + data, "no object"),
        (lambda data: data.replace(b'"status": 0', b'"status": 256'), "status"),
        (lambda data: data.replace(b'"number"', b'"nummer"', 1), "unknown fields|missing"),
        (lambda data: data.replace(b'"door"', b'"host"', 1), "twice"),
    ],
)
def test_damaged_segment_is_refused_by_name(
    opened: Open, lun: str, damage: Callable[[bytes], bytes], words: str
) -> None:
    """The trail is evidence: it is not read past what is no evidence."""
    store = opened()
    append(store, 12)
    tidy_now(store)
    path = Path(lun, "audit", f"{5:016d}.jsonl")
    path.write_bytes(damage(path.read_bytes()))

    records = store.history()
    assert [next(records).number for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(StateUnreadable, match=words) as caught:
        next(records)
    assert caught.value.path == str(path)


def test_damaged_commit_is_neither_archived_nor_pruned(
    opened: Open, lun: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It may still be mended; the state goes on from the head."""
    store = opened()
    append(store, 12)
    path = Path(lun, "commits", f"{3:016d}.json")
    path.write_bytes(path.read_bytes()[:-7])
    with caplog.at_level(logging.WARNING):
        tidy_now(store)

    assert str(path) in caplog.text
    assert (segments(lun), commits(lun)) == ([], list(range(1, 14)))
    assert store.head().number == 13
    with pytest.raises(StoreError, match="cut short"):
        list(store.history())


def test_record_of_the_trail_is_the_command_as_it_was(opened: Open) -> None:
    """All fields survive the commit and the segment."""
    line = Applied(
        nexus="iqn.2026-01.org.example:a",
        target_port=7,
        action="PREEMPT",
        opcode=0x5F,
        key=(1 << 64) - 1,
        service_action_key=0,
        type=8,
        status=0,
        generation_before=(1 << 32) - 1,
        generation_after=0,
        door="helper",
        time="2026-01-01T00:00:00.000000Z",
        raised=("x@1 2a/05", "y@2 2a/03"),
    )
    store = opened()
    base = store.head()
    after = store.commit(base, base.state, [line], served={})
    assert after is not None
    expected = AuditRecord(2, after.txid, store.host, store.daemon, line)
    assert list(store.history(2)) == [expected]
    append(store, 12)
    tidy_now(store)

    assert next(store.history(2)) == expected
    assert expected.to_json()["key"] == "0xffffffffffffffff"
