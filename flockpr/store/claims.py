"""What two logical units of one root cannot both have: a number, a device, an image."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from flockpr.errors import LunExists
from flockpr.store import files, images
from flockpr.store.identity import LunIdentity
from flockpr.store.layout import NUMBERS
from flockpr.store.syscalls import Syscalls

MAX_LUNS = 16384


def check_claims(
    sys_: Syscalls, root_fd: int, root: str, identity: LunIdentity, others: Iterable[LunIdentity]
) -> None:
    """See that no device and no image is another LUN's.

    One of two LUNs would be neither's, and its guests without one.

    Raises:
        LunExists: One is; says which and whose.
    """
    wanted = {wwid.lower() for wwid in identity.wwids}
    for other in others:
        if other.name == identity.name:
            continue
        common = wanted & {wwid.lower() for wwid in (other.naa, *other.wwids)}
        if _same_image(sys_, root_fd, identity.image, other.image):
            common.add(str(identity.image))
        if common:
            raise LunExists(
                f"{min(common)} belongs to the LUN {other.name}", root, "one disk is one LUN"
            )


def _same_image(sys_: Syscalls, root_fd: int, one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and images.same_file(sys_, root_fd, one, other)


def claim_number(
    sys_: Syscalls,
    root_fd: int,
    root: str,
    identity: LunIdentity,
    *,
    wanted: int | None,
    taken: Collection[int] = (),
    mode: int,
    made: Callable[[int], None],
) -> int:
    """Take a number by creating `.numbers/N`, which only one can do.

    Args:
        sys_: Where the calls go.
        root_fd: The root.
        root: Its path, for messages.
        identity: Who takes it.
        wanted: This very number; the lowest free one if None.
        taken: Numbers of LUNs that are there: one that came out of a backup has no file.
        mode: Of the file.
        made: Called with the directory of numbers when it was made.

    Raises:
        LunExists: It is taken, or all are.
        OSError: As the system calls; none is taken.
    """
    created = True
    try:
        sys_.mkdir(NUMBERS, 0o700, dir_fd=root_fd)
    except FileExistsError:
        created = False
    fd = files.open_directory(sys_, NUMBERS, dir_fd=root_fd)
    claim = f"{identity.incarnation} {identity.name}\n".encode()
    try:
        if created:
            made(fd)
        for number in range(MAX_LUNS) if wanted is None else [wanted]:
            if number in taken:
                continue
            try:
                files.write_new(sys_, str(number), claim, dir_fd=fd, mode=mode)
            except FileExistsError:
                continue
            try:
                sys_.fsync(fd)
            except BaseException:
                files.discard(sys_, str(number), dir_fd=fd)
                raise
            return number
    finally:
        files.close_quietly(sys_, fd)
    if wanted is not None:
        raise LunExists(f"number {wanted} is taken", root, "choose another one")
    raise LunExists(f"all {MAX_LUNS} numbers are taken", root, "delete a LUN")
