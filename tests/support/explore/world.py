"""Hosts with both doors on one file server, and what has to be true whatever happens.

Each host is a process: a logical unit, through which commands come, and a target, which reads
and writes by the state that it read when it took its permit. `Share` watches what the server
really did, and judges by that: it knows nothing of how `flockpr` comes to its answers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import attrs

from flockpr.core import invariants
from flockpr.core.access import allowed
from flockpr.core.model import LogicalUnitState, Nexus
from flockpr.errors import OutcomeUnknown, StoreError
from flockpr.gate import Gate, Permit, fenced, records
from flockpr.gate.fences import fences_of
from flockpr.gate.hosts import host_number
from flockpr.logical_unit import LogicalUnit, Narrowing, Result
from flockpr.logical_unit.orders import Order
from flockpr.spc.cdb import Command, PersistentReserveOut, parse_command
from flockpr.spc.codes import Status
from flockpr.store import layout
from flockpr.store.base import Applied
from flockpr.store.document import Document, decode
from flockpr.store.errands import Errands
from flockpr.store.lockdir import LockDirectory
from tests.support import simworld
from tests.support.explore.history import Asked, actions, judge_history
from tests.support.explore.installed import acting
from tests.support.explore.scenario import (
    BLOCK,
    Play,
    Scenario,
    asked,
    demand,
    host_name,
    template,
)
from tests.support.explore.server import Host
from tests.support.explore.tasks import Request, Schedule
from tests.support.lun_tools import directory_of
from tests.support.scsi import READ_10, WRITE_10, nexus
from tests.support.simfs import Client, Killed
from tests.support.simworld import LUN, OUTCOME_UNKNOWN, ROOT, Sent

TIMEOUT = 10.0
"""Seconds that a command has."""
SETTLED = 30.0
"""Seconds after which every lease is over."""
_document = functools.lru_cache(maxsize=4096)(decode)
ACTORS = "abc"
"""Short names of the nexuses that read and write."""
ANSWERS = (("answers", 0, 1, True),)
ASKS = (("answers", 0, 1, False),)


@attrs.define(eq=False)
class Process:
    """One host's process.

    Attributes:
        state: What its target reads and writes by.
        pending: Its commits that took access away and whose sender knows nothing.
        spared: It was declared fenced: turns of its permit up to this one are not judged, since
            whoever declared it said that it could not write. -1 if it was not.
        dead: It is over.
    """

    name: str
    client: Host
    unit: LogicalUnit
    permit: Permit | None
    state: LogicalUnitState | None = None
    pending: list[int] = attrs.Factory(list)
    spared: int = -1
    dead: bool = False


class Share(simworld.World):
    """The file server with one logical unit, what the hosts asked, and what is true.

    Args:
        scenario: What the hosts do.
    """

    def __init__(self, scenario: Scenario, schedule: Schedule) -> None:
        disk, newest = template(scenario.before, scenario.gated)
        super().__init__(disk=disk.copy(), forgetful=scenario.forgetful, segment=2)
        assert self.newest == newest
        self.scenario = scenario
        self.schedule = schedule
        self.begun = newest
        self.fences: dict[tuple[Nexus, bytes], int] = {}
        self.writes: list[tuple[str, Nexus]] = []
        self.refused = 0
        self.asked: list[Asked] = []
        self.cycles: dict[int, tuple[int, int | None]] = {}
        self.moment = 0
        self.vanish: Callable[[Process], None] = lambda _: None
        self.processes = {name: self._process(name) for name in scenario.hosts}

    # ------------------------------------------------------------------ hosts

    def _process(self, name: str) -> Process:
        scenario = self.scenario
        with acting(name):
            client = Host(self.disk, name, forgetful=scenario.forgetful, pruning=scenario.pruning)
            keep, settle = (1, 0.0) if scenario.pruning else (256, 60.0)
            store = LockDirectory(
                LUN,
                syscalls=client,
                host=host_name(name),
                patience=0.5,
                keep=keep,
                segment=2,
                settle=settle,
                errands=Errands() if scenario.errands else None,
            )
            if not scenario.order:
                store.order = lambda: False  # type: ignore[method-assign]
            unit = LogicalUnit(store, door="helper", keep_tidy=scenario.publishing)
            process = Process(name, client, unit, None)
            if scenario.gated:
                self._gate(process)
            self._add_daemon(process)
        return process

    def _gate(self, process: Process) -> None:
        identity = process.unit.identity
        assert identity.image is not None
        process.unit._made_gate = Gate(
            ROOT,
            identity.lun,
            identity.image,
            host=host_name(process.name),
            syscalls=process.client,
        )

        def read(_: float) -> None:
            process.state = process.unit.served_state().state

        process.permit = Permit(
            ROOT,
            identity.lun,
            identity.image,
            on_open=read,
            host=host_name(process.name),
            syscalls=process.client,
        )

    def _add_daemon(self, process: Process) -> None:
        self.daemons.append(simworld.Daemon(self, process.client, process.unit))

    def start(self) -> None:
        """Add the tasks of all hosts to the schedule."""
        for name, plays in self.scenario.tasks.items():
            process = self.processes[name[0]]
            self.schedule.add(name, name[0], functools.partial(self._play, process, plays))

    def _play(self, process: Process, plays: Sequence[Play]) -> None:
        serving = process.permit if any(play[0] in ("write", "read") for play in plays) else None
        if serving is not None:
            serving.attend()
        for play in plays:
            self.perform(process, play)
        if serving is not None:
            serving.rest()

    def perform(self, process: Process, play: Play) -> None:
        """One thing that a host does."""
        match play:
            case ("write" | "read" as what, str() as name):
                self._transfer(process, nexus(name), writes=what == "write")
            case ("tidy",):
                directory_of(process.unit)._next_upkeep = 0.0
                process.unit.tidy()
            case ("wait", seconds):
                self.schedule.sleep(seconds)
            case ("fence", str() as name):
                self.schedule.point(Request("declare", f"{name} fenced"))
                number = host_number(host_name(name))
                fenced.declare(ROOT, number, process.client, proof="its plug is out")
            case ("look",):
                fences_of(ROOT, process.client).look()
            case ("power cycle",):
                self._power_cycle(process)
            case ("vanish",):
                self.vanish(process)
                raise Killed
            case ("together", *plays):
                self.send(process, *(asked(one) for one in plays))
            case _:
                self.send(process, asked(play))

    # ------------------------------------------------------------------ commands

    def send(self, process: Process, *wanted: tuple[Nexus, bytes, bytes]) -> list[Result]:
        """Send one command, or several that share their commit, and record them."""
        daemon = next(d for d in self.daemons if d.unit is process.unit)
        commands = [parse_command(cdb, data) for _, cdb, data in wanted]
        shown = " with ".join(
            self._text(of, command) for (of, _, _), command in zip(wanted, commands, strict=True)
        )
        self.schedule.point(Request("send", shown, ASKS))
        begun = self._tell_time()
        task = self.schedule.current
        assert task is not None
        many = [
            Asked(daemon, of, command, self.newest, begun=begun, task=task.name)
            for (of, _, _), command in zip(wanted, commands, strict=True)
        ]
        self.sent += many
        self.asked += many
        daemon.under_way += many
        if len(wanted) == 1:
            ((of, cdb, data),) = wanted
            results = [
                process.unit.execute(of, cdb, data, report_attentions=False, timeout=TIMEOUT)
            ]
        else:
            results = self._together(process, many)
        self.schedule.point(Request("answer", ", ".join(map(_shown, results)), ANSWERS))
        ended = self._tell_time()
        for sent, result in zip(many, results, strict=True):
            daemon.under_way.remove(sent)
            # Whose tasks end is between the logical unit and its door.
            sent.result = attrs.evolve(result, aborted=frozenset())
            sent.high, sent.ended = self.newest, ended
            self._answered(process, sent)
        return results

    def _together(self, process: Process, many: list[Asked]) -> list[Result]:
        deadline = self.schedule.now + TIMEOUT
        orders = [
            Order(sent.nexus, sent.command, False, deadline, lambda: True, lambda: False)
            for sent in many
        ]
        answers = process.unit.attempt_all(orders)
        return [one.run() if isinstance(one, Narrowing) else one for one in answers]

    def _power_cycle(self, process: Process) -> None:
        self.schedule.point(Request("send", "power cycle", ASKS))
        begun = self._tell_time()
        self.cycles[begun] = (begun, None)
        try:
            process.unit.power_cycle(timeout=TIMEOUT)
        except OutcomeUnknown:
            return
        except StoreError:
            del self.cycles[begun]
            return
        self.schedule.point(Request("answer", "power cycle", ANSWERS))
        self.cycles[begun] = (begun, self._tell_time())

    def _answered(self, process: Process, sent: Sent) -> None:
        """From GOOD on nobody who has lost access reads or writes."""
        assert sent.result is not None
        if sent.result == OUTCOME_UNKNOWN:
            process.pending += [n for n in sent.numbers if n not in process.pending]
        if sent.result.status is Status.GOOD and isinstance(sent.command, PersistentReserveOut):
            for number in (*sent.numbers, *process.pending):
                self._fence(number)
            process.pending.clear()

    def _fence(self, number: int) -> None:
        before, after = (self.truth[n].snapshot.state for n in (number - 1, number))
        for who in map(nexus, ACTORS):
            for cdb in (READ_10, WRITE_10):
                if allowed(before, who, cdb) and not allowed(after, who, cdb):
                    self.fences[who, cdb] = max(self.fences.get((who, cdb), 0), number)

    def observe(self, client: Client, name: str, data: bytes) -> None:
        """See `World.observe`. What is linked must follow from what is there."""
        for process in self.processes.values():
            if name == records.fenced_name(host_number(host_name(process.name))):
                process.spared = 0 if process.permit is None else process.permit._turn
        if not layout.COMMIT_NAME.fullmatch(name):
            return
        document = _document(data)
        demand(int(name[:16]) == document.number, "a commit under another's number")
        if document.number <= self.newest:
            demand(
                self.scenario.pruning or self.truth[document.number].txid == document.txid,
                f"transaction {document.number} was committed twice",
            )
        else:
            before = self.truth[self.newest]
            state, cycled = document.snapshot.state, "POWER CYCLE" in actions(document)
            demand(
                (document.number, document.previous) == (before.number + 1, before.txid),
                f"transaction {document.number} was not decided on {before.number}",
            )
            demand(
                cycled or state.generation >= before.snapshot.state.generation,
                "PRGENERATION went back",
            )
            demand(not invariants.check(state), "an impossible state")
        super().observe(client, name, data)
        for sent in self.carried.get(document.number, ()):
            if sent.result == OUTCOME_UNKNOWN:
                self._landed_late(sent, document.number)

    def _sender_of(self, author: simworld.Daemon, applied: Applied, document: Document) -> Sent:
        """See `World._sender_of`: two tasks of a process may ask for the same."""
        client = author.client
        assert isinstance(client, Host)
        mine = [sent for sent in reversed(self.asked) if sent.task == client.author]
        every, self.sent = self.sent, [*reversed(mine)]
        under_way, author.under_way = author.under_way, []
        try:
            return super()._sender_of(author, applied, document)
        finally:
            self.sent, author.under_way = every, under_way

    def _landed_late(self, unknown: Sent, number: int) -> None:
        """It may, until its process has answered another command: that waits for the outcome."""
        assert isinstance(unknown, Asked)
        demand(
            not any(
                sent.daemon is unknown.daemon and sent.answered and sent.begun > unknown.ended
                for sent in self.asked
            ),
            f"transaction {number} landed after a later command was answered without it",
        )
        self._process_of(unknown).pending.append(number)

    def _process_of(self, sent: Sent) -> Process:
        return next(p for p in self.processes.values() if p.unit is sent.daemon.unit)

    # ------------------------------------------------------------------ reads and writes

    def _transfer(self, process: Process, of: Nexus, *, writes: bool) -> None:
        """What a target does with a READ or WRITE, with BUSY and another try when it has to."""
        permit = process.permit
        assert permit is not None
        for _ in range(3):
            if not permit.enter(self.schedule.now + TIMEOUT):
                self.refused += 1
                return
            try:
                done = self._once(process, permit, of, writes=writes)
            finally:
                permit.leave()
            if done:
                return
        demand(False, "a target cannot read or write although nothing is in its way")

    def _once(self, process: Process, permit: Permit, of: Nexus, *, writes: bool) -> bool:
        assert process.state is not None
        cdb = WRITE_10 if writes else READ_10
        if not allowed(process.state, of, cdb):
            self.refused += 1
            return True
        number = len(of.initiator_port.name) % 7 + 1
        try:
            client = process.client
            if writes:
                client.pwrite(permit.fd, _stamp(of), BLOCK * number)
            else:
                client.pread(permit.fd, BLOCK, BLOCK * number)
        except OSError:
            demand(permit.lost(), "a read or write fails, and the permit is not lost")
            return False
        self._performed(process, of, cdb)
        return True

    def _performed(self, process: Process, of: Nexus, cdb: bytes) -> None:
        if process.permit is not None and process.permit._turn <= process.spared:
            return
        since = self.fences.get((of, cdb), self.begun)
        lets = any(
            allowed(self.truth[n].snapshot.state, of, cdb) for n in range(since, self.newest + 1)
        )
        what = "write" if cdb == WRITE_10 else "read"
        demand(
            lets,
            f"a {what} of {_short(of)} was executed after it had lost access by commit {since}, "
            "which was answered GOOD",
        )
        self.writes.append((process.name, of))

    # ------------------------------------------------------------------ judging

    def judge_all(self) -> None:
        """All replies fit the chain, and an order of all commands explains them."""
        self.judge()
        for sent in self.sent:
            died = self._process_of(sent).dead
            demand(sent.result is not None or died, "a command was never answered")
        judge_history(
            self.asked,
            self.cycles.values(),
            [self.truth[number] for number in sorted(self.truth) if number >= self.begun],
        )

    def finale(self) -> None:
        """All trouble is over: everybody who lives works, and all agree."""
        for name, process in self.processes.items():
            if not process.dead:
                self.schedule.add(f"{name}, at last", name, functools.partial(self._last, process))

    def _last(self, process: Process) -> None:
        self.schedule.sleep(SETTLED)
        (keys,) = self.send(process, asked(("keys", "observer")))
        if self._held_by_the_living():
            demand(keys.status is Status.RESERVATION_CONFLICT, f"READ KEYS is {_shown(keys)}")
            return
        demand(keys.status is Status.GOOD, f"READ KEYS at last is {_shown(keys)}")
        if process is next(p for p in self.processes.values() if not p.dead):
            (result,) = self.send(process, asked((6, f"late-{process.name}", 0, 9)))
            demand(result.status is Status.GOOD, f"REGISTER at last is {_shown(result)}")
        if process.permit is not None and process.spared < 0:
            demand(process.permit.enter(self.schedule.now + 60.0), "nobody can read or write")
            process.permit.leave()

    def _held_by_the_living(self) -> bool:
        """Whether a SPC-2 reservation stands, and somebody stands for its holder."""
        held = self.truth[self.newest].snapshot.state.spc2
        return held is not None and any(
            process.unit._decisions.standing.holds(held.holder, held.slot)
            for process in self.processes.values()
            if not process.dead
        )

    # ------------------------------------------------------------------ text

    def _tell_time(self) -> int:
        self.moment += 1
        return self.moment

    @staticmethod
    def _text(of: Nexus, command: Command) -> str:
        if isinstance(command, PersistentReserveOut):
            keys = command.parameters
            return (
                f"{_short(of)}: PR OUT {command.service_action} key {keys.reservation_key:#x} "
                f"other {keys.service_action_reservation_key:#x}"
            )
        return f"{_short(of)}: {type(command).__name__}"


def _short(of: Nexus) -> str:
    return of.initiator_port.name.rpartition(":")[2]


def _shown(result: Result) -> str:
    if result.status is not Status.CHECK_CONDITION:
        return result.status.name.replace("_", " ")
    return f"CHECK CONDITION {result.sense[2]:02x}/{result.sense[12]:02x}/{result.sense[13]:02x}"


def _stamp(of: Nexus) -> bytes:
    return _short(of).encode().ljust(64, b".")
