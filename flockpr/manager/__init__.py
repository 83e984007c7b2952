"""PRManager: the shape that QEMU gave to whoever executes reservation commands.

A manager gets a descriptor of a disk and a command, and returns what a SCSI device would.
Managers are made by kind and looked up by id. `FileLockManager` answers from lock
directories; one that asks the kernel or a database fits beside it without a door noticing.
"""

from __future__ import annotations

from flockpr.manager.base import PRManager
from flockpr.manager.file_lock import FileLockManager
from flockpr.manager.registry import (
    create_manager,
    lookup_manager,
    register_kind,
    remove_manager,
)

__all__ = [
    "FileLockManager",
    "PRManager",
    "create_manager",
    "lookup_manager",
    "register_kind",
    "remove_manager",
]
