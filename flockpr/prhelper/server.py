"""The threads of one listening socket: one that accepts, one for each connection that begins
or is out of the ordinary, one for all the others, which several sockets may share.

The thread that accepts touches nothing that can hang: no lock directory, no descriptor of a
client, no procfs. It sends the greeting, for which QEMU waits in its main thread, and hands
the connection over.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import select
import socket
import threading
import time

from flockpr.desk import Desk
from flockpr.manager import PRManager
from flockpr.prhelper.aside import Aside
from flockpr.prhelper.connection import Connection, Limits
from flockpr.prhelper.harmless import Places
from flockpr.prhelper.identity import Identifier
from flockpr.prhelper.listener import Listener
from flockpr.prhelper.protocol import GREETING
from flockpr.prhelper.seating import Seating, new_desk

_log = logging.getLogger("flockpr.prhelper.server")

RESERVED_DESCRIPTORS = 64
DESCRIPTORS_EACH = 3
"""A connection, the descriptor of its command, and a duplicate or a file being read."""

_TRANSIENT = frozenset({errno.EAGAIN, errno.EINTR, errno.ECONNABORTED, errno.EPROTO, errno.EPERM})
_PAUSE = 0.05
_QUIET = 10.0


class HelperServer:
    """Serves one listening socket.

    Args:
        listener: The socket; closed when the server stops.
        manager: Executes the commands; stays the caller's.
        identifier: Finds the initiator port of each connection.
        limits: Bounds of what connections may cost.
        desk: Where connections sit down, if other sockets share it; see `shared_desk`. Stays the
            caller's.

    Attributes:
        seating: Where its connections sit down.
    """

    def __init__(
        self,
        listener: Listener,
        manager: PRManager,
        identifier: Identifier,
        *,
        limits: Limits | None = None,
        desk: Desk[Connection] | None = None,
    ) -> None:
        self._listener = listener
        self._manager = manager
        self._identifier = identifier
        self._limits = limits or Limits()
        self._most = self._limits.connections or affordable_connections()
        self._stopping = threading.Event()
        self._fewer = threading.Condition()
        self._connections: set[Connection] = set()
        self._aside = Aside()
        self._places = Places(self._aside.put)
        self.seating = Seating(Connection, self.path or "a socket", desk)
        self._accepted = 0
        self._said = 0.0
        self._wake_receive, self._wake_send = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._accept_all, name="helper-accept", daemon=True)
        self._stopped = False

    @property
    def path(self) -> str:
        """Where it listens."""
        return self._listener.path

    @property
    def alive(self) -> bool:
        """Whether new clients are being accepted; for a watchdog."""
        return self._thread.is_alive()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        with self._fewer:
            return len(self._connections)

    def start(self) -> None:
        """Start to accept."""
        self._thread.start()
        _log.info("serving %s, up to %d connections", self.path or "a socket", self._most)

    def stop(self, drain: float = 8.0) -> bool:
        """Stop listening, answer what was sent, end. Idempotent.

        Args:
            drain: Seconds that commands in execution get. Clients that are silent or in the
                middle of a request do not count as in execution.

        Returns:
            Whether every command in execution was answered.
        """
        deadline = time.monotonic() + drain
        self.stop_accepting()
        with self._fewer:
            for connection in self._connections:
                connection.end_input()
            left = max(0.0, deadline - time.monotonic())
            self._fewer.wait_for(lambda: not self._connections, left)
            late = list(self._connections)
        for connection in late:
            connection.abandon()
        if late:
            _log.warning("%d commands were still in execution after %g s", len(late), drain)
        else:
            self.seating.stop()
        return not late

    def stop_accepting(self) -> None:
        """Close the socket and remove its name if it is ours; connections go on. Idempotent."""
        self._stopping.set()
        if self._stopped:
            return
        self._stopped = True
        os.write(self._wake_send, b"\0")
        if self._thread.is_alive():
            self._thread.join()
        self._listener.close()
        os.close(self._wake_receive)
        os.close(self._wake_send)

    # ------------------------------------------------------------------ accepting

    def _accept_all(self) -> None:
        poll = select.poll()
        poll.register(self._listener.socket, select.POLLIN)
        poll.register(self._wake_receive, select.POLLIN)
        while not self._stopping.is_set():
            poll.poll()
            while not self._stopping.is_set():
                try:
                    if not self._accept_one():
                        break
                except Exception:  # noqa: BLE001, logged and answered
                    _log.exception("a client could not be accepted")
                    self._stopping.wait(_PAUSE)

    def _accept_one(self) -> bool:
        """Accept one client; False when there is none to be had now."""
        try:
            sock, _ = self._listener.socket.accept()
        except OSError as error:
            if error.errno not in _TRANSIENT:
                # Mostly a full table of open files. The client waits in the backlog, the socket
                # stays readable, and others' descriptors come free sooner or later.
                self._complain("cannot accept: %s", error)
                self._stopping.wait(_PAUSE)
            return False
        try:
            self._take(sock)
        except BaseException:
            sock.close()
            raise
        return True

    def _take(self, sock: socket.socket) -> None:
        """Greet a client and give it a thread."""
        if self.connections >= self._most:
            # Without a greeting QEMU would hang; with a closed socket it says so and retries.
            self._complain("more than %d connections; a client was turned away", self._most)
            self._aside.put(sock.close)  # with what it may have sent already
            return
        try:
            # A new connection's buffer has room for four bytes, so this does not block.
            sock.send(GREETING, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            sock.close()
            return
        self._accepted += 1
        connection = Connection(
            sock,
            path=self.path,
            manager=self._manager,
            identifier=self._identifier,
            limits=self._limits,
            stopping=self._stopping,
            number=self._accepted,
            house=self,
            places=self._places,
        )
        with self._fewer:
            self._connections.add(connection)
        self.serve_alone(connection)

    def serve(self, connection: Connection) -> None:
        """Serve a connection in this thread until it sits down or ends."""
        self.seating.tell()
        while connection.serve():
            if connection.sit_down():
                return
        self._end(connection)

    def serve_alone(self, connection: Connection) -> None:
        """Serve a connection that was at the desk in a thread of its own."""
        try:
            self._thread_for(connection)
        except RuntimeError:
            self._complain("no thread for a client; it was turned away")
            self.end_aside(connection)

    def _thread_for(self, connection: Connection) -> None:
        name = f"helper-{connection.number}"
        threading.Thread(target=self.serve, args=(connection,), name=name, daemon=True).start()

    def end_aside(self, connection: Connection) -> None:
        """To close it may hang."""
        self._aside.put(lambda: self._end(connection))

    def _end(self, connection: Connection) -> None:
        try:
            connection.close()
        finally:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        with self._fewer:
            self._connections.discard(connection)
            self._fewer.notify_all()

    def _complain(self, text: str, *values: object) -> None:
        """Log a warning, but not for each of a thousand clients."""
        now = time.monotonic()
        if now - self._said > _QUIET:
            self._said = now
            _log.warning(text, *values)


def shared_desk() -> Desk[Connection]:
    """A desk for several servers; to be stopped after all of them."""
    return new_desk(Connection)


def affordable_connections(doors: int = 1) -> int:
    """How many connections each door of a process has room for.

    Args:
        doors: How many listening sockets share the limit on open files.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = 1 << 16
    room = (soft - RESERVED_DESCRIPTORS) // DESCRIPTORS_EACH // max(1, doors)
    return max(16, min(4096, room))
