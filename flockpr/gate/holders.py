"""Who has permits now, by asking the file server: it knows, whatever hosts say of themselves.

Asked as a reader asks, of exclusive locks, which every file system answers rightly.
"""

from __future__ import annotations

import fcntl

import attrs

from flockpr.gate.image import SYSCALLS
from flockpr.store.syscalls import Syscalls

_MOST = 4096
"""Questions in one walk: a server that answers anew each time must not hold us for ever."""
_END = (1 << 63) - 1


@attrs.frozen(order=True)
class Lock:
    """A lock that is in the way.

    Attributes:
        start: First byte.
        length: Bytes, as far as they are in the range that was asked about.
        kind: F_WRLCK.
    """

    start: int
    length: int
    kind: int


def walk(fd: int, start: int, length: int, syscalls: Syscalls | None = None) -> list[Lock]:
    """All exclusive locks of others in a range, ascending.

    The kernel reports any of the locks in a range, not the lowest, so what is left and right of
    it is asked about as well. A moment in time for each answer, not one for all.

    Args:
        fd: A descriptor of the file; its own locks are not seen.
        start: First byte.
        length: Bytes.
        syscalls: Where the calls go.

    Raises:
        OSError: As the system call.
    """
    sys_ = syscalls or SYSCALLS
    found: list[Lock] = []
    ranges = [(start, start + length)]
    for _ in range(_MOST):
        if not ranges:
            break
        first, end = ranges.pop()
        kind, at, size = sys_.find_lock(fd, fcntl.F_RDLCK, first, end - first)
        if kind == fcntl.F_UNLCK:
            continue
        low, high = max(first, at), min(end, at + size if size > 0 else _END)
        if low >= high:  # no answer to what was asked: all of it may be held
            low, high = first, end
        found.append(Lock(low, high - low, kind))
        ranges += [part for part in ((first, low), (high, end)) if part[0] < part[1]]
    return sorted(found)
