"""From settings to listening TCP sockets of the target door, made here or passed by systemd.

They are bound while the process is still who started it, like the Unix sockets: a port below
1024 is root's, and a service user must not need more than its lock directories.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence

import attrs

from flockpr.daemon.activation import PassedSocket
from flockpr.daemon.target_settings import Portal
from flockpr.errors import ConfigError
from flockpr.iscsi.settings import Address

_log = logging.getLogger("flockpr.daemon")

BACKLOG = 4096
"""Connections that may wait for accept; the kernel cuts it to net.core.somaxconn."""


@attrs.frozen
class BoundPortal:
    """A listening TCP socket of the target door.

    Attributes:
        socket: It; initiators wait in its backlog until somebody accepts.
        address: Where it listens, and its tag.
    """

    socket: socket.socket
    address: Address


def open_portals(
    portals: Sequence[Portal], passed: Sequence[PassedSocket] = ()
) -> tuple[BoundPortal, ...]:
    """Listen where the configuration says, or take passed sockets instead.

    Args:
        portals: What is configured.
        passed: TCP sockets from the service manager; with any, none is bound.

    Returns:
        At least one portal. After an error none is left open.

    Raises:
        ConfigError: A socket cannot be had.
    """
    opened: list[BoundPortal] = []
    try:
        for portal in _adopted(portals, passed) if passed else _bound(portals):
            opened.append(portal)  # noqa: PERF402, the ones that worked are closed below
    except BaseException:
        close_portals(opened)
        raise
    return tuple(opened)


def close_portals(portals: Sequence[BoundPortal]) -> None:
    """Stop listening."""
    for portal in portals:
        portal.socket.close()


def _bound(portals: Sequence[Portal]) -> Iterator[BoundPortal]:
    for portal in portals:
        if portal.portal is None:
            raise ConfigError(
                f"the service manager passed no socket called {portal.name!r}; give the"
                " [[portal]] an address, or start the daemon by its socket unit"
            )
        try:
            yield _bound_portal(_listen(*portal.address), portal.tag)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {portal.portal}: {error.strerror or error}",
                "the address has to be one of this host, and its port free; --portal names another",
            ) from error


def _listen(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    # The default of Linux: "::" is for both families. A restart must not wait for old
    # connections to time out, which SO_REUSEADDR is for.
    dual = family == socket.AF_INET6 and address[0] == "::"
    return socket.create_server(
        (str(address[0]), int(address[1])), family=family, backlog=BACKLOG, dualstack_ipv6=dual
    )


def _adopted(portals: Sequence[Portal], passed: Sequence[PassedSocket]) -> Iterator[BoundPortal]:
    unclaimed = list(portals)
    for entry in passed:
        portal = next((portal for portal in unclaimed if _meant(portal, entry)), None)
        if portal is not None:
            unclaimed.remove(portal)
        yield _bound_portal(entry.socket, Portal().tag if portal is None else portal.tag)
    for portal in unclaimed:
        if portal.name is not None or len(unclaimed) < len(portals):
            _log.warning(
                "portal %s is configured but was not passed; not served",
                portal.portal or portal.name,
            )


def _meant(portal: Portal, entry: PassedSocket) -> bool:
    if portal.name is not None and portal.name == entry.name:
        return True
    return portal.portal is not None and portal.address == entry.socket.getsockname()[:2]


def _bound_portal(listening: socket.socket, tag: int) -> BoundPortal:
    host, port = listening.getsockname()[:2]
    return BoundPortal(listening, Address(host, port, tag))
