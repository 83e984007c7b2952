"""Files of clients that can be closed without waiting for anybody.

To close a file may mean to wait for its server, with what is not written yet. On a file system
of this host, and with a disk, it means nothing, but for the last one who has it open.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable

from flockpr.manager.base import duplicate
from flockpr.manager.known import on_this_host
from flockpr.manager.views import VIEWS, told_of

FRESH = 60.0
"""Seconds for which a file is believed to be where it was found: mounts come and go, and their
numbers are used again."""
MAX_FOUND = 4096
"""Files that are remembered; beyond it all are forgotten, which costs one look each."""
_PLACE = re.compile(rb"^mnt_id:\t\d+\nino:\t\d+\n", re.MULTILINE)


class Places:
    """What was found out about files, for all clients of a socket. Thread-safe.

    Args:
        aside: Has something done in another thread that may hang; returns at once.
    """

    def __init__(self, aside: Callable[[Callable[[], None]], None]) -> None:
        self.aside = aside
        self._found: dict[bytes, tuple[bool, float]] = {}

    def harmless(self, place: bytes) -> bool | None:
        """What is known of a file; None if nothing is."""
        found, until = self._found.get(place, (None, 0.0))
        return found if time.monotonic() < until else None

    def note(self, place: bytes, found: bool) -> None:
        """A file was looked at."""
        if len(self._found) >= MAX_FOUND:
            self._found.clear()
        self._found[place] = found, time.monotonic() + FRESH


class Files:
    """The files of one client: one that hangs costs it one thread, however many there are.

    Args:
        places: What is known of all files.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._looked = threading.Event()
        self._looked.set()
        self._last: tuple[bytes, bytes | None] = b"", None

    def harmless(self, descriptor: int, patience: float = 0.0) -> bool:
        """Whether a file is known to be closed without waiting for anybody. Never waits for the
        file itself: what is not known yet is found out by another thread.

        Args:
            descriptor: The file.
            patience: Seconds that this may take.
        """
        place = self._place(descriptor, told_of if patience else VIEWS.told_of)
        if place is None:
            return False
        found = self._places.harmless(place)
        if found is None and self._looked.is_set():
            self._look(place, descriptor)
            if self._looked.wait(patience):
                found = self._places.harmless(place)
        return bool(found)

    def _place(self, descriptor: int, told_of: Callable[[int], bytes]) -> bytes | None:
        """The mount and the inode of a file, as the kernel knows them without asking the file
        system; None where it does not say (before Linux 5.14).
        """
        try:
            told = told_of(descriptor)
        except OSError:
            return None
        last, place = self._last
        if told != last:  # mostly it is the file of the command before
            found = _PLACE.search(told)
            place = found[0] if found else None
            self._last = told, place
        return place

    def _look(self, place: bytes, descriptor: int) -> None:
        try:
            own = duplicate(descriptor)
        except OSError:
            return

        def look() -> None:
            try:
                with contextlib.suppress(OSError):
                    self._places.note(place, on_this_host(own))
            finally:
                os.close(own)
                self._looked.set()

        self._looked.clear()
        self._places.aside(look)
