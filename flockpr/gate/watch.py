"""One thread per root that listens at the doorbell, for all permits of the process.

It listens only while a permit is held, so a target with nobody logged in costs nothing, and
a hundred LUNs cost as much as one; each that somebody rings for costs a few questions more. For
as long it has the record of this host in the roster refreshed, and looks whether the host was
declared fenced.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from flockpr import events
from flockpr.errors import HostFenced, StoreError, StoreUnavailable
from flockpr.gate import fenced, roster
from flockpr.gate.doorbell import Doorbell
from flockpr.gate.ears import ears_of
from flockpr.store.layout import DOORBELL
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)

INTERVAL = 0.02
"""Seconds between two questions; part of how long a PREEMPT takes."""
SLOWEST = 0.3
"""Seconds between two of them where each takes long."""
RECHECK = 1.0
"""Seconds between two looks whether it is still the same doorbell."""
RETRY = 0.2
"""Seconds before another try where the doorbell cannot be asked."""
LINGER = 5.0
"""Seconds that the thread waits for work before it ends."""


class Listener(Protocol):
    """What the watch asks of a permit."""

    number: int
    host: int
    door: str
    path: str

    @property
    def held(self) -> bool:
        """Whether somebody who knocks would have to wait for it."""

    def knock(self, heard: bool) -> None:
        """Somebody knocks, or nobody (any more); returns at once."""

    def renew(self) -> None:
        """It may not be held any more; returns at once."""


class Watch:
    """The listening thread of one root; thread-safe.

    Args:
        root: The root directory.
        syscalls: Where the calls go.
    """

    def __init__(self, root: str, syscalls: Syscalls) -> None:
        self._root = root
        self._sys = syscalls
        self._changed = threading.Condition()
        self._permits: list[Listener] = []
        self._running = False
        self._bell: Doorbell | None = None
        self._checked = 0.0
        self._told = ""
        self._next_beat = float("-inf")
        self._beating = False

    def add(self, permit: Listener) -> None:
        """Tell this permit of knocks, for as long as it is held.

        Raises:
            StoreUnavailable: Nobody would listen, so it must not be held.
        """
        with self._changed:
            if permit not in self._permits:
                self._permits.append(permit)
            if not self._running:
                name = f"doorbell-{os.path.basename(self._root)}"
                try:
                    threading.Thread(target=self._run, name=name, daemon=True).start()
                except RuntimeError as error:
                    what = f"cannot be listened to: {error}"
                    raise StoreUnavailable(what, os.path.join(self._root, DOORBELL)) from error
                self._running = True  # not before: nobody would start another one
            self._changed.notify()

    def _run(self) -> None:
        took = 0.0
        while (permits := self._held()) is not None:
            # Where a question is slow it is dear, too: of a cluster's lock manager, say.
            time.sleep(max(INTERVAL, min(3 * took, SLOWEST)))
            try:
                begun = time.monotonic()
                self._ask(permits)
                took = time.monotonic() - begun
                self._told = ""
                self._beat(permits)
            except StoreError as error:
                self._drop()
                if str(error) != self._told:
                    self._told = str(error)
                    log.error("a command that waits for a permit cannot be heard: %s", error)
                time.sleep(RETRY)
            except Exception:
                log.exception("%s: internal error", self._root)
        self._drop()

    def _held(self) -> list[Listener] | None:
        """The permits that are held; waits for one, and gives up after a while."""
        with self._changed:
            self._permits = [permit for permit in self._permits if permit.held]
            if not self._permits:
                self._drop()
                self._changed.wait(LINGER)
                if not self._permits:
                    self._running = False
                    return None
            return list(self._permits)

    def _ask(self, permits: Sequence[Listener]) -> None:
        """One question for all of them, and some more for each of those that somebody rings for:
        whether it is among the first half, and so on.
        """
        bell = self._listening()
        deaf = ears_of(self._root, self._sys).deaf
        parts = [sorted(permits, key=lambda permit: permit.number)]
        while parts:
            part = parts.pop()
            half = len(part) // 2
            if not half:
                permit = part[0]
                permit.knock(bell.wanted(permit.number, permit.host, deaf))
            elif bell.heard(part[0].number, part[-1].number):
                parts += [part[half:], part[:half]]
            else:
                for permit in part:
                    deaf(permit.number, frozenset())
                    permit.knock(False)

    def _beat(self, permits: list[Listener]) -> None:
        """Now and then, and aside: it writes, and who knocks is not to wait for that."""
        now = time.monotonic()
        if self._beating or now < self._next_beat:
            return
        self._next_beat = now + roster.BEAT
        try:
            beat = threading.Thread(target=self._announce, args=(permits,), daemon=True)
            self._beating = True
            beat.start()
        except RuntimeError:  # no more threads: next time
            self._beating = False

    def _announce(self, permits: list[Listener]) -> None:
        try:
            for host, door in {(permit.host, permit.door) for permit in permits}:
                roster.announce(self._root, host, door, self._sys)
                fenced.check(self._root, host, self._sys)
        except HostFenced as error:
            for permit in permits:
                events.fenced_host(permit.path, error.what)
                permit.renew()
        except StoreError as error:
            # Not known: the permit was had before any such declaration.
            log.debug("%s", error)
        except Exception:
            log.exception("%s: internal error", self._root)
        finally:
            self._beating = False

    def _listening(self) -> Doorbell:
        now = time.monotonic()
        if self._bell is not None and now - self._checked >= RECHECK:
            self._checked = now
            if not self._bell.current():
                self._drop()
        if self._bell is None:
            self._checked = now
            self._bell = Doorbell(self._root, self._sys)
        return self._bell

    def _drop(self) -> None:
        if self._bell is not None:
            self._bell.close()
            self._bell = None


_lock = threading.Lock()
_watches: dict[tuple[str, Syscalls], Watch] = {}


def watch_of(root: str, syscalls: Syscalls) -> Watch:
    """The watch of a root in this process."""
    key = (os.path.realpath(root), syscalls)
    with _lock:
        return _watches.setdefault(key, Watch(root, syscalls))
