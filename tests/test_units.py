"""A thread for each logical unit: what hangs delays nobody else, and every future is answered."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from flockpr import delete_lun, device_index
from flockpr.device_index import list_names
from flockpr.errors import Busy, ConfigError, StoreUnavailable
from flockpr.logical_unit import LogicalUnit, Result
from flockpr.spc.codes import Status
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from flockpr.units import Units
from flockpr.units import worker as module
from tests.support.hanging import Hanging
from tests.support.lun_tools import LOST, NO_LUN, UNKNOWN, register, sense_of
from tests.support.open_files import open_below
from tests.support.scsi import (
    INQUIRY,
    REGISTER,
    RELEASE_6,
    RESERVE_6,
    TEST_UNIT_READY,
    A,
    B,
    basic_list,
    in_cdb,
    keys_in,
    nexus,
    out_cdb,
)

GOOD = Status.GOOD
LONG = 60.0
READ_KEYS = in_cdb(0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """The file server of the LUN "disk" alone."""
    hanging = Hanging()

    def opened(path: str, **options: Any) -> LockDirectory:
        own = hanging if path.endswith("/disk") else None
        return LockDirectory(path, syscalls=own, **options)

    monkeypatch.setattr(module, "open_store", opened)
    yield hanging
    hanging.release()


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Two LUNs."""
    for name in ("disk", "other"):
        create_lun(str(tmp_path), name)
    return str(tmp_path)


@pytest.fixture
def make(root: str) -> Iterator[Callable[[float], Units]]:
    """Makes the units of daemons."""
    made: list[Units] = []

    def one(timeout: float = LONG) -> Units:
        made.append(Units(root, timeout=timeout))
        return made[-1]

    yield one
    for units in made:
        units.close()


def enter(
    units: Units, of: Any, key: int, *, lun: str = "disk", door: str = "api"
) -> Future[Result]:
    """REGISTER."""
    data = basic_list(0, key)
    return units.submit(lun, of, out_cdb(REGISTER), data, door=door, report_attentions=False)


@contextlib.contextmanager
def hurried(units: Units, seconds: float = 0.3) -> Iterator[None]:
    """Commands in here have little time; all others have plenty, on a busy machine too."""
    units._timeout = seconds
    yield
    units._timeout = LONG


def let_time_pass(units: Units) -> None:
    """The time of everything that waits for "disk" is over from now on."""
    worker = units._workers["disk", "api"]
    for request in (worker._current, *worker._queue):
        if request is not None:
            request.deadline = time.monotonic()


def keys(root: str, name: str = "disk") -> list[int]:
    """What another daemon reads."""
    with LogicalUnit.open(f"{root}/{name}") as unit:
        return keys_in(unit.execute(nexus("looker"), READ_KEYS).data_in)


def test_timeout_bounds_every_answer(make: Callable[..., Units], server: Hanging) -> None:
    """Whatever hangs, and however many wait."""
    units = make(0.3)
    server.hang_in("open")
    begun = time.monotonic()
    futures = [enter(units, nexus(f"n{n}"), n + 1) for n in range(20)]

    assert [future.result(LONG) for future in futures] == [Result(Status.BUSY)] * 20
    assert 0.3 <= time.monotonic() - begun < LONG


@pytest.mark.parametrize("call", ["open", "stat", "write"])
def test_hung_lun_is_busy_in_time_while_others_answer(
    root: str, make: Callable[..., Units], server: Hanging, call: str
) -> None:
    """Before the link a command is withdrawn: BUSY, and it never takes effect."""
    units = make()
    if call != "open":
        assert units.submit("disk", A, TEST_UNIT_READY).result(LONG).status == GOOD
    server.hang_in(call)
    stuck = [enter(units, A, 1), enter(units, B, 2)]

    assert server.stuck.wait(LONG)
    assert enter(units, A, 7, lun="other").result(LONG).status == GOOD
    assert not any(future.done() for future in stuck)
    let_time_pass(units)
    assert [future.result(LONG) for future in stuck] == [Result(Status.BUSY)] * 2

    server.release()
    # Once this is answered, what was stuck before it has ended.
    answer = units.submit("disk", A, READ_KEYS)
    assert keys_in(answer.result(LONG).data_in) == []
    assert keys(root) == []
    assert enter(units, A, 3).result(LONG).status == GOOD


def test_hung_link_is_outcome_unknown_and_those_behind_it_are_busy(
    root: str, make: Callable[..., Units], server: Hanging
) -> None:
    """It cannot be withdrawn any more: it takes effect when the server is back."""
    units = make()
    assert units.submit("disk", A, TEST_UNIT_READY).result(LONG).status == GOOD
    server.hang_in("link")
    issued = enter(units, A, 1)
    assert server.stuck.wait(LONG)
    behind = enter(units, B, 2)
    let_time_pass(units)

    assert sense_of(issued.result(LONG)) == UNKNOWN
    assert behind.result(LONG) == Result(Status.BUSY)
    assert enter(units, A, 7, lun="other").result(LONG).status == GOOD

    server.release()
    answer = units.submit("disk", A, READ_KEYS)
    assert keys_in(answer.result(LONG).data_in) == [1]
    assert keys(root) == [1]


def test_queue_that_is_full_is_task_set_full_at_once(
    make: Callable[..., Units], server: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded memory; what waits is answered all the same, and what a door says is taken."""
    monkeypatch.setattr(module, "MAX_QUEUED", 5)
    units = make()
    assert units.submit("disk", A, TEST_UNIT_READY).result(LONG).status == GOOD
    server.hang_in("stat")
    first = enter(units, A, 1)
    assert server.stuck.wait(LONG)
    waiting = [enter(units, nexus(f"n{n}"), n + 2) for n in range(5)]

    full = enter(units, B, 99)
    assert full.done()
    assert full.result() == Result(Status.TASK_SET_FULL)
    units.attend("disk", B)
    units.leave("disk", B)
    assert enter(units, B, 7, lun="other").result(LONG).status == GOOD

    server.release()
    assert [future.result(LONG).status for future in (first, *waiting)] == [GOOD] * 6
    found = units.submit("disk", A, READ_KEYS).result(LONG)
    assert keys_in(found.data_in) == [1, 2, 3, 4, 5, 6]


def test_bound_of_the_queue_is_a_thousand() -> None:
    """Far more than QEMU keeps in flight."""
    assert module.MAX_QUEUED == 1024


def test_leave_behind_a_hung_command_is_not_lost(
    root: str, make: Callable[..., Units], server: Hanging
) -> None:
    """A reservation would otherwise stand for a nexus that is gone."""
    units = make()
    assert units.submit("disk", A, RESERVE_6, report_attentions=False).result(LONG).status == GOOD
    server.hang_in("stat")
    with hurried(units):
        hung = units.submit("disk", B, TEST_UNIT_READY)
    units.leave("disk", A)
    assert server.stuck.wait(LONG)
    assert hung.result(LONG).status == Status.BUSY

    server.release()
    with LogicalUnit.open(f"{root}/disk") as other:
        deadline = time.monotonic() + LONG
        while other.snapshot().state.spc2 is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_doors_of_one_lun_have_threads_of_their_own(
    root: str, make: Callable[..., Units], server: Hanging
) -> None:
    """And are named in the audit trail."""
    units = make()
    assert enter(units, A, 1, door="helper").result(LONG).status == GOOD
    assert enter(units, B, 2, door="target").result(LONG).status == GOOD

    with LogicalUnit.open(f"{root}/disk") as unit:
        assert [record.applied.door for record in unit.history(2)] == ["helper", "target"]
    names = {thread.name for thread in threading.enumerate()}
    assert "lun-disk" in names


def test_close_finishes_what_is_queued(root: str, make: Callable[..., Units]) -> None:
    """Nothing accepted is dropped; what comes afterwards is refused."""
    units = make()
    futures = [enter(units, nexus(f"n{n}"), n + 1) for n in range(10)]

    assert units.close() is True

    assert [future.result(0).status for future in futures] == [GOOD] * 10
    assert keys(root) == list(range(1, 11))
    late = enter(units, A, 99)
    assert late.result(LONG).status == Status.TASK_SET_FULL


def test_close_of_a_hung_lun_answers_and_says_so(
    make: Callable[..., Units], server: Hanging
) -> None:
    """No future stays open, whatever the file server does."""
    units = make()
    assert units.submit("disk", A, TEST_UNIT_READY).result(LONG).status == GOOD
    server.hang_in("link")
    issued = enter(units, A, 1)
    assert server.stuck.wait(LONG)
    waiting = enter(units, B, 2)

    assert units.close(timeout=0.05) is False

    assert sense_of(issued.result(0)) == UNKNOWN
    assert waiting.result(0) == Result(Status.BUSY)


def test_lun_that_does_not_exist_is_told_and_found_later(
    root: str, make: Callable[..., Units], monkeypatch: pytest.MonkeyPatch
) -> None:
    """05/25/00 until it is created, without a restart."""
    monkeypatch.setattr(module, "REOPEN_AFTER", 0.0)
    units = make()
    assert sense_of(units.submit("later", A, TEST_UNIT_READY).result(LONG)) == NO_LUN

    create_lun(root, "later")

    assert units.submit("later", A, TEST_UNIT_READY).result(LONG).status == GOOD


def test_lun_that_cannot_be_opened_is_not_tried_for_each_command(
    root: str, make: Callable[..., Units], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that is told so asks a hundred times a second."""
    monkeypatch.setattr(module, "REOPEN_AFTER", 3600.0)
    Path(root, "disk", "lun.json").write_text("{")
    tries = []

    def opened(path: str, **options: Any) -> LockDirectory:
        tries.append(path)
        return LockDirectory(path, **options)

    monkeypatch.setattr(module, "open_store", opened)
    units = make()
    for _ in range(5):
        assert sense_of(units.submit("disk", A, TEST_UNIT_READY).result(LONG)) == LOST

    assert len(tries) == 1


@pytest.mark.parametrize("name", ["", "..", "a/b", ".numbers"])
def test_name_that_no_lun_can_have_is_refused(make: Callable[..., Units], name: str) -> None:
    """Before any thread or path is made of it."""
    units = make()
    before = set(threading.enumerate())

    with pytest.raises(ConfigError):
        units.submit(name, A, TEST_UNIT_READY)
    assert set(threading.enumerate()) <= before  # threads of earlier tests may end meanwhile


def test_internal_error_is_answered_and_survived(
    make: Callable[..., Units], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """04/44/00 for that command; the LUN's thread goes on."""
    units = make()
    assert units.submit("disk", A, TEST_UNIT_READY).result(LONG).status == GOOD

    def broken(*_: object, **__: object) -> Result:
        raise RuntimeError("a mistake of ours")

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(LogicalUnit, "attempt_all", broken)
        patch.setattr(LogicalUnit, "tidy", broken)
        assert sense_of(units.submit("disk", A, TEST_UNIT_READY).result(LONG)) == (4, 0x44, 0)
    assert "a mistake of ours" in caplog.text

    assert units.submit("disk", A, TEST_UNIT_READY).result(LONG).status == GOOD


def test_attend_and_leave_are_seen_by_other_daemons(root: str, make: Callable[..., Units]) -> None:
    """In the order in which they were said."""
    units = make()
    assert enter(units, A, 1).result(LONG).status == GOOD
    for say, expected in ((units.leave, "gone"), (units.attend, "alive")):
        say("disk", A)
        assert units.submit("disk", B, TEST_UNIT_READY).result(LONG).status == GOOD
        with LogicalUnit.open(f"{root}/disk") as other:
            (entry,) = other.status().to_json()["registrations"]
            assert entry["liveness"] == expected


def liveness(root: str) -> str:
    """Of the only registration of "disk", as another daemon sees it."""
    with LogicalUnit.open(f"{root}/disk") as other:
        (entry,) = other.status().to_json()["registrations"]
        return str(entry["liveness"])


@pytest.mark.parametrize(("gone", "expected"), [(False, "alive"), (True, "gone")])
def test_attend_while_the_lun_cannot_be_opened_is_made_up_for(
    root: str,
    make: Callable[..., Units],
    monkeypatch: pytest.MonkeyPatch,
    gone: bool,
    expected: str,
) -> None:
    """A guest that only reads would count as gone for as long as it is connected."""
    with LogicalUnit.open(f"{root}/disk") as unit:
        assert register(unit, A, 1).status == GOOD
    monkeypatch.setattr(module, "REOPEN_AFTER", 0.0)
    identity = Path(root, "disk", "lun.json")
    text = identity.read_text()
    identity.write_text("{")
    units = make()
    units.attend("disk", A)
    assert sense_of(units.submit("disk", B, TEST_UNIT_READY).result(LONG)) == LOST
    if gone:
        units.leave("disk", A)

    identity.write_text(text)

    assert units.submit("disk", B, TEST_UNIT_READY).result(LONG).status == GOOD
    assert liveness(root) == expected


def test_attend_while_the_state_cannot_be_read_is_made_up_for(
    root: str, make: Callable[..., Units], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The LUN is open, and its server answers with an error for a moment."""
    units = make()
    assert enter(units, A, 1).result(LONG).status == GOOD
    units.leave("disk", A)
    assert units.submit("disk", B, TEST_UNIT_READY).result(LONG).status == GOOD

    def broken(_: LockDirectory) -> Any:
        raise StoreUnavailable("for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(LockDirectory, "head", broken)
        units.attend("disk", A)
        assert sense_of(units.submit("disk", B, TEST_UNIT_READY).result(LONG)) == (2, 4, 1)
    assert liveness(root) == "gone"

    assert units.submit("disk", B, TEST_UNIT_READY).result(LONG).status == GOOD
    assert liveness(root) == "alive"


def test_coming_and_going_at_a_hung_lun_takes_no_memory(
    root: str, make: Callable[..., Units], server: Hanging
) -> None:
    """A supervisor that restarts a guest all night; the last word counts, and so does that
    it was gone in between: its SPC-2 reservation ends.
    """
    units = make()
    assert units.submit("disk", B, RESERVE_6, report_attentions=False).result(LONG).status == GOOD
    server.hang_in("stat")
    hung = units.submit("disk", nexus("other"), INQUIRY)
    assert server.stuck.wait(LONG)
    for _ in range(1000):
        for of in (A, B):
            units.attend("disk", of)
            units.leave("disk", of)
    units.attend("disk", B)
    worker = units._workers["disk", "api"]
    assert (len(worker._wishes), len(worker._queue)) == (2, 0)

    server.release()
    assert hung.result(LONG).status == GOOD
    answer = units.submit("disk", A, TEST_UNIT_READY, report_attentions=False)
    assert answer.result(LONG).status == GOOD  # B's reservation would make it a conflict


def test_leave_waits_for_the_commands_that_were_before_it(
    root: str, make: Callable[..., Units], server: Hanging
) -> None:
    """Done too early, it would leave a nexus alive that is gone."""
    units = make()
    assert units.submit("disk", A, TEST_UNIT_READY).result(LONG).status == GOOD
    server.hang_in("stat")
    units.attend("disk", A)
    futures = [enter(units, A, 1)]
    assert server.stuck.wait(LONG)
    units.leave("disk", A)

    server.release()
    futures.append(units.submit("disk", B, TEST_UNIT_READY))
    assert [future.result(LONG).status for future in futures] == [GOOD, GOOD]
    assert liveness(root) == "gone"


def test_deleted_lun_is_gone_for_the_daemon_that_serves_it(
    root: str, make: Callable[..., Units]
) -> None:
    """And the others stay."""
    units = make()
    assert units.submit("disk", A, TEST_UNIT_READY).result(LONG).status == GOOD
    delete_lun(root, "disk", force=True)

    assert sense_of(units.submit("disk", A, READ_KEYS).result(LONG)) == NO_LUN
    assert enter(units, A, 1, lun="other").result(LONG).status == GOOD


def _delete(root: str) -> None:
    delete_lun(root, "disk")


def _replace(root: str) -> None:
    """Somebody moves it away, and a restored backup into its place."""
    os.rename(f"{root}/disk", f"{root}/away")
    # Without what the daemon is about to rename: it tidies up at this moment.
    passing = shutil.ignore_patterns(".aside-*")
    shutil.copytree(f"{root}/away", f"{root}/disk", ignore=passing)


@pytest.mark.parametrize(("happen", "sense"), [(_delete, NO_LUN), (_replace, LOST)])
def test_lun_that_is_lost_is_let_go_and_stays_lost(
    root: str, make: Callable[..., Units], happen: Callable[[str], None], sense: tuple[int, ...]
) -> None:
    """Open files of a deleted directory stay on NFS; a new LUN of that name is another disk."""
    units = make()
    assert units.submit("disk", A, TEST_UNIT_READY).result(LONG).status == GOOD
    assert units.submit("disk", A, RESERVE_6, report_attentions=False).result(LONG).status == GOOD
    assert units.submit("disk", A, RELEASE_6, report_attentions=False).result(LONG).status == GOOD
    assert open_below(root)
    happen(root)

    deadline = time.monotonic() + LONG  # the path is looked at now and then, not for each
    while sense_of(units.submit("disk", A, RESERVE_6).result(LONG)) != sense:
        assert time.monotonic() < deadline
    while open_below(root):
        assert time.monotonic() < deadline
        time.sleep(0.01)

    if happen is _delete:
        create_lun(root, "disk")
    for say in (units.attend, units.leave):
        say("disk", A)
    for _ in range(2):
        assert sense_of(units.submit("disk", A, TEST_UNIT_READY).result(LONG)) == sense
    assert units.submit("disk", A, INQUIRY).result(LONG).status == GOOD  # reference 4.11
    assert not open_below(root)


def test_lun_that_a_door_forgot_is_opened_anew(root: str, make: Callable[..., Units]) -> None:
    """One that was made under the name of one that was deleted is served; other doors stay."""
    units = make()
    for door in ("api", "other"):
        assert units.submit("disk", A, TEST_UNIT_READY, door=door).result(LONG).status == GOOD
    delete_lun(root, "disk")
    for door in ("api", "other"):
        assert sense_of(units.submit("disk", A, READ_KEYS, door=door).result(LONG)) == NO_LUN
    create_lun(root, "disk")
    units.forget("disk")
    units.forget("nobody")
    assert units.submit("disk", A, READ_KEYS).result(LONG).status == GOOD
    assert sense_of(units.submit("disk", A, READ_KEYS, door="other").result(LONG)) == NO_LUN
    assert units.close(LONG)


@pytest.mark.parametrize("what", ["disk", "the root"])
def test_lun_that_is_missing_is_not_ready_and_comes_back(
    root: str, make: Callable[..., Units], caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """02/04/01 while its share is away, said once in the log; then on without a restart."""
    units = make()
    assert enter(units, A, 1).result(LONG).status == GOOD
    path = root if what == "the root" else f"{root}/disk"
    os.rename(path, f"{path}.away")

    deadline = time.monotonic() + LONG
    while sense_of(units.submit("disk", A, READ_KEYS).result(LONG)) != (2, 4, 1):
        assert time.monotonic() < deadline
    for _ in range(5):
        assert sense_of(enter(units, A, 2).result(LONG)) == (2, 4, 1)
    assert caplog.text.count("is missing") == 1

    os.rename(f"{path}.away", path)
    assert units.submit("disk", A, READ_KEYS).result(LONG).data_in[8:] == (1).to_bytes(8, "big")
    assert enter(units, B, 2).result(LONG).status == GOOD


def test_lun_of_a_missing_root_is_not_ready_and_opened_when_it_is_there(
    root: str, make: Callable[..., Units], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that starts before its share is mounted does not say that there is no LUN."""
    monkeypatch.setattr(module, "REOPEN_AFTER", 0.0)
    units = make()
    os.rename(root, f"{root}.away")
    assert sense_of(units.submit("disk", A, READ_KEYS).result(LONG)) == (2, 4, 1)
    with pytest.raises(StoreUnavailable, match="does not exist"):
        units.find_by_wwid(["naa.6"])

    os.rename(f"{root}.away", root)
    assert units.submit("disk", A, READ_KEYS).result(LONG).status == GOOD


def test_device_table_that_cannot_be_read_in_time_is_busy(
    root: str, make: Callable[..., Units], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root hangs: whoever asks which LUN a disk is waits a bounded time."""
    gate = threading.Event()

    def hanging(path: str) -> list[str]:
        gate.wait(LONG)
        return list_names(path)

    monkeypatch.setattr(device_index, "list_names", hanging)
    units = make(0.2)  # this table's own patience
    for _ in range(2):
        with pytest.raises(Busy, match="cannot be listed in time"):
            units.find_by_wwid(["naa.6"])
    readers = [thread for thread in threading.enumerate() if thread.name == "device-index"]
    assert len(readers) == 1  # one thread hangs, not one for each question

    gate.set()
    readers[0].join(LONG)
    units._index._timeout = LONG
    assert units.find_by_wwid(["naa.6"]) is None


def test_reply_is_not_delayed_by_upkeep(
    root: str, make: Callable[..., Units], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The view is published after the answer, and before long."""
    order = []
    real = LogicalUnit.tidy

    def noted(unit: LogicalUnit) -> None:
        order.append(future.done())
        real(unit)

    units = make()
    monkeypatch.setattr(LogicalUnit, "tidy", noted)
    future = enter(units, A, 1)
    assert future.result(LONG).status == GOOD
    assert units.close()

    assert order[0] is True
    with LogicalUnit.open(f"{root}/disk") as unit:
        assert unit.status().to_json()["published"] == 2
        assert register(unit, B, 2).status == GOOD


def published(root: str) -> int | None:
    """Number of the transaction that `registry.json` shows."""
    with LogicalUnit.open(f"{root}/disk") as unit:
        return unit.status().published


def eventually(root: str, number: int) -> None:
    """Wait until `registry.json` shows a transaction."""
    deadline = time.monotonic() + LONG
    while published(root) != number:
        assert time.monotonic() < deadline, f"{published(root)} is still published"
        time.sleep(0.01)


def test_view_is_published_in_a_pause_without_a_further_command(
    root: str, make: Callable[..., Units]
) -> None:
    """Readers of it need not wait for whoever comes next."""
    units = make()
    for number in (2, 3):
        assert enter(units, nexus(f"guest{number}"), number).result(LONG).status == GOOD
        eventually(root, number)


def test_view_is_not_published_between_commands_and_when_the_units_close(
    root: str, make: Callable[..., Units], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a pause a command does not wait for that of the one before it."""
    monkeypatch.setattr(module, "PAUSE", LONG * 2)
    monkeypatch.setattr(module, "TIDY_AFTER", LONG * 2)
    units = make()
    for key in range(1, 6):
        assert enter(units, nexus(f"guest{key}"), key).result(LONG).status == GOOD
        assert published(root) == 1
    assert units.close()
    assert published(root) == 6


def test_view_is_published_under_load_without_a_pause(
    root: str, make: Callable[..., Units], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second after the first command that it does not show, however many come."""
    monkeypatch.setattr(module, "PAUSE", LONG * 2)
    monkeypatch.setattr(module, "TIDY_AFTER", 0.0)
    units = make()
    for key in (1, 2, 3):
        assert enter(units, nexus(f"guest{key}"), key).result(LONG).status == GOOD
        eventually(root, key + 1)
