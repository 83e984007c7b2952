"""What nobody waits for: done soon, in turn, bounded, and never kept by a server that hangs."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flockpr.errors import Busy, StoreUnavailable
from flockpr.store import errands
from flockpr.store.errands import MOST, Errands
from flockpr.store.layout import ASIDE_PREFIX
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from tests.support.disks import wait_until
from tests.support.hanging import LONG, Hanging
from tests.support.lun_tools import append
from tests.support.open_files import open_below

A_MOMENT = 0.05


class Stuck:
    """Work that is not done before it may be."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.gate = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.gate.wait(LONG)


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    """Ends with the test."""
    made = Stuck()
    yield made
    made.gate.set()


@pytest.fixture
def runner() -> Iterator[Errands]:
    """What a store has."""
    made = Errands()
    yield made
    made.close()


def test_work_is_done_by_another_thread_in_turn(runner: Errands) -> None:
    """One after the other, and all of it."""
    done: list[tuple[int, int]] = []
    for number in range(20):
        runner.run(lambda n=number: done.append((n, threading.get_ident())))  # type: ignore[misc]
        while len(done) <= number:
            time.sleep(0.001)
    assert [number for number, _ in done] == list(range(20))
    (one,) = {thread for _, thread in done}
    assert one != threading.get_ident()


def test_what_is_too_much_is_done_by_who_wants_it_done(runner: Errands, stuck: Stuck) -> None:
    """So nothing piles up behind a server that does not answer."""
    done: list[tuple[int, bool]] = []
    mine = threading.get_ident()
    runner.run(stuck)
    assert stuck.begun.wait(LONG)
    for number in range(1, MOST + 2):
        runner.run(lambda n=number: done.append((n, threading.get_ident() == mine)))  # type: ignore[misc]
    assert done == [(MOST, True), (MOST + 1, True)]
    stuck.gate.set()
    runner.close()
    assert done[2:] == [(number, False) for number in range(1, MOST)]


def test_thread_ends_when_there_is_nothing_to_do(
    runner: Errands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And there is another one when there is."""
    monkeypatch.setattr(errands, "IDLE", A_MOMENT)
    seen: list[threading.Thread] = []
    for number in range(1, 4):
        runner.run(lambda: seen.append(threading.current_thread()))
        wait_until(lambda n=number: len(seen) == n and not seen[-1].is_alive())  # type: ignore[misc]
    assert len(set(seen)) == 3


def test_work_that_raises_keeps_nobody_from_what_comes_after_it(
    runner: Errands, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told of; the same thread does the next one."""
    done: list[int] = []

    def broken() -> None:
        done.append(threading.get_ident())
        raise MemoryError

    for number in range(1, 2 * MOST):
        runner.run(broken)
        wait_until(lambda n=number: len(done) == n)  # type: ignore[misc]
    runner.run(lambda: done.append(threading.get_ident()))
    runner.close()
    assert len(done) == 2 * MOST
    (one,) = set(done)
    assert one != threading.get_ident()
    assert "MemoryError" in caplog.text


def test_closing_waits_for_what_is_left_and_not_for_ever(
    stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes afterwards is done at once."""
    runner, done = Errands(), threading.Event()
    runner.run(lambda: time.sleep(A_MOMENT))
    runner.run(done.set)
    runner.close()
    assert done.is_set()

    monkeypatch.setattr(errands, "PATIENCE", A_MOMENT)
    runner, late, after = Errands(), threading.Event(), threading.Event()
    runner.run(stuck)
    runner.run(late.set)
    begun = time.monotonic()
    runner.close()
    assert time.monotonic() - begun < LONG / 2
    runner.run(after.set)
    assert after.is_set()
    assert not late.is_set()
    stuck.gate.set()
    assert late.wait(LONG)


def test_without_a_thread_it_is_done_at_once(
    runner: Errands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that may have no more of them still removes what it made."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    done = threading.Event()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    runner.run(done.set)
    assert done.is_set()


# --------------------------------------------------------------------------- a store on a share


class Share(Hanging):
    """A file system of many hosts, of which one call does not return."""

    def coherent(self, fd: int) -> bool:
        """See `Syscalls.coherent`."""
        return os.fstat(fd).st_dev < 0

    def answers_now(self, fd: int) -> bool:
        """See `Syscalls.answers_now`."""
        return os.fstat(fd).st_dev >= 0


@pytest.fixture
def share() -> Iterator[Share]:
    """It goes on in the end."""
    made = Share()
    yield made
    made.release()


@pytest.fixture
def lun(tmp_path: Path) -> str:
    """A lock directory."""
    create_lun(str(tmp_path), "disk")
    return str(tmp_path / "disk")


def asides(lun: str) -> list[str]:
    """What was written aside and is there yet."""
    return [name for name in os.listdir(f"{lun}/commits") if name.startswith(ASIDE_PREFIX)]


@pytest.mark.parametrize("call", ["unlink", "close of a file"])
def test_commits_go_on_while_what_was_written_aside_cannot_be_cleared_away(
    lun: str, share: Share, call: str
) -> None:
    """A few of them; closing the store goes on as well, and nothing is left in the end."""
    before = open_below(lun)
    store = LockDirectory(lun, syscalls=share, errands=Errands())
    share.hang_in(call)
    append(store, MOST)
    assert share.stuck.wait(LONG)
    assert len(asides(lun)) == MOST
    assert store.head().number == MOST + 1
    begun = time.monotonic()
    store.close()
    assert time.monotonic() - begun < LONG / 2
    share.release()
    wait_until(lambda: not asides(lun))
    wait_until(lambda: open_below(lun) == before)


def test_all_is_cleared_away_when_a_store_is_closed(lun: str, share: Share) -> None:
    """Whoever looks then finds commits and nothing else, and no file is left open."""
    before = open_below(lun)
    store = LockDirectory(lun, syscalls=share, errands=Errands())
    append(store, 10)
    store.close()
    assert not asides(lun)
    assert open_below(lun) == before


def test_only_a_daemon_on_a_share_has_a_thread_for_it(lun: str) -> None:
    """A command line has nothing to do in the meantime, and a local file system does not wait."""
    threads = threading.active_count()
    for serves in (False, True):
        store = LockDirectory(lun, serves=serves)
        append(store)
        assert not asides(lun)
        assert threading.active_count() == threads
        store.close()


@pytest.mark.parametrize("answers", [False, True])
def test_file_is_open_over_the_link_only_where_its_close_tells_nothing(
    lun: str, answers: bool
) -> None:
    """Elsewhere that may be the first word of a failed write, and nothing is linked then."""
    closed: list[str] = []

    class Watched(Share):
        """What was closed before the link, and fails then."""

        linked = False

        def answers_now(self, fd: int) -> bool:
            """See `Syscalls.answers_now`."""
            return answers and fd >= 0

        def link(self, source: str, target: str, *, dir_fd: int) -> None:
            """See `Syscalls.link`."""
            self.linked = True
            super().link(source, target, dir_fd=dir_fd)

        def close(self, fd: int) -> None:
            """See `Syscalls.close`."""
            path = os.readlink(f"/proc/self/fd/{fd}")
            super().close(fd)
            if ASIDE_PREFIX in path and not self.linked:
                closed.append(path)
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = open_below(lun)
    syscalls = Watched()
    store = LockDirectory(lun, syscalls=syscalls)
    if answers:
        append(store)
    else:
        with pytest.raises(StoreUnavailable, match="cannot write a commit"):
            append(store)
    assert (len(closed), syscalls.linked) == ((0, True) if answers else (1, False))
    assert not asides(lun)
    store.close()
    assert open_below(lun) == before


@pytest.mark.parametrize("late", [False, True], ids=["failed", "late"])
def test_commit_that_is_not_issued_leaves_no_file(lun: str, share: Share, late: bool) -> None:
    """Neither its name nor its descriptor: there is no time, or nobody knows whether there is."""

    def may_issue() -> bool:
        if late:
            return False
        raise MemoryError

    before = open_below(lun)
    store = LockDirectory(lun, syscalls=share)
    head = store.head()
    opened = open_below(lun)
    with pytest.raises(Busy if late else MemoryError):
        store.commit(head, head.state, [], served={}, may_issue=may_issue)
    assert not asides(lun)
    assert open_below(lun) == opened
    store.close()
    assert open_below(lun) == before


def test_file_is_closed_before_its_name_is_removed(lun: str) -> None:
    """Else NFS keeps it under another name."""
    open_when_removed: list[bool] = []

    class Watched(Share):
        """What is open when it is removed."""

        def unlink(self, name: str, *, dir_fd: int) -> None:
            """See `Syscalls.unlink`."""
            open_when_removed.append(any(target.endswith(name) for target in open_below(lun)))
            super().unlink(name, dir_fd=dir_fd)

    for runner in (None, Errands()):
        store = LockDirectory(lun, syscalls=Watched(), errands=runner)
        append(store)
        store.close()
    assert open_when_removed == [False, False]
