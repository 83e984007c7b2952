"""A thread that writes stamped blocks without pause, and reads, whether it may or not."""

from __future__ import annotations

import threading
import time

from attrs import define, field, frozen

from flockpr.spc.codes import Status
from tests.support import sbc_cdbs as sbc
from tests.support.iscsi_client import Initiator, Reply
from tests.vm.cell import DUEL, PATIENCE, Cell
from tests.vm.history import Answer, Broken
from tests.vm.stamps import SECTORS, Ledger, Outcome, block_of

BLOCKS = 8
"""Blocks of each author."""
_BATCH = 4
"""Writes under way at once."""
REST = 0.1
"""Seconds between two batches: the hosts are emulated, and their processors shared."""
_AGAIN = 0.3


@define
class Read:
    """One READ of a duelist."""

    issued: float
    ended: float
    good: bool


@frozen
class Served:
    """One READ or WRITE, as `history.acknowledged_share` counts it.

    Attributes:
        acknowledged: The client knows what came of it: done, a conflict, a unit attention or
            aborted; and not that the disk is busy, or nothing at all.
    """

    invoked: float
    ended: float
    acknowledged: bool


@define(eq=False)
class Writer(threading.Thread):
    """Writes and reads for one initiator through one host, until told to stop.

    Args:
        cell: Where.
        number: Of the host.
        ledger: Where the writes are noted.
        first: Its first block.
    """

    cell: Cell
    number: int
    ledger: Ledger
    first: int
    reads: list[Read] = field(factory=list, init=False)
    served: list[Served] = field(factory=list, init=False)
    failure: BaseException | None = field(default=None, init=False)
    _ending: threading.Event = field(factory=threading.Event, init=False)
    _may: threading.Event = field(factory=threading.Event, init=False)
    _idle: threading.Event = field(factory=threading.Event, init=False)

    def __attrs_post_init__(self) -> None:
        super().__init__(name=f"writer{self.number}", daemon=True)
        self._may.set()

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        """Write, and read, and do not mind being refused."""
        try:
            while not self._ending.is_set():
                self._session()
        except BaseException as error:
            self.failure = error
        finally:
            self._idle.set()

    def _session(self) -> None:
        session: Initiator | None = None
        try:
            session = self.cell.log_in(self.ledger.author, DUEL, self.number, session=1)
            while not self._ending.is_set():
                if not self._may.is_set():
                    self._idle.set()
                    self._may.wait(0.05)
                    continue
                self._idle.clear()
                self._round(session)
                time.sleep(REST)
        except Broken:
            self._ending.wait(_AGAIN)
        finally:
            if session is not None:
                session.close()
            self._idle.set()

    def _round(self, session: Initiator) -> None:
        """A few writes at once, and a read."""
        lun = self.cell.urls[DUEL].lun
        stamps = []
        for _ in range(_BATCH):
            block = self.first + (self.ledger.last % BLOCKS)
            stamps.append(self.ledger.issue(block, time.monotonic()))
        tasks = []
        try:
            for stamp in stamps:
                cdb = sbc.write(stamp.block * SECTORS, SECTORS)
                tasks.append((stamp, session.submit(lun, cdb, block_of(stamp))))
            for stamp, task in tasks:
                reply = session.wait(task)
                self.ledger.end(stamp, _outcome(reply), time.monotonic())
                self._note(self.ledger.writes[stamp.number].issued, told_what_came_of_it(reply))
        finally:
            now = time.monotonic()
            for stamp in stamps:
                if self.ledger.writes[stamp.number].outcome is Outcome.FLYING:
                    self.ledger.end(stamp, Outcome.UNKNOWN, now)
                    self._note(self.ledger.writes[stamp.number].issued, told=False)
        self._read(session, lun)

    def _read(self, session: Initiator, lun: int) -> None:
        issued, told = time.monotonic(), False
        try:
            reply = session.command(lun, sbc.read(self.first * SECTORS, 1), read=512)
            told = told_what_came_of_it(reply)
            self.reads.append(Read(issued, time.monotonic(), reply.good))
        finally:
            self._note(issued, told)

    def _note(self, issued: float, told: bool) -> None:
        self.served.append(Served(issued, time.monotonic(), told))

    def pause(self) -> None:
        """Return when nothing of it is under way."""
        self._may.clear()
        self._idle.clear()
        assert self._idle.wait(PATIENCE), f"{self.name} still waits for an answer"

    def go_on(self) -> None:
        """End a pause."""
        self._may.set()

    def stop(self) -> None:
        """End it, when its answers have come."""
        self._ending.set()
        self._may.set()


def _answer(reply: Reply) -> Answer:
    return Answer(reply.status, reply.code or (0, 0, 0))


def told_what_came_of_it(reply: Reply) -> bool:
    """Whether a READ or WRITE was carried out, or refused or aborted for good."""
    answer = _answer(reply)
    return answer.decided or answer.attention or answer.status == Status.TASK_ABORTED


def _outcome(reply: Reply) -> Outcome:
    answer = _answer(reply)
    if reply.good:
        return Outcome.GOOD
    if answer.decided or answer.attention or answer.refused:
        return Outcome.REFUSED
    return Outcome.UNKNOWN
