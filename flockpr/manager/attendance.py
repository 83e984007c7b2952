"""Who is connected to which logical unit."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import ClassVar, Protocol, runtime_checkable

from flockpr.core.model import Nexus
from flockpr.logical_unit import Result
from flockpr.units import Hush

_log = logging.getLogger("flockpr.manager.attendance")


class UnitsLike(Protocol):
    """What is needed of `flockpr.units.Units`. Only futures wait; no call blocks for long."""

    def submit(
        self,
        lun: str,
        nexus: Nexus,
        cdb: bytes,
        data_out: bytes,
        *,
        door: str,
        report_attentions: bool,
        long_parameter_length: bool,
    ) -> Future[Result]:
        """Queue a command; the future completes in bounded time."""

    def attend(self, lun: str, nexus: Nexus, door: str) -> None:
        """Say that a nexus is connected."""

    def leave(self, lun: str, nexus: Nexus, door: str) -> None:
        """Say that it no longer is."""

    def find_by_wwid(self, wwids: Iterable[str]) -> str | None:
        """Name the logical unit with one of these identifiers or image paths."""


@runtime_checkable
class QuickUnits(UnitsLike, Protocol):
    """Units that can answer what only reads without anybody waiting."""

    def read_at_once(self, lun: str, nexus: Nexus, cdb: bytes, door: str) -> Result | None:
        """Answer it at once, or not; see `flockpr.units.Units`."""

    def looks_hang(self) -> None:
        """Say that a call of `read_at_once` takes far too long."""


@runtime_checkable
class CallingUnits(UnitsLike, Protocol):
    """Units that call whoever asks, where a future is not needed."""

    def submit_to(
        self,
        lun: str,
        nexus: Nexus,
        cdb: bytes,
        data_out: bytes,
        *,
        answered: Callable[[Result], object],
        hush: Hush | None,
        door: str,
        report_attentions: bool,
        long_parameter_length: bool,
    ) -> None:
        """Queue a command; see `flockpr.units.Units`."""


class Attendance:
    """Counts who is connected, over all managers and doors of one `Units`.

    QEMU may hold several connections for one machine, and opens a new one before the
    old one's end is noticed: the nexus is gone when the last of them is.
    """

    _shared: ClassVar[weakref.WeakKeyDictionary[UnitsLike, Attendance]] = (
        weakref.WeakKeyDictionary()
    )
    _shared_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, units: UnitsLike) -> None:
        # Weakly, or the table of shared ones would keep every `Units` alive for ever.
        self._units = weakref.ref(units)
        self._lock = threading.Lock()
        self._luns: dict[str, threading.Lock] = {}
        self._counts: dict[tuple[str, Nexus, str], int] = {}

    @classmethod
    def of(cls, units: UnitsLike) -> Attendance:
        """Return the one for these units."""
        with cls._shared_lock:
            return cls._shared.setdefault(units, cls(units))

    def enter(self, lun: str, nexus: Nexus, door: str) -> None:
        """Count one more connection of that nexus."""
        # Locked per logical unit, and through the call: a last leave must not overtake the
        # next first attend, and a slow unit must not stop the others.
        with self._lun_lock(lun):
            count = self._counts.get((lun, nexus, door), 0)
            self._counts[lun, nexus, door] = count + 1
            if not count:
                self._tell(lambda units: units.attend(lun, nexus, door))

    def exit(self, lun: str, nexus: Nexus, door: str) -> None:
        """Count one less."""
        with self._lun_lock(lun):
            count = self._counts.pop((lun, nexus, door), 0)
            if count > 1:
                self._counts[lun, nexus, door] = count - 1
                return
            if count:
                self._tell(lambda units: units.leave(lun, nexus, door))

    def _tell(self, call: Callable[[UnitsLike], None]) -> None:
        units = self._units()
        if units is None:
            return
        try:
            call(units)
        except Exception:  # noqa: BLE001, logged
            # Attendance is shown to people and never decides a command: go on without it.
            _log.exception("attendance could not be noted")

    def _lun_lock(self, lun: str) -> threading.Lock:
        with self._lock:
            return self._luns.setdefault(lun, threading.Lock())
