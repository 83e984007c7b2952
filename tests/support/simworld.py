"""Daemons over a simulated disk, and everything that is true about them.

`World` watches what the server does: the first document linked under a number is that
transaction, and whatever is linked there later is a phantom. From this it judges every
reply and every recovery, knowing nothing of how the store comes to them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable

import attrs

from flockpr.core.machine import step
from flockpr.core.model import LogicalUnitState, Nexus
from flockpr.errors import StoreError
from flockpr.logical_unit import LogicalUnit, Order, Result
from flockpr.logical_unit.record import action_name
from flockpr.spc import sense as senses
from flockpr.spc.cdb import Command, PersistentReserveOut, parse_command
from flockpr.spc.codes import Status
from flockpr.store import layout
from flockpr.store.base import Applied, AuditRecord
from flockpr.store.clock import utc_now
from flockpr.store.document import Document, decode
from flockpr.store.errands import Errands
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from tests.support.lun_tools import directory_of
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
what it needs, or `("together", command, ...)` for those that share a commit; see `Daemon.play`.
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
    """One command: when it was sent and answered, in transaction numbers, and what it did:
    the transaction that carried it, and the reply that is due then. `since` is the time by the
    clock that the audit trail has.
    """

    daemon: Daemon
    nexus: Nexus
    command: Command
    low: int
    high: int = 0
    base: int = 0
    result: Result | None = None
    numbers: list[int] = attrs.Factory(list)
    reply: Result | None = None
    since: str = attrs.Factory(utc_now)

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
    under_way: list[Sent] = attrs.Factory(list)

    def send(
        self,
        of: Nexus,
        cdb: bytes,
        data: bytes = b"",
        *,
        may_issue: Callable[[], bool] | None = None,
    ) -> Result:
        """Send one command and record it."""
        sent = self._sent(of, cdb, data)
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
            self.under_way = []
        self._answered(sent)
        return sent.result

    def glance(self, name: str) -> Result:
        """READ KEYS, at once if that can be, as doors do it: by what is known, then by a look."""
        of, cdb = nexus(name), in_cdb(0)
        sent = self._sent(of, cdb, b"")
        found = self.unit.read_at_once(of, cdb, looks=False) or self.unit.read_at_once(of, cdb)
        self.under_way = []
        if found is None:
            self.world.sent.remove(sent)
            return self.send(of, cdb)
        sent.result = found
        self._answered(sent)
        return found

    def send_together(
        self, *plays: Play, may_issue: Callable[[int], bool] = lambda _: True
    ) -> list[Result]:
        """Send several commands that share their commit; `may_issue` is told which is asked."""
        orders = []
        sent = []
        for index, play in enumerate(plays):
            of, cdb, data = as_sent(play)
            sent.append(self._sent(of, cdb, data))
            orders.append(
                Order(
                    of,
                    sent[-1].command,
                    False,
                    self.world.clock.now + self.timeout,
                    functools.partial(may_issue, index),
                    lambda: False,
                )
            )
        try:
            results = self.unit.attempt_all(orders)
        finally:
            self.under_way = []
        for one, result in zip(sent, results, strict=True):
            assert isinstance(result, Result)
            one.result = result
            self._answered(one)
        self.world.tell_twins_apart(sent)
        return [one.result for one in sent if one.result is not None]

    def _sent(self, of: Nexus, cdb: bytes, data: bytes) -> Sent:
        sent = Sent(self, of, parse_command(cdb, data), self.world.newest)
        self.world.sent.append(sent)
        self.under_way.append(sent)
        return sent

    def _answered(self, sent: Sent) -> None:
        sent.high = self.world.newest
        known = directory_of(self.unit)._transactions.known
        sent.base = known.number if known is not None else 0
        if sent.answered:
            self.world.required = max(self.world.required, sent.base)

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
            case ("glance", str() as name):
                self.glance(name)
            case ("together", *plays):
                self.send_together(*plays)  # type: ignore[arg-type]
            case _:
                self.send(*as_sent(command))

    def power_cycle(self) -> None:
        """The administrator's command; acknowledged by returning."""
        number = self.unit.power_cycle(timeout=self.timeout).number
        self.world.required = max(self.world.required, number)

    def tidy(self) -> None:
        """Publish, archive and prune as far as it goes, whatever the time."""
        store = directory_of(self.unit)
        store._next_upkeep = 0.0
        self.unit.tidy()


def as_sent(command: Play) -> tuple[Nexus, bytes, bytes]:
    """A SCSI command of a script: who sends it, its CDB and its parameter list."""
    match command:
        case ("keys", str() as name):
            return nexus(name), in_cdb(0), b""
        case ("spc2", str() as name):
            return nexus(name), RESERVE_6, b""
        case ("spc2 release", str() as name):
            return nexus(name), RELEASE_6, b""
        case (int() as action, str() as name, int() as key, int() as other):
            return nexus(name), out_cdb(action, type_=5), basic_list(key, other)
    raise AssertionError(command)


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
        self.carried: dict[int, list[Sent]] = {}
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
        errands: Errands | None = None,
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
            errands=errands,
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
        author = next(d for d in self.daemons if d.unit._store.daemon == document.snapshot.daemon)
        for applied in document.applied:
            if applied.opcode is not None:
                sent = self._sender_of(author, applied, document)
                sent.numbers.append(document.number)
                self.carried.setdefault(document.number, []).append(sent)

    def _sender_of(self, author: Daemon, applied: Applied, document: Document) -> Sent:
        """Which command of a daemon a line is about: of those under way, else the latest that had
        come when the line was written, for it may land after an equal one was answered; of two
        equal ones under way, which may be in two transactions, the one that has none yet.
        """
        own = [sent for sent in reversed(self.sent) if sent.daemon is author]
        found = [
            sent
            for sent in (*author.under_way, *own)
            if document.number not in sent.numbers
            and sent.since <= applied.time
            and _is_of(sent, applied)
        ]
        twins = (sent for sent in author.under_way if sent in found and not sent.numbers)
        return next(twins, found[0])

    def tell_twins_apart(self, together: list[Sent]) -> None:
        """Of equal commands that came together a line of the audit trail is the one's that was
        answered so: the first may have been refused on a state that the next no longer found.
        """
        for one in together:
            if one.result == Result(Status.GOOD) or not one.numbers:
                continue
            for twin in together:
                same = (twin.nexus, twin.command) == (one.nexus, one.command)
                if same and not twin.numbers and twin.result == Result(Status.GOOD):
                    one.numbers, twin.numbers = [], one.numbers
                    for number in twin.numbers:
                        carried = self.carried[number]
                        carried[carried.index(one)] = twin
                    break

    # ------------------------------------------------------------------ judging

    def judge(self) -> None:
        """Every reply fits the chain, and the chain is what the commands make it."""
        for number in sorted(self.truth)[1:]:
            assert self.truth[number].previous == self.truth[number - 1].txid
        for number in sorted(self.truth)[1:]:
            self._judge_transaction(number)
        for sent in self.sent:
            self._judge_reply(sent)

    def _judge_transaction(self, number: int) -> None:
        before, after = self.truth[number - 1], self.truth[number]
        if not after.applied:
            assert after.snapshot.state == before.snapshot.state, "a seal changes nothing"
        if number in self.carried:
            last = self._states(number)[-1]
            assert _but_for_slots(last) == _but_for_slots(after.snapshot.state)

    def _states(self, number: int) -> list[LogicalUnitState]:
        """The states within a transaction, one after each command; each reply is kept."""
        state = self.truth[number - 1].snapshot.state
        states = []
        for sent in self.carried.get(number, ()):
            outcome = step(state, sent.nexus, sent.command, report_attentions=False)
            assert outcome.state is not state, "a line of the audit trail changes something"
            sent.reply = Result.of(outcome.reply)
            state = outcome.state
            states.append(state)
        return states

    def _judge_reply(self, sent: Sent) -> None:
        assert len(sent.numbers) <= 1, f"applied twice: {sent.numbers}"
        if sent.result in NOTHING_DONE:
            assert not sent.numbers, f"{sent.result} although transaction {sent.numbers}"
        if not sent.answered:
            return
        if sent.numbers:
            assert sent.low < sent.numbers[0] <= sent.high
            assert sent.result == sent.reply
            return
        states = [self.truth[sent.low].snapshot.state]
        for number in range(sent.low + 1, sent.high + 1):
            states += [*self._states(number), self.truth[number].snapshot.state]
        assert any(
            (outcome := step(state, sent.nexus, sent.command, report_attentions=False)).state
            is state
            and Result.of(outcome.reply) == sent.result
            for state in states
        ), f"{sent.result} fits no moment from {sent.low} to {sent.high}"

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
        self._judge_history(unit)
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

    def _judge_history(self, unit: LogicalUnit) -> None:
        numbers = self.judge_trail(unit.history())
        for sent in self.sent:
            if sent.answered and sent.numbers:
                assert sent.numbers[0] in numbers

    def judge_trail(self, trail: Iterable[AuditRecord]) -> set[int]:
        """The audit trail has each of its transactions whole, once and in order; which it has."""
        told = list(trail)
        for number, records in itertools.groupby(told, lambda record: record.number):
            document = self.truth[number]
            whole = [(document.txid, applied) for applied in document.applied]
            assert [(record.txid, record.applied) for record in records] == whole
        numbers = [record.number for record in told]
        assert numbers == sorted(numbers), "history goes back"
        return set(numbers)


def _is_of(sent: Sent, applied: Applied) -> bool:
    """Whether a line of the audit trail can be of this command."""
    who = (applied.nexus, applied.target_port, applied.action)
    if who != (sent.nexus.initiator_port.text, sent.nexus.target_port, action_name(sent.command)):
        return False
    if not isinstance(sent.command, PersistentReserveOut):
        return True
    given = sent.command.parameters
    keys = (given.reservation_key, given.service_action_reservation_key)
    return keys == (applied.key, applied.service_action_key)
