"""The protocol object and the output of one connection, and the lock around both.

Rules of the lock: nothing that can block happens under it, and no other connection's lock and no
task set's is taken while it is held; a logical unit's is tried for, and not waited for. What has
to be called when it is free again (memory that was sent, commands that may go on) is collected and
called then.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence

from flockpr.iscsi import events
from flockpr.iscsi.backlog import Backlog
from flockpr.iscsi.housekeeper import Housekeeper
from flockpr.iscsi.output import Chunk, Output, Release
from flockpr.iscsi.session import TargetConnection


class Wire:
    """What several threads use of one connection.

    Args:
        sock: The connection.
        protocol: Its protocol object.
        housekeeper: Sends what the client does not take at once.
        stalled: Seconds after which a client that takes nothing is dropped.
        backlog: Where what the client does not take is counted.

    Attributes:
        lock: See above.
        changed: Notified when output was taken and when a command is over; of `lock`.
        closed: Nothing is sent any more, and the protocol object is not to be asked.
    """

    def __init__(
        self,
        sock: socket.socket,
        protocol: TargetConnection,
        housekeeper: Housekeeper,
        *,
        stalled: float,
        backlog: Backlog,
    ) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.protocol = protocol
        self.output = Output(
            sock,
            housekeeper,
            flush=self.flush,
            look=self.look,
            stalled=stalled,
            backlog=backlog,
        )
        self.closed = False

    def do(
        self, call: Callable[..., Sequence[events.Event]], *arguments: object
    ) -> Sequence[events.Event]:
        """Call the protocol and send what it has to say; what is to be done now.

        That is nothing when the connection is broken: what a client sent before it was dropped
        lies in the socket still, and its session may be another connection's by now.
        """
        with self.lock:
            if self.closed or self.output.broken:
                return ()
            found = call(*arguments)
            done = self.send()
        for release in done:
            release()
        return found

    def say(self, call: Callable[..., object], *arguments: object) -> None:
        """Call the protocol and send what it has to say, unless the connection is over."""
        with self.lock:
            if self.closed:
                return
            call(*arguments)
            done = self.send()
        for release in done:
            release()

    def send(self, *releases: Release) -> Sequence[Release]:
        """Send what the protocol has queued. Called with the lock held.

        Args:
            releases: Called when that has been sent.

        Returns:
            What is to be called when the lock is free.
        """
        chunks: Sequence[Chunk] = self.protocol.data_to_send()
        if chunks or releases:
            return self.output.send(chunks, *releases)
        return ()

    def flush(self) -> None:
        """The socket has room; called by the housekeeper."""
        with self.lock:
            if self.closed:
                return
            done = self.output.flush()
            self.changed.notify_all()
        for release in done:
            release()

    def look(self) -> None:
        """Something has waited for a while; called by the housekeeper."""
        with self.lock:
            if self.closed:
                return
            done = self.output.look()
            self.changed.notify_all()
        for release in done:
            release()

    def abandon(self) -> None:
        """Break the connection: the thread that reads finds its end. Does not block."""
        with self.lock:
            if self.closed:
                return
            done = self.output.abandon()
            self.changed.notify_all()
        for release in done:
            release()

    def close(self) -> None:
        """Send nothing any more; the socket is about to be closed."""
        with self.lock:
            self.closed = True
            done = self.output.abandon()
            self.changed.notify_all()
        for release in done:
            release()
