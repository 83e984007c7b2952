"""Catching up with others on a file system of one host: names are counted, few files are read."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from flockpr.errors import StateUnreadable
from flockpr.store.chain import _LEAP
from flockpr.store.layout import COMMIT_NAME, commit_name
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from flockpr.store.syscalls import Syscalls
from tests.support.lun_tools import append


class Counting(Syscalls):
    """Notes which commits are opened, and how often names are listed."""

    def __init__(self) -> None:
        self.read_commits: list[str] = []
        self.listings = 0

    def open(self, path: str, flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        if COMMIT_NAME.fullmatch(path):
            self.read_commits.append(path)
        return super().open(path, flags, mode, dir_fd=dir_fd)

    def listdir(self, fd: int) -> list[str]:
        self.listings += 1
        return super().listdir(fd)


@pytest.fixture
def lun(tmp_path: Path) -> str:
    """A lock directory."""
    create_lun(str(tmp_path), "disk")
    return str(tmp_path / "disk")


@pytest.fixture
def calls() -> Counting:
    """Those of the daemon that catches up."""
    return Counting()


@pytest.fixture
def store(lun: str, calls: Counting) -> Iterator[LockDirectory]:
    """The daemon that catches up; it knows the first transaction."""
    made = LockDirectory(lun, syscalls=calls)
    append(made)
    calls.read_commits.clear()
    calls.listings = 0
    yield made
    made.close()


@pytest.fixture
def other(lun: str) -> Iterator[LockDirectory]:
    """The one that commits."""
    made = LockDirectory(lun)
    yield made
    made.close()


@pytest.mark.parametrize("behind", [1, 2, 9, _LEAP])
def test_newest_is_found_however_many_came(
    store: LockDirectory,
    other: LockDirectory,
    calls: Counting,
    behind: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is read, and the one before it, and nothing is listed: what that takes grows with all
    that was not pruned yet.
    """
    append(other, behind)
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", _not_to_be_called)
        assert store.head() == other.head()
    newest = store.head().number
    assert calls.read_commits == [commit_name(n) for n in (newest - 1, newest)[-behind:]]
    assert calls.listings == 0


def _not_to_be_called(fd: int) -> list[str]:
    raise AssertionError(f"{os.readlink(f'/proc/self/fd/{fd}')} was listed")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EIO])
def test_who_may_not_ask_for_the_lock_of_the_directory_lists_it(
    lun: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A mount that is read-only refuses before the kernel has taken it."""
    listed = []
    real = os.listdir

    def refused(path: str, *, dir_fd: int | None = None) -> None:
        raise OSError(number, os.strerror(number), path)

    def noted(fd: int) -> list[str]:
        listed.append(fd)
        return real(fd)

    monkeypatch.setattr(os, "unlink", refused)
    monkeypatch.setattr(os, "listdir", noted)
    fd = os.open(lun, os.O_RDONLY | os.O_DIRECTORY)
    try:
        Syscalls().await_changes(fd)
    finally:
        os.close(fd)
    assert listed == [fd]


def test_far_behind_a_listing_is_cheaper(
    store: LockDirectory, other: LockDirectory, calls: Counting
) -> None:
    """Names are not counted for ever."""
    append(other, _LEAP + 1)
    assert store.head() == other.head()
    assert calls.listings > 0


def test_what_is_known_was_pruned(
    lun: str, store: LockDirectory, other: LockDirectory, calls: Counting
) -> None:
    """Then what stands above it proves nothing: a listing tells."""
    append(other, 3)
    for number in (1, 2):
        os.unlink(f"{lun}/commits/{commit_name(number)}")
    assert store.head() == other.head()
    assert calls.listings > 0


@pytest.mark.parametrize("behind", [1, 2])
def test_newest_that_does_not_follow_the_one_before_is_refused(
    lun: str, store: LockDirectory, tmp_path: Path, behind: int
) -> None:
    """Files of two histories."""
    elsewhere = tmp_path / "elsewhere" / "disk"
    shutil.copytree(lun, elsewhere)
    for path, count in ((lun, behind), (str(elsewhere), behind + 1)):
        with_others = LockDirectory(path)
        append(with_others, count)
        with_others.close()
    name = commit_name(2 + behind + 1)
    shutil.copy(elsewhere / "commits" / name, f"{lun}/commits/{name}")
    with pytest.raises(StateUnreadable, match="two histories were mixed"):
        store.head()
