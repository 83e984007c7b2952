"""Who answers the commands of a socket, and what that takes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs

from flockpr.daemon.privileges import ADMINISTRATION, FILE_CAPABILITIES, RAW_IO, Account
from flockpr.daemon.settings import AUTO, FILE_LOCK, PASSING, ServedSocket, Settings
from flockpr.daemon.sockets import Door
from flockpr.errors import ConfigError
from flockpr.manager.base import PRManager
from flockpr.manager.file_lock import FileLockManager
from flockpr.manager.passing import PassingManager
from flockpr.manager.routing import AutoManager, Claims, RootUnits

_NATURAL = "sgio"
"""Who passes on to a disk of which nothing is said."""
GRACE = 5.0
"""Seconds that the door waits beyond the time in which the logical units answer."""


@attrs.frozen
class Needed:
    """Capabilities that a daemon goes on with, one bit each.

    Attributes:
        devices: Those that passing on takes.
        files: Those of root for lock directories and images.
        inherited: Those that programs have which it starts.
    """

    devices: int
    files: int
    inherited: int


_MPATH = "mpath"
_DEVICES = {"sgio": RAW_IO, "ioc-pr": ADMINISTRATION, _MPATH: RAW_IO | ADMINISTRATION}
"""What each manager that passes on takes."""


def kinds_of(doors: Sequence[Door], settings: Settings) -> set[str]:
    """The managers that these doors have use for; with one that chooses, those it may choose."""
    kinds = {door.served.manager for door in doors}
    if AUTO in kinds:
        kinds |= {_NATURAL, *settings.devices.values()}
    return kinds


def needed_for(kinds: Collection[str], *, with_target: bool) -> Needed:
    """The capabilities that managers of these kinds take."""
    held = 0
    for kind in kinds:
        held |= _DEVICES.get(kind, 0)
    emulates = with_target or not kinds or {AUTO, FILE_LOCK} & set(kinds)
    return Needed(
        devices=held,
        files=FILE_CAPABILITIES if emulates else 0,
        inherited=_DEVICES[_MPATH] if _MPATH in kinds else 0,
    )


def check_account(kinds: Collection[str], account: Account | None) -> None:
    """See that managers of these kinds can do as that user what they are for.

    Raises:
        ConfigError: multipathd does nothing for anybody but root.
    """
    if _MPATH in kinds and account is not None and account.uid not in (None, 0):
        raise ConfigError(
            f"manager {_MPATH!r} as user {account.uid}: multipathd answers only to root",
            "leave `user` out, and give disks of multipath a daemon of their own",
        )


def manager_of(served: ServedSocket, settings: Settings, units: RootUnits) -> PRManager:
    """The manager of a socket."""
    name = served.path or served.name or "passed"
    timeout = settings.serve.timeout
    wwids = {name: lun.wwids for name, lun in settings.luns.items()}
    if served.manager in PASSING:
        claims = Claims(units, wwids, named=not settings.root_is_default)
        return _passing(served.manager, name, timeout, claims.check)
    options: Mapping[str, Any] = {
        "lun": served.lun,
        "wwids": wwids,
        "door": "helper",
        "report_attentions": served.unit_attentions,
        "long_parameter_length": False,
        "timeout": timeout,
    }
    if served.manager == AUTO:
        chosen = settings.devices
        used = {_NATURAL, *chosen.values()}
        passing = {kind: _passing(kind, name, timeout, None) for kind in used}
        return AutoManager(name, units=units, passing=passing, chosen=chosen, **options)
    return FileLockManager(name, units=units, **options)


def _passing(
    kind: str, name: str, timeout: float, check: Callable[[int], None] | None
) -> PassingManager:
    from flockpr.manager.ioc_pr import IocPrManager
    from flockpr.manager.mpath import MpathManager
    from flockpr.manager.sgio import SgioManager

    made = {manager.kind: manager for manager in (SgioManager, IocPrManager, MpathManager)}
    return made[kind](name, timeout=timeout + GRACE, check=check)
