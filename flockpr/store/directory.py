"""The directory of a logical unit as a `Store`, whatever keeps its transactions.

What all stores have in common is here: who the logical unit is, whether its path still leads to
it, who is alive, the view, the journals, and when what may lag is done. How transactions are
kept is a subclass's: as files (`lockdir`), or in a database (`sqlite`).
"""

from __future__ import annotations

import abc
import contextlib
import errno
import logging
import os
import secrets
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

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
from flockpr.store.base import Applied, AuditRecord, Served, Snapshot, Store
from flockpr.store.courtesy import Courtesy
from flockpr.store.document import Document
from flockpr.store.identity import LunIdentity, check_label, read_identity
from flockpr.store.journal import EventJournal, Journal, is_event, read_journals
from flockpr.store.layout import FORMAT, IDENTITY, REGISTRY
from flockpr.store.litter import Litter
from flockpr.store.presence import Presence
from flockpr.store.syscalls import Syscalls
from flockpr.store.transactions import Trail, Transactions

log = logging.getLogger(__name__)

PATH_CHECK = 1.0
"""Seconds between two looks whether the path still leads to the directory that is open."""
UPKEEP = 5.0
"""Seconds between two looks after lost locks and a registry that fell behind."""
SETTLE_SECONDS = 60.0
"""A commit is pruned only when its successor has been seen this long."""
LIKELY = 5.0
"""Seconds after a commit in which it is taken for the newest, to be committed to. Much less than
`SETTLE_SECONDS`: what follows it must not have been pruned, or its number could be taken again.
"""


class LunDirectory(Store):
    """The directory of one logical unit, opened by one daemon.

    Args:
        path: ROOT/<lun>.
        syscalls: Where the calls go; tests put a failing file system here.
        host: Name of this host, for the record; the default is the system's.
        settle: Seconds that a transaction stays after its successor was seen.
        serves: This is a daemon: from the start on it tells an upgrade which format it
            reads. Others do so with their first commit.

    Raises:
        ConfigError: `host` cannot be written into a document.
        LunNotFound: There is no such directory in the root.
        StateUnreadable: What is there cannot be read as ours.
        StoreUnavailable: Input or output failed, or the root itself is missing.
    """

    truth: ClassVar[str]
    """Name of what holds the transactions, in the directory."""
    litters: ClassVar[tuple[str, ...]]
    """Below it, where files under construction lie; "" is itself."""

    def __init__(
        self,
        path: str,
        *,
        syscalls: Syscalls | None = None,
        host: str | None = None,
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
        self._committed: Document | None = None
        self._committed_at = 0.0
        self._guess: Snapshot | None = None
        self._warned_of_view = False
        self._fd = self._open_lun()
        try:
            self._check_open()
            self.identity: LunIdentity = read_identity(self._sys, self._fd, path)
            self._mode = 0o660 if self._status.st_mode & 0o020 else 0o600
            self._transactions, self._trail = self._open_truth()
        except OSError as error:
            files.close_quietly(self._sys, self._fd)
            raise files.unavailable(error, "cannot be opened", path) from error
        except BaseException:
            files.close_quietly(self._sys, self._fd)
            raise
        queues = syscalls is None and self._transactions.coherent  # a simulated one has no kernel
        self._presence = Presence(self._sys, self._fd, path, queues=queues)
        self._courtesy = Courtesy(self._presence, path, sparing=not self._transactions.coherent)
        self._litter = Litter(self._sys, self._fd, self.litters)
        self._journal = Journal(
            self._sys, self._fd, daemon=self.daemon, host=self.host, mode=self._mode
        )
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

    def _open_truth(self) -> tuple[Transactions, Trail]:
        where = f"{self.path}/{self.truth}"
        try:
            self._truth_status = self._sys.stat(self.truth, dir_fd=self._fd)
            return self._open_transactions()
        except OSError as error:
            raise files.unavailable(error, "cannot be opened", where) from error

    @abc.abstractmethod
    def _open_transactions(self) -> tuple[Transactions, Trail]:
        """Open what `truth` names, which is there.

        Raises:
            OSError: As the system call.
            StoreError: It cannot be read as ours.
        """

    def _check_open(self) -> None:
        self._status = self._sys.fstat(self._fd)
        if self._status.st_mode & stat.S_IWOTH:
            raise StateUnreadable(
                "may be written by everybody", self.path, f"chmod o-w {self.path}"
            )

    # ------------------------------------------------------------------ Store

    def head(self) -> Snapshot:
        """See `Store.head`. A deleted logical unit is `LunNotFound`."""
        self._guess = None
        self._check_path()
        before = self._transactions.known
        try:
            document = self._transactions.head()
        except (StateLost, StateUnreadable, StoreUnavailable):
            self._check_path(now=True)  # "was deleted" says more than "cannot be read"
            raise
        if document.snapshot.deleted:
            raise _deleted(self.path)
        if before is not None and before.txid != document.txid:
            self._courtesy.meet()
        return document.snapshot

    def head_at_once(self, *, looks: bool = True) -> Snapshot | None:
        """See `Store.head_at_once`: a look at two names, or none."""
        if self._fd < 0 or time.monotonic() >= self._next_path_check:
            return None
        document = self._transactions.head_at_once(looks=looks)
        return None if document is None or document.snapshot.deleted else document.snapshot

    def likely_head(self) -> Snapshot | None:
        """See `Store.likely_head`: who committed a moment ago is likely to be the next, and a look
        at a share costs several round trips.
        """
        known = self._transactions.known
        if known is not self._committed or self._transactions.coherent or known is None:
            return None
        if time.monotonic() - self._committed_at >= LIKELY or known.snapshot.deleted:
            return None
        self._guess = known.snapshot
        return self._guess

    def ensure_durable(self, snapshot: Snapshot) -> None:
        """See `Store.ensure_durable`."""
        self._transactions.ensure_durable(snapshot.number)

    def order(self) -> bool:
        """See `Store.order`."""
        return self._courtesy.order()

    def order_at_once(self) -> bool:
        """See `Store.order_at_once`."""
        return self._courtesy.order_at_once()

    def disorder(self) -> None:
        """See `Store.disorder`."""
        self._courtesy.disorder()

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
        known = self._transactions.known
        if known is None or known.snapshot is not base:
            return None  # the caller's base is not what this store showed last
        self._check_path(now=True)
        begun = time.monotonic()
        try:
            document = self._transactions.append(
                known,
                state,
                applied,
                served=served,
                may_issue=may_issue,
                deleted=deleted,
                settled=self.disorder,
                alone=self._courtesy.alone,
            )
        except OutcomeUnknown as error:
            log.error("outcome unknown: %s", error)
            raise
        if document is None:
            self._courtesy.meet()
            if base is not self._guess:  # else it is how a wrong guess shows, and no collision
                events.commit_conflict(self.path)
            return None
        self._committed, self._committed_at = document, time.monotonic()
        timings.observe(timings.Kind.COMMIT, self.path, self._committed_at - begun)
        self._behind = document
        return document.snapshot

    def tidy(self) -> None:
        """See `Store.tidy`."""
        document = self._transactions.known
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
        """See `Store.holds`."""
        return self._presence.holds(slot)

    def drop(self, slot: int) -> None:
        """See `Store.drop`."""
        self._presence.drop(slot)

    def alive(self, slot: int) -> bool | None:
        """See `Store.alive`."""
        return self._presence.alive(slot)

    def lock_fault(self) -> StoreError | None:
        """See `Store.lock_fault`."""
        return self._presence.fault()

    def formats_in_use(self) -> list[int]:
        """The newest format of each live daemon; nothing newer may be written before the
        oldest of them has gone.

        Raises:
            StoreError: The lock file cannot be opened.
        """
        return self._presence.formats_in_use()

    def format(self) -> int:
        """See `Store.format`."""
        self.head()
        known = self._transactions.known
        return FORMAT if known is None else known.format

    def upgrade(self, applied: Applied) -> int:
        """See `Store.upgrade`."""
        while self.format() < FORMAT:
            older = [number for number in self.formats_in_use() if number < FORMAT]
            if older:
                raise Busy(
                    f"a daemon that reads only up to format {older[0]} still serves this LUN",
                    self.path,
                    "upgrade flockpr on all hosts and restart their daemons first",
                )
            base = self._transactions.known
            assert base is not None
            self._transactions.append(
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
        return self._trail.history(since)

    def retained(self) -> list[int]:
        """See `Store.retained`."""
        try:
            return self._transactions.numbers()
        except OSError as error:
            where = f"{self.path}/{self.truth}"
            raise files.unavailable(error, "cannot be listed", where) from error

    def snapshot_at(self, number: int) -> Snapshot | None:
        """See `Store.snapshot_at`."""
        try:
            document = self._transactions.read(number)
        except OSError as error:
            where = f"{self.path}/{self.truth}"
            raise files.unavailable(error, "cannot be read", where) from error
        return None if document is None else document.snapshot

    def history_begins(self) -> int:
        """See `Store.history_begins`."""
        return self._trail.begins()

    def refusals(self) -> Iterator[dict[str, Any]]:
        """See `Store.refusals`."""
        return (line for line in read_journals(self._sys, self._fd) if not is_event(line))

    def noted_events(self) -> Iterator[dict[str, Any]]:
        """See `Store.noted_events`."""
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
        self._transactions.close()
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
            self._check_truth(fd)
        except OSError as error:
            raise files.unavailable(error, "cannot be examined", self.path) from error
        finally:
            files.close_quietly(self._sys, fd)
        self._next_path_check = clock + PATH_CHECK
        self._astray = False
        if self._lost_since is not None:
            events.mount_back(self.path, clock - self._lost_since)
            self._lost_since = None

    def _check_truth(self, fd: int) -> None:
        where, before = f"{self.path}/{self.truth}", self._truth_status
        if self._guess is not None:  # who commits again and again: the attributes cost a call
            with contextlib.suppress(OSError):
                if self._sys.which(self.truth, dir_fd=fd) == (before.st_dev, before.st_ino):
                    return
        self._check_same(self._sys.stat(self.truth, dir_fd=fd), before, where)

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
            return self._transactions.head().snapshot.deleted
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
            kind = "directory" if stat.S_ISDIR(before.st_mode) else "file"
            raise StateLost(
                f"another {kind} stands in the place of the one that was opened",
                path,
                "restart this daemon when you know why",
            )

    def _publish(self, document: Document) -> None:
        self._behind = None
        publish.publish(
            self._sys,
            self._fd,
            self.identity,
            document,
            truth=self.truth,
            daemon=self.daemon,
            mode=self._mode,
        )

    def _check_view(self, shown: int) -> None:
        """Say so if the view is ahead of the newest commit: it is all that is left of commits
        that were lost, or replaced by older ones, so it stays for a person to look at.
        """
        head = self._transactions.head()
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
                self._trail.tidy(document.number, settled=settled)
            finally:
                self._presence.leave_tidy()
        self._litter.sweep(now)
        self._transactions.rest()

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
