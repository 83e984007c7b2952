"""Keeps watch over what was promised for one image when a target began to serve it.

The promise can go while the target runs: somebody sets recover_lost_locks, mounts again with
other options, or mounts something else over the path. Reads and writes must not go on then.
"""

from __future__ import annotations

import os
from typing import Final

import attrs

from flockpr.errors import StoreUnavailable
from flockpr.filesystems import facts as facts_module
from flockpr.filesystems.facts import Sources, facts_of, facts_of_mount, recover_lost_locks
from flockpr.filesystems.kinds import AUTOMOUNT
from flockpr.filesystems.mount_rules import Facts
from flockpr.filesystems.mounts import covering
from flockpr.filesystems.promise import Gated, Promise, judge, together
from flockpr.filesystems.terms import Terms, refusal
from flockpr.filesystems.trial import Calls, try_image

_REMEDY: Final = "mount it as it was, or start the target again to serve it as it is"


@attrs.frozen
class Snapshot:
    """What a host's tables say now; as long as it is the same, so is every promise."""

    table: str
    recover_lost_locks: str | None


def snapshot(sources: Sources | None = None) -> Snapshot:
    """Read it; touches no file server."""
    sources = sources or facts_module.SYSTEM
    return Snapshot(sources.table(), recover_lost_locks(sources))


class Guard:
    """What is promised for one image.

    Args:
        terms: What the operator declared and allowed.
        root: The root directory.
        image: The image.

    Attributes:
        promise: That of the start.

    Raises:
        Unproven: Nothing is promised, and that was not allowed.
        OSError: The root or the image cannot be looked at.
    """

    def __init__(self, terms: Terms, root: str, image: str) -> None:
        self._terms = terms
        self._image = image
        # Symbolic links are followed now: to follow them later may hang with a file server.
        self._paths = (os.path.realpath(root), os.path.realpath(image))
        self.promise = terms.judge(root, image)
        # They may be on two mounts, and neither may change for the worse.
        self._before = (terms.promise(root), terms.promise(image))
        self._tried = False

    def opened(self, fd: int, calls: Calls) -> None:
        """The image was opened, for the first time or anew: see what it is on, and try it once.

        Args:
            fd: The description; without locks the first time.
            calls: The system calls.

        Raises:
            StoreUnavailable: The promise is gone.
            Unproven: The image does not do what its file system should.
            OSError: It cannot be looked at.
        """
        facts = facts_of(self._image, fd=fd, sources=self._terms.sources)
        if fault := self._fault(self._before[1], judge(facts, self._terms.fencing)):
            raise fault
        if not self._tried:
            self._try(fd, calls, facts)
            self._tried = True

    def _try(self, fd: int, calls: Calls, facts: Facts) -> None:
        one_host = not self._before[1].many_hosts
        found = try_image(self._image, fd, calls, one_host=one_host)
        if not found:
            return
        promise = judge(facts, self._terms.fencing, found)
        if not self._terms.allow_unproven:
            raise refusal(self._image, promise)
        self.promise = together(self._before[0], promise)

    def look(self) -> StoreUnavailable | None:
        """Why the promise is gone, by the tables of now; touches no file server."""
        sources = self._terms.sources or facts_module.SYSTEM
        table = sources.table()
        for path, before in zip(self._paths, self._before, strict=True):
            mount = covering(path, table)
            if mount is None or mount.kind in AUTOMOUNT:
                continue  # unmounted while nobody looks: the next open sees what is there
            now = judge(facts_of_mount(mount, sources), self._terms.fencing)
            if fault := self._fault(before, now):
                return fault
        return None

    def _fault(self, before: Promise, now: Promise) -> StoreUnavailable | None:
        if before.gated is Gated.NO:
            return None  # nothing was promised
        if now.gated is Gated.NO:
            what = f"can no longer be gated on {now.filesystem}: {'; '.join(now.reasons)}"
        elif (now.many_hosts, now.cluster_lock) != (before.many_hosts, before.cluster_lock):
            what = f"is now on {now.filesystem}, and was on {before.filesystem}"
        else:
            return None
        fault = StoreUnavailable(what, self._image, "; ".join(now.remedies) or _REMEDY)
        fault.for_a_person = True
        return fault
