"""What processes do to the database of a LUN while they are watched, killed, or made to fail.

Run as `python -m tests.support.sqlite_runs WHAT MARKS PATH ...`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Sequence
from unittest import mock

from flockpr.errors import Busy, StoreUnavailable
from flockpr.store import sqlite_file
from flockpr.store.layout import DATABASE
from flockpr.store.provision import event
from flockpr.store.sqlite import SqliteStore
from tests.support.lun_tools import append, tidy_now

KEEP, SEGMENT = 6, 4


def opened(path: str) -> SqliteStore:
    """The store, with little of everything."""
    return SqliteStore(path, keep=KEEP, segment=SEGMENT, settle=0)


class Marks:
    """Where a run says what it has achieved, each line with one system call."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def say(self, *words: object) -> None:
        """One line."""
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())


def commits(marks: Marks, path: str, count: str) -> None:
    """Commit, with upkeep now and then; each commit is said when it was acknowledged."""
    with contextlib.closing(opened(path)) as store:
        for turn in range(int(count)):
            append(store)
            head = store.head()
            marks.say("done", head.number, head.txid)
            if turn % 4 == 3:
                tidy_now(store)


def unsafe(marks: Marks, path: str, count: str) -> None:
    """The same, by an SQLite that syncs nothing."""
    with (
        mock.patch.object(sqlite_file, "_SETTINGS", ("PRAGMA synchronous=OFF",)),
        mock.patch.object(sqlite_file, "_EXTRA", 0),
    ):
        commits(marks, path, count)


def looks(marks: Marks, *paths: str) -> None:
    """Look at many databases as somebody who answers by what is seen."""
    for path in paths:
        with contextlib.closing(opened(path)) as store:
            head = store.head()
            store.ensure_durable(head)
            marks.say("seen", path, head.number, head.txid)


def glances(marks: Marks, *paths: str) -> None:
    """The same, by somebody who does not care whether it lasts."""
    for path in paths:
        with contextlib.closing(opened(path)) as store:
            head = store.head()
            marks.say("seen", path, head.number, head.txid)


def fills(marks: Marks, path: str) -> None:
    """Commit until the file may not grow any more, a while longer, and then when it may again."""
    with contextlib.closing(opened(path)) as store:
        size = os.stat(f"{path}/{DATABASE}").st_size
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 16384, hard))
        refused = turn = 0
        while refused < 5:
            turn += 1
            refused += not _tried(marks, store, turn)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert _tried(marks, store, turn + 1)


def _tried(marks: Marks, store: SqliteStore, turn: int) -> bool:
    base = store.head()
    line = event(f"TRY {turn}", base.state.generation, door="api")
    try:
        after = store.commit(base, base.state, [line], served={})
    except StoreUnavailable as error:
        marks.say("nothing", turn, str(error).replace("\n", " "))
        return False
    assert after is not None
    marks.say("done", turn)
    return True


def races(marks: Marks, path: str, count: str, name: str) -> None:
    """Commit against others: decide on the head, and again where it has moved."""
    with contextlib.closing(opened(path)) as store:
        for turn in range(int(count)):
            while True:
                try:
                    base = store.head()
                    line = event(f"{name} {turn}", 0, door="api")
                    after = store.commit(base, base.state, [line], served={})
                except Busy:
                    continue
                if after is not None:
                    marks.say("done", after.number, after.txid, name, turn)
                    break
            tidy_now(store)


RUNS = {run.__name__: run for run in (commits, unsafe, looks, glances, fills, races)}


def command(what: str, marks: str, *arguments: str) -> Sequence[str]:
    """The command line of a run."""
    return (sys.executable, "-m", "tests.support.sqlite_runs", what, marks, *arguments)


if __name__ == "__main__":
    RUNS[sys.argv[1]](Marks(sys.argv[2]), *sys.argv[3:])
