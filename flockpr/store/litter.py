"""What daemons that were killed leave behind: files that were under construction.

Their names are their maker's alone, so nobody ever reads them, and nobody else takes them
away. A file that is still wanted can be among them: its maker may be stalled for as long as
its file server likes. To remove that one is harmless, since then the link or rename it was
meant for fails and is found not done; it only costs a command its clear answer. So what goes
has been seen for an hour by one and the same daemon, whatever clocks and time stamps say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from flockpr.store import files
from flockpr.store.layout import ASIDE_PREFIX, AUDIT, COMMITS
from flockpr.store.syscalls import Syscalls

LOOK = 600.0
"""Seconds between two looks."""
AGE = 3600.0
"""Seconds for which a file must have been seen before it is removed."""


class Litter:
    """Files under construction in one lock directory.

    Args:
        syscalls: Where the calls go.
        lun_fd: Descriptor of the lock directory; stays the caller's.
        places: Where they lie below it; "" is itself.
    """

    def __init__(
        self, syscalls: Syscalls, lun_fd: int, places: Sequence[str] = ("", AUDIT, COMMITS)
    ) -> None:
        self._sys = syscalls
        self._lun_fd = lun_fd
        self._places = places
        self._seen: dict[tuple[str, str], float] = {}
        self._next_look: float | None = None

    def sweep(self, now: float) -> None:
        """Look now and then, and remove what has been there for long.

        Args:
            now: Seconds of a clock that never goes back.

        Raises:
            OSError: As the system call; looked at again later.
        """
        if self._next_look is None:
            self._next_look = now + LOOK  # a short run has no use for it
        if now < self._next_look:
            return
        self._next_look = now + LOOK
        found = set()
        for where in self._places:
            found |= {(where, name) for name in self._sweep(where, now)}
        self._seen = {key: since for key, since in self._seen.items() if key in found}

    def _sweep(self, where: str, now: float) -> list[str]:
        if not where:
            return self._remove_old(where, self._lun_fd, now)
        fd = files.open_directory(self._sys, where, dir_fd=self._lun_fd)
        try:
            return self._remove_old(where, fd, now)
        finally:
            files.close_quietly(self._sys, fd)

    def _remove_old(self, where: str, fd: int, now: float) -> list[str]:
        names = [name for name in self._sys.listdir(fd) if name.startswith(ASIDE_PREFIX)]
        for name in names:
            if now - self._seen.setdefault((where, name), now) >= AGE:
                with contextlib.suppress(FileNotFoundError):
                    self._sys.unlink(name, dir_fd=fd)
        return names
