"""A look at the root once the daemon is ready: what its operator may have meant otherwise.

Nothing depends on it, and the root may hang, so it is a thread of its own for which nobody
waits. A logical unit that is missing now can be created later, so it is no error either.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterable

from flockpr.errors import LunNotFound, StoreError
from flockpr.filesystems import Gated, Terms
from flockpr.filesystems.kinds import COHERENT
from flockpr.filesystems.mounts import filesystem_type
from flockpr.store.listing import list_luns, read_identity

_log = logging.getLogger("flockpr.daemon")

MOST_NAMES = 10
"""How many names of logical units a message holds."""


def start_survey(root: str, luns: Iterable[str], terms: Terms | None = None) -> None:
    """Survey in the background; never blocks, never raises.

    Args:
        root: The root.
        luns: Names of the logical units that doors were told to serve.
        terms: What the operator declared about file systems.
    """
    names = sorted(set(luns))
    # A daemon thread: one that hangs in the kernel must not keep the process from ending.
    thread = threading.Thread(target=survey, args=(root, names, terms), name="survey", daemon=True)
    with contextlib.suppress(RuntimeError):  # no thread to be had: others have said so
        thread.start()


def survey(root: str, luns: Iterable[str], terms: Terms | None = None) -> None:
    """Log what looks like a mistake."""
    try:
        _tell_reach(root)
        _tell_ungated(root, terms or Terms())
        missing = [name for name in luns if not _exists(root, name)]
        if missing:
            _tell_missing(root, missing)
    except (OSError, StoreError) as error:
        _log.debug("the root cannot be surveyed: %s", error)


def _tell_reach(root: str) -> None:
    kind = filesystem_type(os.stat(root).st_dev)
    if kind in COHERENT:
        # At info: for guests of one host that is all there need be.
        _log.info(
            "%s is on %s, a file system of this host: other hosts do not see these reservations"
            " unless they share this very directory (over NFS, say)",
            root,
            kind,
        )


def _tell_ungated(root: str, terms: Terms) -> None:
    """Name the logical units whose targets a command at the helper door may not reach."""
    for listing in list_luns(root):
        identity = listing.identity
        if identity is None or identity.image is None:
            continue
        promise = terms.told(root, identity.image)
        if promise.gated is Gated.NO:
            _log.warning(
                "%s: a command that takes access away is not known to stop the reads and writes"
                " of targets: %s",
                identity.name,
                promise.line(),
            )


def _exists(root: str, name: str) -> bool:
    """Whether a logical unit is there, damaged or not."""
    # By the listing at first: to look a missing name up would make an NFS client remember for
    # half a minute that it is missing, and somebody may be about to create it.
    if name not in os.listdir(root):
        return False
    try:
        read_identity(root, name)
    except LunNotFound:
        return False
    except StoreError:
        return True  # commands to it say what is wrong
    return True


def _tell_missing(root: str, missing: Iterable[str]) -> None:
    names = [listing.name for listing in list_luns(root)]
    known = ", ".join(names[:MOST_NAMES]) or "none"
    if len(names) > MOST_NAMES:
        known += f" and {len(names) - MOST_NAMES} more"
    for name in missing:
        _log.warning(
            "no logical unit %s in %s; there: %s (`flockpr lun create` makes one)",
            name,
            root,
            known,
        )
