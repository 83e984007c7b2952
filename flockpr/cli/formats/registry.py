"""What the formats have in common: who is registered with which key, and what is reserved."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from flockpr.core.model import LogicalUnitState, UnitConfig
from flockpr.spc.codes import ReservationType


@attrs.frozen
class Registrant:
    """One registration, as a file has it.

    Attributes:
        initiator: Initiator port as text; with ``,i,0x`` and 12 digits where there is an ISID.
        key: Its key, 1 to 2**64 - 1.
        target_port: Relative target port identifier; None where the file does not say, or
            where it is all of them.
        all_target_ports: ALL_TG_PT.
        iscsi: It is an iSCSI name, or one that stands for such; else it is of another transport.
    """

    initiator: str
    key: int
    target_port: int | None = None
    all_target_ports: bool = False
    iscsi: bool = True


@attrs.frozen
class Registry:
    """All that a file says.

    Attributes:
        registrants: In its order.
        type: Type of the reservation; None without one.
        holder: Index of the holder; None without a reservation and where all registrants hold.
        generation: PRGENERATION; None where the file does not say.
        aptpl: APTPL; None where the file does not say.
        notes: What was passed over, or is not said.
    """

    registrants: tuple[Registrant, ...] = ()
    type: ReservationType | None = None
    holder: int | None = None
    generation: int | None = None
    aptpl: bool | None = None
    notes: tuple[str, ...] = ()


@attrs.frozen
class Source:
    """What is exported: a state, and the limits of its logical unit."""

    state: LogicalUnitState
    config: UnitConfig

    def registry(self) -> Registry:
        """It, as formats see it."""
        state = self.state
        held = state.reservation
        nexuses = [one.nexus for one in state.registrations]
        holder = None if held is None or held.holder is None else nexuses.index(held.holder)
        return Registry(
            tuple(
                Registrant(
                    one.nexus.initiator_port.text,
                    one.key,
                    one.nexus.target_port,
                    one.all_target_ports,
                )
                for one in state.registrations
            ),
            None if held is None else held.type,
            holder,
            state.generation,
            state.aptpl,
        )


@attrs.frozen
class Wanted:
    """What a format needs and flockpr does not know.

    Attributes:
        target_node: Name of the target there (LIO).
        tag: Its portal group tag (LIO).
        lun: Its logical unit number (LIO).
        uuid: UUID of the bdev (SPDK); empty if it was not said.
        hosts: By initiator name, the UUID of that host (SPDK).
    """

    target_node: str = ""
    tag: int = 1
    lun: int = 0
    uuid: str = ""
    hosts: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Written:
    """A file, and what it does not say.

    Attributes:
        data: Its bytes.
        losses: One sentence each.
    """

    data: bytes
    losses: tuple[str, ...]
