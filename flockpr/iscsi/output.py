"""What one connection sends: at once as far as the socket takes it, the rest later.

Whoever executed a command sends its answer, in a thread that other clients need too, so
nothing here blocks. What a slow client leaves is queued and sent by the housekeeper.
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

from flockpr.iscsi.housekeeper import Housekeeper

Chunk: TypeAlias = bytes | memoryview
Release: TypeAlias = Callable[[], None]

log = logging.getLogger(__name__)

_LOOK = 1.0
"""Seconds between two looks at what waits to be taken."""
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

    Attributes:
        pending: Bytes that wait for room.
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
    ) -> None:
        self._socket = sock
        self._housekeeper = housekeeper
        self._flush = flush
        self._look = look
        self._stalled = stalled
        self._queue: deque[Chunk | Release] = deque()
        self.pending = 0
        self._progress = 0.0
        self._looking = False
        self.broken = False

    def send(self, chunks: Sequence[Chunk], release: Release | None = None) -> list[Release]:
        """Send these, behind what is queued.

        Args:
            chunks: Not to be changed until `release` is called.
            release: Called when all of it has been sent, or never will be.
        """
        if self.broken:
            return [release] if release is not None else []
        if self._queue or len(chunks) > _MOST_CHUNKS:
            return self._queued(chunks, release)
        try:
            sent = self._socket.sendmsg(chunks, (), _FLAGS) if chunks else 0
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return [*self.abandon(), *([release] if release is not None else [])]
        left = sum(map(len, chunks)) - sent
        if not left:
            return [release] if release is not None else []
        return self._queued(_after(chunks, sent), release)

    def _queued(self, chunks: Sequence[Chunk], release: Release | None) -> list[Release]:
        if not self._queue:
            self._progress = time.monotonic()
            if not self._looking:
                self._looking = True
                self._housekeeper.later(_LOOK, self._look)
        self._queue.extend(chunks)
        self.pending += sum(map(len, chunks))
        if release is not None:
            self._queue.append(release)
        self._housekeeper.when_writable(self._socket.fileno(), self._flush)
        return []

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
            self._progress = time.monotonic()
            self.pending -= sent
            self._drop(sent, done)
        return done

    def _drop(self, sent: int, done: list[Release]) -> None:
        """Forget so many bytes from the head of the queue, and the releases behind them."""
        queue = self._queue
        while queue:
            head = queue[0]
            if callable(head):
                done.append(head)
            elif len(head) <= sent:
                sent -= len(head)
            else:
                if sent:
                    queue[0] = memoryview(head)[sent:]
                return
            queue.popleft()

    def look(self) -> list[Release]:
        """Something has waited for a while: a slow client, or one that reads no more.

        What it leaves lying is copied, because the buffers of the disks are everybody's.
        """
        self._looking = bool(self._queue) and not self.broken
        if not self._looking:
            return []
        if time.monotonic() - self._progress >= self._stalled:
            log.warning("a client takes nothing of what it asked for; dropped")
            return self.abandon()
        self._housekeeper.later(_LOOK, self._look)
        done = [item for item in self._queue if callable(item)]
        if done:
            self._queue = deque(bytes(item) for item in self._queue if not callable(item))
        return done

    def abandon(self) -> list[Release]:
        """Send nothing any more, and let the thread that reads find the connection broken."""
        self.broken = True
        done = [item for item in self._queue if callable(item)]
        self._queue.clear()
        self.pending = 0
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
