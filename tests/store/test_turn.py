"""Waiting in the kernel for the right to commit: bounded, in turn, and never left behind."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flockpr.errors import StoreError
from flockpr.store.layout import ORDER
from flockpr.store.presence import Presence
from flockpr.store.provision import create_lun
from flockpr.store.syscalls import Syscalls
from flockpr.store.turn import Turn
from tests.support.hanging import LONG

A_MOMENT = 0.05


@pytest.fixture
def lun(tmp_path: Path) -> str:
    """A lock directory."""
    create_lun(str(tmp_path), "disk")
    return str(tmp_path / "disk")


class Counting(Syscalls):
    """Counts the waits that are under way, and can make them fail."""

    def __init__(self) -> None:
        self.error = 0
        self.waiting = threading.Event()
        self.ended = threading.Semaphore(0)

    def wait_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        self.waiting.set()
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        super().wait_lock(fd, kind, start, length)

    def close(self, fd: int) -> None:
        super().close(fd)
        self.ended.release()


@pytest.fixture
def calls() -> Counting:
    """Those of who waits."""
    return Counting()


@pytest.fixture
def holder(lun: str) -> Iterator[int]:
    """The lock file, opened by another daemon that has the byte."""
    fd = opened(lun)
    Syscalls().set_lock(fd, fcntl.F_WRLCK, ORDER, 1)
    yield fd
    os.close(fd)


@pytest.fixture
def turn(lun: str, calls: Counting) -> Iterator[Turn]:
    """One that waits."""
    made = Turn(calls, lambda: opened(lun), ORDER)
    yield made
    made.close()


@pytest.fixture
def daemon(lun: str) -> Iterator[Callable[..., Presence]]:
    """Daemons on a file system of this host."""
    made: list[tuple[Presence, int]] = []

    def make(syscalls: Syscalls | None = None) -> Presence:
        fd = os.open(lun, os.O_RDONLY)
        presence = Presence(syscalls or Syscalls(), fd, lun, queues=True)
        made.append((presence, fd))
        return presence

    yield make
    for presence, fd in made:
        presence.close()
        os.close(fd)


def opened(lun: str) -> int:
    """The lock file, through an open file description of its own."""
    return os.open(f"{lun}/locks", os.O_RDWR | os.O_CLOEXEC)


def give(fd: int) -> None:
    """Let go of the byte."""
    Syscalls().set_lock(fd, fcntl.F_UNLCK, ORDER, 1)


def free(fd: int) -> bool:
    """Whether nobody else has the byte."""
    return Syscalls().get_lock(fd, fcntl.F_WRLCK, ORDER, 1) == fcntl.F_UNLCK


def test_free_byte_is_had_at_once_and_given_away(turn: Turn, lun: str) -> None:
    """Again and again."""
    fd = opened(lun)
    for _ in range(3):
        assert turn.wait(LONG)
        assert (turn.held, free(fd)) == (True, False)
        turn.leave()
        assert (turn.held, free(fd)) == (False, True)
    os.close(fd)


def test_who_waits_gets_it_when_it_is_given_away(turn: Turn, holder: int) -> None:
    """Without asking again."""
    timer = threading.Timer(A_MOMENT, give, [holder])
    timer.start()
    assert turn.wait(LONG)
    timer.join()
    assert not free(holder)


def test_wait_that_was_given_up_keeps_nobody_out(
    turn: Turn, holder: int, calls: Counting, lun: str
) -> None:
    """What comes too late is given back."""
    assert not turn.wait(A_MOMENT)
    assert not turn.held
    calls.waiting.clear()
    give(holder)
    Syscalls().wait_lock(holder, fcntl.F_WRLCK, ORDER, 1)  # or this would never return
    give(holder)
    assert turn.wait(LONG)
    assert not free(holder)


def test_wait_can_be_taken_up_again(turn: Turn, holder: int) -> None:
    """The thread waits on meanwhile."""
    for _ in range(3):
        assert not turn.wait(0.001)
    timer = threading.Timer(A_MOMENT, give, [holder])
    timer.start()
    assert turn.wait(LONG)
    timer.join()


def test_end_while_it_waits_leaves_nothing(turn: Turn, holder: int, calls: Counting) -> None:
    """Not the byte, nor the file, once the other one has let go."""
    assert not turn.wait(A_MOMENT)
    turn.close()
    give(holder)
    assert calls.ended.acquire(timeout=LONG)
    assert free(holder)


def test_end_of_who_has_it_gives_it_away(turn: Turn, lun: str, calls: Counting) -> None:
    """With the file."""
    assert turn.wait(LONG)
    turn.close()
    assert calls.ended.acquire(timeout=LONG)
    fd = opened(lun)
    assert free(fd)
    os.close(fd)


def test_end_before_the_beginning_is_nothing(lun: str) -> None:
    """No file was opened."""
    made = Turn(Syscalls(), lambda: opened(lun), ORDER)
    made.close()


def test_failing_lock_is_told_and_may_work_later(turn: Turn, calls: Counting) -> None:
    """And nobody waits for it."""
    calls.error = errno.ENOLCK
    for _ in range(2):
        with pytest.raises(OSError, match="locks available"):
            turn.wait(LONG)
        assert not turn.held
    calls.error = 0
    assert turn.wait(LONG)


# --------------------------------------------------------------------------- as a daemon


def test_daemons_of_one_host_take_turns(daemon: Callable[..., Presence]) -> None:
    """Each gets its turn, and one at a time."""
    inside: list[int] = []
    most: list[int] = []

    def commit(presence: Presence) -> None:
        for _ in range(20):
            while not (presence.take_order(0) or presence.take_order(LONG)):
                pass
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            presence.leave_order()

    threads = [threading.Thread(target=commit, args=(daemon(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert most == [1] * 80


def test_daemon_whose_wait_fails_commits_without(
    daemon: Callable[..., Presence], holder: int, calls: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    """The right to commit is a courtesy."""
    presence = daemon(calls)
    calls.error = errno.ENOLCK
    with caplog.at_level(logging.WARNING):
        assert not presence.take_order(LONG)
    assert "cannot wait for byte 0x4000000000000000" in caplog.text
    give(holder)
    assert presence.take_order(0)


def test_daemon_whose_locks_fail_does_not_wait(
    daemon: Callable[..., Presence], calls: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nobody to wait for."""
    presence = daemon(calls)
    presence.announce()

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(calls, "set_lock", fail)
    assert not presence.take_order(0)
    assert not presence.take_order(LONG)
    assert not calls.waiting.is_set()


def test_daemon_without_a_lock_file_says_so(
    lun: str, daemon: Callable[..., Presence], holder: int
) -> None:
    """As with every other range."""
    presence = daemon()
    os.unlink(f"{lun}/locks")
    with pytest.raises(StoreError, match="cannot be opened"):
        presence.take_order(LONG)
    give(holder)
