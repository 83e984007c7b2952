"""Who sees to it that a connection is read from while its thread executes a command.

The thread that reads a command executes it too, where that takes as long as one system call on
the image. If the file system hangs, so does the thread; then another one takes over the reading.
It is looked for in turn, not timed for each command, which would cost more than the command.
"""

from __future__ import annotations

import threading
from typing import Final, Protocol

from flockpr.iscsi.housekeeper import Housekeeper

TICK: Final = 0.025
"""Seconds between two looks: a command that two of them find is one that takes long."""
_PATIENCE: Final = 40
"""Looks that find nothing before there are none until the next command."""


class Reader(Protocol):
    """A connection whose thread executes commands now and then."""

    def relieve(self, number: int) -> None:
        """Let another thread read, if the command of this number is still being executed. Where
        none can be started it is asked again.
        """


class Relief:
    """Looks after all connections of a server. Thread-safe.

    Args:
        housekeeper: Calls it now and then, while commands are executed.
    """

    def __init__(self, housekeeper: Housekeeper) -> None:
        self._housekeeper = housekeeper
        self._lock = threading.Lock()
        self._busy: dict[Reader, int] = {}
        self._seen: dict[Reader, int] = {}
        self._awake = False
        self._idle = 0

    def begin(self, reader: Reader, number: int) -> None:
        """A connection's thread begins to execute its command of this number."""
        self._busy[reader] = number
        # In this order: whoever goes to sleep looks once more, in the opposite one.
        if not self._awake:
            self._wake()

    def end(self, reader: Reader) -> None:
        """It reads again, or somebody else does."""
        self._busy.pop(reader, None)

    def _wake(self) -> None:
        with self._lock:
            if self._awake:
                return
            self._awake = True
            self._idle = 0
        self._housekeeper.later(TICK, self.look)

    def look(self) -> None:
        """Relieve who has been at the same command since the last look; called by the
        housekeeper.
        """
        found, before = self._busy.copy(), self._seen
        self._seen = found
        self._idle = 0 if found != before else self._idle + 1
        try:
            for reader, number in found.items():
                if before.get(reader) == number:
                    reader.relieve(number)
        finally:
            if self._idle < _PATIENCE or not self._rests():
                self._housekeeper.later(TICK, self.look)

    def _rests(self) -> bool:
        """Whether nobody is at a command; from then on the next one wakes it."""
        with self._lock:
            self._awake = False
            if self._busy:
                self._awake = True
            return not self._awake
