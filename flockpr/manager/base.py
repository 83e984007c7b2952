"""What every manager is, and what managers and doors share."""

from __future__ import annotations

import abc
import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import ClassVar, Protocol, TypeVar

from flockpr.errors import StoreError
from flockpr.logical_unit import Result, failure
from flockpr.spc import sense as senses
from flockpr.spc.codes import Opcode, Status
from flockpr.spc.transport_id import InitiatorPort
from flockpr.units import Hush

_log = logging.getLogger("flockpr.manager")

_T = TypeVar("_T")

POOL_SIZE = 16


class Asker(Protocol):
    """Who waits for the answer to one command, without a thread."""

    def begins(self) -> None:
        """The descriptor is not needed any more, and `answered` may be called from now on. May be
        called once for each command; raises nothing.
        """

    def answered(self, result: Result) -> None:
        """The answer, in whatever thread; returns at once."""

    @property
    def hush(self) -> Hush | None:
        """Of whoever the answer wakes; see `Units.submit_to`."""


class PRManager(abc.ABC):
    """Executes reservation commands on the disk behind a descriptor.

    Attributes:
        id: The name it is looked up by.
        kind: The kind it was made as.
    """

    kind: ClassVar[str] = ""

    def __init__(self, id: str) -> None:  # noqa: A002
        self.id = id
        self._pool: ThreadPoolExecutor | None = None
        self._pool_lock = threading.Lock()

    @abc.abstractmethod
    def run(self, fd: int, cdb: bytes, data_out: bytes = b"") -> Result:
        """Execute one command.

        Args:
            fd: A descriptor of the disk; stays the caller's.
            cdb: The command.
            data_out: Its parameter list.

        Returns:
            Status, sense data and data for the initiator. A refusal is a result.

        Raises:
            OSError: The descriptor is bad.
        """

    def execute(self, fd: int, cdb: bytes, data_out: bytes = b"") -> Future[Result]:
        """Execute one command in another thread; the descriptor may be closed at once.

        The future can be cancelled until the command begins.
        """
        own = duplicate(fd)
        try:
            future = self._threads().submit(self.run, own, cdb, data_out)
        except BaseException:
            os.close(own)
            raise
        # Not in the thread: a command that is cancelled never gets one.
        future.add_done_callback(lambda _: os.close(own))
        return future

    def execute_for(
        self, fd: int, cdb: bytes, data_out: bytes, asker: Asker
    ) -> Future[Result] | None:
        """As `execute`, and where that can be done without a future, without one. The asker can
        then let go of the descriptor before the command wakes another thread: two threads that
        run at once wait for each other at every system call.

        Args:
            fd: A descriptor of the disk.
            cdb: The command.
            data_out: Its parameter list.
            asker: Whose it is.

        Returns:
            As `execute`; or None: the asker is called, or was.
        """
        del asker
        return self.execute(fd, cdb, data_out)

    @property
    def reads_blindly(self) -> bool:
        """Whether `read_at_once` needs no descriptor: one disk is behind all of them."""
        return False

    def read_at_once(self, fd: int, cdb: bytes) -> Result | None:
        """Answer a command that only reads if that takes no waiting.

        Args:
            fd: A descriptor of the disk; stays the caller's. -1 where `reads_blindly`.
            cdb: The command, 16 bytes.

        Returns:
            The result, whose status is GOOD; None, which says nothing, if `execute` has to be
            asked. Equal results of one state are one object.
        """
        del fd, cdb
        return None

    def read_hangs(self) -> None:  # noqa: B027, for those that answer nothing at once
        """Tell that `read_at_once`, which another thread has called, takes far too long."""

    def acting_for(self, port: InitiatorPort) -> contextlib.AbstractContextManager[PRManager]:
        """Return a manager that acts for that initiator port, for as long as it is entered.

        A door enters one per connection. Managers that cannot tell initiators apart, because
        the device decides by the path of a command, act for all with themselves.
        """
        del port
        return contextlib.nullcontext(self)

    @property
    def where(self) -> str:
        """What a log calls the logical unit of the command executed last."""
        return "-"

    def close(self) -> None:
        """Let go of what the manager holds; commands in execution are not waited for."""
        with self._pool_lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def _threads(self) -> ThreadPoolExecutor:
        with self._pool_lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(POOL_SIZE, f"manager-{self.id}")
            return self._pool


# What managers and doors share.


BUSY = Result(Status.BUSY)


def duplicate(fd: int) -> int:
    """Duplicate a descriptor, closed on exec.

    Raises:
        OSError: It is bad, or there is no room.
    """
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def in_thread(function: Callable[[], _T], name: str) -> Future[_T]:
    """Call a function that may never return in a thread of its own.

    The thread is a daemon: the process can end while it hangs in a system call. A pool
    would be joined at exit, and would run out of threads.
    """
    future: Future[_T] = Future()

    def call() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001, raised again by whoever waits
            future.set_exception(error)
        else:
            future.set_result(result)

    future.set_running_or_notify_cancel()
    threading.Thread(target=call, name=name, daemon=True).start()
    return future


def settle(future: Future[Result], cdb: bytes, timeout: float) -> Result:
    """Wait for a command in bounded time.

    Args:
        future: The command.
        cdb: Decides what is said when it does not end in time.
        timeout: Seconds.

    Returns:
        Its result. If it has not ended by then: BUSY when it had not begun, which it then
        never does, or cannot have changed anything; else ABORTED COMMAND, outcome unknown.

    Raises:
        Exception: Whatever the command raised.
    """
    try:
        return future.result(timeout)
    except CancelledError:
        return BUSY
    except TimeoutError:
        if future.done():
            raise
    if future.cancel():
        return BUSY
    if future.done():
        return future.result()
    return unsettled(cdb)


def failed(error: BaseException) -> Future[Result]:
    """The end of a command that could not be handed to a logical unit."""
    future: Future[Result] = Future()
    if isinstance(error, StoreError):
        _log.warning("%s", error)
        future.set_result(failure(error))
    else:
        future.set_exception(error)
    return future


def unsettled(cdb: bytes) -> Result:
    """What is said of a command that does not end in time, and may have an effect still."""
    if cdb[:1] == bytes((Opcode.PERSISTENT_RESERVE_IN,)):
        return BUSY
    return Result.check(senses.OUTCOME_UNKNOWN)


def complete(future: Future[Result], result: Result) -> None:
    """Answer a future that was not begun, unless it was cancelled."""
    if future.set_running_or_notify_cancel():
        future.set_result(result)


def copy_result(done: Future[Result], future: Future[Result]) -> None:
    """Answer `future`, which runs, as `done` was."""
    if done.cancelled():
        future.set_result(BUSY)
        return
    error = done.exception()
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())
