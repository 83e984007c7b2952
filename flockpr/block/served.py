"""The state that is served: a copy of the shared one, never older than it may be.

Narrowing commands are no danger to it: they take the permit from this process first, and
with the permit the copy (`drop`). So its age only bounds how long a *unit attention* or a
*widening* that another host committed goes unseen.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Protocol

import attrs

from flockpr.block.quiet import QuietLog
from flockpr.core.model import LogicalUnitState, Nexus
from flockpr.errors import Busy, StoreError
from flockpr.logical_unit import Result, ServedState

log = logging.getLogger(__name__)

MAX_AGE: Final = 1.0
"""Seconds after which a copy is no longer believed."""
REFRESH: Final = 0.4
"""Seconds between two readings while a session is attached."""
LOOK_EVERY: Final = 2
"""Readings for each look at what else may have changed."""


class UnitsLike(Protocol):
    """What a disk needs of `flockpr.units.Units`."""

    def submit(
        self,
        lun: str,
        nexus: Nexus,
        cdb: bytes,
        data_out: bytes = b"",
        *,
        door: str = "api",
        report_attentions: bool = True,
        long_parameter_length: bool = True,
    ) -> Future[Result]:
        """Queue one command."""

    def read_at_once(
        self,
        lun: str,
        nexus: Nexus,
        cdb: bytes,
        door: str = "api",
        *,
        report_attentions: bool = False,
        looks: bool = True,
    ) -> Result | None:
        """The answer to a command that only reads, if nobody has to be waited for."""

    def state(self, lun: str, door: str = "api") -> Future[ServedState]:
        """Ask for the newest state."""

    def reset(self, lun: str, door: str = "api") -> Future[None]:
        """Commit a logical unit reset."""

    def attend(self, lun: str, nexus: Nexus, door: str = "api") -> None:
        """A nexus is connected."""

    def leave(self, lun: str, nexus: Nexus, door: str = "api") -> None:
        """A nexus is gone."""


@attrs.frozen
class Copy:
    """A state as it was read.

    Attributes:
        state: The state; the same object as before while nothing was committed.
        at: Monotonic time at which reading it began.
    """

    state: LogicalUnitState
    at: float


class Served:
    """The copy of one LUN's state. Thread-safe.

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
        self._copy: Copy | None = None
        self._dropped = 0

    def current(self) -> LogicalUnitState | None:
        """The state to decide by, or None when it has to be read first."""
        copy = self._copy
        if copy is None or time.monotonic() - copy.at > MAX_AGE:
            return None
        return copy.state

    def drop(self) -> None:
        """Nothing that was read, or is being read now, is believed any more."""
        with self._lock:
            self._dropped += 1
            self._copy = None

    def read(self, deadline: float) -> LogicalUnitState:
        """Read the state now and serve it from now on.

        Args:
            deadline: Monotonic time.

        Returns:
            What was read, also if it must not be served because it was dropped meanwhile.

        Raises:
            StoreError: It cannot be read; Busy: not before the deadline.
        """
        with self._lock:
            dropped = self._dropped
        at = time.monotonic()
        future = self._units.state(self._lun, self._door)
        try:
            found = future.result(timeout=max(0.0, deadline - at))
        except TimeoutError:
            raise Busy("the state was not read in time", self._lun) from None
        with self._lock:
            copy = self._copy
            if self._dropped == dropped and (copy is None or copy.at <= at):
                self._copy = Copy(found.state, at)
        return found.state

    def glance(self, nexus: Nexus, cdb: bytes, *, looks: bool = True) -> Result | None:
        """The logical unit's answer to a command that reads, if it is GOOD and can be had by a
        look at the newest transaction; None: `submit` has it.

        Args:
            nexus: Who asks.
            cdb: The command.
            looks: See `LogicalUnit.read_at_once`.
        """
        return self._units.read_at_once(
            self._lun, nexus, cdb, self._door, report_attentions=True, looks=looks
        )

    def submit(
        self,
        nexus: Nexus,
        cdb: bytes,
        data: bytes,
        deadline: float,
        *,
        late: Callable[[Result], None],
    ) -> Result | None:
        """Ask the logical unit; it reports attentions.

        Args:
            nexus: Who asks.
            cdb: The command.
            data: Its data-out.
            deadline: Monotonic time.
            late: Called with an answer that came too late.

        Returns:
            Its answer; None when there was none in time, which says nothing of the outcome.
        """
        future = self._units.submit(
            self._lun, nexus, cdb, data, door=self._door, report_attentions=True
        )
        try:
            # It answers within its own time; a little more, so that its answer is preferred.
            return future.result(timeout=max(0.0, deadline - time.monotonic()) + 1.0)
        except TimeoutError:
            future.add_done_callback(lambda done: late(done.result()))
            return None

    def reset(self, deadline: float) -> None:
        """Commit a logical unit reset.

        Raises:
            StoreError: It was not done; Busy: not before the deadline.
        """
        future = self._units.reset(self._lun, self._door)
        try:
            future.result(timeout=max(0.0, deadline - time.monotonic()) + 1.0)
        except TimeoutError:
            raise Busy("the reset was not done in time", self._lun) from None


class Refresher:
    """A thread that keeps the copy young while sessions are attached.

    Args:
        served: The copy.
        look: Called now and then, for what else has to be looked at; its OSErrors are ignored.
        name: Of the LUN.
    """

    def __init__(self, served: Served, look: Callable[[], None], name: str) -> None:
        self._served = served
        self._look = look
        self._name = name
        self._lock = threading.Lock()
        self._attached = 0
        self._running = False
        self._log = QuietLog(log)

    def attend(self) -> None:
        """One session more."""
        with self._lock:
            self._attached += 1
        self.ensure()

    def ensure(self) -> None:
        """Have a thread, if there are sessions; one that could not be started is tried again."""
        if self._running:
            return
        with self._lock:
            # At most one thread, also when one hangs in a system call while sessions come
            # and go.
            if self._running or not self._attached:
                return
            name = f"refresh-{self._name}"
            try:
                threading.Thread(target=self._run, name=name, daemon=True).start()
            except RuntimeError as error:
                # No session has to fail for that: a copy that nobody keeps young is not
                # believed, and who finds it too old comes by here.
                self._log.error("thread", "%s: its state is not kept young: %s", name, error)
                return
            self._running = True

    def rest(self) -> None:
        """One session fewer; without any the thread ends by itself."""
        with self._lock:
            self._attached -= 1

    def _over(self) -> bool:
        with self._lock:
            self._running = self._attached > 0
            return not self._running

    def _run(self) -> None:
        failed = False
        ticks = 0
        while True:
            time.sleep(REFRESH)
            if self._over():
                return
            ticks += 1
            try:
                self._served.read(time.monotonic() + MAX_AGE)
                failed = False
            except StoreError as error:
                # The copy grows too old by itself, and commands then say what is wrong.
                if not failed:
                    log.warning("%s: %s", self._name, error)
                failed = True
            except Exception:
                log.exception("%s: internal error", self._name)
            if ticks % LOOK_EVERY == 0:
                with contextlib.suppress(OSError):
                    self._look()
