"""A lock directory as a whole: what is refused, what is noticed under an open store."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flockpr.errors import (
    Busy,
    ConfigError,
    LunNotFound,
    StateLost,
    StateUnreadable,
    StoreError,
    StoreUnavailable,
)
from flockpr.logical_unit import LogicalUnit
from flockpr.spc.codes import Status
from flockpr.store.kinds import STORES
from flockpr.store.lockdir import LockDirectory
from flockpr.store.presence import Presence
from flockpr.store.provision import create_lun, event
from flockpr.store.syscalls import Syscalls
from flockpr.units import Units
from tests.support.lun_tools import (
    INTERVENTION,
    LOST,
    append,
    as_user,
    open_to_all,
    register,
    sense_of,
    tree,
)
from tests.support.scsi import REGISTER, A, B, basic_list, in_cdb, out_cdb

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@pytest.fixture
def lun(tmp_path: Path) -> str:
    """A lock directory."""
    create_lun(str(tmp_path), "disk")
    return str(tmp_path / "disk")


@pytest.fixture
def store(lun: str) -> Iterator[LockDirectory]:
    """It, opened."""
    made = LockDirectory(lun)
    yield made
    made.close()


@pytest.fixture
def other(lun: str) -> Iterator[LockDirectory]:
    """It, opened by another daemon."""
    made = LockDirectory(lun)
    yield made
    made.close()


def look_again(store: LockDirectory) -> None:
    """Let the time pass after which the path is looked at again."""
    store._where.next_look = time.monotonic()


# --------------------------------------------------------------------------- the contract


def test_head_follows_what_another_daemon_commits(
    store: LockDirectory, other: LockDirectory
) -> None:
    """By a few steps and by many."""
    for count in (1, 2, 30):
        append(other, count)
        assert store.head() == other.head()
    assert store.head().number == 34


def test_commit_of_a_base_with_a_successor_does_nothing(
    store: LockDirectory, other: LockDirectory, lun: str
) -> None:
    """The compare of compare-and-swap: by number, and by who was asked last."""
    base = store.head()
    append(other)
    before = tree(f"{lun}/commits")

    assert store.commit(base, base.state, [], served={}) is None

    assert tree(f"{lun}/commits") == before
    fresh = store.head()
    assert store.commit(base, base.state, [], served={}) is None
    assert store.commit(fresh, fresh.state, [], served={}) is not None


def test_commit_that_is_withdrawn_leaves_nothing(store: LockDirectory, lun: str) -> None:
    """`may_issue` is asked at the last moment, once, and its No is obeyed."""
    base = store.head()
    before = tree(lun)
    asked = []

    def withdrawn() -> bool:
        asked.append(os.listdir(f"{lun}/commits"))
        return False

    with pytest.raises(Busy, match="nothing was done"):
        store.commit(base, base.state, [], served={}, may_issue=withdrawn)

    assert len(asked) == 1
    assert len(asked[0]) == 2  # the document was ready, under a passing name
    assert tree(lun) == before
    assert store.commit(base, base.state, [], served={}) is not None


def test_commit_is_what_others_and_later_ones_read(store: LockDirectory, lun: str) -> None:
    """Number, predecessor and author are recorded."""
    base = store.head()
    after = store.commit(base, base.state, [event("TEST", 0, door="api")], served={})
    assert after is not None

    later = LockDirectory(lun)
    assert later.head() == after == store.head()
    later.close()
    assert (after.number, after.daemon, after.host) == (2, store.daemon, store.host)


class _AsksAtSync(Syscalls):
    """Asks something each time before a directory is synced."""

    ask: Callable[[], object] = staticmethod(lambda: None)

    def fsync(self, fd: int) -> None:
        """See `Syscalls.fsync`."""
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            self.ask()
        super().fsync(fd)


def test_others_may_build_on_a_commit_while_it_is_made_durable(
    lun: str, store: LockDirectory
) -> None:
    """The next daemon reads and decides meanwhile, and its own sync covers both names."""
    calls = _AsksAtSync()
    one = LockDirectory(lun, syscalls=calls)
    found: list[tuple[int, bool]] = []

    def look() -> None:
        waited = store.order()
        found.append((store.head().number, waited))
        store.disorder()

    base = one.head()
    calls.ask = look
    assert one.order() is False
    append(one)
    assert found == [(base.number + 1, False)]
    one.disorder()  # as who took it does in any case
    assert store.order() is False
    store.disorder()
    one.close()


def test_order_that_cannot_be_asked_for_is_told_once_and_not_waited_for(
    store: LockDirectory, lun: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without its lock file a daemon commits all the same."""
    os.unlink(os.path.join(lun, "locks"))
    assert store.order() is False
    assert caplog.text.count("cannot be opened") == 1
    assert store.order_at_once() is False
    append(store)


def test_who_lost_the_number_keeps_the_right_to_commit_next(lun: str, store: LockDirectory) -> None:
    """It decides again at once, on what it lost to."""
    one = LockDirectory(lun)
    base = one.head()
    assert one.order() is False
    append(store)
    line = event("TEST", 0, door="test")
    assert one.commit(base, base.state, [line], served={}) is None
    fd = os.open(lun, os.O_RDONLY | os.O_DIRECTORY)
    presence = Presence(Syscalls(), fd, lun)
    assert not presence.take_order(0)
    one.disorder()
    assert presence.take_order(0)
    presence.close()
    os.close(fd)
    one.close()


def test_names_that_no_document_could_hold_are_refused(lun: str) -> None:
    """Before anything is opened."""
    with pytest.raises(ConfigError, match="no name for a host"):
        LockDirectory(lun, host="x" * 256)


def test_closed_store_answers_nothing(store: LockDirectory) -> None:
    """Nor does it use descriptors that belong to somebody else by now."""
    base = store.head()
    store.close()
    store.close()

    with pytest.raises(StoreUnavailable, match="was closed"):
        store.head()
    with pytest.raises(StoreUnavailable, match="was closed"):
        store.commit(base, base.state, [], served={})
    assert not store.hold(1)
    assert store.published() is None
    store.tidy()


# --------------------------------------------------------------------------- refused


@pytest.mark.parametrize("mode", [0o702, 0o777, 0o1777])
def test_directory_that_everybody_may_write_to_is_refused(lun: str, mode: int) -> None:
    """Anyone could take a number, and with it the disk."""
    os.chmod(lun, mode)
    before = tree(lun)

    with pytest.raises(StateUnreadable, match="written by everybody") as caught:
        LockDirectory(lun)

    assert f"chmod o-w {lun}" in caught.value.remedy
    assert tree(lun) == before
    os.chmod(lun, 0o755)  # to be read by everybody is no danger to the state
    LockDirectory(lun).close()


@pytest.mark.parametrize("kind", ["symlink", "file", "missing"])
def test_path_that_is_no_directory_is_refused(lun: str, kind: str) -> None:
    """A detour to another directory least of all."""
    os.rename(lun, f"{lun}.moved")
    if kind == "symlink":
        os.symlink(f"{lun}.moved", lun)
    elif kind == "file":
        Path(lun).write_text("an image")

    with pytest.raises(LunNotFound if kind == "missing" else StateUnreadable) as caught:
        LockDirectory(lun)
    assert caught.value.path == lun
    assert caught.value.remedy


def test_directory_of_something_else_is_no_lun(tmp_path: Path) -> None:
    """Images, say."""
    (tmp_path / "images").mkdir()

    with pytest.raises(LunNotFound, match=r"lun\.json is missing"):
        LockDirectory(str(tmp_path / "images"))


@needs_root
def test_directory_without_rights_is_not_ready_until_a_person_helps() -> None:
    """EACCES: the daemon's user is a stranger; the message says what to give it."""
    with open_to_all() as root:
        create_lun(root, "disk")
        with as_user(65534, 65534):
            with pytest.raises(StoreUnavailable, match="Permission denied") as caught:
                LockDirectory(f"{root}/disk")
            assert caught.value.errno == errno.EACCES
            assert "access to the lock directory" in caught.value.remedy
            units = Units(root)
            assert sense_of(units.submit("disk", A, in_cdb(0)).result(60)) == INTERVENTION
            units.close()


@needs_root
@pytest.mark.parametrize("store", STORES)
def test_directory_that_may_only_be_read_serves_reads_and_refuses_writes(store: str) -> None:
    """A write that cannot be made is NOT READY, intervention required; nothing is invented."""
    with open_to_all() as root:
        create_lun(root, "disk", store=store)
        with LogicalUnit.open(f"{root}/disk") as unit:
            register(unit, A, 1)
        for where, directories, names in os.walk(root):
            for name in (*directories, *names):
                os.chmod(os.path.join(where, name), 0o755 if name in directories else 0o644)
        before = tree(root)
        with as_user(65534, 65534), LogicalUnit.open(f"{root}/disk") as unit:
            assert unit.execute(A, in_cdb(0)).data_in[8:16] == (1).to_bytes(8, "big")
            assert sense_of(register(unit, B, 2)) == INTERVENTION
        assert tree(root) == before


@needs_root
def test_directory_of_a_group_is_shared_by_users_of_it() -> None:
    """Two daemons of different users, with strict umasks, go on from each other's commits."""
    with open_to_all() as base:
        root = f"{base}/root"
        os.mkdir(root)
        os.chown(root, -1, 54321)
        os.chmod(root, 0o2770)
        create_lun(root, "disk", group="54321")
        old = os.umask(0o077)
        try:
            for key in range(1, 7):
                with as_user(2000 + key % 2, 54321), LogicalUnit.open(f"{root}/disk") as unit:
                    assert register(unit, A, key, own=key - 1).status == Status.GOOD
                    assert register(unit, A, 9, own=99).status == Status.RESERVATION_CONFLICT
                    assert unit.status().to_json()["published"] == key + 1
            with as_user(2000, 54321), LogicalUnit.open(f"{root}/disk") as unit:
                assert len(list(unit.refusals())) == 6
        finally:
            os.umask(old)


# --------------------------------------------------------------------------- noticed


def test_commits_rolled_back_under_an_open_store_are_noticed(
    store: LockDirectory, lun: str
) -> None:
    """A restored backup: the newest transactions are gone from the directory."""
    append(store, 3)
    for number in (3, 4):
        os.unlink(f"{lun}/commits/{number:016d}.json")
    before = tree(lun)

    for _ in range(2):  # and it does not get used to it
        with pytest.raises(StateLost, match="was seen here before"):
            store.head()
    assert tree(lun) == before


def test_commits_rolled_back_and_overtaken_are_noticed(store: LockDirectory, lun: str) -> None:
    """Another daemon went on from the old state: that is another history."""
    append(store, 2)
    shutil.copytree(f"{lun}/commits", f"{lun}/backup")
    append(store, 2)
    for number in (4, 5):
        os.unlink(f"{lun}/commits/{number:016d}.json")
    stranger = LockDirectory(lun)
    append(stranger, 5)
    stranger.close()

    with pytest.raises(StateLost, match="does not descend"):
        store.head()


@pytest.mark.parametrize("when", ["before head", "before commit"])
def test_directory_replaced_under_an_open_store_is_noticed(
    store: LockDirectory, lun: str, when: str
) -> None:
    """A copy in its place may be served by somebody else: two histories must not grow."""
    append(store, 2)
    shutil.copytree(lun, f"{lun}.copy")
    base = store.head()
    os.rename(lun, f"{lun}.old")
    os.rename(f"{lun}.copy", lun)
    before = tree(lun), tree(f"{lun}.old")

    look_again(store)
    with pytest.raises(StateLost, match="another directory stands in the place"):
        store.head() if when == "before head" else store.commit(base, base.state, [], served={})

    assert (tree(lun), tree(f"{lun}.old")) == before


@pytest.mark.parametrize("when", ["before head", "before commit"])
def test_commits_directory_replaced_under_an_open_store_is_noticed(
    store: LockDirectory, lun: str, when: str
) -> None:
    """The same one level down: a backup of the commits alone put in their place."""
    append(store, 2)
    shutil.copytree(f"{lun}/commits", f"{lun}/copy")
    base = store.head()
    os.rename(f"{lun}/commits", f"{lun}/old")
    os.rename(f"{lun}/copy", f"{lun}/commits")
    before = tree(lun)

    look_again(store)
    with pytest.raises(StateLost, match="another directory stands in the place") as caught:
        store.head() if when == "before head" else store.commit(base, base.state, [], served={})

    assert caught.value.path == f"{lun}/commits"
    assert tree(lun) == before


@pytest.mark.parametrize("when", ["head", "commit"])
def test_directory_that_is_missing_is_not_ready_until_it_is_back(
    store: LockDirectory, lun: str, when: str
) -> None:
    """An unmounted share, a directory that somebody moved: nothing of it says "deleted"."""
    base = store.head()
    os.rename(lun, f"{lun}.old")
    before = tree(f"{lun}.old")

    for _ in range(2):
        look_again(store)
        with pytest.raises(StoreUnavailable, match="is missing") as caught:
            store.head() if when == "head" else store.commit(base, base.state, [], served={})
        store.tidy()
    assert "mount the share" in caught.value.remedy
    assert tree(f"{lun}.old") == before

    os.rename(f"{lun}.old", lun)
    assert store.head() is base
    assert store.commit(base, base.state, [], served={}) is not None


def test_missing_path_of_a_lun_deleted_elsewhere_tells_the_deletion(
    store: LockDirectory, other: LockDirectory, lun: str
) -> None:
    """The tombstone is read through the descriptor, whatever the path leads to."""
    store.head()
    base = other.head()
    os.rename(lun, f"{lun}.old")
    look_again(store)
    with pytest.raises(StoreUnavailable):
        store.head()
    os.rename(f"{lun}.old", lun)
    assert other.commit(base, base.state, [], served={}, deleted=True) is not None
    os.rename(lun, f"{lun}.old")

    with pytest.raises(LunNotFound, match="was deleted"):
        store.head()


@pytest.mark.parametrize("rest", ["nothing", "no lun.json", "a directory without commits"])
def test_directory_removed_under_an_open_store_is_no_lun(
    store: LockDirectory, lun: str, rest: str
) -> None:
    """05/25/00: the directory that was opened is gone, or going, and never comes back."""
    append(store, 3)
    if rest == "nothing":
        shutil.rmtree(lun)
    else:
        os.rename(lun, f"{lun}.old")
        os.unlink(f"{lun}.old/lun.json")
    if rest == "a directory without commits":
        shutil.rmtree(f"{lun}.old/commits")

    look_again(store)
    with pytest.raises(LunNotFound, match="was deleted"):
        store.head()


class Forgotten(Syscalls):
    """An NFS client whose server no longer knows the lock directory that is open."""

    def __init__(self, device: int = 0) -> None:
        self.forgotten = False
        self.device = device

    def open(self, path: str, flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        """ESTALE below an open directory."""
        if self.forgotten and dir_fd is not None:
            raise OSError(errno.ESTALE, "Stale file handle")
        return super().open(path, flags, mode, dir_fd=dir_fd)

    def stat(self, name: str, *, dir_fd: int) -> os.stat_result:
        """ESTALE."""
        if self.forgotten:
            raise OSError(errno.ESTALE, "Stale file handle")
        return super().stat(name, dir_fd=dir_fd)

    def fstat(self, fd: int) -> os.stat_result:
        """ESTALE too; and the root may be what lies under its mount point."""
        status = super().fstat(fd)
        if not self.forgotten:
            return status
        if not status.st_nlink:
            raise OSError(errno.ESTALE, "Stale file handle")
        return os.stat_result([*status[:2], self.device or status.st_dev, *status[3:]])


@pytest.mark.parametrize("root", ["there", "under a mount point", "missing"])
def test_directory_that_the_server_forgot_was_deleted_if_the_root_is_there(
    lun: str, root: str
) -> None:
    """ESTALE is all that NFS says of a directory removed by another host, and also of a file
    system that its server does not serve for the moment.
    """
    calls = Forgotten(device=12345 if root == "under a mount point" else 0)
    store = LockDirectory(lun, syscalls=calls)
    store.head()
    shutil.rmtree(os.path.dirname(lun) if root == "missing" else lun)
    calls.forgotten = True

    look_again(store)
    expected = LunNotFound if root == "there" else StoreUnavailable
    with pytest.raises(expected, match="was deleted" if root == "there" else "is missing"):
        store.head()
    store.close()


@pytest.mark.parametrize("trailing", ["", "/"])
def test_missing_root_is_not_ready_and_a_missing_lun_is_no_lun(lun: str, trailing: str) -> None:
    """Of the LUNs of a share that is not mounted nothing can be said."""
    shutil.rmtree(lun)
    with pytest.raises(LunNotFound, match="does not exist"):
        LockDirectory(lun + trailing)

    shutil.rmtree(os.path.dirname(lun))
    with pytest.raises(StoreUnavailable, match="is missing") as caught:
        LockDirectory(lun + trailing)
    assert caught.value.path == os.path.dirname(lun)


def test_head_replaced_by_a_document_of_another_history_is_noticed(
    store: LockDirectory, lun: str, tmp_path: Path
) -> None:
    """Same number, same LUN, another transaction."""
    append(store)
    shutil.copytree(lun, tmp_path / "elsewhere" / "disk")
    append(store)
    mine = f"{lun}/commits/{3:016d}.json"
    fork = LockDirectory(str(tmp_path / "elsewhere" / "disk"))
    append(fork)
    fork.close()
    os.unlink(mine)
    shutil.copy(tmp_path / "elsewhere" / "disk" / "commits" / f"{3:016d}.json", mine)

    with pytest.raises(StateLost):
        store.head()


def test_chain_of_two_mixed_histories_is_refused(
    store: LockDirectory, lun: str, tmp_path: Path
) -> None:
    """A newcomer sees that the newest commit does not follow the one before it."""
    append(store)
    shutil.copytree(lun, tmp_path / "elsewhere" / "disk")
    append(store)
    fork = LockDirectory(str(tmp_path / "elsewhere" / "disk"))
    append(fork, 2)
    fork.close()
    name = f"{4:016d}.json"
    shutil.copy(tmp_path / "elsewhere" / "disk" / "commits" / name, f"{lun}/commits/{name}")

    newcomer = LockDirectory(lun)
    with pytest.raises(StateUnreadable, match="two histories were mixed"):
        newcomer.head()
    newcomer.close()


def test_daemon_on_a_rolled_back_directory_answers_lost_and_writes_nothing(
    lun: str, tmp_path: Path
) -> None:
    """07/44/01 for every command, until a person has looked."""
    units = Units(str(tmp_path))
    for key in (1, 2):
        data = basic_list(key - 1, key)
        assert units.submit("disk", A, out_cdb(REGISTER), data).result(60).status == Status.GOOD
    os.unlink(f"{lun}/commits/{3:016d}.json")
    before = tree(f"{lun}/commits")

    for cdb, data in ((in_cdb(0), b""), (out_cdb(REGISTER), basic_list(2, 3))):
        assert sense_of(units.submit("disk", A, cdb, data).result(60)) == LOST
    units.close()
    assert tree(f"{lun}/commits") == before


def test_error_of_a_store_says_where_what_and_remedy() -> None:
    """In this order, on one line."""
    assert str(StoreError("is wrong", "/r/disk", "mend it")) == "/r/disk: is wrong (mend it)"
    assert str(StoreError("is wrong")) == "is wrong"
