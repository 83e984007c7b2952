"""The system call statx, for what os.stat cannot say: how current an answer has to be.

On NFS attributes come from a cache, for up to a minute, and asking for those that nobody needs
is a call to the server. Loads ctypes, so only those import this who commit again and again.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

_NOFOLLOW: Final = 0x100  # AT_SYMLINK_NOFOLLOW of linux/fcntl.h
_FORCE_SYNC: Final = 0x2000  # AT_STATX_FORCE_SYNC
_INO: Final = 0x100  # STATX_INO of linux/stat.h
_NLINK: Final = 0x004
_MTIME: Final = 0x040
_SIZE: Final = 0x200
_WANTED: Final = _INO | _NLINK | _MTIME | _SIZE
_FIELDS: Final = struct.Struct("=I12xI12xQQ64xqI12xII")
"""stx_mask, stx_nlink, stx_ino, stx_size, stx_mtime, stx_dev of struct statx, to its byte 144."""
_LENGTH: Final = 256


class Attributes(NamedTuple):
    """What a file is known by, and how many names it has; the first four as os.stat_result."""

    st_dev: int
    st_ino: int
    st_mtime_ns: int
    st_size: int
    st_nlink: int


def stat_now(name: str, dir_fd: int) -> Attributes:
    """As the system call stat of the name itself, of attributes as they are at the server now.

    Raises:
        OSError: As the system call; ENOSYS also where there is none, or not of all of them.
    """
    mask, links, ino, size, seconds, nanoseconds, major, minor = _statx(
        name, dir_fd, _FORCE_SYNC, _WANTED
    )
    if mask & _WANTED != _WANTED:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), name)
    device = os.makedev(major, minor)
    return Attributes(device, ino, seconds * 10**9 + nanoseconds, size, links)


def which(name: str, dir_fd: int) -> tuple[int, int]:
    """Device and inode number of what a name leads to: no server is asked for what may change.

    Raises:
        OSError: As `stat_now`.
    """
    mask, _, ino, _, _, _, major, minor = _statx(name, dir_fd, 0, _INO)
    if not mask & _INO:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), name)
    return os.makedev(major, minor), ino


def _statx(name: str, dir_fd: int, flags: int, wanted: int) -> tuple[int, ...]:
    answer = ctypes.create_string_buffer(_LENGTH)
    if _function()(dir_fd, os.fsencode(name), flags | _NOFOLLOW, wanted, answer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return _FIELDS.unpack_from(answer)


@functools.cache
def _function() -> Callable[..., int]:
    try:
        function = ctypes.CDLL(None, use_errno=True).statx
    except AttributeError:  # an old C library
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    function.argtypes = (
        *(ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint),
        ctypes.c_char_p,
    )
    result: Callable[..., int] = function
    return result
