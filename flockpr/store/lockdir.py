"""A lock directory as a `Store`: commits, presence, publishing, archive, journal together."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flockpr import events, timings
from flockpr.core.model import LogicalUnitState
from flockpr.errors import (
    Busy,
    LunNotFound,
    OutcomeUnknown,
    StateLost,
    StateUnreadable,
    StoreError,
    StoreUnavailable,
)
from flockpr.store import files, publish
from flockpr.store.archive import Archive
from flockpr.store.base import Applied, AuditRecord, Served, Snapshot, Store
from flockpr.store.commits import CommitLog
from flockpr.store.document import Document
from flockpr.store.identity import LunIdentity, check_label, read_identity
from flockpr.store.journal import EventJournal, Journal, is_event, read_journals
from flockpr.store.layout import COMMITS, FORMAT, IDENTITY, KEEP_COMMITS, REGISTRY, SEGMENT
from flockpr.store.litter import Litter
from flockpr.store.presence import Presence
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)

ORDER_PATIENCE = 1.0
"""Seconds to wait for the order lock; then commit without it: the link decides anyway."""
PATH_CHECK = 1.0
"""Seconds between two looks whether the path still leads to the directory that is open."""
UPKEEP = 5.0
"""Seconds between two looks after lost locks and a registry that fell behind."""
SETTLE_SECONDS = 60.0
"""A commit is pruned only when its successor has been seen this long."""


class LockDirectory(Store):
    """The lock directory of one logical unit, opened by one daemon.

    Args:
        path: ROOT/<lun>.
        syscalls: Where the calls go; tests put a failing file system here.
        host: Name of this host, for the record; the default is the system's.
        patience: Seconds an issued commit of unknown outcome is followed up.
        keep: Commits that stay below the head.
        segment: Transactions in a segment of the audit trail.
        settle: Seconds that a commit stays after its successor was seen.
        serves: This is a daemon: from the start on it tells an upgrade which format it
            reads. Others do so with their first commit.

    Raises:
        ConfigError: `host` cannot be written into a document.
        LunNotFound: There is no such lock directory in the root.
        StateUnreadable: What is there cannot be read as ours.
        StoreUnavailable: Input or output failed, or the root itself is missing.
    """

    def __init__(
        self,
        path: str,
        *,
        syscalls: Syscalls | None = None,
        host: str | None = None,
        patience: float = 5.0,
        keep: int = KEEP_COMMITS,
        segment: int = SEGMENT,
        settle: float = SETTLE_SECONDS,
        serves: bool = False,
    ) -> None:
        self._sys = syscalls or Syscalls()
        self.path = path
        self.host = check_label(host or socket.gethostname(), "host")
        self.daemon = secrets.token_hex(16)
        self._settle = settle
        self._seen: list[tuple[float, int]] = []
        self._next_upkeep = 0.0
        self._next_path_check = 0.0
        self._astray = False
        self._behind: Document | None = None
        self._ordered = False
        self._warned_of_view = False
        self._fd = self._open_lun()
        try:
            self._check_open()
            self.identity: LunIdentity = read_identity(self._sys, self._fd, path)
            mode = 0o660 if self._status.st_mode & 0o020 else 0o600
            self._commits = self._open_commits(mode, patience)
        except OSError as error:
            files.close_quietly(self._sys, self._fd)
            raise files.unavailable(error, "cannot be opened", path) from error
        except BaseException:
            files.close_quietly(self._sys, self._fd)
            raise
        self._mode = mode
        queues = syscalls is None and self._commits.coherent  # a simulated one has no kernel
        self._presence = Presence(self._sys, self._fd, path, queues=queues)
        self._archive = Archive(
            self._sys,
            self._fd,
            path,
            self._commits,
            daemon=self.daemon,
            mode=mode,
            segment=segment,
            keep=keep,
        )
        self._litter = Litter(self._sys, self._fd)
        self._journal = Journal(self._sys, self._fd, daemon=self.daemon, host=self.host, mode=mode)
        self._serves = serves
        self._lost_since: float | None = None
        self._places: tuple[str, ...] = ()
        if syscalls is None:  # the thread that writes events has nothing to do in a simulated one
            self._attach_events()
        if serves:
            self._presence.announce()

    def _attach_events(self) -> None:
        """Have the events of this lock directory, and of its image, in its journal."""
        image = self.identity.image
        self._places = (self.path, *([os.path.join(self._root(), image)] if image else []))
        journal = EventJournal(self._sys, self.path, host=self.host, mode=self._mode)
        for place in self._places:
            events.attach(place, self.path, journal.write)

    def _open_lun(self) -> int:
        try:
            return files.open_directory(self._sys, self.path)
        except FileNotFoundError:
            # An unmounted share says nothing of the LUNs on it. Where its mount point is left
            # it cannot be told from a root without this LUN; hence a daemon asks again.
            if self._device_of_root() is None:
                raise _missing(self._root()) from None
            raise LunNotFound(
                "does not exist", self.path, "`flockpr lun list` shows what does"
            ) from None
        except OSError as error:
            raise files.unavailable(error, "cannot be opened", self.path) from error

    def _open_commits(self, mode: int, patience: float) -> CommitLog:
        try:
            self._commits_status = self._sys.stat(COMMITS, dir_fd=self._fd)
            return CommitLog(
                self._sys,
                self._fd,
                self.path,
                incarnation=self.identity.incarnation,
                daemon=self.daemon,
                host=self.host,
                mode=mode,
                patience=patience,
            )
        except OSError as error:
            where = f"{self.path}/{COMMITS}"
            raise files.unavailable(error, "cannot be opened", where) from error

    def _check_open(self) -> None:
        self._status = self._sys.fstat(self._fd)
        if self._status.st_mode & stat.S_IWOTH:
            raise StateUnreadable(
                "may be written by everybody", self.path, f"chmod o-w {self.path}"
            )

    # ------------------------------------------------------------------ Store

    def head(self) -> Snapshot:
        """See `Store.head`. A deleted logical unit is `LunNotFound`."""
        self._check_path()
        try:
            document = self._commits.head()
        except (StateLost, StateUnreadable, StoreUnavailable):
            self._check_path(now=True)  # "was deleted" says more than "cannot be read"
            raise
        if document.snapshot.deleted:
            raise _deleted(self.path)
        return document.snapshot

    def head_at_once(self) -> Snapshot | None:
        """The newest transaction, durable, if that can be told with a look at two names, or
        without one; None says nothing. Never waits for a file server, and raises nothing.
        """
        if self._fd < 0 or time.monotonic() >= self._next_path_check:
            return None
        document = self._commits.head_at_once()
        return None if document is None or document.snapshot.deleted else document.snapshot

    def ensure_durable(self, snapshot: Snapshot) -> None:
        """See `Store.ensure_durable`."""
        self._commits.ensure_durable(snapshot.number)

    def order(self) -> bool:
        """Wait a moment for the right to commit next; never fails, because the right is a
        courtesy between daemons and the link is the law.

        Returns:
            Whether there was a wait, so that the head has probably moved.
        """
        try:
            self._ordered = self._presence.take_order(0)
            if self._ordered:
                return False
            begun = time.monotonic()
            self._ordered = self._presence.take_order(ORDER_PATIENCE)
            timings.observe(timings.Kind.LOCK_WAIT, self.path, time.monotonic() - begun)
        except StoreError as error:
            log.warning("%s", error)
            return False
        return True

    def disorder(self) -> None:
        """Give the right to commit next away."""
        if self._ordered:
            self._ordered = False
            self._presence.leave_order()

    def commit(
        self,
        base: Snapshot,
        state: LogicalUnitState,
        applied: Sequence[Applied],
        *,
        served: Mapping[int, Served],
        may_issue: Callable[[], bool] = lambda: True,
        deleted: bool = False,
    ) -> Snapshot | None:
        """See `Store.commit`."""
        known = self._commits.known
        if known is None or known.snapshot is not base:
            return None  # the caller's base is not what this store showed last
        self._check_path(now=True)
        begun = time.monotonic()
        try:
            document = self._commits.append(
                known, state, applied, served=served, may_issue=may_issue, deleted=deleted
            )
        except OutcomeUnknown as error:
            log.error("outcome unknown: %s", error)
            raise
        if document is None:
            events.commit_conflict(self.path)
            return None
        timings.observe(timings.Kind.COMMIT, self.path, time.monotonic() - begun)
        self._behind = document
        return document.snapshot

    def tidy(self) -> None:
        """See `Store.tidy`."""
        document = self._commits.known
        if document is None or self._astray:
            return
        now = time.monotonic()
        self._note_seen(now, document.number)
        try:
            if self._behind is not None:
                self._publish(self._behind)
            if now >= self._next_upkeep:
                self._next_upkeep = now + UPKEEP
                self._upkeep(document, now)
        except (OSError, StoreError) as error:
            log.warning("%s: upkeep: %s", self.path, error)

    def hold(self, slot: int) -> bool:
        """See `Store.hold`."""
        try:
            return self._presence.hold(slot)
        except StoreError as error:
            log.warning("%s", error)
            return False

    def holds(self, slot: int) -> bool:
        """Whether `hold` has got that byte range."""
        return self._presence.holds(slot)

    def drop(self, slot: int) -> None:
        """See `Store.drop`."""
        self._presence.drop(slot)

    def alive(self, slot: int) -> bool | None:
        """See `Store.alive`."""
        return self._presence.alive(slot)

    def lock_fault(self) -> StoreError | None:
        """Why nobody's liveness can be told, if the lock file cannot be opened."""
        return self._presence.fault()

    def formats_in_use(self) -> list[int]:
        """The newest format of each live daemon; nothing newer may be written before the
        oldest of them has gone.

        Raises:
            StoreError: The lock file cannot be opened.
        """
        return self._presence.formats_in_use()

    def format(self) -> int:
        """The format that commits are written in at present.

        Raises:
            StoreError: The state cannot be read.
        """
        self.head()
        known = self._commits.known
        return FORMAT if known is None else known.format

    def upgrade(self, applied: Applied) -> int:
        """Write the newest format from the next transaction on, which is this one.

        Args:
            applied: The line of the audit trail that says so.

        Returns:
            The format that is written now.

        Raises:
            Busy: A live daemon does not read the newest format yet; nothing was done.
            StoreError: See `Store.commit`.
        """
        while self.format() < FORMAT:
            older = [number for number in self.formats_in_use() if number < FORMAT]
            if older:
                raise Busy(
                    f"a daemon that reads only up to format {older[0]} still serves this LUN",
                    self.path,
                    "upgrade flockpr on all hosts and restart their daemons first",
                )
            base = self._commits.known
            assert base is not None
            self._commits.append(
                base,
                base.snapshot.state,
                [applied],
                served=base.snapshot.served,
                may_issue=lambda: True,
                format_number=FORMAT,
            )
        return FORMAT

    def history(self, since: int = 1) -> Iterator[AuditRecord]:
        """See `Store.history`."""
        return self._archive.history(since)

    def retained(self) -> list[int]:
        """Numbers of the transactions whose whole state is still here, ascending.

        Raises:
            StoreUnavailable: Input or output failed.
        """
        try:
            return self._commits.numbers()
        except OSError as error:
            where = f"{self.path}/{COMMITS}"
            raise files.unavailable(error, "cannot be listed", where) from error

    def snapshot_at(self, number: int) -> Snapshot | None:
        """A transaction with its state, for people; None when it is not here any more.

        Raises:
            StateUnreadable: It cannot be read as ours.
            StoreUnavailable: Input or output failed.
        """
        try:
            document = self._commits.read(number)
        except OSError as error:
            where = f"{self.path}/{COMMITS}"
            raise files.unavailable(error, "cannot be read", where) from error
        return None if document is None else document.snapshot

    def history_begins(self) -> int:
        """See `Store.history_begins`."""
        return self._archive.begins()

    def refusals(self) -> Iterator[dict[str, Any]]:
        """The refused commands in all daemons' journals, as JSON objects."""
        return (line for line in read_journals(self._sys, self._fd) if not is_event(line))

    def noted_events(self) -> Iterator[dict[str, Any]]:
        """The events in all processes' journals, as JSON objects."""
        return (line for line in read_journals(self._sys, self._fd) if is_event(line))

    def published(self) -> int | None:
        """See `Store.published`."""
        return publish.published_number(self._sys, self._fd, self.identity)

    def note_refusal(self, applied: Applied) -> None:
        """See `Store.note_refusal`."""
        self._journal.note(applied)

    def close(self) -> None:
        """See `Store.close`."""
        for place in self._places:
            events.detach(place, self.path)
        self._places = ()
        self._journal.close()
        self._presence.close()
        self._commits.close()
        if self._fd >= 0:
            files.close_quietly(self._sys, self._fd)
            self._fd = -1

    # ------------------------------------------------------------------ upkeep

    def _check_path(self, *, now: bool = False) -> None:
        """Whether the path still leads to this directory, and to its commits: another one put
        in its place (a restored backup, say) may be served by somebody else by now.

        Raises:
            LunNotFound: It was deleted; it never comes back.
            StateLost: Another directory stands in its place.
            StoreUnavailable: It is missing for the moment, or that cannot be told.
        """
        if self._fd < 0:
            raise StoreUnavailable("was closed", self.path)
        clock = time.monotonic()
        if not now and clock < self._next_path_check:
            return
        self._astray = True  # nothing is tidied in a directory that may be a stranger's
        try:
            fd = files.open_directory(self._sys, self.path)
        except FileNotFoundError:
            if self._was_deleted():
                raise _deleted(self.path) from None
            self._note_lost("nothing is at its path")
            raise _missing(self.path) from None
        except OSError as error:
            self._note_lost(error.strerror or "")
            raise files.unavailable(error, "cannot be opened", self.path) from error
        try:
            self._check_same(self._sys.fstat(fd), self._status, self.path)
            commits = self._sys.stat(COMMITS, dir_fd=fd)
            self._check_same(commits, self._commits_status, f"{self.path}/{COMMITS}")
        except OSError as error:
            raise files.unavailable(error, "cannot be examined", self.path) from error
        finally:
            files.close_quietly(self._sys, fd)
        self._next_path_check = clock + PATH_CHECK
        self._astray = False
        if self._lost_since is not None:
            events.mount_back(self.path, clock - self._lost_since)
            self._lost_since = None

    def _note_lost(self, why: str) -> None:
        """Once until it is back; a command line says it as its error."""
        if self._serves and self._lost_since is None:
            self._lost_since = time.monotonic()
            events.lost_mount(self.path, why)

    def _was_deleted(self) -> bool:
        """Whether this LUN, whose path leads nowhere, was deleted, and is not merely missing.

        The path alone does not tell: a share that is unmounted, or a directory that somebody
        moves, comes back. The descriptor still leads to the directory that was opened. What
        it shows of a deletion, in the order in which `removal` does it: the transaction that
        deletes; `lun.json` gone, before any commit is; the directory without a name.

        A file server that forgot the directory (ESTALE) has removed it, or does not serve
        that file system at the moment. The latter takes the root along.
        """
        try:
            if not self._sys.fstat(self._fd).st_nlink:
                return True
            if not files.exists(self._sys, IDENTITY, dir_fd=self._fd):
                return True
            return self._commits.head().snapshot.deleted
        except (OSError, StoreUnavailable) as error:
            stale = error.errno == errno.ESTALE
            return stale and self._device_of_root() == self._status.st_dev
        except StoreError:
            return False

    def _root(self) -> str:
        return os.path.dirname(self.path.rstrip("/")) or "."

    def _device_of_root(self) -> int | None:
        """The device of the directory that the path is in now; None where there is none.

        Raises:
            StoreUnavailable: That cannot be told.
        """
        root = self._root()
        try:
            fd = self._sys.open(root, os.O_RDONLY | os.O_DIRECTORY)
            try:
                return self._sys.fstat(fd).st_dev
            finally:
                files.close_quietly(self._sys, fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise files.unavailable(error, "cannot be opened", root) from error

    @staticmethod
    def _check_same(status: os.stat_result, before: os.stat_result, path: str) -> None:
        if (status.st_dev, status.st_ino) != (before.st_dev, before.st_ino):
            raise StateLost(
                "another directory stands in the place of the one that was opened",
                path,
                "restart this daemon when you know why",
            )

    def _publish(self, document: Document) -> None:
        self._behind = None
        publish.publish(
            self._sys, self._fd, self.identity, document, daemon=self.daemon, mode=self._mode
        )

    def _check_view(self, shown: int) -> None:
        """Say so if the view is ahead of the newest commit: it is all that is left of commits
        that were lost, or replaced by older ones, so it stays for a person to look at.
        """
        head = self._commits.head()
        if shown > head.number and not self._warned_of_view:
            self._warned_of_view = True
            log.error(
                "%s/%s shows transaction %d, but the newest commit is %d: commits were lost or "
                "restored from a backup; compare, then remove that file to have it made anew",
                self.path,
                REGISTRY,
                shown,
                head.number,
            )

    def _upkeep(self, document: Document, now: float) -> None:
        if self._presence.lost_locks():
            events.lost_locks(self.path)
            self._presence.retake()
        shown = self.published() or 0
        if shown < document.number:
            self._publish(document)
        elif shown > document.number:
            self._check_view(shown)
        settled = self._settled(now)
        if settled and self._presence.take_tidy():
            try:
                self._archive.tidy(document.number, settled=settled)
            finally:
                self._presence.leave_tidy()
        self._litter.sweep(now)
        self._commits.rest()

    def _note_seen(self, now: float, number: int) -> None:
        if not self._seen or (number > self._seen[-1][1] and now - self._seen[-1][0] >= 1.0):
            self._seen.append((now, number))

    def _settled(self, now: float) -> int:
        """The newest commit whose successor was seen `settle` seconds ago or earlier."""
        settled = 0
        while self._seen and now - self._seen[0][0] >= self._settle:
            settled = self._seen.pop(0)[1] - 1
        if settled:
            self._seen.insert(0, (now - self._settle, settled + 1))
        return settled


def _deleted(path: str) -> LunNotFound:
    return LunNotFound("was deleted", path, "`flockpr lun list` shows what exists")


def _missing(path: str) -> StoreUnavailable:
    return StoreUnavailable("is missing", path, "mount the share, or put the directory back")
