"""statx says what stat says, and only what it is asked."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from flockpr.filesystems import mounts
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


def test_server_is_asked_for_what_is_certain_and_for_nothing_else(
    directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flags and masks as linux/fcntl.h and linux/stat.h have them."""
    asked: list[tuple[int, int]] = []

    def fake(_: int, __: bytes, flags: int, mask: int, answer: ctypes.Array[ctypes.c_char]) -> int:
        asked.append((flags, mask))
        ctypes.memmove(answer, struct.pack("=I", mask), 4)
        return 0

    monkeypatch.setattr(statx, "_function", lambda: fake)
    Syscalls().stat_now("file", dir_fd=directory)
    Syscalls().which("file", dir_fd=directory)
    symlink, force = 0x100, 0x2000  # AT_SYMLINK_NOFOLLOW, AT_STATX_FORCE_SYNC
    links, mtime, number, size = 0x004, 0x040, 0x100, 0x200
    assert asked == [(symlink | force, links | mtime | number | size), (symlink, number)]


@pytest.mark.parametrize(
    ("kind", "options", "answers"),
    [
        ("nfs4", "rw,vers=4.2,hard", True),
        ("nfs4", "rw,vers=4.1,hard", True),
        ("nfs4", "rw,vers=4.0,hard", False),
        ("nfs4", "rw,hard", False),
        ("nfs4", "rw,vers=4.2,softreval,hard", False),
        ("nfs4", "rw,vers=4.2,softerr,softreval", False),
        ("nfs", "rw,vers=3,hard", False),
        ("gfs2", "rw", False),
        ("cifs", "rw,vers=3.1.1", False),
        ("fuse.nfs", "rw,vers=4.2", False),
        ("ext4", "rw", False),
    ],
)
def test_where_the_server_answers(
    directory: int, monkeypatch: pytest.MonkeyPatch, kind: str, options: str, answers: bool
) -> None:
    """NFS from 4.1 on, unless a cache answers for a server that is out of reach."""
    device = os.fstat(directory).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    line = f"40 22 {number} / /mnt rw,noatime shared:7 - {kind} srv:/e {options}"
    monkeypatch.setattr(mounts, "read_table", lambda: line)
    assert Syscalls().answers_now(directory) is answers
    monkeypatch.setattr(mounts, "read_table", lambda: "")
    assert not Syscalls().answers_now(directory)


def test_old_c_library_has_none(directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there is no answer either."""
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    statx._function.cache_clear()
    with pytest.raises(OSError, match="not implemented"):
        statx.which(".", directory)
