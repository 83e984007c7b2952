"""The listening sockets of a server, each with a thread that accepts.

That thread touches nothing that can hang: no lock directory, no image, no name service.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import select
import socket
import threading
import time
from collections.abc import Callable

from flockpr.errors import ConfigError
from flockpr.iscsi.settings import Address, Portal

log = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that may wait for accept; the kernel cuts it to net.core.somaxconn."""
RESERVED_DESCRIPTORS = 64
DESCRIPTORS_PER_LUN = 16
"""A disk's image, lock directory and locks; what a commit opens for a moment."""
DESCRIPTORS_EACH = 2
"""A connection's socket, and one that tells of the end of what it launched (see `flights`)."""

_TRANSIENT = frozenset({errno.EAGAIN, errno.EINTR, errno.ECONNABORTED, errno.EPROTO, errno.EPERM})
_PAUSE = 0.05
_QUIET = 10.0


class PortalListener:
    """One portal: bound at once, accepting from `start` on.

    Args:
        portal: Where.
        take: Gets each connection, in the accepting thread; must not block. Whatever it
            raises closes the connection.

    Raises:
        ConfigError: The address cannot be, or the inherited socket does not listen.
        OSError: The system refused (address in use, no permission).
    """

    def __init__(
        self, portal: Portal, take: Callable[[socket.socket, PortalListener], None]
    ) -> None:
        self.portal = portal
        self.tag = portal.tag
        self._take = take
        self._socket = _listening(portal)
        self._socket.setblocking(False)
        host, port = self._socket.getsockname()[:2]
        self.address = Address(host, port, portal.tag)
        self._stopping = threading.Event()
        self._wake_receive, self._wake_send = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._said = 0.0
        self._closed = False
        self._thread = threading.Thread(
            target=self._accept_all, name=f"iscsi-accept-{port}", daemon=True
        )

    @property
    def alive(self) -> bool:
        """Whether new clients are being accepted."""
        return self._thread.is_alive()

    def advertised(self, connection: socket.socket) -> str:
        """The TargetAddress of this portal as told over a connection (RFC 7143 13.8).

        A socket that is bound to every address is found where that client found us.
        """
        address = self.address
        if address.host in ("0.0.0.0", "::"):  # noqa: S104, compared, not bound
            with contextlib.suppress(OSError):
                host = connection.getsockname()[0].removeprefix("::ffff:")
                address = Address(host, address.port, address.tag)
        return f"{address.text},{address.tag}"

    def start(self) -> None:
        """Start to accept."""
        self._thread.start()
        log.info("portal %s,%d", self.address.text, self.tag)

    def close(self) -> None:
        """Accept no more and close the socket. Idempotent."""
        self._stopping.set()
        if self._closed:
            return
        self._closed = True
        os.write(self._wake_send, b"\0")
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()
        os.close(self._wake_receive)
        os.close(self._wake_send)

    def complain(self, text: str, *values: object) -> None:
        """Log a warning, but not for each of a thousand clients."""
        now = time.monotonic()
        if now - self._said > _QUIET or not self._said:
            self._said = now
            log.warning(text, *values)

    def _accept_all(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake_receive, select.POLLIN)
        while not self._stopping.is_set():
            poll.poll()
            while not self._stopping.is_set():
                try:
                    if not self._accept_one():
                        break
                except Exception:  # logged; the next client is served
                    log.exception("a client could not be accepted")
                    self._stopping.wait(_PAUSE)

    def _accept_one(self) -> bool:
        """Accept one client; False when there is none to be had now."""
        try:
            sock, _ = self._socket.accept()
        except OSError as error:
            if error.errno not in _TRANSIENT:
                # Mostly a full table of open files. The client waits in the backlog, the socket
                # stays readable, and others' descriptors come free sooner or later.
                self.complain("cannot accept: %s", error)
                self._stopping.wait(_PAUSE)
            return False
        try:
            self._take(sock, self)
        except BaseException:
            sock.close()
            raise
        return True


def bound_to(portal: Portal) -> Address:
    """Where a portal is to listen, or its inherited socket does.

    Raises:
        ConfigError: That is no TCP socket.
    """
    if portal.socket is None:
        return Address(portal.host, portal.port, portal.tag)
    if portal.socket.family not in (socket.AF_INET, socket.AF_INET6):
        number = portal.socket.fileno()
        raise ConfigError(f"inherited descriptor {number} is no listening TCP socket")
    host, port = portal.socket.getsockname()[:2]
    return Address(host, port, portal.tag)


def _listening(portal: Portal) -> socket.socket:
    if portal.socket is not None:
        sock = portal.socket
        accepting = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        inet = sock.family in (socket.AF_INET, socket.AF_INET6)
        if not inet or sock.type != socket.SOCK_STREAM or not accepting:
            raise ConfigError(f"inherited descriptor {sock.fileno()} is no listening TCP socket")
        return sock
    try:
        found = socket.getaddrinfo(
            portal.host, portal.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError, OverflowError) as error:
        raise ConfigError(f"{portal.host!r} is no address to listen on: {error}") from None
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    try:
        # A restart must not wait for connections of the process before to leave TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def affordable_connections(luns: int, doors: int = 1) -> int:
    """How many connections a process has descriptors for.

    Args:
        luns: How many LUNs it serves.
        doors: How many doors share the limit on open files.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = 1 << 16
    room = (soft - RESERVED_DESCRIPTORS - luns * DESCRIPTORS_PER_LUN) // DESCRIPTORS_EACH // doors
    return max(16, min(4096, room))
