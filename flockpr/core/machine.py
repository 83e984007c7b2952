"""The state machine of one logical unit: one pure function, `step`.

Theory of operation
===================

There is one machine per logical unit. It sees a state, a nexus and a command, and gives
the next state and a reply. It reads no clock, does no I/O, keeps nothing between calls and
never learns which door a command came through: the same state and the same command give
the same outcome on every host. That is what lets hosts decide one after the other, each on
the state that the one before has committed.

Two questions are decided apart, because the second has to know the answer to the first:

1. What would the command come to if no unit attention were pending? `prout`, `prin`,
   `spc2` and `access` answer that, each for its commands, and make the next state.
2. Does a unit attention come first? `step` answers that, and then throws the first answer
   away: a command that reports an attention is not performed.

Status precedence (SAM-5 5.3.3; the order in which `step` looks):

* a command that is not implemented, or that is refused whoever sends it: CHECK CONDITION.
  It neither reports nor clears an attention;
* INQUIRY and REPORT LUNS: performed, attentions stay. REQUEST SENSE: GOOD, and the
  attention is its data;
* a pending attention of the reset class (29/xx): CHECK CONDITION with it;
* RESERVATION CONFLICT, whatever the reason: not registered, wrong key, held by another, a
  key that nobody has. The victim of a preempt whose WRITE conflicts keeps its 2A/05 for
  its next command that does not;
* any other pending attention: CHECK CONDITION with it;
* everything else: the faults of the command, or GOOD.

When the outcome is GOOD, PRGENERATION and the queues of the victims are brought up to date
here and nowhere else. A refused command leaves the state as it is, and `Outcome.state` is
then the very object that came in; the store commits exactly when it is another one.

One PERSISTENT RESERVE OUT is one indivisible act, with SPEC_I_PT and ALL_TG_PT as well:
either all its registrations are in the next state or none.
"""

from __future__ import annotations

from typing import TypeAlias

from flockpr.core import access, attention, prin, prout, spc2
from flockpr.core.events import (
    Adopted,
    Adoption,
    Event,
    LogicalUnitReset,
    NexusLoss,
    PowerCycle,
    occur,
)
from flockpr.core.model import LogicalUnitState, Nexus, UnitConfig
from flockpr.core.outcome import Outcome, Reply, conflict, refuse
from flockpr.spc.cdb import (
    Command,
    OtherCommand,
    PersistentReserveIn,
    PersistentReserveOut,
    Refused,
    Release,
    Reserve,
)
from flockpr.spc.codes import InAction, Opcode, OutAction, Status
from flockpr.spc.pr_in import truncate
from flockpr.spc.sense import INVALID_SERVICE_ACTION, Sense
from flockpr.spc.sense import attention as attention_sense

__all__ = [
    "Adopted",
    "Adoption",
    "Event",
    "LogicalUnitReset",
    "NexusLoss",
    "Outcome",
    "PowerCycle",
    "Reply",
    "occur",
    "step",
]

_DEFAULT_CONFIG = UnitConfig()

_COUNTED = frozenset(OutAction) - {OutAction.RESERVE, OutAction.RELEASE}
"""The service actions that PRGENERATION counts when they are GOOD (SPC-4 6.15.2)."""

_IN_ACTIONS = frozenset(InAction)
_OUT_ACTIONS = frozenset(OutAction)

_SILENT = frozenset((Opcode.INQUIRY, Opcode.REPORT_LUNS))
"""Performed with an attention pending, which they neither report nor clear."""

_Decidable: TypeAlias = (
    PersistentReserveIn | PersistentReserveOut | Reserve | Release | OtherCommand
)


def step(
    state: LogicalUnitState,
    nexus: Nexus,
    command: Command,
    *,
    config: UnitConfig = _DEFAULT_CONFIG,
    report_attentions: bool = True,
    seen_epoch: int | None = None,
) -> Outcome:
    """Decide one command; total: no command makes it raise.

    For `OtherCommand` GOOD without data means that the command is admitted and that the
    door may perform it. Whether the target implements it is the door's to know, before it
    asks (05/20/00 comes whether there is a reservation or not).

    Args:
        state: The committed state.
        nexus: Who sends it.
        command: What `parse_command` made of it.
        config: The logical unit's limits and target ports.
        report_attentions: False for a door that reports none: what is pending then stays
            pending. What the command raises for others is raised all the same.
        seen_epoch: `Outcome.seen_epoch` of this nexus's last command at this door; None if
            the door does not know the nexus.

    Returns:
        The outcome; its reply must not leave before its state is durable.
    """
    if isinstance(command, Refused) or not _implemented(command):
        sense = command.sense if isinstance(command, Refused) else INVALID_SERVICE_ACTION
        return refuse(state, sense).shown(seen_epoch)
    outcome = _decide(state, nexus, command, config)
    if not report_attentions:
        return outcome.shown(seen_epoch)
    told = _tell(state, nexus, command, outcome.reply.status, seen_epoch)
    if told is not None:
        return told.shown(state.attention_epoch)
    if attention.up_to_date(state, seen_epoch):
        # Also beyond an epoch that this very command began: whatever attentions did not
        # fit in were for others.
        seen_epoch = outcome.state.attention_epoch
    return outcome.shown(seen_epoch)


def _implemented(command: _Decidable) -> bool:
    """Tell whether the service action exists ; asked before all that hangs on the state."""
    match command:
        case PersistentReserveIn(service_action=action):
            return action in _IN_ACTIONS
        case PersistentReserveOut(service_action=action):
            return action in _OUT_ACTIONS
    return True


def _decide(
    state: LogicalUnitState, nexus: Nexus, command: _Decidable, config: UnitConfig
) -> Outcome:
    """Decide a command as though no attention were pending for its sender."""
    match command:
        case PersistentReserveOut():
            return _persistent_reserve_out(state, nexus, command, config)
        case PersistentReserveIn():
            return prin.decide(state, command, config)
        case Reserve():
            return spc2.reserve(state, nexus)
        case Release():
            return spc2.release(state, nexus)
        case OtherCommand(cdb=cdb):
            return Outcome(state) if access.allowed(state, nexus, cdb) else conflict(state)


def _persistent_reserve_out(
    state: LogicalUnitState, nexus: Nexus, command: PersistentReserveOut, config: UnitConfig
) -> Outcome:
    """Decide it, and if it is GOOD count it and queue what it raises for others."""
    outcome = prout.decide(state, nexus, command, config)
    if outcome.reply.status is not Status.GOOD:
        return outcome
    after = attention.queue(outcome.state, outcome.raised, config.max_pending)
    if command.service_action in _COUNTED:
        # Once, however many registrations it made or removed; 32 bits, then 0 again.
        after = after.having(generation=(after.generation + 1) & 0xFFFF_FFFF)
    return Outcome(after, outcome.reply, outcome.raised, outcome.aborted)


def _tell(
    state: LogicalUnitState,
    nexus: Nexus,
    command: _Decidable,
    status: Status,
    seen_epoch: int | None,
) -> Outcome | None:
    """Report a pending attention instead of performing the command (SAM-5 5.14, 5.3.3).

    Args:
        state: The state before the command.
        nexus: Who sends it.
        command: The command.
        status: What it would come to without attentions.
        seen_epoch: As in `step`.

    Returns:
        The outcome that reports and clears the most urgent one, or None if none is
        pending or the command goes before it.
    """
    waiting = attention.pending(state, nexus, seen_epoch)
    opcode = command.opcode if isinstance(command, OtherCommand) else None
    if not waiting or opcode in _SILENT:
        return None
    code = attention.most_urgent(waiting)
    sense = attention_sense(code)
    if isinstance(command, OtherCommand) and opcode == Opcode.REQUEST_SENSE:
        data = _sense_data(command.cdb, sense)
        return Outcome(attention.clear(state, nexus, code), Reply(data=data)) if data else None
    if status is Status.RESERVATION_CONFLICT and not code.reset_class:
        return None
    return refuse(attention.clear(state, nexus, code), sense)


def _sense_data(cdb: bytes, sense: Sense) -> bytes:
    """Return what REQUEST SENSE sends: nothing when its allocation length is 0.

    DESC=1 (byte 1 bit 0) asks for the descriptor format (SPC-4 6.37).
    """
    padded = cdb[:5].ljust(5, b"\0")
    data = sense.descriptor() if padded[1] & 1 else sense.fixed()
    return truncate(data, padded[4])
