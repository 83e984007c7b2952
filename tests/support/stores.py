"""The stores that there are, and what only one of them can say of itself, for tests of all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from typing import Any
from unittest import mock

from flockpr.errors import StoreUnavailable
from flockpr.store import encoding
from flockpr.store.directory import LunDirectory
from flockpr.store.document import Document, decode
from flockpr.store.kinds import LOCKDIR, SQLITE
from flockpr.store.layout import COMMITS, DATABASE, commit_name
from flockpr.store.lockdir import LockDirectory
from flockpr.store.sqlite import SqliteStore
from flockpr.store.sqlite_file import DatabaseFile
from flockpr.store.syscalls import Syscalls

KINDS = (LOCKDIR, SQLITE)


def open_kind(kind: str, path: str, **options: Any) -> LunDirectory:
    """Open a LUN with the store that it has to have."""
    return SqliteStore(path, **options) if kind == SQLITE else LockDirectory(path, **options)


def truth(kind: str, lun: str) -> str:
    """Path of what holds the transactions."""
    return f"{lun}/{DATABASE if kind == SQLITE else COMMITS}"


def sql(lun: str, *statements: tuple[str, tuple[Any, ...]]) -> None:
    """Do something to the database of a LUN, as anybody could who may write to it."""
    with contextlib.closing(sqlite3.connect(f"{lun}/{DATABASE}")) as connection, connection:
        for text, values in statements:
            connection.execute(text, values)


def put(kind: str, lun: str, number: int, data: bytes) -> None:
    """Have other bytes stand where a transaction stands, or ought to."""
    if kind == SQLITE:
        sql(lun, ("INSERT OR REPLACE INTO commits VALUES (?, ?)", (number, data)))
        return
    with open(f"{lun}/{COMMITS}/{commit_name(number)}", "wb") as file:
        file.write(data)


def take(kind: str, lun: str, number: int) -> bytes:
    """The bytes of a transaction."""
    if kind == SQLITE:
        with contextlib.closing(sqlite3.connect(f"{lun}/{DATABASE}")) as connection:
            query = "SELECT document FROM commits WHERE number = ?"
            return bytes(connection.execute(query, (number,)).fetchone()[0])
    with open(f"{lun}/{COMMITS}/{commit_name(number)}", "rb") as file:
        return file.read()


def changed(data: bytes, **members: Any) -> bytes:
    """A document with other members, and a checksum that fits."""
    import json

    value = json.loads(data)
    del value["checksum"]
    return encoding.seal(json.dumps({**value, **members}, separators=(",", ":")))


def document(data: bytes) -> Document:
    """The document in these bytes."""
    return decode(data)


def save(kind: str, lun: str) -> str:
    """A copy of what holds the transactions; where it is."""
    copy = f"{os.path.dirname(lun)}/copy-of-{os.path.basename(truth(kind, lun))}"
    if kind == SQLITE:
        shutil.copy(truth(kind, lun), copy)
    else:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(truth(kind, lun), copy)
    return copy


def roll_back(kind: str, lun: str, copy: str) -> None:
    """Put a copy's contents where they were, as from a backup, the names staying what they are."""
    if kind == SQLITE:
        with open(copy, "rb") as source, open(truth(kind, lun), "r+b") as target:
            target.write(source.read())
            target.truncate()
        return
    for name in set(os.listdir(truth(kind, lun))) - set(os.listdir(copy)):
        os.unlink(f"{truth(kind, lun)}/{name}")


class NoSync(Syscalls):
    """A disk that does not say that anything is stable while it `fails`; counts when it does."""

    def __init__(self) -> None:
        self.fails = False
        self.syncs = 0

    def fsync(self, fd: int) -> None:
        """See `Syscalls`."""
        if self.fails:
            raise OSError(errno.EIO, "Input/output error")
        self.syncs += 1
        super().fsync(fd)


class BadLink(Syscalls):
    """A file server that answers EIO to what it was asked to link, whether it did it or not."""

    def __init__(self) -> None:
        self.broken = ""

    def link(self, source: str, target: str, *, dir_fd: int) -> None:
        """See `Syscalls`."""
        if self.broken != "before":
            super().link(source, target, dir_fd=dir_fd)
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")

    def stat(self, name: str, *, dir_fd: int) -> os.stat_result:
        """Nor can anything be found out."""
        if self.broken and name.endswith(".json") and name[0].isdigit():
            raise OSError(errno.EIO, "Input/output error")
        return super().stat(name, dir_fd=dir_fd)


@contextlib.contextmanager
def breaks_in_commit(kind: str, calls: BadLink, when: str) -> Iterator[None]:
    """Within this, a commit fails "before" or "after" it was done, and nobody can see which."""
    if kind != SQLITE:
        calls.broken = when
        try:
            yield
        finally:
            calls.broken = ""
        return
    real = DatabaseFile.commit
    failure = StoreUnavailable("cannot be written: disk I/O error")

    def commit(file: DatabaseFile) -> None:
        if when == "after":
            real(file)
        raise failure

    def nothing(*_: object) -> None:
        raise failure

    with (
        mock.patch.object(DatabaseFile, "commit", commit),
        mock.patch.object(DatabaseFile, "reading", nothing),
    ):
        yield
