"""What tests of the desk have in common: units that answer at once, and clients that sit down."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from flockpr.logical_unit import Result
from flockpr.manager.file_lock import FileLockManager
from flockpr.spc.codes import Status
from flockpr.units import Units
from tests.support.helper import MemoryUnits, RawClient, Served, eventually
from tests.support.scsi import in_cdb, out_cdb

READ_KEYS = in_cdb(0)
REGISTER_IGNORE = out_cdb(6)


class Gate:
    """Where a system call hangs until it is opened."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def wait(self) -> None:
        """Hang; not again when it was opened."""
        os.read(self._read, 1)

    def set(self) -> None:
        """Open it. Idempotent."""
        if self._write >= 0:
            os.close(self._write)
            self._write = -1

    def close(self) -> None:
        """Nobody comes any more."""
        self.set()
        os.close(self._read)


class Readers(MemoryUnits):
    """Units that answer reads at once, and may hang in it.

    Attributes:
        at_once: How many were answered so.
        hanging: Logical units of which a look hangs.
        gate: Ends that.
        stuck: Set when one does.
        told: How often it was told that one does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.at_once = 0
        self.hanging: set[str] = set()
        self.gate = Gate()
        self.stuck = threading.Event()
        self.told = 0

    def read_at_once(self, lun: str, of: object, cdb: bytes, door: str) -> Result | None:
        """An empty list of keys."""
        del of, door
        if lun in self.hanging:
            self.stuck.set()
            self.gate.wait()
        if cdb[1]:
            return None
        self.at_once += 1
        return Result(Status.GOOD, data_in=bytes(8))

    def looks_hang(self) -> None:
        """Note it."""
        self.told += 1


def at(units: Readers, lun: str | None = "disk") -> Callable[[MemoryUnits], FileLockManager]:
    """Makes a manager for them."""
    return lambda _: manager(units, lun)


def manager(units: Readers | Units, lun: str | None) -> FileLockManager:
    """As the helper door makes it."""
    return FileLockManager(
        "helper",
        units=units,
        lun=lun,
        door="helper",
        report_attentions=False,
        long_parameter_length=False,
    )


def image(descriptor: int) -> str:
    """Path of an open file."""
    return os.readlink(f"/proc/self/fd/{descriptor}")


def sitting(served: Served) -> int:
    """How many connections have no thread."""
    return len(served.server.seating.desk._sitting)


def sit(served: Served, client: RawClient, descriptor: int, others: int = 0) -> None:
    """A first command, after which the connection sits down."""
    assert client.run(descriptor, READ_KEYS)[0] == Status.GOOD
    eventually(lambda: sitting(served) == others + 1, "it does not sit down")
