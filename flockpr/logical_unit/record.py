"""What the audit trail and the journal say of a command, and who serves whom."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import attrs

from flockpr.core.events import Adopted, Adoption, Event, NexusLoss
from flockpr.core.model import LogicalUnitState, Nexus
from flockpr.core.outcome import Outcome
from flockpr.spc import sense as senses
from flockpr.spc.cdb import (
    Command,
    OtherCommand,
    PersistentReserveIn,
    PersistentReserveOut,
    Release,
    Reserve,
)
from flockpr.spc.codes import InAction, Opcode, OutAction, Status
from flockpr.store.base import Applied, Served, nexus_text
from flockpr.store.document import attention_text
from flockpr.store.provision import event

_IN_NAMES: dict[int, str] = {action: action.name.replace("_", " ") for action in InAction}
_OUT_NAMES: dict[int, str] = {action: action.name.replace("_", " ") for action in OutAction}


def action_name(command: Command) -> str:
    """A command for people: "REGISTER AND IGNORE EXISTING KEY"."""
    match command:
        case PersistentReserveOut(service_action=action):
            return _OUT_NAMES[action]
        case PersistentReserveIn(service_action=action):
            return _IN_NAMES[action]
        case Reserve():
            return "SPC-2 RESERVE"
        case Release():
            return "SPC-2 RELEASE"
        case OtherCommand(opcode=opcode):
            return f"opcode {opcode:02x}h"
    return "refused command"


def command_line(
    nexus: Nexus,
    command: Command,
    before: LogicalUnitState,
    outcome: Outcome,
    *,
    door: str,
    time: str,
) -> Applied:
    """The line of the audit trail, or of the journal, of a command decided at this time."""
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
        door=door,
        time=time,
        raised=_raised(outcome),
    )


def event_line(
    what: Event, action: str, before: LogicalUnitState, outcome: Outcome, *, door: str
) -> Applied:
    """The line of the audit trail of an event."""
    after = outcome.state.generation
    nexus = what.nexus if isinstance(what, NexusLoss) else None
    return attrs.evolve(
        event(action, before.generation, door=door, after=after),
        nexus="" if nexus is None else nexus.initiator_port.text,
        target_port=0 if nexus is None else nexus.target_port,
        raised=_raised(outcome),
    )


def event_lines(
    what: Event, action: str, before: LogicalUnitState, outcome: Outcome, *, door: str
) -> list[Applied]:
    """The lines of the audit trail of an event: one, or one for each registration taken over."""
    line = event_line(what, action, before, outcome, door=door)
    if not isinstance(what, Adoption):
        return [line]
    return [_adopted_line(one, what, line) for one in what.registrations]


def _adopted_line(one: Adopted, what: Adoption, line: Applied) -> Applied:
    held = what.reservation
    holds = held is not None and held.holder in (None, one.nexus)
    return attrs.evolve(
        line,
        nexus=one.nexus.initiator_port.text,
        target_port=one.nexus.target_port,
        service_action_key=one.key,
        type=int(held.type) if held is not None and holds else None,
    )


def worth_noting(command: Command, outcome: Outcome) -> bool:
    """Whether a command that changed nothing goes to the journal: refusals, and those that
    change something only sometimes.
    """
    return outcome.reply.status is not Status.GOOD or isinstance(
        command, PersistentReserveOut | Reserve | Release
    )


def served_after(
    before: Mapping[int, Served], state: LogicalUnitState, nexuses: Collection[Nexus], me: Served
) -> dict[int, Served]:
    """By slot, who serves each registrant from now on: `me` serves these nexuses."""
    served = {r.slot: before[r.slot] for r in state.registrations if r.slot in before}
    for nexus in nexuses:
        registration = state.by_nexus.get(nexus)
        if registration is not None:
            served[registration.slot] = me
    if state.spc2 is not None:
        mine = state.spc2.holder in nexuses
        served[state.spc2.slot] = me if mine else before.get(state.spc2.slot, me)
    return served


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
