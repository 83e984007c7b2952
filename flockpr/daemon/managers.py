"""Who answers the commands of a socket, and what that takes."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from flockpr.daemon.privileges import FILE_CAPABILITIES, RAW_IO
from flockpr.daemon.settings import FILE_LOCK, ServedSocket, Settings
from flockpr.daemon.sockets import Door
from flockpr.manager.attendance import UnitsLike
from flockpr.manager.base import PRManager
from flockpr.manager.file_lock import FileLockManager

GRACE = 5.0
"""Seconds that the door waits beyond the time in which the logical units answer."""


@attrs.frozen
class Needed:
    """Capabilities that a daemon goes on with, one bit each.

    Attributes:
        devices: Those that passing on takes.
        files: Those of root for lock directories and images.
    """

    devices: int
    files: int


def needed_for(doors: Sequence[Door], *, with_target: bool) -> Needed:
    """The capabilities that these doors take."""
    kinds = {door.served.manager for door in doors}
    return Needed(
        devices=RAW_IO if kinds - {FILE_LOCK} else 0,
        files=FILE_CAPABILITIES if FILE_LOCK in kinds or with_target or not kinds else 0,
    )


def manager_of(served: ServedSocket, settings: Settings, units: UnitsLike) -> PRManager:
    """The manager of a socket."""
    name = served.path or served.name or "passed"
    if served.manager != FILE_LOCK:
        from flockpr.manager.sgio import SgioManager

        return SgioManager(name, timeout=settings.serve.timeout + GRACE)
    return FileLockManager(
        name,
        units=units,
        lun=served.lun,
        wwids={name: lun.wwids for name, lun in settings.luns.items()},
        door="helper",
        report_attentions=served.unit_attentions,
        long_parameter_length=False,
        timeout=settings.serve.timeout,
    )
