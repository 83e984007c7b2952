"""Daemons over a simulated disk, and everything that is true about them.

`World` watches what the server does: the first document linked under a number is that
transaction, and whatever is linked there later is a phantom. From this it judges every
reply and every recovery, knowing nothing of how the store comes to them.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from flockpr.core.machine import step
from flockpr.core.model import LogicalUnitState, Nexus
from flockpr.core.outcome import Outcome
from flockpr.errors import StoreError
from flockpr.logical_unit import LogicalUnit, Result
from flockpr.spc import sense as senses
from flockpr.spc.cdb import Command, parse_command
from flockpr.spc.codes import Status
from flockpr.store import layout
from flockpr.store.document import Document, decode
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from tests.support.scsi import RELEASE_6, RESERVE_6, basic_list, in_cdb, nexus, out_cdb
from tests.support.simfs import Client, Disk
from tests.support.simtime import Clock

ROOT = "/srv/flockpr"
LUN = f"{ROOT}/disk"
COMMITS = f"{LUN}/commits"


def _but_for_slots(state: LogicalUnitState) -> LogicalUnitState:
    """The state with the slot of a SPC-2 reservation left out, which a daemon may choose."""
    if state.spc2 is None:
        return state
    return attrs.evolve(state, spc2=attrs.evolve(state.spc2, slot=0), next_slot=0)


Play = tuple[object, ...]
"""A command of a script: `(service action, nexus, key, service action key)`, or a name and
what it needs; see `Daemon.play`.
"""

OUTCOME_UNKNOWN = Result.check(senses.OUTCOME_UNKNOWN)
NOTHING_DONE = (
    Result(Status.BUSY),
    Result.check(senses.NOT_READY_BECOMING),
    Result.check(senses.NOT_READY_INTERVENTION),
    Result.check(senses.RESERVATION_INFORMATION_LOST),
    Result.check(senses.LUN_NOT_SUPPORTED),
)
"""Replies that say: the store failed, and this command had no effect."""


def _fresh() -> Disk:
    disk = Disk()
    create_lun(ROOT, "disk", syscalls=Client(disk))
    disk.sync_all()
    return disk


_TEMPLATE = _fresh()


@attrs.define(eq=False)
class Sent:
    """One command: when it was sent and answered, in transaction numbers, and what it did."""

    daemon: Daemon
    nexus: Nexus
    command: Command
    low: int
    high: int = 0
    base: int = 0
    result: Result | None = None
    numbers: list[int] = attrs.Factory(list)

    @property
    def answered(self) -> bool:
        """Whether it was answered at all, and not as unknown or failed."""
        return self.result is not None and self.result not in (OUTCOME_UNKNOWN, *NOTHING_DONE)


@attrs.define(eq=False)
class Daemon:
    """One daemon: its process, its logical unit, what it was asked."""

    world: World
    client: Client
    unit: LogicalUnit
    timeout: float = 200.0
    current: Sent | None = None

    def send(
        self,
        of: Nexus,
        cdb: bytes,
        data: bytes = b"",
        *,
        may_issue: Callable[[], bool] | None = None,
    ) -> Result:
        """Send one command and record it."""
        sent = Sent(self, of, parse_command(cdb, data), self.world.newest)
        self.world.sent.append(sent)
        self.current = sent
        try:
            sent.result = self.unit.execute(
                of,
                cdb,
                data,
                report_attentions=False,
                timeout=self.timeout,
                may_issue=may_issue,
            )
        finally:
            self.current = None
        sent.high = self.world.newest
        known = self.unit._store._commits.known
        sent.base = known.number if known is not None else 0
        if sent.answered:
            self.world.required = max(self.world.required, sent.base)
        return sent.result

    def register(
        self, name: str, key: int, *, may_issue: Callable[[], bool] | None = None
    ) -> Result:
        """REGISTER AND IGNORE EXISTING KEY."""
        return self.send(nexus(name), out_cdb(6), basic_list(0, key), may_issue=may_issue)

    def reserve(self, name: str, key: int, type_: int = 5) -> Result:
        """RESERVE."""
        return self.send(nexus(name), out_cdb(1, type_=type_), basic_list(key))

    def preempt(self, name: str, key: int, victim: int) -> Result:
        """PREEMPT."""
        return self.send(nexus(name), out_cdb(4, type_=5), basic_list(key, victim))

    def keys(self, name: str = "reader") -> Result:
        """READ KEYS."""
        return self.send(nexus(name), in_cdb(0))

    def play(self, command: Play) -> None:
        """Carry out one command of a script."""
        match command:
            case ("tidy",):
                self.tidy()
            case ("power cycle",):
                self.power_cycle()
            case ("keys", str() as name):
                self.send(nexus(name), in_cdb(0))
            case ("spc2", str() as name):
                self.send(nexus(name), RESERVE_6)
            case ("spc2 release", str() as name):
                self.send(nexus(name), RELEASE_6)
            case (int() as action, str() as name, int() as key, int() as other):
                self.send(nexus(name), out_cdb(action, type_=5), basic_list(key, other))
            case _:
                raise AssertionError(command)

    def power_cycle(self) -> None:
        """The administrator's command; acknowledged by returning."""
        number = self.unit.power_cycle(timeout=self.timeout).number
        self.world.required = max(self.world.required, number)

    def tidy(self) -> None:
        """Publish, archive and prune as far as it goes, whatever the time."""
        store = self.unit._store
        store._next_upkeep = 0.0
        self.unit.tidy()


class World:
    """A disk with one logical unit, the clock, the daemons, and the truth about them.

    Args:
        forgetful: The file system is one with name caches, as NFS.
        segment: Transactions in an audit segment; all daemons agree on it.
        disk: A disk that has the logical unit already.
    """

    def __init__(
        self, *, forgetful: bool = False, disk: Disk | None = None, segment: int = layout.SEGMENT
    ) -> None:
        self.disk = disk or _TEMPLATE.copy()
        self.disk.linked = self.observe
        self.clock = Clock()
        self.forgetful = forgetful
        self.segment = segment
        self.truth: dict[int, Document] = {}
        self.phantoms: list[tuple[int, str]] = []
        self.sent: list[Sent] = []
        self.daemons: list[Daemon] = []
        self.required = 1
        names = self.disk.directory(COMMITS).names
        for name in sorted(n for n in names if layout.COMMIT_NAME.fullmatch(n)):
            document = decode(self.disk.contents(f"{COMMITS}/{name}"))
            self.truth[document.number] = document

    @property
    def newest(self) -> int:
        """Number of the newest transaction."""
        return max(self.truth)

    def daemon(
        self,
        *,
        keep: int = 256,
        settle: float = 60.0,
        patience: float = 5.0,
        order: bool = True,
        keep_tidy: bool = False,
        client: Client | None = None,
    ) -> Daemon:
        """Start a daemon on a host of its own; `order`: whether its order lock works."""
        client = client or Client(self.disk, forgetful=self.forgetful)
        client.every = self._tick
        store = LockDirectory(
            LUN,
            syscalls=client,
            host="h",
            patience=patience,
            keep=keep,
            segment=self.segment,
            settle=settle,
        )
        if not order:
            store.order = lambda: False  # type: ignore[method-assign]
        unit = LogicalUnit(store, door="helper", keep_tidy=keep_tidy)
        daemon = Daemon(self, client, unit)
        self.daemons.append(daemon)
        return daemon

    def _tick(self) -> None:
        """Each call takes a little time, so that nothing that waits waits for ever."""
        self.clock.now += 0.001

    def observe(self, client: Client, name: str, data: bytes) -> None:
        """The server linked something; find out what that means."""
        if not layout.COMMIT_NAME.fullmatch(name):
            return
        document = decode(data)
        assert int(name[:16]) == document.number
        if document.number <= self.newest:
            self.phantoms.append((document.number, document.txid))
            return
        before = self.truth[self.newest]
        assert (document.number, document.previous) == (before.number + 1, before.txid)
        self.truth[document.number] = document
        if document.applied and document.applied[0].opcode is not None:
            writer = document.snapshot.daemon
            author = next(d for d in self.daemons if d.unit._store.daemon == writer)
            sent = author.current or next(s for s in reversed(self.sent) if s.daemon is author)
            sent.numbers.append(document.number)

    # ------------------------------------------------------------------ judging

    def judge(self) -> None:
        """Every reply fits the chain, and the chain is what the commands make it."""
        for number in sorted(self.truth)[1:]:
            assert self.truth[number].previous == self.truth[number - 1].txid
        by_number = {number: sent for sent in self.sent for number in sent.numbers}
        for number in sorted(self.truth)[1:]:
            self._judge_transaction(number, by_number.get(number))
        for sent in self.sent:
            self._judge_reply(sent)

    def _judge_transaction(self, number: int, sent: Sent | None) -> None:
        before, after = self.truth[number - 1], self.truth[number]
        if not after.applied:
            assert after.snapshot.state == before.snapshot.state, "a seal changes nothing"
        if sent is None:
            return
        outcome = self._step(sent, number - 1)
        assert _but_for_slots(outcome.state) == _but_for_slots(after.snapshot.state)
        assert outcome.state is not before.snapshot.state

    def _step(self, sent: Sent, number: int) -> Outcome:
        state = self.truth[number].snapshot.state
        return step(state, sent.nexus, sent.command, report_attentions=False)

    def _judge_reply(self, sent: Sent) -> None:
        assert len(sent.numbers) <= 1, f"applied twice: {sent.numbers}"
        if sent.result in NOTHING_DONE:
            assert not sent.numbers, f"{sent.result} although transaction {sent.numbers}"
        if not sent.answered:
            return
        if sent.numbers:
            number = sent.numbers[0]
            assert sent.low < number <= sent.high
            assert sent.result == Result.of(self._step(sent, number - 1).reply)
            return
        fits = [
            number
            for number in range(sent.low, sent.high + 1)
            if (outcome := self._step(sent, number)).state is self.truth[number].snapshot.state
            and Result.of(outcome.reply) == sent.result
        ]
        assert fits, f"{sent.result} fits no moment from {sent.low} to {sent.high}"

    def judge_recovery(self, disk: Disk, *, work: bool = True) -> int:
        """What a new daemon finds on a disk after a power loss; returns the head's number.

        It must be a transaction that was made, at least as new as any that a reply
        depended on, its history must have every acknowledged command once, and the next
        command must work.
        """
        client = Client(disk, forgetful=self.forgetful)
        try:
            store = LockDirectory(LUN, syscalls=client, host="after", segment=self.segment)
            unit = LogicalUnit(store, door="helper", keep_tidy=False)
            head = store.head()
        except StoreError as error:
            raise AssertionError(f"unreadable after a power loss: {error}") from error
        assert head.number >= self.required, f"{head.number} lost {self.required}"
        document = self.truth[head.number]
        assert (head.txid, head.state) == (document.txid, document.snapshot.state)
        self._judge_history(unit, head.number)
        if work:
            result = unit.execute(
                nexus("later"), out_cdb(6), basic_list(0, 0xF), report_attentions=False
            )
            assert result == Result(Status.GOOD)
            # The holder of a SPC-2 reservation did not survive: it is freed first.
            assert store.head().number == head.number + (2 if head.state.spc2 else 1)
            unit.tidy()
        unit.close()
        assert not client.fds
        return head.number

    def _judge_history(self, unit: LogicalUnit, newest: int) -> None:
        told = [(record.number, record.txid) for record in unit.history()]
        assert len(told) == len(set(told)), "history tells a transaction twice"
        assert [number for number, _ in told] == sorted(number for number, _ in told)
        for number, txid in told:
            assert self.truth[number].txid == txid, "history tells what never happened"
        for sent in self.sent:
            if sent.answered and sent.numbers:
                assert (sent.numbers[0], self.truth[sent.numbers[0]].txid) in told
