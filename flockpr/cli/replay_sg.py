"""One command to a device of this host, through SG_IO (Linux, include/uapi scsi/sg.h)."""

from __future__ import annotations

import ctypes
import fcntl
import os

from flockpr.cli.replay_doors import Answered
from flockpr.errors import FlockprError

SG_IO = 0x2285
_TO_DEVICE, _FROM_DEVICE, _NOTHING = -2, -3, -1
_SENSE = 252
_DRIVER_SENSE = 0x08


class Header(ctypes.Structure):
    """`struct sg_io_hdr`, interface "S"."""

    _fields_ = (
        ("interface_id", ctypes.c_int),
        ("direction", ctypes.c_int),
        ("cdb_length", ctypes.c_ubyte),
        ("sense_room", ctypes.c_ubyte),
        ("segments", ctypes.c_ushort),
        ("data_length", ctypes.c_uint),
        ("data", ctypes.c_void_p),
        ("cdb", ctypes.c_void_p),
        ("sense", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("own", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("message_status", ctypes.c_ubyte),
        ("sense_length", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("residual", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    )


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
    buffer = ctypes.create_string_buffer(data_out, len(data_out) or max(1, read))
    sense = ctypes.create_string_buffer(_SENSE)
    text = ctypes.create_string_buffer(cdb, len(cdb))
    direction = _TO_DEVICE if data_out else _FROM_DEVICE if read else _NOTHING
    header = Header(
        interface_id=ord("S"),
        direction=direction,
        cdb_length=len(cdb),
        sense_room=_SENSE,
        data_length=len(data_out) or read,
        data=ctypes.addressof(buffer),
        cdb=ctypes.addressof(text),
        sense=ctypes.addressof(sense),
        timeout=round(timeout * 1000),
    )
    try:
        fcntl.ioctl(descriptor, SG_IO, header)
    except OSError as error:
        raise FlockprError(f"{path}: SG_IO: {os.strerror(error.errno or 5)}") from None
    if header.host_status or header.driver_status & ~_DRIVER_SENSE & 0xFF:
        codes = f"host {header.host_status:02x}h, driver {header.driver_status:02x}h"
        raise FlockprError(f"{path}: {cdb.hex()} was lost on its way ({codes})")
    came = max(0, read - header.residual) if direction == _FROM_DEVICE else 0
    return Answered(header.status, sense.raw[: header.sense_length], buffer.raw[:came])
