"""From settings to listening sockets, made here or passed by the service manager."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Sequence

import attrs

from flockpr.daemon.activation import PassedSocket
from flockpr.daemon.privileges import find_group, find_user
from flockpr.daemon.settings import ServedSocket, Settings
from flockpr.errors import ConfigError
from flockpr.prhelper.listener import Listener

_log = logging.getLogger("flockpr.daemon")


@attrs.frozen
class Door:
    """A listening socket, and who and what its connections are.

    Attributes:
        listener: The socket; connections wait in its backlog until a server accepts.
        served: What it was configured with.
    """

    listener: Listener
    served: ServedSocket


def open_doors(settings: Settings, passed: Sequence[PassedSocket] = ()) -> list[Door]:
    """Bind every configured socket, or take the passed ones instead.

    Args:
        settings: What to serve.
        passed: Sockets from the service manager; with any, none is bound.

    Returns:
        At least one door. After an error none is left open, and no name behind.

    Raises:
        ConfigError: A socket cannot be had, or passed and named sockets contradict.
    """
    doors: list[Door] = []
    try:
        for door in _adopted(settings, passed) if passed else _bound(settings):
            doors.append(door)  # noqa: PERF402, the ones that worked are closed below
    except BaseException:
        close_doors(doors)
        raise
    return doors


def close_doors(doors: Sequence[Door]) -> None:
    """Stop listening, and remove the names that are still ours."""
    for door in doors:
        door.listener.close()


def _bound(settings: Settings) -> Iterator[Door]:
    for served in settings.sockets:
        if not served.path:
            raise ConfigError(
                f"the service manager passed no socket called {served.name!r}; give the"
                " [[socket]] a path, or start the daemon by its socket unit"
            )
        if served.is_default:
            _prepare_directory(os.path.dirname(served.path))
        owner = -1 if served.owner is None else find_user(served.owner)
        group = -1 if served.group is None else find_group(served.group)
        mode = None if served.mode is None else int(served.mode, 8)
        try:
            listener = Listener.bind(served.path, mode=mode, owner=owner, group=group)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {served.path}: {error.strerror}",
                "its directory has to be there, and writable for who starts the daemon;"
                " --socket names another path",
            ) from error
        yield Door(listener, served)


def _adopted(settings: Settings, passed: Sequence[PassedSocket]) -> Iterator[Door]:
    if settings.sockets_from_flag:
        raise ConfigError(
            "--socket and a socket from the service manager (LISTEN_FDS) exclude each other"
        )
    unclaimed = [served for served in settings.sockets if not served.is_default]
    for entry in passed:
        served = next((served for served in unclaimed if _meant(served, entry)), None)
        if served is None:
            served = attrs.evolve(settings.unnamed_socket, path=entry.path, name=entry.name)
        else:
            unclaimed.remove(served)
        yield Door(Listener.adopt(entry.socket), attrs.evolve(served, path=entry.path))
    for served in unclaimed:
        _log.warning(
            "socket %s is configured but was not passed; not served", served.path or served.name
        )


def _meant(served: ServedSocket, entry: PassedSocket) -> bool:
    return bool(
        (served.name and served.name == entry.name) or (served.path and served.path == entry.path)
    )


def _prepare_directory(directory: str) -> None:
    """Make the directory of a default socket; refuse one that somebody else could change.

    The fallback lies below /tmp, where anybody could have put a directory or a link of that
    name before us, and would then decide who answers there.
    """
    try:
        os.makedirs(directory, 0o755 if os.geteuid() == 0 else 0o700, exist_ok=True)
        found = os.lstat(directory)
    except OSError as error:
        raise ConfigError(f"{directory}: cannot make it: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigError(
            f"{directory}: not a directory that is yours alone to change; remove it or name a"
            " socket elsewhere with --socket"
        )
