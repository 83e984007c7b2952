"""What befalls a logical unit without a command: power, resets, lost nexuses."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from flockpr.core import spc2
from flockpr.core.attention import queue
from flockpr.core.invariants import check
from flockpr.core.model import (
    LogicalUnitState,
    Nexus,
    PendingAttentions,
    Reservation,
    UnitConfig,
)
from flockpr.core.outcome import Outcome, conflict, refuse
from flockpr.core.registry import enrol
from flockpr.spc.codes import Attention
from flockpr.spc.sense import (
    INSUFFICIENT_REGISTRATION_RESOURCES,
    INVALID_FIELD_IN_PARAMETER_LIST,
)

_DEFAULT_CONFIG = UnitConfig()


@attrs.frozen
class PowerCycle:
    """The logical unit lost power and came back; never the same as a host's crash."""


@attrs.frozen
class LogicalUnitReset:
    """A LOGICAL UNIT RESET or a target reset."""


@attrs.frozen
class NexusLoss:
    """A nexus logged out or its connection was lost."""

    nexus: Nexus


@attrs.frozen
class Adopted:
    """A registration that another target had."""

    nexus: Nexus
    key: int
    all_target_ports: bool = False


@attrs.frozen
class Adoption:
    """An administrator moves in what was registered and reserved at another target.

    Attributes:
        registrations: In order of registration; each nexus once.
        reservation: The reservation, if there was one.
        aptpl: Whether it is to outlive a power cycle (PTPL_A).
        generation: PRGENERATION there; None where that is not known. Where it is not above the
            one here, it counts on here: it tells initiators that registrations have changed.
    """

    registrations: tuple[Adopted, ...]
    reservation: Reservation | None
    aptpl: bool
    generation: int | None = None


Event: TypeAlias = PowerCycle | LogicalUnitReset | NexusLoss | Adoption


def occur(
    state: LogicalUnitState, event: Event, *, config: UnitConfig = _DEFAULT_CONFIG
) -> Outcome:
    """Return what an event does; `Outcome.state` is `state` exactly if nothing changed.

    All but an `Adoption` happen whatever the state is, and are GOOD.

    Args:
        state: The state.
        event: What happened.
        config: The logical unit's limits.
    """
    match event:
        case PowerCycle():
            return _power_cycle(state, config)
        case LogicalUnitReset():
            return _reset(state, config)
        case NexusLoss(nexus):
            # Registrations and reservation outlive a logout (SPC-4 5.13.5).
            return Outcome(spc2.freed(state, nexus))
        case Adoption():
            return _adopt(state, event, config)


def _power_cycle(state: LogicalUnitState, config: UnitConfig) -> Outcome:
    """Power on (SPC-4 5.13.5, APTPL).

    What was pending is replaced by 29/00, which says more. Every nexus that the state names
    finds it in the queue; one that was only logged in finds it by the epoch, through the
    door that remembers it. If there are more names than places, the registered ones come
    first and the others are strangers to whom `overflowed` speaks.
    """
    named = _named(state)
    kept = named[: config.max_pending]
    after = attrs.evolve(
        state,
        generation=0,
        registrations=state.registrations if state.aptpl else (),
        reservation=state.reservation if state.aptpl else None,
        spc2=None,
        attentions=tuple(PendingAttentions(nexus, (Attention.POWER_ON,)) for nexus in kept),
        attention_epoch=state.attention_epoch + 1,
        overflowed=len(kept) < len(named),
        power_cycles=state.power_cycles + 1,
    )
    return Outcome(after, raised=tuple((nexus, Attention.POWER_ON) for nexus in named))


def _reset(state: LogicalUnitState, config: UnitConfig) -> Outcome:
    """Logical unit reset: frees the SPC-2 reservation, no other (SPC-4 5.13.5).

    29/03 goes to every nexus that the state names. Nexuses that are only logged in are not
    known here, and raising the epoch for them would tell them 29/00, so their door, which
    knows them, has to tell them of the reset if it wants to.
    """
    raised = tuple((nexus, Attention.LOGICAL_UNIT_RESET) for nexus in _named(state))
    after = state if state.spc2 is None else attrs.evolve(state, spc2=None)
    return Outcome(queue(after, raised, config.max_pending), raised=raised)


def _adopt(state: LogicalUnitState, adoption: Adoption, config: UnitConfig) -> Outcome:
    """Take over another target's registrations: all or none, and only where nobody has any.

    Nobody is told by a unit attention: nobody lost a registration or a reservation here. Who
    has no access any more meets RESERVATION CONFLICT, as after a RESERVE.
    """
    if state.registrations or state.reservation is not None or state.spc2 is not None:
        return conflict(state)
    after = state
    for one in adoption.registrations:
        if one.nexus in after.by_nexus or one.nexus.target_port not in config.target_ports:
            return refuse(state, INVALID_FIELD_IN_PARAMETER_LIST)
        enrolled = enrol(
            after,
            (one.nexus,),
            one.key,
            all_target_ports=one.all_target_ports,
            limit=config.max_registrations,
        )
        if enrolled is None:
            return refuse(state, INSUFFICIENT_REGISTRATION_RESOURCES)
        after = enrolled
    known = adoption.generation
    counted = (state.generation + 1) & 0xFFFF_FFFF
    after = attrs.evolve(
        after,
        reservation=adoption.reservation,
        aptpl=adoption.aptpl,
        generation=counted if known is None or known <= state.generation else known,
    )
    if not adoption.registrations or check(after, config):
        return refuse(state, INVALID_FIELD_IN_PARAMETER_LIST)
    return Outcome(after)


def _named(state: LogicalUnitState) -> tuple[Nexus, ...]:
    """Return the nexuses that the state names: registered, SPC-2 holder, with attentions."""
    named = dict.fromkeys(state.by_nexus)
    if state.spc2 is not None:
        named[state.spc2.holder] = None
    named.update(dict.fromkeys(state.pending))
    return tuple(named)
