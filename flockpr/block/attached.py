"""The sessions of a disk: who is attached, and what all of them are told."""

from __future__ import annotations

import threading

from flockpr.block.nexus import DiskNexus
from flockpr.block.served import UnitsLike
from flockpr.core.model import Nexus
from flockpr.spc.sense import Sense


class Attached:
    """Attached sessions, counted by nexus. Thread-safe.

    Several sessions may be one nexus. The logical unit hears of the first and of the last one
    only, because what ends with a nexus (a SPC-2 reservation) must not end with one of two.

    Args:
        units: The logical units.
        lun: Name of the LUN.
        door: Name of the door, for the record.
    """

    def __init__(self, units: UnitsLike, lun: str, door: str) -> None:
        self._units = units
        self._lun = lun
        self._door = door
        self._lock = threading.Lock()
        self._sessions: dict[DiskNexus, None] = {}
        self._counts: dict[Nexus, int] = {}
        self._closed = False

    def add(self, session: DiskNexus) -> bool:
        """A session begins; False when it is too late for that."""
        with self._lock:
            session.attached = not self._closed
            if self._closed:
                return False
            nexus = session.nexus
            if nexus not in self._counts:
                # First, because it can fail (no more threads): then nobody has begun.
                self._units.attend(self._lun, nexus, self._door)
            self._sessions[session] = None
            self._counts[nexus] = self._counts.get(nexus, 0) + 1
            return True

    def remove(self, session: DiskNexus) -> bool:
        """A session has ended; False when that was said before."""
        with self._lock:
            if not session.attached:
                return False
            session.attached = False
            del self._sessions[session]
            nexus = session.nexus
            self._counts[nexus] -= 1
            if not self._counts[nexus]:
                del self._counts[nexus]
                self._units.leave(self._lun, nexus, self._door)
            return True

    def all(self) -> list[DiskNexus]:
        """Those that are attached now."""
        with self._lock:
            return list(self._sessions)

    def close(self) -> list[DiskNexus]:
        """Take no more; those that are there."""
        with self._lock:
            self._closed = True
            return list(self._sessions)

    def tell(self, sense: Sense, but: DiskNexus | None) -> None:
        """Queue a unit attention for all of them but one."""
        for session in self.all():
            if session is not but:
                session.tell(sense)
