"""Files below a directory descriptor, opened so that nothing foreign can be mistaken for ours.

Every open has O_NOFOLLOW (a symbolic link in a file's place is an error, not a detour) and,
for reading, O_NONBLOCK (a FIFO in its place must not hang the daemon), and what was opened
must be a regular file. Errors become `StoreError`s that name the file and a remedy.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from flockpr.errors import StateUnreadable, StoreError, StoreUnavailable
from flockpr.store.layout import MAX_DOCUMENT
from flockpr.store.syscalls import Syscalls

_REMEDY = {
    errno.ENOSPC: "free space on that file system",
    errno.EDQUOT: "raise the quota or free space on that file system",
    errno.EROFS: "mount that file system read-write",
    errno.EACCES: "give the user or group that the daemon runs as access to the lock directory",
    errno.EPERM: "give the user or group that the daemon runs as access to the lock directory",
    errno.ESTALE: "the file server no longer knows this file: check the mount and the export",
    errno.EIO: "check the storage, the mount and the kernel log",
    errno.EMFILE: "raise the limit of open files of the daemon",
    errno.ENFILE: "raise the system's limit of open files",
    errno.ETIMEDOUT: "check the network and the file server",
    errno.ENOLCK: "start the lock service of that mount (rpc.statd), or mount with NFSv4",
}

NEEDS_A_PERSON = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
"""Failures that do not pass by waiting."""


def unavailable(error: OSError, what: str, path: str, remedy: str = "") -> StoreError:
    """The StoreError for a failed system call.

    Args:
        error: What the system call raised; kept as the cause's `errno` attribute.
        what: What was being done, as "cannot ...".
        path: The file or directory.
        remedy: Where more is known than the number of the error tells.
    """
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
        return StateUnreadable(
            f"{what}: {os.strerror(error.errno)}",
            path,
            "something else stands in its place: restore the file from a backup",
        )
    remedy = remedy or _REMEDY.get(error.errno or 0, "check the file system and the kernel log")
    failure = StoreUnavailable(f"{what}: {error.strerror}", path, remedy)
    failure.errno = error.errno
    return failure


def open_directory(syscalls: Syscalls, name: str, *, dir_fd: int | None = None) -> int:
    """A descriptor of a directory. On NFS this open asks the server for its attributes, and
    a changed directory drops the names that the client had cached, absent ones included.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    return syscalls.open(name, flags, dir_fd=dir_fd)


def read_whole(syscalls: Syscalls, name: str, *, dir_fd: int, most: int = MAX_DOCUMENT) -> bytes:
    """All bytes of a regular file, opened afresh and closed at once.

    Raises:
        OSError: As the system call.
        StateUnreadable: It is no regular file, or larger than `most`.
    """
    return read_with_status(syscalls, name, dir_fd=dir_fd, most=most)[0]


def read_with_status(
    syscalls: Syscalls, name: str, *, dir_fd: int, most: int = MAX_DOCUMENT
) -> tuple[bytes, os.stat_result]:
    """As `read_whole`, and what fstat says of the very file that was read."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = syscalls.open(name, flags, dir_fd=dir_fd)
    try:
        status = syscalls.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise StateUnreadable("is no regular file", name, "restore it from a backup")
        if status.st_size > most:
            raise StateUnreadable(f"is larger than {most} bytes", name, "restore it from a backup")
        return read_all(syscalls, fd, status.st_size + 1, most), status
    except FileNotFoundError as error:
        # Only an open may say that the file is absent: this one was there a moment ago.
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), name) from error
    finally:
        close_quietly(syscalls, fd)


def close_quietly(syscalls: Syscalls, fd: int) -> None:
    """Close what was not written through; it is gone even where the call fails, and an error
    here would only hide the one that matters, or a success.
    """
    with contextlib.suppress(OSError):
        syscalls.close(fd)


def read_all(syscalls: Syscalls, fd: int, first: int, most: int) -> bytes:
    """Read to the end of file; one read in the usual case."""
    data = syscalls.read(fd, first)
    if len(data) < first:
        more = syscalls.read(fd, 65536) if data else b""
        if not more:
            return data
        data += more
    parts = [data]
    total = len(data)
    while more := syscalls.read(fd, 1 << 20):
        parts.append(more)
        total += len(more)
        if total > most:
            raise StateUnreadable(f"grew beyond {most} bytes while read")
    return b"".join(parts)


def write_new(
    syscalls: Syscalls, name: str, data: bytes, *, dir_fd: int, mode: int, sync: bool = True
) -> None:
    """Create a file with these contents.

    On any failure nothing of that name is left.

    Args:
        syscalls: Where the calls go.
        name: The name.
        data: What is to be in it.
        dir_fd: Descriptor of the directory.
        mode: Permission bits.
        sync: Have it on stable storage before the return.

    Raises:
        OSError: As the system call; FileExistsError if the name is taken.
    """
    fd, _ = _create(syscalls, name, dir_fd=dir_fd, mode=mode, ours=False)
    try:
        try:
            write_all(syscalls, fd, data)
            if sync:
                syscalls.fsync(fd)
        finally:
            # A failed close on NFS can be the first word of a failed write.
            syscalls.close(fd)
    except BaseException:
        discard(syscalls, name, dir_fd=dir_fd)
        raise


def write_ours(
    syscalls: Syscalls, name: str, data: bytes, *, dir_fd: int, mode: int, keep: bool
) -> tuple[int, os.stat_result]:
    """As `write_new`, where nobody else makes a file of that name: it has an id of this process.

    A server is not asked to see to that: on NFS that is a change more, which it makes durable. What
    is found there all the same is left alone if it has bytes or another name.

    Args:
        syscalls: Where the calls go.
        name: The name.
        data: What is to be in it.
        dir_fd: Descriptor of the directory.
        mode: Permission bits.
        keep: Leave it open, where fsync has told of every failure: nothing depends on its close.

    Returns:
        Its descriptor, -1 if it is closed, and its status, now that it is written.

    Raises:
        OSError: As `write_new`.
    """
    fd, _ = _create(syscalls, name, dir_fd=dir_fd, mode=mode, ours=True)
    try:
        try:
            write_all(syscalls, fd, data)
            syscalls.fsync(fd)
            status = syscalls.fstat(fd)
        except BaseException:
            close_quietly(syscalls, fd)
            raise
        if not keep:
            syscalls.close(fd)  # which can be the first word of a failed write
            fd = -1
    except BaseException:
        discard(syscalls, name, dir_fd=dir_fd)
        raise
    return fd, status


def _create(
    syscalls: Syscalls, name: str, *, dir_fd: int, mode: int, ours: bool
) -> tuple[int, os.stat_result]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (0 if ours else os.O_EXCL)
    fd = syscalls.open(name, flags, mode, dir_fd=dir_fd)
    try:
        status = syscalls.fstat(fd)
        taken = ours and (status.st_size > 0 or status.st_nlink != 1)
        if not taken and stat.S_IMODE(status.st_mode) != mode:
            # The umask; on NFS it is one more change that the server has to make durable.
            syscalls.fchmod(fd, mode)
    except BaseException:
        close_quietly(syscalls, fd)
        discard(syscalls, name, dir_fd=dir_fd)
        raise
    if taken:
        close_quietly(syscalls, fd)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    return fd, status


def write_all(syscalls: Syscalls, fd: int, data: bytes) -> None:
    """Write all of it, however many calls that takes."""
    done = syscalls.write(fd, data)
    while done < len(data):
        done += syscalls.write(fd, data[done:])


def discard(syscalls: Syscalls, name: str, *, dir_fd: int) -> None:
    """Unlink a name of our own making; a failure leaves litter and nothing worse."""
    with contextlib.suppress(OSError):
        syscalls.unlink(name, dir_fd=dir_fd)


def make_directories(syscalls: Syscalls, path: str) -> None:
    """A directory and the missing ones above it, 0700 each, durably.

    Raises:
        OSError: As the system call.
    """
    missing = [path]
    while True:
        parent = os.path.dirname(os.path.abspath(missing[-1]))
        try:
            fd = syscalls.open(parent, os.O_RDONLY | os.O_DIRECTORY)
            break
        except FileNotFoundError:
            missing.append(parent)
    for name in reversed(missing):
        try:
            with contextlib.suppress(FileExistsError):
                syscalls.mkdir(name, 0o700)
            syscalls.fsync(fd)  # or a power cut takes the directory with all that is in it
        finally:
            close_quietly(syscalls, fd)
        fd = syscalls.open(name, os.O_RDONLY | os.O_DIRECTORY)
    close_quietly(syscalls, fd)


def remove_tree(syscalls: Syscalls, name: str, *, dir_fd: int) -> None:
    """Remove a directory and what is in it, following no symbolic link.

    In the order of the names: of numbered commits the newest goes last, since one without its
    successor would look like the head to whoever still has the directory open.

    Raises:
        OSError: As the system call; what was removed until then is gone.
    """
    fd = open_directory(syscalls, name, dir_fd=dir_fd)
    try:
        for entry in sorted(syscalls.listdir(fd)):
            try:
                syscalls.unlink(entry, dir_fd=fd)
            except (IsADirectoryError, PermissionError):  # the latter is what POSIX says
                remove_tree(syscalls, entry, dir_fd=fd)
    finally:
        close_quietly(syscalls, fd)
    syscalls.rmdir(name, dir_fd=dir_fd)


def exists(syscalls: Syscalls, name: str, *, dir_fd: int) -> bool:
    """Whether the name is there, as far as this host's caches know.

    Raises:
        OSError: Anything but ENOENT.
    """
    try:
        syscalls.stat(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return False
    return True
