"""The directory ROOT/.hosts: what hosts say of themselves, and what operators say of hosts.

Nothing in it makes a read or write safe. A record that is missing, foreign, damaged or of a
newer version is as good as none, and without one a command waits.
"""

from __future__ import annotations

import os
import re
import stat

import attrs

from flockpr.errors import NewerFormat, StateUnreadable, StoreError
from flockpr.store import files
from flockpr.store.layout import FENCED_PREFIX, HOST_RECORDS, HOSTS
from flockpr.store.strict import Malformed, Reader, loads
from flockpr.store.syscalls import Syscalls

FORMAT = 1
"""Of both kinds of record."""
MOST = 1 << 16
"""Bytes of a record; a larger one is not ours."""
DIGITS = 10
"""Of a host's number in a name: HOSTS is 2^40."""

_FENCED = re.compile(re.escape(FENCED_PREFIX) + r"([0-9a-f]{10})\.json")
_HOST = re.compile(r"([0-9a-f]{10})-([0-9a-f]{8})\.json")


def fenced_name(number: int) -> str:
    """Name of the record that declares a host fenced."""
    return f"{FENCED_PREFIX}{number:0{DIGITS}x}.json"


def process_name(number: int, token: str) -> str:
    """Name of the record of one process of a host."""
    return f"{number:0{DIGITS}x}-{token}.json"


def fenced_number(name: str) -> int | None:
    """The host that a name declares fenced; None for another kind of name."""
    match = _FENCED.fullmatch(name)
    return int(match[1], 16) if match else None


def process_of(name: str) -> tuple[int, str] | None:
    """Host number and token of a process's record; None for another kind of name."""
    match = _HOST.fullmatch(name)
    return (int(match[1], 16), match[2]) if match else None


def path_of(root: str, name: str = "") -> str:
    """Where a record, or the directory, is."""
    return os.path.join(root, HOST_RECORDS, name) if name else os.path.join(root, HOST_RECORDS)


def open_records(syscalls: Syscalls, root: str) -> int | None:
    """A descriptor of the directory, opened anew: an NFS client asks the server then, and
    drops the names that it had remembered as absent. None while there is no such directory.

    Raises:
        OSError: It cannot be told, and that the root is missing is such a case: whoever finds
            nothing in a share that is not mounted has not looked.
    """
    root_fd = syscalls.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return files.open_directory(syscalls, HOST_RECORDS, dir_fd=root_fd)
    except FileNotFoundError:
        return None
    finally:
        files.close_quietly(syscalls, root_fd)


@attrs.frozen
class Directory:
    """The directory of records, open for writing records into it.

    Attributes:
        fd: Its descriptor; the caller closes it.
        mode: Permission bits of records: whoever shares the root shares them.
        owner: User and group that they are given to; None: those of this process will do.
    """

    fd: int
    mode: int
    owner: tuple[int, int] | None

    def write(self, syscalls: Syscalls, name: str, data: bytes, *, sync: bool) -> None:
        """Create a file in it; see `files.write_new`.

        Raises:
            OSError: As the system calls; nothing of that name is left.
        """
        files.write_new(syscalls, name, data, dir_fd=self.fd, mode=self.mode, sync=sync)
        if self.owner is None:
            return
        try:
            fd = syscalls.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self.fd)
            try:
                syscalls.fchown(fd, *self.owner)
            finally:
                files.close_quietly(syscalls, fd)
        except OSError:
            files.discard(syscalls, name, dir_fd=self.fd)
            raise


def provide(syscalls: Syscalls, root: str) -> Directory:
    """The directory, made where it is missing.

    An operator may be the superuser, in a root that is another user's: daemons that could not
    read what is made then would not serve any more. So it is given to whom the root belongs.

    Raises:
        OSError: As the system calls.
    """
    root_fd = syscalls.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        status = syscalls.fstat(root_fd)
        shared = bool(status.st_mode & stat.S_IWGRP)
        foreign = os.geteuid() == 0 and status.st_uid != 0
        owner = (status.st_uid, status.st_gid) if foreign else None
        made = True
        try:
            syscalls.mkdir(HOST_RECORDS, 0o700, dir_fd=root_fd)
        except FileExistsError:
            made = False
        fd = files.open_directory(syscalls, HOST_RECORDS, dir_fd=root_fd)
        try:
            if made:
                if owner is not None:
                    syscalls.fchown(fd, *owner)
                elif shared:
                    syscalls.fchown(fd, -1, status.st_gid)
                syscalls.fchmod(fd, 0o2770 if shared else 0o700)  # whatever the umask
                syscalls.fsync(root_fd)
        except BaseException:
            files.close_quietly(syscalls, fd)
            raise
        return Directory(fd, 0o660 if shared else 0o600, owner)
    finally:
        files.close_quietly(syscalls, root_fd)


def load(syscalls: Syscalls, name: str, *, dir_fd: int, number: int) -> Reader:
    """A record whose format and host are as its name says; the caller takes the rest.

    Raises:
        OSError: As the system calls.
        StateUnreadable: It is not ours, or of a newer version.
        Malformed: A member is not as it should be.
    """
    reader = Reader(loads(files.read_whole(syscalls, name, dir_fd=dir_fd, most=MOST)), "record")
    if (written := reader.integer("format", 1, 1 << 30)) > FORMAT:
        raise NewerFormat(f"is of format {written}", name, "upgrade flockpr on this host")
    if int(reader.hexadecimal("number", DIGITS), 16) != number or number >= HOSTS:
        raise StateUnreadable("names another host than its name does", name)
    return reader


def failure(error: Exception, root: str, name: str = "") -> StoreError:
    """The StoreError for whatever reading or writing a record raised."""
    path = path_of(root, name)
    if isinstance(error, OSError):
        return files.unavailable(error, "cannot be used", path)
    if isinstance(error, StoreError):
        return type(error)(error.what, path, error.remedy)
    if isinstance(error, Malformed):
        return StateUnreadable(f"is no record of flockpr: {error}", path, "look into the file")
    raise error
