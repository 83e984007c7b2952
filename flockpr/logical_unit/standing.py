"""Standing for the connected nexuses: the byte ranges that say that somebody is alive."""

from __future__ import annotations

import logging

import attrs

from flockpr.core.model import SLOTS, LogicalUnitState, Nexus
from flockpr.core.outcome import Outcome
from flockpr.store.base import Store, nexus_text

log = logging.getLogger(__name__)

SLOT_TRIES = 8
"""How many slots to try for a SPC-2 reservation; without any it is committed all the same."""


class Standing:
    """The byte ranges that one opened logical unit holds. Called with its lock held.

    Args:
        store: Its lock directory.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._slots: dict[Nexus, int] = {}

    def clear(self) -> None:
        """The ranges are gone, with the descriptor that held them."""
        self._slots.clear()

    def keep(self) -> None:
        """Take again what was lost with a lease, or was another daemon's until now."""
        for slot in self._slots.values():
            self._store.hold(slot)

    def holds(self, nexus: Nexus, slot: int) -> bool:
        """Whether this slot is held for this nexus."""
        return self._slots.get(nexus) == slot

    def forget(self, nexus: Nexus) -> int | None:
        """The nexus left: its slot, which is the caller's to drop."""
        return self._slots.pop(nexus, None)

    def stand_for(self, nexus: Nexus, state: LogicalUnitState) -> bool:
        """Hold the byte range of a nexus that has one, and only that.

        Returns:
            Whether there is nothing left to do for it: it has its byte range, or is to have none.
            Beside a SPC-2 reservation there always is.
        """
        registration = state.by_nexus.get(nexus)
        slot = None if registration is None else registration.slot
        if state.spc2 is not None and state.spc2.holder == nexus:
            slot = state.spc2.slot
        if slot is not None:
            return self.stand_in(nexus, slot) and state.spc2 is None
        if nexus in self._slots:
            self._store.drop(self._slots.pop(nexus))
        return state.spc2 is None

    def stand_in(self, nexus: Nexus, slot: int) -> bool:
        """Hold this slot for a nexus instead of the one before; again and again, because the
        daemon that it migrates from may still have it now.

        Returns:
            Whether it is held.
        """
        before = self._slots.get(nexus)
        if before not in (None, slot):
            self._store.drop(before)
        self._slots[nexus] = slot
        held = self._store.hold(slot)
        if not held and before != slot:
            log.warning(
                "%s: another daemon stands for %s too: a migration under way, or the "
                "same initiator name twice",
                self._store.identity.name,
                nexus_text(nexus),
            )
        return held

    def with_free_slot(self, outcome: Outcome) -> Outcome:
        """Hold the range of a new SPC-2 reservation before it is committed, because a holder
        whose range is free counts as a lost nexus. The next slot may be held by a daemon
        that decided the same at the same time; when that one has lost and lets go, the range
        must not be the winner's.
        """
        for _ in range(SLOT_TRIES):
            held = outcome.state.spc2
            if held is None or self._store.hold(held.slot):
                break
            slot = (held.slot + 1) % SLOTS
            state = attrs.evolve(
                outcome.state,
                spc2=attrs.evolve(held, slot=slot),
                next_slot=(slot + 1) % SLOTS,
            )
            outcome = attrs.evolve(outcome, state=state)
        return outcome
