"""The threads of one LUN: one for all that is asked of it, one for what has to wait."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence

from flockpr.core.model import Nexus
from flockpr.errors import StoreError
from flockpr.logical_unit import LogicalUnit, Narrowing, Order, Result
from flockpr.store.opening import open_store
from flockpr.units.crowd import Crowd
from flockpr.units.hush import Hush
from flockpr.units.line import Line
from flockpr.units.requests import AnyRequest, Command

log = logging.getLogger(__name__)

MAX_QUEUED = 1024
"""Commands that may wait for one LUN; more are answered TASK SET FULL."""
REOPEN_AFTER = 1.0
"""Seconds before a LUN that could not be opened is tried again."""
PAUSE = 0.02
"""Seconds without a command after which what was done is published: who sends one after the other
does not wait for that in between.
"""
TIDY_AFTER = 1.0
"""Seconds of unbroken load after which publishing and pruning are done all the same."""
IDLE_TIDY = 30.0
"""Seconds without a command after which lost locks and a stale view are looked for."""


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


class Worker:
    """The worker thread of one LUN, and the line of what waits for the gate beside it."""

    def __init__(self, path: str, door: str, host: str | None) -> None:
        self.name = os.path.basename(path)
        self._path = path
        self._door = door
        self._host = host
        self._queue: deque[AnyRequest] = deque()
        self._wake = threading.Condition()
        self._crowd = Crowd()
        self._wanted = 0
        self._current: AnyRequest | None = None
        self._closing = False
        self._accepted = 0
        self._begun = 0
        self._wishes: dict[Nexus, _Wish] = {}
        self._unsaid: dict[Nexus, None] = {}
        self._unit: LogicalUnit | None = None
        self._failed: StoreError | None = None
        self._failed_at = 0.0
        self._told = ""
        self._tidied_at = self._worked_at = time.monotonic()
        self._untidy_since: float | None = None
        self._line = Line(self.name, self._advanced)
        self.thread = threading.Thread(target=self._run, name=f"lun-{self.name}", daemon=True)
        self.thread.start()

    def put(self, request: AnyRequest) -> bool:
        """Queue a request; False if too many wait already."""
        with self._wake:
            if len(self._queue) + len(self._line) >= MAX_QUEUED or self._closing:
                return False
            self._queue.append(request)
            self._accepted += 1
            if len(self._queue) >= self._wanted or not isinstance(request, Command):
                self._wake.notify()
        return True

    def read_at_once(
        self, nexus: Nexus, cdb: bytes, *, report_attentions: bool, looks: bool
    ) -> Result | None:
        """See `LogicalUnit.read_at_once`; in the caller's thread."""
        unit = self._unit
        if unit is None or self._wishes or self._unsaid or self._closing:
            return None  # who it is a command of depends on what was said before it
        return unit.read_at_once(nexus, cdb, report_attentions=report_attentions, looks=looks)

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
        # What it asked for and nobody has begun ends with the nexus (SAM-5 6.3.4): done later,
        # it would reserve for somebody who is gone.
        self._line.withdraw(nexus)

    def reap(self, now: float) -> None:
        """Answer what has waited too long."""
        with self._wake:
            waiting = [self._current, *self._queue]
        for request in (*waiting, *self._line.waiting()):
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
                if not self._anything_to_do():
                    self._wake.wait(max(0.0, self._tidy_at() - time.monotonic()))
                self._gather()
                wishes = self._due()
                requests = [] if wishes else self._next()
                if not requests and self._closing and not self._queue and not self._wishes:
                    break
            if requests:
                begun = time.monotonic()
                self._answer([request for request in requests if not request.over])
                self._answered(requests, time.monotonic() - begun)
            else:
                self._fulfil(wishes)
            if time.monotonic() >= self._tidy_at():
                self._tidy()
        self._line.close()
        if self._untidy_since is not None:
            self._tidy()
        if self._unit is not None:
            self._unit.close()

    def _gather(self) -> None:
        """Give those that were answered together a moment for their next command."""
        there = len(self._queue)
        if there >= self._crowd.expected or self._closing or self._wishes:
            return
        if not all(isinstance(request, Command) for request in self._queue):
            return  # whoever asks for the state, say, is not one of a crowd
        patience = self._crowd.patience(there)
        if patience:
            self._wanted = self._crowd.expected
            self._wake.wait(patience)
            self._wanted = 0
            self._crowd.waited(there, len(self._queue))

    def _next(self) -> list[AnyRequest]:
        """What comes next: a request, or a command and those that can be carried out with it.

        They stay in the queue, all but the first, for as long as they are not answered, so that
        they count and their time runs.
        """
        if not self._queue or self._held_back(self._queue[0]):
            return []
        requests = [self._queue.popleft()]
        if isinstance(requests[0], Command):
            waits = [wish.after for wish in self._wishes.values() if wish.after > self._begun]
            room = min(waits, default=self._accepted) - self._begun
            together = itertools.takewhile(self._goes_along, self._queue)
            requests += itertools.islice(together, room - 1)
        self._begun += len(requests)
        self._current = requests[0]
        return requests

    def _goes_along(self, request: AnyRequest) -> bool:
        return isinstance(request, Command) and not self._held_back(request)

    def _answered(self, requests: Sequence[AnyRequest], seconds: float) -> None:
        with self._wake:
            self._current = None
            for _ in requests[1:]:
                self._queue.popleft()
            self._crowd.answered(len(requests), len(self._queue), seconds)
            self._worked()

    def _anything_to_do(self) -> bool:
        if self._queue and not self._held_back(self._queue[0]):
            return True
        return bool(self._due_now()) or (self._closing and not self._queue and not self._wishes)

    def _advanced(self) -> None:
        """The line has ended something: see whether anything waited for it, and publish it."""
        with self._wake:
            self._worked()
            self._wake.notify()

    def _worked(self) -> None:
        """Something was done that may have to be published. Called with the lock held."""
        self._worked_at = time.monotonic()
        if self._untidy_since is None:
            self._untidy_since = self._worked_at

    def _tidy_at(self) -> float:
        """When to publish and prune, if nothing else is done before."""
        if self._untidy_since is None:
            return self._tidied_at + IDLE_TIDY
        return min(self._worked_at + PAUSE, self._untidy_since + TIDY_AFTER)

    def _held_back(self, request: AnyRequest) -> bool:
        """Whether a command has to wait because its nexus left and that has not been said yet:
        the LUN would take it for one of the nexus that is gone.
        """
        if not self._wishes or request.nexus is None:
            return False
        wish = self._wishes.get(request.nexus)
        return wish is not None and wish.left and wish.after <= self._begun

    def _due(self) -> dict[Nexus, _Wish]:
        """The wishes whose turn it is; no longer pending."""
        due = self._due_now()
        for nexus in due:
            del self._wishes[nexus]
        return due

    def _due_now(self) -> dict[Nexus, _Wish]:
        if not self._wishes:
            return {}
        busy = {request.nexus for request in self._line.waiting() if request.may_act}
        return {
            nexus: wish
            for nexus, wish in self._wishes.items()
            if wish.after <= self._begun and not (wish.left and nexus in busy)
        }

    def _fulfil(self, wishes: dict[Nexus, _Wish]) -> None:
        """Tell the LUN who left and who came, or what it could not be told before."""
        if wishes:
            with self._wake:
                self._worked()
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
        """In a pause; under load now and then, because pruning must not starve."""
        with self._wake:
            self._tidied_at = time.monotonic()
            self._untidy_since = None
        unit = self._unit
        if unit is None:
            return
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

    def _answer(self, requests: Sequence[AnyRequest]) -> None:
        if not requests:
            return
        try:
            unit = self._opened()
            self._say(unit)
            self._pass_all_on(_carried_out(unit, requests))
        except StoreError as error:
            self._tell(error)
            for request in requests:
                request.refuse(error)
        except Exception:
            log.exception("%s: internal error", self.name)
            for request in requests:
                request.fail()

    def _pass_all_on(self, answers: Collection[tuple[AnyRequest, object]]) -> None:
        """Answer them; whom that wakes has to wait for the last, if there are several."""
        hushed: set[Hush] = set()
        if len(answers) > 1:
            hushed = {one.hush for one, _ in answers if one.hush is not None}
        for hush in hushed:
            hush.begin()
        try:
            for request, answer in answers:
                self._pass_on(request, answer)
        finally:
            for hush in hushed:
                hush.end()

    def _pass_on(self, request: AnyRequest, answer: object) -> None:
        if not isinstance(answer, Narrowing):
            request.finish(answer)
            return
        try:
            self._line.put(request, answer)
        except StoreError as error:
            self._tell(error)
            request.refuse(error)

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
            store = open_store(self._path, host=self._host, serves=True)
        except StoreError as error:
            self._failed, self._failed_at = error, now
            raise
        self._failed, self._told = None, ""
        self._unit = LogicalUnit(store, door=self._door, keep_tidy=False)
        return self._unit


def _carried_out(
    unit: LogicalUnit, requests: Sequence[AnyRequest]
) -> Collection[tuple[AnyRequest, object]]:
    """What comes of requests; of several, which are commands, with as few commits as possible.

    One that cannot even be read is answered here.
    """
    if len(requests) == 1:
        return [(requests[0], requests[0].work(unit))]
    orders: dict[AnyRequest, Order] = {}
    for request in requests:
        if isinstance(request, Command):
            try:
                orders[request] = request.order()
            except Exception:
                log.exception("internal error")
                request.fail()
    answers = unit.attempt_all(list(orders.values())) if orders else []
    return list(zip(orders, answers, strict=True))
