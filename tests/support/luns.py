"""Logical units in a temporary root, in the states that reports have to show."""

from __future__ import annotations

import os

from flockpr import (
    InitiatorPort,
    LogicalUnit,
    LunIdentity,
    Nexus,
    OutAction,
    ReservationType,
    Status,
    create_lun,
    encode_basic_list,
    encode_persistent_reserve_out,
)
from flockpr.spc.cdb import encode_reserve

ALICE = Nexus(InitiatorPort("iqn.2026-01.example:alice"))
BOB = Nexus(InitiatorPort("iqn.2026-01.example:bob"))
ALICE_KEY, BOB_KEY = 0xA1, 0xB2
TYPE = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY


def out(
    unit: LogicalUnit,
    nexus: Nexus,
    action: OutAction,
    own: int = 0,
    new: int = 0,
    *,
    type_: int = 0,
    aptpl: bool = False,
) -> Status:
    """One PERSISTENT RESERVE OUT; its status."""
    cdb = encode_persistent_reserve_out(action, type_=type_)
    return unit.execute(nexus, cdb, encode_basic_list(own, new, aptpl=aptpl)).status


def contested_lun(root: str, name: str = "disk", *, store: str = "lockdir") -> LunIdentity:
    """A logical unit on which two have registered, one reserved, and one was refused."""
    identity = create_lun(
        root,
        name,
        image=f"images/{name}.raw",
        size=1 << 20,  # to reserve takes access away, for which the image has to be there
        wwids=(f"naa.6001405{name.encode().hex()}",),
        store=store,
    )
    with LogicalUnit.open(os.path.join(root, name)) as unit:
        assert out(unit, ALICE, OutAction.REGISTER, new=ALICE_KEY, aptpl=True) == Status.GOOD
        assert out(unit, BOB, OutAction.REGISTER, new=BOB_KEY) == Status.GOOD
        assert out(unit, ALICE, OutAction.RESERVE, own=ALICE_KEY, type_=TYPE) == Status.GOOD
        refused = out(unit, BOB, OutAction.RESERVE, own=BOB_KEY, type_=TYPE)
        assert refused == Status.RESERVATION_CONFLICT
    return identity


def spc2_lun(root: str, name: str = "old") -> LunIdentity:
    """A logical unit that an SPC-2 RESERVE holds."""
    identity = create_lun(root, name)
    with LogicalUnit.open(os.path.join(root, name)) as unit:
        assert unit.execute(ALICE, encode_reserve(), report_attentions=False).status == Status.GOOD
    return identity


def preempted_lun(root: str, name: str = "taken") -> LunIdentity:
    """A logical unit whose holder was preempted, so that a unit attention waits for it."""
    identity = contested_lun(root, name)
    with LogicalUnit.open(os.path.join(root, name)) as unit:
        taken = out(unit, BOB, OutAction.PREEMPT, own=BOB_KEY, new=ALICE_KEY, type_=TYPE)
        assert taken == Status.GOOD
    return identity


def broken_lun(root: str, name: str = "broken") -> None:
    """A logical unit whose identity is cut short."""
    create_lun(root, name)
    with open(os.path.join(root, name, "lun.json"), "r+", encoding="utf-8") as file:
        file.truncate(10)
