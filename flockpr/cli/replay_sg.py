"""One command of a replay to a device of this host."""

from __future__ import annotations

import os

from flockpr.cli.replay_doors import Answered
from flockpr.errors import FlockprError
from flockpr.manager import sg

_SENSE = 252
_DRIVER_SENSE = 0x08


def command(
    path: str, descriptor: int, cdb: bytes, data_out: bytes, read: int, *, timeout: float
) -> Answered:
    """Send a command, and wait for its answer.

    Args:
        path: Of the device, for errors.
        descriptor: Of the device, open to read and write.
        cdb: The command.
        data_out: What it writes.
        read: Bytes that it may read; 0 with `data_out`.
        timeout: Seconds after which the kernel aborts it.

    Raises:
        FlockprError: The kernel did not send it, or it was lost on its way.
    """
    direction = sg.TO_DEVICE if data_out else sg.FROM_DEVICE if read else sg.NOTHING
    try:
        outcome = sg.send(
            descriptor,
            cdb,
            data_out,
            0 if data_out else read,
            direction=direction,
            sense_room=_SENSE,
            timeout=round(timeout * 1000),
        )
    except OSError as error:
        raise FlockprError(f"{path}: SG_IO: {os.strerror(error.errno or 5)}") from None
    if outcome.host or outcome.driver & ~_DRIVER_SENSE & 0xFF:
        codes = f"host {outcome.host:02x}h, driver {outcome.driver:02x}h"
        raise FlockprError(f"{path}: {cdb.hex()} was lost on its way ({codes})")
    return Answered(outcome.status, outcome.sense[: outcome.sense_length], outcome.data_in)
