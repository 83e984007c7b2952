"""A command that takes access away: wait until no target goes by the old state, and prove it.

In this order, and each step for a reason:

1. the permits of this process are barred, and somebody who rings is heard by the others:
   they let their reads and writes end and give their permits back (see `rounds` for those who
   do not);
2. all permits are taken exclusively: nobody reads or writes by the old state now, and those who
   were cut off had theirs taken from them by the file server, which refuses their writes;
3. the command is decided and committed. Not before: it would be decided on a state that the
   wait has outdated, and a host that is merely slow would go on writing after the commit;
4. the permits are proven. A host that was cut off just before its commit, and whose commit
   landed late, had lost them by then, and others have gone on by the old state since;
5. only now may GOOD leave, and the targets read the state again before they go on.

A wait that is not over in time ends with nothing committed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import time
from collections.abc import Callable, Iterator

from flockpr import events
from flockpr.errors import HostFenced, StoreError
from flockpr.gate import fenced, places, roster
from flockpr.gate.hosts import host_number
from flockpr.gate.image import SYSCALLS, ImageFile, open_image
from flockpr.gate.rounds import ClusterLock, Rounds
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)


class Held:
    """The permits of one LUN, all held exclusively.

    Attributes:
        committed: Something is, or may be, committed that depends on them, so `prove` has to
            follow.
    """

    def __init__(self, gate: Gate, deadline: float, withdrawn: Callable[[], bool]) -> None:
        self.committed = False
        self._gate = gate
        self._deadline = deadline
        self._withdrawn = withdrawn
        self._way: Rounds | None = None

    @property
    def image(self) -> ImageFile:
        """The image, through the description that holds the permits."""
        assert self._way is not None
        return self._way.image

    @property
    def left_out(self) -> frozenset[int]:
        """Numbers of the hosts that have permits and were not waited for, because an operator
        answers for them.
        """
        return frozenset() if self._way is None else self._way.left_out

    def take(self) -> None:
        """Have the permits.

        Raises:
            Busy: Not in time; nothing is held.
            HostFenced: This host was declared fenced: commands of others pass its targets by.
            StoreError: They cannot be had.
        """
        image = open_image(self._gate.path, self._gate.syscalls)
        try:
            self._way = Rounds(self._gate, image, self._deadline, self._give_up)
        except BaseException:
            image.close()
            raise
        self._way.obtain()
        # With all permits held, as a target asks with its own: whoever declares this host fenced
        # and goes on either waits for them, or its declaration is found here.
        try:
            fenced.check(self._gate.root, self._gate.host, self._gate.syscalls)
        except HostFenced as error:
            events.fenced_host(self._gate.path, error.what)
            raise

    def prove(self) -> bool:
        """Whether nobody has had a permit since they were taken, so that GOOD may leave.

        If they were lost they are taken again, and then nobody goes by a state before the
        commit either: who took one since has given it back.

        Returns:
            False if that was not possible in time.
        """
        while not self._proven():
            if self._way is not None:
                events.lost_permit(self._gate.path, "a command was under way")
            self.release()
            if time.monotonic() >= self._deadline:
                return False
            time.sleep(random.uniform(0.01, 0.05))  # noqa: S311 - jitter, not secrecy
            try:
                self.take()
            except StoreError as error:
                log.error("the permit cannot be taken again: %s", error)
                return False
        return True

    def _proven(self) -> bool:
        """Whether it is certain.

        All permits are asked for once more: whoever has taken one since is in the way. And they
        are all on one description, through which an NFSv4 server refuses reads once it has lost
        any. (A read that may come out of the page cache proves nothing.)
        """
        if self._way is None or not self._way.has_all():
            return False
        return not self.image.direct or self.image.honoured()

    def release(self) -> None:
        """Give them back."""
        way, self._way = self._way, None
        if way is not None:
            way.end()

    def _give_up(self) -> bool:
        return not self.committed and self._withdrawn()


class Gate:
    """The gate of one LUN, for the commands that narrow access. Thread-safe.

    Args:
        root: The root directory.
        number: Logical unit number.
        image: Path of the image, relative to the root.
        host: Name of this host; the system's by default.
        cluster_lock: Returns once all hosts that the file system has lost are fenced, where
            their locks are given away before (`wait_for_fencing`).
        syscalls: Where the calls go.
    """

    def __init__(
        self,
        root: str,
        number: int,
        image: str,
        *,
        host: str | None = None,
        cluster_lock: ClusterLock | None = None,
        syscalls: Syscalls | None = None,
    ) -> None:
        self.root = root
        self.number = number
        self.path = os.path.join(root, image)
        self.host = host_number(host)
        self.cluster_lock = cluster_lock
        self.syscalls = syscalls or SYSCALLS

    def name_of(self, host: int) -> str:
        """A host as people know it."""
        if host == self.host:
            return "a target of this host"
        return roster.name_of(self.root, host, self.syscalls)

    @contextlib.contextmanager
    def narrow(
        self, deadline: float, withdrawn: Callable[[], bool] = lambda: False
    ) -> Iterator[Held]:
        """Hold all permits exclusively for as long as the context lasts.

        Args:
            deadline: When to give up, by `time.monotonic`.
            withdrawn: Asked while waiting; True gives up at once.

        Raises:
            Busy: Not in time; nothing may be committed.
            HostFenced: This host was declared fenced; nothing may be committed.
            StoreUnavailable: The image cannot be opened read-write, or not be locked.
        """
        held = Held(self, deadline, withdrawn)
        try:
            held.take()
            yield held
        finally:
            held.release()


def take_unused(root: str, image: ImageFile) -> bool:
    """Take all permits of an image at once, or none: False where anybody has one.

    Raises:
        StoreUnavailable: Locks fail there.
    """
    left_out = fenced.numbers(root) - {host_number()}  # what is in flight here lands
    if all(image.lock(place) for place in places.all_permits_but(left_out)):
        return True
    image.unlock(places.ALL_PERMITS)
    return False
