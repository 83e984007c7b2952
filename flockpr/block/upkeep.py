"""What is done to a logical unit's image from outside: made larger, copied, removed.

Each of them goes through the gate: targets let their reads and writes end and wait until it is
done, so nobody writes into what is being looked at, and two that come at once go one after the
other. A QEMU or qemu-img that has the image open is no target and does not wait: it is refused.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence

from flockpr.block.calls import ImageCalls
from flockpr.block.image import claim_from_qemu, grow_image
from flockpr.errors import Busy
from flockpr.gate import (
    Gate,
    ImageFile,
    open_image,
    take_unused,
    wait_for_fencing,
    wait_for_lost_nodes,
)
from flockpr.store import files, images, listing, provision, removal
from flockpr.store.identity import LunIdentity
from flockpr.store.kinds import store_of
from flockpr.store.syscalls import Syscalls

PATIENCE = 10.0
"""Seconds that the targets have to let their reads and writes end."""


def grow_lun(root: str, name: str, size: int, *, patience: float = PATIENCE) -> int:
    """Make the image of a LUN larger, in use or not; durable on return.

    Targets notice within a second (on another host than this one: when its attribute cache
    lets go) and tell their initiators with 2A/09.

    Args:
        root: The root directory.
        name: Of the LUN.
        size: Bytes, a multiple of 512; the size that it has changes nothing.
        patience: Seconds to wait for the targets.

    Returns:
        The size before.

    Raises:
        ConfigError: It is no size, it is smaller than the image, or the LUN has no image.
        LunNotFound: There is no such LUN.
        Busy: A QEMU has the image open, or the targets did not stop in time; nothing was done.
        StoreError: Input or output failed.
    """
    images.check_size(size)
    identity = listing.read_identity(root, name)
    with _quiet(root, identity, patience) as image:
        before = os.fstat(image.fd).st_size
        grow_image(image.path, size)
    return before


def clone_lun(
    root: str,
    name: str,
    new: str,
    *,
    group: str | None = None,
    image: str | None = None,
    serial: str | None = None,
    target_ports: Sequence[int] = (),
    live: bool = False,
    patience: float = PATIENCE,
    calls: Syscalls | None = None,
) -> LunIdentity:
    """Make a new LUN whose image is a copy of another one's.

    It has identifiers of its own and nobody is registered: reservations are about a disk, and
    this is another one. Until the copy is whole there is no new LUN.

    Args:
        root: The root directory.
        name: Of the LUN to copy.
        new: Of the LUN to make.
        group: Group that may use the new one besides the owner.
        image: Path of the copy, relative to the root; images/NEW.img if not given.
        serial: Unit serial number; random if not given.
        target_ports: As for `create_lun`.
        live: Copy although targets read and write, while they wait: the copy is what a power
            cut at this moment would leave. Only where the file system copies in no time.
        patience: Seconds to wait for the targets, and for the fencing of a node that is lost.
        calls: The system calls that read and write the images, for who counts what is copied.

    Raises:
        ConfigError: An argument is wrong, or the LUN has no image.
        LunNotFound: There is no LUN `name`.
        LunExists: `new`, or the path of the copy, is taken.
        Busy: The image is in use, and `live` is not asked for, or does not help.
        StoreError: Input or output failed; nothing is left.
    """
    identity = listing.read_identity(root, name)
    sys_ = calls or Syscalls()
    hold = _quiet(root, identity, patience) if live else _unused(root, identity, patience)
    with hold as held:
        # Another descriptor: through this one reads would have to be aligned.
        source = images.open_image(sys_, held.path, os.O_RDONLY)
        try:
            size = sys_.fstat(source).st_size

            def fill(target: int) -> None:
                if images.reflink(sys_, source, target):
                    return
                if live:
                    raise Busy(
                        "this file system cannot copy an image in one moment, and initiators "
                        "would wait for as long as it takes",
                        held.path,
                        "clone it without --live while nobody uses it",
                    )
                images.copy(sys_, source, target, size)
                # It took its time. Read through another description, so a lost lock was not seen.
                if not held.honoured():
                    raise Busy(
                        "its permits were lost while it was copied, so somebody may have written",
                        held.path,
                        "clone it again when the connection to the file server is good",
                    )

            return provision.create_lun(
                root,
                new,
                group=group,
                image=image,
                serial=serial,
                size=size,
                fill=fill,
                target_ports=target_ports,
                store=store_of(os.path.join(root, name)),
            )
        finally:
            files.close_quietly(sys_, source)


def delete_with_image(
    root: str, name: str, *, force: bool = False, patience: float = PATIENCE
) -> None:
    """Delete a LUN and its image.

    The LUN goes first: a crash in between leaves an image that is nobody's, which
    `create_lun` takes over or refuses, and never a LUN without its image.

    Args:
        root: The root directory.
        name: Of the LUN.
        force: Although somebody is registered, holds a reservation, or uses the image.
        patience: Seconds to wait for the fencing of a node that is lost.

    Raises:
        LunNotFound: There is no such LUN.
        Busy: The image is in use; nothing was done.
        StoreError: It is in use, or could not be deleted.
    """
    identity = listing.read_identity(root, name)
    path = None if identity.image is None else os.path.join(root, identity.image)
    with contextlib.ExitStack() as stack:
        if path is not None and not force and os.path.lexists(path):
            stack.enter_context(_unused(root, identity, patience))
        removal.delete_lun(root, name, force=force)
        if path is None:
            return
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise files.unavailable(
                error, f"the LUN {name} is deleted, its image is not", path
            ) from error


@contextlib.contextmanager
def _quiet(root: str, identity: LunIdentity, patience: float) -> Iterator[ImageFile]:
    """The image while all targets wait; no QEMU has it open."""
    images.image_path(root, identity)
    assert identity.image is not None
    gate = Gate(root, identity.lun, identity.image, cluster_lock=wait_for_fencing)
    with gate.narrow(time.monotonic() + patience) as held:
        claim_from_qemu(ImageCalls(), held.image.fd, held.image.path)
        yield held.image


@contextlib.contextmanager
def _unused(root: str, identity: LunIdentity, patience: float) -> Iterator[ImageFile]:
    """The image that no target reads or writes at the moment, nor can while this lasts: not those
    of a node either that a cluster has lost, whose permits it gives away before it is fenced.
    """
    deadline = time.monotonic() + patience
    image = open_image(images.image_path(root, identity), Syscalls())
    try:
        if not take_unused(root, image):
            raise Busy(
                "initiators are logged in to a target that serves it",
                image.path,
                "log them out or stop the target; for a clone there is --live, for a deletion "
                "--force",
            )
        if not wait_for_lost_nodes(image, deadline):
            raise Busy(
                "a node that the cluster lost is not fenced yet, and may still write",
                image.path,
                "try it again when the cluster's fencing is done; for a deletion there is --force",
            )
        claim_from_qemu(ImageCalls(), image.fd, image.path)
        yield image
    finally:
        image.close()
