"""What `flockpr status` says of one logical unit: registrants, holder, who is alive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from flockpr.core.model import LogicalUnitState, Nexus, Registration
from flockpr.spc.codes import ReservationType
from flockpr.store.base import Snapshot, Store, key_text
from flockpr.store.clock import seconds_since
from flockpr.store.document import attention_text
from flockpr.store.identity import LunIdentity

TYPE_NAMES = {
    ReservationType.WRITE_EXCLUSIVE: "Write Exclusive",
    ReservationType.EXCLUSIVE_ACCESS: "Exclusive Access",
    ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY: "Write Exclusive, registrants only",
    ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY: "Exclusive Access, registrants only",
    ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS: "Write Exclusive, all registrants",
    ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS: "Exclusive Access, all registrants",
}

VIEW_LAG = 5.0
"""Seconds for which `registry.json` may show an older transaction without anything being wrong: a
daemon publishes in a pause, and within little more than a second without one.
"""


def view_lags(status: Mapping[str, Any]) -> bool:
    """Whether `registry.json` is missing, or behind for longer than it may be.

    Args:
        status: What `UnitStatus.to_json` returned.
    """
    if status["published"] is None or status["published"] == status["number"]:
        return status["published"] is None
    return status["age_s"] is None or status["age_s"] >= VIEW_LAG


def readable_key(key: int) -> str | None:
    """A reservation key as text, where it is text: at least two printable ASCII characters, and
    zeros before or behind them.
    """
    text = key.to_bytes(8, "big").strip(b"\0")
    if len(text) < 2 or any(not 0x20 < byte < 0x7F for byte in text):
        return None
    return text.decode("ascii")


@attrs.frozen
class UnitStatus:
    """A moment of one logical unit, for people; nothing is decided by it.

    Attributes:
        identity: Of the LUN.
        snapshot: The newest transaction.
        liveness: By slot: True alive, False gone, None unknown.
        published: Number that `registry.json` shows; None if it cannot be read.
    """

    identity: LunIdentity
    snapshot: Snapshot
    liveness: dict[int, bool | None]
    published: int | None

    @classmethod
    def of(cls, identity: LunIdentity, snapshot: Snapshot, store: Store) -> UnitStatus:
        """Ask the store who is alive."""
        state = snapshot.state
        slots = [registration.slot for registration in state.registrations]
        if state.spc2 is not None:
            slots.append(state.spc2.slot)
        return cls(identity, snapshot, {s: store.alive(s) for s in slots}, store.published())

    def to_json(self) -> dict[str, Any]:
        """The documented JSON object, format 1; keys are only ever added."""
        state = self.snapshot.state
        return {
            "format": 1,
            "lun": self.identity.lun,
            "name": self.identity.name,
            "incarnation": self.identity.incarnation,
            "number": self.snapshot.number,
            "txid": self.snapshot.txid,
            "generation": state.generation,
            "aptpl": state.aptpl,
            "reservation": self._reservation(state),
            "registrations": [self._registration(r, state) for r in state.registrations],
            "spc2": None
            if state.spc2 is None
            else {**_nexus(state.spc2.holder), **self._presence(state.spc2.slot)},
            "attentions": [
                {**_nexus(entry.nexus), "codes": [attention_text(code) for code in entry.codes]}
                for entry in state.attentions
            ],
            "power_cycles": state.power_cycles,
            "age_s": seconds_since(self.snapshot.time),
            "committed_at": self.snapshot.time,
            "committed_by": self.snapshot.host,
            "published": self.published,
        }

    def _reservation(self, state: LogicalUnitState) -> dict[str, Any] | None:
        reservation = state.reservation
        if reservation is None:
            return None
        holder = None if reservation.holder is None else state.by_nexus.get(reservation.holder)
        return {
            "type": int(reservation.type),
            "type_name": TYPE_NAMES[reservation.type],
            "holder": None if reservation.holder is None else _nexus(reservation.holder),
            "key": key_text(holder.key if holder is not None else 0),
        }

    def _registration(self, registration: Registration, state: LogicalUnitState) -> dict[str, Any]:
        reservation = state.reservation
        return {
            **_nexus(registration.nexus),
            "key": key_text(registration.key),
            "key_text": readable_key(registration.key),
            "all_target_ports": registration.all_target_ports,
            **self._presence(registration.slot),
            "holder": reservation is not None and reservation.holder in (None, registration.nexus),
            "attentions": [
                attention_text(code) for code in state.pending.get(registration.nexus, ())
            ],
        }

    def _presence(self, slot: int) -> dict[str, Any]:
        served = self.snapshot.served.get(slot)
        alive = self.liveness.get(slot)
        return {
            "slot": slot,
            "host": served.host if served else None,
            "door": served.door if served else None,
            "liveness": "unknown" if alive is None else "alive" if alive else "gone",
        }


def _nexus(nexus: Nexus) -> dict[str, Any]:
    return {"initiator": nexus.initiator_port.text, "target_port": nexus.target_port}
