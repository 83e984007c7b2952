"""What an operator declared and allowed, applied to a root and an image."""

from __future__ import annotations

import os
import time

import attrs

from flockpr.errors import StoreUnavailable, Unproven
from flockpr.filesystems import facts
from flockpr.filesystems.facts import Sources
from flockpr.filesystems.mounts import covering
from flockpr.filesystems.promise import Fencing, Gated, Promise, judge, together

ALLOW = "--allow-unproven (allow_unproven = true in [serve]) serves it all the same, on one host"


def promise_of(
    path: str,
    *,
    fencing: Fencing | str = Fencing.NONE,
    fd: int | None = None,
    sources: Sources | None = None,
) -> Promise:
    """What is promised for a directory or an image.

    Args:
        path: It, or where it will be made.
        fencing: What the operator declared.
        fd: A descriptor of it, if there is one; a look at the path may hang with its server.
        sources: Where the host tells about itself.

    Raises:
        OSError: It cannot be looked at.
    """
    return judge(facts.facts_of(path, fd=fd, sources=sources), Fencing(fencing))


@attrs.frozen
class Terms:
    """Under which terms a target serves.

    Attributes:
        fencing: What the operator declared.
        allow_unproven: Serve where nothing is promised.
        sources: Where the host tells about itself; this host when None.
    """

    fencing: Fencing = attrs.field(default=Fencing.NONE, converter=Fencing)
    allow_unproven: bool = False
    sources: Sources | None = None

    def promise(self, root: str, image: str | None = None) -> Promise:
        """What is promised for a lock directory, and for an image beside it or elsewhere.

        Raises:
            OSError: One cannot be looked at.
        """
        whole = promise_of(root, fencing=self.fencing, sources=self.sources)
        if image is None:
            return whole
        return together(whole, promise_of(image, fencing=self.fencing, sources=self.sources))

    def told(self, root: str, image: str) -> Promise:
        """The same by the mount table alone: the image is not touched, since that may hang."""
        table = (self.sources or facts.SYSTEM).table()
        path = os.path.normpath(os.path.join(os.path.realpath(root), image))
        of_image = facts.facts_of_mount(covering(path, table), self.sources)
        return together(self.promise(root), judge(of_image, self.fencing))

    def judge(self, root: str, image: str | None = None) -> Promise:
        """The same for a target that is about to serve.

        Raises:
            Unproven: Nothing is promised, and that was not allowed.
            OSError: One cannot be looked at.
        """
        promise = self.promise(root, image)
        if promise.gated is Gated.NO and not self.allow_unproven:
            raise refusal(image or root, promise)
        return promise


_declared = Terms()
_FRESH = 1.0
"""Seconds for which what was promised is believed: a stream of commands reads one table."""
_MOST = 1000
_recent: dict[tuple[str, int, Terms], tuple[float, Promise]] = {}


def declare(terms: Terms) -> None:
    """Set the terms of this process, for commands that take access away, whichever door they
    come through; without it nothing is declared and nothing allowed.
    """
    global _declared  # noqa: PLW0603 - what an operator says of a host is one for a process
    _declared = terms


def promised(path: str, fd: int) -> Promise:
    """What is promised for an image that a command of this process is about to take alone.

    Args:
        path: The image.
        fd: A descriptor of it.

    Raises:
        StoreUnavailable: Nothing, and that was not allowed: that the command has all permits
            would say nothing about the reads and writes of others. For a person.
        OSError: It cannot be looked at.
    """
    terms = _declared
    key = (path, os.fstat(fd).st_dev, terms)
    now = time.monotonic()
    then, promise = _recent.get(key, (now - _FRESH, None))
    if promise is not None and now - then < _FRESH:
        return promise
    promise = promise_of(path, fencing=terms.fencing, fd=fd, sources=terms.sources)
    if promise.gated is Gated.NO and not terms.allow_unproven:
        what, remedy = _words(promise)
        fault = StoreUnavailable(what, path, remedy)
        fault.for_a_person = True
        raise fault
    if len(_recent) > _MOST:
        _recent.clear()
    _recent[key] = (now, promise)
    return promise


def refusal(path: str, promise: Promise) -> Unproven:
    """Why a target does not serve there."""
    what, remedy = _words(promise)
    return Unproven(f"{path}: {what}", remedy)


def _words(promise: Promise) -> tuple[str, str]:
    """What is wrong, and what can be done."""
    why = "; ".join(promise.reasons)
    what = f"reads and writes cannot be gated on {promise.filesystem}: {why}"
    return what, "; ".join((*promise.remedies, ALLOW))
