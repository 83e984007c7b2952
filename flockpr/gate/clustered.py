"""Whether having all permits means anything where an image is, and the wait that may be needed.

Where nothing is promised, locks of others may not be in the way at all. And a cluster's
file system hands the byte ranges of a node that it lost to others before that node is fenced, so
having them proves nothing yet (see `cluster_lock`).
"""

from __future__ import annotations

from flockpr.filesystems import promised
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
        StoreUnavailable: It cannot be told what the image is on, or nothing is promised there:
            having the locks means nothing then.
    """
    try:
        promise = promised(image.path, image.fd)
    except OSError as error:
        raise files.unavailable(error, "its file system cannot be told", image.path) from error
    return not promise.cluster_lock or cluster_lock.force(image.path, deadline, image.key)
