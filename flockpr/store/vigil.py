"""Directories of which the kernel tells when something in them changes.

Who reads again and again what hardly ever changes need not look for names each time. The
kernel queues an event (inotify) before the system call returns that changes a directory, in
whichever process of this host. So as long as nothing is queued, a look that was taken after the
vigil had begun still holds. That costs one system call which touches no file system, for all
directories of the process together.

It holds where every change comes through this kernel's own names, which is to say on a file
system of one host. Elsewhere, and where the kernel has no room for one more, nobody keeps
vigil, and names are looked for.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
import termios
import threading
from typing import Final, Protocol

_EVENT: Final = struct.Struct("iIII")  # wd, mask, cookie, length of the name that follows
_IGNORED: Final = 0x8000  # the directory is gone, or its file system
_OVERFLOW: Final = 0x4000
_MASK: Final = (
    0x0002 | 0x0004 | 0x0040 | 0x0080 | 0x0100 | 0x0200 | 0x0400 | 0x0800 | 0x01000000
)  # modify, attributes, moved from and to, created, deleted, itself deleted or moved; ONLYDIR
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC  # IN_NONBLOCK and IN_CLOEXEC have these numbers
_NOTHING: Final = bytes(4)
_ROOM: Final = 1 << 16


class Vigil(Protocol):
    """What is asked of one directory. But for `end` nothing waits for a file system."""

    def begin(self) -> None:
        """From now on; look at the names after that."""

    def undisturbed(self) -> bool:
        """Whether certainly nothing has changed in the directory since `begin`."""

    def quiet(self) -> bool:
        """As `undisturbed`, without waiting for anybody: False also when something has changed in
        another directory, and was not told yet.
        """

    def end(self) -> None:
        """Watch it no longer. Idempotent."""


class Nobody:
    """Nobody keeps vigil: nothing is certain."""

    def begin(self) -> None:
        """See `Vigil.begin`."""

    def undisturbed(self) -> bool:
        """See `Vigil.undisturbed`."""
        return False

    def quiet(self) -> bool:
        """See `Vigil.quiet`."""
        return False

    def end(self) -> None:
        """See `Vigil.end`."""


NOBODY: Final = Nobody()


class _Watch:
    """One directory; see `Vigil`. Asked by one thread at a time.

    Attributes:
        disturbed: Something has changed since `begin`.
        over: The kernel tells nothing of it any more.
    """

    def __init__(self, queue: _Queue, number: int) -> None:
        self._queue = queue
        self._number = number
        self._size = bytearray(_NOTHING)
        self.disturbed = True
        self.over = False

    def begin(self) -> None:
        queue = self._queue
        with queue.lock:
            if not self.over:
                queue.drain()
            self.disturbed = self.over

    def undisturbed(self) -> bool:
        if self.disturbed:
            return False
        queue = self._queue
        if queue.anything(self._size):
            with queue.lock:
                queue.drain()
        return not self.disturbed

    def quiet(self) -> bool:
        return not (self.disturbed or self._queue.anything(self._size) or self.disturbed)

    def end(self) -> None:
        with _lock:
            self._queue.leave(self._number, self)
            _close_if_unused(self._queue)


class _Queue:
    """The events of all directories of this process.

    Attributes:
        lock: Held to read events.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.watches: dict[int, list[_Watch]] = {}
        self._fd = _checked(_libc().inotify_init1(_FLAGS))
        self._draining = False

    def anything(self, size: bytearray) -> bool:
        """Whether there may be an event that was not told to its watches yet. In this order:
        what another thread has taken out of the queue it has told when it is not draining.

        Args:
            size: Four bytes of the caller's; with new ones the call takes twice as long.
        """
        try:
            fcntl.ioctl(self._fd, termios.FIONREAD, size)
        except OSError:  # it was closed this moment, because the last directory is gone
            return True
        return size != _NOTHING or self._draining

    def drain(self) -> None:
        """Tell what is queued to whom it concerns; with the lock held."""
        if self._fd < 0:
            return  # nobody is left whom it could concern
        self._draining = True
        try:
            data = os.read(self._fd, _ROOM)
        except BlockingIOError:
            data = b""
        at = 0
        while at < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            self._tell(number, mask)
        if len(data) > _ROOM // 2:  # there may be more than was read
            self._tell(-1, _OVERFLOW)
        self._draining = False

    def _tell(self, number: int, mask: int) -> None:
        if mask & _OVERFLOW:
            concerned = [watch for many in self.watches.values() for watch in many]
        elif mask & _IGNORED:
            concerned = self.watches.pop(number, [])
        else:
            concerned = self.watches.get(number, [])
        for watch in concerned:
            watch.disturbed = True
            watch.over = watch.over or bool(mask & _IGNORED)

    def watch(self, fd: int) -> _Watch:
        """Begin to listen for one more directory.

        Raises:
            OSError: The kernel has no room for it, or there is no /proc.
        """
        path = f"/proc/self/fd/{fd}".encode()
        with self.lock:
            number = _checked(_libc().inotify_add_watch(self._fd, path, _MASK))
            watch = _Watch(self, number)
            self.watches.setdefault(number, []).append(watch)
        return watch

    def leave(self, number: int, watch: _Watch) -> None:
        """Listen for it no longer; another watch of the same directory goes on."""
        with self.lock:
            watch.disturbed = watch.over = True
            left = self.watches.get(number, [])
            if watch in left:
                left.remove(watch)
            if not left and self.watches.pop(number, None) is not None:
                _libc().inotify_rm_watch(self._fd, number)

    def close(self) -> None:
        """Nobody listens any more. Who drains must not read what has its number next."""
        with self.lock:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def forget(self) -> None:
        """This is another process now, and the events are its parent's."""
        self.lock = threading.Lock()
        for watches in self.watches.values():
            for watch in watches:
                watch.disturbed = watch.over = True
        self.watches.clear()
        self.close()


_lock = threading.Lock()
_queue: _Queue | None = None


def keep_vigil(fd: int) -> Vigil:
    """Begin to watch a directory on a file system of this host.

    Args:
        fd: A descriptor of it; stays the caller's.

    Returns:
        Its vigil, to be ended; `NOBODY` where the kernel does not tell.
    """
    global _queue  # noqa: PLW0603, one for all: a user may have 128 of them in all processes
    with _lock:
        try:
            queue = _queue or _Queue()
            _queue = queue
            return queue.watch(fd)
        except OSError:
            return NOBODY
        finally:
            if _queue is not None:
                _close_if_unused(_queue)


def _close_if_unused(queue: _Queue) -> None:
    global _queue  # noqa: PLW0603
    if queue is _queue and not queue.watches:
        _queue = None
        queue.close()


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(number: int) -> int:
    if number < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return number


def _forget() -> None:
    global _lock, _queue  # noqa: PLW0603, whoever had the lock is not here
    _lock = threading.Lock()
    queue, _queue = _queue, None
    if queue is not None:
        with contextlib.suppress(OSError):
            queue.forget()


os.register_at_fork(after_in_child=_forget)
