"""The audit trail in an SQLite file: what transactions applied outlives their documents.

A document has the whole state, the trail only the commands. So after a while the commands of old
transactions are moved to a table of their own, in one transaction with the removal of the
documents: at every moment each is in exactly one of the two.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any, Final

from flockpr.errors import StateUnreadable
from flockpr.store.archive import record_of, records_of
from flockpr.store.base import AuditRecord
from flockpr.store.database import decoded
from flockpr.store.layout import (
    KEEP_COMMITS,
    KEEP_SECONDS,
    KEEP_SEGMENTS,
    KEEP_TRANSACTIONS,
    SEGMENT,
)
from flockpr.store.sqlite_file import DatabaseFile
from flockpr.store.strict import Malformed

_AT_ONCE: Final = 4 * SEGMENT
"""Transactions that are moved or dropped at once: others wait for as long."""
_READ: Final = 64
"""Transactions that are read at once, for the same reason."""


class DatabaseTrail:
    """The audit trail of one logical unit; see `flockpr.store.transactions`.

    Args:
        file: The file; stays the caller's.
        incarnation: Of the logical unit.
        segment: Transactions that are moved together.
        keep: Transactions below the head that keep their documents.
    """

    def __init__(
        self,
        file: DatabaseFile,
        incarnation: str,
        *,
        segment: int = SEGMENT,
        keep: int = KEEP_COMMITS,
    ) -> None:
        self._file = file
        self._incarnation = incarnation
        self._segment = segment
        self._keep = max(2, keep)

    def tidy(self, head: int, *, settled: int) -> None:
        """See `Trail.tidy`."""
        last = min(head - self._keep, settled)
        last -= last % self._segment
        oldest = self._file.query("SELECT min(number) FROM commits")[0][0]
        if oldest is None or last < oldest:
            return
        with self._file.writing():
            rows = self._file.query(
                "SELECT number, document FROM commits WHERE number <= ? ORDER BY number LIMIT ?",
                *(last, _AT_ONCE),
            )
            now = int(time.time())
            for number, data in rows:
                lines = "".join(json.dumps(one.to_json()) + "\n" for one in self._of(number, data))
                self._file.query("INSERT INTO audit VALUES (?, ?, ?)", number, now, lines.encode())
                self._file.query("DELETE FROM commits WHERE number = ?", number)
            self._drop_old(head, now)

    def _drop_old(self, head: int, now: int) -> None:
        """What is beyond what is kept: more transactions ago than KEEP_TRANSACTIONS, and either
        older than KEEP_SECONDS or too many.
        """
        self._file.query(
            "DELETE FROM audit WHERE number IN "
            "(SELECT number FROM audit WHERE number <= ? ORDER BY number LIMIT ?) "
            "AND (archived < ? OR number <= ?)",
            *(head - KEEP_TRANSACTIONS, 2 * _AT_ONCE),
            *(now - KEEP_SECONDS, head - KEEP_SEGMENTS * SEGMENT),
        )

    def history(self, since: int) -> Iterator[AuditRecord]:
        """See `Store.history`. Not one long look at the file: nobody could commit meanwhile.

        Raises:
            StateUnreadable: What a transaction applied cannot be read as ours.
            StoreError: The file cannot be read.
        """
        told = since - 1
        while rows := self._some(told):
            for number, records in rows:
                yield from records
                told = number

    def begins(self) -> int:
        """See `Store.history_begins`."""
        with self._file.reading():
            for table in ("audit", "commits"):
                first = self._file.query(f"SELECT min(number) FROM {table}")[0][0]  # noqa: S608
                if first is not None:
                    return int(first)
        return 1

    def _some(self, told: int) -> list[tuple[int, list[AuditRecord]]]:
        with self._file.reading():
            archived = self._file.query(
                "SELECT number, lines FROM audit WHERE number > ? ORDER BY number LIMIT ?",
                *(told, _READ),
            )
            documents = self._file.query(
                "SELECT number, document FROM commits WHERE number > ? ORDER BY number LIMIT ?",
                *(told, _READ - len(archived)),
            )
        whole = ((number, list(self._of(number, data))) for number, data in documents)
        return list(itertools.chain(map(self._archived, archived), whole))

    def _of(self, number: int, data: Any) -> Iterator[AuditRecord]:
        return records_of(decoded(data, number, self._file.path, self._incarnation))

    def _archived(self, row: tuple[int, Any]) -> tuple[int, list[AuditRecord]]:
        number, lines = row
        try:
            if not isinstance(lines, bytes):
                raise Malformed("are no lines at all")
            records = [record_of(line) for line in lines.splitlines()]
            if any(record.number != number for record in records):
                raise Malformed("are of another transaction")
        except Malformed as error:
            raise StateUnreadable(
                f"the commands of transaction {number}: {error}",
                self._file.path,
                "restore it from a backup",
            ) from None
        return number, records
