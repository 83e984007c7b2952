"""Reads and writes that the kernel carries out while the caller goes on: its asynchronous I/O.

A thread that calls `preadv` waits for one command of the disk, however many the client has sent;
a disk, though, is the quicker the more it knows of. `io_submit` tells it of all of them with one
system call. Python has no such call, so ctypes makes it.

The kernel reads and writes the memory of a command until it has said that it is over, also when
the file has been closed meanwhile. So that memory is kept until `reap` returns the command, and
`close` waits for those that are under way. A process that is killed waits for them as well, before
its locks are given back: nothing of it lands later.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Callable
from typing import Any, Final, Generic, TypeAlias, TypeVar

T = TypeVar("T")

_IOCB: Final = struct.Struct("=QIIHhIQQqQII")
"""struct iocb of linux/aio_abi.h: ours, key and flags, operation, priority, file, address, bytes,
offset, reserved, flags, descriptor that is told of the end.
"""
_EVENT: Final = struct.Struct("=QQqq")
"""struct io_event: ours, iocb, result, second result."""
_READ, _WRITE = 0, 1
_TELL: Final = 1
"""IOCB_FLAG_RESFD."""
_NO_TIME: Final = bytes(16)
"""A struct timespec: do not wait."""


class _Numbers:
    """System call numbers of one kind of machine."""

    __slots__ = ("destroy", "events", "setup", "submit")

    def __init__(self, setup: int, destroy: int, events: int, submit: int) -> None:
        self.setup = setup
        self.destroy = destroy
        self.events = events
        self.submit = submit


_GENERIC: Final = _Numbers(0, 1, 4, 2)
_NUMBERS: Final = {
    "x86_64": _Numbers(206, 207, 208, 209),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
}
"""Of machines whose C library has `long` for what the kernel calls a word."""

_Call: TypeAlias = Callable[..., int]


def _call(*kinds: Any) -> _Call:
    """The C library's `syscall`, for these arguments behind the number."""
    kind = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long, *kinds, use_errno=True)
    return kind(("syscall", ctypes.CDLL(None, use_errno=True)))


_WORD, _LONG, _POINTER = ctypes.c_ulong, ctypes.c_long, ctypes.c_void_p
_setup: Final[_Call] = _call(_WORD, _POINTER)
_destroy: Final[_Call] = _call(_WORD)
_submit: Final[_Call] = _call(_WORD, _LONG, _POINTER)
_getevents: Final[_Call] = _call(_WORD, _LONG, _LONG, _POINTER, _POINTER)


class Ring(Generic[T]):
    """Commands that the kernel is at. For one thread at a time.

    Args:
        room: How many at the most.

    Attributes:
        fd: Readable when some are over; `reap` takes it back.

    Raises:
        OSError: The system has none: ENOSYS where it is another kind of machine or forbidden,
            EAGAIN where all that fs.aio-max-nr allows are in use.
    """

    def __init__(self, room: int) -> None:
        numbers = _NUMBERS.get(platform.machine())
        # A program of 32 bits has other numbers than the kernel that it says is there.
        if numbers is None or struct.calcsize("P") != 8:
            raise OSError(errno.ENOSYS, "no asynchronous input and output on this machine")
        self._numbers = numbers
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._context = 0
        try:
            self._set_up(room)
        except OSError:
            self.close()
            raise
        self._blocks = ctypes.create_string_buffer(room * _IOCB.size)
        first = ctypes.addressof(self._blocks)
        self._addresses = [first + slot * _IOCB.size for slot in range(room)]
        self._queue = (ctypes.c_void_p * room)()
        self._events = ctypes.create_string_buffer(room * _EVENT.size)
        self._room = room
        self._free = list(range(room))
        self._queued: list[int] = []
        self._held: list[tuple[T, object] | None] = [None] * room

    def _set_up(self, room: int) -> None:
        context = ctypes.c_ulong(0)
        _check(_setup(self._numbers.setup, room, ctypes.byref(context)))
        self._context = context.value
        # Forbidden later it would leave commands behind of which nobody hears again.
        _check(_getevents(self._numbers.events, self._context, 0, 0, None, _NO_TIME))

    @property
    def full(self) -> bool:
        """Whether there is no room for another one."""
        return not self._free

    @property
    def held(self) -> int:
        """How many are queued or under way."""
        return self._room - len(self._free)

    def commands(self) -> list[T]:
        """Those that are queued or under way."""
        return [held[0] for held in list(self._held) if held is not None]

    @property
    def queued(self) -> int:
        """How many `submit` will tell the kernel of."""
        return len(self._queued)

    def read(self, command: T, fd: int, view: memoryview, offset: int) -> None:
        """Queue a read of `view`, which is writable and aligned, from byte `offset` of `fd`."""
        self._add(_READ, command, fd, view, offset)

    def write(self, command: T, fd: int, view: memoryview, offset: int) -> None:
        """Queue a write of `view`, which lies in memory that can be written."""
        self._add(_WRITE, command, fd, view, offset)

    def _add(self, kind: int, command: T, fd: int, view: memoryview, offset: int) -> None:
        pin = ctypes.c_char.from_buffer(view)
        slot = self._free.pop()
        self._held[slot] = (command, pin)
        address, size = ctypes.addressof(pin), len(view)
        _IOCB.pack_into(
            self._blocks,
            slot * _IOCB.size,
            *(slot, 0, 0, kind, 0, fd, address, size, offset, 0, _TELL, self.fd),
        )
        self._queue[len(self._queued)] = self._addresses[slot]
        self._queued.append(slot)

    def submit(self) -> list[T]:
        """Tell the kernel of what is queued; waits where the disk has more than it can take.

        Returns:
            Those that it did not take: nothing was done of them.
        """
        queued, count = self._queued, len(self._queued)
        taken = _submit(self._numbers.submit, self._context, count, self._queue) if count else 0
        taken = max(taken, 0)
        self._queued = []
        return [self._take(slot) for slot in queued[taken:]]

    def reap(self, *, wait: bool = False) -> list[tuple[T, int]]:
        """Those that are over, each with the bytes that were moved, or minus an errno.

        Args:
            wait: Until there is one; only where one is under way.
        """
        try:
            os.eventfd_read(self.fd)  # before they are taken, or one could be overlooked
        except BlockingIOError:
            if not wait:
                return []
        least = 1 if wait else 0
        found = _getevents(
            self._numbers.events,
            *(self._context, least, self._room, self._events, None if least else _NO_TIME),
        )
        if found <= 0:
            if found and ctypes.get_errno() != errno.EINTR:
                _check(found)
            return []
        events = memoryview(self._events)[: found * _EVENT.size]
        return [(self._take(slot), result) for slot, _, result, _ in _EVENT.iter_unpack(events)]

    def _take(self, slot: int) -> T:
        held = self._held[slot]
        assert held is not None
        self._held[slot] = None
        self._free.append(slot)
        return held[0]

    def close(self) -> None:
        """Give it back. Waits for what is under way, and in any case some hundredths of a second
        for the kernel; once is enough, more is no error.
        """
        if self._context:
            _destroy(self._numbers.destroy, self._context)
            self._context = 0
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
