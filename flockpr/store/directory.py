"""The directory of a logical unit as a `Store`, whatever keeps its transactions.

What all stores have in common is here: who the logical unit is, whether its path still leads to
it, who is alive, the view, the journals, and when what may lag is done. How transactions are
kept is a subclass's: as files (`lockdir`), or in a database (`sqlite`).
"""

from __future__ import annotations

import abc
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from flockpr import events, timings
from flockpr.core.model import LogicalUnitState
from flockpr.errors import (
    Busy,
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
from flockpr.store.layout import FORMAT, REGISTRY
from flockpr.store.litter import Litter
from flockpr.store.presence import Presence
from flockpr.store.syscalls import Syscalls
from flockpr.store.transactions import Trail, Transactions
from flockpr.store.whereabouts import Whereabouts
from flockpr.store.whereabouts import deleted as deleted_at

log = logging.getLogger(__name__)

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
        self._behind: Document | None = None
        self._committed: Document | None = None
        self._committed_at = 0.0
        self._guess: Snapshot | None = None
        self._warned_of_view = False
        self._where = Whereabouts(
            self._sys, path, truth=self.truth, deleted=self._is_deleted, serves=serves
        )
        self._fd = self._where.fd
        try:
            self.identity: LunIdentity = read_identity(self._sys, self._fd, path)
            self._mode = 0o660 if self._where.status.st_mode & 0o020 else 0o600
            self._transactions, self._trail = self._open_truth()
        except OSError as error:
            self._where.close()
            raise files.unavailable(error, "cannot be opened", path) from error
        except BaseException:
            self._where.close()
            raise
        queues = syscalls is None and self._transactions.coherent  # a simulated one has no kernel
        self._presence = Presence(self._sys, self._fd, path, queues=queues)
        self._courtesy = Courtesy(self._presence, path, sparing=not self._transactions.coherent)
        self._litter = Litter(self._sys, self._fd, self.litters)
        self._journal = Journal(
            self._sys, self._fd, daemon=self.daemon, host=self.host, mode=self._mode
        )
        self._serves = serves
        self._places: tuple[str, ...] = ()
        if syscalls is None:  # the thread that writes events has nothing to do in a simulated one
            self._attach_events()
        if serves:
            self._presence.announce()

    def _attach_events(self) -> None:
        """Have the events of this lock directory, and of its image, in its journal."""
        image = self.identity.image
        self._places = (self.path, *([os.path.join(self._where.root, image)] if image else []))
        journal = EventJournal(self._sys, self.path, host=self.host, mode=self._mode)
        for place in self._places:
            events.attach(place, self.path, journal.write)

    def _open_truth(self) -> tuple[Transactions, Trail]:
        where = f"{self.path}/{self.truth}"
        try:
            self._where.note_truth()
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

    # ------------------------------------------------------------------ Store

    def head(self) -> Snapshot:
        """See `Store.head`. A deleted logical unit is `LunNotFound`."""
        self._guess = None
        self._check_place()
        before = self._transactions.known
        try:
            document = self._transactions.head()
        except (StateLost, StateUnreadable, StoreUnavailable):
            self._check_place(now=True)  # "was deleted" says more than "cannot be read"
            raise
        if document.snapshot.deleted:
            raise deleted_at(self.path)
        if before is not None and before.txid != document.txid:
            self._courtesy.meet()
        return document.snapshot

    def head_at_once(self, *, looks: bool = True) -> Snapshot | None:
        """See `Store.head_at_once`: a look at two names, or none."""
        if self._fd < 0 or time.monotonic() >= self._where.next_look:
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
        self._check_place(now=True)
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
        if document is None or self._where.astray:
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
        self._where.close()
        self._fd = -1

    def _check_place(self, *, now: bool = False) -> None:
        """See `Whereabouts.check`: briefly for who commits again and again."""
        self._where.check(now=now, briefly=self._guess is not None)

    def _is_deleted(self) -> bool:
        return self._transactions.head().snapshot.deleted

    # ------------------------------------------------------------------ upkeep

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
