"""Deleting a logical unit, so that neither a registration nor another LUN goes with it.

The deletion is a transaction first: decided on a state that has nobody registered, and taken
by compare-and-swap, so a registration that was answered GOOD meanwhile wins. Every daemon
that serves the LUN sees it and stops. Then the directory is renamed out of the way, and what
was renamed is looked at before it is removed: somebody may have created the name anew.
"""

from __future__ import annotations

import contextlib
import logging
import os

from flockpr.core.model import LogicalUnitState
from flockpr.errors import LunNotFound, PassedThrough, StateLost, StoreError
from flockpr.store import files
from flockpr.store.identity import LunIdentity
from flockpr.store.identity import read_identity as read_open_identity
from flockpr.store.layout import DELETED_PREFIX, IDENTITY, NUMBERS
from flockpr.store.listing import open_root, read_identity
from flockpr.store.opening import open_store
from flockpr.store.provision import event
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)


def delete_lun(
    root: str, name: str, *, force: bool = False, syscalls: Syscalls | None = None
) -> None:
    """Delete a LUN. A backing image is left alone.

    Args:
        root: The root directory.
        name: Of the LUN.
        force: Delete it although somebody is registered or holds a reservation.
        syscalls: Where the calls go.

    Raises:
        LunNotFound: There is none.
        StateLost: Another LUN of that name was created meanwhile; that one is left alone.
        StoreError: It is in use, or could not be deleted.
    """
    sys_ = syscalls or Syscalls()
    identity = read_identity(root, name, syscalls=sys_)
    # Deleted by a transaction before, and not removed: go on.
    with contextlib.suppress(LunNotFound, PassedThrough):
        _commit_deletion(os.path.join(root, name), identity, sys_, force=force)
    root_fd = open_root(sys_, root)
    try:
        _take_away(sys_, root_fd, root, identity)
        _free_number(sys_, root_fd, identity)
        sweep(sys_, root_fd)
    except OSError as error:
        raise files.unavailable(error, f"cannot remove the LUN {name}", root) from error
    finally:
        files.close_quietly(sys_, root_fd)


def _commit_deletion(path: str, identity: LunIdentity, sys_: Syscalls, *, force: bool) -> None:
    store = open_store(path, syscalls=sys_)
    try:
        if store.identity.incarnation != identity.incarnation:
            raise _created_anew(path)
        for _ in range(100):
            base = store.head()
            in_use = usage(base.state)
            if in_use and not force:
                raise StoreError(
                    in_use, path, "`flockpr status` shows by whom; --force deletes it anyway"
                )
            applied = event("DELETE", base.state.generation, door="cli")
            if store.commit(base, base.state, [applied], served=base.served, deleted=True):
                return
    finally:
        store.close()
    raise StoreError("others commit too quickly", path, f"try again to delete {identity.name}")


def usage(state: LogicalUnitState) -> str:
    """Who would lose something with the LUN, for people; "" if nobody."""
    if state.registrations:
        return f"in use: {len(state.registrations)} registered"
    return "in use: reserved" if state.spc2 is not None else ""


def _take_away(sys_: Syscalls, root_fd: int, root: str, identity: LunIdentity) -> None:
    """Rename the directory out of the way, and put it back if it was another LUN's."""
    trash = f"{DELETED_PREFIX}{identity.name}-{identity.incarnation}"
    if read_identity(root, identity.name, syscalls=sys_).incarnation != identity.incarnation:
        raise _created_anew(os.path.join(root, identity.name))
    sys_.rename(identity.name, trash, source_fd=root_fd, target_fd=root_fd)
    try:
        if not _may_go(sys_, root_fd, trash):
            raise _created_anew(os.path.join(root, identity.name))
    except BaseException:
        sys_.rename(trash, identity.name, source_fd=root_fd, target_fd=root_fd)
        raise
    sys_.fsync(root_fd)


def _created_anew(path: str) -> StateLost:
    return StateLost("another LUN of that name was created meanwhile", path, "look at it first")


def _free_number(sys_: Syscalls, root_fd: int, identity: LunIdentity) -> None:
    """Give the number back, whatever becomes of the rest, if it is still this LUN's."""
    claim = f"{NUMBERS}/{identity.lun}"
    with contextlib.suppress(OSError, StoreError):
        data = files.read_whole(sys_, claim, dir_fd=root_fd, most=4096)
        if data.startswith(identity.incarnation.encode()):
            files.discard(sys_, claim, dir_fd=root_fd)


def sweep(sys_: Syscalls, root_fd: int) -> None:
    """Remove what deletions have renamed out of the way; what resists is tried again with the
    next one. On NFS a directory stays as long as a process of this host has a file of it open.
    """
    for name in sys_.listdir(root_fd):
        if not name.startswith(DELETED_PREFIX):
            continue
        try:
            if _may_go(sys_, root_fd, name):
                # First of all: by it, a daemon that has the directory open tells a deletion
                # from a directory that is merely away, when commits are no longer legible.
                with contextlib.suppress(FileNotFoundError):
                    sys_.unlink(f"{name}/{IDENTITY}", dir_fd=root_fd)
                files.remove_tree(sys_, name, dir_fd=root_fd)
        except FileNotFoundError:
            continue
        except (OSError, StoreError) as error:
            log.warning("%s is not removed yet: %s", name, error)


def _may_go(sys_: Syscalls, root_fd: int, name: str) -> bool:
    """Whether it is the LUN that its name says, or the rest of one.

    Another deletion may have taken a LUN away by mistake, and be about to put it back.

    Raises:
        StoreError: That cannot be told.
    """
    lun, _, incarnation = name.removeprefix(DELETED_PREFIX).rpartition("-")
    fd = files.open_directory(sys_, name, dir_fd=root_fd)
    try:
        return read_open_identity(sys_, fd, lun, passed=True).incarnation == incarnation
    except LunNotFound:
        return True  # lun.json is gone already
    finally:
        files.close_quietly(sys_, fd)
