"""Two initiators, each at a host of its own, that take one disk from each other.

Both write their own blocks without pause, each write stamped, and read. Whoever preempts the
other looks, once the GOOD is there, whether all that had been acknowledged to the loser is on
the disk, and writes over it, as a cluster does that repairs its file system. From then until the
loser registers again nothing of his may be carried out or appear.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from attrs import define, field

from flockpr.spc.pr_in import parse_keys
from tests.support import sbc_cdbs as sbc
from tests.support.daemons import Sent, out, read
from tests.support.iscsi_client import Initiator, Reply
from tests.support.scsi import (
    EARO,
    PREEMPT,
    REGISTER_IGNORE,
    RELEASE,
    RESERVE,
    nexus,
)
from tests.vm.cell import DUEL, PATIENCE, Cell
from tests.vm.history import (
    ISCSI_PORT,
    Answer,
    Broken,
    History,
    IscsiGuest,
    close_quietly,
)
from tests.vm.stamps import (
    BLOCK,
    SECTORS,
    Ledger,
    Outcome,
    Stamp,
    Violation,
    block_of,
    judge_fenced,
    judge_open,
    judge_sealed,
    stamps_in,
)
from tests.vm.writer import BLOCKS, REST, Writer

_AGAIN = 0.3
Found = Mapping[int, Sequence[Stamp | None]]


@define
class Duelist:
    """One of the two.

    Args:
        cell: Where.
        number: Of its host, 0 or 1.
        history: Where its reservation commands are noted.
    """

    cell: Cell
    number: int
    history: History
    writer: Writer = field(init=False)
    ledger: Ledger = field(init=False)
    opened: int = field(default=0, init=False)
    before: dict[int, Stamp | None] = field(init=False)
    _guest: IscsiGuest | None = field(default=None, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        self.ledger = Ledger(f"duel{self.number}")
        self.writer = Writer(self.cell, self.number, self.ledger, self.blocks.start)
        self.before = dict.fromkeys(self.blocks)

    @property
    def key(self) -> int:
        """Its reservation key."""
        return 0xD0 + self.number

    @property
    def blocks(self) -> range:
        """Its blocks."""
        return range(self.number * BLOCKS, (self.number + 1) * BLOCKS)

    # ------------------------------------------------------------------ commands

    def attempt(self, sent: Sent) -> Answer | None:
        """Send a reservation command once; None if no answer came."""
        with self._lock:
            return self._attempt(sent)

    def _attempt(self, sent: Sent) -> Answer | None:
        try:
            if self._guest is None:
                session = self.cell.log_in(self.ledger.author, DUEL, self.number)
                who = nexus(self.ledger.author, ISCSI_PORT)
                self._guest = IscsiGuest(session, self.cell.urls[DUEL].lun, who)
            self._guest.initiator.poll()  # the target asks now and then whether we live
            return self.history.send(self.ledger.author, self.number, self._guest, sent)
        except Broken:
            close_quietly(self._guest)
            self._guest = None
            return None

    def until(self, sent: Sent, deadline: float) -> Answer:
        """Send it until the rules have decided it.

        Raises:
            AssertionError: Not in time.
        """
        answer = None
        while time.monotonic() < deadline:
            answer = self.attempt(sent)
            if answer is not None and answer.decided:
                return answer
            if answer is None or not answer.attention:
                time.sleep(_AGAIN)
        raise AssertionError(f"{self.ledger.author} on host {self.number}: {sent}: {answer}")

    def medium(self, send: Callable[[Initiator, int], Reply], deadline: float) -> Reply:
        """Send a read or write until it is GOOD.

        Raises:
            AssertionError: Not in time.
        """
        reply: Reply | None = None
        while time.monotonic() < deadline:
            if self._guest is None:
                self.attempt(read())
                continue
            with self._lock:
                try:
                    reply = send(self._guest.initiator, self.cell.urls[DUEL].lun)
                except Broken:
                    close_quietly(self._guest)
                    self._guest = None
                    continue
            if reply.good:
                return reply
            time.sleep(REST)
        raise AssertionError(f"{self.ledger.author} on host {self.number}: {reply}")

    def look(self, blocks: range, deadline: float) -> Found:
        """What is in the sectors of some blocks."""
        count = len(blocks) * SECTORS
        cdb = sbc.read(blocks.start * SECTORS, count)
        reply = self.medium(
            lambda session, lun: session.command(lun, cdb, read=len(blocks) * BLOCK), deadline
        )
        stamps = stamps_in(reply.data)
        return {
            block: stamps[index * SECTORS : (index + 1) * SECTORS]
            for index, block in enumerate(blocks)
        }

    def seal(self, blocks: range, deadline: float) -> dict[int, Stamp]:
        """Write over some blocks; what they hold now."""
        seals = {}
        for block in blocks:
            now = time.monotonic()
            stamp = self.ledger.issue(block, now)
            self.ledger.end(stamp, Outcome.REFUSED, now)  # none of its own blocks
            data = block_of(stamp)
            cdb = sbc.write(block * SECTORS, SECTORS)
            self.medium(lambda session, lun: session.command(lun, cdb, data), deadline)  # noqa: B023
            seals[block] = stamp
        return seals

    def close(self) -> None:
        """Go away."""
        close_quietly(self._guest)
        self._guest = None


@define
class Fenced:
    """A loser between the GOOD and his return.

    Attributes:
        winner: Who took the disk.
        loser: Who lost it.
        good: When the GOOD had come.
        seconds: How long it took from the first try.
        seals: What stands in the loser's blocks.
    """

    winner: Duelist
    loser: Duelist
    good: float
    seconds: float
    seals: dict[int, Stamp]


@define
class Duel:
    """The two, and the rounds between them.

    Args:
        cell: Where.
        history: Where the reservation commands are noted.
    """

    cell: Cell
    history: History
    duelists: list[Duelist] = field(init=False)
    goods: list[float] = field(factory=list, init=False)
    rounds: int = field(default=0, init=False)
    checked: int = field(default=0, init=False)
    _turn: int = field(default=0, init=False)
    _pausing: threading.Event = field(factory=threading.Event, init=False)
    _between: threading.Lock = field(factory=threading.Lock, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _over: threading.Event = field(factory=threading.Event, init=False)
    _failure: BaseException | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.duelists = [Duelist(self.cell, number, self.history) for number in (0, 1)]

    def open(self) -> None:
        """Both register, the first reserves, both write."""
        deadline = time.monotonic() + PATIENCE
        for one in self.duelists:
            assert one.until(_register(one), deadline).good
        assert self.duelists[0].until(_reserve(self.duelists[0]), deadline).good
        for one in self.duelists:
            one.writer.start()
        self._turn = 1

    def close(self) -> None:
        """All end."""
        for one in self.duelists:
            one.writer.stop()
        for one in self.duelists:
            one.writer.join(PATIENCE)
            one.close()

    def check(self) -> None:
        """Raise what a writer met."""
        for one in self.duelists:
            if one.writer.failure is not None:
                raise one.writer.failure
        if self._failure is not None:
            raise self._failure

    # ------------------------------------------------------------------ rounds

    def preempt(self, winner: int, seconds: float = PATIENCE) -> Fenced:
        """Take the disk from the other, look at what he wrote, and write over it.

        Args:
            winner: Number of who takes it.
            seconds: How long it may take.

        Raises:
            Violation: Not all is there that was acknowledged, or what may not be is.
        """
        one, other = self.duelists[winner], self.duelists[1 - winner]
        begun = time.monotonic()
        self._take(one, other, begun + seconds)
        good = time.monotonic()
        self.goods.append(good)
        deadline = good + PATIENCE
        found = one.look(other.blocks, deadline)
        judge_open(other.ledger, other.opened, other.before, found)
        seals = one.seal(other.blocks, deadline)
        self.rounds += 1
        fenced = Fenced(one, other, good, good - begun, seals)
        self.sealed(fenced)
        return fenced

    def _take(self, one: Duelist, other: Duelist, deadline: float) -> None:
        """PREEMPT, until GOOD was heard."""
        command = out(PREEMPT, one.key, other.key, type_=EARO)
        while True:
            answer = one.attempt(command)
            if answer is not None and answer.good:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"no GOOD for PREEMPT of host {one.number}: {answer}")
            if answer is not None and answer.decided and self._already(one, other, deadline):
                return
            if answer is None or not answer.attention:
                time.sleep(_AGAIN)

    def _already(self, one: Duelist, other: Duelist, deadline: float) -> bool:
        """Whether a try that was not answered was carried out; then access is taken away once
        more, so that there is a GOOD. One who was preempted himself waits until he registers.
        """
        answer = one.until(read(), deadline)
        report = parse_keys(answer.data)
        assert report is not None
        if one.key not in report.keys or other.key in report.keys:
            return False
        if not one.until(out(RELEASE, one.key, type_=EARO), deadline).good:
            return False
        return one.until(_reserve(one), deadline).good

    def sealed(self, fenced: Fenced) -> None:
        """Nothing of the loser has been carried out since the GOOD, and nothing appears.

        Raises:
            Violation: Something was.
        """
        found = fenced.winner.look(fenced.loser.blocks, time.monotonic() + PATIENCE)
        judge_sealed(fenced.seals, found)
        judge_fenced(fenced.loser.ledger, fenced.good)
        for one in list(fenced.loser.writer.reads):
            if one.good and one.issued > fenced.good:
                raise Violation(f"read {one.issued - fenced.good:.3f} s after GOOD: {one}")
        self.checked += len(fenced.seals)

    def readmit(self, fenced: Fenced, seconds: float = PATIENCE) -> None:
        """The loser registers again, and may write."""
        loser = fenced.loser
        loser.writer.pause()
        self.sealed(fenced)
        # From here on what he wrote may be there.
        loser.opened = loser.ledger.last
        loser.before = dict(fenced.seals)
        loser.writer.reads.clear()
        assert loser.until(_register(loser), time.monotonic() + seconds).good
        loser.writer.go_on()

    def round(self, winner: int, seconds: float = PATIENCE) -> Fenced:
        """A whole one, while nothing is wrong."""
        fenced = self.preempt(winner, seconds)
        self.readmit(fenced, seconds)
        return fenced

    # ------------------------------------------------------------------ without being told

    def go(self) -> None:
        """Play rounds until `hold`."""
        self._over.clear()
        self._thread = threading.Thread(target=self._play, name="duel", daemon=True)
        self._thread.start()

    def _play(self) -> None:
        try:
            while not self._over.is_set():
                self.round(self._turn)
                self._turn = 1 - self._turn
                self._over.wait(1.0)
        except BaseException as error:
            self._failure = error

    def hold(self) -> None:
        """Return when the round is over that is under way; both may write then."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(2 * PATIENCE)
            assert not self._thread.is_alive(), "a round does not end"
            self._thread = None
        self.check()

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """While no round is under way: nobody reads or writes."""
        for one in self.duelists:
            one.writer.pause()
        try:
            yield
        finally:
            for one in self.duelists:
                one.writer.go_on()

    @property
    def holder(self) -> int:
        """Number of who holds the reservation, while no round is under way."""
        return 1 - self._turn

    def turn_to(self, number: int) -> None:
        """Who takes the disk next."""
        self._turn = number


def _register(one: Duelist) -> Sent:
    return out(REGISTER_IGNORE, 0, one.key)


def _reserve(one: Duelist) -> Sent:
    return out(RESERVE, one.key, type_=EARO)
