"""Opening a logical unit, whichever store keeps its transactions: what lies there decides."""

from __future__ import annotations

from flockpr.store import files
from flockpr.store.base import Store
from flockpr.store.layout import DATABASE
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
    if has_database(path, syscalls or Syscalls()):
        from flockpr.store.sqlite import SqliteStore  # much to load for those who have none

        return SqliteStore(path, syscalls=syscalls, host=host, serves=serves)
    return LockDirectory(path, syscalls=syscalls, host=host, serves=serves)


def has_database(path: str, syscalls: Syscalls) -> bool:
    """Whether a database keeps the transactions; False also where nothing can be seen, since
    whoever opens it as a lock directory then says why.
    """
    try:
        fd = files.open_directory(syscalls, path)
    except OSError:
        return False
    try:
        return files.exists(syscalls, DATABASE, dir_fd=fd)
    except OSError:
        return False
    finally:
        files.close_quietly(syscalls, fd)
