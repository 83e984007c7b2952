"""The logical units below one root, opened when first used."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

from flockpr.core.model import Nexus
from flockpr.device_index import DeviceIndex
from flockpr.logical_unit import LogicalUnit, Result, ServedState
from flockpr.store.identity import check_label, check_lun_name
from flockpr.units.hush import Hush
from flockpr.units.requests import Command, Question, running
from flockpr.units.respite import Respite
from flockpr.units.worker import Worker

REAP_INTERVAL = 0.1
"""Seconds between two looks for commands whose time is over."""

T = TypeVar("T")


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
        self._workers: dict[tuple[str, str], Worker] = {}
        self._retired: list[Worker] = []
        self._index = DeviceIndex(root, timeout)
        self._no_looks = Respite()
        self._stop = threading.Event()
        self._reaper = threading.Thread(target=self._reap, name="reaper", daemon=True)
        self._reaper.start()

    @property
    def timeout(self) -> float:
        """Seconds within which every command is answered."""
        return self._timeout

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
        future: Future[Result] = running()
        self.submit_to(
            lun,
            nexus,
            cdb,
            data_out,
            answered=future.set_result,
            hush=None,
            door=door,
            report_attentions=report_attentions,
            long_parameter_length=long_parameter_length,
        )
        return future

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
        """As `submit`, for whoever wants to be called: that takes less than a future does.

        Args:
            lun: Name of the LUN.
            nexus: Who sends it.
            cdb: The command descriptor block.
            data_out: Its parameter list.
            answered: Is called once with the result, where a future would be done: in the thread
                of the LUN or another one, maybe before this returns. It must not wait.
            hush: Of whoever the answers wake; is begun where several are given one after the
                other.
            door: Name of the door, for the record.
            report_attentions: See `LogicalUnit.execute`.
            long_parameter_length: See `LogicalUnit.execute`.

        Raises:
            ConfigError: `lun` cannot be the name of a LUN; then it is never called.
        """
        command = Command(
            nexus,
            cdb,
            data_out,
            self._deadline(),
            answered=answered,
            hush=hush,
            report_attentions=report_attentions,
            long_parameter_length=long_parameter_length,
        )
        if not self._worker(lun, door).put(command):
            command.crowd_out()

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
        """The answer to a command that only reads, if nobody has to be waited for; see
        `LogicalUnit.read_at_once`. None says nothing: use `submit`.
        """
        if looks and self._no_looks.lasts:
            return None
        worker = self._workers.get((lun, door))
        if worker is None:
            return None
        return worker.read_at_once(nexus, cdb, report_attentions=report_attentions, looks=looks)

    def passes(self, lun: str) -> bool:
        """Whether a LUN that `find_by_wwid` has named is marked as passed through to its device."""
        return self._index.passes(lun)

    def looks_hang(self) -> None:
        """A call of `read_at_once` hangs: the file system of this root waits for something, and
        would hang the caller with each of the other LUNs as well. For a while, and longer each
        time, all of them are asked by `submit`, where one does not wait for another.
        """
        self._no_looks.begin()

    def state(self, lun: str, door: str = "api") -> Future[ServedState]:
        """The newest state of a LUN, which is durable: what a door may let commands through
        by. The future is done within about `timeout` seconds; it raises `StoreError`, which is
        `Busy` when the state cannot be had in time.

        Raises:
            ConfigError: `lun` cannot be the name of a LUN.
        """
        return self._put(lun, door, Question(LogicalUnit.served_state, self._deadline()))

    def reset(self, lun: str, door: str = "api") -> Future[None]:
        """LOGICAL UNIT RESET, see `LogicalUnit.reset`. The future is done within about `timeout`
        seconds; it raises `StoreError`.

        Raises:
            ConfigError: `lun` cannot be the name of a LUN.
        """
        deadline = self._deadline()

        def work(unit: LogicalUnit) -> None:
            unit.reset(timeout=max(0.0, deadline - time.monotonic()))

        return self._put(lun, door, Question(work, deadline))

    def attend(self, lun: str, nexus: Nexus, door: str = "api") -> None:
        """A door says that a nexus is connected; returns at once, done in its turn."""
        self._worker(lun, door).attend(nexus)

    def leave(self, lun: str, nexus: Nexus, door: str = "api") -> None:
        """A door says that a nexus is gone; returns at once, done in its turn."""
        self._worker(lun, door).leave(nexus)

    def forget(self, lun: str, door: str = "api") -> None:
        """A door has let go of a LUN that was deleted: one that is made anew under its name is
        another one. Returns at once.
        """
        with self._lock:
            worker = self._workers.pop((lun, door), None)
            if worker is None:
                return
            self._retired = [each for each in self._retired if each.thread.is_alive()]
            self._retired.append(worker)
        worker.close()

    def find_by_wwid(self, wwids: Iterable[str]) -> str | None:
        """The LUN that one of these device identifiers, or image paths, belongs to.

        Raises:
            StoreError: The root cannot be read in time, or a LUN that may be the one.
        """
        return self._index.find(wwids)

    def check_free(self, wwids: Iterable[str], *, named: bool = True) -> None:
        """See that no LUN has one of these identifiers, after `find_by_wwid` has found none.

        Args:
            wwids: The identifiers.
            named: Somebody named this root, so that it is one.

        Raises:
            StoreError: It may be that one has.
        """
        self._index.check_free(wwids, named=named)

    def close(self, timeout: float = 5.0) -> bool:
        """Finish what is queued and close all LUNs; answer what does not finish in time.

        Returns:
            Whether every worker ended in time; one that hangs in a system call does not.
        """
        with self._lock:
            workers = [*self._workers.values(), *self._retired]
        for worker in workers:
            worker.close()
        deadline = time.monotonic() + timeout
        for worker in workers:
            worker.thread.join(max(0.0, deadline - time.monotonic()))
        self._stop.set()
        for worker in workers:
            worker.reap(math.inf)
        return not any(worker.thread.is_alive() for worker in workers)

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout

    def _put(self, lun: str, door: str, question: Question[T]) -> Future[T]:
        if not self._worker(lun, door).put(question):
            question.crowd_out()
        return question.future

    def _worker(self, lun: str, door: str) -> Worker:
        worker = self._workers.get((lun, door))
        if worker is None:
            check_lun_name(lun)
            with self._lock:
                worker = self._workers.get((lun, door))
                if worker is None:
                    worker = Worker(os.path.join(self.root, lun), door, self._host)
                    self._workers[lun, door] = worker
        return worker

    def _reap(self) -> None:
        while not self._stop.wait(REAP_INTERVAL):
            now = time.monotonic()
            with self._lock:
                workers = [*self._workers.values(), *self._retired]
            for worker in workers:
                worker.reap(now)
