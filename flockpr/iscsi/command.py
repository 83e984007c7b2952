"""One SCSI command from its arrival to its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from flockpr.iscsi.dataout import Gathering


@attrs.frozen(eq=False)
class Answer:
    """How a command ends; see `TargetConnection.respond`."""

    status: int
    sense: bytes
    data: Sequence[bytes | memoryview]
    length: int | None


@attrs.define(eq=False)
class Command:
    """A SCSI command, also the event of its arrival and the handle for its answer.

    Attributes:
        itt: Initiator task tag.
        lun: Logical unit number, -1 when the field addresses none of ours.
        lun_field: The 8 bytes of the LUN field as an integer.
        cdb: 16 bytes, more with an extended CDB segment (RFC 7143 11.2.2.3).
        attribute: Task attribute: 0 untagged, 1 simple, 2 ordered, 3 head of queue, 4 ACA.
        read: The initiator has a buffer for Data-In.
        write: The initiator has Data-Out.
        edtl: Expected Data Transfer Length.
        read_length: Bytes of Data-In that the initiator takes; 0 without `read`.
        write_length: Bytes of Data-Out that the initiator has; 0 without `write`.
        immediate: Delivered out of the order of CmdSN.
        cmd_sn: Its CmdSN, or the one it was sent beside.
        view: Where its Data-Out goes, as the door gave it.
        complete: All of the Data-Out that is wanted is in `view`.
        state: The door's own.
        gathering: Reception of its Data-Out, while that lasts.
        pending: Data that came before there was a view.
        delivered: Its turn in the order of CmdSN has come.
        announced: The door was told of it.
        gone: It was answered or forgotten.
        sent_sequences: Data-In and R2T PDUs that were sent for it (ExpDataSN).
        deferred: The answer that waits for the last Data-Out.
    """

    itt: int
    lun: int
    lun_field: int
    cdb: bytes
    attribute: int
    read: bool
    write: bool
    edtl: int
    read_length: int
    write_length: int
    immediate: bool
    cmd_sn: int
    view: memoryview | None = attrs.field(default=None, repr=False)
    complete: bool = True
    state: Any = attrs.field(default=None, repr=False)
    gathering: Gathering | None = attrs.field(default=None, repr=False)
    pending: bytearray | None = attrs.field(default=None, repr=False)
    delivered: bool = False
    announced: bool = False
    gone: bool = False
    sent_sequences: int = 0
    deferred: Answer | None = None

    @property
    def filled(self) -> int:
        """How many bytes of Data-Out have been taken."""
        return self.gathering.filled if self.gathering is not None else 0
