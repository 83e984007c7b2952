"""One SQLite file: how it is opened, recognised and asked, and what its errors mean.

Theory of operation. Of the ways in which SQLite commits, this is `journal_mode=PERSIST` with
`synchronous=EXTRA`:

1. what a page held before is written to `commits.sqlite-journal` and synced;
2. the page is written to the file itself and synced;
3. the header of the journal is overwritten with zeros: from now on the transaction counts;
4. the journal is synced: from now on it counts after a power cut as well.

Who is killed before 3 leaves a journal that the next one who opens the file plays back. Who is
killed between 3 and 4 leaves a transaction that everybody sees, and that a power cut may still
take back. So whoever depends on it syncs the journal first (`Database.ensure_durable`), which is
why the journal has to be a file that stays, and why it is not the write-ahead log: see decision
note 0020. It does not stay where the first look of a connection plays it back, since no setting
of a journal is possible before that; then it is the directory that is synced.

SQLite's locks are those of a process, and closing any descriptor of the file lets go of all of
them. So nothing in flockpr ever opens the file itself; it is looked at by `stat` alone.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote

from flockpr.errors import Busy, NewerFormat, StateUnreadable, StoreError, StoreUnavailable
from flockpr.store import files
from flockpr.store.layout import DATABASE
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)

APPLICATION: Final = 0x464C5052
"""`PRAGMA application_id`: "FLPR" in ASCII."""
VERSION: Final = 1
"""`PRAGMA user_version`: of the tables. Documents have a format of their own."""
SCHEMA: Final = (
    "CREATE TABLE audit (number INTEGER PRIMARY KEY, archived INTEGER NOT NULL, lines BLOB)",
    "CREATE TABLE commits (number INTEGER PRIMARY KEY, document BLOB NOT NULL)",
    "CREATE TABLE head (only INTEGER PRIMARY KEY, number INTEGER NOT NULL, txid TEXT NOT NULL)",
)
"""In the order of their names."""
PATIENCE: Final = 5.0
"""Seconds to wait for a lock of another process."""
OLDEST: Final = (3, 33, 0)
"""The first SQLite that can check one table of several."""

_RESTORE = "restore it from a backup"
_ERRNO = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
}
"""By which number an error of SQLite is known to the rest; everything else is EIO."""
_NOT_OURS = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_ERROR,  # it lacks a table
        sqlite3.SQLITE_CONSTRAINT,  # it has a transaction beyond the newest
    }
)
"""The file is damaged, or another one than it should be."""


def failure(error: sqlite3.Error, what: str, path: str) -> StoreError:
    """The StoreError for an error of SQLite.

    Args:
        error: What it raised.
        what: What was being done, as "cannot ...".
        path: The file.
    """
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Busy(
            f"{what}: another process keeps it locked",
            path,
            "if that lasts, see who has it open (`fuser`) and end a process that hangs",
        )
    if code in _NOT_OURS:
        return StateUnreadable(f"{what}: {error}", path, _RESTORE)
    number = _ERRNO.get(code, errno.EIO)
    if code == sqlite3.SQLITE_CANTOPEN and os.path.lexists(path) and not _may_read(path):
        number = errno.EACCES
    return files.unavailable(OSError(number, str(error)), what, path)


class DatabaseFile:
    """The SQLite file of one logical unit, as one daemon has it open. Not thread-safe.

    Args:
        syscalls: Where the looks at its name go.
        lun_fd: Descriptor of the logical unit's directory; stays the caller's.
        path: Path of that directory.

    Attributes:
        path: Of the file.

    Raises:
        StateUnreadable: It is not ours, or damaged.
        StoreError: It cannot be opened.
    """

    def __init__(self, syscalls: Syscalls, lun_fd: int, path: str) -> None:
        self.path = f"{path}/{DATABASE}"
        self._sys = syscalls
        self._lun_fd = lun_fd
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        if sqlite3.sqlite_version_info < OLDEST or not sqlite3.threadsafety:
            raise StoreUnavailable(
                f"SQLite {sqlite3.sqlite_version} is too old to open it, or built for one thread",
                self.path,
                f"install {'.'.join(map(str, OLDEST))} or newer",
            )
        self._connected()

    def close(self) -> None:
        """Let go of it, for good. An unfinished transaction is rolled back."""
        self._closed = True
        self.disconnect()

    def disconnect(self) -> None:
        """Let go of it until it is asked again: after an error the state of a connection is not
        to be relied upon. An unfinished transaction is rolled back, now or by who comes next.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    # ------------------------------------------------------------------ asking

    def query(self, sql: str, *values: Any) -> list[Any]:
        """The rows that a statement gives.

        Raises:
            Busy: Another process keeps it locked; nothing was done.
            StoreError: It failed.
        """
        with self._errors("cannot be read"):
            return self._connected().execute(sql, values).fetchall()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Statements within see one moment."""
        self.query("BEGIN")
        try:
            yield
        finally:
            self.rollback()

    def touch(self) -> None:
        """Commit something that changes nothing, so that what is there now is durable.

        Raises:
            StoreError: It failed.
        """
        with self.writing():
            self.query("UPDATE head SET number = number")

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Statements within are one transaction, of which nothing depends on whether it was done.

        Raises:
            StoreError: It was not done, as far as is known.
        """
        self.begin()
        try:
            yield
            self.commit()
        except BaseException:
            self.rollback()
            self.disconnect()
            raise

    def begin(self) -> None:
        """Begin a transaction that writes, and keep all others from it.

        Raises:
            Busy: Another process does that at the moment.
            StoreError: It failed.
        """
        with self._errors("cannot be written"):
            self._connected().execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """End a transaction; it is durable.

        Raises:
            Busy: Somebody reads all the time; it is not done, and still open.
            StoreError: It failed, and may have been done.
        """
        with self._errors("cannot be written"):
            self._connected().execute("COMMIT")

    def rollback(self) -> None:
        """Drop a transaction, if there is one. What cannot be dropped is left to who opens it
        next; before COMMIT, that can only drop it as well.
        """
        connection = self._connection
        if connection is None or not connection.in_transaction:
            return
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            log.warning("%s: rolling back: %s", self.path, error)
            self.disconnect()

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise failure(error, what, self.path) from error

    # ------------------------------------------------------------------ opening

    def _connected(self) -> sqlite3.Connection:
        if self._closed:
            raise StoreUnavailable("was closed", self.path)
        if self._connection is None:
            try:
                self._check_file()
            except OSError as error:
                raise files.unavailable(error, "cannot be opened", self.path) from error
            connection = connect(self.path)
            try:
                self._check_ours(connection)
            except sqlite3.Error as error:
                connection.close()
                raise failure(error, "cannot be opened", self.path) from error
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _check_file(self) -> None:
        """That its name leads to a file in which SQLite cannot go wrong: SQLite would take an
        empty one for a new database, and remove the journal of it; it follows symbolic links;
        and a file with two names has two journals, of which it finds one.
        """
        status = self._sys.stat(DATABASE, dir_fd=self._lun_fd)
        if not stat.S_ISREG(status.st_mode):
            raise StateUnreadable("is no regular file", self.path, _RESTORE)
        if status.st_nlink != 1:
            raise StateUnreadable(
                f"has {status.st_nlink} names", self.path, "remove all the others, or restore it"
            )
        if status.st_size == 0:
            raise StateUnreadable(
                "is empty, which is not the same as an empty state", self.path, _RESTORE
            )

    def _check_ours(self, connection: sqlite3.Connection) -> None:
        if _value(connection, "PRAGMA application_id") != APPLICATION:
            raise StateUnreadable("is a database of another program", self.path, _RESTORE)
        version = _value(connection, "PRAGMA user_version")
        if version > VERSION:
            raise NewerFormat(
                f"version {version} of its tables is newer than {VERSION}, which this reads",
                self.path,
                "run a newer flockpr on this host",
            )
        tables = connection.execute(
            "SELECT sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite#_%' ESCAPE '#' ORDER BY name"
        ).fetchall()
        if version != VERSION or tables != [(sql,) for sql in SCHEMA]:
            raise StateUnreadable("has other tables than flockpr makes", self.path, _RESTORE)
        self._check_durable(connection)
        for table in ("head", "commits"):
            found = _value(connection, f"PRAGMA quick_check({table})")
            if found != "ok":
                raise StateUnreadable(f"is damaged: {found}", self.path, _RESTORE)

    def _check_durable(self, connection: sqlite3.Connection) -> None:
        """That it commits as the module's docstring says, however this SQLite was built."""
        if _value(connection, "PRAGMA journal_mode") == "wal":  # setting another would end that
            raise StateUnreadable(
                "was switched to a write-ahead log by another program",
                self.path,
                f"sqlite3 {self.path} 'PRAGMA journal_mode=DELETE'",
            )
        mode = _value(connection, "PRAGMA journal_mode=PERSIST")
        synchronous = _value(connection, "PRAGMA synchronous")
        if (mode, synchronous) != ("persist", _EXTRA):
            raise StoreUnavailable(
                f"this SQLite commits in another way than asked ({mode}, {synchronous})",
                self.path,
                "install another build of SQLite",
            )


_EXTRA: Final = 3
_SETTINGS: Final = (
    "PRAGMA synchronous=EXTRA",
    # Nothing is in the file before COMMIT, however large a document is.
    "PRAGMA cache_spill=OFF",
    "PRAGMA cell_size_check=ON",
    "PRAGMA trusted_schema=OFF",
    "PRAGMA mmap_size=0",
    "PRAGMA temp_store=MEMORY",
)


def connect(path: str) -> sqlite3.Connection:
    """A connection to a file that is there.

    Raises:
        StoreError: There is none.
    """
    name = quote(os.fsencode(os.path.abspath(path)))
    try:
        connection = sqlite3.connect(
            f"file:{name}?mode=rw",
            uri=True,
            timeout=PATIENCE,
            isolation_level=None,
            check_same_thread=False,  # one at a time, but not always the same
        )
    except sqlite3.Error as error:
        raise failure(error, "cannot be opened", path) from error
    try:
        for setting in _SETTINGS:
            connection.execute(setting).fetchall()
    except sqlite3.Error as error:
        connection.close()
        raise failure(error, "cannot be opened", path) from error
    return connection


def create(path: str, statements: Sequence[tuple[str, Sequence[Any]]]) -> None:
    """Make a database of ours in an empty file, with one transaction.

    Args:
        path: The file.
        statements: What is put into it, with values.

    Raises:
        StoreError: It failed; the file is not to be used.
    """
    connection = connect(path)
    try:
        connection.execute("PRAGMA journal_mode=PERSIST").fetchall()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA application_id={APPLICATION}")
        connection.execute(f"PRAGMA user_version={VERSION}")
        for sql in SCHEMA:
            connection.execute(sql)
        for sql, values in statements:
            connection.execute(sql, values)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise failure(error, "cannot be made", path) from error
    finally:
        connection.close()


def _may_read(path: str) -> bool:
    return os.access(path, os.R_OK, effective_ids=True)


def _value(connection: sqlite3.Connection, sql: str) -> Any:
    row = connection.execute(sql).fetchone()
    return None if row is None else row[0]
