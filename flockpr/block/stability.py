"""Who has been told that something may not have reached stable storage.

The kernel tells a failure to write back once for an open file description, and a failed flush of
a drive's cache to nobody but its caller. All sessions of a disk share one description. So who
flushes next finds nothing wrong, also where it is that one's data that was lost. What failed is
remembered here, and every session is told once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from flockpr.block.nexus import DiskNexus
from flockpr.core.model import Nexus

MAX_REMEMBERED: Final = 4096
"""Nexuses without a session that are remembered; the longest gone is forgotten."""


class Stability:
    """Failures to make data stable, and who knows of them. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._failures = 0
        self._told: dict[DiskNexus, int] = {}
        self._gone: dict[Nexus, int] = {}
        self._number = 0
        self._under_way: set[int] = set()

    # ------------------------------------------------------------------ what is done

    @contextmanager
    def attempt(self, counts: Callable[[OSError], bool]) -> Iterator[None]:
        """A system call that may be told of a failure, its own or another one's.

        Args:
            counts: Whether an error of it means that something may not be stable.
        """
        with self._changed:
            self._number += 1
            number = self._number
            self._under_way.add(number)
        failed = False
        try:
            yield
        except OSError as error:
            failed = counts(error)
            raise
        finally:
            with self._changed:
                self._failures += failed
                self._under_way.discard(number)
                self._changed.notify_all()

    def owed(self, session: DiskNexus) -> bool:
        """Whether a session that has made its data stable must be told of a failure instead; it
        counts as told.

        Waits for those who are at it at the moment: one of them may have been told of it by the
        kernel, and not have said so yet.
        """
        with self._changed:
            number = self._number
            while any(other <= number for other in self._under_way):
                self._changed.wait()
            told = self._told.get(session, self._failures)
            return self._tell(session) > told

    def told(self, session: DiskNexus) -> None:
        """A session is told of a failure anyway."""
        with self._changed:
            self._tell(session)

    def _tell(self, session: DiskNexus) -> int:
        if session in self._told:
            self._told[session] = self._failures
        return self._failures

    # ------------------------------------------------------------------ sessions

    def begin(self, session: DiskNexus) -> None:
        """A session is attached. What its nexus wrote through another one is its own."""
        with self._changed:
            nexus = session.nexus
            known = [told for other, told in self._told.items() if other.nexus == nexus]
            known.append(self._gone.pop(nexus, self._failures))
            self._told[session] = min(known)

    def end(self, session: DiskNexus) -> None:
        """It is detached; its nexus may come back."""
        with self._changed:
            told = self._told.pop(session, self._failures)
            nexus = session.nexus
            self._gone[nexus] = min(told, self._gone.pop(nexus, told))
            if len(self._gone) > MAX_REMEMBERED:
                del self._gone[next(iter(self._gone))]
