"""Waiting in the kernel for the right to commit next, where that is no harm.

Whoever tries again and again finds the range free by luck only, since the one who had it is
quick to ask for it again, and each try takes the processor from those who get on. The kernel
has a queue. But a wait in it cannot be ended from outside, and may be for a process that was
stopped. So a thread waits that has nothing else to do, and its user for as long as it likes;
what comes too late is given back at once. On a network file system it is not done at all:
there the wait would be for its server.
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable

from flockpr.store import files
from flockpr.store.syscalls import Syscalls


class Turn:
    """One byte of a lock file, exclusively, through an open file description of its own.

    Args:
        syscalls: Where the calls go.
        opened: Opens the lock file for reading and writing; raises `StoreError`.
        start: The byte.
    """

    def __init__(self, syscalls: Syscalls, opened: Callable[[], int], start: int) -> None:
        self._sys = syscalls
        self._opened = opened
        self._start = start
        self._fd = -1
        self._changed = threading.Condition()
        self._wanted = False
        self._closed = False
        self._failed: OSError | None = None
        self._held = False

    @property
    def held(self) -> bool:
        """Whether `wait` has got it."""
        return self._held

    def wait(self, patience: float) -> bool:
        """Wait for it, at most `patience` seconds; False if that was not enough.

        Raises:
            OSError: Locks fail.
            RuntimeError: There is no thread for it.
            StoreError: The lock file cannot be opened.
        """
        with self._changed:
            if self._fd < 0:
                self._begin()
            self._wanted = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._held or self._failed is not None, patience)
            self._wanted = False
            failed, self._failed = self._failed, None
            if failed is not None:
                raise failed
            return self._held

    def leave(self) -> None:
        """Give it away.

        Raises:
            OSError: As the system call.
        """
        with self._changed:
            held, self._held = self._held, False
            if held:
                self._sys.set_lock(self._fd, fcntl.F_UNLCK, self._start, 1)

    def close(self) -> None:
        """Give it away, and up; a thread that still waits ends when it has got it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _begin(self) -> None:
        fd = self._opened()
        try:
            threading.Thread(target=self._run, args=(fd,), name="turn", daemon=True).start()
        except BaseException:
            files.close_quietly(self._sys, fd)
            raise
        self._fd = fd

    def _run(self, fd: int) -> None:
        try:
            while self._is_wanted():
                try:
                    self._sys.wait_lock(fd, fcntl.F_WRLCK, self._start, 1)
                except OSError as error:
                    self._note(error)
                else:
                    self._note(None)
        finally:
            with self._changed:
                self._fd, self._held = -1, False
            files.close_quietly(self._sys, fd)  # which gives it back as well

    def _is_wanted(self) -> bool:
        """Wait until somebody wants it; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._wanted and not self._held))
            return not self._closed

    def _note(self, error: OSError | None) -> None:
        with self._changed:
            if error is not None:
                self._failed, self._wanted = error, False
            elif self._wanted:
                self._held = True
            else:
                self._sys.set_lock(self._fd, fcntl.F_UNLCK, self._start, 1)
            self._changed.notify_all()
