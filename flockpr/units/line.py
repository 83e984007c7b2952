"""Commands of one LUN that take access away, one after the other, beside its other commands."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from flockpr.core.model import Nexus
from flockpr.errors import Busy
from flockpr.logical_unit import Narrowing
from flockpr.units.requests import AnyRequest

log = logging.getLogger(__name__)


class Line:
    """Runs them in order, on a thread of its own that is there only as long as one waits.

    Args:
        name: Of the LUN.
        advanced: Called after each.
    """

    def __init__(self, name: str, advanced: Callable[[], None]) -> None:
        self._name = name
        self._advanced = advanced
        self._lock = threading.Lock()
        self._queue: deque[tuple[AnyRequest, Narrowing]] = deque()
        self._thread: threading.Thread | None = None

    def put(self, request: AnyRequest, narrowing: Narrowing) -> None:
        """Take the last place.

        Raises:
            Busy: No thread can be started; the request has no place.
        """
        with self._lock:
            if self._thread is None:
                name = f"gate-{self._name}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                try:
                    thread.start()  # it waits for the lock
                except RuntimeError as error:
                    raise Busy(f"{error}: try again", self._name) from error
                self._thread = thread  # not before: nobody would start another one
            self._queue.append((request, narrowing))

    def __len__(self) -> int:
        return len(self._queue)

    def waiting(self) -> list[AnyRequest]:
        """Those that have not ended; the first is being run."""
        with self._lock:
            return [request for request, _ in self._queue]

    def withdraw(self, nexus: Nexus) -> None:
        """Those of this nexus are not to be done, if nothing of them has been."""
        for request in self.waiting():
            if request.nexus == nexus:
                request.withdraw()

    def close(self) -> None:
        """Wait for those that are left."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._thread = None
                    return
                request, narrowing = self._queue[0]
            if not request.over:
                try:
                    request.finish(narrowing.run())
                except Exception:
                    log.exception("%s: internal error", self._name)
                    request.fail()
            with self._lock:
                self._queue.popleft()
            self._advanced()
