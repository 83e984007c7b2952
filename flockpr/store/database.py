"""The transactions of a logical unit in an SQLite file, each one transaction of it.

`commits` holds the same sealed documents as the files of a lock directory, `head` the number and
the id of the newest: a file that lost one of two pages is found damaged, and not older.
Whoever commits keeps all others from writing (BEGIN IMMEDIATE), sees that `head` is still what
was decided on, and adds one row.

What is known of a COMMIT that fails: it may have been done, but it cannot be done later, since
nothing of it is left once the connection is closed and the next one has looked. So its outcome
is found by opening the file anew. Where it was done, a transaction that changes nothing makes
it durable before anybody is told.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flockpr.core.model import LogicalUnitState
from flockpr.errors import (
    Busy,
    NewerFormat,
    OutcomeUnknown,
    StateLost,
    StateUnreadable,
    StoreError,
)
from flockpr.store import files
from flockpr.store.author import Author
from flockpr.store.base import Applied, Served
from flockpr.store.document import Document, Newer, decode
from flockpr.store.encoding import Parts, encode
from flockpr.store.layout import DATABASE_JOURNAL
from flockpr.store.sqlite_file import DatabaseFile, create
from flockpr.store.strict import Malformed
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)

_HEAD = "SELECT number, txid FROM head"
_RESTORE = "restore it from a backup"


class Database:
    """The transactions in one SQLite file; see `flockpr.store.transactions`.

    Args:
        syscalls: Where syncing the journal goes.
        lun_fd: Descriptor of the logical unit's directory; stays the caller's.
        file: The file; closed with this object.
        author: Who commits.
    """

    def __init__(self, syscalls: Syscalls, lun_fd: int, file: DatabaseFile, author: Author) -> None:
        self._sys = syscalls
        self._lun_fd = lun_fd
        self._file = file
        self._author = author
        self._parts = Parts()
        self._head: Document | None = None
        self._durable = 0
        self._unsettled: Document | None = None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    @property
    def coherent(self) -> bool:
        """It is on a file system of one host, or it would not have been opened."""
        return True

    @property
    def known(self) -> Document | None:
        """The newest transaction that this object has read or written, without looking."""
        return self._head

    # ------------------------------------------------------------------ the head

    def head(self) -> Document:
        """The newest transaction. See `Store.head` for what it raises.

        Raises:
            Busy: Another process keeps the file locked, or the outcome of a commit of this store
                is not known yet.
        """
        self._settle_old()
        known = self._head
        if known is not None and self._file.query(_HEAD) == [(known.number, known.txid)]:
            return known
        with self._file.reading():
            document = self._newest()
            if known is not None:
                self._check_progress(known, document)
        self._head = document
        return document

    def head_at_once(self, *, looks: bool = True) -> Document | None:
        """Nothing: SQLite may wait for a lock, or play back what somebody left unfinished."""
        del looks
        return None

    def rest(self) -> None:
        """Nothing is kept for those who ask again and again."""

    def ensure_durable(self, number: int) -> None:
        """Sync the journal, whose header says that a transaction counts.

        What it says can be seen before its writer has synced it, or by a writer that was killed
        before that; the file itself was synced earlier.
        """
        if number <= self._durable:
            return
        try:
            self._sync_journal()
        except OSError as error:
            path = f"{self._file.path}-journal"
            raise files.unavailable(error, "cannot be synced", path) from error
        self._durable = number

    def _sync_journal(self) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = self._sys.open(DATABASE_JOURNAL, flags, dir_fd=self._lun_fd)
        except FileNotFoundError:
            self._sys.fsync(self._lun_fd)  # somebody's tool removed it, which is a commit as well
            return
        try:
            self._sys.fsync(fd)
        finally:
            files.close_quietly(self._sys, fd)

    def _newest(self) -> Document:
        """The newest transaction, with all that can be compared compared."""
        rows = self._file.query(_HEAD)
        last = self._file.query("SELECT max(number) FROM commits")[0][0]
        if len(rows) != 1 or last is None:
            raise StateUnreadable(
                "has no transactions at all, which is not the same as an empty state",
                self._file.path,
                _RESTORE,
            )
        number, txid = rows[0]
        document = self.read(number) if number == last else None
        if document is None or document.txid != txid:
            raise StateUnreadable(
                f"names transaction {number} as the newest, and has another one: {last}",
                self._file.path,
                _RESTORE,
            )
        before = self.read(number - 1)
        if before is not None and document.previous != before.txid:
            raise StateUnreadable(
                f"the predecessor of transaction {number} is another than the one before it",
                self._file.path,
                _RESTORE,
            )
        return document

    def _check_progress(self, known: Document, document: Document) -> None:
        """See that what was seen here before is still in the past of what is here now."""
        what = f"transaction {document.number} does not descend from it"
        if document.number < known.number:
            descends: bool | None = False
            what = f"the newest transaction is now {document.number}"
        else:
            descends = document.descends_from(known)
        if descends is None:  # too long ago to tell by the document
            found = self.read(known.number)
            descends = found is None or found.txid == known.txid
        if not descends:
            raise StateLost(
                f"transaction {known.number} ({known.txid}) was seen here before, but {what}",
                self._file.path,
                "the file was rolled back or replaced: stop all daemons of this LUN, find out "
                "why, power-cycle it, then start them again",
            )

    def numbers(self) -> list[int]:
        """Numbers of all transactions whose documents are kept, ascending."""
        return [row[0] for row in self._file.query("SELECT number FROM commits ORDER BY number")]

    def read(self, number: int) -> Document | None:
        """A transaction by its number, None where there is none (any more)."""
        rows = self._file.query("SELECT document FROM commits WHERE number = ?", number)
        if not rows:
            return None
        return decoded(rows[0][0], number, self._file.path, self._author.incarnation)

    # ------------------------------------------------------------------ committing

    def append(
        self,
        base: Document,
        state: LogicalUnitState,
        applied: Sequence[Applied],
        *,
        served: Mapping[int, Served],
        may_issue: Callable[[], bool],
        deleted: bool = False,
        format_number: int | None = None,
        settled: Callable[[], None] = lambda: None,
        alone: bool = False,
    ) -> Document | None:
        """Add a successor of `base`, durably. See `Transactions.append`; here it is durable when
        it is settled.
        """
        del settled, alone
        self._settle_old()
        document = self._author.successor(
            base, state, applied, served=served, deleted=deleted, format_number=format_number
        )
        data = encode(document, self._parts)
        self._file.begin()
        try:
            if self._file.query(_HEAD) != [(base.number, base.txid)]:
                self._file.rollback()
                return None
            for sql, values in _statements(document, data):
                self._file.query(sql, *values)
            if not may_issue():
                raise Busy("the time for this command is over; nothing was done", self._file.path)
        except BaseException:
            self._file.rollback()
            raise
        if not self._finish(document):
            return None
        self._head = document
        self._durable = document.number
        return document

    def _finish(self, document: Document) -> bool:
        """Issue the commit; whether it was done."""
        self._unsettled = document
        try:
            self._file.commit()
        except Busy:  # somebody reads for too long: nothing is in the file yet
            self._file.rollback()
            self._unsettled = None
            raise
        except StoreError as error:
            log.warning("%s", error)
            if not self._settle(document):
                raise
            return True
        self._unsettled = None
        return True

    def _settle(self, document: Document) -> bool:
        """Whether a commit that failed was done; if so it is durable now.

        Raises:
            OutcomeUnknown: That cannot be told; then it is to be asked again, unless it never
                can be.
        """
        self._file.disconnect()
        try:
            with self._file.reading():
                head = self._newest()
            included = head.includes(self._author.daemon, document.number, document.txid)
            if included is not False:
                self._file.touch()
        except StoreError as error:
            raise OutcomeUnknown(
                f"transaction {document.number} was issued, and its outcome is not known "
                f"({error.what})",
                self._file.path,
                "check the storage; the next command finds out",
            ) from error
        self._unsettled = None
        if included is None:
            raise OutcomeUnknown(
                f"transaction {document.number} is too old to tell whether it took effect",
                self._file.path,
                "compare `flockpr log` with what was sent",
            )
        return included

    def _settle_old(self) -> None:
        """Find out about a commit whose outcome is not known, before anything else."""
        document = self._unsettled
        if document is None:
            return
        try:
            effect = "did take effect" if self._settle(document) else "had no effect"
            log.warning(
                "%s: the unknown transaction %d %s", self._file.path, document.number, effect
            )
        except OutcomeUnknown as error:
            if self._unsettled is None:
                log.warning("%s", error)  # told to its initiator; nobody will ever know more
                return
            raise Busy(
                f"the outcome of transaction {document.number} is not known yet",
                self._file.path,
                "check the storage; the next command looks again",
            ) from error


def decoded(data: Any, number: int, path: str, incarnation: str) -> Document:
    """The document in a row.

    Raises:
        StateUnreadable: It cannot be read as that transaction of that logical unit.
    """
    where = f"{path}: transaction {number}"
    try:
        if not isinstance(data, bytes):
            raise Malformed("is no document at all")
        document = decode(data)
    except Newer as error:
        raise NewerFormat(str(error), where, "run a newer flockpr on this host") from None
    except Malformed as error:
        raise StateUnreadable(str(error), where, _RESTORE) from None
    if document.number != number or document.incarnation != incarnation:
        raise StateUnreadable(
            f"is transaction {document.number} of incarnation {document.incarnation}, not of "
            f"{incarnation}",
            where,
            "the file of another logical unit was put here: restore its own from a backup",
        )
    return document


def create_database(path: str, first: Document) -> None:
    """Make the database of a new logical unit in an empty file.

    Raises:
        StoreError: It failed; the file is not to be used.
    """
    create(path, [("INSERT INTO head VALUES (1, 0, '')", ()), *_statements(first, encode(first))])


def _statements(document: Document, data: bytes) -> list[tuple[str, tuple[Any, ...]]]:
    return [
        ("INSERT INTO commits VALUES (?, ?)", (document.number, data)),
        ("UPDATE head SET number = ?, txid = ?", (document.number, document.txid)),
    ]
