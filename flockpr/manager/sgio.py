"""The manager that passes commands on to the device, as qemu-pr-helper does.

What is sent and what is made of the answer was observed of qemu-pr-helper 7.2, with every error
of the kernel and every status of adapter and driver. Where this manager differs it is because
the real helper answers GOOD, or loses a command, without the device having said so; see
docs/decisions/0019-pass-through.md.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from typing import ClassVar

from flockpr.logical_unit import Result
from flockpr.manager import sg
from flockpr.manager.passing import PassingManager
from flockpr.spc import sense as senses
from flockpr.spc.codes import Opcode, Status
from flockpr.spc.sense import Sense

_log = logging.getLogger("flockpr.manager")

CDB_LENGTH = 16
"""Bytes of a CDB as it is sent; PERSISTENT RESERVE has ten, and zeros behind them."""
READ_ROOM = 8192
"""Bytes of the buffer of PERSISTENT RESERVE IN, whatever its allocation length."""
SENSE_ROOM = 96
TIMEOUT = 7000
"""Milliseconds. The real helper says 1, which the kernel takes for 7000 with a block device. With
an sg node it takes it at its word, and aborts commands that the device is carrying out."""

_DRIVER_FAULT = 0x06
"""Bits of the driver's status with which the real helper takes a command for one to be repeated."""

_READ_ERROR = Sense(0x03, 0x11, 0x00)
_NO_SPACE = Sense(senses.DATA_PROTECT, 0x27, 0x07)

_BY_ERRNO: dict[int, Sense | Status] = {
    errno.EINVAL: senses.INVALID_FIELD_IN_CDB,
    errno.EBADE: Status.RESERVATION_CONFLICT,
    errno.EDOM: Status.TASK_SET_FULL,
    errno.ENOMEM: senses.INTERNAL_TARGET_FAILURE,
    errno.EREMOTEIO: senses.INTERNAL_TARGET_FAILURE,
    errno.ENOSPC: _NO_SPACE,
    errno.ENOMEDIUM: Sense(senses.NOT_READY, 0x3A, 0x00),
    errno.ENODATA: _READ_ERROR,
}
_BY_HOST: dict[int, Sense | Status] = {
    0x01: Sense(senses.ABORTED_COMMAND, 0x05, 0x00),  # no connection
    0x02: Status.BUSY,
    0x03: Sense(senses.ABORTED_COMMAND, 0x2E, 0x02),  # time out
    0x04: senses.COMMUNICATION_FAILURE,  # bad target
    0x05: Sense(senses.ABORTED_COMMAND, 0x2F, 0x02),  # aborted
    0x08: Sense(senses.UNIT_ATTENTION, 0x29, 0x00),  # reset
    0x0E: Sense(senses.ABORTED_COMMAND, 0x29, 0x07),  # transport disrupted
    0x10: senses.INTERNAL_TARGET_FAILURE,
    0x11: Status.RESERVATION_CONFLICT,  # of the nexus
    0x12: _NO_SPACE,
    0x13: _READ_ERROR,
}


class SgioManager(PassingManager):
    """Hands commands to the SCSI device of the descriptor, by SG_IO. Needs CAP_SYS_RAWIO."""

    kind: ClassVar[str] = "sgio"

    def perform(self, fd: int, cdb: bytes, data_out: bytes) -> Result:
        """See `PassingManager.perform`."""
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISBLK(mode) or stat.S_ISCHR(mode)):
            # What the kernel would make of it, but not asked: the ioctl of a file in user space
            # is answered by whoever serves that file.
            return Result.check(senses.IO_PROCESS_TERMINATED)
        reads = cdb[0] == Opcode.PERSISTENT_RESERVE_IN
        try:
            outcome = sg.send(
                fd,
                cdb.ljust(CDB_LENGTH, b"\0"),
                b"" if reads else data_out,
                READ_ROOM if reads else 0,
                direction=sg.FROM_DEVICE if reads else sg.TO_DEVICE,
                sense_room=SENSE_ROOM,
                timeout=TIMEOUT,
            )
        except OSError as error:
            return of_errno(error.errno or errno.EIO)
        return of_outcome(outcome)


def of_errno(number: int) -> Result:
    """What an initiator is told when the kernel did not send its command."""
    return _result(_BY_ERRNO.get(number, senses.IO_PROCESS_TERMINATED))


def of_outcome(outcome: sg.Outcome) -> Result:
    """What an initiator is told of a command that was sent."""
    if outcome.host:
        # The real helper answers GOOD to a status that it does not know, to DID_ERROR even.
        return _result(_BY_HOST.get(outcome.host, senses.IO_PROCESS_TERMINATED))
    if outcome.driver & _DRIVER_FAULT:
        return Result(Status.BUSY)
    try:
        status = Status(outcome.status)
    except ValueError:
        _log.warning("the device answered with status %02xh", outcome.status)
        return Result.check(senses.IO_PROCESS_TERMINATED)
    if status == Status.CHECK_CONDITION:
        return Result(status, outcome.sense)
    return Result(status, data_in=outcome.data_in if status == Status.GOOD else b"")


def _result(meaning: Sense | Status) -> Result:
    return Result.check(meaning) if isinstance(meaning, Sense) else Result(meaning)
