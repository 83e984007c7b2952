"""Whose rings a target does not heed: hosts that are declared fenced, and who rings without end.

The locks make a command safe; that targets stay away while somebody rings only lets it have
them. A process that is stopped while it rings, or a host that died then and whose lock nobody
ends, must not keep all targets away for ever. So who has rung for longer than any command does
is heeded for a moment now and then, in which a command that lives gets what it wants.
"""

from __future__ import annotations

import os
import threading
import time

from flockpr.gate.fences import fences_of
from flockpr.store.syscalls import Syscalls

ENDLESS = 30.0
"""Seconds of ringing without a break after which nobody is heeded all the time ..."""
DEAF = 57.0
"""... but not for so long ..."""
HEED = 3.0
"""... and then for so long, which is two graces."""


class Ears:
    """Who has been heard in one root, and since when; thread-safe.

    Args:
        root: The root directory.
        syscalls: Where the calls go.
    """

    def __init__(self, root: str, syscalls: Syscalls) -> None:
        self._fences = fences_of(root, syscalls)
        self._lock = threading.Lock()
        self._since: dict[int, dict[int, float]] = {}

    def deaf(self, number: int, ringing: frozenset[int]) -> frozenset[int]:
        """Take note of who rings for a LUN at this moment; whom not to heed.

        Args:
            number: Logical unit number.
            ringing: Numbers of all hosts that ring for the permits of this one.
        """
        if not ringing:
            if number in self._since:
                with self._lock:
                    self._since.pop(number, None)
            return ringing
        now = time.monotonic()
        with self._lock:
            before = self._since.get(number, {})
            since = self._since[number] = {host: before.get(host, now) for host in ringing}
        endless = frozenset(host for host, first in since.items() if self._endless(now - first))
        return endless | self._fences.look()

    def _endless(self, age: float) -> bool:
        return age >= ENDLESS and (age - ENDLESS) % (DEAF + HEED) < DEAF


_lock = threading.Lock()
_ears: dict[tuple[str, Syscalls], Ears] = {}


def ears_of(root: str, syscalls: Syscalls) -> Ears:
    """What this process has heard in a root."""
    key = (os.path.realpath(root), syscalls)
    with _lock:
        return _ears.setdefault(key, Ears(root, syscalls))
