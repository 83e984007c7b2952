"""Every system call of the store, in one replaceable object.

Tests put a failing, dying or simulated file system in its place; nothing in `flockpr.store`
calls `os` for a file operation by another way. Each method is the bare call: no retry, no
translation, no policy.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from typing import TYPE_CHECKING

from flockpr.filesystems.kinds import COHERENT, TELLING
from flockpr.filesystems.mounts import asks_its_server, filesystem_type

if TYPE_CHECKING:
    from flockpr.store.statx import Attributes
    from flockpr.store.vigil import Vigil

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: 32 bytes with its padding
_FICLONE = 0x40049409
_NEVER_THERE = ".never-there"  # no name of the format
_PUNCH = 0x03  # FALLOC_FL_PUNCH_HOLE and FALLOC_FL_KEEP_SIZE of linux/falloc.h


class Syscalls:
    """The real ones. Errors are `OSError`."""

    def open(self, path: str, flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        """The system call open, close-on-exec."""
        return os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=dir_fd)

    def close(self, fd: int) -> None:
        """The system call close."""
        os.close(fd)

    def duplicate(self, fd: int) -> int:
        """The system call fcntl with F_DUPFD_CLOEXEC."""
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)

    def read(self, fd: int, size: int) -> bytes:
        """The system call read."""
        return os.read(fd, size)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """The system call pread."""
        return os.pread(fd, size, offset)

    def pread_into(self, fd: int, buffer: mmap.mmap, offset: int) -> int:
        """The system call preadv with one buffer, which O_DIRECT wants aligned."""
        return os.preadv(fd, [buffer], offset)

    def write(self, fd: int, data: bytes) -> int:
        """The system call write."""
        return os.write(fd, data)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """The system call pwrite."""
        return os.pwrite(fd, data, offset)

    def truncate(self, fd: int, size: int) -> None:
        """The system call ftruncate."""
        os.ftruncate(fd, size)

    def seek(self, fd: int, offset: int, whence: int) -> int:
        """The system call lseek."""
        return os.lseek(fd, offset, whence)

    def copy_range(self, source: int, target: int, length: int, offset: int) -> int:
        """The system call copy_file_range, to the same offset."""
        return os.copy_file_range(source, target, length, offset, offset)

    def clone(self, source: int, target: int) -> None:
        """FICLONE of linux/fs.h: `target` shares all blocks of `source`."""
        fcntl.ioctl(target, _FICLONE, source)

    def fsync(self, fd: int) -> None:
        """The system call fsync."""
        os.fsync(fd)

    def link(self, source: str, target: str, *, dir_fd: int) -> None:
        """The system call link inside one directory; FileExistsError if the name is taken."""
        os.link(source, target, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)

    def rename(self, source: str, target: str, *, source_fd: int, target_fd: int) -> None:
        """The system call rename."""
        os.rename(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)

    def unlink(self, name: str, *, dir_fd: int) -> None:
        """The system call unlink."""
        os.unlink(name, dir_fd=dir_fd)

    def listdir(self, fd: int) -> list[str]:
        """Names in a directory, in no order."""
        return os.listdir(fd)

    def stat(self, name: str, *, dir_fd: int) -> os.stat_result:
        """The system call stat of the name itself, never of what a link points to."""
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)

    def stat_now(self, name: str, *, dir_fd: int) -> Attributes:
        """As `stat`, of attributes as they are at the server now; see `flockpr.store.statx`."""
        from flockpr.store import statx  # loads ctypes: only who commits again and again

        return statx.stat_now(name, dir_fd)

    def which(self, name: str, *, dir_fd: int) -> tuple[int, int]:
        """Device and inode number, without what has to be asked for; see `flockpr.store.statx`."""
        from flockpr.store import statx

        return statx.which(name, dir_fd)

    def fstat(self, fd: int) -> os.stat_result:
        """The system call fstat."""
        return os.fstat(fd)

    def fchmod(self, fd: int, mode: int) -> None:
        """The system call fchmod."""
        os.fchmod(fd, mode)

    def fchown(self, fd: int, uid: int, gid: int) -> None:
        """The system call fchown; -1 keeps what is there."""
        os.fchown(fd, uid, gid)

    def mkdir(self, name: str, mode: int, *, dir_fd: int | None = None) -> None:
        """The system call mkdir."""
        os.mkdir(name, mode, dir_fd=dir_fd)

    def rmdir(self, name: str, *, dir_fd: int) -> None:
        """The system call rmdir."""
        os.rmdir(name, dir_fd=dir_fd)

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        """F_OFD_SETLK: take (F_RDLCK, F_WRLCK) or release (F_UNLCK) without waiting."""
        request = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)

    def wait_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        """F_OFD_SETLKW: take, and wait for it; nothing ends that wait."""
        request = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, request)

    def get_lock(self, fd: int, kind: int, start: int, length: int) -> int:
        """F_OFD_GETLK: the kind of the first conflicting lock, F_UNLCK if there is none."""
        request = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, request)
        return int(_FLOCK.unpack(answer)[0])

    def find_lock(self, fd: int, kind: int, start: int, length: int) -> tuple[int, int, int]:
        """F_OFD_GETLK: kind, start and length of some conflicting lock; F_UNLCK if there is none.

        Of several it is any: the kernel's list is not in the order of the bytes. Length 0: up to
        the end of what a file can be.
        """
        request = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
        found = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, request))
        return int(found[0]), int(found[2]), int(found[3])

    def flock(self, fd: int, operation: int) -> None:
        """The system call flock."""
        fcntl.flock(fd, operation)

    def punch(self, fd: int, offset: int, length: int) -> None:
        """The system call fallocate, to make a hole."""
        import ctypes  # only `flockpr probe` asks here

        libc = ctypes.CDLL(None, use_errno=True)
        arguments = (ctypes.c_int(fd), ctypes.c_int(_PUNCH))
        if libc.fallocate(*arguments, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def coherent(self, fd: int) -> bool:
        """Whether names and attributes seen through `fd` are always current.

        Decided by the file system's type in the mount table; what is not found there
        counts as a network file system, which only costs system calls.
        """
        device = os.fstat(fd).st_dev
        return filesystem_type(device) in COHERENT

    def answers_now(self, fd: int) -> bool:
        """Whether `stat_now` says of what is seen through `fd` what the server says."""
        return asks_its_server(os.fstat(fd).st_dev)

    def await_changes(self, fd: int) -> None:
        """Wait until the calls that change a directory at this moment are done, on a file system
        of this host: they hold its lock until they have told of it. To look for something that is
        to be removed takes that lock, and as long whatever the size of the directory. Where the
        kernel refuses before it has taken it, on a read-only mount, the directory is listed. It
        waits for a file system that is frozen.
        """
        try:
            os.unlink(_NEVER_THERE, dir_fd=fd)
        except FileNotFoundError:
            pass
        except OSError:
            os.listdir(fd)

    def keep_vigil(self, fd: int) -> Vigil:
        """Have the kernel tell when something changes in a directory; see `flockpr.store.vigil`.
        Where that is not certain, nobody keeps vigil.
        """
        from flockpr.store import vigil  # loads ctypes: only who reads again and again

        if filesystem_type(os.fstat(fd).st_dev) not in TELLING:
            return vigil.NOBODY
        return vigil.keep_vigil(fd)
