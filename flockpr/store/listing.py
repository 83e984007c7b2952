"""The logical units of a root, and what identifies each; the state of none is read."""

from __future__ import annotations

import contextlib
import os
import stat

import attrs

from flockpr.errors import LunNotFound, StateUnreadable, StoreError
from flockpr.store import files
from flockpr.store.identity import LunIdentity, check_lun_name
from flockpr.store.identity import read_identity as _read_identity
from flockpr.store.layout import LUN_NAME
from flockpr.store.syscalls import Syscalls


@attrs.frozen
class LunListing:
    """One entry of a root: its identity, or why it has none."""

    name: str
    identity: LunIdentity | None
    error: StoreError | None = None


def list_luns(
    root: str, *, syscalls: Syscalls | None = None, passed: bool = False
) -> list[LunListing]:
    """All LUNs of a root by name, unreadable ones too.

    Args:
        root: The root.
        syscalls: Where the calls go.
        passed: Those as well that are passed through.

    Raises:
        StoreError: The root itself cannot be read.
    """
    sys_ = syscalls or Syscalls()
    root_fd = open_root(sys_, root)
    try:
        names = sorted(name for name in sys_.listdir(root_fd) if LUN_NAME.fullmatch(name))
        listings = (_listing(sys_, root_fd, root, name) for name in names)
        return [
            listing
            for listing in listings
            if listing is not None
            and (passed or listing.identity is None or not listing.identity.passed)
        ]
    except OSError as error:
        raise files.unavailable(error, "cannot be listed", root) from error
    finally:
        files.close_quietly(sys_, root_fd)


def _listing(sys_: Syscalls, root_fd: int, root: str, name: str) -> LunListing | None:
    """One entry; None for something else than a LUN, an image's folder say."""
    try:
        return LunListing(name, read_identity(root, name, syscalls=sys_))
    except LunNotFound:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISLNK(sys_.stat(name, dir_fd=root_fd).st_mode):
                # It may have been meant as a LUN, and would be one under two names.
                path = os.path.join(root, name)
                error = StateUnreadable("is a symbolic link", path, "move the directory here")
                return LunListing(name, None, error)
        return None
    except StoreError as error:
        return LunListing(name, None, error)


def read_identity(root: str, name: str, *, syscalls: Syscalls | None = None) -> LunIdentity:
    """The identity of one LUN, also of one that is passed through.

    Raises:
        LunNotFound: There is none of that name.
        StoreError: It cannot be read.
    """
    sys_ = syscalls or Syscalls()
    check_lun_name(name)
    path = os.path.join(root, name)
    try:
        fd = files.open_directory(sys_, path)
    except (FileNotFoundError, NotADirectoryError):
        raise LunNotFound(
            f"there is no LUN {name}", root, f"`flockpr lun list --root {root}` shows what exists"
        ) from None
    except OSError as error:
        raise files.unavailable(error, "cannot be opened", path) from error
    try:
        return _read_identity(sys_, fd, path, passed=True)
    finally:
        files.close_quietly(sys_, fd)


def open_root(sys_: Syscalls, root: str) -> int:
    """A descriptor of the root directory.

    Raises:
        LunNotFound: It does not exist.
        StoreError: It cannot be opened.
    """
    try:
        return sys_.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise LunNotFound(
            "this root does not exist",
            root,
            "name another with --root or FLOCKPR_ROOT, or mount the share that it is on; "
            "a new root is made by `flockpr lun create`",
        ) from None
    except OSError as error:
        raise files.unavailable(error, "cannot be opened", root) from error
