"""Creating, listing and deleting logical units: whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from flockpr import LogicalUnit, Status
from flockpr.errors import ConfigError, LunExists, LunNotFound, StateUnreadable, StoreError
from flockpr.store.listing import list_luns, read_identity
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from flockpr.store.removal import delete_lun
from flockpr.store.syscalls import Syscalls
from flockpr.units import Units
from tests.support.scsi import REGISTER, RESERVE_6, TEST_UNIT_READY, A, basic_list, in_cdb, out_cdb

NO_LUN = (5, 0x25, 0)


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A root that does not exist yet."""
    return str(tmp_path / "deep" / "root")


def modes(directory: str) -> dict[str, int]:
    """The permission bits of everything below a directory, and of it itself as "."."""
    result = {".": stat.S_IMODE(os.lstat(directory).st_mode)}
    for where, directories, names in os.walk(directory):
        for name in (*directories, *names):
            path = os.path.join(where, name)
            result[os.path.relpath(path, directory)] = stat.S_IMODE(os.lstat(path).st_mode)
    return result


def use(path: str) -> None:
    """Leave commits, a journal and a segment of the audit trail behind."""
    store = LockDirectory(path, keep=2, segment=2, settle=0)
    unit = LogicalUnit(store)
    for key in range(1, 9):
        unit.execute(A, out_cdb(REGISTER), basic_list(key - 1, key))
        store._next_upkeep = 0
        store._seen.clear()
        unit.tidy()
    unit.execute(A, out_cdb(REGISTER), basic_list(99, 1))
    unit.close()


# --------------------------------------------------------------------------- creating


def test_create_makes_a_directory_of_its_owner_alone(root: str) -> None:
    """0700 and 0600, whatever the umask, and later files as well."""
    old = os.umask(0)
    try:
        create_lun(root, "disk")
        use(f"{root}/disk")
    finally:
        os.umask(old)

    found = modes(root)
    assert {name for name, mode in found.items() if mode == 0o700} == {
        ".",
        ".numbers",
        "disk",
        "disk/commits",
        "disk/audit",
        "disk/journal",
    }
    files = {name: mode for name, mode in found.items() if mode != 0o700}
    assert {"disk/lun.json", "disk/locks", "disk/registry.json", ".numbers/0"} <= set(files)
    assert any(name.startswith("disk/audit/") for name in files)
    assert any(name.startswith("disk/journal/") for name in files)
    assert set(files.values()) == {0o600}


def test_create_with_a_group_shares_everything_with_it(root: str) -> None:
    """02770 and 0660, although the umask is strict, so that another user can go on."""
    gid = 54321 if os.geteuid() == 0 else os.getegid()
    old = os.umask(0o077)
    try:
        create_lun(root, "disk", group=str(gid))
        use(f"{root}/disk")
    finally:
        os.umask(old)

    found = modes(root)
    directories = {name for name, mode in found.items() if mode & 0o100}
    assert directories == {
        ".",
        ".numbers",
        "disk",
        "disk/commits",
        "disk/audit",
        "disk/journal",
    }
    assert {found[name] for name in directories} == {0o2770}
    assert {mode for name, mode in found.items() if name not in directories} == {0o660}
    assert {os.lstat(os.path.join(root, name)).st_gid for name in found} == {gid}


def test_create_makes_what_can_be_read_at_once(root: str) -> None:
    """Empty state, number 1, a view, and an audit line."""
    identity = create_lun(root, "disk", image="a/b.raw", wwids=["naa.6"], serial="S")

    assert read_identity(root, "disk") == identity
    with LogicalUnit.open(f"{root}/disk") as unit:
        status = unit.status().to_json()
        assert (status["number"], status["published"], status["registrations"]) == (1, 1, [])
        assert [record.applied.action for record in unit.history()] == ["CREATE"]


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "x" * 65, "a\n", "é"])
def test_create_with_a_wrong_name_makes_nothing(root: str, name: str) -> None:
    """Refused before anything is touched."""
    for call in (create_lun, read_identity, delete_lun):
        with pytest.raises(ConfigError, match="is no name"):
            call(root, name)
    assert not os.path.exists(root)


@pytest.mark.parametrize(
    "options",
    [
        {"serial": ""},
        {"serial": "x" * 253},
        {"image": "../up"},
        {"image": "/abs"},
        {"image": "x" * 4097},
        {"wwids": [""]},
        {"wwids": ["a b"]},
        {"wwids": [f"naa.{n}" for n in range(257)]},
        {"wwids": [f"{n:0512d}" for n in range(200)]},
        {"lun": -1},
        {"lun": 16384},
        {"group": "no-such-group"},
        {"group": ""},
        {"group": "\u00b2"},
        {"group": str(1 << 32)},
        {"group": str((1 << 32) - 1)},
    ],
    ids=str,
)
def test_create_of_what_nobody_could_read_makes_nothing(root: str, options: dict[str, Any]) -> None:
    """What `lun.json` cannot hold is a wrong argument, not a LUN that nobody can open."""
    with pytest.raises(ConfigError):
        create_lun(root, "disk", **options)
    assert not os.path.exists(root)


def test_create_of_a_taken_name_changes_nothing(root: str) -> None:
    """The one that is there stays as it is, and no number is used up."""
    create_lun(root, "disk")
    before = {name: os.lstat(f"{root}/disk/{name}").st_mtime_ns for name in modes(f"{root}/disk")}

    with pytest.raises(LunExists, match="disk is taken"):
        create_lun(root, "disk")

    after = {name: os.lstat(f"{root}/disk/{name}").st_mtime_ns for name in modes(f"{root}/disk")}
    assert after == before
    assert sorted(os.listdir(root)) == [".numbers", "disk"]
    assert create_lun(root, "next").lun == 1


@pytest.mark.parametrize("kind", ["file", "empty directory", "symlink"])
def test_create_in_the_place_of_something_else_leaves_it(root: str, kind: str) -> None:
    """An image of that name, say; a rename would replace an empty directory silently."""
    os.makedirs(root)
    path = f"{root}/disk"
    if kind == "file":
        Path(path).write_text("an image")
    elif kind == "symlink":
        os.symlink("/nowhere", path)
    else:
        os.mkdir(path)
    before = os.lstat(path)

    with pytest.raises(LunExists):
        create_lun(root, "disk")

    assert os.lstat(path).st_ino == before.st_ino
    assert os.listdir(f"{root}/.numbers") == []


def test_create_gives_each_lun_the_lowest_free_number(root: str) -> None:
    """Unique in the root, and used again after a deletion."""
    assert [create_lun(root, name).lun for name in "abc"] == [0, 1, 2]
    assert create_lun(root, "ten", lun=10).lun == 10
    with pytest.raises(LunExists, match="number 10 is taken"):
        create_lun(root, "eleven", lun=10)

    delete_lun(root, "b")

    assert create_lun(root, "d").lun == 1
    assert create_lun(root, "e").lun == 3
    assert sorted(listing.name for listing in list_luns(root)) == ["a", "c", "d", "e", "ten"]


def test_create_of_one_name_by_many_at_once_succeeds_once(root: str) -> None:
    """One gets it, the others are told; nothing else is left."""
    os.makedirs(root)
    start = threading.Barrier(6)
    results: list[object] = []

    def create() -> None:
        start.wait(60)
        try:
            results.append(create_lun(root, "disk"))
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    made = [result for result in results if not isinstance(result, LunExists)]
    assert made == [read_identity(root, "disk")]
    assert len(results) == 6
    assert sorted(os.listdir(root)) == [".numbers", "disk"]
    assert os.listdir(f"{root}/.numbers") == [str(read_identity(root, "disk").lun)]


def test_create_of_many_at_once_gives_each_its_own_number(root: str) -> None:
    """Numbers and identifiers are unique."""
    start = threading.Barrier(6)
    errors: list[Exception] = []

    def create(name: str) -> None:
        start.wait(60)
        try:
            create_lun(root, name)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=create, args=(name,)) for name in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert errors == []
    identities = [read_identity(root, name) for name in "abcdef"]
    assert {identity.lun for identity in identities} == set(range(6))
    assert len({identity.naa for identity in identities}) == 6
    assert len({identity.incarnation for identity in identities}) == 6


class _Full(Syscalls):
    """A file system on which the n-th file cannot be written."""

    def __init__(self, after: int) -> None:
        self.left = after

    def write(self, fd: int, data: bytes) -> int:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "full")
        return super().write(fd, data)


@pytest.mark.parametrize("after", range(5))
def test_create_that_fails_leaves_nothing(root: str, after: int) -> None:
    """Neither a directory nor a number, wherever it fails."""
    with pytest.raises(StoreError, match="cannot create the LUN disk") as caught:
        create_lun(root, "disk", syscalls=_Full(after))

    assert "free space" in caught.value.remedy
    assert os.listdir(root) == [".numbers"]
    assert os.listdir(f"{root}/.numbers") == []
    assert create_lun(root, "disk").lun == 0


def test_create_writes_as_often_as_the_failures_above(root: str) -> None:
    """The sweep above covers every write."""
    counted = _Full(1000)
    create_lun(root, "disk", syscalls=counted)

    assert 1000 - counted.left == 5


# --------------------------------------------------------------------------- listing


def test_list_passes_over_litter_and_other_directories(root: str) -> None:
    """What a crash left half-built or half-deleted is invisible; so are images."""
    create_lun(root, "disk")
    for litter in (".new-abc", ".deleted-disk-abc", "images"):
        os.mkdir(f"{root}/{litter}")
    os.rename(f"{root}/disk", f"{root}/.new-def")
    create_lun(root, "other")
    Path(root, "other.raw").write_text("an image")

    assert [listing.name for listing in list_luns(root)] == ["other"]
    with pytest.raises(LunNotFound):
        read_identity(root, "images")
    with pytest.raises(LunNotFound):
        read_identity(root, "disk")
    with pytest.raises(LunNotFound):
        delete_lun(root, "other.raw")


def test_list_shows_an_unreadable_lun_with_its_error(root: str) -> None:
    """One that is damaged hides no other and is no empty one."""
    create_lun(root, "bad")
    create_lun(root, "good")
    Path(root, "bad", "lun.json").write_text("{")

    bad, good = list_luns(root)

    assert (bad.name, bad.identity) == ("bad", None)
    assert isinstance(bad.error, StateUnreadable)
    assert (good.name, good.error) == ("good", None)


def test_list_of_a_missing_root_is_an_error(root: str) -> None:
    """A mount that is not there is not an empty root."""
    with pytest.raises(LunNotFound, match="does not exist"):
        list_luns(root)
    assert not os.path.exists(root)


def test_copied_or_renamed_lun_is_refused(root: str) -> None:
    """Served under two names, one disk would have two sets of reservations."""
    create_lun(root, "disk")
    os.rename(f"{root}/disk", f"{root}/renamed")

    with pytest.raises(StateUnreadable, match="belongs to the LUN disk"):
        LogicalUnit.open(f"{root}/renamed")


# --------------------------------------------------------------------------- deleting


@pytest.mark.parametrize(
    "cdb", [TEST_UNIT_READY, in_cdb(0), RESERVE_6], ids=["tur", "in", "reserve"]
)
def test_delete_of_a_served_lun_ends_it_for_who_serves_it(root: str, cdb: bytes) -> None:
    """05/25/00 from the next command on, and for good."""
    create_lun(root, "disk")
    with LogicalUnit.open(f"{root}/disk") as unit:
        assert unit.execute(A, out_cdb(REGISTER), basic_list(0, 1)).status == Status.GOOD

        delete_lun(root, "disk", force=True)

        for _ in range(2):
            result = unit.execute(A, cdb)
            assert result.status == Status.CHECK_CONDITION
            assert (result.sense[2], result.sense[12], result.sense[13]) == NO_LUN
    assert os.listdir(root) == [".numbers"]
    assert os.listdir(f"{root}/.numbers") == []


def test_delete_and_create_again_is_another_lun_for_who_served_it(root: str) -> None:
    """The old one's daemon never answers from the new one's directory, nor writes to it."""
    old = create_lun(root, "disk")
    with LogicalUnit.open(f"{root}/disk") as unit:
        unit.execute(A, out_cdb(REGISTER), basic_list(0, 1))
        delete_lun(root, "disk", force=True)
        new = create_lun(root, "disk")

        result = unit.execute(A, out_cdb(REGISTER), basic_list(0, 2))

        assert result.status == Status.CHECK_CONDITION
    assert old.incarnation != new.incarnation
    with LogicalUnit.open(f"{root}/disk") as unit:
        assert unit.status().to_json()["number"] == 1


def test_delete_leaves_others_and_images_alone(root: str) -> None:
    """A backing image outlives its LUN."""
    create_lun(root, "disk", image="disk.raw")
    create_lun(root, "other")
    Path(root, "disk.raw").write_text("data")

    delete_lun(root, "disk")

    assert Path(root, "disk.raw").read_text() == "data"
    assert [listing.name for listing in list_luns(root)] == ["other"]


def test_delete_that_was_interrupted_is_finished_by_the_next(root: str) -> None:
    """Deleted by a transaction, not yet from the file system."""

    class NoRename(Syscalls):
        def rename(self, source: str, target: str, *, source_fd: int, target_fd: int) -> None:
            if target.startswith(".deleted-"):
                raise OSError(errno.EIO, "gone for a moment")
            super().rename(source, target, source_fd=source_fd, target_fd=target_fd)

    create_lun(root, "disk")
    with pytest.raises(StoreError, match="cannot remove"):
        delete_lun(root, "disk", syscalls=NoRename())
    with LogicalUnit.open(f"{root}/disk") as unit, pytest.raises(LunNotFound, match="was deleted"):
        unit.status()

    delete_lun(root, "disk")

    assert list_luns(root) == []


def test_delete_of_an_unreadable_lun_is_refused(root: str) -> None:
    """Nothing is removed by guessing."""
    create_lun(root, "disk")
    document = Path(root, "disk", "commits", f"{1:016d}.json")
    document.write_bytes(document.read_bytes()[:-5])
    before = modes(root)

    with pytest.raises(StateUnreadable):
        delete_lun(root, "disk")

    assert modes(root) == before


def test_delete_is_seen_by_the_units_of_a_daemon(root: str) -> None:
    """Of one that has it open."""
    create_lun(root, "disk")
    units = Units(root)
    try:
        assert units.submit("disk", A, TEST_UNIT_READY).result(60).status == Status.GOOD
        delete_lun(root, "disk")
        result = units.submit("disk", A, TEST_UNIT_READY).result(60)
        assert (result.sense[2], result.sense[12], result.sense[13]) == NO_LUN
    finally:
        units.close()


def test_registry_of_a_new_lun_names_it(root: str) -> None:
    """People who look find it from the first moment."""
    identity = create_lun(root, "disk")
    view = json.loads(Path(root, "disk", "registry.json").read_text())

    assert (view["lun"], view["incarnation"]) == ("disk", identity.incarnation)
