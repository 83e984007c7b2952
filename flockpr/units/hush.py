"""Quiet for a thread that answers several commands one after the other.

Each answer wakes a client, whose next command wakes the thread that receives it. That one then
takes the interpreter's lock, which the thread that answers gives up at every system call and has
to get back: as often as there are answers. So whoever receives waits until all of them are given.
"""

from __future__ import annotations

import threading

MOST = 0.002
"""Seconds that somebody waits, at the most."""


class Hush:
    """Somebody may have to be quiet. Thread-safe; never raises."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._speakers = 0
        self._over = threading.Event()

    @property
    def lasts(self) -> bool:
        """Whether anybody is about to give several answers."""
        return self._speakers > 0

    def begin(self) -> None:
        """Several answers follow. To be followed by `end`."""
        with self._lock:
            self._speakers += 1
            self._over.clear()

    def end(self) -> None:
        """That was all."""
        with self._lock:
            self._speakers -= 1
            if not self._speakers:
                self._over.set()

    def wait(self) -> None:
        """Wait until all answers are given. Who takes too long is not waited for again."""
        if not self._over.wait(MOST):
            self._over.set()
