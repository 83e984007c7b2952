"""Byte-range locks, held to what users of portalocker expect and to what OFD locks promise."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from portalocker import AlreadyLocked, LockException, LockFlags
from portalocker.portalocker import BaseLocker

from flockpr.store.layout import GATE, ORDER, SLOT
from flockpr.store.rangelock import OfdRange
from flockpr.store.syscalls import Syscalls

EXCLUSIVE = LockFlags.EXCLUSIVE | LockFlags.NON_BLOCKING
SHARED = LockFlags.SHARED | LockFlags.NON_BLOCKING

CHILD = """
import sys
from portalocker import AlreadyLocked, LockFlags
from flockpr.store.rangelock import OfdRange
file = open(sys.argv[1], "r+b")
flags = LockFlags[sys.argv[2]] | LockFlags.NON_BLOCKING
try:
    OfdRange(int(sys.argv[3])).lock(file, flags)
except AlreadyLocked:
    print("taken", flush=True)
else:
    print("got", flush=True)
    sys.stdin.read()
"""


class Opens:
    """Descriptors of one file, each of an open file description of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fds: list[int] = []

    def __call__(self, flags: int = os.O_RDWR) -> int:
        self.fds.append(os.open(self.path, flags))
        return self.fds[-1]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opens]:
    """Opens the same file again and again."""
    path = tmp_path / "locks"
    path.write_bytes(b"a hint\n")
    opens = Opens(path)
    yield opens
    for fd in opens.fds:
        os.close(fd)


def test_lock_is_a_locker_of_portalocker() -> None:
    """It can stand wherever that library takes one."""
    assert issubclass(OfdRange, BaseLocker)


def test_lock_excludes_another_description_in_the_same_process(opened: Opens) -> None:
    """Two opens are two owners, unlike with POSIX locks."""
    first, second = opened(), opened()
    OfdRange(SLOT).lock(first, EXCLUSIVE)

    with pytest.raises(AlreadyLocked):
        OfdRange(SLOT).lock(second, EXCLUSIVE)
    with pytest.raises(AlreadyLocked):
        OfdRange(SLOT).lock(second, SHARED)


def test_lock_again_by_its_holder_succeeds(opened: Opens) -> None:
    """One owner does not exclude itself."""
    fd = opened()
    OfdRange(SLOT).lock(fd, EXCLUSIVE)
    OfdRange(SLOT).lock(os.dup(fd), EXCLUSIVE)


def test_lock_shared_is_shared_and_excludes_exclusive(opened: Opens) -> None:
    """As shared locks do."""
    first, second, third = opened(), opened(), opened()
    OfdRange(SLOT).lock(first, SHARED)
    OfdRange(SLOT).lock(second, SHARED)

    with pytest.raises(AlreadyLocked):
        OfdRange(SLOT).lock(third, EXCLUSIVE)


def test_lock_of_the_next_byte_is_free(opened: Opens) -> None:
    """One byte and no more, unless a length says so."""
    first, second = opened(), opened()
    OfdRange(SLOT + 1).lock(first, EXCLUSIVE)
    OfdRange(SLOT).lock(second, EXCLUSIVE)
    OfdRange(SLOT + 2).lock(second, EXCLUSIVE)

    OfdRange(GATE, length=4).lock(first, EXCLUSIVE)
    OfdRange(GATE + 4).lock(second, EXCLUSIVE)
    with pytest.raises(AlreadyLocked):
        OfdRange(GATE + 3).lock(second, EXCLUSIVE)


def test_unlock_frees_and_is_no_error_when_not_held(opened: Opens) -> None:
    """Whoever is unsure may unlock."""
    first, second = opened(), opened()
    OfdRange(ORDER).unlock(first)
    OfdRange(ORDER).lock(first, EXCLUSIVE)
    OfdRange(ORDER).unlock(second)  # not its own: nothing happens
    with pytest.raises(AlreadyLocked):
        OfdRange(ORDER).lock(second, EXCLUSIVE)

    OfdRange(ORDER).unlock(first)

    OfdRange(ORDER).lock(second, EXCLUSIVE)


@pytest.mark.parametrize("kind", [LockFlags.EXCLUSIVE, LockFlags.SHARED, LockFlags(0)])
def test_lock_without_non_blocking_is_refused(opened: Opens, kind: LockFlags) -> None:
    """A wait in the kernel cannot be bounded on a network file system."""
    first, second = opened(), opened()

    with pytest.raises(LockException) as caught:
        OfdRange(ORDER).lock(first, kind)

    assert not isinstance(caught.value, AlreadyLocked)
    OfdRange(ORDER).lock(second, EXCLUSIVE)  # nothing was taken


def test_lock_failure_is_not_contention(opened: Opens) -> None:
    """Exclusive through a descriptor for reading, and a closed one: LockException proper."""
    reader = opened(os.O_RDONLY)
    closed = os.dup(reader)
    os.close(closed)

    for fd in (reader, closed):
        with pytest.raises(LockException) as caught:
            OfdRange(ORDER).lock(fd, EXCLUSIVE)
        assert not isinstance(caught.value, AlreadyLocked)
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == errno.EBADF
    with pytest.raises(LockException):
        OfdRange(ORDER).unlock(closed)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_lock_contention_has_two_errnos(opened: Opens, number: int) -> None:
    """POSIX allows either, and file servers use both."""

    class Contended(Syscalls):
        def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
            raise OSError(number, os.strerror(number))

    with pytest.raises(AlreadyLocked):
        OfdRange(ORDER, syscalls=Contended()).lock(opened(), EXCLUSIVE)


def test_lock_takes_file_objects_too(opened: Opens) -> None:
    """As lockers of portalocker do."""
    with open(opened.path, "r+b") as file:
        OfdRange(ORDER).lock(file, EXCLUSIVE)
        with pytest.raises(AlreadyLocked):
            OfdRange(ORDER).lock(opened(), EXCLUSIVE)
    OfdRange(ORDER).lock(opened(), EXCLUSIVE)


def test_lock_survives_another_descriptor_that_is_closed(opened: Opens) -> None:
    """A POSIX lock would be gone: that is why these are none."""
    first, second = opened(), opened()
    OfdRange(SLOT).lock(first, EXCLUSIVE)
    opened.path.read_bytes()
    os.close(os.open(opened.path, os.O_RDWR))
    os.close(os.dup(first))

    with pytest.raises(AlreadyLocked):
        OfdRange(SLOT).lock(second, EXCLUSIVE)


def test_lock_ends_with_its_last_reference(opened: Opens) -> None:
    """Not with the first descriptor that is closed."""
    first = os.open(opened.path, os.O_RDWR)
    copy = os.dup(first)
    OfdRange(SLOT).lock(first, EXCLUSIVE)
    os.close(first)
    with pytest.raises(AlreadyLocked):
        OfdRange(SLOT).lock(opened(), EXCLUSIVE)

    os.close(copy)

    OfdRange(SLOT).lock(opened(), EXCLUSIVE)


def test_lock_stands_in_the_way_of_posix_locks_too(opened: Opens) -> None:
    """A tool that locks the file in the old way is told."""
    OfdRange(SLOT).lock(opened(), EXCLUSIVE)

    with pytest.raises(OSError, match="temporarily unavailable"):
        fcntl.lockf(opened(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, SLOT)
    fcntl.lockf(opened(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, SLOT + 1)


def test_lock_excludes_another_process_and_ends_with_it(opened: Opens) -> None:
    """The holder's death, even by SIGKILL, frees the range."""
    argv = [sys.executable, "-c", CHILD, str(opened.path), "EXCLUSIVE", str(SLOT + 7)]
    fd = opened()
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"got\n"
        assert OfdRange(SLOT + 7).held_by_another(fd)
        with pytest.raises(AlreadyLocked):
            OfdRange(SLOT + 7).lock(fd, SHARED)
        child.kill()
        child.wait(60)

    assert not OfdRange(SLOT + 7).held_by_another(fd)
    OfdRange(SLOT + 7).lock(fd, EXCLUSIVE)
    refused = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert refused.stdout == b"taken\n"


def test_held_by_another_sees_exclusive_holders_but_oneself(opened: Opens) -> None:
    """One's own locks are invisible, and shared ones are in no reader's way."""
    holder, asker = opened(), opened(os.O_RDONLY)
    question = OfdRange(SLOT)
    assert not question.held_by_another(asker)
    OfdRange(SLOT).lock(holder, EXCLUSIVE)

    assert question.held_by_another(asker)
    assert not question.held_by_another(holder)
    assert not OfdRange(SLOT + 1).held_by_another(asker)
    OfdRange(SLOT).lock(holder, SHARED)
    assert not question.held_by_another(asker)


def test_held_by_another_that_cannot_be_asked_raises(opened: Opens) -> None:
    """No answer is not "free"."""
    closed = os.dup(opened())
    os.close(closed)

    with pytest.raises(LockException):
        OfdRange(SLOT).held_by_another(closed)


def test_loading_needs_no_directory_that_can_be_written_to() -> None:
    """In a service with ProtectSystem=strict there is none, and portalocker asks for one."""
    code = """
import tempfile

def none():
    raise FileNotFoundError("No usable temporary directory found")

tempfile._get_default_tempdir = none
import flockpr.store.rangelock
try:
    tempfile.gettempdir()
except FileNotFoundError:
    print("still none")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout == "still none\n"
