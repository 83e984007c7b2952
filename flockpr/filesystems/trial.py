"""What is tried on an image before it is served: cheap, and on the very file.

The mount table tells what a file system is called, not what it does: FUSE and gateways have
locks that exclude nobody, or whole files. What reaches other hosts can only be seen from there:
that is `flockpr probe --peer`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
from collections.abc import Iterator
from typing import Final, Protocol

from flockpr.filesystems.rules import Finding, Outcome

TRIAL: Final = (1 << 62) + (1 << 58)
"""From here on bytes of an image are locked for a moment to see whether locks work."""
_BYTES: Final = 1 << 40
_TRIES: Final = 5
_TAKEN: Final = frozenset({errno.EAGAIN, errno.EACCES})
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class Calls(Protocol):
    """The system calls that a trial needs."""

    def open(self, path: str, flags: int) -> int:
        """The system call open."""

    def close(self, fd: int) -> None:
        """The system call close."""

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        """The system call fcntl with F_OFD_SETLK."""


def try_image(path: str, fd: int, calls: Calls, *, one_host: bool) -> tuple[Finding, ...]:
    """Try locks and direct reads and writes.

    Args:
        path: The image.
        fd: A description of it, without any lock yet.
        calls: The system calls.
        one_host: Nobody else can take a permit away, so nothing has to prove that it was kept.

    Raises:
        OSError: Something else failed, which may pass.
    """
    return tuple(_try(path, fd, calls, one_host=one_host))


def _try(path: str, fd: int, calls: Calls, *, one_host: bool) -> Iterator[Finding]:
    if not one_host and not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
        yield Finding("direct", Outcome.BAD, "there is no O_DIRECT")
    second = calls.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield from _try_locks(fd, second, calls)
    finally:
        calls.close(second)


def _try_locks(fd: int, second: int, calls: Calls) -> Iterator[Finding]:
    for _ in range(_TRIES):  # another host may try the same byte: hardly twice
        start = TRIAL + 2 * random.randrange(_BYTES)  # noqa: S311 - to differ, not to be secret
        try:
            taken = _take(calls, fd, fcntl.F_WRLCK, start)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            what = f"byte-range locks are refused: {error.strerror}"
            yield Finding("lock-descriptions", Outcome.BAD, what)
            return
        if taken:
            break
    else:
        yield Finding("lock-descriptions", Outcome.BAD, "a byte that nobody has is refused")
        return
    try:
        if _take(calls, second, fcntl.F_WRLCK, start):
            yield Finding("lock-descriptions", Outcome.BAD, "both have the same byte exclusively")
        elif not _take(calls, second, fcntl.F_WRLCK, start + 1):
            yield Finding(
                "lock-ranges",
                Outcome.BAD,
                "locks of different bytes conflict: it locks whole files",
            )
    finally:
        calls.set_lock(fd, fcntl.F_UNLCK, start, 1)


def _take(calls: Calls, fd: int, kind: int, start: int) -> bool:
    try:
        calls.set_lock(fd, kind, start, 1)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True
