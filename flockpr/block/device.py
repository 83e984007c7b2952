"""What the commands of one disk work on: the medium, the mode pages, who prevents removal.

A command's handler gets the `Device` and its `Task` and returns a reply, or the sense that
refuses it; failed system calls leave it as `OSError`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, TypeAlias

from flockpr.block import modes, senses
from flockpr.block.inquiry import Face
from flockpr.block.medium import Medium
from flockpr.block.nexus import DiskNexus
from flockpr.block.pool import Buffer
from flockpr.block.reply import ScsiReply
from flockpr.block.senses import Located
from flockpr.spc.codes import Status
from flockpr.spc.sense import FIXED_LENGTH, Sense, parse_sense
from flockpr.store.images import BLOCK

Answer: TypeAlias = ScsiReply | Sense | Located


class Task:
    """One command under way.

    Attributes:
        nexus: Who sent it.
        cdb: Its CDB.
        data: Data-out that has come.
        expected_out: Bytes of data-out that the transport announced; None if it did not say.
        cancelled: Asked between two steps of a long command.
        buffer: Memory for its data-in, if it was foreseen to need any.
        deadline: Monotonic time by which it is to be answered.
    """

    __slots__ = ("buffer", "cancelled", "cdb", "data", "deadline", "expected_out", "nexus")

    def __init__(
        self,
        nexus: DiskNexus,
        cdb: bytes,
        data: memoryview,
        *,
        expected_out: int | None,
        cancelled: Callable[[], bool],
        deadline: float,
    ) -> None:
        self.nexus = nexus
        self.cdb = cdb
        self.data = data
        self.expected_out = expected_out
        self.cancelled = cancelled
        self.deadline = deadline
        self.buffer: Buffer | None = None


class Device:
    """One disk without its reservations. Thread-safe.

    Args:
        face: What it looks like, through any port.
        medium: Its blocks.
        read_only: Refuse every write with 07/27/00.
    """

    def __init__(self, face: Face, medium: Medium, *, read_only: bool = False) -> None:
        self.face = face
        self.medium = medium
        self.read_only = read_only
        self.removable: Final = face.removable
        self.modes = modes.DEFAULT
        self.loaded = True
        self.sanitizing = False
        self.on_change: Callable[[Sense, DiskNexus | None], None] = _to_nobody
        self._lock = threading.Lock()
        self._prevented: set[DiskNexus] = set()

    # ------------------------------------------------------------------ refusals

    def check(self, sense: Sense | Located) -> ScsiReply:
        """CHECK CONDITION, in the format that D_SENSE asks for."""
        return ScsiReply(
            Status.CHECK_CONDITION,
            sense.descriptor() if self.modes.descriptor_sense else sense.fixed(),
        )

    def formatted(self, sense: bytes) -> bytes:
        """Sense data of fixed format, in the format that D_SENSE asks for."""
        if self.modes.descriptor_sense and len(sense) == FIXED_LENGTH:
            parsed = parse_sense(sense)
            if parsed is not None:
                return parsed.descriptor()
        return sense

    def outside(self, lba: int, blocks: int) -> Located | None:
        """Refuse a range that does not lie on the medium (SBC-3 4.5).

        A range without blocks may begin right behind the last one.
        """
        if lba + blocks > self.medium.blocks:
            return Located(senses.LBA_OUT_OF_RANGE, lba)
        return None

    def protected(self) -> Sense | None:
        """Refuse a write to what is write protected."""
        if self.read_only:
            return senses.WRITE_PROTECTED
        return senses.SOFTWARE_WRITE_PROTECTED if self.modes.software_write_protect else None

    def unstable(self, task: Task) -> Sense | None:
        """What a command is told that has made data stable, if other data of this initiator may
        be lost and it does not know; None: nothing of the kind.
        """
        return senses.WRITE_ERROR if self.medium.stability.owed(task.nexus) else None

    # ------------------------------------------------------------------ removal

    def prevent(self, nexus: DiskNexus, wanted: bool) -> None:
        """PREVENT ALLOW MEDIUM REMOVAL of one nexus (SPC-4 6.13)."""
        with self._lock:
            (self._prevented.add if wanted else self._prevented.discard)(nexus)

    @property
    def prevented(self) -> bool:
        """Whether some nexus prevents removal."""
        return bool(self._prevented)

    def load(self, wanted: bool) -> Sense | None:
        """Load or eject the medium, if nobody prevents it; others are told when it is back."""
        with self._lock:
            if self._prevented:
                return senses.REMOVAL_PREVENTED
            self.loaded = wanted
        return None

    # ------------------------------------------------------------------ changes

    def set_modes(self, new: modes.Modes, by: DiskNexus) -> None:
        """New mode parameters; every other nexus is told (SPC-4 6.11)."""
        with self._lock:
            changed, self.modes = self.modes != new, new
        if changed:
            self.on_change(senses.MODE_PARAMETERS_CHANGED, by)

    def reset(self) -> None:
        """What a logical unit reset undoes (SAM-5 6.3.3)."""
        with self._lock:
            self._prevented.clear()
            self.modes = modes.DEFAULT

    @property
    def block_size(self) -> int:
        """Bytes of a block."""
        return BLOCK


def _to_nobody(_sense: Sense, _but: DiskNexus | None) -> None:
    pass


def left(deadline: float) -> float:
    """Seconds until the deadline, none if it is over."""
    return max(0.0, deadline - time.monotonic())
