"""How somebody is evicted: PERSISTENT RESERVE OUT commands, tried on a copy of the state first."""

from __future__ import annotations

import secrets
import socket
from typing import Any

import attrs

from flockpr.core.machine import step
from flockpr.core.model import LogicalUnitState, Nexus, Registration, UnitConfig
from flockpr.errors import ConfigError
from flockpr.spc.cdb import encode_persistent_reserve_out, parse_command
from flockpr.spc.codes import OutAction, Status
from flockpr.spc.prout_list import encode_basic_list
from flockpr.spc.transport_id import InitiatorPort
from flockpr.store.base import key_text
from flockpr.unit_status import TYPE_NAMES, UnitStatus

DOCTOR = "iqn.2026-11.org.flockpr:doctor"
"""Begins the initiator name under which changes are made; the audit trail shows it."""
_PLAIN_TYPE = 1
"""TYPE of a PREEMPT of somebody who does not hold: it is not looked at then."""


@attrs.frozen
class Step:
    """One command.

    Attributes:
        nexus: Who sends it.
        cdb: The command.
        data_out: Its parameter list.
        text: In words.
    """

    nexus: Nexus
    cdb: bytes
    data_out: bytes
    text: str


@attrs.frozen
class Plan:
    """What is to be sent, and what comes of it.

    Attributes:
        victim: Initiator that loses its registration.
        key: Its key.
        liveness: Whether it is alive.
        host: Where it was served last.
        steps: The commands.
        registered_after: Who is registered then.
        reservation_after: The reservation then, in words.
        attentions: Who finds which unit attention.
    """

    victim: str
    key: int
    liveness: str
    host: str | None
    steps: tuple[Step, ...]
    registered_after: tuple[str, ...]
    reservation_after: str
    attentions: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return {
            "victim": self.victim,
            "key": key_text(self.key),
            "liveness": self.liveness,
            "host": self.host,
            "steps": [
                {
                    "initiator": one.nexus.initiator_port.text,
                    "command": one.text,
                    "cdb": one.cdb.hex(),
                    "data_out": one.data_out.hex(),
                }
                for one in self.steps
            ],
            "then": {
                "registered": list(self.registered_after),
                "reservation": self.reservation_after,
                "attentions": [
                    {"initiator": who, "attention": what} for who, what in self.attentions
                ],
            },
        }


def make_plan(status: UnitStatus, name: str) -> Plan:
    """Plan the least that takes a registration away.

    Another registrant preempts it, as the cluster would do itself: so a reservation that the victim
    held is the other's then and still keeps strangers out, and the victim is told when it comes
    back. These commands are sent in the other's name. Where there is no other, a nexus of our own
    does it and leaves again. Where others have the victim's key PREEMPT would take away theirs as
    well: then the victim is unregistered in its own name.

    Args:
        status: Of the logical unit.
        name: The victim's initiator name.

    Raises:
        ConfigError: It is not registered, or at several target ports.
    """
    state = status.snapshot.state
    victim = _find(state, name)
    others = [one for one in state.registrations if one != victim]
    if any(one.key == victim.key for one in others):
        steps = _unregister(victim)
    elif others:
        living = [one for one in others if status.liveness.get(one.slot)]
        steps = (_preempt_by((living or others)[0], state, victim),)
    else:
        steps = _preempt(state, victim)
    after, attentions = _try(status, steps)
    registered = [one.nexus.initiator_port.text for one in after.registrations]
    served = status.to_json()["registrations"][state.registrations.index(victim)]
    return Plan(
        victim.nexus.initiator_port.text,
        victim.key,
        served["liveness"],
        served["host"],
        steps,
        tuple(registered),
        _reservation(state, after),
        attentions,
    )


def _find(state: LogicalUnitState, name: str) -> Registration:
    found = [one for one in state.registrations if one.nexus.initiator_port.text == name.lower()]
    if not found:
        names = ", ".join(one.nexus.initiator_port.text for one in state.registrations)
        raise ConfigError(f"{name} is not registered", f"registered: {names or 'nobody'}")
    if len(found) > 1:
        raise ConfigError(
            f"{name} is registered at {len(found)} target ports",
            "preempt its key with flockpr-sg-persist",
        )
    return found[0]


def _unregister(victim: Registration) -> tuple[Step, ...]:
    data = encode_basic_list(victim.key, 0)
    text = f"REGISTER with key 0, in the name of {victim.nexus.initiator_port.text}"
    return (_step(victim.nexus, OutAction.REGISTER, data, text),)


def _preempt_by(other: Registration, state: LogicalUnitState, victim: Registration) -> Step:
    text = (
        f"PREEMPT of key {key_text(victim.key)}, in the name of {other.nexus.initiator_port.text}"
    )
    data = encode_basic_list(other.key, victim.key)
    return _step(other.nexus, OutAction.PREEMPT, data, text, _type(state))


def _type(state: LogicalUnitState) -> int:
    return _PLAIN_TYPE if state.reservation is None else int(state.reservation.type)


def _preempt(state: LogicalUnitState, victim: Registration) -> tuple[Step, ...]:
    host = socket.gethostname().lower()
    port = InitiatorPort(f"{DOCTOR}.{host}")
    doctor = Nexus(port, victim.nexus.target_port)
    key = secrets.randbits(63) + 1
    return (
        _step(
            doctor,
            OutAction.REGISTER_AND_IGNORE_EXISTING_KEY,
            encode_basic_list(0, key),
            f"REGISTER AND IGNORE EXISTING KEY of {port.text}",
        ),
        _step(
            doctor,
            OutAction.PREEMPT,
            encode_basic_list(key, victim.key),
            f"PREEMPT of key {key_text(victim.key)}",
            _type(state),
        ),
        _step(
            doctor,
            OutAction.REGISTER,
            encode_basic_list(key, 0),
            f"REGISTER with key 0 of {port.text}: it leaves",
        ),
    )


def _step(nexus: Nexus, action: OutAction, data: bytes, text: str, type_: int = 0) -> Step:
    cdb = encode_persistent_reserve_out(action, len(data), type_=type_)
    return Step(nexus, cdb, data, text)


def _try(
    status: UnitStatus, steps: tuple[Step, ...]
) -> tuple[LogicalUnitState, tuple[tuple[str, str], ...]]:
    """What the steps would come to; nothing is sent."""
    state = status.snapshot.state
    config = UnitConfig(target_ports=status.identity.target_ports)
    raised: dict[tuple[str, str], None] = {}
    for one in steps:
        command = parse_command(one.cdb, one.data_out)
        outcome = step(state, one.nexus, command, config=config, report_attentions=False)
        if outcome.reply.status != Status.GOOD:
            answer = outcome.reply.status.name.replace("_", " ")
            raise ConfigError(f"{one.text} would be answered {answer}: look at `flockpr status`")
        state = outcome.state
        for nexus, attention in outcome.raised:
            words = (
                f"{attention.name.replace('_', ' ')} ({attention >> 8:02x}/{attention & 255:02x})"
            )
            raised[nexus.initiator_port.text, words] = None
    return state, tuple(raised)


def _reservation(before: LogicalUnitState, after: LogicalUnitState) -> str:
    reservation = after.reservation
    if reservation is None and before.reservation is not None:
        return "no reservation: whoever reaches the disk may write"
    if reservation is None:
        return "no reservation, as before"
    holder = "every registrant" if reservation.holder is None else reservation.holder.initiator_port
    text = holder if isinstance(holder, str) else holder.text
    return f"{TYPE_NAMES[reservation.type]}, held by {text}"
