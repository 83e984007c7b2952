"""The logical units of one root, each with a thread of its own.

A file server that hangs blocks a system call for as long as it likes. So everything that
touches a lock directory happens on that LUN's own worker thread, and whoever waits for an
answer waits a bounded time: a command that has not begun to commit is then withdrawn and
answered BUSY; one that has cannot be withdrawn and is answered ABORTED COMMAND, outcome
unknown, and the commands behind it wait for that outcome.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from flockpr.core.model import Nexus
from flockpr.device_index import DeviceIndex
from flockpr.errors import OutcomeUnknown, StoreError
from flockpr.logical_unit import LogicalUnit, Result, failure
from flockpr.spc.codes import Status
from flockpr.spc.sense import INTERNAL_TARGET_FAILURE
from flockpr.store.identity import check_label, check_lun_name
from flockpr.store.lockdir import LockDirectory

log = logging.getLogger(__name__)

MAX_QUEUED = 1024
"""Commands that may wait for one LUN; more are answered TASK SET FULL."""
REAP_INTERVAL = 0.1
"""Seconds between two looks for commands whose time is over."""
REOPEN_AFTER = 1.0
"""Seconds before a LUN that could not be opened is tried again."""
TIDY_AFTER = 1.0
"""Seconds of unbroken load after which publishing and pruning are done all the same."""
IDLE_TIDY = 30.0
"""Seconds without a command after which lost locks and a stale view are looked for."""


class _Request:
    """One command on its way: waiting, then issued or withdrawn, then answered once."""

    def __init__(self, work: Callable[[_Request, LogicalUnit], Result], deadline: float) -> None:
        self.work = work
        self.deadline = deadline
        self.future: Future[Result] = Future()
        self.future.set_running_or_notify_cancel()  # nobody can cancel what may be issued
        self._lock = threading.Lock()
        self._issued = False
        self._over = False

    def may_issue(self) -> bool:
        """The store asks: from True on, the command cannot be withdrawn."""
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
            self.future.set_result(failure(OutcomeUnknown("still under way")))
        else:
            self.future.set_result(Result(Status.BUSY))

    def finish(self, result: Result) -> None:
        """Answer it, unless that was done."""
        with self._lock:
            if self._over:
                return
            self._over = True
        self.future.set_result(result)

    @property
    def over(self) -> bool:
        """Whether it has been answered."""
        return self._over


class _Wish:
    """What a door said last of a nexus, and the LUN has not been told.

    One for each nexus, however often it comes and goes while the LUN hangs.

    Attributes:
        after: Of the commands of this LUN, how many come first: those that were queued when
            a leave was said may be its own.
        left: It left, and may have come back: what ends with a nexus must end all the same.
        present: It is connected.
    """

    def __init__(self, after: int) -> None:
        self.after = after
        self.left = False
        self.present = False


class _Worker:
    """The thread of one LUN."""

    def __init__(self, path: str, door: str, host: str | None) -> None:
        self.name = os.path.basename(path)
        self._path = path
        self._door = door
        self._host = host
        self._queue: deque[_Request] = deque()
        self._wake = threading.Condition()
        self._current: _Request | None = None
        self._closing = False
        self._accepted = 0
        self._begun = 0
        self._wishes: dict[Nexus, _Wish] = {}
        self._unsaid: dict[Nexus, None] = {}
        self._unit: LogicalUnit | None = None
        self._failed: StoreError | None = None
        self._failed_at = 0.0
        self._told = ""
        self._tidied_at = 0.0
        self.thread = threading.Thread(target=self._run, name=f"lun-{self.name}", daemon=True)
        self.thread.start()

    def put(self, request: _Request) -> bool:
        """Queue a request; False if too many wait already."""
        with self._wake:
            if len(self._queue) >= MAX_QUEUED or self._closing:
                return False
            self._queue.append(request)
            self._accepted += 1
            self._wake.notify()
        return True

    def attend(self, nexus: Nexus) -> None:
        """Take note that it is connected."""
        with self._wake:
            if not self._closing:
                # Behind a leave, it has its place: a command in between is of the new one.
                self._wishes.setdefault(nexus, _Wish(self._accepted)).present = True
                self._wake.notify()

    def leave(self, nexus: Nexus) -> None:
        """Take note that it is gone."""
        with self._wake:
            if not self._closing:
                wish = self._wishes[nexus] = _Wish(self._accepted)
                wish.left = True
                self._wake.notify()

    def reap(self, now: float) -> None:
        """Answer what has waited too long."""
        with self._wake:
            waiting = [self._current, *self._queue]
        for request in waiting:
            if request is not None and now >= request.deadline:
                request.expire(self.name)

    def close(self) -> None:
        """Let the thread end after what is queued."""
        with self._wake:
            self._closing = True
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._queue and not self._wishes and not self._closing:
                    self._wake.wait(IDLE_TIDY)
                wishes = self._due()
                request = None
                if self._queue and not wishes:
                    request = self._queue.popleft()
                    self._begun += 1
                elif self._closing and not wishes:
                    break
                self._current = request
            if request is None:
                self._fulfil(wishes)
            elif not request.over:
                request.finish(self._answer(request))
            self._current = None
            self._tidy()
        if self._unit is not None:
            self._unit.close()

    def _due(self) -> dict[Nexus, _Wish]:
        """The wishes whose turn it is; no longer pending."""
        due = {nexus: wish for nexus, wish in self._wishes.items() if wish.after <= self._begun}
        for nexus in due:
            del self._wishes[nexus]
        return due

    def _fulfil(self, wishes: dict[Nexus, _Wish]) -> None:
        """Tell the LUN who left and who came, or what it could not be told before."""
        try:
            for nexus, wish in wishes.items():
                if wish.left:
                    self._unsaid.pop(nexus, None)
                    if self._unit is not None:
                        self._unit.leave(nexus)
                if wish.present:
                    self._unsaid[nexus] = None
            if self._unsaid:
                self._say(self._opened())
        except StoreError as error:
            self._tell(error)
        except Exception:
            log.exception("%s: internal error", self.name)

    def _say(self, unit: LogicalUnit) -> None:
        """Who is connected, as far as the LUN can be told; the others with the next command."""
        for nexus in list(self._unsaid):
            if not unit.attend(nexus):
                break
            del self._unsaid[nexus]

    def _tidy(self) -> None:
        """Between commands; under load now and then, because pruning must not starve."""
        now = time.monotonic()
        unit = self._unit
        if unit is not None and (not self._queue or now - self._tidied_at >= TIDY_AFTER):
            self._tidied_at = now
            try:
                if unit.lost is None:
                    unit.tidy()
                else:
                    # Its files held open would keep a deleted directory from vanishing on
                    # NFS. The unit itself stays, and answers with what it found.
                    unit.close()
            except Exception:
                # Without this thread the LUN would never be answered for again.
                log.exception("%s: internal error", self.name)

    def _answer(self, request: _Request) -> Result:
        try:
            unit = self._opened()
            self._say(unit)
            return request.work(request, unit)
        except StoreError as error:
            self._tell(error)
            return failure(error)
        except Exception:
            log.exception("%s: internal error", self.name)
            return Result.check(INTERNAL_TARGET_FAILURE)

    def _tell(self, error: StoreError) -> None:
        """Log why it cannot be opened; once, however often a guest asks."""
        text = str(error)
        log.log(logging.DEBUG if text == self._told else logging.ERROR, "%s: %s", self.name, text)
        self._told = text

    def _opened(self) -> LogicalUnit:
        if self._unit is not None:
            return self._unit
        now = time.monotonic()
        if self._failed is not None and now - self._failed_at < REOPEN_AFTER:
            raise self._failed
        try:
            store = LockDirectory(self._path, host=self._host, serves=True)
        except StoreError as error:
            self._failed, self._failed_at = error, now
            raise
        self._failed, self._told = None, ""
        self._unit = LogicalUnit(store, door=self._door, keep_tidy=False)
        return self._unit


class Units:
    """The logical units below one root, opened when first used. Thread-safe.

    Args:
        root: The root directory.
        timeout: Seconds within which every command is answered.
        host: Name of this host, for the record; the default is the system's.
    """

    def __init__(self, root: str, *, timeout: float = 10.0, host: str | None = None) -> None:
        self.root = root
        self._timeout = timeout
        self._host = None if host is None else check_label(host, "host")
        self._lock = threading.Lock()
        self._workers: dict[tuple[str, str], _Worker] = {}
        self._index = DeviceIndex(root, timeout)
        self._stop = threading.Event()
        self._reaper = threading.Thread(target=self._reap, name="reaper", daemon=True)
        self._reaper.start()

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
        """Queue one command; the future is done within about `timeout` seconds, always.

        Args:
            lun: Name of the LUN.
            nexus: Who sends it.
            cdb: The command descriptor block.
            data_out: Its parameter list.
            door: Name of the door, for the record.
            report_attentions: See `LogicalUnit.execute`.
            long_parameter_length: See `LogicalUnit.execute`.

        Raises:
            ConfigError: `lun` cannot be the name of a LUN.
        """

        def work(request: _Request, unit: LogicalUnit) -> Result:
            return unit.execute(
                nexus,
                cdb,
                data_out,
                report_attentions=report_attentions,
                long_parameter_length=long_parameter_length,
                timeout=max(0.0, request.deadline - time.monotonic()),
                may_issue=request.may_issue,
            )

        return self._submit(lun, door, work)

    def attend(self, lun: str, nexus: Nexus, door: str = "api") -> None:
        """A door says that a nexus is connected; returns at once, done in its turn."""
        self._worker(lun, door).attend(nexus)

    def leave(self, lun: str, nexus: Nexus, door: str = "api") -> None:
        """A door says that a nexus is gone; returns at once, done in its turn."""
        self._worker(lun, door).leave(nexus)

    def find_by_wwid(self, wwids: Iterable[str]) -> str | None:
        """The LUN that one of these device identifiers, or image paths, belongs to.

        Raises:
            StoreError: The root cannot be read in time, or a LUN that may be the one.
        """
        return self._index.find(wwids)

    def close(self, timeout: float = 5.0) -> bool:
        """Finish what is queued and close all LUNs; answer what does not finish in time.

        Returns:
            Whether every worker ended in time; one that hangs in a system call does not.
        """
        with self._lock:
            workers = list(self._workers.values())
        for worker in workers:
            worker.close()
        deadline = time.monotonic() + timeout
        for worker in workers:
            worker.thread.join(max(0.0, deadline - time.monotonic()))
        self._stop.set()
        for worker in workers:
            worker.reap(math.inf)
        return not any(worker.thread.is_alive() for worker in workers)

    def _submit(
        self,
        lun: str,
        door: str,
        work: Callable[[_Request, LogicalUnit], Result],
    ) -> Future[Result]:
        request = _Request(work, time.monotonic() + self._timeout)
        if not self._worker(lun, door).put(request):
            request.finish(Result(Status.TASK_SET_FULL))
        return request.future

    def _worker(self, lun: str, door: str) -> _Worker:
        worker = self._workers.get((lun, door))
        if worker is None:
            check_lun_name(lun)
            with self._lock:
                worker = self._workers.get((lun, door))
                if worker is None:
                    worker = _Worker(os.path.join(self.root, lun), door, self._host)
                    self._workers[lun, door] = worker
        return worker

    def _reap(self) -> None:
        while not self._stop.wait(REAP_INTERVAL):
            now = time.monotonic()
            with self._lock:
                workers = list(self._workers.values())
            for worker in workers:
                worker.reap(now)
