"""Whether an image is where locks are given away too early, and the wait that makes up for it.

A cluster's file system hands the byte ranges of a node that it lost to others before that node
is fenced, so having them proves nothing yet (see `cluster_lock`).
"""

from __future__ import annotations

from flockpr.filesystems import promise_of
from flockpr.gate import cluster_lock
from flockpr.gate.image import ImageFile
from flockpr.store import files


def wait_for_fencing(image: ImageFile, deadline: float) -> bool:
    """Return once every node that the cluster had lost before the call is fenced; at once where
    the image is on another kind of file system.

    Args:
        image: The image; all permits are held.
        deadline: When to give up, by `time.monotonic`.

    Returns:
        False: not in time, or it cannot be told.

    Raises:
        StoreError: It cannot be told what the image is on.
    """
    try:
        clustered = promise_of(image.path, fd=image.fd).cluster_lock
    except OSError as error:
        raise files.unavailable(error, "its file system cannot be told", image.path) from error
    return not clustered or cluster_lock.force(image.path, deadline, image.key)
