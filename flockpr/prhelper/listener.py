"""The name of the helper's socket: taken without stealing, given back without deleting.

The real helper unlinks whatever lies at its path, also another helper's live socket, and at
exit whatever lies there by then. Here a socket that answers is left alone, and at exit the
name is removed only while it still leads to the inode that this process made.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator

from flockpr.errors import ConfigError

_log = logging.getLogger("flockpr.prhelper.listener")

PATH_MAX = 107
"""Longest path in bytes that fits sun_path with its final NUL (unix(7))."""

BACKLOG = 4096
"""Connections that may wait for accept; the kernel cuts it to net.core.somaxconn. The real
helper's 1 makes a burst of starting guests fail with EAGAIN."""

PROBE_TIMEOUT = 5.0
LOCK_TIMEOUT = 5.0


class Listener:
    """A listening Unix stream socket and what is to become of its name.

    Attributes:
        socket: The listening socket, non-blocking.
        path: Its path; "" for an inherited socket without one.
    """

    def __init__(self, sock: socket.socket, path: str, inode: tuple[int, int] | None) -> None:
        """Use `bind` or `adopt`.

        Args:
            sock: Already listening.
            path: Where it is bound.
            inode: Device and inode of the name if it is this process's to remove.
        """
        sock.setblocking(False)
        self.socket = sock
        self.path = path
        self._inode = inode

    @classmethod
    def bind(
        cls, path: str, *, mode: int | None = None, owner: int = -1, group: int = -1
    ) -> Listener:
        """Make a socket at `path` and listen.

        Args:
            path: Absolute, at most 107 bytes. A socket there that nobody listens on any more
                is replaced.
            mode: Permission bits, or None for what the umask leaves of 0777. Whoever may
                write to the socket may connect.
            owner: User id to give it to, or -1.
            group: Group id to give it to, or -1.

        Raises:
            ConfigError: The path does not fit, or something that is not a dead socket is
                there: another daemon's live socket, a file, a symbolic link.
            OSError: The system refused.
        """
        _check_path(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            # Two daemons that start together must not both find the same dead socket, and the
            # slower one then unlink the faster one's new socket.
            with _directory_locked(os.path.dirname(path)):
                _clear_name(path)
                if mode is not None:
                    # The name gets the mode of the socket's own inode less the umask, so it is
                    # never wider than asked for, not even between bind and chmod.
                    os.fchmod(sock.fileno(), mode)
                sock.bind(path)
                found = os.lstat(path)
                if mode is not None and stat.S_IMODE(found.st_mode) != mode:
                    os.chmod(path, mode)
                if (owner, group) != (-1, -1):
                    os.chown(path, owner, group, follow_symlinks=False)
                sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
        return cls(sock, path, (found.st_dev, found.st_ino))

    @classmethod
    def adopt(cls, sock: socket.socket) -> Listener:
        """Serve a socket that somebody else listens on and owns (systemd).

        Its name is never removed: its owner goes on listening when this process has gone.

        Raises:
            ConfigError: It is no listening Unix stream socket.
        """
        accepting = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM or not accepting:
            raise ConfigError(f"inherited descriptor {sock.fileno()} is no listening Unix socket")
        name = sock.getsockname()
        return cls(sock, name if isinstance(name, str) else "", None)

    def close(self) -> None:
        """Stop listening and remove the name if it is still this socket's. Idempotent."""
        inode, self._inode = self._inode, None
        if inode is not None:
            # The name goes first, so that nobody finds a name that refuses connections.
            with contextlib.suppress(FileNotFoundError):
                self._unlink(inode)
        self.socket.close()

    def _unlink(self, inode: tuple[int, int]) -> None:
        with _directory_locked(os.path.dirname(self.path)):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) != inode:
                _log.warning("%s is another's socket by now; left alone", self.path)
                return
            try:
                os.unlink(self.path)
            except OSError as error:
                # Dropped privileges may not reach into the directory any more. The next start
                # finds a dead socket there and replaces it.
                _log.warning("cannot remove %s: %s", self.path, error.strerror)


def _check_path(path: str) -> None:
    if not path.startswith("/") or "\0" in path:
        raise ConfigError(f"socket path must be absolute: {path!r}")
    if len(os.fsencode(path)) > PATH_MAX:
        raise ConfigError(f"socket path is longer than {PATH_MAX} bytes: {path!r}")


@contextlib.contextmanager
def _directory_locked(directory: str) -> Iterator[None]:
    """Hold the lock on a directory that daemons take before they change a name in it.

    Without it where the directory cannot be opened or its file system has no locks: it
    guards against two daemons that start in the same instant, no more.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        descriptor = -1
    try:
        if descriptor >= 0:
            _lock(descriptor, directory)
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _lock(descriptor: int, directory: str) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                # Another program may lock directories for reasons of its own.
                _log.warning("%s is locked by somebody; not waiting any longer", directory)
                return
            time.sleep(0.02)
        except OSError as error:
            _log.debug("cannot lock %s: %s", directory, error.strerror)
            return
        else:
            return


def _clear_name(path: str) -> None:
    """Remove a dead socket; refuse to remove anything else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"{path} exists and is no socket; remove it or choose another path")
    state = _probe(path)
    if state != errno.ECONNREFUSED:
        reason = "another process serves it" if state == 0 else os.strerror(state)
        raise ConfigError(f"{path} is in use ({reason}); stop that process or choose another path")
    _log.info("replacing the dead socket %s", path)
    os.unlink(path)


def _probe(path: str) -> int:
    """Try to connect: 0 for a live socket, ECONNREFUSED for a dead one, else the errno.

    Anything else leaves open whether somebody listens: EAGAIN is a full backlog, EACCES and
    EPERM say nothing, EPROTOTYPE is another kind of socket. None of them is "dead".
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(PROBE_TIMEOUT)
        try:
            sock.connect(path)
        except TimeoutError:
            return errno.ETIMEDOUT
        except FileNotFoundError:
            return errno.ECONNREFUSED
        except OSError as error:
            return error.errno or errno.EIO
    return 0
