"""Nothing is looked for where the kernel would have said that something changed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flockpr.logical_unit import LogicalUnit, Result
from flockpr.spc.codes import Status
from flockpr.store import vigil as module
from flockpr.store.layout import COMMITS, commit_name
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from flockpr.store.syscalls import Syscalls
from flockpr.store.vigil import NOBODY, Vigil, keep_vigil
from tests.support.lun_tools import directory_of, register
from tests.support.open_files import open_descriptors
from tests.support.scsi import A, B, in_cdb, keys_in

READ_KEYS = in_cdb(0)
PATIENCE = 60.0


class Counting(Syscalls):
    """Counts looks at names."""

    looks = 0
    waits = 0

    def await_changes(self, fd: int) -> None:
        """See `Syscalls.await_changes`."""
        self.waits += 1
        super().await_changes(fd)

    def stat(self, name: str, *, dir_fd: int) -> os.stat_result:
        """See `Syscalls.stat`."""
        self.looks += 1
        return super().stat(name, dir_fd=dir_fd)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else this process watches is not counted here."""
    monkeypatch.setattr(module, "_queue", None)


@pytest.fixture
def calls() -> Counting:
    """The system calls of the daemon."""
    return Counting()


@pytest.fixture
def lun(tmp_path: Path) -> str:
    """The directory of a logical unit, on a file system whose kernel tells."""
    create_lun(str(tmp_path), "disk")
    found = str(tmp_path / "disk")
    fd = os.open(found, os.O_RDONLY)
    try:
        watch = Syscalls().keep_vigil(fd)
    finally:
        os.close(fd)
    if watch is NOBODY:
        pytest.skip("the temporary directory is on a file system that is not watched")
    watch.end()
    return found


@pytest.fixture
def one(lun: str, calls: Counting) -> Iterator[LogicalUnit]:
    """A daemon, of which A has read keys until the kernel keeps vigil."""
    with LogicalUnit(LockDirectory(lun, syscalls=calls), keep_tidy=False) as unit:
        assert register(unit, A, 1) == Result(Status.GOOD)
        for _ in range(3):
            assert keys(unit) == [1]
        yield unit


@pytest.fixture
def two(lun: str) -> Iterator[LogicalUnit]:
    """Another daemon."""
    with LogicalUnit.open(lun) as unit:
        yield unit


def keys(unit: LogicalUnit) -> list[int] | None:
    """What A reads at once."""
    result = unit.read_at_once(A, READ_KEYS)
    return None if result is None else keys_in(result.data_in)


def asked(unit: LogicalUnit) -> list[int]:
    """What A reads when it waits."""
    return keys_in(unit.execute(A, READ_KEYS, report_attentions=False).data_in)


def head_of(unit: LogicalUnit, lun: str) -> str:
    """The path of the newest commit."""
    return os.path.join(lun, COMMITS, commit_name(unit.snapshot().number))


def test_nothing_is_looked_for_while_nothing_changes(one: LogicalUnit, calls: Counting) -> None:
    """However often one asks."""
    before = calls.looks
    for _ in range(100):
        assert keys(one) == [1]
    assert calls.looks == before


def test_commit_of_another_daemon_is_seen_by_the_next_read(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """And by each that follows until somebody has asked: that there was an event is not forgotten
    because it was read.
    """
    assert register(two, B, 2) == Result(Status.GOOD)
    assert keys(one) is None
    assert keys(one) is None
    assert asked(one) == [1, 2]
    for _ in range(5):
        assert keys(one) == [1, 2]


def test_own_commits_are_seen_as_well(one: LogicalUnit) -> None:
    """A command of another nexus of this daemon changes what A reads."""
    for key in range(2, 30):
        assert register(one, B, key, key - 1 if key > 2 else 0) == Result(Status.GOOD)
        for _ in range(3):
            assert (keys(one) or asked(one)) == [1, key]


def test_commit_of_another_process_is_seen(one: LogicalUnit, lun: str, calls: Counting) -> None:
    """The kernel tells of whatever changes a directory, whoever does it."""
    script = (
        "import sys; from flockpr.logical_unit import LogicalUnit\n"
        "from tests.support.lun_tools import register; from tests.support.scsi import B\n"
        "with LogicalUnit.open(sys.argv[1]) as unit: register(unit, B, 2)"
    )
    before = calls.looks
    assert keys(one) == [1]
    assert calls.looks == before
    subprocess.run([sys.executable, "-c", script, lun], check=True, timeout=PATIENCE)
    assert keys(one) is None
    assert asked(one) == [1, 2]


def test_who_finds_a_commit_waits_until_others_are_told(
    one: LogicalUnit, two: LogicalUnit, calls: Counting
) -> None:
    """A name is there before the kernel tells of it; in between, somebody who keeps vigil would
    still answer by what was before, to a client that has heard of the new one here.
    """
    before = calls.waits
    assert register(two, B, 2) == Result(Status.GOOD)
    assert keys(one) is None
    assert calls.waits == before
    assert asked(one) == [1, 2]
    assert calls.waits == before + 1
    assert register(one, A, 3, 1) == Result(Status.GOOD)  # of its own the link has returned
    assert asked(one) == [3, 2]
    assert calls.waits == before + 1


def _removed(path: str) -> None:
    os.unlink(path)


def _replaced(path: str) -> None:
    with open(f"{path}.new", "wb") as file, open(path, "rb") as old:
        file.write(old.read())
    os.rename(f"{path}.new", path)


def _overwritten(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(b"{")
        file.truncate()


def _moved_away(path: str) -> None:
    os.rename(path, os.path.join(os.path.dirname(path), os.pardir, "elsewhere"))


@pytest.mark.parametrize("harm", [_removed, _replaced, _overwritten, _moved_away])
def test_newest_commit_that_does_not_stand_any_more_is_not_answered_by(
    one: LogicalUnit, lun: str, harm: Callable[[str], None]
) -> None:
    """Whatever somebody does to it by hand."""
    harm(head_of(one, lun))
    assert keys(one) is None
    assert keys(one) is None


def test_what_changes_elsewhere_costs_no_look(
    one: LogicalUnit, calls: Counting, tmp_path: Path
) -> None:
    """All directories share one queue of events."""
    create_lun(str(tmp_path), "other")
    with LogicalUnit.open(str(tmp_path / "other")) as other:
        assert register(other, A, 7) == Result(Status.GOOD)
        for _ in range(3):
            keys(other)
        for key in range(8, 12):
            assert register(other, A, key, key - 1) == Result(Status.GOOD)
            before = calls.looks
            assert keys(one) == [1]
            assert calls.looks == before
            assert (keys(other) or asked(other)) == [key]


def test_two_daemons_of_one_process_are_told_both(
    one: LogicalUnit, two: LogicalUnit, lun: str
) -> None:
    """To the kernel they are one who watches; when one ends the other goes on."""
    two.execute(B, READ_KEYS, report_attentions=False)
    for _ in range(3):
        assert two.read_at_once(B, READ_KEYS) is not None
    assert module._queue is not None
    assert [len(many) for many in module._queue.watches.values()] == [2]
    two.close()
    with LogicalUnit.open(lun) as third:
        assert register(third, B, 2) == Result(Status.GOOD)
    assert keys(one) is None
    assert asked(one) == [1, 2]


def test_who_does_not_ask_any_more_is_not_told_any_more(
    one: LogicalUnit, two: LogicalUnit, calls: Counting
) -> None:
    """What nobody fetches would fill the memory of the kernel."""
    chain = directory_of(one)._transactions
    chain.rest()
    assert watches() == 1
    chain.rest()
    assert watches() == 0
    assert register(two, B, 2) == Result(Status.GOOD)
    assert keys(one) is None
    assert asked(one) == [1, 2]
    for _ in range(3):
        assert keys(one) == [1, 2]
    before = calls.looks
    assert keys(one) == [1, 2]
    assert calls.looks == before


def test_end_of_the_last_one_closes_the_queue(one: LogicalUnit) -> None:
    """An idle process has no descriptor for it."""
    before = queues()
    one.close()
    assert queues() == before - 1


def test_where_the_kernel_has_no_room_names_are_looked_for(
    lun: str, calls: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may have 128 queues, and so many directories in them."""

    def full() -> None:
        raise OSError(24, "no more of these")

    monkeypatch.setattr(module, "_Queue", full)
    with LogicalUnit(LockDirectory(lun, syscalls=calls), keep_tidy=False) as unit:
        assert register(unit, A, 1) == Result(Status.GOOD)
        for _ in range(3):
            before = calls.looks
            assert keys(unit) == [1]
            assert calls.looks == before + 2


# --------------------------------------------------------------------------- the queue itself


@pytest.fixture
def directory(tmp_path: Path, lun: str) -> Iterator[int]:
    """A directory that can be watched."""
    assert lun
    (tmp_path / "watched").mkdir()
    fd = os.open(tmp_path / "watched", os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def watch(directory: int) -> Iterator[Vigil]:
    """Its vigil."""
    found = keep_vigil(directory)
    yield found
    found.end()


def touch(directory: int, name: str) -> None:
    """Change it."""
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=directory))


def watches() -> int:
    """How many directories are watched by this process."""
    return 0 if module._queue is None else len(module._queue.watches)


def queues() -> int:
    """How many queues this process has open."""
    return sum(1 for _, found in open_descriptors() if found == "anon_inode:inotify")


def test_before_it_begins_nothing_is_certain(watch: Vigil) -> None:
    """What was there before is for whoever begins to look at."""
    assert not watch.undisturbed()
    watch.begin()
    assert watch.undisturbed()
    assert watch.undisturbed()


def test_more_events_than_are_read_at_once_disturb_everybody(
    watch: Vigil, directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours may be among those that were left."""
    monkeypatch.setattr(module, "_ROOM", 256)
    other_fd = os.open(tmp_path, os.O_RDONLY)
    other = keep_vigil(other_fd)
    try:
        other.begin()
        watch.begin()
        for number in range(50):
            touch(other_fd, f"file-{number}")
        touch(directory, "ours")
        assert not watch.undisturbed()
        watch.begin()
        assert not watch.undisturbed()
    finally:
        other.end()
        os.close(other_fd)


def test_queue_that_ran_over_disturbs_everybody(watch: Vigil, directory: int) -> None:
    """Then the kernel says that it has dropped something, and not what."""
    watch.begin()
    assert module._queue is not None
    module._queue._tell(-1, module._OVERFLOW)
    assert not watch.undisturbed()


def test_quiet_waits_for_nobody(watch: Vigil, directory: int, tmp_path: Path) -> None:
    """An event of whatever directory, which was not told yet, is enough to say no."""
    assert not watch.quiet()
    watch.begin()
    assert watch.quiet()
    other_fd = os.open(tmp_path, os.O_RDONLY)
    other = keep_vigil(other_fd)
    try:
        touch(other_fd, "elsewhere")
        assert module._queue is not None
        with module._queue.lock:  # nobody has to let go of it
            assert not watch.quiet()
        assert watch.undisturbed()
        assert watch.quiet()
        touch(directory, "here")
        assert not watch.quiet()
        assert not watch.undisturbed()
        assert not watch.quiet()
    finally:
        other.end()
        os.close(other_fd)
    watch.end()
    assert not watch.quiet()


def test_event_that_is_told_while_quiet_asks(
    watch: Vigil, directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread has told of it between the look at the mark and that at the queue."""
    watch.begin()
    queue = module._queue
    assert queue is not None
    anything = queue.anything

    def late(size: bytearray) -> bool:
        touch(directory, "file")
        with queue.lock:
            queue.drain()
        return anything(size)

    monkeypatch.setattr(queue, "anything", late)
    assert not watch.quiet()


def test_directory_that_is_removed_is_never_undisturbed_again(lun: str, tmp_path: Path) -> None:
    """The kernel stops telling of it, and says so, when the last one has closed it."""
    assert lun
    (tmp_path / "gone").mkdir()
    fd = os.open(tmp_path / "gone", os.O_RDONLY)
    watch = keep_vigil(fd)
    watch.begin()
    os.rmdir(tmp_path / "gone")
    os.close(fd)
    for _ in range(3):
        assert not watch.undisturbed()
        watch.begin()
    watch.end()
    watch.end()
    assert not watch.undisturbed()


def test_who_asks_while_another_thread_reads_events_waits_for_what_they_say(
    watch: Vigil, directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of the queue, and not told yet: neither a look at the queue nor the mark shows it."""
    read, reading, go_on = os.read, threading.Event(), threading.Event()

    def slowly(fd: int, size: int) -> bytes:
        data = read(fd, size)
        reading.set()
        assert go_on.wait(PATIENCE)
        return data

    watch.begin()
    touch(directory, "file")
    monkeypatch.setattr(os, "read", slowly)
    first = threading.Thread(target=watch.undisturbed)
    first.start()
    try:
        assert reading.wait(PATIENCE)
        answers: list[bool] = []
        second = threading.Thread(target=lambda: answers.append(watch.undisturbed()))
        second.start()
        second.join(0.05)
        assert answers in ([], [False])
    finally:
        go_on.set()
        first.join()
    second.join()
    assert answers == [False]


def test_child_process_leaves_the_events_to_its_parent(tmp_path: Path, directory: int) -> None:
    """Both have the same queue after a fork: what one reads the other never hears of."""
    script = """
import os, sys
from flockpr.store import vigil
fd = os.open(sys.argv[1], os.O_RDONLY)
watch = vigil.keep_vigil(fd)
watch.begin()
os.close(os.open(sys.argv[1] + "/file", os.O_CREAT | os.O_WRONLY))
child = os.fork()
if child == 0:
    found = watch.undisturbed()
    watch.begin()
    found = found or watch.undisturbed()
    watch.end()
    own = vigil.keep_vigil(fd)
    own.begin()
    os._exit(1 if found else 0 if own.undisturbed() else 2)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert status == 0, status
assert not watch.undisturbed()
watch.begin()
assert watch.undisturbed()
"""
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "watched")]
    subprocess.run(command, check=True, timeout=PATIENCE)
