"""The state of one logical unit, as frozen values.

Nothing here decides anything: the rules are in `machine`, the invariants that every
reachable state keeps are in `invariants`. All mappings are keyed by I_T nexus, because
that is what the standard registers (SPC-4 5.13.7); keys may repeat.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import attrs

from flockpr.spc.codes import Attention, ReservationType
from flockpr.spc.transport_id import InitiatorPort


@attrs.frozen(order=True, cache_hash=True)
class Nexus:
    """An I_T nexus: initiator port and relative target port identifier.

    Attributes:
        initiator_port: The initiator port.
        target_port: Relative target port identifier, 1 to 65535. The helper door is 1 on
            every host, so a VM's nexus follows it through a live migration.
    """

    initiator_port: InitiatorPort
    target_port: int = 1


@attrs.frozen
class Registration:
    """One registered I_T nexus.

    Attributes:
        nexus: Who.
        key: Its reservation key, 1 to 2**64 - 1.
        slot: Number of the byte range that stands for it while it lives; never reused
            soon (see `LogicalUnitState.next_slot`), unique among the registrations.
        all_target_ports: Registered with ALL_TG_PT=1; kept through a change of key.
    """

    nexus: Nexus
    key: int
    slot: int
    all_target_ports: bool = False


@attrs.frozen
class Reservation:
    """The persistent reservation. `holder` is None exactly for the All Registrants types."""

    type: ReservationType
    holder: Nexus | None


@attrs.frozen
class Spc2Reservation:
    """A reservation by RESERVE(6) or RESERVE(10), and the slot that stands for its holder."""

    holder: Nexus
    slot: int


@attrs.frozen
class PendingAttentions:
    """Unit attentions that wait for one nexus, oldest first, none twice."""

    nexus: Nexus
    codes: tuple[Attention, ...]


SLOTS = 1 << 16
"""Slot numbers are 0 to SLOTS - 1 and are given out round robin."""


_SAME: Any = object()


@attrs.frozen
class LogicalUnitState:
    """All that persistent reservations know about one logical unit.

    Attributes:
        generation: PRGENERATION, 32 bits.
        aptpl: The APTPL bit of the last registration that was accepted (PTPL_A).
        registrations: In order of registration; at most one per nexus.
        reservation: The persistent reservation, if any.
        spc2: The SPC-2 reservation, if any; never beside a registration.
        attentions: Pending unit attentions, at most one entry per nexus, bounded.
        attention_epoch: Raised by a power cycle and when `attentions` overflows. A door
            remembers per nexus the epoch that it has seen, and a nexus that lags finds 29/00.
        overflowed: Attentions were dropped since the last power cycle: a nexus that no door
            remembers finds 29/00 as well.
        power_cycles: How many power cycles there were.
        next_slot: Where the search for a free slot starts.
    """

    generation: int = 0
    aptpl: bool = False
    registrations: tuple[Registration, ...] = ()
    reservation: Reservation | None = None
    spc2: Spc2Reservation | None = None
    attentions: tuple[PendingAttentions, ...] = ()
    attention_epoch: int = 0
    overflowed: bool = False
    power_cycles: int = 0
    next_slot: int = 0

    def having(
        self,
        *,
        generation: int = _SAME,
        aptpl: bool = _SAME,
        registered: dict[Nexus, Registration] = _SAME,
        reservation: Reservation | None = _SAME,
        next_slot: int = _SAME,
    ) -> LogicalUnitState:
        """It, with something else in the place of what commands change most.

        Like `attrs.evolve`, which looks up the fields of the class each time and takes twice as
        long; and the registrations need not be gone through again to find one by its nexus.

        Args:
            generation: PRGENERATION.
            aptpl: APTPL.
            registered: The registrations, by nexus, in order; not to be changed any more.
            reservation: The persistent reservation.
            next_slot: Where the search for a free slot starts.
        """
        same = registered is _SAME
        after = LogicalUnitState(
            self.generation if generation is _SAME else generation,
            self.aptpl if aptpl is _SAME else aptpl,
            self.registrations if same else tuple(registered.values()),
            self.reservation if reservation is _SAME else reservation,
            self.spc2,
            self.attentions,
            self.attention_epoch,
            self.overflowed,
            self.power_cycles,
            self.next_slot if next_slot is _SAME else next_slot,
        )
        object.__setattr__(after, "by_nexus", self.by_nexus if same else registered)
        return after

    @cached_property
    def by_nexus(self) -> dict[Nexus, Registration]:
        """The registrations, by nexus. Not to be changed."""
        return {registration.nexus: registration for registration in self.registrations}

    @cached_property
    def pending(self) -> dict[Nexus, tuple[Attention, ...]]:
        """The pending unit attentions, by nexus. Not to be changed."""
        return {entry.nexus: entry.codes for entry in self.attentions}


@attrs.frozen
class UnitConfig:
    """What the rules need to know about a logical unit that is not its state.

    Attributes:
        target_ports: Relative target port identifiers that exist (ALL_TG_PT, REGISTER AND MOVE).
        max_registrations: Beyond it 05/55/04.
        max_pending: How many nexuses may have attentions pending.
    """

    target_ports: tuple[int, ...] = (1,)
    max_registrations: int = 1024
    max_pending: int = 1024
