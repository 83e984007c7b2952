"""The gate between reservations and reads and writes.

A target that serves an image does each read and write under its *permit*: the lock of a byte
of its own on the very open file description that the reads and writes go through. A command
that takes access away from somebody takes the bytes of all targets, once all reads and writes
in flight have ended; decides under them; commits; proves that they were never lost; and only
then answers. Who takes its permit again reads the state again first.

`Permit` is the side of the target, `Gate` the side of the command, `Doorbell` how the one
hears of the other, `HostClaim` tells the targets of several hosts of each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flockpr._lazy import loader

if TYPE_CHECKING:
    from flockpr.gate.clustered import wait_for_fencing, wait_for_lost_nodes
    from flockpr.gate.doorbell import Doorbell
    from flockpr.gate.hosts import HostClaim
    from flockpr.gate.image import ImageFile, open_image
    from flockpr.gate.narrowing import Gate, Held, take_unused
    from flockpr.gate.permit import Permit

__all__ = [
    "Doorbell",
    "Gate",
    "Held",
    "HostClaim",
    "ImageFile",
    "Permit",
    "open_image",
    "take_unused",
    "wait_for_fencing",
    "wait_for_lost_nodes",
]

__getattr__ = loader(
    __name__,
    {
        "flockpr.gate.clustered": ("wait_for_fencing", "wait_for_lost_nodes"),
        "flockpr.gate.doorbell": ("Doorbell",),
        "flockpr.gate.hosts": ("HostClaim",),
        "flockpr.gate.image": ("ImageFile", "open_image"),
        "flockpr.gate.narrowing": ("Gate", "Held", "take_unused"),
        "flockpr.gate.permit": ("Permit",),
    },
)
