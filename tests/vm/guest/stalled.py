"""Runs flockpr in a machine, and stops it at a point that a test names.

Usage: stalled.py ARGUMENTS OF FLOCKPR

A file /run/stall/POINT, made by the test, arms the point: the next thread that comes there (and
whose object contains the text in the file) renames it to POINT.here, and waits until POINT.go is
there. Nothing of this is on the shared file system. The points:

commit     right before link(2), which commits
committed  right after it
knock      a command that takes access away has rung, and has not taken the permit
permit     it has taken the permit, and has not decided
write      right before a write to an image
punch      right before blocks of an image are deallocated
"""

import fcntl
import os
import sys
import time

from flockpr.block.calls import ImageCalls
from flockpr.store.layout import COMMIT_NAME, DOORBELL
from flockpr.store.syscalls import Syscalls

FOLDER = "/run/stall"
_link, _set_lock = Syscalls.link, Syscalls.set_lock
_pwritev, _punch = ImageCalls.pwritev, ImageCalls.punch
_KNOCKS, _KNOCKS_OF_A_LUN = 1 << 62, 1 << 47


def here(point, what):
    """Stop, if this point is armed for this object."""
    armed, reached = f"{FOLDER}/{point}", f"{FOLDER}/{point}.here"
    try:
        with open(armed, encoding="utf-8") as file:
            wanted = file.read().strip()
        if wanted not in what:
            return
        os.rename(armed, reached)
    except OSError:
        return  # not armed, or another thread was first
    while not os.path.exists(f"{FOLDER}/{point}.go"):
        time.sleep(0.02)
    for name in (reached, f"{FOLDER}/{point}.go"):
        os.unlink(name)


def path_of(fd):
    """Where a descriptor leads to."""
    return os.readlink(f"/proc/self/fd/{fd}")


def link(self, source, target, *, dir_fd):
    """The system call, between two points."""
    committing = COMMIT_NAME.fullmatch(target) is not None
    if committing:
        here("commit", path_of(dir_fd))
    _link(self, source, target, dir_fd=dir_fd)
    if committing:
        here("committed", path_of(dir_fd))


def set_lock(self, fd, kind, start, length):
    """The system call, and a point after it."""
    _set_lock(self, fd, kind, start, length)
    if kind != fcntl.F_WRLCK:
        return
    path = path_of(fd)
    if path.endswith(DOORBELL):
        here("knock", str((start - _KNOCKS) // _KNOCKS_OF_A_LUN))
    elif path.endswith(".img") and length > 1:
        here("permit", path)


def pwritev(self, fd, *arguments, **more):
    """The system call, after a point."""
    here("write", path_of(fd))
    return _pwritev(self, fd, *arguments, **more)


def punch(self, fd, offset, length):
    """The system call, after a point."""
    here("punch", path_of(fd))
    _punch(self, fd, offset, length)


os.makedirs(FOLDER, exist_ok=True)
Syscalls.link = link
Syscalls.set_lock = set_lock
ImageCalls.pwritev = pwritev
ImageCalls.punch = punch

if __name__ == "__main__":
    from flockpr.cli import main

    sys.exit(main(sys.argv[1:]))
