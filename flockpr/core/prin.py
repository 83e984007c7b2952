"""PERSISTENT RESERVE IN: what the state looks like to an initiator (SPC-4 6.15)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from flockpr.core.model import LogicalUnitState, Nexus, Registration, UnitConfig
from flockpr.core.outcome import Outcome, Reply, conflict
from flockpr.core.standing import holds
from flockpr.spc import pr_in
from flockpr.spc.cdb import PersistentReserveIn
from flockpr.spc.codes import InAction, ReservationType
from flockpr.spc.transport_id import InitiatorPort


def decide(state: LogicalUnitState, command: PersistentReserveIn, config: UnitConfig) -> Outcome:
    """Decide a PERSISTENT RESERVE IN as though no unit attention were pending.

    It never conflicts with a persistent reservation, always with a SPC-2 one (SPC-4 5.13.3).

    Args:
        state: The state.
        command: The command; its service action is one of `InAction`.
        config: The logical unit's target ports.
    """
    if state.spc2 is not None:
        return conflict(state)
    payload = _PAYLOADS[command.service_action](state, config)
    data = pr_in.truncate(payload, command.allocation_length)
    return Outcome(state, Reply(data=data))


def _keys(state: LogicalUnitState, _config: UnitConfig) -> bytes:
    return pr_in.encode_keys(state.generation, [r.key for r in state.registrations])


def _reservation(state: LogicalUnitState, _config: UnitConfig) -> bytes:
    held = state.reservation
    if held is None:
        return pr_in.encode_reservation(state.generation, None)
    # The key that the holder has now; 0 when every registrant holds it (SPC-4 6.15.3).
    holder = None if held.holder is None else state.by_nexus.get(held.holder)
    key = 0 if holder is None else holder.key
    return pr_in.encode_reservation(state.generation, pr_in.HeldReservation(key, held.type))


def _capabilities(state: LogicalUnitState, _config: UnitConfig) -> bytes:
    return pr_in.encode_capabilities(
        pr_in.Capabilities(
            compatible_handling=True,
            specify_initiator_ports=True,
            all_target_ports=True,
            persist_capable=True,
            persist_active=state.aptpl,
            allow_commands=4,  # what strangers may do is the whole table of `access`
            types=frozenset(ReservationType),
        )
    )


def _full_status(state: LogicalUnitState, config: UnitConfig) -> bytes:
    kind = 0 if state.reservation is None else int(state.reservation.type)
    entries = []
    folded: set[InitiatorPort] = set()
    for registration in state.registrations:
        nexus = registration.nexus
        whole = _stands_for_all_ports(state, registration, config.target_ports)
        if whole and nexus.initiator_port in folded:
            continue
        if whole:
            folded.add(nexus.initiator_port)
        holder = holds(state, nexus)
        entries.append(
            pr_in.FullStatus(
                key=registration.key,
                transport_id=nexus.initiator_port,
                # With ALL_TG_PT=1 the field has no meaning, and 0 names no port.
                relative_target_port=0 if whole else nexus.target_port,
                holder=holder,
                type=kind if holder else 0,
                all_target_ports=whole,
            )
        )
    return pr_in.encode_full_status(state.generation, entries)


def _stands_for_all_ports(
    state: LogicalUnitState, registration: Registration, target_ports: Sequence[int]
) -> bool:
    """Tell whether one descriptor with ALL_TG_PT=1 may stand for this initiator port.

    Such a descriptor says that the initiator port is registered at every target port, with
    one key, and holds the reservation at all of them or at none (SPC-4 6.15.5). Registered
    with ALL_TG_PT=1 is not enough: a port may have left or changed its key since.
    """
    nexus = registration.nexus
    siblings = [Nexus(nexus.initiator_port, port) for port in target_ports]
    found = [state.by_nexus.get(sibling) for sibling in siblings]
    return nexus in siblings and all(
        other is not None
        and other.all_target_ports
        and other.key == registration.key
        and holds(state, other.nexus) == holds(state, nexus)
        for other in found
    )


_PAYLOADS: Final[Mapping[int, Callable[[LogicalUnitState, UnitConfig], bytes]]] = MappingProxyType(
    {
        InAction.READ_KEYS: _keys,
        InAction.READ_RESERVATION: _reservation,
        InAction.REPORT_CAPABILITIES: _capabilities,
        InAction.READ_FULL_STATUS: _full_status,
    }
)
