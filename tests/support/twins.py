"""The state machine and the second model side by side, and what they disagree on."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Protocol

import attrs

from flockpr.core import access as normal_access
from flockpr.core import events as normal_events
from flockpr.core.events import Event
from flockpr.core.model import LogicalUnitState, Nexus, Reservation, UnitConfig
from flockpr.core.outcome import Outcome, Reply
from flockpr.spc.cdb import Command, parse_command
from flockpr.spc.codes import ReservationType
from flockpr.spc.transport_id import InitiatorPort
from tests.support.model2 import Model2
from tests.support.model2_bytes import Answer, Nexus2
from tests.support.model2_unit import Moved


class Step(Protocol):
    """The signature of `flockpr.core.machine.step`."""

    def __call__(
        self,
        state: LogicalUnitState,
        nexus: Nexus,
        command: Command,
        *,
        config: UnitConfig,
        report_attentions: bool,
        seen_epoch: int | None,
    ) -> Outcome:
        """Decide one command."""


class Occur(Protocol):
    """The signature of `flockpr.core.events.occur`."""

    def __call__(self, state: LogicalUnitState, event: Event, *, config: UnitConfig) -> Outcome:
        """Return what an event does."""


Check = Callable[[LogicalUnitState], list[str]]


@attrs.frozen
class Machine:
    """What is under test; mutants bring their own."""

    step: Step
    occur: Occur
    check: Check
    events: ModuleType = normal_events
    """Whose event classes `occur` knows."""
    access: ModuleType = normal_access
    """Whose table says what a reservation stops."""


@attrs.frozen
class Sent:
    """One command as it goes to both."""

    nexus: Nexus2
    cdb: bytes
    data: bytes = b""
    report: bool = True
    relogin: bool = False
    long_length: bool = True


class DisagreementError(AssertionError):
    """The two say different things about the same command."""


def plain(nexus: Nexus) -> Nexus2:
    """A nexus as the second model writes it."""
    return nexus.initiator_port.name, nexus.initiator_port.isid, nexus.target_port


def typed(nexus: Nexus2) -> Nexus:
    """A nexus as the package writes it."""
    return Nexus(InitiatorPort(nexus[0], nexus[1]), nexus[2])


class Twins:
    """Both, fed with the same bytes.

    Args:
        machine: What is under test.
        config: The unit's limits.
        generation: PRGENERATION to begin with (to see it wrap).
        next_slot: Where the search for a free slot begins (to see it wrap).
    """

    def __init__(
        self, machine: Machine, config: UnitConfig, generation: int = 0, next_slot: int = 0
    ) -> None:
        self.machine = machine
        self.config = config
        self.state = LogicalUnitState(generation=generation, next_slot=next_slot)
        self.model = Model2(config.target_ports, config.max_registrations, config.max_pending)
        self.model.generation = generation
        self.epochs: dict[Nexus2, int | None] = {}

    def send(self, sent: Sent) -> Answer:
        """Run one command on both.

        Raises:
            DisagreementError: They differ.
        """
        before = self.state
        seen = None if sent.relogin else self.epochs.get(sent.nexus)
        epoch = self.model.epoch
        answer = self.model.command(
            sent.nexus,
            sent.cdb,
            sent.data,
            report=sent.report,
            seen_epoch=seen,
            long_length=sent.long_length,
        )
        outcome = self.machine.step(
            before,
            typed(sent.nexus),
            parse_command(sent.cdb, sent.data, long_parameter_length=sent.long_length),
            config=self.config,
            report_attentions=sent.report,
            seen_epoch=seen,
        )
        self.state = outcome.state
        self.epochs[sent.nexus] = outcome.seen_epoch
        where = f"{sent} rows {answer.rows}"
        self._compare_reply(outcome.reply, answer, where)
        raised = {(plain(nexus), int(code)) for nexus, code in outcome.raised}
        _same(raised, answer.raised, "raised", where)
        _same({plain(nexus) for nexus in outcome.aborted}, answer.aborted, "aborted", where)
        self._compare_state(before, epoch, where)
        # Who causes an overflow is no victim of it: it has seen the epoch that comes of it.
        looked = sent.report and not answer.step_one
        current = looked and (answer.caught_up or not answer.behind)
        _same(outcome.seen_epoch, self.model.epoch if current else seen, "epoch seen", where)
        return answer

    def happen(self, event: str, nexus: Nexus2) -> None:
        """Let "power", "reset" or "loss" (of the nexus) happen to both.

        Raises:
            DisagreementError: They differ.
        """
        before, epoch = self.state, self.model.epoch
        happening: Event
        if event == "power":
            happening = self.machine.events.PowerCycle()
            raised = self.model.power_cycle()
        elif event == "reset":
            happening = self.machine.events.LogicalUnitReset()
            raised = self.model.reset()
        else:
            happening = self.machine.events.NexusLoss(typed(nexus))
            raised = self.model.lose(nexus)
        outcome = self.machine.occur(before, happening, config=self.config)
        self.state = outcome.state
        where = f"{event} {nexus}"
        self._compare_reply(outcome.reply, Answer(()), where)
        _same({(plain(of), int(code)) for of, code in outcome.raised}, raised, "raised", where)
        self._compare_state(before, epoch, where)

    def adopt(self, moved: Moved) -> Answer:
        """Let registrations and a reservation of another target come to both.

        Raises:
            DisagreementError: They differ.
        """
        before, epoch = self.state, self.model.epoch
        events = self.machine.events
        held: Reservation | None = None
        if moved.type:
            holder = None if moved.holder is None else typed(moved.holder)
            held = Reservation(ReservationType(moved.type), holder)
        registrations = tuple(
            events.Adopted(typed(nexus), key, everywhere)
            for nexus, key, everywhere in moved.registrations
        )
        happening = events.Adoption(registrations, held, moved.aptpl, moved.generation)
        answer = self.model.adopt(moved)
        outcome = self.machine.occur(before, happening, config=self.config)
        self.state = outcome.state
        where = f"{moved} rows {answer.rows}"
        self._compare_reply(outcome.reply, answer, where)
        _same((*outcome.raised, *outcome.aborted), (), "raised and aborted", where)
        self._compare_state(before, epoch, where)
        return answer

    def _compare_reply(self, reply: Reply, answer: Answer, where: str) -> None:
        _same(int(reply.status), answer.status, "status", where)
        sense = reply.sense
        triple = None if sense is None else (sense.key, sense.asc, sense.ascq)
        _same(triple, answer.sense, "sense", where)
        if answer.pointers is not None and sense is not None:
            pointer = sense.pointer
            shown = pointer and ("cdb" if pointer.in_cdb else "list", pointer.byte, pointer.bit)
            if shown not in answer.pointers:
                raise DisagreementError(f"pointer {shown}, not {answer.pointers}: {where}")
        _same(reply.data, answer.data, "data", where)

    def _compare_state(self, before: LogicalUnitState, epoch: int, where: str) -> None:
        state, model = self.state, self.model
        if model.overflowed and model.epoch > epoch:
            self._adopt_overflow(epoch, where)
        registrations = [(plain(entry.nexus), entry.key) for entry in state.registrations]
        _same(registrations, list(model.keys.items()), "registrations", where)
        everywhere = {plain(r.nexus) for r in state.registrations if r.all_target_ports}
        _same(everywhere, model.everywhere, "ALL_TG_PT", where)
        held = state.reservation
        holder = None if held is None or held.holder is None else plain(held.holder)
        _same((int(held.type) if held else 0, holder), (model.type, model.holder), "held", where)
        spc2 = None if state.spc2 is None else plain(state.spc2.holder)
        _same(spc2, model.spc2, "SPC-2", where)
        _same(state.generation, model.generation, "PRGENERATION", where)
        _same(state.aptpl, model.aptpl, "APTPL", where)
        pending = {plain(entry.nexus): [int(c) for c in entry.codes] for entry in state.attentions}
        _same(pending, model.pending, "pending", where)
        _same(state.attention_epoch, model.epoch, "epoch", where)
        _same(state.overflowed, model.overflowed, "overflowed", where)
        _same(state.power_cycles, model.power_cycles, "power cycles", where)
        _same(state is before, state == before, "identity of an unchanged state", where)
        self._check_slots(before, where)
        broken = self.machine.check(state)
        _same(broken, [], "invariants", where)

    def _adopt_overflow(self, epoch: int, where: str) -> None:
        """Which attentions are dropped is free; that the epoch tells of it is not."""
        state, model = self.state, self.model
        if state.attention_epoch != epoch + 1 or not state.overflowed:
            raise DisagreementError(f"overflow without an epoch: {where}")
        if len(state.attentions) > self.config.max_pending:
            raise DisagreementError(f"more pending than allowed: {where}")
        model.epoch = state.attention_epoch
        model.pending = {plain(e.nexus): [int(c) for c in e.codes] for e in state.attentions}

    def _check_slots(self, before: LogicalUnitState, where: str) -> None:
        """Slots stay with their registration; new ones are the next free, round robin."""
        old = {entry.nexus: entry.slot for entry in before.registrations}
        taken = set(old.values())
        if before.spc2 is not None:
            old[before.spc2.holder] = before.spc2.slot
            taken.add(before.spc2.slot)
        now = {entry.nexus: entry.slot for entry in self.state.registrations}
        if self.state.spc2 is not None:
            now[self.state.spc2.holder] = self.state.spc2.slot
        fresh = sorted((slot for nexus, slot in now.items() if nexus not in old))
        at, expected = before.next_slot, list[int]()
        while len(expected) < len(fresh):
            if at not in taken:
                expected.append(at)
            at = (at + 1) % 65536
        _same(fresh, sorted(expected), "slots given out", where)
        following = (expected[-1] + 1) % 65536 if expected else before.next_slot
        _same(self.state.next_slot, following, "next slot", where)
        kept = {nexus: slot for nexus, slot in now.items() if nexus in old}
        _same(kept, {nexus: old[nexus] for nexus in kept}, "slots kept", where)


def _same(actual: object, expected: object, what: str, where: str) -> None:
    if actual != expected:
        raise DisagreementError(f"{what}: machine {actual}, model {expected}: {where}")
