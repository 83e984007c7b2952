"""What a target has of an image: a descriptor, and the byte on it that stands for the target.

The byte is exclusive and nobody else's. So who is in the way of a command can be read from the
locks, on every file system, and the command can wait for one target without disturbing the
others.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from flockpr import events
from flockpr.errors import HostFenced, StoreError
from flockpr.gate import fenced, local, places
from flockpr.gate.doorbell import Doorbell
from flockpr.gate.ears import ears_of
from flockpr.gate.image import ImageFile, open_image
from flockpr.gate.pauses import Pauses
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)

NUDGE = 1.0
"""Seconds after which whoever waits has the file server look whether those who ring still live."""


class Stake:
    """The descriptor and the byte of one permit. Whoever moves the permit's phase uses it, one
    thread at a time.

    Args:
        root: The root directory.
        number: Logical unit number.
        image: Path of the image, relative to the root.
        host: Number of this host.
        owner: The permit, which commands of this process find by the file.
        on_descriptor: Called with each new descriptor before anything is locked on it.
        syscalls: Where the calls go.
    """

    def __init__(
        self,
        root: str,
        number: int,
        image: str,
        *,
        host: int,
        owner: local.Yielding,
        on_descriptor: Callable[[int], None] | None,
        syscalls: Syscalls,
    ) -> None:
        self.path = os.path.join(root, image)
        self.image: ImageFile | None = None
        self._root = root
        self._number = number
        self._host = host
        self._owner = owner
        self._on_descriptor = on_descriptor
        self._sys = syscalls
        self._place: places.Range | None = None
        self._lost_since: float | None = None

    @property
    def fd(self) -> int:
        """The descriptor; -1 while there is none."""
        image = self.image
        return -1 if image is None else image.fd

    @property
    def direct(self) -> bool:
        """Whether it passes the page cache by."""
        image = self.image
        return image is not None and image.direct

    def open(self) -> None:
        """Have the image open, and the one that the path leads to now.

        Raises:
            StoreError: It cannot be opened read-write.
        """
        if self.image is not None and not self.image.current():
            log.warning("%s: another file stands in the image's place", self.path)
            self.drop()
        if self.image is not None:
            return
        image = self._open()
        try:
            if self._on_descriptor is not None:
                self._on_descriptor(image.fd)
        except BaseException:
            image.close()
            raise
        self.image = image
        local.register(image.key, self._owner)

    def _open(self) -> ImageFile:
        """As `open_image`; that it cannot be, and that it can again, is told once."""
        try:
            image = open_image(self.path, self._sys)
        except StoreError as error:
            if self._lost_since is None:
                self._lost_since = time.monotonic()
                events.lost_mount(self.path, error.what)
            raise
        if self._lost_since is not None:
            events.mount_back(self.path, time.monotonic() - self._lost_since)
            self._lost_since = None
        return image

    def take(self, deadline: float, given_up: Callable[[], bool]) -> bool:
        """Wait until nobody rings for it and a byte can be had.

        Args:
            deadline: When to give up, by `time.monotonic`.
            given_up: Asked while waiting; True gives up at once.

        Returns:
            False if it was not possible in time.

        Raises:
            HostFenced: This host was declared fenced; it holds nothing then.
            StoreError: The image cannot be opened, or locks fail there.
        """
        self.open()
        nudge = time.monotonic() + NUDGE
        pauses = Pauses(deadline)
        with Doorbell(self._root, self._sys, self._host) as bell:
            while not self._try(bell):
                now = time.monotonic()
                if now >= deadline or given_up():
                    return False
                if now >= nudge:
                    nudge = now + NUDGE
                    bell.nudge(self._number)
                pauses.pause()
        # After the byte was taken: whoever declares this host fenced and looks then finds it
        # held, or its declaration is found here.
        try:
            fenced.check(self._root, self._host, self._sys)
        except HostFenced as error:
            events.fenced_host(self.path, error.what)
            raise
        return True

    def _try(self, bell: Doorbell) -> bool:
        # Without this question a stream of targets that come and go would keep whoever wants
        # all bytes waiting for ever: locks have no queue.
        if bell.wanted(self._number, self._host, ears_of(self._root, self._sys).deaf):
            return False
        assert self.image is not None
        place = places.any_permit(self._host)
        if not self.image.lock(place):
            return False
        self._place = place
        return True

    def give_back(self) -> bool:
        """Give the byte back; False where only `drop` does."""
        place, self._place = self._place, None
        if self.image is None or place is None:
            return True
        try:
            self.image.unlock(place)
        except StoreError as error:
            log.warning("%s", error)
            return False
        return True

    def drop(self) -> None:
        """Close the descriptor, and with it all that is locked on it."""
        image, self.image, self._place = self.image, None, None
        if image is not None:
            local.withdraw(image.key, self._owner)
            image.close()
