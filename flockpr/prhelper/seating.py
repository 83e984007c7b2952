"""At which desk the connections of a socket sit down.

With a thread for each socket the interpreter's lock would be passed around among as many threads
as there are guests with a socket of their own. So all sockets of a daemon share one desk. Who holds
the others up there is shown out: from the first time on that one of its connections hangs, a socket
has a desk, and a thread, of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

from flockpr.desk import Desk, Sitter

_log = logging.getLogger("flockpr.prhelper.seating")


class Guided(Sitter, Protocol):
    """What sits at such a desk, and knows who serves it otherwise."""

    def keep(self) -> None:
        """Serve it in the caller's thread from now on."""

    def alone(self) -> None:
        """Likewise in another thread; returns at once."""

    def ended(self) -> None:
        """It is over; returns at once."""


_Guided = TypeVar("_Guided", bound=Guided)


def new_desk(kind: type[_Guided]) -> Desk[_Guided]:
    """A desk for the connections of one socket or of many."""
    return Desk(serve=kind.keep, alone=kind.alone, ended=kind.ended)


class Seating(Generic[_Guided]):
    """The desk of one socket.

    Args:
        kind: Of its connections.
        where: The socket, for the log.
        shared: The desk of all sockets of the process; stays the caller's. Without one it has its
            own from the beginning.

    Attributes:
        desk: Where its connections sit down from now on.
    """

    def __init__(
        self, kind: type[_Guided], where: Hashable, shared: Desk[_Guided] | None = None
    ) -> None:
        self._kind = kind
        self._where = where
        self._lock = threading.Lock()
        self._own = shared is None
        self._untold = ""
        self.desk: Desk[_Guided] = shared or new_desk(kind)

    def move_out(self) -> None:
        """One of its connections has held up all others. Never raises, nor logs: the desk waits."""
        with self._lock:
            if self._own:
                return
            try:
                self.desk = new_desk(self._kind)
            except OSError as error:  # no descriptor; the next one that hangs tries again
                self._untold = f"and has no thread of its own yet: {error}"
                return
            self._own = True
            self._untold = "and has a thread of its own now"

    def tell(self) -> None:
        """Log what `move_out` did, if that was not done."""
        if self._untold:
            untold, self._untold = self._untold, ""
            _log.warning("%s: a client held others up, %s", self._where, untold)

    def stop(self) -> None:
        """End its desk, unless it is shared."""
        with self._lock:
            own = self.desk if self._own else None
        if own is not None:  # without the lock, which a guard that ends may want
            own.stop()
