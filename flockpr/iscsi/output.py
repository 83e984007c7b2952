"""What one connection sends: at once as far as the socket takes it, the rest later.

Whoever executed a command sends its answer, in a thread that other clients need too, so
nothing here blocks. What a slow client leaves is queued and sent by the housekeeper. It is sent
from the buffers of the disks, which are everybody's: what lies longer than a moment is copied,
and how much lies there is counted (`backlog`).
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TypeAlias

from flockpr.iscsi.backlog import Backlog
from flockpr.iscsi.housekeeper import Housekeeper, Timer

Chunk: TypeAlias = bytes | memoryview
Release: TypeAlias = Callable[[], None]


class Loan:
    """A release that gives back the memory of what is to be sent: due when that was copied, too."""

    __slots__ = ("_give_back",)

    def __init__(self, give_back: Release) -> None:
        self._give_back = give_back

    def __call__(self) -> None:
        """Give it back."""
        self._give_back()


log = logging.getLogger(__name__)

_LOOK = 1.0
"""Seconds between two looks at what waits to be taken."""
_SOON = 0.01
"""Seconds until somebody who was to make room has done so."""
_PIECE = 1 << 18
"""Copies of less than that are put together: an initiator may ask for PDUs so small that the
objects would take more memory than what is in them."""
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_MOST_CHUNKS = 512
"""Buffers of one sendmsg, below the system's IOV_MAX of 1024."""


class Output:
    """The sending half of a connection. Every call is made under the connection's lock.

    What a method returns is to be called after that lock has been let go: the memory of what
    was sent may be used again.

    Args:
        sock: The socket.
        housekeeper: Waits for room in it.
        flush: Called by the housekeeper when there is; calls `flush` here.
        look: Called by the housekeeper while something waits; calls `look` here.
        stalled: Seconds in which a client has to take something.
        backlog: Where what waits is counted.
        clock: For tests.

    Attributes:
        pending: Bytes that wait for room.
        since: When the client last took a whole answer, or something began to wait.
        who: The client, for the log.
        broken: Nothing can be sent any more.
    """

    def __init__(
        self,
        sock: socket.socket,
        housekeeper: Housekeeper,
        *,
        flush: Callable[[], None],
        look: Callable[[], None],
        stalled: float,
        backlog: Backlog,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._socket = sock
        self._housekeeper = housekeeper
        self._flush = flush
        self._look = look
        self._stalled = stalled
        self._backlog = backlog
        self._clock = clock
        self._queue: deque[Chunk | Release] = deque()
        self.pending = 0
        self._kept = 0
        self._progress = 0.0
        self._timer: Timer | None = None
        self._giving_way = False
        self.since = 0.0
        self.who = "a client"
        self.broken = False

    def send(self, chunks: Sequence[Chunk], *releases: Release) -> list[Release]:
        """Send these, behind what is queued.

        Args:
            chunks: Not to be changed until the `Loan` among the releases is called; without
                one, never.
            releases: Called, once each, when all of it has been sent, or never will be.
        """
        if self.broken:
            return list(releases)
        if self._queue or len(chunks) > _MOST_CHUNKS:
            return self._queued(chunks, releases)
        try:
            if len(chunks) == 1:
                sent = self._socket.send(chunks[0], _FLAGS)
                left = len(chunks[0]) - sent
            else:
                sent = self._socket.sendmsg(chunks, (), _FLAGS) if chunks else 0
                left = sum(map(len, chunks)) - sent
        except (BlockingIOError, InterruptedError):
            return self._queued(chunks, releases)
        except OSError:
            return [*self.abandon(), *releases]
        if not left:
            return list(releases)
        return self._queued(_after(chunks, sent), releases)

    def _queued(self, chunks: Sequence[Chunk], releases: Sequence[Release]) -> list[Release]:
        if not self._queue:
            self._progress = self.since = self._clock()
            if self._timer is None:
                self._look_in(_LOOK)
        size = sum(map(len, chunks))
        self._queue.extend(chunks)
        self._queue.extend(releases)
        self.pending += size
        self._housekeeper.when_writable(self._socket.fileno(), self._flush)
        if not any(isinstance(release, Loan) for release in releases):
            self._kept += size
            self._backlog.keep(self, self._kept, there=True)
        elif self._backlog.crowded():
            return self._copy()
        return []

    def _look_in(self, seconds: float) -> None:
        self._housekeeper.cancel(self._timer)
        self._timer = self._housekeeper.later(seconds, self._look)

    def flush(self) -> list[Release]:
        """Send what the socket takes of what is queued."""
        done: list[Release] = []
        while self._queue and not self.broken:
            chunks = [item for item in islice(self._queue, _MOST_CHUNKS) if not callable(item)]
            try:
                sent = self._socket.sendmsg(chunks, (), _FLAGS) if chunks else 0
            except (BlockingIOError, InterruptedError):
                self._housekeeper.when_writable(self._socket.fileno(), self._flush)
                break
            except OSError:
                return [*done, *self.abandon()]
            self._progress = self._clock()
            self.pending -= sent
            self._drop(sent, done)
        if self._kept > self.pending or not self._queue:
            self._kept = self.pending
            self._backlog.keep(self, self._kept)
        if not self._queue:
            self._giving_way = False
        return done

    def _drop(self, sent: int, done: list[Release]) -> None:
        """Forget so many bytes from the head of the queue, and the releases behind them."""
        queue = self._queue
        while queue:
            head = queue[0]
            if callable(head):
                done.append(head)
                self.since = self._progress
            elif len(head) <= sent:
                sent -= len(head)
            else:
                if sent:
                    queue[0] = memoryview(head)[sent:]
                return
            queue.popleft()

    def look(self) -> list[Release]:
        """Something has waited for a while: a slow client, or one that reads no more."""
        self._housekeeper.cancel(self._timer)
        self._timer = None
        if not self._queue or self.broken:
            self._giving_way = False
            self._backlog.keep(self, 0)
            return []
        if self._giving_way:
            log.warning("%s: dropped: too much waits for clients that do not take it", self.who)
            return self.abandon()
        if self._clock() - self._progress >= self._stalled:
            log.warning("%s: dropped: takes nothing of what it asked for", self.who)
            return self.abandon()
        self._look_in(_LOOK)
        return self._copy()

    def _copy(self) -> list[Release]:
        """Give back the buffers of the disks, once there is room for what is in them."""
        borrowed = any(isinstance(item, Loan) for item in self._queue)
        if not self._backlog.keep(self, self.pending, there=not borrowed) and borrowed:
            self._look_in(_SOON)
            return []
        self._kept = self.pending
        if not borrowed:
            return []
        done: list[Release] = []
        own: deque[Chunk | Release] = deque()
        part: list[Chunk] = []
        size = 0
        for item in self._queue:
            if not callable(item):
                part.append(item)
                size += len(item)
            if part and (callable(item) or size >= _PIECE):
                own.append(b"".join(part) if len(part) > 1 else bytes(part[0]))
                part, size = [], 0
            if isinstance(item, Loan):
                done.append(item)
            elif callable(item):
                own.append(item)
        own.extend(map(bytes, part))
        self._queue = own
        return done

    def give_way(self) -> None:
        """Drop the client soon, unless it takes everything first."""
        self._giving_way = True
        self._housekeeper.soon(self._look)

    def abandon(self) -> list[Release]:
        """Send nothing any more, and let the thread that reads find the connection broken."""
        self.broken = True
        done = [item for item in self._queue if callable(item)]
        self._queue.clear()
        self.pending = self._kept = 0
        self._backlog.keep(self, 0)
        self._housekeeper.cancel(self._timer)
        self._timer = None
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        return done


def _after(chunks: Sequence[Chunk], sent: int) -> list[Chunk]:
    """What is left of chunks when so many bytes of them have been sent."""
    left: list[Chunk] = []
    for chunk in chunks:
        if sent >= len(chunk):
            sent -= len(chunk)
        elif sent:
            left.append(memoryview(chunk)[sent:])
            sent = 0
        else:
            left.append(chunk)
    return left
