"""What holds in every reachable state of a logical unit.

The store runs `check` on what it reads: a document whose checksum is right but whose state
could never have come about was written by something else than `step`, and is refused
rather than repaired.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flockpr.core.model import SLOTS, LogicalUnitState, Nexus, UnitConfig

_MAX_KEY = (1 << 64) - 1
_MAX_GENERATION = (1 << 32) - 1
_MAX_TARGET_PORT = 0xFFFF
_DEFAULT_CONFIG = UnitConfig()


def check(state: LogicalUnitState, config: UnitConfig = _DEFAULT_CONFIG) -> list[str]:
    """Return the invariants that a state breaks, each as a sentence; empty if none.

    Args:
        state: Any state, also one that no command can bring about.
        config: The limits to check against.
    """
    return [
        *_registrations(state, config),
        *_reservation(state),
        *_spc2(state),
        *_attentions(state, config),
        *_counters(state),
    ]


def _registrations(state: LogicalUnitState, config: UnitConfig) -> Iterator[str]:
    registrations = state.registrations
    if len(registrations) > config.max_registrations:
        yield f"{len(registrations)} registrations, more than {config.max_registrations}"
    if _repeated([r.nexus for r in registrations]):
        yield "a nexus is registered twice"  # SPC-4 5.13.7: one key for each I_T nexus
    if _repeated([r.slot for r in registrations]):
        yield "two registrations share a slot"
    for registration in registrations:
        nexus = registration.nexus
        if not 1 <= registration.key <= _MAX_KEY:
            yield f"{_name(nexus)} has a key that is no reservation key"
        if not 0 <= registration.slot < SLOTS:
            yield f"{_name(nexus)} has a slot out of range"
        yield from _nexus(nexus)


def _reservation(state: LogicalUnitState) -> Iterator[str]:
    held = state.reservation
    if held is None:
        return
    if held.type.all_registrants:
        if held.holder is not None:
            yield "an All Registrants reservation names a holder"
        if not state.registrations:
            yield "an All Registrants reservation is left without registrants"
    elif held.holder is None:
        yield "a reservation has no holder"
    elif held.holder not in state.by_nexus:
        yield "the reservation holder is not registered"


def _spc2(state: LogicalUnitState) -> Iterator[str]:
    held = state.spc2
    if held is None:
        return
    if state.registrations or state.reservation is not None:
        yield "a SPC-2 reservation stands beside persistent ones"  # SPC-4 5.13.3
    if not 0 <= held.slot < SLOTS:
        yield "the SPC-2 reservation has a slot out of range"
    yield from _nexus(held.holder)


def _attentions(state: LogicalUnitState, config: UnitConfig) -> Iterator[str]:
    if len(state.attentions) > config.max_pending:
        yield f"{len(state.attentions)} nexuses have attentions, more than {config.max_pending}"
    if _repeated([entry.nexus for entry in state.attentions]):
        yield "a nexus has two queues of attentions"
    for entry in state.attentions:
        if not entry.codes:
            yield f"{_name(entry.nexus)} has an empty queue of attentions"
        if _repeated(entry.codes):
            yield f"{_name(entry.nexus)} has an attention pending twice"
        yield from _nexus(entry.nexus)


def _counters(state: LogicalUnitState) -> Iterator[str]:
    if not 0 <= state.generation <= _MAX_GENERATION:
        yield "PRGENERATION does not have 32 bits"
    if not 0 <= state.next_slot < SLOTS:
        yield "the next slot is out of range"
    if state.power_cycles < 0:
        yield "there were fewer power cycles than none"
    if state.attention_epoch < state.power_cycles:
        yield "the attention epoch is behind the power cycles"
    if state.overflowed and not state.attention_epoch:
        yield "attentions overflowed without an epoch"


def _nexus(nexus: Nexus) -> Iterator[str]:
    if not 1 <= nexus.target_port <= _MAX_TARGET_PORT:
        yield f"{_name(nexus)} has a target port out of range"


def _name(nexus: Nexus) -> str:
    return f"{nexus.initiator_port.text} at target port {nexus.target_port}"


def _repeated(values: Sequence[object]) -> bool:
    return len(set(values)) < len(values)
