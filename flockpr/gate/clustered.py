"""Whether having all permits means anything where an image is, and the wait that may be needed.

Where nothing is promised, locks of others may not be in the way at all. And a cluster's
file system hands the byte ranges of a node that it lost to others before that node is fenced, so
having them proves nothing yet (see `cluster_lock`).

Where locks are no leases (NFSv3), a server that restarts may forget them without a word, and a
target that lives does not know. It still hears the doorbell, so it is given time to.
"""

from __future__ import annotations

import time

from flockpr.filesystems import Gated, promise_of, promised
from flockpr.gate import cluster_lock
from flockpr.gate.image import ImageFile
from flockpr.store import files

HEARING = 1.0
"""Seconds for targets whose permits a server has forgotten: fifty questions at the doorbell."""


def wait_for_fencing(image: ImageFile, deadline: float) -> bool:
    """Return once every node that the cluster had lost before the call is fenced. On most other
    file systems that is at once.

    Args:
        image: The image; all permits are held, and somebody rings for everybody.
        deadline: When to give up, by `time.monotonic`.

    Returns:
        False: not in time, or it cannot be told.

    Raises:
        StoreUnavailable: It cannot be told what the image is on, or nothing is promised there:
            having the locks means nothing then.
    """
    try:
        promise = promised(image.path, image.fd)
    except OSError as error:
        raise files.unavailable(error, "its file system cannot be told", image.path) from error
    if promise.gated is Gated.DECLARED:
        time.sleep(max(0.0, min(HEARING, deadline - time.monotonic())))
    return not promise.cluster_lock or cluster_lock.force(image.path, deadline, image.key)


def wait_for_lost_nodes(image: ImageFile, deadline: float) -> bool:
    """As `wait_for_fencing`, for who wants an image that nobody uses and decides nothing: where
    nothing is promised there is nothing to wait for, and no reason to refuse it.

    Args:
        image: The image; all permits are held.
        deadline: When to give up, by `time.monotonic`.

    Returns:
        False: not in time. A node that the cluster lost may still write.

    Raises:
        StoreUnavailable: It cannot be told what the image is on.
    """
    try:
        promise = promise_of(image.path, fd=image.fd)
    except OSError as error:
        raise files.unavailable(error, "its file system cannot be told", image.path) from error
    return not promise.cluster_lock or cluster_lock.force(image.path, deadline, image.key)
