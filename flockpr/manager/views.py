"""What procfs tells of an open file: where it is, and under which name.

The kernel answers from memory, whatever the file is and whoever serves it: nothing here waits for
a file system. Most of the time goes into finding and opening procfs' own file for it. But such a
file is that of a number in this process's table of open files, and shows whatever has that number
when it is read. Files that clients pass get the same few numbers again and again, so what was
opened for these numbers is kept, and each file that comes is looked at through it.
"""

from __future__ import annotations

import contextlib
import os
import threading

from flockpr.manager.device import EXHAUSTED

MAX_KEPT = 4
"""Numbers for which something is kept open, two descriptors each; who needs more opens anew."""
_SIZE = 256
"""Of what is told, as much as is read: position, flags, mount and inode, then the locks."""
_SHOWN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC  # the link itself, not the file


def told_of(descriptor: int) -> bytes:
    """What procfs tells of an open file, see `proc_pid_fdinfo(5)`.

    Raises:
        OSError: It is not open, or there is no procfs.
    """
    info = _open_info(descriptor)
    try:
        return os.read(info, _SIZE)
    finally:
        os.close(info)


def name_of(descriptor: int) -> str:
    """The name under which a file is open; another one when it was renamed.

    Raises:
        OSError: It is not open, or there is no procfs.
    """
    return os.readlink(f"/proc/self/fd/{descriptor}")


class Views:
    """The same for numbers that come again and again. Thread-safe; never waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[int, tuple[int, int]] = {}
        self._follow: bool | None = None

    def told_of(self, descriptor: int) -> bytes:
        """See `told_of`."""
        if not self._lock.acquire(blocking=False):
            return told_of(descriptor)
        try:
            kept = self._kept.get(descriptor) or self._keep(descriptor)
            return os.pread(kept[0], _SIZE, 0) if kept else told_of(descriptor)
        finally:
            self._lock.release()

    def name_of(self, descriptor: int) -> str:
        """See `name_of`."""
        if not self._lock.acquire(blocking=False):
            return name_of(descriptor)
        try:
            kept = self._kept.get(descriptor) or self._keep(descriptor)
            return os.readlink("", dir_fd=kept[1]) if kept else name_of(descriptor)
        finally:
            self._lock.release()

    def forget(self) -> None:
        """Keep nothing of what was kept."""
        while self._kept:
            _close(self._kept.popitem()[1])

    def forget_parent(self) -> None:
        """This is another process now, and what is kept shows files of its parent."""
        self._lock = threading.Lock()  # whoever had it is not here
        self.forget()

    def _keep(self, descriptor: int) -> tuple[int, int] | None:
        """Open what is to be kept for a number; None where that is not to be had."""
        try:
            if not self._may_keep():
                return None
            while len(self._kept) >= MAX_KEPT:
                _close(self._kept.pop(next(iter(self._kept))))
            kept = _opened(descriptor)
        except OSError:  # no descriptor left, or it is not open: told by who opens it anew
            return None
        self._kept[descriptor] = kept
        return kept

    def _may_keep(self) -> bool:
        if self._follow is None:
            try:
                self._follow = _follow()
            except OSError as error:
                if error.errno in EXHAUSTED:
                    raise  # tried again
                self._follow = False
        return self._follow


def _follow() -> bool:
    """Whether what is kept for a number shows the file that has it now, and not the one that had
    it then. So it is in Linux, though no manual says so; and other kernels imitate it.
    """
    with contextlib.ExitStack() as stack:
        number = os.open("/", os.O_PATH | os.O_CLOEXEC)
        stack.callback(os.close, number)
        info, link = kept = _opened(number)
        stack.callback(_close, kept)
        before = os.pread(info, _SIZE, 0), os.readlink("", dir_fd=link)
        other = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            os.dup2(other, number, inheritable=False)
        finally:
            os.close(other)
        after = os.pread(info, _SIZE, 0), os.readlink("", dir_fd=link)
        fresh = told_of(number), name_of(number)
        return after == fresh and before[0] != after[0] and before[1] != after[1]


def _opened(descriptor: int) -> tuple[int, int]:
    info = _open_info(descriptor)
    try:
        return info, os.open(f"/proc/self/fd/{descriptor}", _SHOWN)
    except OSError:
        os.close(info)
        raise


def _open_info(descriptor: int) -> int:
    return os.open(f"/proc/self/fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


def _close(kept: tuple[int, int]) -> None:
    for each in kept:
        os.close(each)


VIEWS = Views()
"""Those of this process: its numbers are the same for all."""

os.register_at_fork(after_in_child=VIEWS.forget_parent)
