"""The ioctl SG_IO: one command to a SCSI device of this host (Linux, include/uapi scsi/sg.h)."""

from __future__ import annotations

import ctypes
import fcntl

import attrs

SG_IO = 0x2285
NOTHING, TO_DEVICE, FROM_DEVICE = -1, -2, -3
"""Directions of a transfer (SG_DXFER_*)."""


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


@attrs.frozen
class Outcome:
    """What the kernel says of a command that it has sent.

    Attributes:
        status: SCSI status byte, as the device sent it; 0 also where it sent none.
        host: What the host adapter says (`DID_*` of the kernel), 0 if nothing went wrong.
        driver: What the driver says (`DRIVER_*`); 08h with sense data.
        sense: The whole buffer for sense data, zeros behind what was written.
        sense_length: Bytes of sense data in it.
        data_in: What was read.
    """

    status: int
    host: int
    driver: int
    sense: bytes
    sense_length: int
    data_in: bytes


def send(
    descriptor: int,
    cdb: bytes,
    data_out: bytes,
    read: int,
    *,
    direction: int,
    sense_room: int,
    timeout: int,
) -> Outcome:
    """Send a command, and wait for its answer; the kernel may take minutes over one that it aborts.

    Args:
        descriptor: Of the device.
        cdb: The command.
        data_out: What it writes.
        read: Bytes that it may read.
        direction: One of `NOTHING`, `TO_DEVICE`, `FROM_DEVICE`.
        sense_room: Most bytes of sense data, up to 255.
        timeout: Milliseconds after which the kernel aborts it. Of a block device it takes less
            than 7000 for 7000.

    Raises:
        OSError: The kernel did not send it.
    """
    buffer = ctypes.create_string_buffer(data_out, max(1, len(data_out), read))
    sense = ctypes.create_string_buffer(sense_room)
    text = ctypes.create_string_buffer(cdb, len(cdb))
    length = len(data_out) if direction == TO_DEVICE else read
    header = Header(
        interface_id=ord("S"),
        direction=direction,
        cdb_length=len(cdb),
        sense_room=sense_room,
        data_length=length,
        data=ctypes.addressof(buffer),
        cdb=ctypes.addressof(text),
        sense=ctypes.addressof(sense),
        timeout=timeout,
    )
    fcntl.ioctl(descriptor, SG_IO, header)
    came = 0
    if direction == FROM_DEVICE:
        came = min(read, max(0, read - header.residual))
    return Outcome(
        header.status,
        header.host_status,
        header.driver_status,
        sense.raw,
        header.sense_length,
        buffer.raw[:came],
    )
