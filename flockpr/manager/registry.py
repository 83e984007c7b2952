"""Managers by kind and by id."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from flockpr.errors import ConfigError, UnknownManager
from flockpr.manager.base import PRManager
from flockpr.manager.file_lock import FileLockManager

Factory = Callable[..., PRManager]


def _sgio(id: str, **options: Any) -> PRManager:  # noqa: A002
    from flockpr.manager.sgio import SgioManager  # loads ctypes, which most have no use for

    return SgioManager(id, **options)


def _ioc_pr(id: str, **options: Any) -> PRManager:  # noqa: A002
    from flockpr.manager.ioc_pr import IocPrManager

    return IocPrManager(id, **options)


def _mpath(id: str, **options: Any) -> PRManager:  # noqa: A002
    from flockpr.manager.mpath import MpathManager

    return MpathManager(id, **options)


_lock = threading.Lock()
_kinds: dict[str, Factory] = {
    FileLockManager.kind: FileLockManager,
    "sgio": _sgio,
    "ioc-pr": _ioc_pr,
    "mpath": _mpath,
}
_managers: dict[str, PRManager] = {}


def register_kind(name: str, factory: Factory) -> None:
    """Make a kind of manager known.

    Args:
        name: Of the kind; a kind of that name is replaced.
        factory: Called with the manager's id and the options of `create_manager`.
    """
    with _lock:
        _kinds[name] = factory


def create_manager(kind: str, id: str, **options: object) -> PRManager:  # noqa: A002
    """Make a manager and make it known by its id.

    Args:
        kind: A registered kind, such as `file-lock`.
        id: To look it up by.
        options: What the kind needs.

    Raises:
        UnknownManager: There is no such kind.
        ConfigError: The id is taken, or an option is wrong.
    """
    with _lock:
        factory = _kinds.get(kind)
        if factory is None:
            raise UnknownManager(_unknown("kind of manager", kind, _kinds))
        if id in _managers:
            raise ConfigError(f"there is a manager {id!r} already")
    try:
        manager = factory(id, **options)
    except TypeError as error:
        raise ConfigError(f"manager {id!r} of kind {kind!r}: {error}") from error
    with _lock:
        if id not in _managers:
            _managers[id] = manager
            return manager
    manager.close()
    raise ConfigError(f"there is a manager {id!r} already")


def lookup_manager(id: str) -> PRManager:  # noqa: A002
    """Return the manager with that id.

    Raises:
        UnknownManager: There is none; names the id.
    """
    with _lock:
        manager = _managers.get(id)
        if manager is None:
            raise UnknownManager(_unknown("manager", id, _managers))
        return manager


def remove_manager(id: str) -> None:  # noqa: A002
    """Forget the manager with that id, and close it.

    Raises:
        UnknownManager: There is none; names the id.
    """
    with _lock:
        manager = _managers.pop(id, None)
        if manager is None:
            raise UnknownManager(_unknown("manager", id, _managers))
    manager.close()


def _unknown(what: str, name: str, known: Mapping[str, object]) -> str:
    import difflib  # for a mistake alone

    near = difflib.get_close_matches(name, known, 1, 0.0)
    hint = f"; the nearest known one is {near[0]!r}" if near else "; none is known"
    return f"no {what} {name!r}{hint}"
