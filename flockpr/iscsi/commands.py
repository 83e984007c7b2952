"""SCSI commands between one connection and the task sets of its LUNs."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterable

import attrs

from flockpr.block import Direction, ScsiReply, Transfer, report_luns
from flockpr.block.senses import REPORTED_LUNS_CHANGED
from flockpr.iscsi.command import Command
from flockpr.iscsi.memory import Grant, Share
from flockpr.iscsi.sessions import Attachment
from flockpr.iscsi.targets import Lun
from flockpr.iscsi.tasks import Line, Phase, Task
from flockpr.spc.codes import Opcode, Status

NO_DATA = memoryview(bytearray(0))
"""Given for Data-Out that nobody wants: whatever comes of it is dropped."""

_OUT = Direction.OUT
_OVER = Phase.OVER
_REPORT_LUNS = bytes((Opcode.REPORT_LUNS,))


@attrs.define(eq=False)
class Channel:
    """One LUN as one connection uses it.

    Attributes:
        attachment: The LUN, and who this initiator is to it.
        share: Its part of the memory for Data-Out.
        reserved: Bytes of Data-In that are being read or wait to be taken.
        held: Reads that wait until less is reserved.
        lock: Of these two.
    """

    attachment: Attachment
    share: Share
    reserved: int = 0
    held: deque[CommandTask] = attrs.field(factory=deque)
    lock: threading.Lock = attrs.field(factory=threading.Lock)

    @property
    def lun(self) -> Lun:
        """The LUN."""
        return self.attachment.lun

    @property
    def line(self) -> Line:
        """Its part of the LUN's task set."""
        return self.attachment.line

    def reserve(self, task: CommandTask, most: int) -> bool:
        """Count what a read will bring, or hold it back; one alone always may.

        Returns:
            Whether it may go on. False also if it is over.
        """
        wanted = task.wanted
        with self.lock:
            if task.phase is _OVER:
                return False  # what is counted now would never be given back
            if self.reserved and self.reserved + wanted > most:
                self.held.append(task)
                return False
            self.reserved += wanted
            task.reserved = wanted
            return True

    def returned(self, task: CommandTask, most: int) -> list[CommandTask]:
        """What a read brought has been taken: the reads that may go on, counted already."""
        going: list[CommandTask] = []
        with self.lock:
            self.reserved -= task.reserved
            task.reserved = 0
            while self.held and (not self.reserved or self.reserved + self.held[0].wanted <= most):
                following = self.held.popleft()
                following.reserved = following.wanted
                self.reserved += following.reserved
                going.append(following)
        return going

    def hold_no_more(self, task: CommandTask) -> None:
        """A task is over: forget that it is held back, if it is."""
        with self.lock, contextlib.suppress(ValueError):
            self.held.remove(task)


@attrs.define(eq=False, kw_only=True)
class CommandTask(Task):
    """The task of one SCSI command.

    Attributes:
        command: The protocol's side of it.
        channel: The LUN.
        transfer: What its CDB moves.
        grant: Memory for its Data-Out, from when there is some until it is not needed.
        wanted: Bytes of Data-In that it may bring and the initiator takes.
        reserved: Bytes of Data-In that are counted for it.
        reply: What a glance gave, for the thread that reads to answer it at once.
        since: When it came (`time.monotonic`).
        arrived: How much of its Data-Out had come by `looked`; since then it has made no
            progress if that is all.
        looked: When somebody last saw it make progress.
    """

    command: Command
    channel: Channel
    transfer: Transfer
    grant: Grant | None = None
    wanted: int = 0
    reserved: int = 0
    reply: ScsiReply | None = None
    since: float = 0.0
    arrived: int = -1
    looked: float = 0.0

    @property
    def solicited(self) -> int:
        """Bytes of Data-Out that are wanted: what the CDB moves, if the initiator has it."""
        if self.transfer.direction is not _OUT:
            return 0
        return min(self.command.write_length, self.transfer.length)

    @property
    def data_out(self) -> memoryview:
        """Its Data-Out."""
        return NO_DATA if self.grant is None else self.grant.view


def is_report_luns(cdb: bytes) -> bool:
    """Whether it asks for all LUNs of the target, which a LUN does not know."""
    return cdb[:1] == _REPORT_LUNS


def forget_changes(cdb: bytes, channels: Iterable[Channel]) -> None:
    """A REPORT LUNS that is carried out tells what 3F/0E says has changed (SPC-4 6.33)."""
    if report_luns(cdb, ()).status is Status.GOOD:
        for channel in channels:
            channel.attachment.disk_nexus.forget(REPORTED_LUNS_CHANGED)


def length_for_residuals(transfer: Transfer) -> int | None:
    """Bytes that the command moved by itself; residuals compare them with what was expected.

    None for Data-In: it is what the reply has (RFC 7143 11.4.5.2).
    """
    return transfer.length if transfer.direction is _OUT else None
