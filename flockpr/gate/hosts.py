"""The number of a host, and the mark that its targets leave on a LUN that they serve.

Each target holds a byte that stands for its host, shared; those of one host hold the same
one. Where a lost lock fences nobody, the targets of two hosts must not serve one LUN at once:
such a target holds a second byte that says so, and finds out whether another host's first one
is held by taking all the others exclusively for a moment: asking would be answered wrongly by
NFSv3 servers and under NFSv4 delegations. A target that may serve beside others looks in the
same way for those that may not.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import socket
import time

from flockpr.errors import Busy, LunNotFound, StoreError
from flockpr.store import files
from flockpr.store.layout import ALONE, HOST, HOSTS, LOCKS
from flockpr.store.syscalls import Syscalls

BOOT_ID = "/proc/sys/kernel/random/boot_id"


def host_number(host: str | None = None) -> int:
    """The number of this host: another one after each boot, since the one before is gone, and
    for each host name, since a machine that was copied has the other's boot id for a while.

    Args:
        host: Name of the host; the system's by default.
    """
    try:
        with open(BOOT_ID, encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:
        boot = ""
    name = host or socket.gethostname()
    digest = hashlib.sha256(f"{boot} {name}".encode()).digest()
    number = int.from_bytes(digest[:8], "big") % HOSTS
    _names[number] = name
    return number


def own_name(number: int) -> str:
    """The name that a number of this host was made of."""
    return _names.get(number) or socket.gethostname()


_names: dict[int, str] = {}


class HostClaim:
    """That a target of this host serves a LUN.

    Args:
        path: ROOT/<lun>.
        exclusive: Targets of other hosts must not serve it meanwhile.
        host: Name of the host; the system's by default.
        syscalls: Where the calls go.
    """

    def __init__(
        self,
        path: str,
        *,
        exclusive: bool = True,
        host: str | None = None,
        syscalls: Syscalls | None = None,
    ) -> None:
        self.path = path
        self._exclusive = exclusive
        self._sys = syscalls or Syscalls()
        self._number = host_number(host)
        self._fd = -1
        self._device = 0

    def take(self, patience: float = 2.0) -> None:
        """Claim the LUN for this host; another target of this host may have done so too.

        Args:
            patience: Seconds; two who look at the same moment see each other, and try again.

        Raises:
            Busy: A target of another host serves it, and one of the two must be alone.
            StoreError: The lock file cannot be opened or locked.
        """
        deadline = time.monotonic() + patience
        while not self._try():
            if time.monotonic() >= deadline:
                raise Busy(
                    "another host's target serves this LUN",
                    self.path,
                    "on this file system one host at a time can: stop that one first; `flockpr "
                    "status` shows hosts",
                )
            time.sleep(random.uniform(0.01, 0.1))  # noqa: S311 - jitter, not secrecy

    def deleted(self) -> bool:
        """Whether the LUN is known to be deleted: its lock file, which is open here, was removed.

        That its path leads nowhere says nothing: a share that is unmounted comes back. A file
        server that forgot the file (ESTALE) has removed it, or does not serve that file system
        at the moment. The latter takes the root along.
        """
        if self._fd < 0:
            return False
        try:
            return not self._sys.fstat(self._fd).st_nlink
        except OSError as error:
            return error.errno == errno.ESTALE and self._device_of_root() == self._device

    def _device_of_root(self) -> int:
        """The device of the directory that the path is in now; -1 if that cannot be told."""
        try:
            fd = self._sys.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return -1
        try:
            return self._sys.fstat(fd).st_dev
        except OSError:
            return -1
        finally:
            files.close_quietly(self._sys, fd)

    def close(self) -> None:
        """Serve it no more."""
        if self._fd >= 0:
            files.close_quietly(self._sys, self._fd)
            self._fd = -1

    def _try(self) -> bool:
        """Hold our bytes, and have for a moment those of all others that must not be held."""
        if self._fd < 0:
            self._fd = self._open()
        for area in (HOST, ALONE) if self._exclusive else (HOST,):
            if not self._take(self._fd, fcntl.F_RDLCK, area + self._number, 1):
                self.close()
                return False  # another host's target is looking
        above = self._number + 1
        area = HOST if self._exclusive else ALONE
        # A range that touches ours would be merged with it on the same description.
        looking = self._open()
        try:
            free = self._take(looking, fcntl.F_WRLCK, area, self._number) and self._take(
                looking, fcntl.F_WRLCK, area + above, HOSTS - above
            )
        finally:
            files.close_quietly(self._sys, looking)
        if not free:
            self.close()
            return False
        try:
            self._device = self._sys.fstat(self._fd).st_dev
        except OSError as error:
            self.close()
            raise self._unavailable(error) from error
        return True

    def _take(self, fd: int, kind: int, start: int, length: int) -> bool:
        if not length:  # would be all up to the end of the file
            return True
        try:
            self._sys.set_lock(fd, kind, start, length)
        except BlockingIOError:
            return False
        except PermissionError:  # EACCES is the other word for it
            return False
        except OSError as error:
            self.close()
            raise self._unavailable(error) from error
        return True

    def _open(self) -> int:
        path = os.path.join(self.path, LOCKS)
        try:
            return self._sys.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise LunNotFound("has no lock file", self.path) from error
        except OSError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> StoreError:
        return files.unavailable(error, "cannot be locked", os.path.join(self.path, LOCKS))
