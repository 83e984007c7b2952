"""The loop of every command and event: decide on the head, commit, or decide again."""

from __future__ import annotations

from collections.abc import Callable

from flockpr.core.access import narrows
from flockpr.core.events import Event, NexusLoss, occur
from flockpr.core.machine import step
from flockpr.core.model import LogicalUnitState, Nexus, UnitConfig
from flockpr.core.outcome import Outcome
from flockpr.errors import OutcomeUnknown
from flockpr.gate import Held
from flockpr.logical_unit.record import command_line, event_line, served_after, worth_noting
from flockpr.logical_unit.standing import Standing
from flockpr.spc.cdb import Command, PersistentReserveOut, Release, Reserve
from flockpr.spc.codes import Status
from flockpr.store.base import Served, Snapshot
from flockpr.store.lockdir import LockDirectory

MAX_REMEMBERED = 4096
"""Nexuses whose attention epoch one daemon remembers; the longest silent is forgotten."""


_unproven: set[str] = set()
"""Incarnations of the logical units that are unproven; for all doors of the process."""


class NeedsGate(Exception):
    """What would be committed takes access away: only with the gate held. Nothing was done."""


class Decisions:
    """What is decided and committed for one opened logical unit. Called with its lock held.

    Args:
        store: Its lock directory.
        door: Name of the door, for the record.
        gated: It has an image, so that somebody may be reading and writing.

    Attributes:
        config: The limits of the logical unit.
        standing: The byte ranges of those who are connected.
    """

    def __init__(self, store: LockDirectory, door: str, *, gated: bool) -> None:
        self.config = UnitConfig(target_ports=store.identity.target_ports)
        self.standing = Standing(store)
        self._store = store
        self._door = door
        self._gated = gated
        self._epochs: dict[Nexus, int | None] = {}

    def decide(
        self,
        nexus: Nexus,
        command: Command,
        *,
        report: bool,
        in_time: Callable[[], bool],
        held: Held | None,
    ) -> Outcome:
        """Carry out one command; its outcome is durable.

        Args:
            nexus: Who sends it.
            command: The command.
            report: Whether pending unit attentions are reported to this nexus.
            in_time: Asked immediately before the commit.
            held: The gate, if it is held.

        Raises:
            NeedsGate: It is not, and has to be.
            StoreError: See `Store.commit`.
        """
        ordered = False
        try:
            while True:
                base = self._without_lost_holder(self._store.head(), in_time, held)
                outcome = step(
                    base.state,
                    nexus,
                    command,
                    config=self.config,
                    report_attentions=report,
                    seen_epoch=self._epochs.get(nexus),
                )
                self._check_gate(base.state, outcome, command, held)
                if outcome.state is base.state:
                    self._store.ensure_durable(base)
                    if worth_noting(command, outcome):
                        line = command_line(nexus, command, base.state, outcome, door=self._door)
                        self._store.note_refusal(line)
                    break
                if not ordered:
                    ordered = True
                    if self._store.order():
                        continue  # others committed while we waited: look again
                after = self._commit(nexus, command, base, outcome, in_time=in_time, held=held)
                if after is not None:
                    base = after
                    break
        finally:
            if ordered:
                self._store.disorder()
        self.remember(nexus, outcome.seen_epoch)
        self.standing.stand_for(nexus, base.state)
        return outcome

    def apply(
        self, what: Event, action: str, in_time: Callable[[], bool], held: Held | None
    ) -> Snapshot:
        """Commit what an event does, unless it changes nothing.

        Raises:
            NeedsGate: The gate is not held, and has to be.
            StoreError: See `Store.commit`.
        """
        while True:
            after = self._apply_to(self._store.head(), what, action, in_time, held)
            if after is not None:
                return after

    def lose(self, nexus: Nexus, slot: int) -> None:
        """A nexus is gone, and what ends with it: a SPC-2 reservation. The slot is dropped."""
        try:
            while True:
                base = self._store.head()
                if base.state.spc2 is None or base.state.spc2.holder != nexus:
                    return
                if self._apply_to(base, NexusLoss(nexus), "NEXUS LOSS", lambda: True, None):
                    return
        finally:
            self._store.drop(slot)

    def remembers(self, nexus: Nexus) -> bool:
        """Whether it is known which attention epoch this nexus was shown."""
        return nexus in self._epochs

    def remember(self, nexus: Nexus, epoch: int | None) -> None:
        """It was shown this one."""
        self._epochs.pop(nexus, None)
        self._epochs[nexus] = epoch
        if len(self._epochs) > MAX_REMEMBERED:
            del self._epochs[next(iter(self._epochs))]

    def forget(self, nexus: Nexus) -> None:
        """It logged out."""
        self._epochs.pop(nexus, None)

    @property
    def unproven(self) -> bool:
        """Whether a change that took access away was committed by this process, or may have
        been, and it is not known that nobody went on by the state before.
        """
        return self._store.identity.incarnation in _unproven

    @unproven.setter
    def unproven(self, unproven: bool) -> None:
        (_unproven.add if unproven else _unproven.discard)(self._store.identity.incarnation)

    # ------------------------------------------------------------------ steps

    def _check_gate(
        self, before: LogicalUnitState, outcome: Outcome, command: Command | None, held: Held | None
    ) -> None:
        """Whether this may be done as things are: with the gate held, or without the need.

        A command that finds done what it asks for depends on the one that did it, as one that
        reads depends on a commit being durable: while that one is unproven, so is this.

        PREEMPT AND ABORT takes the gate also where it leaves everybody their access, when no
        reservation remains: the commands that it ends may be under way in any target.

        Raises:
            NeedsGate: It may not.
        """
        if not self._gated:
            return
        asserts = outcome.reply.status is Status.GOOD and isinstance(
            command, PersistentReserveOut | Reserve | Release
        )
        aborts = bool(outcome.aborted)
        if (self.unproven and asserts) or aborts or narrows(before, outcome.state):
            if held is None:
                raise NeedsGate
            held.committed = True

    def _commit(
        self,
        nexus: Nexus,
        command: Command,
        base: Snapshot,
        outcome: Outcome,
        *,
        in_time: Callable[[], bool],
        held: Held | None,
    ) -> Snapshot | None:
        if outcome.state.spc2 != base.state.spc2:
            outcome = self.standing.with_free_slot(outcome)
        new = outcome.state.spc2 if outcome.state.spc2 != base.state.spc2 else None
        applied = command_line(nexus, command, base.state, outcome, door=self._door)
        served = served_after(base.served, outcome.state, nexus, self._me())
        wanted = False
        try:
            after = self._store.commit(
                base, outcome.state, [applied], served=served, may_issue=in_time
            )
            wanted = after is not None
        except OutcomeUnknown:
            wanted = True
            # It may land when the gate is open again.
            self.unproven = self.unproven or held is not None
            raise
        finally:
            if new is not None and wanted:
                self.standing.stand_in(nexus, new.slot)
            elif new is not None:
                self._store.drop(new.slot)  # or it would stand for another one's reservation
        return after

    def _without_lost_holder(
        self, base: Snapshot, in_time: Callable[[], bool], held: Held | None
    ) -> Snapshot:
        """Free a SPC-2 reservation whose holder's nexus is lost (reference 1.4).

        Whoever serves the holder holds its byte range; being able to take it means that
        nobody does.
        """
        while True:
            spc2 = base.state.spc2
            if spc2 is None or self.standing.holds(spc2.holder, spc2.slot):
                return base
            if not self._store.hold(spc2.slot):
                return base
            try:
                what = NexusLoss(spc2.holder)
                after = self._apply_to(base, what, "NEXUS LOSS", in_time, held)
            finally:
                self._store.drop(spc2.slot)
            base = after or self._store.head()

    def _apply_to(
        self,
        base: Snapshot,
        what: Event,
        action: str,
        in_time: Callable[[], bool],
        held: Held | None,
    ) -> Snapshot | None:
        outcome = occur(base.state, what, config=self.config)
        if outcome.state is base.state:
            return base
        self._check_gate(base.state, outcome, None, held)
        applied = event_line(what, action, base.state, outcome, door=self._door)
        served = served_after(base.served, outcome.state, None, self._me())
        return self._store.commit(base, outcome.state, [applied], served=served, may_issue=in_time)

    def _me(self) -> Served:
        return Served(self._store.host, self._store.daemon, self._door)
