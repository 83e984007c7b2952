"""What managers have in common that hand commands on to a device.

A call into the kernel may hang for minutes, with a disk whose paths are gone: so each command has
a thread of its own, and nobody else waits for it. How many threads there may be is bounded three
ways, so that neither a client nor a device can use them up: a device that hangs has a share of
them, a client has a share, and with one device a connection has one.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import os
import stat
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import Future
from typing import ClassVar

from flockpr.errors import StoreError
from flockpr.logical_unit import Result, failure
from flockpr.manager.base import BUSY, PRManager, duplicate, in_thread, settle
from flockpr.manager.device import EXHAUSTED, number_text, writable
from flockpr.manager.lookups import Lookups
from flockpr.spc import sense as senses
from flockpr.spc.codes import Opcode
from flockpr.spc.transport_id import InitiatorPort

_log = logging.getLogger("flockpr.manager")

MAX_COMMANDS = 256
"""Commands that devices have at a time; more are BUSY. Each is a thread."""
DEVICE_COMMANDS = 32
"""The same for one device: one that hangs must not use up what the others need."""
PORT_COMMANDS = 16
"""The same for one initiator port: whoever connects anew gets no new share."""
SEAT_COMMANDS = 1
"""The same for one connection and device, which sends one command after the other: a second one
means that the first was given up and still hangs."""

_PASSED = frozenset((Opcode.PERSISTENT_RESERVE_IN, Opcode.PERSISTENT_RESERVE_OUT))


class PassingManager(PRManager):
    """Hands commands on to the device of the descriptor.

    The device knows this host by the path of a command, so all initiator ports are one to it.

    Args:
        id: Of the manager.
        timeout: Seconds after which `run` does not wait any longer.
        check: Sees that the device of a descriptor is emulated by nobody; raises `StoreError` if
            it may be. May hang.
    """

    kind: ClassVar[str] = ""

    def __init__(
        self,
        id: str,  # noqa: A002
        *,
        timeout: float = 15.0,
        check: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(id)
        self.timeout = timeout
        self.check = check
        self.commands = Lookups()
        self._seat = Seat(self, {})

    @abc.abstractmethod
    def perform(self, fd: int, cdb: bytes, data_out: bytes) -> Result:
        """Carry out one command; may hang.

        Args:
            fd: A descriptor of any kind, that of PERSISTENT RESERVE OUT open for writing.
            cdb: A command of PERSISTENT RESERVE IN or OUT, 10 to 16 bytes.
            data_out: Its parameter list.

        Raises:
            OSError: The descriptor is bad.
        """

    def run(self, fd: int, cdb: bytes, data_out: bytes = b"") -> Result:
        """Execute one command and wait, in bounded time."""
        return settle(self.execute(fd, cdb, data_out), cdb, self.timeout)

    def execute(self, fd: int, cdb: bytes, data_out: bytes = b"") -> Future[Result]:
        """Execute one command; never blocks, the descriptor may be closed at once."""
        return self._seat.execute(fd, cdb, data_out)

    @contextlib.contextmanager
    def acting_for(self, port: InitiatorPort) -> Iterator[PRManager]:
        """Return a manager whose commands count as that port's while entered."""
        yield Seat(self, {port: PORT_COMMANDS})

    @property
    def where(self) -> str:
        """The device of the command executed last."""
        return self._seat.where


class Seat(PRManager):
    """One connection's place at a manager that passes on.

    Args:
        manager: The manager.
        shares: Bounds of its commands beside the manager's own, see `Lookups.begin`.
    """

    def __init__(self, manager: PassingManager, shares: Mapping[Hashable, int]) -> None:
        super().__init__(manager.id)
        self._manager = manager
        self._bounds: dict[Hashable, int] = {"all": MAX_COMMANDS, **shares}
        self._single = bool(shares)
        self._where = "-"

    @property
    def where(self) -> str:
        """The device of the command executed last."""
        return self._where

    def run(self, fd: int, cdb: bytes, data_out: bytes = b"") -> Result:
        """Execute one command and wait, in bounded time."""
        return settle(self.execute(fd, cdb, data_out), cdb, self._manager.timeout)

    def execute(self, fd: int, cdb: bytes, data_out: bytes = b"") -> Future[Result]:
        """Execute one command; never blocks, the descriptor may be closed at once."""
        if len(cdb) < 10 or cdb[0] not in _PASSED:
            return _done(Result.check(senses.INVALID_OPCODE))
        if cdb[0] == Opcode.PERSISTENT_RESERVE_OUT and not writable(fd):
            return _done(Result.check(senses.INVALID_OPCODE))
        commands, bounds = self._manager.commands, self._bounds
        if not commands.begin(bounds):
            _log.warning("too many commands wait for devices; one more is BUSY")
            return _done(BUSY)
        own = -1
        try:
            own = duplicate(fd)
            return in_thread(lambda: self._perform(own, cdb, data_out), "pass")
        except BaseException as error:
            if own >= 0:
                os.close(own)
            commands.end(bounds)
            # RuntimeError: no thread could be started.
            exhausted = isinstance(error, OSError) and error.errno in EXHAUSTED
            if not exhausted and not isinstance(error, RuntimeError):
                raise
            _log.error("a command cannot be passed on: %s", error)
            return _done(BUSY)

    def _perform(self, own: int, cdb: bytes, data_out: bytes) -> Result:
        commands = self._manager.commands
        try:
            try:
                return self._perform_bounded(own, cdb, data_out)
            finally:
                os.close(own)
        finally:
            # Before the answer: the next command may come at once. And after closing, which can
            # hang as well.
            commands.end(self._bounds)

    def _perform_bounded(self, own: int, cdb: bytes, data_out: bytes) -> Result:
        """In the thread of the command: to ask for the number of a device may hang, too."""
        found = os.fstat(own)
        number = found.st_rdev
        self._where = name_of(found)
        bounds: dict[Hashable, int] = {("device", number): DEVICE_COMMANDS}
        if self._single:
            bounds[self, number] = SEAT_COMMANDS
        if not self._manager.commands.begin(bounds):
            _log.warning("%s: too many commands wait for it; one more is BUSY", self._where)
            return BUSY
        try:
            if self._manager.check is not None:
                self._manager.check(own)
            return self._manager.perform(own, cdb, data_out)
        except StoreError as error:
            _log.error("%s: not passed on: %s", self._where, error)
            return failure(error)
        finally:
            self._manager.commands.end(bounds)


def name_of(found: os.stat_result, sysfs: str = "/sys") -> str:
    """What the kernel calls a device, for the log: `sdb`; `8:16` if it says nothing.

    Args:
        found: What fstat says of its descriptor.
        sysfs: Where sysfs is.
    """
    text = number_text(found.st_rdev)
    kind = "block" if stat.S_ISBLK(found.st_mode) else "char"
    try:
        return os.path.basename(os.readlink(f"{sysfs}/dev/{kind}/{text}"))
    except OSError:
        return text


def _done(result: Result) -> Future[Result]:
    future: Future[Result] = Future()
    future.set_result(result)
    return future
