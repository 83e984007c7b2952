"""The stores that there are, and which of them a logical unit has: what lies there decides."""

from __future__ import annotations

from typing import Final

from flockpr.store import files
from flockpr.store.layout import DATABASE
from flockpr.store.syscalls import Syscalls

LOCKDIR: Final = "lockdir"
SQLITE: Final = "sqlite"
STORES: Final = (LOCKDIR, SQLITE)


def store_of(path: str, syscalls: Syscalls | None = None) -> str:
    """Which store keeps the transactions of a logical unit.

    Args:
        path: ROOT/<lun>. Where nothing can be seen it is "lockdir", since whoever opens it as
            such then says why it cannot be.
        syscalls: Where the calls go.
    """
    sys_ = syscalls or Syscalls()
    try:
        fd = files.open_directory(sys_, path)
    except OSError:
        return LOCKDIR
    try:
        return SQLITE if files.exists(sys_, DATABASE, dir_fd=fd) else LOCKDIR
    except OSError:
        return LOCKDIR
    finally:
        files.close_quietly(sys_, fd)
