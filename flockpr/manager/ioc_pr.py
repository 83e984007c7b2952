"""The manager that passes commands on by the kernel's own calls for reservations.

They are for devices that SG_IO does not reach whole: maps of the device mapper, NVMe namespaces.
They say less than SCSI does: no TransportIDs, no REGISTER AND MOVE, no full status, no sense
data; and before Linux 7.0 nothing can be read. What they cannot say is refused, before a call.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import struct
from typing import ClassVar

from flockpr.logical_unit import Result
from flockpr.manager import pr_ioctls as calls
from flockpr.manager.passing import PassingManager
from flockpr.manager.plain_out import change_of
from flockpr.spc import sense as senses
from flockpr.spc.codes import InAction, Opcode, OutAction, Status

_log = logging.getLogger("flockpr.manager")

MAX_KEYS = 1023
"""Keys that have room in the largest payload of the helper's protocol."""

_CAPABILITIES = bytes((0, 8, 0x01, 0x81, 0xEA, 0x01, 0, 0))
"""PTPL_C and PTPL_A, because the kernel registers to last; all six types; nothing else."""
_UNKNOWN = frozenset((errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP))
_SCSI_CONFLICTS = frozenset((0x18, 0x118, 0x110018))
"""RESERVATION CONFLICT: since Linux 6.3; with what 6.1 was seen to add in the byte above it; and
with the adapter's status that kernels before that add (DID_NEXUS_FAILURE)."""
_NVME_CONFLICT, _NVME_STATUS = 0x83, 0x7FF


class IocPrManager(PassingManager):
    """Hands commands to the block device of the descriptor, by IOC_PR_*. Needs CAP_SYS_ADMIN."""

    kind: ClassVar[str] = "ioc-pr"

    def perform(self, fd: int, cdb: bytes, data_out: bytes) -> Result:
        """See `PassingManager.perform`."""
        if not stat.S_ISBLK(os.fstat(fd).st_mode):
            return Result.check(senses.IO_PROCESS_TERMINATED)
        try:
            if cdb[0] == Opcode.PERSISTENT_RESERVE_IN:
                return _read(fd, cdb)
            return _change(fd, cdb, data_out)
        except OSError as error:
            reads = cdb[0] == Opcode.PERSISTENT_RESERVE_IN
            if reads and error.errno in _UNKNOWN and cdb[1] & 0x1F != InAction.REPORT_CAPABILITIES:
                return Result.check(senses.INVALID_FIELD_IN_CDB)  # a kernel before 7.0
            return _of_errno(error)


def _read(fd: int, cdb: bytes) -> Result:
    length = int.from_bytes(cdb[7:9])
    match cdb[1] & 0x1F:
        case InAction.REPORT_CAPABILITIES:
            try:
                calls.known(fd)
            except OSError as error:
                if error.errno != errno.EFAULT:
                    return _of_errno(error)
            data = _CAPABILITIES
        case InAction.READ_KEYS:
            generation, count, keys = calls.read_keys(fd, MAX_KEYS)
            listed = b"".join(key.to_bytes(8) for key in keys)
            data = struct.pack(">II", generation, 8 * count) + listed
        case InAction.READ_RESERVATION:
            held = calls.read_reservation(fd)
            data = struct.pack(">II", held.generation, 0 if held.type is None else 16)
            if held.type is not None:
                data += struct.pack(">QIBBH", held.key, 0, 0, held.type, 0)
        case _:
            return Result.check(senses.INVALID_FIELD_IN_CDB)
    return Result(Status.GOOD, data_in=data[:length])


def _change(fd: int, cdb: bytes, data_out: bytes) -> Result:
    change = change_of(cdb, data_out, all_target_ports=False)
    if isinstance(change, Result):
        return change
    kind = calls.TYPES.get(change.type, 0)
    return _of_status(_call(fd, change.action, change.key, change.other, kind))


def _call(fd: int, action: OutAction, key: int, other: int, kind: int) -> int:
    match action:
        case OutAction.RESERVE:
            return calls.reserve(fd, key, kind)
        case OutAction.RELEASE:
            return calls.release(fd, key, kind)
        case OutAction.CLEAR:
            return calls.clear(fd, key)
        case OutAction.PREEMPT | OutAction.PREEMPT_AND_ABORT:
            abort = action == OutAction.PREEMPT_AND_ABORT
            return calls.preempt(fd, key, other, kind, abort=abort)
    ignore = action == OutAction.REGISTER_AND_IGNORE_EXISTING_KEY
    return calls.register(fd, 0 if ignore else key, other, ignore=ignore)


def _of_status(status: int) -> Result:
    """What the driver says: a status of SCSI or NVMe, or one of the kernel's for paths."""
    if status == 0:
        return Result(Status.GOOD)
    if status in _SCSI_CONFLICTS or status & _NVME_STATUS == _NVME_CONFLICT:
        return Result(Status.RESERVATION_CONFLICT)
    if status >> 16 & 0xFF:  # of the adapter; before Linux 5.14 the driver's are in the bits above
        return Result.check(senses.COMMUNICATION_FAILURE)
    return Result.check(senses.IO_PROCESS_TERMINATED)


def _of_errno(error: OSError) -> Result:
    match error.errno:
        case errno.EOPNOTSUPP | errno.ENOTTY:
            return Result.check(senses.INVALID_OPCODE)
        case errno.EINVAL:
            return Result.check(senses.INVALID_FIELD_IN_CDB)
        case errno.EPERM:
            _log.error("the kernel's calls for reservations take CAP_SYS_ADMIN")
        case errno.EBADE:
            return Result(Status.RESERVATION_CONFLICT)
    return Result.check(senses.IO_PROCESS_TERMINATED)
