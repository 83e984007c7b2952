"""Threads for what may hang, and what nobody waits for: closing a client's files.

The last one who closes a file waits for whatever is behind it: a dead file server, a disk that
has to write first, a socket that lingers. That is done here, by a spare thread, or by a new one
where every other one hangs.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

_log = logging.getLogger("flockpr.prhelper.aside")

KEEP = 5.0
"""Seconds that a thread without work stays."""


class Aside:
    """As many threads as hang, and one more. Thread-safe.

    What waits is never more than the threads that wait for it, and those that were started for
    it and have not looked yet.
    """

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._waiting: deque[Callable[[], None]] = deque()
        self._spare = 0

    def put(self, work: Callable[[], None]) -> None:
        """Have something done in another thread; returns at once.

        Only where the process may have no other thread at all it is done in this one: not done,
        it would keep a client's file open for ever.
        """
        with self._wake:
            self._waiting.append(work)
            if len(self._waiting) <= self._spare:
                self._wake.notify()
                return
        try:
            threading.Thread(target=self._run, name="helper-aside", daemon=True).start()
        except RuntimeError as error:
            _log.error("no thread for closing files: %s", error)
            self._do_one(0.0)

    def _run(self) -> None:
        while self._do_one(KEEP):
            pass

    def _do_one(self, patience: float) -> bool:
        """Do what waits, or what comes in that time; False if nothing does."""
        with self._wake:
            # Counted, and no longer, in the step in which it is seen that nothing is there.
            self._spare += 1
            self._wake.wait_for(lambda: self._waiting, patience)
            self._spare -= 1
            if not self._waiting:
                return False
            work = self._waiting.popleft()
        try:
            work()
        except Exception:  # noqa: BLE001, logged
            _log.exception("unexpected error")
        return True
