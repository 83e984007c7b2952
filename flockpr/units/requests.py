"""What is asked of a logical unit: waiting, then issued or withdrawn, then answered once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from flockpr.core.model import Nexus
from flockpr.errors import Busy, OutcomeUnknown, StoreError
from flockpr.logical_unit import LogicalUnit, Narrowing, Order, Result, failure
from flockpr.spc.cdb import parse_command
from flockpr.spc.codes import Status
from flockpr.spc.sense import INTERNAL_TARGET_FAILURE
from flockpr.units.hush import Hush

log = logging.getLogger(__name__)

T = TypeVar("T")


class Request(Generic[T]):
    """One thing that is asked for.

    Args:
        deadline: When it is to be answered, by `time.monotonic`.
    """

    nexus: Nexus | None = None
    """Who asks, if it is a nexus."""
    hush: Hush | None = None
    """Of whoever the answer may wake, if that is known."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._lock = threading.Lock()
        self._issued = False
        self._over = False

    def may_issue(self) -> bool:
        """The store asks: from True on, it cannot be withdrawn."""
        with self._lock:
            self._issued = not self._over
            return self._issued

    def expire(self, name: str) -> None:
        """Its time is over: answer with what is true at this moment."""
        with self._lock:
            if self._over:
                return
            self._over = True
            issued = self._issued
        if issued:
            log.error("%s: outcome unknown: a commit is still under way after its time", name)
            self._refuse(OutcomeUnknown("still under way"))
        else:
            self._refuse(Busy("not in time"))

    def withdraw(self) -> None:
        """Answer BUSY and never do it, unless it may have been done already."""
        with self._lock:
            if self._over or self._issued:
                return
            self._over = True
        self._refuse(Busy("withdrawn"))

    def finish(self, value: T) -> None:
        """Answer it, unless that was done."""
        if self._first():
            self._give(value)

    def refuse(self, error: StoreError) -> None:
        """Answer it with a failure, unless it was answered."""
        if self._first():
            self._refuse(error)

    def crowd_out(self) -> None:
        """Answer it: too many wait already."""
        self.refuse(Busy("too many commands wait"))

    def fail(self) -> None:
        """Answer it, unless that was done: something went wrong that cannot."""
        self.refuse(StoreError("internal error"))

    @property
    def over(self) -> bool:
        """Whether it has been answered."""
        return self._over

    @property
    def may_act(self) -> bool:
        """Whether something may still come of it: it is not answered, or was begun before."""
        with self._lock:
            return self._issued or not self._over

    def _first(self) -> bool:
        """Whether the caller is the one who answers."""
        with self._lock:
            over, self._over = self._over, True
        return not over

    def work(self, unit: LogicalUnit) -> T | Narrowing:
        """Carry it out."""
        raise NotImplementedError

    def _give(self, value: T) -> None:
        raise NotImplementedError

    def _refuse(self, error: StoreError) -> None:
        raise NotImplementedError


class Question(Request[T]):
    """What is asked for beside commands; its future is what comes of it.

    Args:
        work: Carries it out.
        deadline: When it is to be answered, by `time.monotonic`.
    """

    def __init__(self, work: Callable[[LogicalUnit], T | Narrowing], deadline: float) -> None:
        super().__init__(deadline)
        self._work = work
        self.future: Future[T] = running()

    def work(self, unit: LogicalUnit) -> T | Narrowing:
        """Carry it out."""
        return self._work(unit)

    def _give(self, value: T) -> None:
        self.future.set_result(value)

    def _refuse(self, error: StoreError) -> None:
        self.future.set_exception(error)


class Command(Request[Result]):
    """A SCSI command: whatever becomes of it is a result.

    Args:
        nexus: Who sends it.
        cdb: The command descriptor block.
        data_out: Its parameter list.
        deadline: When it is to be answered, by `time.monotonic`.
        answered: Called once, with the result, in whichever thread it ends. Not a future: to make
            one takes a sixth of what it takes to decide the command.
        hush: Of whoever that may wake.
        report_attentions: See `LogicalUnit.execute`.
        long_parameter_length: See `LogicalUnit.execute`.
    """

    def __init__(
        self,
        nexus: Nexus,
        cdb: bytes,
        data_out: bytes,
        deadline: float,
        *,
        answered: Callable[[Result], object],
        hush: Hush | None,
        report_attentions: bool,
        long_parameter_length: bool,
    ) -> None:
        super().__init__(deadline)
        self.nexus: Nexus = nexus
        self.hush = hush
        self._answered = answered
        self._cdb = cdb
        self._data_out = data_out
        self._report = report_attentions
        self._long = long_parameter_length

    def order(self) -> Order:
        """It, for `LogicalUnit.attempt_all`."""
        command = parse_command(self._cdb, self._data_out, long_parameter_length=self._long)
        return Order(
            self.nexus, command, self._report, self.deadline, self.may_issue, self.withdrawn
        )

    def withdrawn(self) -> bool:
        """As `over`."""
        return self._over

    def work(self, unit: LogicalUnit) -> Result | Narrowing:
        """Carry it out alone."""
        return unit.attempt_all([self.order()])[0]

    def crowd_out(self) -> None:
        """TASK SET FULL."""
        self.finish(Result(Status.TASK_SET_FULL))

    def fail(self) -> None:
        """INTERNAL TARGET FAILURE."""
        self.finish(Result.check(INTERNAL_TARGET_FAILURE))

    def _give(self, value: Result) -> None:
        try:
            self._answered(value)
        except Exception:
            # Who asked is not to stop the thread that answers all others.
            log.exception("internal error")

    def _refuse(self, error: StoreError) -> None:
        self._give(failure(error))


AnyRequest = Request[Any]


def running() -> Future[Any]:
    """A future that nobody can cancel, since what it stands for may be issued."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future
