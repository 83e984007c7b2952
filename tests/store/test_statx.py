"""statx says what stat says, and only what it is asked."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flockpr.store import statx
from flockpr.store.syscalls import Syscalls


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """A descriptor of an empty directory."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_attributes_are_those_of_stat(tmp_path: Path, directory: int) -> None:
    """Of a file of several names, of a symbolic link itself, and of a directory."""
    (tmp_path / "file").write_bytes(b"x" * 1234)
    os.link(tmp_path / "file", tmp_path / "other")
    os.utime(tmp_path / "file", ns=(1, 1_795_458_930_223_079_284))
    os.symlink("file", tmp_path / "symlink")
    (tmp_path / "directory").mkdir()
    for name in ("file", "symlink", "directory"):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        found = Syscalls().stat_now(name, dir_fd=directory)
        assert found == tuple(getattr(status, field) for field in found._fields)
        assert Syscalls().which(name, dir_fd=directory) == (status.st_dev, status.st_ino)


def test_failures_are_those_of_stat(directory: int) -> None:
    """By their numbers."""
    for call in (Syscalls().stat_now, Syscalls().which):
        with pytest.raises(FileNotFoundError):
            call("missing", dir_fd=directory)
        with pytest.raises(OSError, match="Bad file") as failed:
            call("missing", dir_fd=4095)
        assert failed.value.errno == errno.EBADF


def test_answer_without_what_was_asked_for_is_none(
    tmp_path: Path, directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that does not know an attribute leaves it out."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(statx, "_function", lambda: lambda *_: 0)
    for call in (statx.stat_now, statx.which):
        with pytest.raises(OSError, match="not implemented") as failed:
            call("file", directory)
        assert failed.value.errno == errno.ENOSYS


def test_old_c_library_has_none(directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there is no answer either."""
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    statx._function.cache_clear()
    with pytest.raises(OSError, match="not implemented"):
        statx.which(".", directory)
