"""One logical unit: the store and the rules together, in the one order that is safe.

::

    base = store.head()                       # proven newest
    outcome = step(base.state, nexus, command)
    if outcome.state is not base.state:
        store.commit(base, outcome.state)     # compare-and-swap, durable; else decide again
    else:
        store.ensure_durable(base)            # a reply may not tell what a power cut undoes
    return outcome.reply

Every door, the command line and the library go through `LogicalUnit.execute`; nothing else
commits.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import attrs

from flockpr.core.events import Event, NexusLoss, PowerCycle, occur
from flockpr.core.machine import step
from flockpr.core.model import SLOTS, LogicalUnitState, Nexus, UnitConfig
from flockpr.core.outcome import Outcome, Reply
from flockpr.errors import (
    Busy,
    LunNotFound,
    OutcomeUnknown,
    StateLost,
    StoreError,
    StoreUnavailable,
)
from flockpr.spc import sense as senses
from flockpr.spc.cdb import (
    Command,
    OtherCommand,
    PersistentReserveIn,
    PersistentReserveOut,
    Release,
    Reserve,
    parse_command,
)
from flockpr.spc.codes import InAction, Opcode, OutAction, Status
from flockpr.store.base import Applied, AuditRecord, Served, Snapshot, nexus_text
from flockpr.store.clock import utc_now
from flockpr.store.document import attention_text
from flockpr.store.files import NEEDS_A_PERSON
from flockpr.store.identity import LunIdentity, check_label
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import event
from flockpr.unit_status import UnitStatus

log = logging.getLogger(__name__)

SLOT_TRIES = 8
"""How many slots to try for a SPC-2 reservation; without any it is committed all the same."""
MAX_REMEMBERED = 4096
"""Nexuses whose attention epoch one daemon remembers; the longest silent is forgotten."""

_ANSWERED_ALWAYS = frozenset({Opcode.INQUIRY, Opcode.REPORT_LUNS, Opcode.REQUEST_SENSE})
"""Commands that work while the state cannot be read (reference 4.11)."""


@attrs.frozen
class Result:
    """What goes back to the initiator.

    Attributes:
        status: SCSI status.
        sense: Sense data, fixed format, 18 bytes; empty but with CHECK CONDITION.
        data_in: Data-in bytes, at most the allocation length.
    """

    status: Status
    sense: bytes = b""
    data_in: bytes = b""

    @classmethod
    def of(cls, reply: Reply) -> Result:
        """A reply as bytes."""
        return cls(reply.status, reply.sense.fixed() if reply.sense else b"", reply.data)

    @classmethod
    def check(cls, sense: senses.Sense) -> Result:
        """CHECK CONDITION with this sense."""
        return cls(Status.CHECK_CONDITION, sense.fixed())


class LogicalUnit:
    """A logical unit, opened by one door of one process. Thread-safe.

    Args:
        store: Its lock directory; closed with this object.
        door: Name of the door, for the record.
        keep_tidy: Publish and prune at the end of each command; a daemon does that after
            the reply instead, by `tidy`.

    Use as a context manager, or call `close`.
    """

    def __init__(self, store: LockDirectory, *, door: str = "api", keep_tidy: bool = True) -> None:
        self._store = store
        self._door = check_label(door, "door")
        self._keep_tidy = keep_tidy
        self._lock = threading.Lock()
        self._config = UnitConfig(target_ports=store.identity.target_ports)
        self._epochs: dict[Nexus, int | None] = {}
        self._slots: dict[Nexus, int] = {}
        self._lost: StoreError | None = None
        self._told = ""

    @classmethod
    def open(cls, path: str, *, door: str = "api", host: str | None = None) -> LogicalUnit:
        """Open the lock directory ROOT/<lun>.

        Args:
            path: The directory.
            door: Name of the door, for the record.
            host: Name of this host, for the record; the default is the system's.

        Raises:
            ConfigError: `door` or `host` cannot be written into a document.
            LunNotFound: There is no such lock directory.
            StoreError: It cannot be read as ours.
        """
        return cls(LockDirectory(path, host=host), door=door)

    @property
    def identity(self) -> LunIdentity:
        """What `lun.json` says."""
        return self._store.identity

    @property
    def lost(self) -> StoreError | None:
        """Why a daemon's logical unit is no longer what was opened: it was deleted, rolled back,
        or another directory stands in its place.

        Every command is answered with that from then on, also when a directory of the same
        name comes back: only who starts anew may take that for the same disk. A directory
        that is merely missing is not lost. None for one that keeps itself tidy.
        """
        return self._lost

    def close(self) -> None:
        """Let go of locks and descriptors; reservations stay."""
        with self._lock:
            self._store.close()
            self._slots.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ commands

    def execute(
        self,
        nexus: Nexus,
        cdb: bytes,
        data_out: bytes = b"",
        *,
        report_attentions: bool = True,
        long_parameter_length: bool = True,
        timeout: float = 10.0,
        may_issue: Callable[[], bool] | None = None,
    ) -> Result:
        """Carry out one command and answer it; the answer is durable.

        Args:
            nexus: Who sends it.
            cdb: The command descriptor block.
            data_out: Its parameter list.
            report_attentions: Whether pending unit attentions are reported to this nexus.
            long_parameter_length: False where only bytes 7-8 of PERSISTENT RESERVE OUT
                are its length (the helper door).
            timeout: Seconds after which a command that has not begun to commit is BUSY.
            may_issue: Asked immediately before the commit; False makes the command BUSY.

        Returns:
            The result. Whatever goes wrong with the store is one too: BUSY (nothing was
            done), NOT READY, 07/44/01 (the state cannot be read), 05/25/00 (no such LUN),
            ABORTED COMMAND 0B/08/01 (outcome unknown).
        """
        deadline = time.monotonic() + timeout
        command = parse_command(cdb, data_out, long_parameter_length=long_parameter_length)

        def in_time() -> bool:
            return time.monotonic() < deadline and (may_issue is None or may_issue())

        if not self._lock.acquire(timeout=timeout):
            return Result(Status.BUSY)
        try:
            if self._lost is not None:
                return self._failed(self._lost, nexus, command)
            reply = self._decide(nexus, command, report_attentions, in_time)
            self._told = ""
            if self._keep_tidy:
                self._tidy()
            return Result.of(reply)
        except StoreError as error:
            return self._failed(error, nexus, command)
        finally:
            self._lock.release()

    def _decide(
        self, nexus: Nexus, command: Command, report: bool, in_time: Callable[[], bool]
    ) -> Reply:
        ordered = False
        try:
            while True:
                base = self._without_lost_holder(self._store.head(), in_time)
                outcome = step(
                    base.state,
                    nexus,
                    command,
                    config=self._config,
                    report_attentions=report,
                    seen_epoch=self._epochs.get(nexus),
                )
                if outcome.state is base.state:
                    self._store.ensure_durable(base)
                    self._note_unchanged(nexus, command, base, outcome)
                    break
                if not ordered:
                    ordered = True
                    if self._store.order():
                        continue  # others committed while we waited: look again
                after = self._commit(nexus, command, base, outcome, in_time)
                if after is not None:
                    base = after
                    break
        finally:
            if ordered:
                self._store.disorder()
        self._remember(nexus, outcome.seen_epoch)
        self._stand_for(nexus, base.state)
        return outcome.reply

    def _commit(
        self,
        nexus: Nexus,
        command: Command,
        base: Snapshot,
        outcome: Outcome,
        in_time: Callable[[], bool],
    ) -> Snapshot | None:
        if outcome.state.spc2 != base.state.spc2:
            outcome = self._with_free_slot(outcome)
        new = outcome.state.spc2 if outcome.state.spc2 != base.state.spc2 else None
        applied = self._applied(nexus, command, base.state, outcome)
        served = self._served(base.served, outcome.state, nexus)
        wanted = False
        try:
            after = self._store.commit(
                base, outcome.state, [applied], served=served, may_issue=in_time
            )
            wanted = after is not None
        except OutcomeUnknown:
            wanted = True
            raise
        finally:
            if new is not None and wanted:
                self._stand_in(nexus, new.slot)
            elif new is not None:
                self._store.drop(new.slot)  # or it would stand for another one's reservation
        return after

    def _with_free_slot(self, outcome: Outcome) -> Outcome:
        """Hold the range of a new SPC-2 reservation before it is committed, because a holder
        whose range is free counts as a lost nexus. The next slot may be held by a daemon
        that decided the same at the same time; when that one has lost and lets go, the range
        must not be the winner's.
        """
        for _ in range(SLOT_TRIES):
            held = outcome.state.spc2
            if held is None or self._store.hold(held.slot):
                break
            slot = (held.slot + 1) % SLOTS
            state = attrs.evolve(
                outcome.state,
                spc2=attrs.evolve(held, slot=slot),
                next_slot=(slot + 1) % SLOTS,
            )
            outcome = attrs.evolve(outcome, state=state)
        return outcome

    def _without_lost_holder(self, base: Snapshot, in_time: Callable[[], bool]) -> Snapshot:
        """Free a SPC-2 reservation whose holder's nexus is lost (reference 1.4).

        Whoever serves the holder holds its byte range; being able to take it means that
        nobody does.
        """
        while True:
            spc2 = base.state.spc2
            if spc2 is None or self._slots.get(spc2.holder) == spc2.slot:
                return base
            if not self._store.hold(spc2.slot):
                return base
            try:
                after = self._apply_event(base, NexusLoss(spc2.holder), "NEXUS LOSS", in_time)
            finally:
                self._store.drop(spc2.slot)
            base = after or self._store.head()

    def _apply_event(
        self, base: Snapshot, what: Event, action: str, in_time: Callable[[], bool]
    ) -> Snapshot | None:
        outcome = occur(base.state, what, config=self._config)
        if outcome.state is base.state:
            return base
        applied = attrs.evolve(
            event(
                action,
                base.state.generation,
                door=self._door,
                after=outcome.state.generation,
            ),
            nexus=what.nexus.initiator_port.text if isinstance(what, NexusLoss) else "",
            target_port=what.nexus.target_port if isinstance(what, NexusLoss) else 0,
            raised=_raised(outcome),
        )
        served = self._served(base.served, outcome.state, None)
        return self._store.commit(base, outcome.state, [applied], served=served, may_issue=in_time)

    # ------------------------------------------------------------------ presence

    def attend(self, nexus: Nexus) -> bool:
        """A door says that this nexus is connected: stand for its registration.

        Returns:
            False if the state could not be read: say it again later.
        """
        with self._lock:
            if self._lost is not None:
                return True  # there will be nothing to stand for
            try:
                state = self._store.head().state
            except StoreError as error:
                self._note_lost(error)
                if str(error) != self._told:  # it is said again before each command
                    log.warning("%s", error)
                return False
            if nexus not in self._epochs and not state.overflowed:
                # Logged in: a power cycle from here on concerns it, before its first command.
                self._remember(nexus, state.attention_epoch)
            self._stand_for(nexus, state)
            return True

    def leave(self, nexus: Nexus) -> None:
        """A door says that this nexus is gone. Its registration and reservation stay
        (SPC-4 5.13.5); a SPC-2 reservation of its ends.
        """
        with self._lock:
            self._epochs.pop(nexus, None)
            slot = self._slots.pop(nexus, None)
            try:
                if slot is not None and self._lost is None:
                    self._lose(nexus, slot)
            except StoreError as error:
                self._note_lost(error)
                log.warning("%s", error)

    def _lose(self, nexus: Nexus, slot: int) -> None:
        try:
            while True:
                base = self._store.head()
                if base.state.spc2 is None or base.state.spc2.holder != nexus:
                    return
                if self._apply_event(base, NexusLoss(nexus), "NEXUS LOSS", lambda: True):
                    return
        finally:
            self._store.drop(slot)

    def _stand_for(self, nexus: Nexus, state: LogicalUnitState) -> None:
        """Hold the byte range of a nexus that has one, and only that."""
        registration = state.by_nexus.get(nexus)
        slot = None if registration is None else registration.slot
        if state.spc2 is not None and state.spc2.holder == nexus:
            slot = state.spc2.slot
        if slot is not None:
            self._stand_in(nexus, slot)
        elif nexus in self._slots:
            self._store.drop(self._slots.pop(nexus))

    def _stand_in(self, nexus: Nexus, slot: int) -> None:
        """Hold this slot for a nexus instead of the one before; again and again, because the
        daemon that it migrates from may still have it now.
        """
        before = self._slots.get(nexus)
        if before not in (None, slot):
            self._store.drop(before)
        self._slots[nexus] = slot
        if not self._store.hold(slot) and before != slot:
            log.warning(
                "%s: another daemon stands for %s too: a migration under way, or the "
                "same initiator name twice",
                self.identity.name,
                nexus_text(nexus),
            )

    def _remember(self, nexus: Nexus, epoch: int | None) -> None:
        self._epochs.pop(nexus, None)
        self._epochs[nexus] = epoch
        if len(self._epochs) > MAX_REMEMBERED:
            del self._epochs[next(iter(self._epochs))]

    # ------------------------------------------------------------------ administration

    def power_cycle(self, *, timeout: float = 10.0) -> Snapshot:
        """Power off and on: drops what APTPL=0 does not keep, zeroes PRGENERATION.

        Works while daemons serve the LUN: they see it with their next command.

        Raises:
            StoreError: It could not be done; see `Store.commit`.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            while True:
                base = self._store.head()
                in_time = _until(deadline)
                after = self._apply_event(base, PowerCycle(), "POWER CYCLE", in_time)
                if after is not None:
                    self._tidy()
                    return after

    def status(self) -> UnitStatus:
        """The state and who is alive, for people.

        Raises:
            StoreError: The state cannot be read.
        """
        with self._lock:
            return UnitStatus.of(self.identity, self._store.head(), self._store)

    def lock_fault(self) -> StoreError | None:
        """Why liveness is unknown, if the lock file cannot be opened; for people."""
        with self._lock:
            return self._store.lock_fault()

    def snapshot(self) -> Snapshot:
        """The newest transaction.

        Raises:
            StoreError: It cannot be read.
        """
        with self._lock:
            return self._store.head()

    def history(self, since: int = 1) -> Iterator[AuditRecord]:
        """The audit trail from transaction `since` on, or from where history begins.

        Raises:
            StoreError: It cannot be read.
        """
        records = self._store.history(since)
        while True:
            with self._lock:  # reading it uses what commands use
                some = list(itertools.islice(records, 256))
            if not some:
                return
            yield from some

    def history_begins(self) -> int:
        """Number of the oldest transaction that the audit trail still has.

        Raises:
            StoreError: It cannot be read.
        """
        with self._lock:
            return self._store.history_begins()

    def refusals(self) -> Iterator[dict[str, Any]]:
        """Commands that were refused or changed nothing, from all daemons' journals."""
        return self._store.refusals()

    def tidy(self) -> None:
        """Publish, archive and prune; a daemon calls it between commands. Never raises."""
        with self._lock:
            if self._lost is None:
                self._tidy()

    def _tidy(self) -> None:
        for slot in self._slots.values():
            self._store.hold(slot)  # lost with a lease, or another daemon's until now
        self._store.tidy()

    # ------------------------------------------------------------------ the record

    def _served(
        self, before: Mapping[int, Served], state: LogicalUnitState, nexus: Nexus | None
    ) -> dict[int, Served]:
        served = {r.slot: before[r.slot] for r in state.registrations if r.slot in before}
        registration = None if nexus is None else state.by_nexus.get(nexus)
        me = Served(self._store.host, self._store.daemon, self._door)
        if registration is not None:
            served[registration.slot] = me
        if state.spc2 is not None:
            mine = state.spc2.holder == nexus
            served[state.spc2.slot] = me if mine else before.get(state.spc2.slot, me)
        return served

    def _applied(
        self, nexus: Nexus, command: Command, before: LogicalUnitState, outcome: Outcome
    ) -> Applied:
        parameters = command.parameters if isinstance(command, PersistentReserveOut) else None
        reply = outcome.reply
        action = action_name(command)
        if reply.sense is not None and reply.sense.key == senses.UNIT_ATTENTION:
            action = f"UNIT ATTENTION {reply.sense.asc:02x}/{reply.sense.ascq:02x}"
        return Applied(
            nexus=nexus.initiator_port.text,
            target_port=nexus.target_port,
            action=action,
            opcode=_opcode(command),
            key=parameters.reservation_key if parameters else None,
            service_action_key=parameters.service_action_reservation_key if parameters else None,
            type=command.type if isinstance(command, PersistentReserveOut) else None,
            status=int(reply.status),
            generation_before=before.generation,
            generation_after=outcome.state.generation,
            door=self._door,
            time=utc_now(),
            raised=_raised(outcome),
        )

    def _note_unchanged(
        self, nexus: Nexus, command: Command, base: Snapshot, outcome: Outcome
    ) -> None:
        """Refusals, and commands that change something only sometimes, go to the journal."""
        if outcome.reply.status is Status.GOOD and not isinstance(
            command, PersistentReserveOut | Reserve | Release
        ):
            return
        if isinstance(command, OtherCommand) and outcome.reply.status is Status.GOOD:
            return
        self._store.note_refusal(self._applied(nexus, command, base.state, outcome))

    # ------------------------------------------------------------------ failures

    def _failed(self, error: StoreError, nexus: Nexus, command: Command) -> Result:
        """Fail closed: what cannot be read is never answered as empty."""
        self._note_lost(error)
        # Once, until a command is answered: a guest that is told so asks a hundred times a
        # second. An unknown outcome is one of that command, and for a person to look into.
        known = str(error) == self._told and not isinstance(error, OutcomeUnknown)
        self._told = str(error)
        level = logging.DEBUG if known else logging.ERROR
        log.log(level, "%s from %s: %s", action_name(command), nexus_text(nexus), error)
        if isinstance(command, OtherCommand) and command.opcode in _ANSWERED_ALWAYS:
            return Result(Status.GOOD)
        return failure(error)

    def _note_lost(self, error: StoreError) -> None:
        """For a daemon's: whoever keeps it tidy lets go of its files, and it stays lost."""
        if not self._keep_tidy and isinstance(error, StateLost | LunNotFound):
            self._lost = error


def failure(error: StoreError) -> Result:
    """What an initiator is told of a store's failure."""
    match error:
        case Busy():
            return Result(Status.BUSY)
        case OutcomeUnknown():
            return Result.check(senses.OUTCOME_UNKNOWN)
        case LunNotFound():
            return Result.check(senses.LUN_NOT_SUPPORTED)
        case StoreUnavailable(errno=errno) if errno in NEEDS_A_PERSON:
            return Result.check(senses.NOT_READY_INTERVENTION)
        case StoreUnavailable():
            return Result.check(senses.NOT_READY_BECOMING)
    return Result.check(senses.RESERVATION_INFORMATION_LOST)


def action_name(command: Command) -> str:
    """A command for people: "REGISTER AND IGNORE EXISTING KEY"."""
    match command:
        case PersistentReserveOut(service_action=action):
            return OutAction(action).name.replace("_", " ")
        case PersistentReserveIn(service_action=action):
            return InAction(action).name.replace("_", " ")
        case Reserve():
            return "SPC-2 RESERVE"
        case Release():
            return "SPC-2 RELEASE"
        case OtherCommand(opcode=opcode):
            return f"opcode {opcode:02x}h"
    return "refused command"


def _opcode(command: Command) -> int | None:
    match command:
        case PersistentReserveOut():
            return int(Opcode.PERSISTENT_RESERVE_OUT)
        case PersistentReserveIn():
            return int(Opcode.PERSISTENT_RESERVE_IN)
        case Reserve(opcode=opcode) | Release(opcode=opcode) | OtherCommand(opcode=opcode):
            return int(opcode)
    return None


def _raised(outcome: Outcome) -> tuple[str, ...]:
    return tuple(f"{nexus_text(nexus)} {attention_text(code)}" for nexus, code in outcome.raised)


def _until(deadline: float) -> Callable[[], bool]:
    return lambda: time.monotonic() < deadline
