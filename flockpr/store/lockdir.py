"""A lock directory as a `Store`: each transaction is a file."""

from __future__ import annotations

from typing import ClassVar

from flockpr.store.archive import Archive
from flockpr.store.commits import CommitLog
from flockpr.store.directory import SETTLE_SECONDS, LunDirectory
from flockpr.store.errands import Errands
from flockpr.store.layout import AUDIT, COMMITS, KEEP_COMMITS, SEGMENT
from flockpr.store.syscalls import Syscalls
from flockpr.store.transactions import Trail, Transactions


class LockDirectory(LunDirectory):
    """The lock directory of one logical unit, opened by one daemon.

    Args:
        path: ROOT/<lun>.
        syscalls: Where the calls go; tests put a failing file system here.
        host: Name of this host, for the record; the default is the system's.
        patience: Seconds an issued commit of unknown outcome is followed up.
        keep: Commits that stay below the head.
        segment: Transactions in a segment of the audit trail.
        settle: Seconds that a commit stays after its successor was seen.
        serves: This is a daemon; see `LunDirectory`.
        errands: Where what no answer depends on is done on a share. The default is a thread for
            a daemon, and at once for others and where tests put a file system.

    Raises:
        StoreError: See `LunDirectory`.
        ConfigError: `host` cannot be written into a document.
    """

    truth: ClassVar[str] = COMMITS
    litters: ClassVar[tuple[str, ...]] = ("", AUDIT, COMMITS)

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
        errands: Errands | None = None,
    ) -> None:
        self._errands = errands or (Errands() if serves and syscalls is None else None)
        self._patience = patience
        self._keep = keep
        self._segment = segment
        super().__init__(path, syscalls=syscalls, host=host, settle=settle, serves=serves)

    def close(self) -> None:
        """See `Store.close`. A file server that does not answer is not waited for, but a moment."""
        if self._errands is not None:
            self._errands.close()
        super().close()

    def _open_transactions(self) -> tuple[Transactions, Trail]:
        commits = CommitLog(
            self._sys,
            self._fd,
            self.path,
            incarnation=self.identity.incarnation,
            daemon=self.daemon,
            host=self.host,
            mode=self._mode,
            patience=self._patience,
            errands=self._errands,
        )
        archive = Archive(
            self._sys,
            self._fd,
            self.path,
            commits,
            daemon=self.daemon,
            mode=self._mode,
            segment=self._segment,
            keep=self._keep,
        )
        return commits, archive
