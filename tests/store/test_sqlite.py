"""The database of a LUN: what is refused, what is noticed, who waits for whom."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flockpr.errors import (
    Busy,
    ConfigError,
    LunNotFound,
    NewerFormat,
    OutcomeUnknown,
    StateUnreadable,
    StoreUnavailable,
)
from flockpr.logical_unit import LogicalUnit
from flockpr.spc.codes import Status
from flockpr.store import database_trail, sqlite_file
from flockpr.store.kinds import SQLITE, STORES
from flockpr.store.layout import COMMITS, DATABASE, DATABASE_JOURNAL
from flockpr.store.lockdir import LockDirectory
from flockpr.store.opening import open_store
from flockpr.store.provision import create_lun
from flockpr.store.sqlite import SqliteStore
from flockpr.store.sqlite_file import DatabaseFile
from flockpr.store.syscalls import Syscalls
from tests.support.lun_tools import (
    append,
    as_user,
    open_to_all,
    register,
    tidy_now,
    tree,
)
from tests.support.open_files import open_below
from tests.support.scsi import A
from tests.support.stores import sql

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@pytest.fixture
def lun(tmp_path: Path) -> str:
    """A LUN with a database of a few transactions."""
    create_lun(str(tmp_path), "disk", store=SQLITE)
    path = str(tmp_path / "disk")
    with contextlib.closing(SqliteStore(path)) as store:
        append(store, 3)
    return path


@pytest.fixture
def store(lun: str) -> Iterator[SqliteStore]:
    """It, opened."""
    made = SqliteStore(lun)
    yield made
    made.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a lock waits hardly at all."""
    monkeypatch.setattr(sqlite_file, "PATIENCE", 0.02)


# --------------------------------------------------------------------------- where it may be


class Remote(Syscalls):
    """A file system that several hosts may have."""

    def coherent(self, fd: int) -> bool:
        """See `Syscalls`."""
        return False


def test_database_is_opened_on_file_systems_of_one_host_only(lun: str) -> None:
    """Elsewhere a lock that was lost in silence would let two write."""
    before = tree(lun)
    with pytest.raises(StoreUnavailable, match="locks of SQLite are not to be trusted") as caught:
        SqliteStore(lun, syscalls=Remote())
    assert caught.value.path == lun
    assert caught.value.for_a_person
    assert "ext4" in caught.value.remedy
    assert tree(lun) == before


def test_database_is_made_on_file_systems_of_one_host_only(tmp_path: Path) -> None:
    """Nothing is left of it."""
    with pytest.raises(StoreUnavailable, match="locks of SQLite are not to be trusted"):
        create_lun(str(tmp_path), "disk", store=SQLITE, syscalls=Remote())
    assert tree(str(tmp_path)) == {}


def test_store_that_there_is_not_is_refused(tmp_path: Path) -> None:
    """By name."""
    with pytest.raises(ConfigError, match="'oracle' is no store: lockdir or sqlite"):
        create_lun(str(tmp_path), "disk", store="oracle")
    assert STORES == ("lockdir", "sqlite")
    assert tree(str(tmp_path)) == {}


def test_disk_that_is_passed_through_has_no_database(tmp_path: Path) -> None:
    """It has no transactions that one could keep."""
    with pytest.raises(ConfigError, match="no transactions to keep"):
        create_lun(str(tmp_path), "disk", wwids=["naa.6001"], passed=True, store=SQLITE)
    assert tree(str(tmp_path)) == {}


# --------------------------------------------------------------------------- what is not ours


def _empty(lun: str) -> None:
    Path(lun, DATABASE).write_bytes(b"")


def _garbage(lun: str) -> None:
    Path(lun, DATABASE).write_bytes(b"no database " * 1000)


def _directory(lun: str) -> None:
    os.unlink(f"{lun}/{DATABASE}")
    os.mkdir(f"{lun}/{DATABASE}")


def _link(lun: str) -> None:
    os.rename(f"{lun}/{DATABASE}", f"{lun}/elsewhere")
    os.symlink("elsewhere", f"{lun}/{DATABASE}")


def _two_names(lun: str) -> None:
    os.link(f"{lun}/{DATABASE}", f"{lun}/elsewhere")


def _other_program(lun: str) -> None:
    sql(lun, ("PRAGMA application_id=1", ()))


def _fresh_database(lun: str) -> None:
    os.unlink(f"{lun}/{DATABASE}")
    sql(lun, ("CREATE TABLE commits (number INTEGER PRIMARY KEY, document BLOB NOT NULL)", ()))


def _older(lun: str) -> None:
    sql(lun, ("PRAGMA user_version=0", ()))


def _another_table(lun: str) -> None:
    sql(lun, ("CREATE TABLE mine (x)", ()))


def _trigger(lun: str) -> None:
    text = "CREATE TRIGGER t AFTER INSERT ON commits BEGIN DELETE FROM commits; END"
    sql(lun, (text, ()))


def _no_table(lun: str) -> None:
    sql(lun, ("DROP TABLE audit", ()))


def _write_ahead_log(lun: str) -> None:
    with contextlib.closing(sqlite3.connect(f"{lun}/{DATABASE}")) as connection:
        assert connection.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)


def _cut_short(lun: str) -> None:
    os.truncate(f"{lun}/{DATABASE}", 8192)


def _root_page_gone(lun: str) -> None:
    """Of the table of transactions."""
    with contextlib.closing(sqlite3.connect(f"{lun}/{DATABASE}")) as connection:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'commits'"
        (page,) = connection.execute(query).fetchone()
    with open(f"{lun}/{DATABASE}", "r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(4096))


def _no_head(lun: str) -> None:
    sql(lun, ("DELETE FROM head", ()))


def _two_heads(lun: str) -> None:
    sql(lun, ("INSERT INTO head VALUES (2, 4, 'x')", ()))


def _no_transactions(lun: str) -> None:
    sql(lun, ("DELETE FROM commits", ()))


def _newest_lost(lun: str) -> None:
    """A page that is older than the others: nobody may take that for the state of then."""
    sql(lun, ("DELETE FROM commits WHERE number = 4", ()))


def _head_lost(lun: str) -> None:
    sql(lun, ("UPDATE head SET number = 3", ()))


def _other_id(lun: str) -> None:
    sql(lun, ("UPDATE head SET txid = 'x'", ()))


def _text_for_a_number(lun: str) -> None:
    sql(lun, ("UPDATE head SET txid = 5", ()))


def _text_for_a_document(lun: str) -> None:
    sql(lun, ("UPDATE commits SET document = 'text' WHERE number = 4", ()))


def _other_base(lun: str) -> None:
    """The one before the newest is of another history."""
    from tests.support import stores

    data = stores.changed(stores.take(SQLITE, lun, 3), txid="0" * 32)
    value = stores.take(SQLITE, lun, 3)
    daemon = stores.document(value).snapshot.daemon
    data = stores.changed(value, txid="0" * 32, daemons={daemon: [3, "0" * 32]})
    stores.put(SQLITE, lun, 3, data)


def _both(lun: str) -> None:
    os.mkdir(f"{lun}/{COMMITS}")


@pytest.mark.parametrize(
    "damage",
    [
        *(_empty, _garbage, _directory, _link, _two_names, _other_program, _fresh_database),
        *(_older, _another_table, _trigger, _no_table, _write_ahead_log, _cut_short),
        *(_root_page_gone, _no_head, _two_heads, _no_transactions, _newest_lost, _head_lost),
        *(_other_id, _text_for_a_number, _text_for_a_document, _other_base, _both),
    ],
)
def test_file_that_is_not_ours_is_never_read_as_anything(
    lun: str, damage: Callable[[str], None]
) -> None:
    """Fail closed: what, where, what to do; and nothing is written to it."""
    damage(lun)
    before = tree(lun)

    for _ in range(2):
        with (
            pytest.raises(StateUnreadable) as caught,
            contextlib.closing(open_store(lun)) as store,
        ):
            store.head()
        assert caught.value.path.startswith(lun)
        assert caught.value.remedy
        assert caught.value.what

    after = tree(lun)
    if damage is _write_ahead_log:  # of which SQLite makes and removes the parts
        before = {name: data for name, data in before.items() if not name.startswith(DATABASE)}
        after = {name: data for name, data in after.items() if not name.startswith(DATABASE)}
    assert after == before


def test_newer_tables_are_left_to_a_newer_flockpr(lun: str) -> None:
    """As a newer document is."""
    sql(lun, (f"PRAGMA user_version={sqlite_file.VERSION + 1}", ()))
    with pytest.raises(NewerFormat, match="is newer than 1") as caught:
        SqliteStore(lun)
    assert "newer flockpr" in caught.value.remedy


def test_file_that_is_damaged_under_an_open_store_is_noticed(lun: str, store: SqliteStore) -> None:
    """By the next command."""
    store.head()
    _newest_lost(lun)
    sql(lun, ("UPDATE head SET number = 3", ()))
    with pytest.raises(StateUnreadable):
        store.head()


def test_damaged_trail_is_said_and_stops_nobody(lun: str) -> None:
    """It is a record; what is registered does not hang on it."""
    with contextlib.closing(SqliteStore(lun, keep=2, segment=4, settle=0)) as store:
        append(store, 12)
        tidy_now(store)
        assert store.retained()[0] > 4
        for value in (b"no json", b'{"number":1}', "text", None):
            sql(lun, ("UPDATE audit SET lines = ? WHERE number = 2", (value,)))
            with pytest.raises(StateUnreadable, match="transaction 2"):
                list(store.history())
            append(store)


@pytest.mark.parametrize(
    ("name", "value"), [("sqlite_version_info", (3, 32, 9)), ("threadsafety", 0)]
)
def test_sqlite_that_will_not_do_is_refused(
    lun: str, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    """It could not check what it opens, or mixes up two threads."""
    monkeypatch.setattr(sqlite3, name, value)
    with pytest.raises(StoreUnavailable, match="too old to open it, or built for one thread"):
        SqliteStore(lun)


def test_transaction_beyond_the_newest_is_never_overwritten(lun: str, store: SqliteStore) -> None:
    """Somebody's, of whom `head` does not know."""
    base = store.head()
    stranger = b"somebody's"
    sql(lun, ("INSERT INTO commits VALUES (?, ?)", (base.number + 1, stranger)))
    before = tree(lun)
    with pytest.raises(StateUnreadable):
        store.commit(base, base.state, [], served={})
    assert {k: v for k, v in tree(lun).items() if not k.endswith("-journal")} == {
        k: v for k, v in before.items() if not k.endswith("-journal")
    }


def test_flockpr_without_databases_serves_nothing(lun: str) -> None:
    """As one before them: it finds no commits, and makes none."""
    before = tree(lun)
    with pytest.raises(StoreUnavailable, match="cannot be opened") as caught:
        LockDirectory(lun)
    assert caught.value.path == f"{lun}/{COMMITS}"
    assert tree(lun) == before


def test_sqlite_that_commits_in_another_way_is_refused(
    lun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Builds differ; what is asked for is read back."""
    monkeypatch.setattr(sqlite_file, "_SETTINGS", ("PRAGMA synchronous=NORMAL",))
    with pytest.raises(StoreUnavailable, match="commits in another way"):
        SqliteStore(lun)


# --------------------------------------------------------------------------- locks


def test_file_is_never_opened_but_by_sqlite(lun: str) -> None:
    """To close it anywhere in the process would let go of all locks that SQLite has on it."""
    opened: list[str] = []

    class Watching(Syscalls):
        def open(
            self, path: str, flags: int, mode: int = 0o600, *, dir_fd: int | None = None
        ) -> int:
            opened.append(path)
            return super().open(path, flags, mode, dir_fd=dir_fd)

    with contextlib.closing(SqliteStore(lun, syscalls=Watching(), settle=0)) as store:
        append(store, 3)
        store.ensure_durable(store.head())
        tidy_now(store)
        list(store.history())
    assert DATABASE_JOURNAL in opened or len(opened) > 3
    assert [path for path in opened if path.endswith(DATABASE)] == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("mode", ["IMMEDIATE", "EXCLUSIVE"])
def test_writer_that_hangs_makes_others_busy_and_nothing_more(lun: str, mode: str) -> None:
    """A process that was stopped in the middle: nothing is done, and it goes on afterwards."""
    with (
        contextlib.closing(SqliteStore(lun)) as store,
        contextlib.closing(sqlite3.connect(f"{lun}/{DATABASE}", isolation_level=None)) as other,
    ):
        base = store.head()
        other.execute(f"BEGIN {mode}")
        with pytest.raises(Busy, match="another process keeps it locked"):
            store.commit(base, base.state, [], served={})
        if mode == "EXCLUSIVE":
            with pytest.raises(Busy):
                store.head()
            with pytest.raises(Busy):
                open_store(lun)
        else:
            assert store.head() is base
        with LogicalUnit(store) as unit:
            assert register(unit, A, 1).status == Status.BUSY
            unit.tidy()
            other.execute("ROLLBACK")
            assert register(unit, A, 1).status == Status.GOOD


@pytest.mark.usefixtures("impatient")
def test_reader_that_hangs_makes_writers_busy_and_nothing_was_done(lun: str) -> None:
    """At COMMIT, when all but that was done already."""
    with (
        contextlib.closing(SqliteStore(lun)) as store,
        contextlib.closing(sqlite3.connect(f"{lun}/{DATABASE}", isolation_level=None)) as other,
    ):
        base = store.head()
        other.execute("BEGIN")
        other.execute("SELECT * FROM head").fetchall()
        asked = []

        def may_issue() -> bool:
            asked.append(True)
            return True

        with pytest.raises(Busy):
            store.commit(base, base.state, [], served={}, may_issue=may_issue)
        assert asked == [True]
        other.execute("ROLLBACK")
        assert store.head() is base
        append(store)


def test_what_was_committed_is_said_even_if_the_commit_failed(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by opening the file anew, and made durable first."""
    real, touched = DatabaseFile.commit, []

    def commit(file: DatabaseFile) -> None:
        monkeypatch.setattr(DatabaseFile, "commit", real)
        real(file)
        raise StoreUnavailable("disk I/O error")

    def touch(file: DatabaseFile) -> None:
        touched.append(True)

    base = store.head()
    monkeypatch.setattr(DatabaseFile, "commit", commit)
    monkeypatch.setattr(DatabaseFile, "touch", touch)
    after = store.commit(base, base.state, [], served={})

    assert after is not None
    assert store.head() is after
    assert touched == [True]


def test_what_was_committed_and_cannot_be_made_durable_is_unknown(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there for all to see, and a power cut may take it back: nobody is answered by it."""
    real = DatabaseFile.commit

    def fails(*_: object) -> None:
        raise StoreUnavailable("disk I/O error")

    def commit(file: DatabaseFile) -> None:
        real(file)
        fails()

    base = store.head()
    with monkeypatch.context() as patch:
        patch.setattr(DatabaseFile, "commit", commit)
        patch.setattr(DatabaseFile, "touch", fails)
        with pytest.raises(OutcomeUnknown):
            store.commit(base, base.state, [], served={})
        with pytest.raises(Busy, match="not known yet"):
            store.head()
    assert store.head().number == base.number + 1


def test_what_was_not_committed_is_said_to_be_not_done(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, say: once looked at, it cannot be done any more."""
    real = DatabaseFile.commit

    def fails(_: DatabaseFile) -> None:
        raise StoreUnavailable("cannot be written: database or disk is full")

    base = store.head()
    monkeypatch.setattr(DatabaseFile, "commit", fails)
    with pytest.raises(StoreUnavailable, match="disk is full"):
        store.commit(base, base.state, [], served={})
    assert store.head() == base
    monkeypatch.setattr(DatabaseFile, "commit", real)
    append(store)


def test_journal_that_somebody_removed_is_no_obstacle(lun: str, store: SqliteStore) -> None:
    """A tool with other settings ends its transactions so, which is as good; then it is the
    directory that has to be synced.
    """
    os.unlink(f"{lun}/{DATABASE_JOURNAL}")
    store.ensure_durable(store.head())
    append(store)
    with LogicalUnit.open(lun) as unit:
        assert register(unit, A, 1).status == Status.GOOD


def test_stores_leave_no_descriptors(lun: str) -> None:
    """Neither those that were opened nor those that were refused."""
    before = open_below(lun)
    for _ in range(3):
        with contextlib.closing(SqliteStore(lun)) as store:
            append(store)
    _another_table(lun)
    for _ in range(3):
        with pytest.raises(StateUnreadable):
            SqliteStore(lun)
    assert open_below(lun) == before


def test_path_may_have_any_characters(tmp_path: Path) -> None:
    """SQLite is given an address in which some of them mean something."""
    root = tmp_path / "a?mode=memory#b%20c d\udcff"
    create_lun(str(root), "disk", store=SQLITE)
    with LogicalUnit.open(str(root / "disk")) as unit:
        assert register(unit, A, 1).status == Status.GOOD
    assert sorted(os.listdir(root / "disk")) == sorted(
        (DATABASE, DATABASE_JOURNAL, "journal", "locks", "lun.json", "registry.json")
    )


# --------------------------------------------------------------------------- whose it is


@needs_root
def test_database_without_rights_is_not_ready_until_a_person_helps() -> None:
    """The file alone is somebody else's."""
    with open_to_all() as root:
        create_lun(root, "disk", store=SQLITE)
        os.chmod(f"{root}/disk", 0o755)
        os.chmod(f"{root}/disk/lun.json", 0o644)
        with as_user(65534, 65534), pytest.raises(StoreUnavailable) as caught:
            open_store(f"{root}/disk")
        assert caught.value.path == f"{root}/disk/{DATABASE}"
        assert caught.value.errno == errno.EACCES
        assert "access" in caught.value.remedy


@needs_root
def test_database_of_a_group_is_shared_by_users_of_it() -> None:
    """Two daemons of different users, with strict umasks, go on from each other's commits."""
    with open_to_all() as base:
        root = f"{base}/root"
        os.mkdir(root)
        os.chown(root, -1, 54321)
        os.chmod(root, 0o2770)
        create_lun(root, "disk", group="54321", store=SQLITE)
        old = os.umask(0o077)
        try:
            for key in range(1, 5):
                if key == 3:  # a tool removed it: the next one makes it anew
                    os.unlink(f"{root}/disk/{DATABASE_JOURNAL}")
                with as_user(2000 + key % 2, 54321), LogicalUnit.open(f"{root}/disk") as unit:
                    assert register(unit, A, key, own=key - 1).status == Status.GOOD
                    assert unit.status().to_json()["published"] == key + 1
        finally:
            os.umask(old)


# --------------------------------------------------------------------------- the trail


def test_trail_is_dropped_when_it_is_old_and_long(
    lun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More transactions ago than are kept, and either long ago or too many."""
    for name, value in (("KEEP_TRANSACTIONS", 10), ("KEEP_SEGMENTS", 8), ("SEGMENT", 4)):
        monkeypatch.setattr(database_trail, name, value)
    with contextlib.closing(SqliteStore(lun, keep=2, segment=4, settle=0)) as store:
        append(store, 24)
        tidy_now(store)
        assert store.history_begins() == 1  # they are young, and not too many
        sql(lun, ("UPDATE audit SET archived = 0 WHERE number <= 12", ()))
        append(store, 4)
        tidy_now(store)
        assert store.history_begins() == 13
        append(store, 24)
        tidy_now(store)
        head = store.head().number
        assert store.history_begins() == head - 31
        numbers = [record.number for record in store.history()]
        assert numbers == list(range(head - 31, head + 1))


def test_copy_of_the_file_alone_is_another_lun_that_nobody_takes_for_it(
    lun: str, tmp_path: Path
) -> None:
    """Foreign state in the place of one's own."""
    create_lun(str(tmp_path), "other", store=SQLITE)
    shutil.copy(f"{lun}/{DATABASE}", tmp_path / "other" / DATABASE)
    with (
        contextlib.closing(open_store(str(tmp_path / "other"))) as store,
        pytest.raises(StateUnreadable, match="of incarnation"),
    ):
        store.head()


def test_directory_removed_under_an_open_store_is_no_lun(lun: str, store: SqliteStore) -> None:
    """05/25/00: what was opened is gone, and never comes back."""
    store.head()
    shutil.rmtree(lun)
    with pytest.raises(LunNotFound, match="was deleted"):
        store.head()
