"""A logical unit in a test."""

from __future__ import annotations

import datetime as dt
import os
import tempfile
from collections.abc import Mapping

from flockpr.errors import StoreError
from flockpr.logical_unit import LogicalUnit, Result
from flockpr.pytest_plugin.clock import VirtualClock
from flockpr.pytest_plugin.nexus import Answer, Nexus, full_name
from flockpr.pytest_plugin.timeline import DOOR, Timeline, short
from flockpr.store.identity import HELPER_PORT, TARGET_PORT, LunIdentity
from flockpr.store.kinds import LOCKDIR, store_of
from flockpr.store.provision import create_lun
from flockpr.unit_status import UnitStatus

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - a directory of one's own is made in it


def fast_directory() -> str:
    """Where a sync costs nothing, if there is such a place: tests do not cut the power."""
    return SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else tempfile.gettempdir()


class Lun:
    """A logical unit; `create` makes one.

    Attributes:
        root: The root.
        name: Its name.
        identity: What `lun.json` says.
        clock: Virtual time, if the test asked for it.
    """

    def __init__(self, root: str, identity: LunIdentity, clock: VirtualClock | None) -> None:
        self.root = root
        self.name = identity.name
        self.identity = identity
        self.clock = clock
        self._unit: LogicalUnit | None = None
        self._events = Timeline()

    @classmethod
    def create(
        cls,
        root: str,
        name: str,
        *,
        size: int | None = None,
        clock: VirtualClock | None = None,
        store: str = LOCKDIR,
    ) -> Lun:
        """Make a logical unit.

        Args:
            root: The root.
            name: Of it.
            size: Bytes of its image; None: it has none.
            clock: Virtual time.
            store: What keeps its transactions: "lockdir" or "sqlite".
        """
        return cls(root, create_lun(root, name, size=size, store=store), clock)

    @property
    def store(self) -> str:
        """What keeps its transactions: "lockdir" or "sqlite"."""
        return store_of(self.path)

    @property
    def path(self) -> str:
        """Its lock directory."""
        return os.path.join(self.root, self.name)

    @property
    def image(self) -> str | None:
        """Path of its image, if it has one."""
        image = self.identity.image
        return None if image is None else os.path.join(self.root, image)

    @property
    def target_port(self) -> int:
        """The port through which tests speak to it: the target's if a target can serve it."""
        return TARGET_PORT if self.identity.image else HELPER_PORT

    def environment(self, nexus: Nexus | str) -> dict[str, str]:
        """Environment variables for flockpr's programs, such as `flockpr-sg-persist`.

        Args:
            nexus: Who they speak for.
        """
        name = nexus.initiator if isinstance(nexus, Nexus) else full_name(nexus)
        settings = {"FLOCKPR_ROOT": self.root, "FLOCKPR_INITIATOR": name}
        return {**os.environ, **settings, "FLOCKPR_TARGET_PORT": str(self.target_port)}

    # ------------------------------------------------------------------ who speaks to it

    def nexus(self, name: str) -> Nexus:
        """An initiator, on the host of the test itself."""
        return Nexus(name, self._execute, self.target_port)

    def _execute(self, nexus: Nexus, what: str, cdb: bytes, data_out: bytes) -> Result:
        result = self.unit.execute(nexus.id, cdb, data_out)
        self.note(nexus.name, what, str(Answer.of("", result)))
        return result

    @property
    def unit(self) -> LogicalUnit:
        """The logical unit itself, opened."""
        if self._unit is None:
            self._unit = LogicalUnit.open(self.path, door=DOOR, host=DOOR)
        return self._unit

    def close(self) -> None:
        """Let go of its files."""
        if self._unit is not None:
            self._unit.close()
            self._unit = None

    # ------------------------------------------------------------------ what it looks like

    def status(self) -> UnitStatus:
        """What `flockpr status` shows."""
        return self.unit.status()

    @property
    def keys(self) -> dict[str, int]:
        """Reservation keys by the end of the initiator's name."""
        registrations = self.status().snapshot.state.registrations
        return {short(one.nexus.initiator_port.text): one.key for one in registrations}

    @property
    def holder(self) -> str | None:
        """End of the holder's name; "all" for the All Registrants types; None: no reservation."""
        reservation = self.status().snapshot.state.reservation
        if reservation is None:
            return None
        if reservation.holder is None:
            return "all"
        return short(reservation.holder.initiator_port.text)

    @property
    def type(self) -> int | None:
        """TYPE of the reservation."""
        reservation = self.status().snapshot.state.reservation
        return None if reservation is None else int(reservation.type)

    @property
    def generation(self) -> int:
        """PRGENERATION."""
        return self.status().snapshot.state.generation

    @property
    def liveness(self) -> dict[str, str]:
        """`alive`, `gone` or `unknown`, by the end of the initiator's name."""
        registrations = self.status().to_json()["registrations"]
        return {short(one["initiator"]): one["liveness"] for one in registrations}

    # ------------------------------------------------------------------ asserts

    def assert_held_by(self, nexus: Nexus | str | None, type_: int | None = None) -> None:
        """Assert who holds the reservation, and its type if one is given."""
        wanted = nexus.name if isinstance(nexus, Nexus) else nexus
        wanted = None if wanted is None else short(wanted)
        assert self.holder == wanted, f"held by {self.holder}, and not by {wanted}"
        assert type_ is None or self.type == type_, f"of type {self.type}, and not {type_}"

    def assert_registered(self, keys: Mapping[str, int]) -> None:
        """Assert who is registered with which key, and nobody else."""
        found = self.keys
        assert found == dict(keys), f"registered: {_keys(found)}, and not {_keys(keys)}"

    # ------------------------------------------------------------------ the timeline

    def note(self, who: str, what: str, answer: str = "") -> None:
        """Add a line to the timeline."""
        now = dt.datetime.now(dt.UTC) if self.clock is None else self.clock.now()
        self._events.note(now, who, what, answer)

    def timeline(self) -> str:
        """What happened so far, through whatever door, and what the state is now."""
        lines = Timeline()
        lines.extend(self._events)
        try:
            lines.add_records(list(self.unit.history())[1:])  # the first one made it
            lines.add_refusals(self.unit.refusals())
            state = self._state()
        except StoreError as error:
            state = f"its state cannot be read: {error}"
        return f"{lines.render()}\nnow: {state}"

    def _state(self) -> str:
        status = self.status().to_json()
        held = "no reservation"
        if status["reservation"] is not None:
            held = f"{status['reservation']['type_name']}, held by {self.holder}"
        registered = _keys(self.keys) or "nobody"
        return f"generation {status['generation']}; {held}; registered: {registered}"


def _keys(keys: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {key:#x}" for name, key in keys.items()) or "nobody"
