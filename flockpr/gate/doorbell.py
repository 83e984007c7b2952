"""The doorbell: how a target hears that somebody waits for its permit.

One file for all LUNs of a root: who waits holds a byte exclusively, and who serves asks now
and then whether anybody does. That costs one system call for all LUNs together. A file of its
own, because on NFS a question about a lock of the image would go through the description that
the question's answer is about.

The byte says which host rings, and for whom: for the permits of all targets, or, when it is
known who keeps it waiting, of those alone, while the others go on.

Asked as a reader asks, of an exclusive lock, through a description opened read-write: the one
combination that every file system answers rightly.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

import attrs

from flockpr.errors import StoreError
from flockpr.gate import places
from flockpr.gate.holders import Lock, walk
from flockpr.gate.hosts import host_number
from flockpr.gate.image import lock_bytes
from flockpr.store import files
from flockpr.store.layout import DOORBELL, KNOCK_GROUPS
from flockpr.store.syscalls import Syscalls

_ABSENT_FOR_A_MOMENT = 3
"""Times to open it: somebody else may make it, or remove it, in between."""

Deaf = Callable[[int, frozenset[int]], frozenset[int]]
"""See `flockpr.gate.ears`."""


@attrs.frozen(order=True)
class Ring:
    """Somebody rings.

    Attributes:
        number: Logical unit number.
        host: Number of the host that rings.
        everybody: For all permits; else for those of some hosts.
    """

    number: int
    host: int
    everybody: bool


class Doorbell:
    """One open file description of a root's doorbell: to ring, or to listen. Not to do both:
    a holder's own lock is invisible to its own questions.

    Args:
        root: The root directory.
        syscalls: Where the calls go.
        host: Number of this host; that of the system by default.

    Raises:
        StoreError: It cannot be opened, or made.
    """

    def __init__(self, root: str, syscalls: Syscalls, host: int | None = None) -> None:
        self.path = os.path.join(root, DOORBELL)
        self._sys = syscalls
        self._host = host_number() if host is None else host
        self._called: set[int] = set()
        try:
            self._fd = _open(root, syscalls)
        except OSError as error:
            raise files.unavailable(error, "cannot be opened", self.path) from error

    # ------------------------------------------------------------------ ringing

    def ring(self, number: int, group: int = places.EVERYBODY) -> bool:
        """Ring for a LUN, until closed; False while another command of this host does.

        Raises:
            StoreError: Locks fail there.
        """
        place = places.ring(number, self._host, group)
        return lock_bytes(self._sys, self._fd, fcntl.F_WRLCK, place, self.path)

    def call(self, number: int, hosts: Iterable[int]) -> None:
        """Ring for the permits of these hosts alone, and of no others that were called before.
        As well as it goes: where another command of this host calls one already, it is called.

        Raises:
            StoreError: Locks fail there.
        """
        groups = {places.group_of(host) for host in hosts}
        for group in sorted(groups):
            self.ring(number, group)
        for group in self._called - groups:
            self.hush(number, group)
        self._called = groups

    def hush(self, number: int, group: int = places.EVERYBODY) -> None:
        """Ring for everybody no more, or not for a group; whoever else is called still is.

        Raises:
            StoreError: Locks fail there; it may still be heard.
        """
        place = places.ring(number, self._host, group)
        try:
            self._sys.set_lock(self._fd, fcntl.F_UNLCK, *place)
        except OSError as error:
            raise files.unavailable(error, "cannot be silenced", self.path) from error

    # ------------------------------------------------------------------ listening

    def heard(self, first: int, last: int | None = None) -> bool:
        """Whether anybody rings for a LUN, or for any from number `first` to `last`; one question.

        Raises:
            StoreError: It cannot be asked.
        """
        place = places.rings(first, last)
        try:
            kind, _, _ = self._sys.find_lock(self._fd, fcntl.F_RDLCK, *place)
        except OSError as error:
            raise self._unanswered(error) from error
        return kind != fcntl.F_UNLCK

    def wanted(self, number: int, host: int, deaf: Deaf) -> bool:
        """Whether somebody rings for the permits of a host's targets.

        Args:
            number: Logical unit number.
            host: The host.
            deaf: Told which hosts do; whose rings do not count.

        Raises:
            StoreError: It cannot be asked.
        """
        if not self.heard(number):
            deaf(number, frozenset())
            return False
        groups = {places.EVERYBODY, places.group_of(host)}
        ringing = frozenset(
            places.ringing(lock.start)[1]
            for lock in self._locks(number)
            if not groups.isdisjoint(places.groups_at(lock.start, lock.length))
        )
        return bool(ringing - deaf(number, ringing))

    def rings(self, first: int, last: int | None = None) -> list[Ring]:
        """Who rings, for a LUN or for any from number `first` to `last`.

        Raises:
            StoreError: It cannot be asked.
        """
        found = set()
        for lock in self._locks(first, last):
            number, host = places.ringing(lock.start)
            everybody = places.EVERYBODY in places.groups_at(lock.start, lock.length)
            found.add(Ring(number, host, everybody))
        return sorted(found)

    def nudge(self, number: int) -> None:
        """Make the file server look whether those who ring are still alive: it ends a lease that
        has run out when, and some only when, somebody wants what it covers. As well as it goes.
        """
        with contextlib.suppress(StoreError, OSError):
            for lock in self._locks(number):
                place = places.Range(lock.start, lock.length)
                if lock_bytes(self._sys, self._fd, fcntl.F_WRLCK, place, self.path):
                    self._sys.set_lock(self._fd, fcntl.F_UNLCK, *place)

    def _locks(self, first: int, last: int | None = None) -> list[Lock]:
        """Each with the bytes of one host and LUN."""
        try:
            locks = walk(self._fd, *places.rings(first, last), self._sys)
        except OSError as error:
            raise self._unanswered(error) from error
        return [lock for lock in locks if lock.length <= KNOCK_GROUPS]

    def _unanswered(self, error: OSError) -> StoreError:
        return files.unavailable(error, "cannot be asked", self.path)

    def current(self) -> bool:
        """Whether this is still the file that others ring."""
        fd = -1
        try:
            fd = self._sys.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            there, here = self._sys.fstat(fd), self._sys.fstat(self._fd)
        except OSError:
            return False
        finally:
            if fd >= 0:
                files.close_quietly(self._sys, fd)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def close(self) -> None:
        """Stop ringing, or listening."""
        if self._fd >= 0:
            files.close_quietly(self._sys, self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def provide(root: str, syscalls: Syscalls) -> None:
    """Make the doorbell of a root, if it has none; whoever may write the root can.

    Raises:
        StoreError: It cannot be made.
    """
    Doorbell(root, syscalls).close()


def _open(root: str, syscalls: Syscalls) -> int:
    """Open it, made where it is missing, and shared with those who share the root."""
    path = os.path.join(root, DOORBELL)
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    for _ in range(_ABSENT_FOR_A_MOMENT):
        try:
            return syscalls.open(path, flags)
        except FileNotFoundError:
            pass
        root_fd = syscalls.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            mode = 0o660 if syscalls.fstat(root_fd).st_mode & 0o020 else 0o600
            fd = syscalls.open(DOORBELL, flags | os.O_CREAT | os.O_EXCL, mode, dir_fd=root_fd)
        except FileExistsError:
            continue
        finally:
            files.close_quietly(syscalls, root_fd)
        try:
            syscalls.fchmod(fd, mode)  # whatever the umask
        except OSError:
            files.close_quietly(syscalls, fd)
            raise
        return fd
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
