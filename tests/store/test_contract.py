"""The contract of a store, which each of them has to keep."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flockpr.errors import (
    Busy,
    ConfigError,
    LunExists,
    LunNotFound,
    NewerFormat,
    OutcomeUnknown,
    StateLost,
    StateUnreadable,
    StoreError,
    StoreUnavailable,
)
from flockpr.logical_unit import LogicalUnit
from flockpr.spc.codes import Status
from flockpr.store.directory import LunDirectory
from flockpr.store.kinds import SQLITE
from flockpr.store.layout import FORMAT
from flockpr.store.lockdir import LockDirectory
from flockpr.store.opening import open_store
from flockpr.store.provision import create_lun, event, upgrade_lun
from flockpr.store.removal import delete_lun
from flockpr.store.sqlite import SqliteStore
from flockpr.store.syscalls import Syscalls
from tests.support import stores
from tests.support.lun_tools import append, register, tidy_now, tree
from tests.support.scsi import (
    CLEAR,
    PREEMPT,
    REGISTER,
    RELEASE,
    RESERVE,
    A,
    B,
    C,
    basic_list,
    in_cdb,
    out_cdb,
)

Open = Callable[..., LunDirectory]


@pytest.fixture(params=stores.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each store."""
    return str(request.param)


@pytest.fixture
def lun(kind: str, tmp_path: Path) -> str:
    """A LUN with it."""
    create_lun(str(tmp_path), "disk", store=kind)
    return str(tmp_path / "disk")


@pytest.fixture
def opened(kind: str, lun: str) -> Iterator[Open]:
    """Opens it, as one daemon more each time."""
    made: list[LunDirectory] = []

    def make(**options: object) -> LunDirectory:
        made.append(stores.open_kind(kind, lun, **options))
        return made[-1]

    yield make
    for store in made:
        store.close()


def test_what_lies_there_decides_which_store_it_is(kind: str, lun: str) -> None:
    """Nobody has to say it again."""
    store = open_store(lun)
    assert type(store) is (SqliteStore if kind == SQLITE else LockDirectory)
    assert store.head().number == 1
    store.close()


# --------------------------------------------------------------------------- head and commit


def test_head_follows_what_another_daemon_commits(opened: Open) -> None:
    """By a few steps and by many."""
    store, other = opened(), opened()
    for count in (1, 2, 30):
        append(other, count)
        assert store.head() == other.head()
    assert store.head().number == 34
    assert store.head() is store.head()


def test_commit_of_a_base_with_a_successor_does_nothing(opened: Open) -> None:
    """The compare of compare-and-swap: by number, and by who was asked last."""
    store, other = opened(), opened()
    base = store.head()
    append(other)

    assert store.commit(base, base.state, [], served={}) is None
    fresh = store.head()
    assert fresh == other.head()
    assert fresh.number == 2
    assert store.commit(base, base.state, [], served={}) is None
    assert store.commit(fresh, fresh.state, [], served={}) is not None


def test_of_many_that_commit_at_once_each_transaction_is_one_ones(opened: Open) -> None:
    """Threads, each with a store of its own: no success twice, none lost."""
    begun = opened().head().number
    done: list[tuple[int, str]] = []

    def work(store: LunDirectory) -> None:
        for _ in range(8):
            while True:
                base = store.head()
                after = store.commit(base, base.state, [], served={})
                if after is not None:
                    done.append((after.number, after.txid))
                    break

    threads = [threading.Thread(target=work, args=(opened(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [number for number, _ in sorted(done)] == list(range(begun + 1, begun + 25))
    store = opened()
    kept = {number: store.snapshot_at(number) for number, _ in done}
    assert all(snapshot is not None for snapshot in kept.values())
    assert {(n, s.txid) for n, s in kept.items() if s is not None} == set(done)


def test_commit_that_is_withdrawn_leaves_nothing(opened: Open) -> None:
    """`may_issue` is asked at the last moment, once, and its No is obeyed."""
    store, other = opened(), opened()
    base = store.head()
    asked = []

    def withdrawn() -> bool:
        asked.append(True)
        return False

    with pytest.raises(Busy, match="nothing was done"):
        store.commit(base, base.state, [], served={}, may_issue=withdrawn)

    assert len(asked) == 1
    assert other.head() == base
    append(other)
    assert store.head().number == 2


def test_mistake_in_the_last_question_leaves_nothing(opened: Open) -> None:
    """Nor does it leave anything locked."""
    store, other = opened(), opened()
    base = store.head()

    def mistaken() -> bool:
        raise KeyError

    with pytest.raises(KeyError):
        store.commit(base, base.state, [], served={}, may_issue=mistaken)

    append(other)
    assert store.head().number == 2
    append(store)


def test_commit_is_what_others_and_later_ones_read(opened: Open) -> None:
    """State, number, predecessor and author are recorded."""
    store = opened(host="here")
    with LogicalUnit(store) as unit:
        for number, who in enumerate((A, B), 1):
            assert register(unit, who, number).status == Status.GOOD
        assert unit.execute(A, out_cdb(RESERVE, type_=5), basic_list(1)).status == Status.GOOD
        after = unit.snapshot()

    found = opened().head()
    assert found == after
    assert found.state == after.state
    assert len(found.state.registrations) == 2
    assert (found.number, found.daemon, found.host) == (4, store.daemon, "here")
    assert {served.host for served in found.served.values()} == {"here"}


def test_commit_of_others_is_made_durable_once_before_it_is_depended_on(
    kind: str, opened: Open
) -> None:
    """Its writer may have been killed before it was; see `Store.ensure_durable`."""
    calls = stores.NoSync()
    writer, reader = opened(), opened(syscalls=calls)
    append(writer)
    head = reader.head()
    calls.fails = True
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="sync"):
            reader.ensure_durable(head)
    calls.fails, calls.syncs = False, 0
    reader.ensure_durable(head)
    reader.ensure_durable(head)
    assert calls.syncs == 1
    reader.ensure_durable(reader.head())
    append(writer)
    reader.ensure_durable(reader.head())
    assert calls.syncs == 2


def test_names_that_no_document_could_hold_are_refused(opened: Open) -> None:
    """Before anything is opened."""
    with pytest.raises(ConfigError, match="no name for a host"):
        opened(host="x" * 256)


def test_closed_store_answers_nothing(opened: Open) -> None:
    """Nor does it use descriptors that belong to somebody else by now."""
    store = opened()
    base = store.head()
    store.close()
    store.close()

    with pytest.raises(StoreUnavailable, match="was closed"):
        store.head()
    with pytest.raises(StoreUnavailable, match="was closed"):
        store.commit(base, base.state, [], served={})
    with pytest.raises(StoreUnavailable):
        list(store.history())
    assert not store.hold(1)
    assert store.head_at_once() is None
    assert store.published() is None
    store.tidy()


# --------------------------------------------------------------------------- the head goes back


def test_transactions_rolled_back_under_an_open_store_are_noticed(
    kind: str, opened: Open, lun: str
) -> None:
    """A restored backup: the newest transactions are gone."""
    store = opened()
    append(store)
    copy = stores.save(kind, lun)
    append(store, 2)
    stores.roll_back(kind, lun, copy)
    before = tree(lun)

    for _ in range(2):  # and it does not get used to it
        with pytest.raises(StateLost, match="was seen here before"):
            store.head()
    assert tree(lun) == before


def test_transactions_rolled_back_and_overtaken_are_noticed(
    kind: str, opened: Open, lun: str
) -> None:
    """Another daemon went on from the old state: that is another history."""
    store = opened()
    append(store)
    copy = stores.save(kind, lun)
    append(store, 2)
    stores.roll_back(kind, lun, copy)
    append(opened(), 5)

    with pytest.raises(StateLost, match="does not descend"):
        store.head()


@pytest.mark.parametrize("when", ["before head", "before commit"])
def test_truth_replaced_under_an_open_store_is_noticed(
    kind: str, opened: Open, lun: str, when: str
) -> None:
    """A copy in its place may be served by somebody else: two histories must not grow."""
    store = opened()
    append(store, 2)
    copy = stores.save(kind, lun)
    base = store.head()
    os.rename(stores.truth(kind, lun), f"{lun}.old")
    os.rename(copy, stores.truth(kind, lun))
    before = tree(lun)

    store._where.next_look = 0.0
    with pytest.raises(StateLost, match="stands in the place of the one that was opened") as caught:
        store.head() if when == "before head" else store.commit(base, base.state, [], served={})

    assert caught.value.path == stores.truth(kind, lun)
    assert tree(lun) == before


def test_directory_that_is_missing_is_not_ready_until_it_is_back(opened: Open, lun: str) -> None:
    """An unmounted share, a directory that somebody moved: nothing of it says "deleted"."""
    store = opened()
    base = store.head()
    os.rename(lun, f"{lun}.old")
    before = tree(f"{lun}.old")

    for _ in range(2):
        store._where.next_look = 0.0
        with pytest.raises(StoreUnavailable, match="is missing"):
            store.head()
        with pytest.raises(StoreUnavailable, match="is missing"):
            store.commit(base, base.state, [], served={})
        store.tidy()
    assert tree(f"{lun}.old") == before

    os.rename(f"{lun}.old", lun)
    assert store.head() is base
    assert store.commit(base, base.state, [], served={}) is not None


# --------------------------------------------------------------------------- unknown outcomes


@pytest.mark.parametrize("when", ["before", "after"])
def test_commit_of_unknown_outcome_is_settled_before_anything_else(
    kind: str, lun: str, opened: Open, when: str
) -> None:
    """It is said to be unknown; while it is, nothing is answered; then the truth is told."""
    calls = stores.BadLink()
    options = {} if kind == SQLITE else {"patience": 0.0}
    store = opened(syscalls=calls, **options)
    base = store.head()
    line = event("TEST", 0, door="api")
    with stores.breaks_in_commit(kind, calls, when):
        with pytest.raises(OutcomeUnknown, match="outcome is not known"):
            store.commit(base, base.state, [line], served={})
        with pytest.raises(Busy, match="not known yet"):
            store.head()

    actions = [record.applied.action for record in opened().history()]
    assert actions == ["CREATE", *(["TEST"] if when == "after" else [])]
    head = store.head()
    assert head == opened().head()
    append(store)
    assert [record.applied.action for record in store.history()] == [
        *actions,
        f"TEST {head.number + 1}",
    ]


def test_commit_that_took_effect_and_may_not_be_durable_is_unknown(kind: str, opened: Open) -> None:
    """What says that it counts could not be synced; here, of another daemon's."""
    calls = stores.NoSync()
    with LogicalUnit(opened(syscalls=calls), keep_tidy=False) as unit:
        assert register(LogicalUnit(opened()), A, 1).status == Status.GOOD
        calls.fails = True
        for cdb in (in_cdb(0), in_cdb(1)):
            answer = unit.execute(B, cdb, report_attentions=False)
            assert answer.status == Status.CHECK_CONDITION
            assert answer.data_in == b""
        calls.fails = False
        assert unit.execute(B, in_cdb(0), report_attentions=False).data_in[15] == 1


# --------------------------------------------------------------------------- unreadable


def _empty(_: bytes) -> bytes:
    return b""


def _short(data: bytes) -> bytes:
    return data[:-1]


def _edited(data: bytes) -> bytes:
    return data.replace(b'"generation":0', b'"generation":1')


def _newer(data: bytes) -> bytes:
    return stores.changed(data, format=FORMAT + 1)


def _foreign(data: bytes) -> bytes:
    return stores.changed(data, incarnation="0" * 32)


def _other_number(data: bytes) -> bytes:
    return stores.changed(data, number=7)


def _unknown_member(data: bytes) -> bytes:
    return stores.changed(data, colour="red")


@pytest.mark.parametrize(
    "damage", [_empty, _short, _edited, _newer, _foreign, _other_number, _unknown_member]
)
@pytest.mark.parametrize("is_open", [True, False], ids=["open", "closed"])
def test_document_that_is_not_ours_is_never_read_as_anything(
    kind: str, opened: Open, lun: str, damage: Callable[[bytes], bytes], is_open: bool
) -> None:
    """Fail closed, and leave it as it is: who has an open store as who opens one."""
    writer = opened()
    append(writer, 2)
    store = opened() if is_open else None
    data = stores.take(kind, lun, 3)
    assert damage(data) != data
    stores.put(kind, lun, 3, damage(data))
    before = tree(lun)

    for _ in range(2):
        with pytest.raises(NewerFormat if damage is _newer else StateUnreadable) as caught:
            (store or opened()).head()
        assert lun in caught.value.path
        assert caught.value.remedy
    with LogicalUnit(opened(), keep_tidy=False) as unit:
        answer = unit.execute(A, in_cdb(0), report_attentions=False)
        assert answer.status == Status.CHECK_CONDITION
        assert (answer.sense[2] & 0xF, answer.sense[12:14]) == (7, b"\x44\x01")
        assert register(unit, A, 1).status == Status.CHECK_CONDITION
    unit.close()
    assert {k: v for k, v in tree(lun).items() if "journal/" not in k} == {
        k: v for k, v in before.items() if "journal/" not in k
    }


def test_directory_without_its_transactions_is_no_empty_one(
    kind: str, opened: Open, lun: str
) -> None:
    """Neither for who opens it, nor for who has it open; and nobody makes new ones."""
    store = opened()
    append(store)
    os.rename(stores.truth(kind, lun), f"{lun}.away")
    before = tree(lun)

    store._where.next_look = 0.0
    with pytest.raises(StoreError):
        store.head()
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        open_store(lun)
    assert tree(lun) == before


# --------------------------------------------------------------------------- who is alive


def test_ranges_of_registrants_are_one_daemons_each(opened: Open) -> None:
    """Held by one, seen by others, free with its end."""
    one, two, looker = opened(), opened(), opened()

    assert one.hold(3)
    assert one.hold(3)
    assert one.holds(3)
    assert not two.hold(3)
    assert not two.holds(3)
    assert (one.alive(3), two.alive(3), looker.alive(3), looker.alive(4)) == (
        *(True, True, True),
        False,
    )
    one.drop(3)
    assert not one.holds(3)
    assert two.hold(3)
    two.close()
    assert looker.alive(3) is False
    assert looker.lock_fault() is None


def test_right_to_commit_next_is_a_courtesy(opened: Open) -> None:
    """Who has it not may commit all the same."""
    one, two = opened(), opened()
    assert one.order() is False
    append(two)
    one.disorder()
    assert two.order() is False
    two.disorder()


# --------------------------------------------------------------------------- what was done


def test_history_is_whole_before_and_after_it_is_archived(opened: Open) -> None:
    """Each command once and in order, from any transaction on, while others go on."""
    store = opened(keep=8, segment=4, settle=0)
    append(store, 30)
    before = list(store.history())
    assert [record.number for record in before] == list(range(1, 32))
    assert store.history_begins() == 1
    assert store.retained() == list(range(1, 32))

    reader = store.history()
    begun = [next(reader) for _ in range(3)]
    tidy_now(store)

    kept = store.retained()
    assert kept[-1] == 31
    assert 8 < len(kept) < 31
    assert kept == list(range(kept[0], 32))
    assert list(store.history()) == before
    assert [*begun, *reader] == before
    assert list(opened(segment=4).history(since=20)) == before[19:]
    assert store.history_begins() == 1
    assert store.snapshot_at(kept[0] - 1) is None
    snapshot = store.snapshot_at(kept[0])
    assert snapshot is not None
    assert snapshot.txid == before[kept[0] - 1].txid
    append(store)
    assert opened().head().number == 32


def test_view_shows_the_newest_after_upkeep(kind: str, opened: Open, lun: str) -> None:
    """And says where the truth is."""
    store = opened()
    append(store, 2)
    assert store.published() == 1
    store.tidy()
    assert opened().published() == 3
    name = os.path.basename(stores.truth(kind, lun))
    assert f"the truth is in {name}" in Path(lun, "registry.json").read_text()


def test_refusals_are_in_the_journal(opened: Open) -> None:
    """Of all daemons."""
    one, two = opened(), opened(host="other")
    for store in (one, two):
        store.note_refusal(event("TEST", 0, door="api"))
    assert sorted(line["host"] for line in one.refusals()) == sorted((one.host, "other"))
    assert list(two.noted_events()) == []


def test_newest_format_needs_no_upgrade(opened: Open, tmp_path: Path) -> None:
    """Nothing is committed where there is nothing to switch."""
    assert upgrade_lun(str(tmp_path), "disk") == (FORMAT, FORMAT)
    store = opened()
    assert store.head().number == 1
    assert store.format() == FORMAT


# --------------------------------------------------------------------------- deleting


def test_deleted_is_deleted_for_all_who_have_it_open(
    kind: str, opened: Open, lun: str, tmp_path: Path
) -> None:
    """And the name is free for another one, which is not theirs."""
    store, idle = opened(), opened()
    store.head()
    idle.head()
    delete_lun(str(tmp_path), "disk")
    assert not os.path.exists(lun)
    for _ in range(2):
        store._where.next_look = 0.0
        with pytest.raises(LunNotFound, match="was deleted"):
            store.head()
    create_lun(str(tmp_path), "disk", store=kind)
    idle._where.next_look = 0.0
    with pytest.raises((StateLost, LunNotFound)):
        idle.head()
    store.tidy()
    idle.tidy()
    assert opened().head().number == 1


def test_deletion_of_a_lun_in_use_is_refused(opened: Open, tmp_path: Path) -> None:
    """A cluster that counts on its keys would lose them."""
    with LogicalUnit(opened()) as unit:
        assert register(unit, A, 1).status == Status.GOOD
    with pytest.raises(StoreError, match="1 registered"):
        delete_lun(str(tmp_path), "disk")
    assert len(opened().head().state.registrations) == 1
    delete_lun(str(tmp_path), "disk", force=True)


def test_deletion_that_was_committed_and_not_carried_out_is_known(
    opened: Open, lun: str, tmp_path: Path
) -> None:
    """Who deletes was killed in between: the LUN is gone all the same, and can be removed."""
    store = opened()
    base = store.head()
    assert store.commit(base, base.state, [], served={}, deleted=True) is not None
    for one in (store, opened()):
        with pytest.raises(LunNotFound, match="was deleted"):
            one.head()
    delete_lun(str(tmp_path), "disk")
    assert not os.path.exists(lun)


# --------------------------------------------------------------------------- making


def test_name_that_is_taken_stays_what_it_is(kind: str, lun: str, tmp_path: Path) -> None:
    """Whichever store is asked for."""
    before = tree(lun)
    for other in stores.KINDS:
        with pytest.raises(LunExists):
            create_lun(str(tmp_path), "disk", store=other)
    assert tree(lun) == before
    assert [name for name in os.listdir(tmp_path) if name.startswith(".new-")] == []


def test_creation_that_fails_leaves_nothing(kind: str, tmp_path: Path) -> None:
    """A disk that cannot sync: neither a LUN nor its number."""

    class Failing(Syscalls):
        def rename(self, source: str, target: str, *, source_fd: int, target_fd: int) -> None:
            if target == "disk":
                raise OSError(5, "Input/output error")
            super().rename(source, target, source_fd=source_fd, target_fd=target_fd)

    with pytest.raises(StoreUnavailable):
        create_lun(str(tmp_path), "disk", store=kind, syscalls=Failing())
    assert tree(str(tmp_path)) == {".numbers": "drwx------"}


def test_files_of_a_lun_are_its_owners_alone_or_the_groups(kind: str, tmp_path: Path) -> None:
    """0600 and 0700, or 0660 and 02770, whatever the umask."""
    old = os.umask(0o077)
    try:
        for name, group, directory, file in (
            ("own", None, 0o700, 0o600),
            ("shared", str(os.getegid()), 0o2770, 0o660),
        ):
            create_lun(str(tmp_path), name, store=kind, group=group)
            with LogicalUnit.open(str(tmp_path / name)) as unit:
                assert register(unit, A, 1).status == Status.GOOD
            for where, directories, names in os.walk(tmp_path / name):
                for one in directories:
                    assert os.lstat(os.path.join(where, one)).st_mode & 0o7777 == directory, one
                for one in names:
                    assert os.lstat(os.path.join(where, one)).st_mode & 0o7777 == file, one
    finally:
        os.umask(old)


# --------------------------------------------------------------------------- the same answers


def test_all_stores_answer_the_same_commands_alike(tmp_path: Path) -> None:
    """The rules never learn which one it is."""
    script = [
        (A, out_cdb(REGISTER), basic_list(0, 1)),
        (B, out_cdb(REGISTER), basic_list(0, 2)),
        (A, out_cdb(RESERVE, type_=3), basic_list(1)),
        (B, out_cdb(RESERVE, type_=3), basic_list(2)),
        (B, out_cdb(PREEMPT, type_=6), basic_list(2, 1)),
        (A, in_cdb(0), b""),
        (C, in_cdb(1), b""),
        (A, out_cdb(RELEASE, type_=3), basic_list(1)),
        (B, out_cdb(RELEASE, type_=6), basic_list(2)),
        (B, out_cdb(CLEAR), basic_list(2)),
        (B, in_cdb(0), b""),
        (A, out_cdb(0x3F), b""),
    ]
    seen = []
    for kind in stores.KINDS:
        create_lun(str(tmp_path), kind, store=kind)
        with LogicalUnit.open(str(tmp_path / kind)) as unit:
            answers = [unit.execute(who, cdb, data) for who, cdb, data in script]
            unit.power_cycle()
            history = [
                (record.number, record.applied.action, record.applied.status, record.applied.raised)
                for record in unit.history()
            ]
            refused = [line["action"] for line in unit.refusals()]
            seen.append((answers, unit.snapshot().state, history, refused))
    assert seen[0] == seen[1]
    assert {answer.status for answer in seen[0][0]} > {Status.GOOD, Status.RESERVATION_CONFLICT}
