"""What processes do to the database of a LUN while they are watched, killed, or made to fail.

Run as `python -m tests.support.sqlite_runs WHAT MARKS PATH ...`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from unittest import mock

from flockpr.errors import Busy, OutcomeUnknown, StoreError, StoreUnavailable
from flockpr.store import sqlite_file
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


def tries(marks: Marks, path: str, count: str) -> None:
    """Commit where calls fail, and say what was told of each."""
    with contextlib.closing(_open_at_last(path)) as store:
        for turn in range(int(count)):
            _try(marks, store, f"TRY {turn}")
            if turn % 5 == 4:
                tidy_now(store)


def _open_at_last(path: str) -> SqliteStore:
    while True:
        try:
            return opened(path)
        except StoreUnavailable:
            continue


def _try(marks: Marks, store: SqliteStore, action: str) -> None:
    try:
        base = store.head()
        line = event(action, base.state.generation, door="api")
        after = store.commit(base, base.state, [line], served={})
    except OutcomeUnknown:
        marks.say("unknown", action)
    except (Busy, StoreUnavailable) as error:
        marks.say("nothing", action, str(error).replace("\n", " "))
    except StoreError as error:
        marks.say("refused", action, repr(error))
    else:
        marks.say("done" if after is not None else "conflict", action)


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


RUNS = {run.__name__: run for run in (commits, unsafe, looks, glances, tries, races)}


def command(what: str, marks: str, *arguments: str) -> Sequence[str]:
    """The command line of a run."""
    return (sys.executable, "-m", "tests.support.sqlite_runs", what, marks, *arguments)


if __name__ == "__main__":
    RUNS[sys.argv[1]](Marks(sys.argv[2]), *sys.argv[3:])
