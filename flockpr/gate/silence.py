"""Hosts that do not give their permits back: what a process remembers of them.

A command that has waited in vain once tells the next one, which then waits for the silent hosts
before it stops anybody else. After a command has given up, a knock goes on in the background,
for a while: a file server that ends a lease only when somebody wants what it covers ends it
then, and the same command finds the way free when it is sent again.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Iterable

from flockpr.errors import StoreError
from flockpr.gate import local, places, roster
from flockpr.gate.fences import fences_of
from flockpr.gate.image import ImageFile, open_image
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)

LIFE = 180.0
"""Seconds that a background knock lasts at the most: two of the usual leases."""
EVERY = 0.25
"""Seconds between two tries."""
MOST = 256
"""Images of which something is remembered although no host is silent there."""


class Silence:
    """The silent hosts of one image; thread-safe. Nothing is decided by it but an order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: set[int] = set()
        self._until = 0.0
        self._knocking = False

    def known(self) -> frozenset[int]:
        """Those that were in the way last."""
        with self._lock:
            return frozenset(self._hosts)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to remember."""
        with self._lock:
            return not self._hosts and not self._knocking

    def note(self, hosts: Iterable[int]) -> None:
        """These do not answer."""
        with self._lock:
            self._hosts.update(hosts)

    def forget(self, host: int) -> None:
        """This one is not in the way any more."""
        with self._lock:
            self._hosts.discard(host)

    def knock(self, root: str, number: int, path: str, host: int, syscalls: Syscalls) -> None:
        """Go on trying in the background, for a while; at most one thread for each image.

        Args:
            root: The root directory.
            number: Logical unit number.
            path: Of the image.
            host: Number of this host.
            syscalls: Where the calls go.
        """
        with self._lock:
            if not self._hosts:
                return
            self._until = time.monotonic() + LIFE
            if self._knocking:
                return
            arguments = (root, number, path, host, syscalls)
            thread = threading.Thread(
                target=self._run, args=arguments, name=f"knock-{number}", daemon=True
            )
            try:
                thread.start()  # it waits for the lock
            except RuntimeError as error:  # no more threads
                log.warning("%s: nobody knocks in the background: %s", path, error)
                return
            self._knocking = True

    def _run(self, root: str, number: int, path: str, host: int, syscalls: Syscalls) -> None:
        try:
            self._knock(root, number, path, host, syscalls)
        except StoreError as error:
            log.warning("the knock in the background has ended: %s", error)
        except Exception:
            log.exception("%s: internal error", path)
        else:
            return  # and another thread may have been started by now
        with self._lock:
            self._knocking = False

    def _knock(self, root: str, number: int, path: str, host: int, syscalls: Syscalls) -> None:
        fences = fences_of(root, syscalls)
        with (
            contextlib.closing(open_image(path, syscalls)) as image,
            roster.waiting(root, host, number, self.known(), syscalls),
        ):
            while not self._over():
                self.try_once(image, fences.look() - {host})
                roster.beat(root, host, syscalls)
                time.sleep(EVERY * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not secrecy

    def _over(self) -> bool:
        with self._lock:
            if self._hosts and time.monotonic() < self._until:
                return False
            self._knocking = False
            return True

    def try_once(self, image: ImageFile, fenced: frozenset[int]) -> frozenset[int]:
        """Try to have the permits of each silent host for a moment. What is had is not kept: it
        proves that the host is not in the way, and who comes back takes another byte.

        Args:
            image: A description that holds none of these bytes.
            fenced: Hosts that nobody waits for.

        Returns:
            Those that are still in the way.

        Raises:
            StoreError: Locks fail there.
        """
        for host in sorted(self.known()):
            place = places.permits_of(host)
            if host not in fenced:
                if not image.lock(place):
                    continue
                image.unlock(place)
            self.forget(host)
        return self.known()


_lock = threading.Lock()
_silences: dict[local.Key, Silence] = {}


def silence_of(key: local.Key) -> Silence:
    """What this process knows of an image."""
    with _lock:
        if key not in _silences and len(_silences) >= MOST:
            # A command may have one of these at this moment, and note somebody in it: then the
            # next one finds out by itself, and nothing worse happens.
            for other in [other for other, one in _silences.items() if one.idle]:
                del _silences[other]
        return _silences.setdefault(key, Silence())
