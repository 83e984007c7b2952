"""A logical unit as it is opened, and what is no SCSI command: power, resets, upkeep."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import attrs

from flockpr import events, timings
from flockpr.core.events import Adoption, Event, LogicalUnitReset, PowerCycle
from flockpr.core.model import LogicalUnitState
from flockpr.errors import OutcomeUnknown, StoreError
from flockpr.logical_unit.decisions import Decisions, NeedsGate
from flockpr.store.base import Snapshot, Store
from flockpr.store.identity import check_label
from flockpr.unit_view import UnitView

if TYPE_CHECKING:
    from flockpr.gate import Gate, Held

T = TypeVar("T")


@attrs.frozen
class ServedState:
    """What a door lets commands through by.

    Attributes:
        state: The same object for as long as nothing is committed.
        number: Of the transaction that made it.
    """

    state: LogicalUnitState
    number: int


class Administration(UnitView):
    """A logical unit, opened, but for its commands. Thread-safe.

    Args:
        store: Its lock directory; closed with this object.
        door: Name of the door, for the record.
        keep_tidy: Publish and prune at the end of each command.
    """

    def __init__(self, store: Store, *, door: str = "api", keep_tidy: bool = True) -> None:
        super().__init__(store)
        self._keep_tidy = keep_tidy
        gated = store.identity.image is not None
        self._decisions = Decisions(store, check_label(door, "door"), gated=gated)
        self._lost: StoreError | None = None
        self._made_gate: Gate | None = None

    @property
    def _gate(self) -> Gate | None:
        """Made for the first command that takes access away: it is much to load. Two threads that
        need the first one may make two, which are alike.
        """
        if self._made_gate is None:
            self._made_gate = _gate_of(self._store)
        return self._made_gate

    @property
    def lost(self) -> StoreError | None:
        """Why a daemon's logical unit is no longer what was opened: it was deleted, rolled back,
        or another directory stands in its place.

        Every command is answered with that from then on, also when a directory of the same
        name comes back: only who starts anew may take that for the same disk. A directory
        that is merely missing is not lost. None for one that keeps itself tidy.
        """
        return self._lost

    def close(self) -> None:
        """Let go of locks and descriptors; reservations stay."""
        with self._lock:
            self._store.close()
            self._decisions.standing.clear()

    # ------------------------------------------------------------------ events

    def power_cycle(self, *, timeout: float = 10.0) -> Snapshot:
        """Power off and on: drops what APTPL=0 does not keep, zeroes PRGENERATION.

        Works while daemons serve the LUN: they see it with their next command.

        Raises:
            StoreError: It could not be done; see `Store.commit`.
        """
        return self._befall(PowerCycle(), "POWER CYCLE", timeout)

    def reset(self, *, timeout: float = 10.0) -> Snapshot:
        """LOGICAL UNIT RESET: frees a SPC-2 reservation and leaves 29/03 for every nexus that
        the state names (SPC-4 5.13.5). Other nexuses that are logged in are the door's to tell.

        Raises:
            StoreError: It could not be done; see `Store.commit`.
        """
        return self._befall(LogicalUnitReset(), "LOGICAL UNIT RESET", timeout)

    def adopt(self, what: Adoption, *, timeout: float = 10.0) -> Snapshot:
        """Take over what was registered and reserved at another target, in one transaction.

        Works while daemons serve the LUN. A reservation takes access away from those who have
        no part in it: their commands have ended when this returns.

        Raises:
            StoreError: Somebody is registered, or holds a SPC-2 reservation; or it cannot be
                (too many, a target port that does not exist); or see `Store.commit`. Nothing
                was done.
            OutcomeUnknown: As for a command that takes access away.
        """
        return self._befall(what, "IMPORT", timeout)

    def _befall(self, what: Event, action: str, timeout: float) -> Snapshot:
        deadline = time.monotonic() + timeout

        def once(held: Held | None) -> Snapshot:
            with self._lock:
                self._check_lost()
                return self._decisions.apply(what, action, until(deadline), held)

        try:
            after = once(None)
        except NeedsGate:
            after = self._through_gate(once, deadline)
        if self._keep_tidy:
            self.tidy()
        return after

    def _through_gate(
        self,
        work: Callable[[Held | None], T],
        deadline: float,
        withdrawn: Callable[[], bool] = lambda: False,
    ) -> T:
        """Do something that takes access away, and return only when it is proven.

        Called without the lock: a host that hangs holds the permit, and other commands of
        this logical unit do not wait for it.

        Raises:
            Busy: The gate could not be had in time; nothing was done.
            OutcomeUnknown: It was done, and not proven in time.
            StoreError: Of the gate, or of `work`.
        """
        assert self._gate is not None
        begun = time.monotonic()
        with self._gate.narrow(deadline, withdrawn) as held:
            timings.observe(timings.Kind.GATE_WAIT, self._store.path, time.monotonic() - begun)
            result = work(held)
            if held.committed:
                if held.left_out:
                    names = [self._gate.name_of(host) for host in sorted(held.left_out)]
                    events.forced_gate(self._gate.path, names)
                if not held.prove():
                    self._decisions.unproven = True
                    raise OutcomeUnknown(
                        "committed, but the permit of the image was lost meanwhile",
                        self._store.path,
                        "check the mount and the kernel log; the same command may be sent again",
                    )
                self._decisions.confirm()
        return result

    def served_state(self) -> ServedState:
        """The newest state, which is durable: what a door may let commands through by.

        Raises:
            StoreError: It cannot be read.
        """
        with self._lock:
            self._check_lost()
            head = self._store.head()
            self._store.ensure_durable(head)
            return ServedState(head.state, head.number)

    # ------------------------------------------------------------------ upkeep

    def tidy(self) -> None:
        """Publish, archive and prune; a daemon calls it between commands. Never raises."""
        with self._lock:
            if self._lost is None:
                self._tidy()

    def _tidy(self) -> None:
        self._decisions.standing.keep()
        self._store.tidy()

    def _check_lost(self) -> None:
        if self._lost is not None:
            raise self._lost.with_traceback(None)  # or it grows with every command


def until(deadline: float) -> Callable[[], bool]:
    """Whether it is not yet this time, by `time.monotonic`."""
    return lambda: time.monotonic() < deadline


def _gate_of(store: Store) -> Gate | None:
    """The gate of a logical unit that has an image; without one nobody reads or writes."""
    identity = store.identity
    if identity.image is None:
        return None
    # Much to load for those who only look, and for what has no image.
    from flockpr.gate import Gate, wait_for_fencing

    root = os.path.dirname(store.path.rstrip("/")) or "."
    return Gate(root, identity.lun, identity.image, cluster_lock=wait_for_fencing)
