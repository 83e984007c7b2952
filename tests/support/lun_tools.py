"""Small tools for tests of lock directories: sense codes, trees, commits, upkeep at once."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator

from flockpr.core.model import Nexus
from flockpr.logical_unit import LogicalUnit, Result
from flockpr.spc.codes import Status
from flockpr.store.directory import LunDirectory
from flockpr.store.provision import event
from tests.support.scsi import REGISTER, basic_list, out_cdb

Triple = tuple[int, int, int]
UNKNOWN: Triple = (0x0B, 0x08, 0x01)
NO_LUN: Triple = (0x05, 0x25, 0x00)
BECOMING: Triple = (0x02, 0x04, 0x01)
INTERVENTION: Triple = (0x02, 0x04, 0x03)
LOST: Triple = (0x07, 0x44, 0x01)


def sense_of(result: Result) -> Triple | None:
    """Key, ASC and ASCQ of CHECK CONDITION; None for any other status."""
    if result.status != Status.CHECK_CONDITION:
        assert result.sense == b""
        return None
    assert len(result.sense) == 18
    return result.sense[2] & 0xF, result.sense[12], result.sense[13]


def register(unit: LogicalUnit, of: Nexus, key: int, own: int = 0) -> Result:
    """REGISTER."""
    return unit.execute(of, out_cdb(REGISTER), basic_list(own, key), report_attentions=False)


def directory_of(unit: LogicalUnit) -> LunDirectory:
    """The store of a logical unit, with what the directories of all stores have."""
    assert isinstance(unit._store, LunDirectory)
    return unit._store


def append(store: LunDirectory, count: int = 1) -> None:
    """Commit transactions that change nothing, each with an audit line of its number."""
    for _ in range(count):
        base = store.head()
        line = event(f"TEST {base.number + 1}", base.state.generation, door="api")
        assert store.commit(base, base.state, [line], served={}) is not None


def tidy_now(store: LunDirectory) -> None:
    """Upkeep without waiting for its time, as if the head had been seen for ages."""
    store._next_upkeep = 0.0
    store._seen.clear()
    store.tidy()


def tree(path: str) -> dict[str, bytes | str]:
    """All below a path: contents of files, targets of links, kinds of the rest."""
    found: dict[str, bytes | str] = {}
    for where, directories, names in os.walk(path):
        for name in (*directories, *names):
            full = os.path.join(where, name)
            mode = os.lstat(full).st_mode
            if stat.S_ISREG(mode):
                with open(full, "rb") as file:
                    found[os.path.relpath(full, path)] = file.read()
            elif stat.S_ISLNK(mode):
                found[os.path.relpath(full, path)] = os.readlink(full)
            else:
                found[os.path.relpath(full, path)] = stat.filemode(mode)
    return found


@contextlib.contextmanager
def open_to_all() -> Iterator[str]:
    """A directory that other users can pass through, unlike pytest's own."""
    path = tempfile.mkdtemp(prefix="flockpr-")
    try:
        os.chmod(path, 0o755)
        yield path
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def as_user(uid: int, gid: int) -> Iterator[None]:
    """Be another user for file access; only root can."""
    groups, old_gid, old_uid = os.getgroups(), os.getegid(), os.geteuid()
    os.setgroups([])
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(old_uid)
        os.setegid(old_gid)
        os.setgroups(groups)
