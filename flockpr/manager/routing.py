"""The manager that emulates what is a logical unit of the root, and passes on every other disk.

One disk must never be both: a guest on a host that emulates it and one on a host that passes it on
would each hold it for itself. So a disk is passed on only where it is certain that no logical unit
of the root claims it, or where one says that it is to be passed on. Whoever shares the root sees
the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import ClassVar, Protocol

from flockpr.errors import Emulated
from flockpr.logical_unit import Result
from flockpr.manager.attendance import UnitsLike
from flockpr.manager.base import PRManager, copy_result
from flockpr.manager.device import Device, disk_node, identify_device, names_below, number_text
from flockpr.manager.file_lock import FileLockManager, Seat
from flockpr.manager.passing import PassingManager, name_of
from flockpr.spc.transport_id import InitiatorPort

_log = logging.getLogger("flockpr.manager")


class RootUnits(UnitsLike, Protocol):
    """Units of a root whose claims on devices are known."""

    def passes(self, lun: str) -> bool:
        """Whether a logical unit that `find_by_wwid` has named is marked as passed through."""

    def check_free(self, wwids: Iterable[str], *, named: bool = True) -> None:
        """Raise `StoreError` unless it is certain that no logical unit has one of these
        identifiers; see `flockpr.units.Units`.
        """


class Claims:
    """What the logical units of a root say about devices.

    Args:
        units: The logical units.
        wwids: Further wwids by which devices of this host show a logical unit, by its name.
        named: Somebody named the root: where nothing is in it, its share is not mounted.
        identify: Finds the names of a descriptor's disk.
        below: Finds those of the disks that it lies on.
    """

    def __init__(
        self,
        units: RootUnits,
        wwids: Mapping[str, Iterable[str]] | None = None,
        *,
        named: bool = True,
        identify: Callable[[int], Device] = identify_device,
        below: Callable[[int], tuple[str, ...]] = names_below,
    ) -> None:
        self._units = units
        self._named = named
        self._below = below
        self._names = {name.lower(): lun for lun, many in (wwids or {}).items() for name in many}
        self._identify = identify

    def check(self, descriptor: int) -> None:
        """See that the disk of a descriptor is emulated by nobody who shares the root.

        Raises:
            StoreError: It may be.
        """
        self._check(self._identify(descriptor).candidates)
        self.check_below(descriptor)

    def check_below(self, descriptor: int) -> None:
        """The same of the disks that a map of the device mapper lies on.

        Raises:
            StoreError: One of them may be emulated.
        """
        for name in self._below(descriptor):
            self._check((name,))

    def _check(self, candidates: tuple[str, ...]) -> None:
        lun = next(
            (self._names[name.lower()] for name in candidates if name.lower() in self._names), None
        )
        lun = lun or (self._units.find_by_wwid(candidates) if candidates else None)
        if lun is None:
            self._units.check_free(candidates, named=self._named)
        elif not self._units.passes(lun):
            raise Emulated(
                f"{candidates[0]} is the logical unit {lun}, which is emulated",
                "",
                "serve it with manager = auto or file-lock",
            )


class AutoManager(FileLockManager):
    """Emulates the logical units of a root, and hands commands for other disks on.

    Args:
        id: Of the manager.
        units: The logical units.
        passing: By kind, the managers that commands are handed to.
        chosen: By identifier of a device, the kind of manager for it; else by what it is.
        below: Finds the names of the disks that a device lies on.
        options: As for `FileLockManager`.
    """

    kind: ClassVar[str] = "auto"

    def __init__(
        self,
        id: str,  # noqa: A002
        *,
        units: RootUnits,
        passing: Mapping[str, PassingManager],
        chosen: Mapping[str, str] | None = None,
        below: Callable[[int], tuple[str, ...]] = names_below,
        **options: object,
    ) -> None:
        self.passing = passing
        self.chosen = {name.lower(): kind for name, kind in (chosen or {}).items()}
        self.root_units = units
        super().__init__(id, units=units, **options)  # type: ignore[arg-type]
        wwids: dict[str, list[str]] = {}
        for name, lun in self.names.items():
            wwids.setdefault(lun, []).append(name)
        self.claims = Claims(units, wwids, below=below)

    @contextlib.contextmanager
    def acting_for(self, port: InitiatorPort) -> Iterator[PRManager]:
        """See `FileLockManager.acting_for`."""
        with super().acting_for(port) as seat, contextlib.ExitStack() as stack:
            assert isinstance(seat, AutoSeat)
            seat.passing = {
                kind: stack.enter_context(manager.acting_for(port))
                for kind, manager in self.passing.items()
            }
            yield seat

    def _seat_for(self, port: InitiatorPort, shares: Mapping[Hashable, int]) -> Seat:
        return AutoSeat(self, port, shares=shares)


class AutoSeat(Seat):
    """One initiator port's place at a manager that chooses."""

    def __init__(
        self, manager: AutoManager, port: InitiatorPort, *, shares: Mapping[Hashable, int]
    ) -> None:
        super().__init__(manager, port, shares=shares)
        self._auto = manager
        self.passing: Mapping[str, PRManager] = manager.passing
        self._told: str | None = None

    def _hand_over(
        self, future: Future[Result], descriptor: int, lun: str | None, cdb: bytes, data_out: bytes
    ) -> Callable[[], object] | None:
        """See `Seat._hand_over`."""
        units = self._auto.root_units
        if lun is not None and not units.passes(lun):
            return None
        candidates = self._auto.identify(descriptor).candidates
        if lun is None:
            if not candidates:
                raise Emulated("it has no identity that other hosts share, so it may be any LUN")
            units.check_free(candidates)
        self._auto.claims.check_below(descriptor)
        found = os.fstat(descriptor)
        kind, name = self._kind(found, candidates), name_of(found)
        manager = self.passing.get(kind)
        what = "no logical unit" if lun is None else f"marked as passed through by {lun}"
        self._tell(
            f"{name}: {what}, and {kind}: refused"
            if manager is None
            else f"{name}: {what}, so passed on by {kind}"
        )
        if manager is None:
            return None
        self._where = name
        # Not before: who cancels it says that nothing was done.
        if not future.set_running_or_notify_cancel():
            return lambda: None
        passed = _begun(manager, descriptor, cdb, data_out)
        return lambda: passed.add_done_callback(lambda of: copy_result(of, future))

    def _kind(self, found: os.stat_result, candidates: Iterable[str]) -> str:
        chosen = self._auto.chosen
        named = next((chosen[name.lower()] for name in candidates if name.lower() in chosen), None)
        return named or kind_of(found)

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            _log.warning("%s", text)

    def _tell_unmatched(self, device: Device) -> None:
        """What becomes of it is told by `_hand_over`."""


def _begun(manager: PRManager, descriptor: int, cdb: bytes, data_out: bytes) -> Future[Result]:
    """The command, with its failure to begin as its end."""
    try:
        return manager.execute(descriptor, cdb, data_out)
    except BaseException as error:  # noqa: BLE001, raised again by whoever waits
        failed: Future[Result] = Future()
        failed.set_exception(error)
        return failed


def kind_of(found: os.stat_result, sysfs: str = "/sys") -> str:
    """The kind of manager that passes on to a device; or why there is none.

    Args:
        found: What fstat says of its descriptor.
        sysfs: Where sysfs is.
    """
    if stat.S_ISCHR(found.st_mode):
        node = f"{sysfs}/dev/char/{number_text(found.st_rdev)}"
        return "sgio" if os.path.exists(f"{node}/device/scsi_level") else "no SCSI device"
    if not stat.S_ISBLK(found.st_mode):
        return "no device"
    if os.path.exists(f"{disk_node(found.st_rdev, sysfs)}/device/scsi_level"):
        return "sgio"
    return "a device that commands cannot be passed on to"
