"""Real processes on one database: against each other, and where the file may not grow."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path

import pytest

from flockpr.store.kinds import SQLITE
from flockpr.store.provision import create_lun
from flockpr.store.sqlite import SqliteStore
from tests.support import sqlite_runs
from tests.support.daemon_process import PATIENCE, REPOSITORY, environment, eventually
from tests.support.lun_tools import append


@pytest.fixture
def lun(tmp_path: Path) -> str:
    """A LUN with a database."""
    create_lun(str(tmp_path), "disk", store=SQLITE)
    return str(tmp_path / "disk")


def start(what: str, marks: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a run."""
    return subprocess.Popen(
        sqlite_runs.command(what, str(marks), *arguments),
        env=environment(),
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(marks: Path) -> list[list[str]]:
    """What runs have said."""
    return [line.split() for line in marks.read_text().splitlines()] if marks.exists() else []


def history(lun: str) -> list[tuple[int, str, str]]:
    """Number, id and action of each transaction but the first, in order."""
    with contextlib.closing(SqliteStore(lun)) as store:
        records = list(store.history(since=2))
    assert [record.number for record in records] == list(range(2, len(records) + 2))
    return [(record.number, record.txid, record.applied.action) for record in records]


def test_of_processes_that_commit_at_once_each_transaction_is_one_ones(
    lun: str, tmp_path: Path
) -> None:
    """With upkeep in between; one of them is killed in the middle of something, and another one
    stands still for a while.
    """
    marks = tmp_path / "marks"
    runs = [start("races", marks, lun, "15", name) for name in ("a", "b")]
    endless = start("races", marks, lun, "1000000", "c")
    halted = start("races", marks, lun, "1000000", "d")
    try:
        eventually(lambda: len({line[3] for line in said(marks)}) == 4, "a commit of each")
        endless.kill()
        for _ in range(3):
            halted.send_signal(signal.SIGSTOP)  # perhaps while it keeps the others out
            time.sleep(0.1)
            halted.send_signal(signal.SIGCONT)
        for run in runs:
            _, errors = run.communicate(timeout=PATIENCE)
            assert run.returncode == 0, errors
    finally:
        for run in (*runs, endless, halted):
            run.kill()
            run.communicate()

    found = history(lun)
    told = {(int(line[1]), line[2], " ".join(line[3:])) for line in said(marks)}
    assert len(told) == len(said(marks))
    assert told <= set(found)
    assert len(found) <= len(told) + 2  # what two were killed in the middle of
    for name in "abcd":
        mine = [int(action.split()[1]) for _, _, action in found if action.startswith(name)]
        assert mine == list(range(len(mine)))
    with contextlib.closing(SqliteStore(lun)) as store:
        append(store)  # nothing keeps anybody out


def test_file_that_may_not_grow_refuses_commits_and_loses_none(lun: str, tmp_path: Path) -> None:
    """What is refused is not done, what is done is there, and it goes on when there is room."""
    marks = tmp_path / "marks"
    run = start("fills", marks, lun)
    _, errors = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, errors

    told = said(marks)
    assert [line for line in told if line[0] == "nothing"]
    done = [f"TRY {line[1]}" for line in told if line[0] == "done"]
    assert len(done) > 1
    assert [action for _, _, action in history(lun)] == done
