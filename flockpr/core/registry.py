"""The list of registrations: entering, taking out, and the slots that stand for them.

All functions keep the order of registration, so that READ KEYS and READ FULL STATUS have
one order that a change of key does not disturb.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from flockpr.core.model import SLOTS, LogicalUnitState, Nexus, Registration
from flockpr.spc.codes import Attention


def free_slot(used: Collection[int], start: int) -> int:
    """Return the lowest free slot number at or after `start`, round robin.

    Slots go round instead of being filled from below, so that the byte range of a nexus
    that has just left is not soon taken for that of another one.

    Args:
        used: The numbers in use; fewer than `SLOTS`.
        start: Where to begin, 0 to SLOTS - 1.
    """
    slot = start % SLOTS
    while slot in used:
        slot = (slot + 1) % SLOTS
    return slot


def enrol(
    state: LogicalUnitState,
    nexuses: Iterable[Nexus],
    key: int,
    *,
    all_target_ports: bool,
    limit: int,
) -> LogicalUnitState | None:
    """Register nexuses, or give those that are registered the key.

    One that is registered keeps its place, its slot and its ALL_TG_PT flag.

    Args:
        state: The state.
        nexuses: Whom; none twice.
        key: The key, not 0.
        all_target_ports: ALL_TG_PT of this registration.
        limit: How many registrations there may be.

    Returns:
        The state with them, or None if a new one does not fit in: all or nothing.
    """
    registered = dict(state.by_nexus)
    strangers = []
    for nexus in nexuses:
        known = registered.get(nexus)
        if known is None:
            strangers.append(nexus)
            continue
        flag = known.all_target_ports or all_target_ports
        registered[nexus] = Registration(known.nexus, key, known.slot, flag)
    if not strangers:
        return state.having(registered=registered)
    if len(registered) + len(strangers) > min(limit, SLOTS):
        return None
    used = {registration.slot for registration in state.registrations}
    next_slot = state.next_slot
    for nexus in strangers:
        slot = free_slot(used, next_slot)
        used.add(slot)
        next_slot = (slot + 1) % SLOTS
        registered[nexus] = Registration(nexus, key, slot, all_target_ports)
    return state.having(registered=registered, next_slot=next_slot)


def withdraw(state: LogicalUnitState, gone: Collection[Nexus]) -> LogicalUnitState:
    """Take registrations out; the reservation is the caller's to look after."""
    left = {nexus: one for nexus, one in state.by_nexus.items() if nexus not in gone}
    return state.having(registered=left)


def unregister(
    state: LogicalUnitState, gone: Collection[Nexus]
) -> tuple[LogicalUnitState, tuple[tuple[Nexus, Attention], ...]]:
    """Unregister nexuses at their own request, with all that follows (SPC-4 5.13.11.2).

    Args:
        state: The state.
        gone: Who; more than one when a nexus unregisters through all target ports.

    Returns:
        The state without them, and the attentions that this raises.
    """
    left = withdraw(state, gone)
    held = state.reservation
    if held is None:
        return left, ()
    if held.type.all_registrants:
        # No registrant is special: the reservation goes with the last one,
        # and then nobody is left to be told.
        return (left if left.registrations else left.having(reservation=None)), ()
    if held.holder not in gone:
        return left, ()
    left = left.having(reservation=None)
    if not held.type.registrants_only:
        return left, ()  # plain WE, EA: nobody lost a right, so nobody is told
    return left, tuple((r.nexus, Attention.RESERVATIONS_RELEASED) for r in left.registrations)
