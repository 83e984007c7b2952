"""Creating, listing and deleting logical units in a root directory.

A LUN appears whole or not at all: its directory is built under another name and renamed
into place, which fails if the name is taken. Its number is claimed by creating a file.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import secrets
import socket
from collections.abc import Callable, Sequence

import attrs

from flockpr.core.model import LogicalUnitState
from flockpr.errors import ConfigError, LunExists, LunNotFound, StoreError
from flockpr.store import claims, files, images, publish
from flockpr.store.base import Applied, Snapshot
from flockpr.store.clock import utc_now
from flockpr.store.document import Document
from flockpr.store.encoding import encode
from flockpr.store.identity import (
    HELPER_PORT,
    PASSED_FORMAT,
    TARGET_PORT,
    LunIdentity,
    check_identity,
    check_lun_name,
    check_serial,
    check_wwid,
    encode_identity,
    new_naa,
    new_serial,
)
from flockpr.store.kinds import LOCKDIR, SQLITE, STORES
from flockpr.store.layout import (
    AUDIT,
    COMMITS,
    DATABASE,
    FORMAT,
    IDENTITY,
    JOURNAL,
    LOCKS,
    NEW_PREFIX,
    NUMBERS,
    commit_name,
)
from flockpr.store.listing import list_luns, open_root, read_identity
from flockpr.store.opening import open_store
from flockpr.store.syscalls import Syscalls

MAX_GID = (1 << 32) - 2
"""The one above means "leave as it is" to chown."""
_STAMP = b"flockpr lock file, format 1: lock bytes at 2^62 and up; these bytes are a hint\n"


def create_lun(
    root: str,
    name: str,
    *,
    group: str | None = None,
    image: str | None = None,
    wwids: Sequence[str] = (),
    serial: str | None = None,
    lun: int | None = None,
    size: int | None = None,
    fill: Callable[[int], None] | None = None,
    target_ports: Sequence[int] = (),
    store: str = LOCKDIR,
    passed: bool = False,
    syscalls: Syscalls | None = None,
) -> LunIdentity:
    """Create a logical unit, with `size` its image as well; the root too, if only it is missing.

    A crash leaves no LUN, at the worst an image that is nobody's.

    Args:
        root: The root directory.
        name: Of the LUN; becomes the name of its directory.
        group: Group that may use it besides the owner (name or number).
        image: Backing image, relative to the root. Without `size` it need not be there yet;
            with `size` it is made, or is there and has that size. None with `size`:
            images/NAME.img, which must not be there.
        wwids: Identifiers of devices that are this LUN.
        serial: Unit serial number; random if not given.
        lun: Logical unit number; the lowest free one if not given.
        size: Bytes of the image, a multiple of 512.
        fill: Called with a descriptor of the new image before there is a LUN.
        target_ports: Relative target port identifiers beside the helper door's and, for a LUN
            with an image, that of the first portal.
        store: What keeps its transactions: "lockdir", files in a directory, or "sqlite", a
            database, on a file system of one host.
        passed: Mark it as a disk whose commands go to the device on every host.
        syscalls: Where the calls go.

    Raises:
        ConfigError: An argument is not valid.
        LunExists: The name, the number, the image or a device identifier is taken.
        StoreError: Input or output failed; nothing is left of the LUN.
    """
    sys_ = syscalls or Syscalls()
    check_lun_name(name)
    if store not in STORES:
        raise ConfigError(f"{store!r} is no store: {' or '.join(STORES)}")
    if passed and store != LOCKDIR:
        raise ConfigError("a LUN that is passed through has no transactions to keep: no store")
    gid = _group(group)
    wanted = None if size is None else _wanted(name, image, size, fill)
    if image is not None:
        image = images.normal_image(image)
    elif wanted is not None:
        image = wanted.path
    identity = LunIdentity(
        name=name,
        incarnation=secrets.token_hex(16),
        naa=new_naa(),
        serial=new_serial() if serial is None else check_serial(serial),
        lun=claims.MAX_LUNS - 1 if lun is None else lun,  # the longest, until one is claimed
        created=utc_now(),
        wwids=tuple(check_wwid(wwid) for wwid in wwids),
        image=image,
        target_ports=_ports(target_ports, with_image=image is not None),
        passed=passed,
        format=PASSED_FORMAT if passed else FORMAT,
    )
    check_identity(identity)
    root_fd = _open_or_make(sys_, root, gid)
    try:
        if store == SQLITE:
            _check_place(sys_, root_fd, root)
        if image is not None:
            images.check_place(sys_, root_fd, root, image, name)
        others = _check_claims(sys_, root_fd, root, identity)
        number = claims.claim_number(
            sys_,
            root_fd,
            root,
            identity,
            wanted=lun,
            taken={other.lun for other in others},
            mode=_mode(gid),
            made=lambda fd: _share(sys_, fd, gid),
        )
        identity = attrs.evolve(identity, lun=number)
        made = False
        try:
            _check_free(sys_, root_fd, root, name)
            # The image first: a LUN without its image could not be served, and an image
            # without a LUN harms nobody.
            made = wanted is not None and images.provide(sys_, root_fd, root, wanted, gid)
            _build(sys_, root_fd, root, identity, gid=gid, store=store)
            _check_claims(
                sys_, root_fd, root, identity
            )  # of two that came at once, neither saw the other
        except BaseException:
            _withdraw(sys_, root_fd, root, identity, image=made)
            raise
    except OSError as error:
        raise files.unavailable(error, f"cannot create the LUN {name}", root) from error
    finally:
        files.close_quietly(sys_, root_fd)
    return identity


def _wanted(
    name: str, image: str | None, size: int, fill: Callable[[int], None] | None
) -> images.Wanted:
    path = images.default_image(name) if image is None else images.normal_image(image)
    size = images.check_size(size)
    return images.Wanted(path=path, size=size, named=image is not None, fill=fill)


def _ports(extra: Sequence[int], *, with_image: bool) -> tuple[int, ...]:
    """The helper door's, the first portal's where there is something to serve, and the rest."""
    first = (HELPER_PORT, TARGET_PORT) if with_image else (HELPER_PORT,)
    return tuple(dict.fromkeys((*first, *extra)))


def upgrade_lun(root: str, name: str, *, syscalls: Syscalls | None = None) -> tuple[int, int]:
    """Let the daemons of one LUN write the newest format, once all of them read it.

    Returns:
        The format that was written before, and the one that is written now.

    Raises:
        LunNotFound: There is no such LUN.
        Busy: A live daemon does not read the newest format; nothing was done.
        StoreError: See `Store.commit`.
    """
    read_identity(root, name, syscalls=syscalls)
    store = open_store(os.path.join(root, name), syscalls=syscalls)
    try:
        before = store.format()
        generation = store.head().state.generation
        return before, store.upgrade(event("UPGRADE", generation, door="cli"))
    finally:
        store.close()


def event(action: str, generation: int, *, door: str, after: int | None = None) -> Applied:
    """The audit line of something that is no SCSI command."""
    return Applied(
        nexus="",
        target_port=0,
        action=action,
        opcode=None,
        key=None,
        service_action_key=None,
        type=None,
        status=0,
        generation_before=generation,
        generation_after=generation if after is None else after,
        door=door,
        time=utc_now(),
    )


# --------------------------------------------------------------------------- steps


def _group(group: str | None) -> int | None:
    if group is None:
        return None
    if group.isascii() and group.isdigit():
        gid = int(group)
        if gid > MAX_GID:
            raise ConfigError(f"{group} is no number of a group")
        return gid
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"there is no group {group!r} on this host") from None


def _open_or_make(sys_: Syscalls, root: str, gid: int | None) -> int:
    """A descriptor of the root directory, which is made if only it is missing.

    Raises:
        StoreError: It cannot be opened or made.
    """
    with contextlib.suppress(LunNotFound):
        return open_root(sys_, root)
    try:
        files.make_directories(sys_, root)
        fd = sys_.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise files.unavailable(error, "cannot be created", root) from error
    try:
        _share(sys_, fd, gid)
    except OSError as error:
        files.close_quietly(sys_, fd)
        raise files.unavailable(error, "cannot be created", root) from error
    return fd


def _share(sys_: Syscalls, fd: int, gid: int | None) -> None:
    """0700, or with a group 02770: set-group-id, so that what others create is shared too."""
    if gid is not None:
        sys_.fchown(fd, -1, gid)
    sys_.fchmod(fd, 0o700 if gid is None else 0o2770)


def _check_claims(
    sys_: Syscalls, root_fd: int, root: str, identity: LunIdentity
) -> list[LunIdentity]:
    """The LUNs that are there, none of which has the device or the image."""
    found = [listing.identity for listing in list_luns(root, syscalls=sys_, passed=True)]
    others = [other for other in found if other is not None]
    claims.check_claims(sys_, root_fd, root, identity, others)
    return others


def _mode(gid: int | None) -> int:
    return 0o600 if gid is None else 0o660


def _check_place(sys_: Syscalls, root_fd: int, root: str) -> None:
    from flockpr.store.sqlite import check_place

    check_place(sys_, root_fd, root)


def _build(
    sys_: Syscalls,
    root_fd: int,
    root: str,
    identity: LunIdentity,
    *,
    gid: int | None,
    store: str,
) -> None:
    """The whole directory under a passing name, then one rename."""
    scratch = _scratch(identity)
    sys_.mkdir(scratch, 0o700, dir_fd=root_fd)
    _fill(sys_, root_fd, os.path.join(root, scratch), identity, gid=gid, store=store)
    _check_free(sys_, root_fd, root, identity.name)  # rename would replace an empty directory
    try:
        sys_.rename(scratch, identity.name, source_fd=root_fd, target_fd=root_fd)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise _taken(root, identity.name) from None
        raise
    sys_.fsync(root_fd)


def _check_free(sys_: Syscalls, root_fd: int, root: str, name: str) -> None:
    if files.exists(sys_, name, dir_fd=root_fd):
        raise _taken(root, name)


def _taken(root: str, name: str) -> LunExists:
    return LunExists(f"{name} is taken", root, "choose another name, or delete it first")


def _scratch(identity: LunIdentity) -> str:
    return f"{NEW_PREFIX}{identity.incarnation}"


def _withdraw(
    sys_: Syscalls, root_fd: int, root: str, identity: LunIdentity, *, image: bool
) -> None:
    """Remove what `_build` left behind when it failed: nothing, all or any part; and the image,
    if it was made for this LUN.

    The image goes and the number becomes free only if all the rest is gone: a LUN without its
    image, or two LUNs of one number, are worse than a file or a number lost.
    """
    scratch = _scratch(identity)
    with contextlib.suppress(OSError):
        with contextlib.suppress(StoreError):
            # A rename that failed may have been done all the same.
            if read_identity(root, identity.name, syscalls=sys_) == identity:
                sys_.rename(identity.name, scratch, source_fd=root_fd, target_fd=root_fd)
        with contextlib.suppress(FileNotFoundError):
            files.remove_tree(sys_, scratch, dir_fd=root_fd)
        if image and identity.image is not None:
            sys_.unlink(identity.image, dir_fd=root_fd)
        sys_.unlink(f"{NUMBERS}/{identity.lun}", dir_fd=root_fd)


def _fill(
    sys_: Syscalls,
    root_fd: int,
    path: str,
    identity: LunIdentity,
    *,
    gid: int | None,
    store: str,
) -> None:
    lun_fd = files.open_directory(sys_, os.path.basename(path), dir_fd=root_fd)
    try:
        _share(sys_, lun_fd, gid)
        mode = _mode(gid)
        files.write_new(sys_, IDENTITY, encode_identity(identity), dir_fd=lun_fd, mode=mode)
        files.write_new(sys_, LOCKS, _STAMP, dir_fd=lun_fd, mode=mode)
        first = first_document(identity)
        if store == SQLITE:
            from flockpr.store.database import create_database

            truth = DATABASE
            files.write_new(sys_, DATABASE, b"", dir_fd=lun_fd, mode=mode)
            create_database(f"{path}/{DATABASE}", first)
        else:
            truth = COMMITS
            contents = {commit_name(1): encode(first)}
            _make_directory(sys_, lun_fd, COMMITS, contents, gid)
            _make_directory(sys_, lun_fd, AUDIT, {}, gid)
        _make_directory(sys_, lun_fd, JOURNAL, {}, gid)
        publish.publish(sys_, lun_fd, identity, first, truth=truth, daemon="new", mode=mode)
        sys_.fsync(lun_fd)
    finally:
        files.close_quietly(sys_, lun_fd)


def _make_directory(
    sys_: Syscalls, lun_fd: int, name: str, contents: dict[str, bytes], gid: int | None
) -> None:
    sys_.mkdir(name, 0o700, dir_fd=lun_fd)
    fd = files.open_directory(sys_, name, dir_fd=lun_fd)
    try:
        _share(sys_, fd, gid)
        for file, data in contents.items():
            files.write_new(sys_, file, data, dir_fd=fd, mode=_mode(gid))
        sys_.fsync(fd)
    finally:
        files.close_quietly(sys_, fd)


def first_document(identity: LunIdentity) -> Document:
    """Transaction 1: nothing registered, nothing reserved."""
    daemon = secrets.token_hex(16)
    txid = secrets.token_hex(16)
    snapshot = Snapshot(
        number=1,
        txid=txid,
        state=LogicalUnitState(),
        served={},
        time=identity.created,
        host=socket.gethostname(),
        daemon=daemon,
    )
    applied = (event("CREATE", 0, door="cli"),)
    return Document(identity.incarnation, "", snapshot, applied, {daemon: (1, txid)}, 0)
