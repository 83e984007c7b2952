"""What can be known of the process at the other end of a Unix socket.

The kernel says which process connected. By the time its arguments are read it may have
died and another process may have its id; so the id is pinned first, by a descriptor of
the process where the kernel gives one (SO_PEERPIDFD, Linux 6.5), else by the observation
that the connection is still open after its directory in procfs was opened.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import struct

import attrs

from flockpr.manager.device import EXHAUSTED
from flockpr.prhelper.qemu_arguments import machine_labels

_log = logging.getLogger("flockpr.prhelper.peer")

_CREDENTIALS = struct.Struct("iII")
_SO_PEERPIDFD = 77  # <asm-generic/socket.h>; the socket module has no name for it
_READ_MAX = 4 << 20


@attrs.frozen
class Peer:
    """The process that connected.

    Attributes:
        pid: Its process id in this process's namespace.
        uid: Its effective user id when it connected.
        gid: Its effective group id when it connected.
        uuid: The machine's UUID in canonical form, if its arguments tell one.
        name: The machine's name, if its arguments tell one.
        cgroups: Its paths in the cgroup hierarchies.
    """

    pid: int
    uid: int
    gid: int
    uuid: str | None = None
    name: str | None = None
    cgroups: tuple[str, ...] = ()


def read_peer(sock: socket.socket, proc: str = "/proc") -> Peer | None:
    """Read what is known of the process that connected.

    Returns:
        The process; without labels if its directory in procfs cannot be read (hidepid,
        another user's), None if it lives in an unrelated pid namespace.

    Raises:
        ConnectionResetError: It is gone, and the connection with it.
        OSError: This process has no descriptors or memory left to look.
    """
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(credentials)
    if pid <= 0:
        _log.debug("the client lives in another pid namespace")
        return None
    with contextlib.ExitStack() as stack:
        process = _peer_process(sock)
        if process is not None:
            stack.callback(os.close, process)
        try:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            directory = os.open(f"{proc}/{pid}", flags)
        except OSError as error:
            _unreadable(sock, pid, error)
            return Peer(pid, uid, gid)
        stack.callback(os.close, directory)
        # From here on the directory stands for one process, and fails when that one is gone.
        if not _pinned(sock, process):
            return Peer(pid, uid, gid)
        return _labelled(Peer(pid, uid, gid), directory, sock)


def _peer_process(sock: socket.socket) -> int | None:
    """Return a descriptor of the process that connected, None where the kernel has none."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno == errno.ESRCH:
            _check_connected(sock)
        return None


def _pinned(sock: socket.socket, process: int | None) -> bool:
    """Whether the process that connected was alive just now.

    Raises:
        ConnectionResetError: It is not, and the connection is gone too.
    """
    if process is not None and _ready(process, select.POLLIN):
        # It has exited. Something else may have inherited the connection; it is not it.
        _check_connected(sock)
        return False
    _check_connected(sock)
    return True


def _check_connected(sock: socket.socket) -> None:
    if _ready(sock.fileno(), select.POLLHUP | select.POLLERR):
        raise ConnectionResetError(errno.ECONNRESET, "the client has gone")


def _ready(descriptor: int, events: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, events)
    return any(found & events for _, found in poll.poll(0))


def _unreadable(sock: socket.socket, pid: int, error: OSError) -> None:
    """Raise, unless the process is there and merely cannot be looked at."""
    if error.errno in EXHAUSTED:
        # It is a machine of its own all the same, and must not pass for the host now.
        raise error
    _check_connected(sock)
    _log.warning("cannot look at client process %d: %s", pid, error.strerror)


def _labelled(peer: Peer, directory: int, sock: socket.socket) -> Peer:
    try:
        arguments = _read(directory, "cmdline")
        cgroups = _read(directory, "cgroup")
    except OSError as error:
        _unreadable(sock, peer.pid, error)
        return peer
    labels = machine_labels(arguments.split(b"\0"))
    paths = tuple(
        os.fsdecode(line.split(b":", 2)[2]) for line in cgroups.splitlines() if line.count(b":") > 1
    )
    return attrs.evolve(peer, uuid=labels.uuid, name=labels.name, cgroups=paths)


def _read(directory: int, name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    with open(descriptor, "rb") as file:
        return file.read(_READ_MAX)
