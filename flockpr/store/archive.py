"""The audit trail: commits carry what they applied, and segments outlive the commits.

`audit/` holds segments of 256 transactions each, one JSON line a transaction's command.
A segment is written aside, synced and linked under the number of its first transaction, so
it is written once, whole, whoever of several daemons does it; and only commits that a
segment covers are pruned.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator

from flockpr.errors import StateUnreadable, StoreUnavailable
from flockpr.store import files
from flockpr.store.base import AuditRecord
from flockpr.store.commits import CommitLog
from flockpr.store.document import Document, applied_from_json
from flockpr.store.layout import (
    ASIDE_PREFIX,
    AUDIT,
    KEEP_COMMITS,
    KEEP_SECONDS,
    KEEP_SEGMENTS,
    KEEP_TRANSACTIONS,
    SEGMENT,
    SEGMENT_NAME,
    commit_name,
    segment_name,
)
from flockpr.store.strict import Malformed, Reader, loads
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)

MAX_SEGMENT = 256 << 20
_ROUNDS = 100
"""How often others may archive under a reader of the history before it gives up."""


def records_of(document: Document) -> Iterator[AuditRecord]:
    """The audit records of one commit, in order."""
    snapshot = document.snapshot
    for applied in document.applied:
        yield AuditRecord(snapshot.number, snapshot.txid, snapshot.host, snapshot.daemon, applied)


class Archive:
    """The audit trail of one logical unit.

    Args:
        syscalls: Where the calls go.
        lun_fd: Descriptor of the lock directory; stays the caller's.
        path: Its path, for messages.
        commits: Its commits.
        daemon: Id of this daemon.
        mode: Permission bits of new files.
        segment: Transactions in one segment.
        keep: Commits that stay below the head.
    """

    def __init__(
        self,
        syscalls: Syscalls,
        lun_fd: int,
        path: str,
        commits: CommitLog,
        *,
        daemon: str,
        mode: int,
        segment: int = SEGMENT,
        keep: int = KEEP_COMMITS,
    ) -> None:
        self._sys = syscalls
        self._lun_fd = lun_fd
        self._path = f"{path}/{AUDIT}"
        self._commits = commits
        self._daemon = daemon
        self._mode = mode
        self._segment = segment
        self._keep = max(2, keep)  # the head's base is looked for after each commit

    # ------------------------------------------------------------------ writing

    def tidy(self, head: int, *, settled: int) -> None:
        """Archive and prune what is old enough.

        Args:
            head: Number of the newest commit.
            settled: Only commits up to this number are old enough to go: slow readers and
                slow writers of other hosts still look at younger ones.

        Raises:
            OSError: As the system call; to be tried again later.
            StoreError: A commit in the way cannot be read.
        """
        last = min(head - self._keep, settled)
        last -= last % self._segment  # whole segments only
        if last <= 0:
            return
        numbers = [number for number in self._commits.numbers() if number <= last]
        if not numbers:
            return
        fd = files.open_directory(self._sys, AUDIT, dir_fd=self._lun_fd)
        try:
            oldest = min(self._segments(fd), default=1)
            for first in sorted({_first(number, self._segment) for number in numbers}):
                # Below the oldest segment that is kept there can only be a late phantom.
                if first >= oldest:
                    self._write_segment(fd, first)
                    # One by one, or a power cut could keep a later one only: what is below
                    # the oldest segment counts as dropped.
                    self._sys.fsync(fd)
            self._drop_old(fd, head)
        finally:
            files.close_quietly(self._sys, fd)
        self._commits.remove_late(last)
        for number in numbers:  # ascending: what remains is always a tail
            self._commits.remove(number)

    def _write_segment(self, fd: int, first: int) -> None:
        name = segment_name(first)
        if files.exists(self._sys, name, dir_fd=fd):
            return
        lines = []
        for number in range(first, first + self._segment):
            document = self._commits.read(number)
            if document is None and number in self._numbers():
                raise StoreUnavailable("is listed and cannot be read", commit_name(number))
            if document is not None:
                lines += [json.dumps(record.to_json()) + "\n" for record in records_of(document)]
        aside = f"{ASIDE_PREFIX}{self._daemon}-{first}"
        files.discard(self._sys, aside, dir_fd=fd)
        data = "".join(lines).encode()
        files.write_new(self._sys, aside, data, dir_fd=fd, mode=self._mode)
        try:
            self._sys.link(aside, name, dir_fd=fd)
        except FileExistsError:
            pass  # another daemon was quicker
        finally:
            files.discard(self._sys, aside, dir_fd=fd)

    def _drop_old(self, fd: int, head: int) -> None:
        """Segments beyond what is kept: more transactions ago than KEEP_TRANSACTIONS, and
        either older than KEEP_SECONDS or too many.
        """
        firsts = self._segments(fd)
        for position, first in enumerate(firsts):
            if first + self._segment > head - KEEP_TRANSACTIONS:
                return
            name = segment_name(first)
            try:
                age = time.time() - self._sys.stat(name, dir_fd=fd).st_mtime
            except FileNotFoundError:
                continue  # another daemon was quicker
            if age < KEEP_SECONDS and len(firsts) - position <= KEEP_SEGMENTS:
                return
            files.discard(self._sys, name, dir_fd=fd)

    # ------------------------------------------------------------------ reading

    def history(self, since: int) -> Iterator[AuditRecord]:
        """The trail from transaction `since` on, in order, none twice.

        Commits may be archived and pruned by others while this goes on: what is no longer
        there as a commit is then looked for in the segments again.

        Raises:
            StateUnreadable: A segment or commit cannot be read as ours.
            StoreUnavailable: Input or output failed.
        """
        told = since - 1
        for _ in range(_ROUNDS):
            for first in self._all_segments():
                last = first + self._segment - 1
                if last > told:
                    yield from (r for r in self._read_segment(first) if r.number > told)
                    told = last
            # What a segment covers is told: a commit left there is litter, or a phantom.
            for number in self._numbers():
                if number <= told:
                    continue
                if number > told + 1 and _first(told + 1, self._segment) in self._all_segments():
                    break
                document = self._commits.read(number)
                if document is None:
                    break
                yield from records_of(document)
                told = number
            else:
                return
        raise StoreUnavailable("commits are listed and cannot be read", self._path)

    def begins(self) -> int:
        """Number of the oldest transaction that is still in the trail.

        Raises:
            StoreUnavailable: Input or output failed.
        """
        numbers = self._numbers()
        # Afterwards: without a segment by now, nothing had been pruned before.
        return next(iter(self._all_segments() or numbers), 1)

    def _numbers(self) -> list[int]:
        try:
            return self._commits.numbers()
        except OSError as error:
            raise files.unavailable(error, "cannot list the commits", self._path) from error

    def _all_segments(self) -> list[int]:
        try:
            fd = files.open_directory(self._sys, AUDIT, dir_fd=self._lun_fd)
            try:
                return self._segments(fd)
            finally:
                files.close_quietly(self._sys, fd)
        except OSError as error:
            raise files.unavailable(error, "cannot be listed", self._path) from error

    def _segments(self, fd: int) -> list[int]:
        matches = (SEGMENT_NAME.fullmatch(name) for name in self._sys.listdir(fd))
        return sorted(int(match[1]) for match in matches if match)

    def _read_segment(self, first: int) -> list[AuditRecord]:
        name = f"{AUDIT}/{segment_name(first)}"
        path = f"{self._path}/{segment_name(first)}"
        try:
            data = files.read_whole(self._sys, name, dir_fd=self._lun_fd, most=MAX_SEGMENT)
            return [record_of(line) for line in data.splitlines()]
        except FileNotFoundError:
            return []  # dropped between listing and reading
        except OSError as error:
            raise files.unavailable(error, "cannot be read", path) from error
        except (Malformed, StateUnreadable) as error:
            raise StateUnreadable(str(error), path, "restore it from a backup") from None


def _first(number: int, segment: int) -> int:
    """The first number of the segment that `number` belongs to: 1, 257, 513 ..."""
    return (number - 1) // segment * segment + 1


def record_of(line: bytes) -> AuditRecord:
    """The record that a line of the trail is.

    Raises:
        Malformed: It is none.
    """
    value = loads(line)
    reader = Reader(value, "record")
    record_fields = {
        name: value[name]
        for name in reader.names()
        if name not in ("number", "txid", "host", "daemon")
    }
    return AuditRecord(
        number=reader.integer("number", 1, 10**16),
        txid=reader.hexadecimal("txid", 32),
        host=reader.string("host"),
        daemon=reader.string("daemon"),
        applied=applied_from_json(Reader(record_fields, "record")),
    )
