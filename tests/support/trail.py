"""Commands by chance, and what the audit trail has to tell of each."""

from __future__ import annotations

import random
from collections.abc import Mapping

from flockpr.core.model import LogicalUnitState, Nexus
from tests.support.daemons import Sent, out, read
from tests.support.scsi import (
    CLEAR,
    PREEMPT,
    PREEMPT_ABORT,
    REGISTER,
    REGISTER_IGNORE,
    RELEASE,
    RESERVE,
    TYPES,
)

ACTIONS = {
    REGISTER: "REGISTER",
    RESERVE: "RESERVE",
    RELEASE: "RELEASE",
    CLEAR: "CLEAR",
    PREEMPT: "PREEMPT",
    PREEMPT_ABORT: "PREEMPT AND ABORT",
    REGISTER_IGNORE: "REGISTER AND IGNORE EXISTING KEY",
}
_MIX = (
    *(REGISTER,) * 3,
    *(REGISTER_IGNORE,) * 5,
    *(RESERVE,) * 6,
    *(RELEASE,) * 4,
    *(PREEMPT, PREEMPT_ABORT) * 2,
    CLEAR,
)
_KEYS = (0, 1, 2, 3)


def by_chance(choose: random.Random, own: int) -> Sent:
    """A command of somebody who believes that its key is `own`."""
    if choose.random() < 0.4:
        return read(choose.choice((0, 0, 1, 1, 2, 3)))
    action = choose.choice(_MIX)
    stated = own if choose.random() < 0.9 else choose.choice(_KEYS)
    new, type_ = choose.choice(_KEYS), 0
    if action in (RESERVE, RELEASE, PREEMPT, PREEMPT_ABORT):
        type_ = choose.choice(TYPES)
    return out(action, stated, new, type_=type_, aptpl=choose.random() < 0.2)


def tells_of(
    record: Mapping[str, object],
    who: Nexus,
    sent: Sent,
    states: tuple[LogicalUnitState, LogicalUnitState],
    status: int,
) -> bool:
    """Whether a record of the trail is that of this command, with the states around it."""
    before, after = states
    own, new = (sent.data_out[at : at + 8].hex() for at in (0, 8))
    expected = {
        "initiator": who.initiator_port.text,
        "target_port": who.target_port,
        "action": ACTIONS[sent.cdb[1]],
        "opcode": sent.cdb[0],
        "key": f"0x{own}",
        "service_action_key": f"0x{new}",
        "type": sent.cdb[2] & 0x0F,
        "status": status,
        "generation_before": before.generation,
        "generation_after": after.generation,
    }
    return all(record[key] == value for key, value in expected.items())
