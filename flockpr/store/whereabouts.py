"""Whether the path of a logical unit still leads to the directory that was opened there.

A descriptor says nothing of that. Another directory in the same place (a restored backup, say, or
what lies below a share that was unmounted) may be served by somebody else by now, so who finds
one is done; a path that leads nowhere may lead back, unless the logical unit was deleted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable

from flockpr import events
from flockpr.errors import LunNotFound, StateLost, StateUnreadable, StoreError, StoreUnavailable
from flockpr.store import files
from flockpr.store.layout import IDENTITY
from flockpr.store.syscalls import Syscalls

PATH_CHECK = 1.0
"""Seconds between two looks whether the path still leads to the directory that is open."""


class Whereabouts:
    """The directory of a logical unit, opened.

    Args:
        syscalls: Where the calls go.
        path: ROOT/<lun>.
        truth: Name of what holds the transactions, in the directory.
        deleted: Whether the newest transaction deletes the logical unit; asked where the path
            leads nowhere. Raises StoreError.
        serves: This is a daemon, which says once that the directory is missing, and that it is
            back; a command line says the former as its error.

    Attributes:
        fd: Its descriptor; -1 once it is closed.
        status: What fstat said of it.
        astray: The last look did not find it in its place.
        next_look: When the path is to be looked at again (monotonic).

    Raises:
        LunNotFound: There is no such directory in the root.
        StateUnreadable: Everybody may write to it.
        StoreUnavailable: Input or output failed, or the root itself is missing.
    """

    def __init__(
        self,
        syscalls: Syscalls,
        path: str,
        *,
        truth: str,
        deleted: Callable[[], bool],
        serves: bool,
    ) -> None:
        self._sys = syscalls
        self._path = path
        self._truth = truth
        self._deleted = deleted
        self._serves = serves
        self._lost_since: float | None = None
        self._truth_status: os.stat_result | None = None
        self.astray = False
        self.next_look = 0.0
        self.fd = self._open()
        try:
            self.status = self._sys.fstat(self.fd)
        except OSError as error:
            self.close()
            raise files.unavailable(error, "cannot be opened", path) from error
        if self.status.st_mode & stat.S_IWOTH:
            self.close()
            raise StateUnreadable("may be written by everybody", path, f"chmod o-w {path}")

    def _open(self) -> int:
        try:
            return files.open_directory(self._sys, self._path)
        except FileNotFoundError:
            # An unmounted share says nothing of the LUNs on it. Where its mount point is left
            # it cannot be told from a root without this LUN; hence a daemon asks again.
            if self._device_of_root() is None:
                raise missing(self.root) from None
            raise LunNotFound(
                "does not exist", self._path, "`flockpr lun list` shows what does"
            ) from None
        except OSError as error:
            raise files.unavailable(error, "cannot be opened", self._path) from error

    def close(self) -> None:
        """Close it. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            files.close_quietly(self._sys, fd)

    def note_truth(self) -> None:
        """What holds the transactions is what is there now.

        Raises:
            OSError: As the system call.
        """
        self._truth_status = self._sys.stat(self._truth, dir_fd=self.fd)

    @property
    def root(self) -> str:
        """The directory that it is in."""
        return os.path.dirname(self._path.rstrip("/")) or "."

    # ------------------------------------------------------------------ a look at the path

    def check(self, *, now: bool = False, briefly: bool = False) -> None:
        """Whether the path still leads to this directory, and to its transactions.

        Args:
            now: Look also if that was done a moment ago.
            briefly: Ask for no more attributes than that takes: each is a round trip of a share.

        Raises:
            LunNotFound: It was deleted; it never comes back.
            StateLost: Another directory stands in its place.
            StoreUnavailable: It is missing for the moment, or that cannot be told.
        """
        if self.fd < 0:
            raise StoreUnavailable("was closed", self._path)
        clock = time.monotonic()
        if not now and clock < self.next_look:
            return
        self.astray = True  # nothing is tidied in a directory that may be a stranger's
        try:
            fd = files.open_directory(self._sys, self._path)
        except FileNotFoundError:
            if self._was_deleted():
                raise deleted(self._path) from None
            self._note_lost("nothing is at its path")
            raise missing(self._path) from None
        except OSError as error:
            self._note_lost(error.strerror or "")
            raise files.unavailable(error, "cannot be opened", self._path) from error
        try:
            _check_same(self._sys.fstat(fd), self.status, self._path)
            self._check_truth(fd, briefly)
        except OSError as error:
            raise files.unavailable(error, "cannot be examined", self._path) from error
        finally:
            files.close_quietly(self._sys, fd)
        self.next_look = clock + PATH_CHECK
        self.astray = False
        if self._lost_since is not None:
            events.mount_back(self._path, clock - self._lost_since)
            self._lost_since = None

    def _check_truth(self, fd: int, briefly: bool) -> None:
        where, before = f"{self._path}/{self._truth}", self._truth_status
        assert before is not None
        if briefly:
            with contextlib.suppress(OSError):
                if self._sys.which(self._truth, dir_fd=fd) == (before.st_dev, before.st_ino):
                    return
        _check_same(self._sys.stat(self._truth, dir_fd=fd), before, where)

    def _note_lost(self, why: str) -> None:
        if self._serves and self._lost_since is None:
            self._lost_since = time.monotonic()
            events.lost_mount(self._path, why)

    def _was_deleted(self) -> bool:
        """Whether this LUN, whose path leads nowhere, was deleted, and is not merely missing.

        The path alone does not tell: a share that is unmounted, or a directory that somebody
        moves, comes back. The descriptor still leads to the directory that was opened. What
        it shows of a deletion, in the order in which `removal` does it: the transaction that
        deletes; `lun.json` gone, before any commit is; the directory without a name.

        A file server that forgot the directory (ESTALE) has removed it, or does not serve
        that file system at the moment. The latter takes the root along.
        """
        try:
            if not self._sys.fstat(self.fd).st_nlink:
                return True
            if not files.exists(self._sys, IDENTITY, dir_fd=self.fd):
                return True
            return self._deleted()
        except (OSError, StoreUnavailable) as error:
            stale = error.errno == errno.ESTALE
            return stale and self._device_of_root() == self.status.st_dev
        except StoreError:
            return False

    def _device_of_root(self) -> int | None:
        """The device of the directory that the path is in now; None where there is none.

        Raises:
            StoreUnavailable: That cannot be told.
        """
        root = self.root
        try:
            fd = self._sys.open(root, os.O_RDONLY | os.O_DIRECTORY)
            try:
                return self._sys.fstat(fd).st_dev
            finally:
                files.close_quietly(self._sys, fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise files.unavailable(error, "cannot be opened", root) from error


def _check_same(status: os.stat_result, before: os.stat_result, path: str) -> None:
    if (status.st_dev, status.st_ino) != (before.st_dev, before.st_ino):
        kind = "directory" if stat.S_ISDIR(before.st_mode) else "file"
        raise StateLost(
            f"another {kind} stands in the place of the one that was opened",
            path,
            "restart this daemon when you know why",
        )


def deleted(path: str) -> LunNotFound:
    """What is said of a logical unit that was deleted."""
    return LunNotFound("was deleted", path, "`flockpr lun list` shows what exists")


def missing(path: str) -> StoreUnavailable:
    """What is said of a directory that is not there, and may come back."""
    return StoreUnavailable("is missing", path, "mount the share, or put the directory back")
