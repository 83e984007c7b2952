"""Who is alive, who commits next, which formats are read: one `locks` file, several daemons."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flockpr.errors import StoreError
from flockpr.store.layout import LOCK_BASE, SLOT
from flockpr.store.presence import Presence
from flockpr.store.provision import create_lun
from flockpr.store.rangelock import OfdRange
from flockpr.store.syscalls import Syscalls

Daemon = Callable[..., Presence]


@pytest.fixture
def lun(tmp_path: Path) -> str:
    """A lock directory."""
    create_lun(str(tmp_path), "disk")
    return str(tmp_path / "disk")


@pytest.fixture
def daemon(lun: str) -> Iterator[Daemon]:
    """Makes daemons' views of one lock file."""
    fd = os.open(lun, os.O_RDONLY)
    made: list[Presence] = []

    def make(syscalls: Syscalls | None = None) -> Presence:
        made.append(Presence(syscalls or Syscalls(), fd, lun))
        return made[-1]

    yield make
    for presence in made:
        presence.close()
    os.close(fd)


class Failing(Syscalls):
    """Locks that fail with an error while there is one."""

    def __init__(self) -> None:
        self.error = 0
        self.reads = 0

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        super().set_lock(fd, kind, start, length)

    def get_lock(self, fd: int, kind: int, start: int, length: int) -> int:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return super().get_lock(fd, kind, start, length)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        if self.reads:
            raise OSError(self.reads, os.strerror(self.reads))
        return super().pread(fd, size, offset)


def test_hold_by_two_daemons_is_granted_to_one(daemon: Daemon) -> None:
    """The other learns it, and gets it when the first lets go."""
    first, second = daemon(), daemon()
    assert first.hold(3)
    assert first.hold(3)  # again: still its own

    assert not second.hold(3)
    assert second.hold(4)
    first.drop(3)
    assert second.hold(3)
    assert not first.hold(3)


def test_alive_is_seen_by_all_and_ends_with_the_holder(daemon: Daemon) -> None:
    """Closing is what a daemon's death does."""
    first, second = daemon(), daemon()
    first.hold(3)

    assert (first.alive(3), second.alive(3)) == (True, True)
    assert (first.alive(4), second.alive(4)) == (False, False)
    first.close()
    assert second.alive(3) is False


def test_alive_asked_by_another_process_is_the_truth(daemon: Daemon, lun: str) -> None:
    """The question goes through another description than the holding, in any process."""
    daemon().hold(9)
    code = (
        "import os, sys\n"
        "from flockpr.store.presence import Presence\n"
        "from flockpr.store.syscalls import Syscalls\n"
        "presence = Presence(Syscalls(), os.open(sys.argv[1], os.O_RDONLY), sys.argv[1])\n"
        "print(presence.alive(9), presence.alive(10), presence.hold(9))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, lun], capture_output=True, timeout=60)

    assert done.stdout.split() == [b"True", b"False", b"False"]


def test_alive_without_an_answer_is_unknown(daemon: Daemon) -> None:
    """Neither alive nor gone."""
    failing = Failing()
    presence = daemon(failing)
    failing.error = errno.ENOLCK

    assert presence.alive(3) is None


def test_alive_without_a_lock_file_is_unknown(daemon: Daemon, lun: str) -> None:
    """A missing lock file tells nothing about the living."""
    os.unlink(f"{lun}/locks")

    assert daemon().alive(3) is None
    with pytest.raises(StoreError, match=r"disk/locks: cannot be opened"):
        daemon().hold(3)


def test_drop_of_what_is_not_held_touches_nobody(daemon: Daemon) -> None:
    """Another daemon's range least of all."""
    first, second = daemon(), daemon()
    first.hold(3)
    second.drop(3)

    assert second.alive(3) is True


def test_hold_with_failing_locks_is_refused_and_logged(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    """And works once locks do."""
    failing = Failing()
    presence = daemon(failing)
    failing.error = errno.ENOLCK
    with caplog.at_level(logging.WARNING):
        assert not presence.hold(3)
    assert "cannot lock byte 0x4000000000010003" in caplog.text

    failing.error = 0
    assert presence.hold(3)


def test_order_excludes_and_is_given_away(daemon: Daemon) -> None:
    """One daemon commits at a time; who waits gets its turn."""
    first, second = daemon(), daemon()
    assert first.take_order(0)
    assert not second.take_order(0.01)

    timer = threading.Timer(0.05, first.leave_order)
    timer.start()
    assert second.take_order(60)
    timer.join()
    assert not first.take_order(0)


def test_order_with_failing_locks_does_not_wait(daemon: Daemon) -> None:
    """A daemon whose locks fail commits without: it must not stall for each command."""
    failing = Failing()
    presence = daemon(failing)
    failing.error = errno.ENOLCK

    done = threading.Event()
    result = []

    def take() -> None:
        result.append(presence.take_order(3600))
        done.set()

    threading.Thread(target=take, daemon=True).start()
    assert done.wait(60)
    assert result == [False]


def test_tidy_right_is_one_daemons_at_a_time(daemon: Daemon) -> None:
    """It saves double work."""
    first, second = daemon(), daemon()
    assert first.take_tidy()
    assert not second.take_tidy()
    first.leave_tidy()
    assert second.take_tidy()


def test_roles_do_not_stand_in_each_others_way(daemon: Daemon) -> None:
    """Order, tidy, slots and formats are bytes of their own."""
    first, second = daemon(), daemon()
    assert first.take_order(0)
    assert second.take_tidy()
    assert first.hold(0)
    assert second.hold(65535)
    assert (first.alive(1), second.alive(65534)) == (False, False)


def test_formats_in_use_are_those_of_the_living(daemon: Daemon) -> None:
    """Announced while open, by several at once; asking leaves nothing behind."""
    asker, first, second = daemon(), daemon(), daemon()
    assert asker.formats_in_use() == []
    first.announce()
    second.announce()
    assert asker.formats_in_use() == [1]

    first.close()
    assert asker.formats_in_use() == [1]
    second.close()
    assert asker.formats_in_use() == []


def test_lost_locks_are_noticed_and_taken_again(daemon: Daemon) -> None:
    """Reading through a descriptor whose lock was lost is EIO on NFSv4."""
    failing = Failing()
    first, second = daemon(failing), daemon()
    assert not first.lost_locks()
    first.hold(3)
    first.hold(4)
    assert not first.lost_locks()

    failing.reads = errno.EIO
    assert first.lost_locks()
    for slot in (3, 4):  # what the server did: nothing is held any more
        OfdRange(SLOT + slot).unlock(first._hold_fd)
    assert second.hold(4)
    failing.reads = 0
    first.retake()

    assert not first.lost_locks()
    assert second.alive(3) is True
    assert not first.hold(4)  # another daemon's by now


def test_close_lets_go_of_everything(daemon: Daemon) -> None:
    """Slots, order, tidy, format; and it may be done twice."""
    first, second = daemon(), daemon()
    first.hold(3)
    first.take_order(0)
    first.take_tidy()
    first.close()
    first.close()

    assert second.hold(3)
    assert second.take_order(0)
    assert second.take_tidy()


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo"])
def test_lock_file_that_is_none_is_refused_by_name(daemon: Daemon, lun: str, kind: str) -> None:
    """Locks on something else are seen by nobody else."""
    path = f"{lun}/locks"
    os.rename(path, f"{path}.moved")
    if kind == "symlink":
        os.symlink(f"{path}.moved", path)
    elif kind == "directory":
        os.mkdir(path)
    else:
        os.mkfifo(path)

    with pytest.raises(StoreError, match="disk/locks") as caught:
        daemon().hold(3)
    assert caught.value.remedy
    assert daemon().alive(3) is None


def test_bytes_lie_beyond_any_data() -> None:
    """A lock never meets what is read or written."""
    assert LOCK_BASE >= 1 << 62
