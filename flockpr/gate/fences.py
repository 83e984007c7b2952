"""The hosts that were declared fenced, as this process knows them.

A declaration stands for as long as its boot of the host lasts, and that boot's number never comes
again, so one that was seen once is believed without a look; and nobody looks before something is
in the way: the usual path costs nothing.
"""

from __future__ import annotations

import os
import threading
import time

from flockpr.gate import fenced
from flockpr.store.syscalls import Syscalls

LOOK_AGAIN = 1.0
"""Seconds between two looks, however many wait."""


class Fences:
    """The declarations of one root; thread-safe.

    Args:
        root: The root directory.
        syscalls: Where the calls go.
    """

    def __init__(self, root: str, syscalls: Syscalls) -> None:
        self._root = root
        self._sys = syscalls
        self._known: frozenset[int] = frozenset()
        self._next = float("-inf")

    def known(self) -> frozenset[int]:
        """Those that were seen; asks nobody."""
        return self._known

    def look(self) -> frozenset[int]:
        """Those that there are, looked for at most once in a while. Never raises: whoever
        cannot read a declaration waits.
        """
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LOOK_AGAIN  # first: one that hangs does not hang all
            self._known |= fenced.numbers(self._root, self._sys)
        return self._known


_lock = threading.Lock()
_fences: dict[tuple[str, Syscalls], Fences] = {}


def fences_of(root: str, syscalls: Syscalls) -> Fences:
    """What this process knows of a root."""
    key = (os.path.realpath(root), syscalls)
    with _lock:
        return _fences.setdefault(key, Fences(root, syscalls))
