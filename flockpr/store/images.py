"""The image of a logical unit as a file: where it lies, how it is made, copied and made larger.

What a guest wrote is never touched here by accident: a new image appears only under a name that
is free, sizes only go up, and what is taken over has to be a plain file that fits. Who may write
to an image at the moment is a question for `flockpr.block.upkeep`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import Callable

import attrs

from flockpr.errors import ConfigError, LunExists, StateUnreadable
from flockpr.store import files
from flockpr.store.identity import LunIdentity, check_image
from flockpr.store.layout import IDENTITY, LOCK_BASE
from flockpr.store.syscalls import Syscalls

FOLDER = "images"
"""Directory of the images that nobody gave another path, in the root."""
BLOCK = 512
"""Bytes of a logical block: an image holds whole ones."""
MAX_SIZE = LOCK_BASE
"""Bytes from here on are for locks only."""
_OTHER_PATH = "give the image another path with --image"
_CHUNK = 64 << 20
_READ = 1 << 20
_NO_REFLINK = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ETXTBSY}
)
"""What a file system answers that cannot do it, or not for these two files."""


def default_image(name: str) -> str:
    """Path of the image that a LUN of this name has unless it says another."""
    return f"{FOLDER}/{name}.img"


def normal_image(image: str) -> str:
    """One spelling for each path inside the root, so that two of them can be compared.

    Raises:
        ConfigError: It is no path inside the root.
    """
    normal = posixpath.normpath(check_image(image))
    if normal == ".":
        raise ConfigError(f"{image!r} is the root itself and no image")
    return normal


def check_size(size: int) -> int:
    """A size in bytes, if an image can have it.

    Raises:
        ConfigError: It is not a positive multiple of 512, or too large.
    """
    if size <= 0 or size % BLOCK:
        raise ConfigError(f"{size} is no size for an image: a positive multiple of {BLOCK} bytes")
    if size > MAX_SIZE:
        raise ConfigError(f"{size} bytes is no size for an image: at most {MAX_SIZE}")
    return size


def image_path(root: str, identity: LunIdentity) -> str:
    """Path of a LUN's image.

    Raises:
        ConfigError: The LUN has none.
    """
    if identity.image is None:
        raise ConfigError(
            f"the LUN {identity.name} has no image",
            "`flockpr lun create --size` makes LUN and image",
        )
    return os.path.join(root, identity.image)


def image_size(root: str, identity: LunIdentity, *, syscalls: Syscalls | None = None) -> int:
    """Bytes of a LUN's image.

    Raises:
        ConfigError: The LUN has none.
        StoreError: It cannot be looked at, or is no regular file.
    """
    sys_ = syscalls or Syscalls()
    path = image_path(root, identity)
    fd = open_image(sys_, path, os.O_RDONLY)
    try:
        return sys_.fstat(fd).st_size
    finally:
        files.close_quietly(sys_, fd)


def open_image(sys_: Syscalls, path: str, flags: int) -> int:
    """A descriptor of an image, which is a regular file and no symbolic link.

    Raises:
        StoreError: It cannot be opened, or something else stands in its place.
    """
    try:
        fd = sys_.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise files.unavailable(
                error, "the image is missing", path, "mount what it is on, or restore it"
            ) from error
        raise files.unavailable(error, "the image cannot be opened", path) from error
    try:
        if stat.S_ISREG(sys_.fstat(fd).st_mode):
            return fd
    except OSError as error:
        files.close_quietly(sys_, fd)
        raise files.unavailable(error, "the image cannot be opened", path) from error
    files.close_quietly(sys_, fd)
    raise StateUnreadable("the image is no regular file", path, "name another one")


def check_usable(root: str, image: str, *, syscalls: Syscalls | None = None) -> int:
    """Size of a file that is to become an image as it is.

    Raises:
        ConfigError: Its path leaves the root, or its size is none for an image.
        StoreError: It is missing, or no regular file.
    """
    sys_ = syscalls or Syscalls()
    path = os.path.join(root, normal_image(image))
    fd = open_image(sys_, path, os.O_RDWR)
    try:
        return check_size(sys_.fstat(fd).st_size)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}", "`truncate --size` makes a file longer") from None
    finally:
        files.close_quietly(sys_, fd)


def same_file(sys_: Syscalls, root_fd: int, one: str, other: str) -> bool:
    """Whether two paths in the root are one image: by spelling, or because both are there and
    are the same file.
    """
    if posixpath.normpath(one) == posixpath.normpath(other):
        return True
    try:
        found = [sys_.stat(path, dir_fd=root_fd) for path in (one, other)]
    except OSError:
        return False
    return (found[0].st_dev, found[0].st_ino) == (found[1].st_dev, found[1].st_ino)


def check_place(sys_: Syscalls, root_fd: int, root: str, image: str, name: str) -> None:
    """See that an image lies where nothing of ours does: a lock directory is for locks.

    Args:
        sys_: Where the calls go.
        root_fd: The root.
        root: Its path, for messages.
        image: In its normal spelling.
        name: Of the LUN that is to have it.

    Raises:
        ConfigError: It lies in a hidden directory, or where the LUN itself will be.
        LunExists: It lies in a lock directory.
    """
    folders = image.split("/")[:-1]
    if image.startswith(".") or image.split("/", maxsplit=1)[0] == name:
        raise ConfigError(f"{image!r} is no place for the image of the LUN {name}", _OTHER_PATH)
    for depth in range(1, len(folders) + 1):
        folder = "/".join(folders[:depth])
        with contextlib.suppress(NotADirectoryError):  # told by whoever opens the image
            if files.exists(sys_, f"{folder}/{IDENTITY}", dir_fd=root_fd):
                raise LunExists(f"{folder} is a LUN's lock directory", root, _OTHER_PATH)


@attrs.frozen(kw_only=True)
class Wanted:
    """An image that a new LUN is to have.

    Attributes:
        path: Relative to the root, in its normal spelling.
        size: Bytes.
        named: Somebody named this very path, so that a file that is there is meant.
        fill: Called with the descriptor of the new image; whatever it writes is there before
            the LUN is.
    """

    path: str
    size: int
    named: bool = False
    fill: Callable[[int], None] | None = None


def provide(sys_: Syscalls, root_fd: int, root: str, wanted: Wanted, gid: int | None) -> bool:
    """Make an image, or take over the one of exactly this size that somebody named.

    Args:
        sys_: Where the calls go.
        root_fd: The root.
        root: Its path, for messages.
        wanted: Which image.
        gid: Group that shares it, or None.

    Returns:
        Whether it was made, so that it goes if the LUN cannot be made.

    Raises:
        LunExists: There is a file that was not meant, or that has another size.
        StoreError: Anything else stands there.
        OSError: As the system calls; no new image is left.
    """
    path = wanted.path
    _make_folder(sys_, root_fd, posixpath.dirname(path), gid)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        fd = sys_.open(path, flags, dir_fd=root_fd)
    except FileExistsError:
        _take_over(sys_, os.path.join(root, path), wanted)
        return False
    try:
        try:
            _share(sys_, fd, gid, 0o600 if gid is None else 0o660)
            sys_.truncate(fd, wanted.size)
            if wanted.fill is not None:
                wanted.fill(fd)
            sys_.fsync(fd)
        finally:
            sys_.close(fd)
        _sync_folder(sys_, root_fd, path)
    except BaseException:
        files.discard(sys_, path, dir_fd=root_fd)
        raise
    return True


def _take_over(sys_: Syscalls, full: str, wanted: Wanted) -> None:
    """Whether the file that stands there may become the LUN's image, untouched."""
    if not wanted.named:
        raise LunExists(
            "there is a file where the image would be made",
            full,
            f"--image {wanted.path} takes it as it is; or look what it is and remove it",
        )
    if wanted.fill is not None:
        raise LunExists("there is a file already", full, _OTHER_PATH)
    fd = open_image(sys_, full, os.O_RDWR)
    try:
        found = sys_.fstat(fd).st_size
    finally:
        files.close_quietly(sys_, fd)
    if found != wanted.size:
        raise LunExists(
            f"there is an image of {found} bytes, not of {wanted.size}",
            full,
            "leave --size out to take it as it is; `flockpr lun grow` makes it larger afterwards",
        )


def _make_folder(sys_: Syscalls, root_fd: int, folder: str, gid: int | None) -> None:
    """Make the directories of an image, shared as the root is."""
    path = ""
    for part in filter(None, folder.split("/")):
        path = posixpath.join(path, part)
        try:
            sys_.mkdir(path, 0o700, dir_fd=root_fd)
        except FileExistsError:
            continue
        fd = files.open_directory(sys_, path, dir_fd=root_fd)
        try:
            _share(sys_, fd, gid, 0o700 if gid is None else 0o2770)
        finally:
            files.close_quietly(sys_, fd)
        _sync_folder(sys_, root_fd, path)


def _share(sys_: Syscalls, fd: int, gid: int | None, mode: int) -> None:
    if gid is not None:
        sys_.fchown(fd, -1, gid)
    sys_.fchmod(fd, mode)


def _sync_folder(sys_: Syscalls, root_fd: int, path: str) -> None:
    """Make a name durable."""
    folder = posixpath.dirname(path) or "."
    fd = sys_.open(folder, os.O_RDONLY | os.O_DIRECTORY, dir_fd=root_fd)
    try:
        sys_.fsync(fd)
    finally:
        files.close_quietly(sys_, fd)


def reflink(sys_: Syscalls, source: int, target: int) -> bool:
    """Let `target` share all blocks of `source`, which takes no time and is one moment's state.

    Returns:
        Whether the file system can do that for these two files.

    Raises:
        OSError: It can, and it failed.
    """
    try:
        sys_.clone(source, target)
    except OSError as error:
        if error.errno in _NO_REFLINK:
            return False
        raise
    return True


def copy(sys_: Syscalls, source: int, target: int, size: int) -> None:
    """Copy what is in `source` into the empty `target`; holes stay holes.

    Raises:
        OSError: As the system calls; ESTALE when the source became shorter.
    """
    place = 0
    while place < size:
        try:
            start = sys_.seek(source, place, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole up to the end
            if error.errno != errno.EINVAL:
                raise
            start, place = place, size  # no holes are known here
        else:
            place = min(size, sys_.seek(source, start, os.SEEK_HOLE))
        _copy_range(sys_, source, target, start, place)


def _copy_range(sys_: Syscalls, source: int, target: int, start: int, end: int) -> None:
    """Copy a range, by the file system where it can."""
    in_kernel = True
    while start < end:
        length = min(_CHUNK, end - start)
        if in_kernel:
            try:
                done = sys_.copy_range(source, target, length, start)
            except OSError as error:
                if error.errno not in _NO_REFLINK:
                    raise
                in_kernel = False
                continue
        else:
            data = sys_.pread(source, min(length, _READ), start)
            done = sys_.pwrite(target, data, start) if data else 0
        if not done:
            raise OSError(errno.ESTALE, "the image became shorter while it was copied")
        start += done
