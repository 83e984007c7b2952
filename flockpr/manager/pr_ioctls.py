"""The kernel's own calls for reservations of a block device (Linux, include/uapi linux/pr.h)."""

from __future__ import annotations

import array
import fcntl
import struct

import attrs

_REGISTRATION = struct.Struct("=QQII")  # old key, new key, flags, nothing
_RESERVATION = struct.Struct("=QII")  # key, type, flags
_PREEMPTION = struct.Struct("=QQII")  # own key, other key, type, flags
_CLEARING = struct.Struct("=QII")  # key, flags, nothing
_KEYS = struct.Struct("=IIQ")  # generation, how many, where
_HELD = struct.Struct("=QII")  # key, generation, type


def _number(direction: int, which: int, size: int) -> int:
    """An ioctl's number, as _IOW ('p', which, ...) makes it: 1 is written to the kernel, 2 read."""
    return direction << 30 | size << 16 | ord("p") << 8 | which


REGISTER = _number(1, 200, _REGISTRATION.size)
RESERVE = _number(1, 201, _RESERVATION.size)
RELEASE = _number(1, 202, _RESERVATION.size)
PREEMPT = _number(1, 203, _PREEMPTION.size)
PREEMPT_ABORT = _number(1, 204, _PREEMPTION.size)
CLEAR = _number(1, 205, _CLEARING.size)
READ_KEYS = _number(3, 206, _KEYS.size)
READ_RESERVATION = _number(2, 207, _HELD.size)

_IGNORE_KEY = 1

TYPES = {1: 1, 3: 2, 5: 3, 6: 4, 7: 5, 8: 6}
"""The type of a reservation in SPC-4 6.15.3.4, to what the kernel calls it."""
_SPC_TYPES = {kernel: spc for spc, kernel in TYPES.items()}


@attrs.frozen
class Held:
    """What READ_RESERVATION says.

    Attributes:
        generation: PRGENERATION.
        key: Of the holder; 0 with the types of all registrants.
        type: As in SPC-4 6.15.3.4, or None where nothing is reserved.
    """

    generation: int
    key: int
    type: int | None


def register(descriptor: int, old: int, new: int, *, ignore: bool) -> int:
    """Register `new` in place of `old`, 0 for none; or whatever was there.

    Returns:
        What the driver says, as all of these do: 0 if it was done.

    Raises:
        OSError: The kernel did not ask the device; so all of these.
    """
    data = _REGISTRATION.pack(old, new, _IGNORE_KEY if ignore else 0, 0)
    return _call(descriptor, REGISTER, data)


def reserve(descriptor: int, key: int, kind: int) -> int:
    """Reserve with a type of the kernel's."""
    return _call(descriptor, RESERVE, _RESERVATION.pack(key, kind, 0))


def release(descriptor: int, key: int, kind: int) -> int:
    """Release a reservation of that type."""
    return _call(descriptor, RELEASE, _RESERVATION.pack(key, kind, 0))


def preempt(descriptor: int, key: int, other: int, kind: int, *, abort: bool) -> int:
    """Take away the registrations with the key `other`, and the reservation if it is theirs."""
    data = _PREEMPTION.pack(key, other, kind, 0)
    return _call(descriptor, PREEMPT_ABORT if abort else PREEMPT, data)


def clear(descriptor: int, key: int) -> int:
    """Take away all registrations and the reservation."""
    return _call(descriptor, CLEAR, _CLEARING.pack(key, 0, 0))


def read_keys(descriptor: int, room: int) -> tuple[int, int, list[int]]:
    """PRGENERATION, how many keys there are, and as many of them as there is room for.

    Raises:
        OSError: Also of a kernel before 7.0, with ENOTTY.
    """
    keys = array.array("Q", bytes(8 * room))
    data = bytearray(_KEYS.pack(0, room, keys.buffer_info()[0]))
    status = fcntl.ioctl(descriptor, READ_KEYS, data, True)
    if status:
        raise OSError(status, "the driver could not tell the keys")
    generation, count, _ = _KEYS.unpack(data)
    return generation, count, list(keys[: min(count, room)])


def read_reservation(descriptor: int) -> Held:
    """Who holds a reservation.

    Raises:
        OSError: Also of a kernel before 7.0, with ENOTTY.
    """
    data = bytearray(_HELD.size)
    status = fcntl.ioctl(descriptor, READ_RESERVATION, data, True)
    if status:
        raise OSError(status, "the driver could not tell the reservation")
    key, generation, kind = _HELD.unpack(data)
    return Held(generation, key, _SPC_TYPES.get(kind))


def known(descriptor: int) -> None:
    """See that the device has these calls, without one: the kernel looks for them first.

    Raises:
        OSError: EFAULT if it has; EOPNOTSUPP, ENOTTY if it has not; EPERM without CAP_SYS_ADMIN.
    """
    fcntl.ioctl(descriptor, REGISTER, 0)


def _call(descriptor: int, number: int, data: bytes) -> int:
    status: int = fcntl.ioctl(descriptor, number, bytearray(data), True)
    return status
