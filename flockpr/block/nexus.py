"""One session's view of a disk: what it may do now, and what it must be told first."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import Final

import attrs

from flockpr.block.inquiry import Face
from flockpr.core import access, attention
from flockpr.core.access import AccessClass
from flockpr.core.model import LogicalUnitState, Nexus
from flockpr.logical_unit import Result
from flockpr.spc.sense import UNIT_ATTENTION, Sense, parse_sense

_READING, _WRITING = AccessClass.READ, AccessClass.WRITE
_ALWAYS = AccessClass.ALWAYS
_READ: Final = b"\x28".ljust(10, b"\0")
_WRITE: Final = b"\x2a".ljust(10, b"\0")


@attrs.frozen
class Decision:
    """What one state lets a nexus do; made once for a state, asked for each command.

    Attributes:
        state: The state.
        quiet: It has no unit attention for the nexus.
        always: Commands that no persistent reservation stops may be performed.
        read: Those that read may.
        write: Those that write may.
    """

    state: LogicalUnitState
    quiet: bool
    always: bool
    read: bool
    write: bool


class DiskNexus:
    """An attached session.

    Args:
        nexus: Its I_T nexus.
        face: What the disk looks like through its port.
    """

    __slots__ = ("_decision", "_lock", "_waiting", "attached", "epoch", "face", "nexus")

    def __init__(self, nexus: Nexus, face: Face) -> None:
        self.nexus = nexus
        self.face = face
        self.attached = True
        self.epoch: int | None = None
        self._lock = threading.Lock()
        self._waiting: deque[Sense] = deque()
        self._decision: Decision | None = None

    # ------------------------------------------------------------------ admission

    def admitted(self, state: LogicalUnitState, wanted: AccessClass | None, cdb: bytes) -> bool:
        """Tell whether a command may be performed at once under this state.

        Args:
            state: The state that is served.
            wanted: The class of the command; None if that hangs on its fields.
            cdb: Its CDB.

        Returns:
            False if it conflicts, or if something is to be reported first.
        """
        decision = self._decision
        if decision is None or decision.state is not state:
            decision = self._decision = self._decide(state)
        if self._waiting or not decision.quiet:
            return False
        if wanted is _READING:
            return decision.read
        if wanted is _WRITING:
            return decision.write
        if wanted is _ALWAYS and decision.always:
            return True
        # Beside a SPC-2 reservation not even a TEST UNIT READY passes, but some others do.
        return access.allowed(state, self.nexus, cdb)

    def _decide(self, state: LogicalUnitState) -> Decision:
        nexus = self.nexus
        return Decision(
            state,
            quiet=self.epoch == state.attention_epoch
            and not attention.pending(state, nexus, self.epoch),
            always=state.spc2 is None or state.spc2.holder == nexus,
            read=access.allowed(state, nexus, _READ),
            write=access.allowed(state, nexus, _WRITE),
        )

    def shown(self, epoch: int) -> None:
        """The shared state has nothing of this attention epoch left to report."""
        self.epoch = epoch
        self._decision = None

    # ------------------------------------------------------------------ local attentions

    def tell(self, sense: Sense) -> None:
        """Queue a unit attention that only this process knows; none twice (SAM-5 5.14)."""
        with self._lock:
            if sense not in self._waiting:
                self._waiting.append(sense)

    def missed(self, late: Result, data: bytes = b"") -> None:
        """An answer of the logical unit that nobody waited for any more: a unit attention in it
        counts as reported there, so it is reported from here.

        Args:
            late: The answer.
            data: Sense data that it has as data (REQUEST SENSE).
        """
        sense = parse_sense(late.sense or data)
        if sense is not None and sense.key == UNIT_ATTENTION:
            self.tell(sense)

    def take(self, *, reset_only: bool = False) -> Sense | None:
        """The most urgent one of them, which counts as reported.

        Args:
            reset_only: Only one that outranks RESERVATION CONFLICT (SAM-5 5.3.3).
        """
        if not self._waiting:
            return None
        with self._lock:
            for sense in self._waiting:
                if sense.asc == 0x29:
                    self._waiting.remove(sense)
                    return sense
            if reset_only or not self._waiting:
                return None
            return self._waiting.popleft()

    def forget(self, sense: Sense) -> None:
        """Something else has told what this attention would."""
        if self._waiting:
            with self._lock, contextlib.suppress(ValueError):
                self._waiting.remove(sense)

    @property
    def waiting(self) -> bool:
        """Whether there are any."""
        return bool(self._waiting)
