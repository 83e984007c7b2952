"""The two small protocols between systemd and a service: passed sockets and notification.

Both are plain enough to speak without libsystemd: descriptors from 3 upwards, announced in the
environment (sd_listen_fds(3)), and datagrams of KEY=VALUE lines (sd_notify(3)).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping, MutableMapping

import attrs

from flockpr.errors import ConfigError

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START."""

_LISTEN_VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_NOTIFY_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_SEND_TIMEOUT = 5.0


@attrs.frozen
class PassedSocket:
    """A listening Unix or TCP socket that somebody else made.

    Attributes:
        socket: The socket, close-on-exec; now ours to close, its path never ours to unlink.
        name: Its FileDescriptorName=, "" if nobody gave one.
        path: The path it is bound to, "" if it has none that is a path.
    """

    socket: socket.socket
    name: str
    path: str

    @property
    def is_unix(self) -> bool:
        """Whether it is for the helper door; the others are portals of the target door."""
        return self.socket.family == socket.AF_UNIX


def take_sockets(
    environ: MutableMapping[str, str], *, pid: int | None = None, first: int = FIRST_DESCRIPTOR
) -> list[PassedSocket]:
    """Take over the sockets that systemd passed to this very process.

    The variables are removed in any case, so that no child believes they are meant for it.

    Args:
        environ: The environment; changed.
        pid: This process; a parameter for tests.
        first: Number of the first descriptor; a parameter for tests.

    Returns:
        The sockets in the order passed; none if none are, or if LISTEN_PID names another
        process (variables inherited through a process that was not told to remove them).

    Raises:
        ConfigError: A descriptor is no listening stream socket.
    """
    count = announced(environ, pid=pid)
    values = {name: environ.pop(name, "") for name in _LISTEN_VARIABLES}
    names = values["LISTEN_FDNAMES"].split(":")
    taken = []
    for index in range(count):
        name = names[index] if index < len(names) else ""
        taken.append(_take(first + index, "" if name == "unknown" else name))
    return taken


def announced(environ: Mapping[str, str], *, pid: int | None = None) -> int:
    """How many sockets are passed to this very process; changes nothing."""
    meant = _number(environ.get("LISTEN_PID", "")) == (os.getpid() if pid is None else pid)
    return _number(environ.get("LISTEN_FDS", "")) if meant else 0


def _take(descriptor: int, name: str) -> PassedSocket:
    try:
        os.set_inheritable(descriptor, False)
        passed = socket.socket(fileno=descriptor)
        listening = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigError(
            f"LISTEN_FDS: descriptor {descriptor} is no socket: {error.strerror}"
        ) from error
    families = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
    if passed.family not in families or passed.type != socket.SOCK_STREAM or not listening:
        passed.close()
        raise ConfigError(
            f"LISTEN_FDS: descriptor {descriptor} is not a listening stream socket"
            " (ListenStream= with a path, or with a TCP port for the target door)"
        )
    address = passed.getsockname()
    path = address if isinstance(address, str) and address.startswith("/") else ""
    return PassedSocket(passed, name, path)


def _number(text: str) -> int:
    """A positive decimal number, or 0 for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


@attrs.frozen
class Notifier:
    """Tells the service manager how things are; does nothing where there is none.

    Attributes:
        address: NOTIFY_SOCKET, a path or "@" and an abstract name; "" for nobody.
        watchdog: Seconds within which the manager wants to hear from us, or None.
    """

    address: str = ""
    watchdog: float | None = None

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str], *, pid: int | None = None) -> Notifier:
        """Read the variables and remove them, so that no child speaks in our name."""
        values = {name: environ.pop(name, "") for name in _NOTIFY_VARIABLES}
        address = values["NOTIFY_SOCKET"]
        if not address.startswith(("/", "@")):
            address = ""  # vsock and the like: not for a service on this machine
        return cls(address, _watchdog(values, os.getpid() if pid is None else pid))

    def ready(self, status: str = "") -> bool:
        """The sockets accept."""
        return self.send("READY=1", f"STATUS={status}" if status else "")

    def stopping(self, status: str = "") -> bool:
        """On the way out."""
        return self.send("STOPPING=1", f"STATUS={status}" if status else "")

    def alive(self) -> bool:
        """Keep the watchdog quiet. Never waits: a full queue is the manager's problem."""
        return self.send("WATCHDOG=1", wait=False)

    def send(self, *lines: str, wait: bool = True) -> bool:
        """Send one datagram.

        Args:
            lines: KEY=VALUE; empty ones are left out, line breaks inside become spaces.
            wait: Whether it may wait some seconds for a full queue.

        Returns:
            Whether it was sent. Nothing here is worth ending the daemon for.
        """
        if not self.address:
            return False
        data = "\n".join(line.replace("\n", " ") for line in lines if line).encode()
        address = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
        ):
            channel.settimeout(_SEND_TIMEOUT if wait else 0.0)
            channel.sendto(data, address)
            return True
        return False


def _watchdog(values: Mapping[str, str], pid: int) -> float | None:
    text = values["WATCHDOG_USEC"]
    microseconds = int(text) if text.isascii() and text.isdigit() else 0
    if not microseconds or (values["WATCHDOG_PID"] and _number(values["WATCHDOG_PID"]) != pid):
        return None
    return microseconds / 1e6
