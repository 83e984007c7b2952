"""A command that takes access away: wait until no target goes by the old state, and prove it.

In this order, and each step for a reason:

1. the permits of this process are barred, and somebody who rings is heard by the others:
   they let their reads and writes end and give their permits back;
2. the permit is taken exclusively: nobody reads or writes by the old state now, and those who
   were cut off had it taken from them by the file server, which refuses their writes;
3. the command is decided and committed. Not before: it would be decided on a state that the
   wait has outdated, and a host that is merely slow would go on writing after the commit;
4. the permit is proven. A host that was cut off just before its commit, and whose commit
   landed late, had lost the permit by then, and others have gone on by the old state since;
5. only now may GOOD leave, and the targets read the state again before they go on.

A wait that is not over in time ends with nothing committed.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import random
import time
from collections.abc import Callable, Iterator

from flockpr.errors import Busy, StoreError
from flockpr.gate import local
from flockpr.gate.doorbell import Doorbell
from flockpr.gate.image import SYSCALLS, ImageFile, open_image
from flockpr.store.layout import PERMIT
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)


class Held:
    """The permit of one LUN, held exclusively.

    Attributes:
        committed: Something is, or may be, committed that depends on the permit, so `prove` has
            to follow.
    """

    def __init__(
        self, gate: Gate, image: ImageFile, deadline: float, withdrawn: Callable[[], bool]
    ) -> None:
        self.committed = False
        self._gate = gate
        self._image: ImageFile | None = image
        self._bell: Doorbell | None = None
        self._deadline = deadline
        self._withdrawn = withdrawn

    def prove(self) -> bool:
        """Whether nobody has had the permit since it was taken, so that GOOD may leave.

        If it was lost it is taken again, and then nobody goes by a state before the commit
        either: who took a permit since has given it back.

        Returns:
            False if that was not possible in time.
        """
        again = False
        while not self._proven(again):
            again, lost = True, self._image is None or self._image.direct
            if lost:
                log.error("%s: the permit was lost during a command", self._gate.path)
            self.release()
            if time.monotonic() >= self._deadline:
                return False
            if lost:
                time.sleep(random.uniform(0.01, 0.05))  # noqa: S311 - jitter, not secrecy
            try:
                self._image = open_image(self._gate.path, self._gate.syscalls)
                self.take()
            except StoreError as error:
                log.error("the permit cannot be taken again: %s", error)
                return False
        return True

    def _proven(self, again: bool) -> bool:
        """Whether it is certain; `again`: it was taken after the commit.

        A read that may come out of the page cache proves nothing. There, that the server gave
        the permit after the commit is the proof.
        """
        if self._image is None:
            return False
        return self._image.honoured() if self._image.direct else again

    def ring(self) -> None:
        """Be heard by all who hold a permit.

        Raises:
            Busy: Somebody else rings, and went on until the deadline.
            StoreError: The doorbell cannot be rung.
        """
        bell = self._bell = Doorbell(self._gate.root, self._gate.syscalls)
        while not bell.ring(self._gate.number):
            self._pause("another command that takes access away is under way")

    def take(self) -> None:
        """Ring, and take the permit.

        Raises:
            Busy: Not in time; nothing is held.
            StoreError: It cannot be had.
        """
        assert self._image is not None
        if self._bell is None:
            self.ring()
        while not self._image.lock(fcntl.F_WRLCK, PERMIT):
            self._pause("a target did not give its permit back in time")

    def release(self) -> None:
        """Give back permit and doorbell, in this order: who hears nobody takes a permit."""
        if self._image is not None:
            self._image.close()
            self._image = None
        if self._bell is not None:
            self._bell.close()
            self._bell = None

    @property
    def image(self) -> ImageFile:
        """The image, through the description that holds the permit."""
        assert self._image is not None
        return self._image

    def _pause(self, why: str) -> None:
        if time.monotonic() >= self._deadline or (self._withdrawn() and not self.committed):
            raise Busy(why, self._gate.path)
        time.sleep(random.uniform(0.001, 0.004))  # noqa: S311 - jitter, not secrecy


class Gate:
    """The gate of one LUN, for the commands that narrow access. Thread-safe.

    Args:
        root: The root directory.
        number: Logical unit number.
        image: Path of the image, relative to the root.
        syscalls: Where the calls go.
    """

    def __init__(
        self, root: str, number: int, image: str, *, syscalls: Syscalls | None = None
    ) -> None:
        self.root = root
        self.number = number
        self.path = os.path.join(root, image)
        self.syscalls = syscalls or SYSCALLS

    @contextlib.contextmanager
    def narrow(
        self, deadline: float, withdrawn: Callable[[], bool] = lambda: False
    ) -> Iterator[Held]:
        """Hold the permit exclusively for as long as the context lasts.

        Args:
            deadline: When to give up, by `time.monotonic`.
            withdrawn: Asked while waiting; True gives up at once.

        Raises:
            Busy: Not in time; nothing may be committed.
            StoreUnavailable: The image cannot be opened read-write, or not be locked.
        """
        image = open_image(self.path, self.syscalls)
        held = Held(self, image, deadline, withdrawn)
        permits = local.permits_of(image.key)
        try:
            for permit in permits:
                permit.bar(held)
            held.ring()
            for permit in permits:
                if not permit.yielded(deadline):
                    raise Busy("a read or write did not end in time", self.path)
            held.take()
            yield held
        finally:
            held.release()
            for permit in permits:
                permit.admit(held)
