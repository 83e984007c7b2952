"""Power cuts and kills at each write of a real SQLite, played again.

A real process commits on a real file system; strace records each write and sync. Then each
moment of it is the last: a power cut keeps what was synced and any part of the rest, a kill keeps
all that was written. What is left is opened by a real SQLite again.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from flockpr.store.kinds import SQLITE
from flockpr.store.layout import DATABASE, DATABASE_JOURNAL
from flockpr.store.provision import create_lun
from flockpr.store.sqlite import SqliteStore
from tests.support import sqlite_runs
from tests.support.lun_tools import append
from tests.support.recorded import KEEPS, Disk, Mark, Step, Write, record

pytestmark = pytest.mark.peer("strace")

FILES = (DATABASE, DATABASE_JOURNAL)
COMMITS = 10


@attrs.frozen
class Run:
    """A recorded run.

    Attributes:
        lun: Where it was.
        disk: The files before it.
        steps: What it did.
        ids: By number, the id of each transaction that it made or found.
    """

    lun: str
    disk: Disk
    steps: list[Step]
    ids: dict[int, str]

    def moments(self) -> Iterator[tuple[int, Disk, int]]:
        """Each moment: how many steps were done, the disk, the newest acknowledged number."""
        disk, acknowledged = self.disk.copy(), 1
        yield 0, disk.copy(), acknowledged
        for number, step in enumerate(self.steps, 1):
            disk.do(step)
            if isinstance(step, Mark):
                acknowledged = int(step.text.split()[1])
            yield number, disk.copy(), acknowledged


@pytest.fixture(scope="module")
def workshop() -> Iterator[Path]:
    """A directory in memory, if there is such a thing: what is shown has nothing to do with it."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = tempfile.mkdtemp(prefix="flockpr-cuts-", dir=parent)
    yield Path(path)
    shutil.rmtree(path)


def _recorded(workshop: Path, what: str) -> Run:
    root = workshop / what
    create_lun(str(root), "disk", store=SQLITE)
    lun = str(root / "disk")
    paths = [f"{lun}/{name}" for name in FILES]
    before = Disk.of({path: Path(path).read_bytes() for path in paths})
    marks = str(root / "marks")
    command = sqlite_runs.command(what, marks, lun, str(COMMITS))
    steps = record(command, str(root / "trace"), marks, FILES)
    played = before.copy()
    for step in steps:
        played.do(step)
    # Or something was done that was not recorded.
    assert played.seen() == {path: Path(path).read_bytes() for path in paths}
    with contextlib.closing(SqliteStore(lun)) as store:
        ids = {record.number: record.txid for record in store.history()}
    assert set(ids) == set(range(1, COMMITS + 2))
    return Run(lun, before, steps, ids)


@pytest.fixture(scope="module")
def run(workshop: Path) -> Run:
    """Commits, and upkeep that moves some of them to the trail."""
    return _recorded(workshop, "commits")


def lay_out(run: Run, files: dict[str, bytes], path: Path) -> str:
    """The directory of a LUN with these files; where it is."""
    lun = path / "disk"
    shutil.rmtree(lun, ignore_errors=True)
    path.mkdir(exist_ok=True)
    shutil.copytree(run.lun, lun, ignore=shutil.ignore_patterns(f"{DATABASE}*"))
    for name, data in files.items():
        (lun / os.path.basename(name)).write_bytes(data)
    return str(lun)


def check(run: Run, lun: str, lowest: int, highest: int) -> None:
    """What is left is whole: a transaction that there was, with all before it, to go on from."""
    with contextlib.closing(SqliteStore(lun)) as store:
        head = store.head()
        assert lowest <= head.number <= highest
        found = [(record.number, record.txid) for record in store.history()]
        assert found == [(number, run.ids[number]) for number in range(1, head.number + 1)]
        assert head.txid == run.ids[head.number]
        append(store)
    with contextlib.closing(sqlite3.connect(f"{lun}/{DATABASE}")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def cut_everywhere(run: Run, workshop: Path, seed: int, stride: int = 1) -> int:
    """Cut the power at each moment of a run, in one way each, and look; how often."""
    done = 0
    for number, disk, acknowledged in run.moments():
        if number % stride:
            continue
        chance = random.Random(f"{seed} {number}")
        for keep in (KEEPS[0], KEEPS[1 + (number + seed) % (len(KEEPS) - 1)]):
            lun = lay_out(run, disk.cut(keep, chance), workshop / "cut")
            try:
                check(run, lun, acknowledged, acknowledged + 1)
            except Exception as error:
                raise AssertionError(f"seed {seed}, {keep} after step {number}: {error}") from error
            done += 1
    return done


def test_power_cut_at_any_moment_loses_nothing_that_was_acknowledged(
    run: Run, workshop: Path
) -> None:
    """And leaves no half of anything, also where transactions are moved to the trail."""
    assert cut_everywhere(run, workshop, seed=1, stride=2) > 100


@pytest.mark.sweep
def test_power_cuts_of_every_kind(run: Run, workshop: Path) -> None:
    """Each moment, with many parts of what was not synced."""
    for seed in range(40):
        cut_everywhere(run, workshop, seed)


def test_cuts_notice_an_sqlite_that_does_not_sync(workshop: Path) -> None:
    """Or the test above shows nothing."""
    lax = _recorded(workshop, "unsafe")
    with pytest.raises(AssertionError, match="after step"):
        cut_everywhere(lax, workshop, seed=1, stride=3)


# --------------------------------------------------------------------------- killed, and seen


@attrs.frozen
class Killed:
    """A moment at which a process was killed, and where that is laid out."""

    number: int
    disk: Disk
    acknowledged: int
    lun: str


def killed_everywhere(run: Run, workshop: Path, stride: int) -> list[Killed]:
    """What kills leave: after each of some steps, and after all that end a transaction."""
    found = []
    for number, disk, acknowledged in run.moments():
        last = run.steps[number - 1] if number else None
        ends = isinstance(last, Write) and last.data[:8] == bytes(8) and last.offset == 0
        if number % stride and not ends:
            continue
        lun = lay_out(run, disk.seen(), workshop / f"killed-{number}")
        moved = disk.copy(run.lun, lun)
        found.append(Killed(number, moved, acknowledged, lun))
    assert found
    return found


def seen_then_cut(run: Run, workshop: Path, what: str, stride: int) -> int:
    """Kill a process at each of some moments, have another one look, and cut the power when that
    one has answered; how often.
    """
    kills = killed_everywhere(run, workshop, stride)
    marks = str(workshop / f"marks-{what}")
    command = sqlite_runs.command(what, marks, *(kill.lun for kill in kills))
    steps = iter(record(command, str(workshop / f"trace-{what}"), marks, FILES))
    for kill in kills:
        disk = kill.disk.copy()
        for step in steps:
            if isinstance(step, Mark):
                _, path, number, txid = step.text.split()
                break
            disk.do(step)
        assert path == kill.lun
        assert kill.acknowledged <= int(number) <= kill.acknowledged + 1
        assert txid == run.ids[int(number)]
        for keep in KEEPS:
            lun = lay_out(run, disk.cut(keep, random.Random(kill.number)), workshop / "cut")
            try:
                check(run, lun, int(number), int(number))
            except Exception as error:
                raise AssertionError(f"{keep} after step {kill.number}: {error}") from error
    for kill in kills:
        shutil.rmtree(os.path.dirname(kill.lun))
    return len(kills)


def test_what_somebody_answered_by_after_a_kill_survives_a_power_cut(
    run: Run, workshop: Path
) -> None:
    """The writer is killed at any moment, and whoever comes next plays back or goes on: what
    that one has seen and made durable is what there is.
    """
    assert seen_then_cut(run, workshop, "looks", stride=6) > 30


@pytest.mark.sweep
def test_kills_at_every_write(run: Run, workshop: Path) -> None:
    """The same at each of them."""
    seen_then_cut(run, workshop, "looks", stride=1)


def test_cuts_notice_who_does_not_make_durable_what_is_seen(run: Run, workshop: Path) -> None:
    """Or the test above shows nothing."""
    with pytest.raises(AssertionError, match="after step"):
        seen_then_cut(run, workshop, "glances", stride=1000)
