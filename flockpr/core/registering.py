"""REGISTER, REGISTER AND IGNORE EXISTING KEY, REGISTER AND MOVE (SPC-4 5.13.7, 5.13.8)."""

from __future__ import annotations

import itertools

from flockpr.core.model import LogicalUnitState, Nexus, Registration, Reservation, UnitConfig
from flockpr.core.outcome import Outcome, conflict, refuse
from flockpr.core.prout_checks import key_fault, list_fault
from flockpr.core.registry import enrol, unregister, withdraw
from flockpr.spc.cdb import PersistentReserveOut
from flockpr.spc.codes import OutAction
from flockpr.spc.prout_list import PROutParameters
from flockpr.spc.sense import (
    INSUFFICIENT_REGISTRATION_RESOURCES,
    INVALID_RELATIVE_TARGET_PORT,
    INVALID_SERVICE_ACTION,
    INVALID_SERVICE_ACTION_RESERVATION_KEY,
    INVALID_SPEC_I_PT,
    PARAMETER_LIST_LENGTH_ERROR,
    Sense,
    list_field,
)
from flockpr.spc.transport_id import InitiatorPort


def register(
    state: LogicalUnitState, nexus: Nexus, command: PersistentReserveOut, config: UnitConfig
) -> Outcome:
    """Decide a REGISTER or REGISTER AND IGNORE EXISTING KEY; no reservation blocks them."""
    own = state.by_nexus.get(nexus)
    parameters = command.parameters
    ignore = command.service_action == OutAction.REGISTER_AND_IGNORE_EXISTING_KEY
    expected = 0 if own is None else own.key
    if not ignore and parameters.reservation_key not in (None, expected):
        return conflict(state)  # table 67: a stranger's key is 0
    fault, key = list_fault(parameters), parameters.service_action_reservation_key
    if fault is not None and ignore:
        return refuse(state, fault)  # SPEC_I_PT=1 among them, with or without work to do
    if own is None and key == 0 and (parameters.short_of_spec_i_pt or not _is_length(fault)):
        # Nothing to do, and SPEC_I_PT is ignored with all its faults (table 67). The
        # standard does not say whether APTPL counts here; it is processed as in every
        # REGISTER that is GOOD.
        return Outcome(state.having(aptpl=parameters.aptpl))
    if key is None or _is_length(fault):
        return refuse(state, fault or PARAMETER_LIST_LENGTH_ERROR)
    if own is not None and parameters.spec_i_pt:
        return refuse(state, INVALID_SPEC_I_PT)  # only for who registers anew (6.16.3)
    ports = _listed_ports(state, nexus, parameters, config)
    if isinstance(ports, Sense):
        return refuse(state, ports)
    if fault is not None:
        return refuse(state, fault)
    through = _target_ports(nexus, parameters, config)
    # The first is the sender's: the very object that its door has, which is quicker to look up.
    others = itertools.islice(itertools.product(ports, through), 1, None)
    nexuses = [nexus, *itertools.starmap(Nexus, others)]
    return _apply(state, nexuses, key, parameters, config)


def _is_length(fault: Sense | None) -> bool:
    """Tell whether a list has the wrong length, which comes before what is in it."""
    return fault == PARAMETER_LIST_LENGTH_ERROR


def _target_ports(nexus: Nexus, parameters: PROutParameters, config: UnitConfig) -> tuple[int, ...]:
    """Return the target ports that a registration is for, the sender's first."""
    if not parameters.all_tg_pt:
        return (nexus.target_port,)
    others = (port for port in config.target_ports if port != nexus.target_port)
    return (nexus.target_port, *others)


def _listed_ports(
    state: LogicalUnitState, nexus: Nexus, parameters: PROutParameters, config: UnitConfig
) -> tuple[InitiatorPort, ...] | Sense:
    """Return the sender's initiator port and those that SPEC_I_PT lists, each once.

    Returns:
        The ports, or 05/26/00 with a pointer to the first entry that is not of our
        protocol or that is registered already (6.16.3). The parser hands over
        what precedes its own fault, so such an entry comes before that fault.
    """
    target_ports = _target_ports(nexus, parameters, config)
    ports = {nexus.initiator_port: None}
    for entry in parameters.transport_ids:
        port = entry.transport_id
        if not isinstance(port, InitiatorPort):
            return list_field(entry.offset)
        if port in ports:
            continue
        if any(Nexus(port, target_port) in state.by_nexus for target_port in target_ports):
            return list_field(entry.offset)
        ports[port] = None
    return tuple(ports)


def _apply(
    state: LogicalUnitState,
    nexuses: list[Nexus],
    key: int,
    parameters: PROutParameters,
    config: UnitConfig,
) -> Outcome:
    """Register nexuses, change their key or unregister them, as one act."""
    state_with = state
    if state.aptpl != parameters.aptpl:
        state_with = state.having(aptpl=parameters.aptpl)
    if key == 0:
        after, raised = unregister(state_with, frozenset(nexuses))
        return Outcome(after, raised=raised)
    enrolled = enrol(
        state_with,
        nexuses,
        key,
        all_target_ports=parameters.all_tg_pt,
        limit=config.max_registrations,
    )
    if enrolled is None:
        return refuse(state, INSUFFICIENT_REGISTRATION_RESOURCES)
    return Outcome(enrolled)


def move(
    state: LogicalUnitState,
    own: Registration,
    command: PersistentReserveOut,
    config: UnitConfig,
) -> Outcome:
    """REGISTER AND MOVE of a registered nexus (SPC-4 5.13.8)."""
    held, parameters = state.reservation, command.parameters
    if held is not None and held.holder != own.nexus:
        return conflict(state)  # a non-holder, and anyone under an All Registrants type
    refused = key_fault(state, own, parameters)
    if refused is not None:
        return refused
    if held is None:
        return refuse(state, INVALID_SERVICE_ACTION)  # nothing to move, whatever the list says
    checked = _destination(own, parameters, config)
    if isinstance(checked, Sense):
        return refuse(state, checked)
    destination, key = checked
    # The destination is registered before UNREG takes effect, so a full unit refuses.
    enrolled = enrol(
        state.having(aptpl=parameters.aptpl),
        (destination,),
        key,
        all_target_ports=False,
        limit=config.max_registrations,
    )
    if enrolled is None:
        return refuse(state, INSUFFICIENT_REGISTRATION_RESOURCES)
    moved = enrolled.having(reservation=Reservation(held.type, destination))
    # Who unregisters is no holder any more, so nobody is told.
    return Outcome(withdraw(moved, (own.nexus,)) if parameters.unreg else moved)


def _destination(
    own: Registration, parameters: PROutParameters, config: UnitConfig
) -> tuple[Nexus, int] | Sense:
    """Return where the reservation goes and the key there, or the list's first fault.

    A list of the wrong length comes first; other faults in the order of their bytes.
    """
    fault, key = list_fault(parameters), parameters.service_action_reservation_key
    if key is None or _is_length(fault):
        return PARAMETER_LIST_LENGTH_ERROR
    if key == 0:
        return INVALID_SERVICE_ACTION_RESERVATION_KEY
    if parameters.relative_target_port not in config.target_ports:
        return INVALID_RELATIVE_TARGET_PORT
    if fault is not None:
        return fault
    port = parameters.transport_id
    # The own port is no destination, not even at another target port.
    if not isinstance(port, InitiatorPort) or port == own.nexus.initiator_port:
        return list_field(24)
    return Nexus(port, parameters.relative_target_port), key
