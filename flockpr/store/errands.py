"""What nobody has to wait for: calls to a file server on whose outcome no answer depends.

A thread makes them, one after the other, while answers go out and the next command begins. It
ends when there has been nothing to do for a while. A file server that does not answer keeps that
thread and nobody else: what is more than a few is done by who wants it done, as if there were no
thread, so that nothing piles up.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

MOST: Final = 4
"""How many may wait, with the one that is under way."""
IDLE: Final = 10.0
"""Seconds after which a thread without work ends."""
PATIENCE: Final = 1.0
"""Seconds for which closing waits for what is left."""


class Errands:
    """Work for another thread. Thread-safe.

    A piece of work must own what it uses: it may be done when whoever wanted it is closed.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: deque[Callable[[], None]] = deque()
        self._running = False
        self._closed = False

    def run(self, work: Callable[[], None]) -> None:
        """Have this done: soon, or, where that cannot be, before the return. It must not raise."""
        if not self._accept(work):
            work()

    def close(self) -> None:
        """Wait a moment for what is left; what takes longer is done when it can be, or never."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if self._due:
                self._changed.wait_for(lambda: not self._due, PATIENCE)

    def _accept(self, work: Callable[[], None]) -> bool:
        with self._changed:
            if self._closed or len(self._due) >= MOST:
                return False
            if not self._running:
                try:
                    threading.Thread(target=self._run, name="errands", daemon=True).start()
                except RuntimeError:  # no more threads
                    return False
                self._running = True
            self._due.append(work)
            self._changed.notify_all()
            return True

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except Exception:  # no memory, say: what comes after it is to be done all the same
                log.exception("what was to be done meanwhile is not done")
            finally:
                with self._changed:
                    self._due.popleft()
                    self._changed.notify_all()

    def _next(self) -> Callable[[], None] | None:
        """What is to be done next, which is among what is due until it is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._due or self._closed, IDLE)
            if self._due:
                return self._due[0]
            self._running = False
            return None
