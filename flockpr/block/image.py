"""An image and the others on this host: QEMU is kept away, growing is noticed.

A target and a QEMU that open the same image destroy it. QEMU marks an image that it uses by
locks on single bytes, and heeds those of others: byte 100 + n is held shared by who uses
permission n, byte 200 + n by who lets nobody else use it. A target lets nobody.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

from flockpr.errors import Busy, ConfigError
from flockpr.store import files
from flockpr.store.images import BLOCK, check_size, open_image
from flockpr.store.syscalls import Syscalls

QEMU_USED: Final = 100
QEMU_UNSHARED: Final = 200
QEMU_PERMISSIONS: Final = 4
"""Consistent read, write, write unchanged, resize."""


def grow_image(path: str, size: int, *, syscalls: Syscalls | None = None) -> int:
    """Make an image larger, also while it is served; durable on return.

    Args:
        path: The image.
        size: Bytes, a positive multiple of 512, at least what it has.
        syscalls: System calls.

    Returns:
        The size it had.

    Raises:
        ConfigError: Not a size, or it would shrink, which loses data.
        StoreError: There is no such image, or input or output failed.
    """
    sys_ = syscalls or Syscalls()
    check_size(size)
    fd = open_image(sys_, path, os.O_RDWR)
    try:
        before = sys_.fstat(fd).st_size
        if size < before:
            raise ConfigError(f"{path} has {before} bytes; an image never shrinks")
        if size > before:
            # Not ftruncate: of two that grow it at once, the later one would cut it again.
            os.posix_fallocate(fd, size - BLOCK, BLOCK)
        sys_.fsync(fd)
    except OSError as error:
        raise files.unavailable(error, "the image cannot be made larger", path) from error
    finally:
        files.close_quietly(sys_, fd)
    return before


def qemu_holds(fd: int, syscalls: Syscalls) -> bool:
    """Whether a QEMU, or qemu-img, has this image open.

    Raises:
        OSError: The file system refuses locks.
    """
    return syscalls.get_lock(fd, fcntl.F_WRLCK, QEMU_USED, QEMU_PERMISSIONS) != fcntl.F_UNLCK


def claim_from_qemu(syscalls: Syscalls, fd: int, path: str) -> None:
    """Hold the bytes that keep QEMU and qemu-img away as long as `fd` is open.

    Our bytes are taken before QEMU's are looked at, and QEMU does it in the same order, so
    that of two that begin together at least one sees the other.

    Args:
        syscalls: System calls.
        fd: The image, open for reading and writing.
        path: Its path, for the message.

    Raises:
        Busy: A QEMU has the image open.
        StoreError: The file system refuses locks.
    """
    try:
        syscalls.set_lock(fd, fcntl.F_RDLCK, QEMU_UNSHARED, QEMU_PERMISSIONS)
        held = qemu_holds(fd, syscalls)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise files.unavailable(error, "the image cannot be locked", path) from error
        held = True
    if held:
        raise Busy(
            "is in use by a QEMU or qemu-img, which would write to it beside the target",
            path,
            "stop it, or let it use the disk through the target",
        )
