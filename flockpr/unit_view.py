"""A logical unit as people and tools look at it.

Nothing is decided or changed here, so the rules of the commands need not be loaded: the command
line must start quickly.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from flockpr.errors import StoreError
from flockpr.store.base import AuditRecord, Snapshot, Store
from flockpr.store.identity import LunIdentity
from flockpr.store.opening import open_store
from flockpr.unit_status import UnitStatus


class UnitView:
    """A logical unit, opened to be looked at. Thread-safe.

    Args:
        store: Its lock directory; closed with this object.

    Use as a context manager, or call `close`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()

    @classmethod
    def of(cls, path: str) -> UnitView:
        """Open the lock directory ROOT/<lun>.

        Args:
            path: The directory.

        Raises:
            LunNotFound: There is no such lock directory.
            StoreError: It cannot be read as ours.
        """
        return UnitView(open_store(path))

    @property
    def identity(self) -> LunIdentity:
        """What `lun.json` says."""
        return self._store.identity

    def close(self) -> None:
        """Let go of the descriptors."""
        with self._lock:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def status(self) -> UnitStatus:
        """The state and who is alive, for people.

        Raises:
            StoreError: The state cannot be read.
        """
        with self._lock:
            return UnitStatus.of(self.identity, self._store.head(), self._store)

    def status_at(self, number: int) -> UnitStatus:
        """What it looked like after a transaction; nobody's liveness of then is known.

        Raises:
            StoreError: The transaction is no longer kept, or cannot be read.
        """
        with self._lock:
            snapshot = self._store.snapshot_at(number)
            kept = self._store.retained() if snapshot is None else []
        if snapshot is None:
            what = f"the state of transaction {number} is not kept"
            remedy = f"{kept[0]} to {kept[-1]} are; `flockpr log` goes back further" if kept else ""
            raise StoreError(what, self._store.path, remedy)
        return UnitStatus(self.identity, snapshot, {}, None)

    def oldest_state(self) -> int:
        """The first transaction from which on `status_at` has every state.

        Raises:
            StoreError: Input or output failed.
        """
        with self._lock:
            kept = self._store.retained()
        after_gaps = [number for before, number in itertools.pairwise(kept) if number != before + 1]
        return max([*kept[:1], *after_gaps], default=1)

    def lock_fault(self) -> StoreError | None:
        """Why liveness is unknown, if the lock file cannot be opened; for people."""
        with self._lock:
            return self._store.lock_fault()

    def snapshot(self) -> Snapshot:
        """The newest transaction.

        Raises:
            StoreError: It cannot be read.
        """
        with self._lock:
            return self._store.head()

    def history(self, since: int = 1) -> Iterator[AuditRecord]:
        """The audit trail from transaction `since` on, or from where history begins.

        Raises:
            StoreError: It cannot be read.
        """
        records = self._store.history(since)
        while True:
            with self._lock:  # reading it uses what commands use
                some = list(itertools.islice(records, 256))
            if not some:
                return
            yield from some

    def history_begins(self) -> int:
        """Number of the oldest transaction that the audit trail still has.

        Raises:
            StoreError: It cannot be read.
        """
        with self._lock:
            return self._store.history_begins()

    def refusals(self) -> Iterator[dict[str, Any]]:
        """Commands that were refused or changed nothing, from all daemons' journals."""
        return self._store.refusals()

    def events(self) -> Iterator[dict[str, Any]]:
        """What happened to its locks and its gate, from all processes' journals."""
        return self._store.noted_events()
