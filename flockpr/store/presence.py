"""Who is alive: byte ranges that stand in for registrants, and the order of commits.

Nothing is decided by a held or lost lock, with one exception that the standard itself asks
for: a SPC-2 reservation ends with its holder's nexus, and a holder whose range can be taken
is such a lost nexus.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import logging
import os
import random
import stat
import threading
import time
from types import ModuleType
from typing import TYPE_CHECKING

from flockpr.errors import StateUnreadable, StoreError
from flockpr.store import files
from flockpr.store.layout import FORMAT, LOCKS, ORDER, READS_FORMAT, SLOT, TIDY
from flockpr.store.syscalls import Syscalls
from flockpr.store.turn import Turn

if TYPE_CHECKING:
    from flockpr.store.rangelock import OfdRange

log = logging.getLogger(__name__)

_MISSING = (
    "copy the one of another LUN here, with the owner and mode of lun.json, and restart the "
    "daemons that serve this LUN"
)
"""Restart, because a daemon that has the removed file open holds its ranges in that one."""


class Presence:
    """The `locks` file of one logical unit, as one daemon uses it.

    One open file description per role: a holder's own locks are invisible to its own
    questions, so questions go through another one than holding does.

    Args:
        syscalls: Where the calls go.
        lun_fd: Descriptor of the lock directory; stays the caller's.
        path: Its path, for messages.
        queues: Whether to wait for the right to commit in the kernel: on a file system of this
            host.
    """

    def __init__(self, syscalls: Syscalls, lun_fd: int, path: str, *, queues: bool = False) -> None:
        self._sys = syscalls
        self._lun_fd = lun_fd
        self._path = f"{path}/{LOCKS}"
        self._hold_fd = -1
        self._ask_fd = -1
        self._held: set[int] = set()
        self._turn = Turn(syscalls, self._open, ORDER) if queues else None

    def close(self) -> None:
        """Let go of every range."""
        if self._turn is not None:
            self._turn.close()
        for fd in (self._hold_fd, self._ask_fd):
            if fd >= 0:
                files.close_quietly(self._sys, fd)
        self._hold_fd = self._ask_fd = self._lun_fd = -1
        self._held.clear()

    # ------------------------------------------------------------------ slots

    def hold(self, slot: int) -> bool:
        """Take a registrant's range; False where another daemon has it, or locks fail."""
        if slot in self._held:
            return True
        if self._lock(self._holder(), SLOT + slot):
            self._held.add(slot)
            return True
        return False

    def holds(self, slot: int) -> bool:
        """Whether a registrant's range was taken here, and not lost since, as far as is known."""
        return slot in self._held

    def drop(self, slot: int) -> None:
        """Let go of a registrant's range."""
        if slot not in self._held:
            return
        self._held.discard(slot)
        self._unlock(self._hold_fd, SLOT + slot)

    def alive(self, slot: int) -> bool | None:
        """Whether anybody holds a registrant's range; None where that cannot be told."""
        if slot in self._held:
            return True
        try:
            # As a reader would ask: that is right on every file system seen, while NFSv3
            # servers and NFSv4 delegations answer a writer's question wrongly.
            found = self._sys.get_lock(self._asker(), fcntl.F_RDLCK, SLOT + slot, 1)
        except (OSError, StoreError):
            return None
        return found != fcntl.F_UNLCK

    def fault(self) -> StoreError | None:
        """Why nobody's liveness can be told: the lock file cannot be opened."""
        try:
            self._asker()
        except StoreError as error:
            return error
        return None

    def lost_locks(self) -> bool:
        """Whether the server took our ranges away: reading through a descriptor whose lock
        was lost is EIO on NFSv4, until it is closed.
        """
        if self._hold_fd < 0:
            return False
        try:
            self._sys.pread(self._hold_fd, 1, 0)
        except OSError as error:
            return error.errno in (errno.EIO, errno.ESTALE)
        return False

    def retake(self) -> None:
        """After `lost_locks`: open anew and take again what we held.

        Raises:
            StoreError: The file cannot be opened; to be tried again by `hold`.
        """
        held, self._held = self._held, set()
        files.close_quietly(self._sys, self._hold_fd)
        self._hold_fd = -1
        for slot in held:
            self.hold(slot)

    def announce(self) -> None:
        """Tell an upgrade which format this daemon reads, for as long as it is open. A reader
        without the right to write the lock file cannot, and counts for nothing.
        """
        try:
            self._holder()
        except StoreError as error:
            log.debug("%s", error)

    def formats_in_use(self) -> list[int]:
        """Newest formats that other live daemons read, by trying to take each one's byte
        exclusively: a writer's question would be answered wrongly by NFSv3 servers.
        """
        fd = self._asker()
        result = []
        for number in range(1, FORMAT + 1):
            if self._lock(fd, READS_FORMAT + number):
                self._unlock(fd, READS_FORMAT + number)
            else:
                result.append(number)
        return result

    # ------------------------------------------------------------------ order

    def take_order(self, patience: float) -> bool:
        """Wait at most `patience` seconds for the right to commit next.

        Efficiency only: without it two daemons' commits collide and one decides again.
        """
        turn = self._turn
        if patience and turn is None:
            return self._wait(ORDER, patience)
        got = self._lock(self._holder(), ORDER)
        if got is not False or turn is None or not patience:  # or locks fail
            return bool(got)
        try:
            return turn.wait(patience)
        except (OSError, RuntimeError) as error:
            log.warning("%s: cannot wait for byte %#x: %s", self._path, ORDER, error)
            return False

    def leave_order(self) -> None:
        """Give the right to commit next away."""
        if self._turn is None or not self._turn.held:
            self._unlock(self._hold_fd, ORDER)
            return
        try:
            self._turn.leave()
        except OSError as error:
            log.warning("%s: cannot unlock byte %#x: %s", self._path, ORDER, error)

    def take_tidy(self) -> bool:
        """The right to archive and prune, if nobody has it."""
        return bool(self._lock(self._holder(), TIDY))

    def leave_tidy(self) -> None:
        """Give it away."""
        self._unlock(self._hold_fd, TIDY)

    def _wait(self, start: int, patience: float) -> bool:
        deadline = time.monotonic() + patience
        while (got := self._lock(self._holder(), start)) is False:
            if time.monotonic() >= deadline:
                return False
            time.sleep(random.uniform(0.0005, 0.004))  # noqa: S311 - jitter, not secrecy
        return bool(got)

    # ------------------------------------------------------------------ plumbing

    def _holder(self) -> int:
        if self._hold_fd < 0:
            self._hold_fd = self._open()
            self._tell_format(self._hold_fd)
        return self._hold_fd

    def _tell_format(self, fd: int) -> None:
        # Without portalocker, because it comes with the first command, whatever that is, and its
        # answer need not wait for that to be loaded.
        try:
            self._sys.set_lock(fd, fcntl.F_RDLCK, READS_FORMAT + FORMAT, 1)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):  # else: somebody tries it just now
                self._tell_fault(READS_FORMAT + FORMAT, error)

    def _asker(self) -> int:
        if self._ask_fd < 0:
            self._ask_fd = self._open()
        return self._ask_fd

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = self._sys.open(LOCKS, flags, dir_fd=self._lun_fd)
        except FileNotFoundError as error:
            raise files.unavailable(error, "cannot be opened", self._path, _MISSING) from error
        except OSError as error:
            raise files.unavailable(error, "cannot be opened", self._path) from error
        try:
            if not stat.S_ISREG(self._sys.fstat(fd).st_mode):  # no other host sees a FIFO's locks
                remedy = "restore it from a backup"
                raise StateUnreadable("is no regular file", self._path, remedy)
        except OSError as error:
            files.close_quietly(self._sys, fd)
            raise files.unavailable(error, "cannot be examined", self._path) from error
        except StateUnreadable:
            files.close_quietly(self._sys, fd)
            raise
        return fd

    def _tell_fault(self, start: int, error: Exception) -> None:
        log.warning("%s: cannot lock byte %#x: %s", self._path, start, error)

    def _lock(self, fd: int, start: int) -> bool | None:
        """Whether the lock was got; None where locks fail, for another reason than another
        holder: that is logged, and a daemon without locks still commits correctly.
        """
        portalocker, locker = _portalocker()
        try:
            locker(start, syscalls=self._sys).try_lock(fd)
        except portalocker.AlreadyLocked:
            return False
        except portalocker.LockException as error:
            self._tell_fault(start, error)
            return None
        return True

    def _unlock(self, fd: int, start: int) -> None:
        portalocker, locker = _portalocker()
        try:
            locker(start, syscalls=self._sys).unlock(fd)
        except portalocker.LockException as error:
            log.warning("%s: cannot unlock byte %#x: %s", self._path, start, error)


_importing = threading.Lock()


def load_locks() -> None:
    """Load what the first lock takes, for those who cannot load it then."""
    _portalocker()


@functools.cache
def _portalocker() -> tuple[ModuleType, type[OfdRange]]:
    """Portalocker and our locker, imported with the first lock: the verbs that only look
    must start quickly. By one thread at a time, because its modules import each other and a
    second thread was seen to get half of one.
    """
    with _importing:
        # First, because it sees to what portalocker needs to be loaded.
        from flockpr.store.rangelock import OfdRange  # isort: skip
        import portalocker
    return portalocker, OfdRange
