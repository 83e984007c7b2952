"""A lock directory as a `Store`: each transaction is a file."""

from __future__ import annotations

from typing import ClassVar

from flockpr.store.archive import Archive
from flockpr.store.commits import CommitLog
from flockpr.store.directory import SETTLE_SECONDS, LunDirectory
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
    ) -> None:
        self._patience = patience
        self._keep = keep
        self._segment = segment
        super().__init__(path, syscalls=syscalls, host=host, settle=settle, serves=serves)

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
