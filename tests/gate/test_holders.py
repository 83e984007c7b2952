"""Who has permits is asked of the file server, which knows it whatever hosts say."""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from flockpr.gate import holders
from flockpr.gate.holders import Lock
from flockpr.store.syscalls import Syscalls

BASE = 1 << 62
LENGTH = 1 << 20
SYSCALLS = Syscalls()


class File:
    """A file with locks of several descriptions."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path = path
        self.fds: list[int] = []

    def open(self) -> int:
        """One more description."""
        self.fds.append(os.open(self._path, os.O_RDWR))
        return self.fds[-1]

    def lock(self, start: int, length: int = 1, kind: int = fcntl.F_WRLCK) -> None:
        """Held by a description of its own."""
        SYSCALLS.set_lock(self.open(), kind, BASE + start, length)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    """A file without locks."""
    made = File(tmp_path / "image")
    yield made
    for fd in made.fds:
        os.close(fd)


def test_walk_of_a_free_range_finds_nothing(file: File) -> None:
    """Shared locks of others, and one's own, are in nobody's way."""
    file.lock(3, kind=fcntl.F_RDLCK)
    fd = file.open()
    SYSCALLS.set_lock(fd, fcntl.F_WRLCK, BASE + 9, 1)

    assert holders.walk(fd, BASE, LENGTH) == []


def test_walk_finds_all_whatever_the_order_of_locking(file: File) -> None:
    """The kernel's list is in the order of the owners, not of the bytes."""
    places = random.Random(7).sample(range(LENGTH), 40)
    for place in places:
        file.lock(place)

    found = holders.walk(file.open(), BASE, LENGTH)
    assert found == [Lock(BASE + place, 1, fcntl.F_WRLCK) for place in sorted(places)]


def test_walk_shows_the_part_of_a_lock_that_is_in_the_range(file: File) -> None:
    """Also of one that goes on to the end of the file."""
    file.lock(0, 10)
    file.lock(100, 0)

    found = holders.walk(file.open(), BASE + 5, 200)
    assert [(lock.start - BASE, lock.length) for lock in found] == [(5, 5), (100, 105)]


def test_walk_with_a_server_that_answers_something_else_ends(file: File) -> None:
    """Then all that was asked about may be held."""

    class Confused(Syscalls):
        def find_lock(self, fd: int, kind: int, start: int, length: int) -> tuple[int, int, int]:
            return fcntl.F_WRLCK, 5, 1

    found = holders.walk(file.open(), BASE, LENGTH, Confused())
    assert found == [Lock(BASE, LENGTH, fcntl.F_WRLCK)]


def test_walk_with_a_server_that_never_ends_ends(file: File) -> None:
    """After some thousand questions."""

    class Endless(Syscalls):
        def find_lock(self, fd: int, kind: int, start: int, length: int) -> tuple[int, int, int]:
            return fcntl.F_WRLCK, start + length // 2, 1

    assert len(holders.walk(file.open(), BASE, 1 << 56, Endless())) <= 4096
