"""Opening a logical unit, whichever store keeps its transactions: what lies there decides."""

from __future__ import annotations

from flockpr.store.base import Store
from flockpr.store.kinds import SQLITE, store_of
from flockpr.store.lockdir import LockDirectory
from flockpr.store.syscalls import Syscalls


def open_store(
    path: str,
    *,
    syscalls: Syscalls | None = None,
    host: str | None = None,
    serves: bool = False,
) -> Store:
    """Open the directory of a logical unit.

    Args:
        path: ROOT/<lun>.
        syscalls: Where the calls go.
        host: Name of this host, for the record; the default is the system's.
        serves: This is a daemon; see `LunDirectory`.

    Raises:
        StoreError: See `LunDirectory`.
        ConfigError: `host` cannot be written into a document.
    """
    if store_of(path, syscalls) == SQLITE:
        from flockpr.store.sqlite import SqliteStore  # much to load for those who have none

        return SqliteStore(path, syscalls=syscalls, host=host, serves=serves)
    return LockDirectory(path, syscalls=syscalls, host=host, serves=serves)
