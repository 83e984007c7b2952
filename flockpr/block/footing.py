"""What a disk stands on: its host's mark at the LUN, and what the file system promises."""

from __future__ import annotations

import time

from flockpr import events
from flockpr.block.calls import ImageCalls
from flockpr.block.medium import PermitLike
from flockpr.errors import Busy, ServedElsewhere, StoreUnavailable
from flockpr.filesystems import Guard, Promise
from flockpr.gate import HostClaim


class Footing:
    """That of one disk.

    Args:
        image: The image's path, for the log.
        guard: What is promised, and whether it still holds; None: a test's disk.
        calls: System calls on the image.

    Attributes:
        withheld: Why nobody gets in at the moment, though the permit could be had.
    """

    def __init__(self, image: str, guard: Guard | None, calls: ImageCalls) -> None:
        self.withheld: StoreUnavailable | None = None
        self._image = image
        self._guard = guard
        self._calls = calls
        self._since = 0.0
        self._claim: HostClaim | None = None

    # ------------------------------------------------------------------ what is promised

    @property
    def promise(self) -> Promise | None:
        """What is promised on its file system; None for a test's disk."""
        return None if self._guard is None else self._guard.promise

    @property
    def alone(self) -> bool:
        """Whether one host's targets alone may serve it."""
        return self._guard is not None and self._guard.promise.exclusive

    @property
    def local(self) -> bool:
        """Whether one kernel sees to everything."""
        return self._guard is None or self._guard.promise.one_host

    def opened(self, fd: int) -> None:
        """A descriptor of the image was opened: is it where it was?

        Raises:
            StoreError: It is not.
        """
        if self._guard is not None:
            self._guard.opened(fd, self._calls)

    def look(self, permit: PermitLike) -> None:
        """See whether what was promised at the start still holds; nobody gets in where it does
        not, until it does again. Never touches the file system, which may hang.
        """
        fault = None if self._guard is None else self._guard.look()
        before, self.withheld = self.withheld, fault
        if fault is not None and before is None:
            # The answer is NOT READY from here on, and what is under way ends.
            permit.bar(self)
            # The kernel may have lost the permit and taken it again without a word: only another
            # one is worth something.
            permit.renew()
            self._since = time.monotonic()
            events.lost_mount(self._image, fault.what)
        elif fault is None and before is not None:
            permit.admit(self)
            events.mount_back(self._image, time.monotonic() - self._since)

    # ------------------------------------------------------------------ who serves it

    def claim(self, path: str, patience: float) -> bool:
        """Leave this host's mark at the LUN of this directory.

        Args:
            path: The directory.
            patience: Seconds to wait for another host's target that is only looking.

        Returns:
            Whether it keeps the targets of all other hosts away.

        Raises:
            ServedElsewhere: Another host's target serves the LUN, and that one or this one has to
                be alone.
        """
        alone = self.alone
        self._claim = HostClaim(path, exclusive=alone)
        try:
            self._claim.take(patience)
        except Busy as error:
            raise ServedElsewhere(*error.args) from error
        return alone

    def release(self) -> None:
        """Let other hosts serve it."""
        if self._claim is not None:
            self._claim.close()

    def deleted(self) -> bool:
        """Whether the LUN is known to be deleted; one that is merely missing is not."""
        return self._claim is not None and self._claim.deleted()
