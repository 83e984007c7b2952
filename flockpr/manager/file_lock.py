"""The manager that answers from lock directories."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import ClassVar

from flockpr.core.model import Nexus
from flockpr.errors import Busy, ConfigError, StoreError, StoreUnavailable
from flockpr.logical_unit import Result, failure
from flockpr.manager.attendance import Attendance, CallingUnits, QuickUnits, UnitsLike
from flockpr.manager.base import (
    BUSY,
    Asker,
    PRManager,
    complete,
    copy_result,
    duplicate,
    failed,
    in_thread,
    settle,
)
from flockpr.manager.device import EXHAUSTED, Device, identify_device, writable
from flockpr.manager.known import Known, mark_of, on_this_host
from flockpr.manager.lookups import Lookups
from flockpr.spc import sense as senses
from flockpr.spc.codes import Opcode
from flockpr.spc.transport_id import InitiatorPort

_log = logging.getLogger("flockpr.manager")

_IN = int(Opcode.PERSISTENT_RESERVE_IN)

GRACE = 5.0
"""Seconds beyond the units' own timeout after which a command is given up here."""

MAX_LOOKUPS = 256
"""Descriptors that are being looked at; more are BUSY. Each is a thread, for a file on a hung
server one that stays."""

PORT_LOOKUPS = 16
"""The same for one initiator port: whoever connects anew gets no new share."""

CONNECTION_LOOKUPS = 1
"""The same for one connection, which sends one command after the other: a second look-up means
that the first was given up and still hangs."""


class FileLockManager(PRManager):
    """Answers from the lock directories of a root.

    Args:
        id: Of the manager.
        units: The logical units; made for `root`, and closed with the manager, if absent.
        root: Directory of lock directories.
        initiator: The initiator port of `run` and `execute`. A door uses `acting_for`.
        lun: The logical unit of every descriptor; otherwise found by the device.
        wwids: Further wwids by which devices of this host show a logical unit, by its name.
        target_port: Relative target port identifier of the door.
        door: What the audit trail calls the door.
        report_attentions: Report pending unit attentions.
        long_parameter_length: PARAMETER LIST LENGTH is bytes 5-8 of the CDB, not 7-8.
        timeout: Seconds after which `units` answers whatever the storage does.
        identify: Finds the names of a descriptor's disk.

    Raises:
        ConfigError: Neither `units` nor `root`, or a name is wrong.
    """

    kind: ClassVar[str] = "file-lock"

    def __init__(
        self,
        id: str,  # noqa: A002
        *,
        units: UnitsLike | None = None,
        root: str | None = None,
        initiator: InitiatorPort | str | None = None,
        lun: str | None = None,
        wwids: Mapping[str, Iterable[str]] | None = None,
        target_port: int = 1,
        door: str = "api",
        report_attentions: bool = True,
        long_parameter_length: bool = True,
        timeout: float = 10.0,
        identify: Callable[[int], Device] = identify_device,
    ) -> None:
        super().__init__(id)
        port = _port(initiator)
        self._close_units: Callable[[], object] | None = None
        if units is None:
            units = self._open(root, timeout)
        self.units: UnitsLike = units
        self.attendance = Attendance.of(units)
        self.lun = lun
        self.names = {wwid.lower(): name for name, many in (wwids or {}).items() for wwid in many}
        self.target_port = target_port
        self.door = door
        self.report_attentions = report_attentions
        self.long_parameter_length = long_parameter_length
        self.timeout = timeout
        self.identify = identify
        self.lookups = Lookups()
        self.known = Known()
        self.calling = units if isinstance(units, CallingUnits) else None
        self.quick: QuickUnits | None = None
        if not report_attentions and isinstance(units, QuickUnits):
            self.quick = units
        self._seat = None if port is None else self._seat_for(port, {})

    def _seat_for(self, port: InitiatorPort, shares: Mapping[Hashable, int]) -> Seat:
        return Seat(self, port, shares=shares)

    def _open(self, root: str | None, timeout: float) -> UnitsLike:
        if root is None:
            raise ConfigError(f"manager {self.id!r} needs a root")
        from flockpr.units import Units

        units = Units(root, timeout=timeout)
        self._close_units = lambda: units.close(timeout)
        return units

    def run(self, fd: int, cdb: bytes, data_out: bytes = b"") -> Result:
        """Execute one command for the manager's own initiator port."""
        return self._own_seat().run(fd, cdb, data_out)

    def execute(self, fd: int, cdb: bytes, data_out: bytes = b"") -> Future[Result]:
        """Execute one command for the manager's own initiator port; never blocks."""
        return self._own_seat().execute(fd, cdb, data_out)

    @contextlib.contextmanager
    def acting_for(self, port: InitiatorPort) -> Iterator[PRManager]:
        """Return a manager that acts for that port and attends for it while entered."""
        seat = self._seat_for(port, {port: PORT_LOOKUPS, object(): CONNECTION_LOOKUPS})
        try:
            yield seat
        finally:
            seat.close()

    @property
    def where(self) -> str:
        """The logical unit of the command executed last for the own initiator port."""
        return "-" if self._seat is None else self._seat.where

    def close(self) -> None:
        """Leave every logical unit, and close the units if they are the manager's own."""
        if self._seat is not None:
            self._seat.close()
        if self._close_units is not None:
            self._close_units()
        super().close()

    def _own_seat(self) -> Seat:
        if self._seat is None:
            raise ConfigError(f"manager {self.id!r} has no initiator port of its own")
        return self._seat


class Seat(PRManager):
    """One initiator port's place at a file-lock manager.

    Args:
        manager: The manager.
        port: The initiator port.
        shares: Bounds of its look-ups beside the manager's own, see `Lookups.begin`.
    """

    kind: ClassVar[str] = FileLockManager.kind

    def __init__(
        self,
        manager: FileLockManager,
        port: InitiatorPort,
        *,
        shares: Mapping[Hashable, int] | None = None,
    ) -> None:
        super().__init__(manager.id)
        self._bounds: dict[Hashable, int] = {"all": MAX_LOOKUPS, **(shares or {})}
        self._manager = manager
        self.nexus = Nexus(port, manager.target_port)
        self._attended: set[str] = set()
        self._attended_lock = threading.Lock()
        self._closed = False
        self._where = "-"
        self._local: bool | None = None
        self._looking = False
        self._unmatched: tuple[str, ...] | None = None

    @property
    def where(self) -> str:
        """The logical unit of the command executed last."""
        return self._where

    def run(self, fd: int, cdb: bytes, data_out: bytes = b"") -> Result:
        """Execute one command and wait, in bounded time."""
        return settle(self.execute(fd, cdb, data_out), cdb, self._manager.timeout + GRACE)

    def execute(self, fd: int, cdb: bytes, data_out: bytes = b"") -> Future[Result]:
        """Execute one command; never blocks, the descriptor may be closed at once.

        The future can be cancelled until the logical unit has the command.
        """
        opcode = cdb[0] if cdb else None
        if opcode == Opcode.PERSISTENT_RESERVE_OUT and not writable(fd):
            refused: Future[Result] = Future()
            refused.set_result(Result.check(senses.INVALID_OPCODE))
            return refused
        if self._manager.lun is not None:
            return self._submit(self._manager.lun, cdb, data_out)
        future: Future[Result] = Future()
        self._look_up(future, fd, cdb, data_out)
        return future

    def execute_for(
        self, fd: int, cdb: bytes, data_out: bytes, asker: Asker
    ) -> Future[Result] | None:
        """See `PRManager.execute_for`."""
        manager = self._manager
        lun, units = manager.lun, manager.calling
        if lun is None or units is None or not (cdb[0] == _IN or writable(fd)):
            return self.execute(fd, cdb, data_out)
        self._where = lun
        try:
            self._attend(lun)
            asker.begins()
            units.submit_to(
                lun,
                self.nexus,
                cdb,
                data_out,
                answered=asker.answered,
                hush=asker.hush,
                door=manager.door,
                report_attentions=manager.report_attentions,
                long_parameter_length=manager.long_parameter_length,
            )
        except BaseException as error:  # noqa: BLE001, raised again by whoever waits
            return failed(error)
        return None

    @property
    def reads_blindly(self) -> bool:
        """See `PRManager.reads_blindly`."""
        return self._manager.quick is not None and self._manager.lun is not None

    def read_at_once(self, fd: int, cdb: bytes) -> Result | None:
        """See `PRManager.read_at_once`."""
        manager = self._manager
        if manager.quick is None:
            return None
        lun = manager.lun
        if lun is None:
            lun = manager.known.lun_of(fd) if self._local else None
        if lun is None or lun not in self._attended:
            return None
        self._where = lun
        self._looking = True
        try:
            return manager.quick.read_at_once(lun, self.nexus, cdb, manager.door)
        finally:
            self._looking = False

    def read_hangs(self) -> None:
        """See `PRManager.read_hangs`."""
        quick = self._manager.quick
        if quick is not None and self._looking:
            quick.looks_hang()

    def _look_up(self, future: Future[Result], fd: int, cdb: bytes, data_out: bytes) -> None:
        """Find the logical unit in another thread: a file's server may hang."""
        lookups = self._manager.lookups
        if not lookups.begin(self._bounds):
            _log.warning(
                "too many descriptors are being looked at; one more of %s is BUSY",
                self.nexus.initiator_port.text,
            )
            future.set_result(BUSY)
            return
        own = -1
        try:
            own = duplicate(fd)
            in_thread(lambda: self._find_and_submit(future, own, cdb, data_out), "look-up")
        except BaseException as error:
            if own >= 0:
                os.close(own)
            lookups.end(self._bounds)
            # RuntimeError: no thread could be started.
            if not isinstance(error, RuntimeError) and not _exhausted(error):
                raise
            _log.error("a descriptor cannot be looked at: %s", error)
            future.set_result(BUSY)

    def _find_and_submit(
        self, future: Future[Result], own: int, cdb: bytes, data_out: bytes
    ) -> None:
        answer: Callable[[], object] | None = None
        try:
            try:
                lun = self._find(own)
                answer = self._hand_over(future, own, lun, cdb, data_out)
            finally:
                # Before the answer: the next command may come at once. And after closing,
                # which can hang as well.
                try:
                    os.close(own)
                finally:
                    self._manager.lookups.end(self._bounds)
        except StoreError as error:
            _log.warning("cannot tell the logical unit: %s", error)
            complete(future, failure(error))
        except BaseException as error:  # noqa: BLE001, raised again by whoever waits
            if _exhausted(error):
                _log.error("a descriptor cannot be looked at: %s", error)
                complete(future, BUSY)
            elif answer is None and future.set_running_or_notify_cancel():
                future.set_exception(error)
        else:
            if answer is not None:
                pass
            elif lun is None:
                complete(future, Result.check(senses.LUN_NOT_SUPPORTED))
            elif future.set_running_or_notify_cancel():
                submitted = self._submit(lun, cdb, data_out)
                submitted.add_done_callback(lambda of: copy_result(of, future))
        if answer is not None:
            answer()

    def _find(self, descriptor: int) -> str | None:
        begun = time.monotonic()
        if not on_this_host(descriptor):
            # Once and for all: an answer at once begins with a look at the disk, and whoever
            # has one disk elsewhere may pass it again.
            self._local = False
            return self._looked_up(descriptor)
        mark = mark_of(descriptor)
        lun = self._looked_up(descriptor)
        if mark is not None and lun is not None and self._local is not False:
            self._local = True
            self._manager.known.note(mark, lun, begun)
        return lun

    def _looked_up(self, descriptor: int) -> str | None:
        device = self._manager.identify(descriptor)
        candidates = device.candidates
        for name in candidates:
            if name.lower() in self._manager.names:
                return self._manager.names[name.lower()]
        try:
            lun = self._manager.units.find_by_wwid(candidates) if candidates else None
        except OSError as error:
            if _exhausted(error):
                raise
            raise StoreUnavailable(f"the root cannot be listed: {error.strerror}") from error
        if lun is None and candidates != self._unmatched:
            self._unmatched = candidates
            self._tell_unmatched(device)
        return lun

    def _tell_unmatched(self, device: Device) -> None:
        known = ", ".join(device.candidates) or "it has no identity that other hosts share"
        _log.warning("no logical unit for a %s descriptor: %s", device.kind, known)

    def _hand_over(
        self, future: Future[Result], descriptor: int, lun: str | None, cdb: bytes, data_out: bytes
    ) -> Callable[[], object] | None:
        """Have somebody else answer a command, who knows the device.

        Args:
            future: Is answered, if it was not cancelled: then nobody else has the command.
            descriptor: The device; is closed afterwards.
            lun: The logical unit that it was found to be.
            cdb: The command.
            data_out: Its parameter list.

        Returns:
            What has the answer given, and is called when the look-up has ended; None: nobody does.
        """
        del future, descriptor, lun, cdb, data_out
        return None

    def _submit(self, lun: str, cdb: bytes, data_out: bytes) -> Future[Result]:
        """Hand a command to a logical unit; from now on it cannot be cancelled."""
        manager = self._manager
        self._where = lun
        try:
            self._attend(lun)
            inner = manager.units.submit(
                lun,
                self.nexus,
                cdb,
                data_out,
                door=manager.door,
                report_attentions=manager.report_attentions,
                long_parameter_length=manager.long_parameter_length,
            )
            if inner.running():
                return inner
        except BaseException as error:  # noqa: BLE001, raised again by whoever waits
            inner = failed(error)
        future: Future[Result] = Future()
        future.set_running_or_notify_cancel()
        inner.add_done_callback(lambda done: copy_result(done, future))
        return future

    def _attend(self, lun: str) -> None:
        """Attend at the logical unit from the first command on."""
        with self._attended_lock:
            if self._closed:
                raise Busy("the connection has ended")
            if lun in self._attended:
                return
            self._attended.add(lun)
            self._manager.attendance.enter(lun, self.nexus, self._manager.door)

    def close(self) -> None:
        """Leave every logical unit that was attended."""
        with self._attended_lock:
            self._closed = True
            attended, self._attended = self._attended, set()
        for lun in attended:
            self._manager.attendance.exit(lun, self.nexus, self._manager.door)
        super().close()


def _port(initiator: InitiatorPort | str | None) -> InitiatorPort | None:
    if not isinstance(initiator, str):
        return initiator
    try:
        return InitiatorPort.from_text(initiator)
    except ValueError as error:
        raise ConfigError(f"initiator {initiator!r}: {error}") from error


def _exhausted(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in EXHAUSTED
