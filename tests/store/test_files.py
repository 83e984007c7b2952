"""Something else in the place of a file of ours: refused by name, nothing overwritten."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flockpr.errors import StateUnreadable, StoreError, StoreUnavailable
from flockpr.logical_unit import LogicalUnit
from flockpr.spc.codes import Status
from flockpr.store import files
from flockpr.store.provision import create_lun
from flockpr.store.syscalls import Syscalls
from flockpr.units import Units
from tests.support.lun_tools import LOST, register, sense_of, tree
from tests.support.open_files import open_below
from tests.support.scsi import RESERVE, A, B, basic_list, in_cdb, out_cdb

HEAD = f"commits/{2:016d}.json"
TRUTH = ("lun.json", "commits", HEAD)
HELPERS = ("locks", "audit", "journal", "registry.json")
KINDS = ("symlink", "dangling symlink", "fifo", "directory", "socket", "device")


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Two LUNs, one of which will be damaged; one registration each."""
    for name in ("disk", "other"):
        create_lun(str(tmp_path), name)
        with LogicalUnit.open(str(tmp_path / name)) as unit:
            assert register(unit, A, 1).status == Status.GOOD
    return str(tmp_path)


@pytest.fixture
def units(root: str) -> Iterator[Units]:
    """A daemon's units."""
    made = Units(root)
    yield made
    made.close()


def put(kind: str, path: str, kept: str) -> None:
    """Move what is there to `kept`, and put something else in its place."""
    os.rename(path, kept)
    if kind == "symlink":
        os.symlink(kept, path)
    elif kind == "dangling symlink":
        os.symlink(f"{kept}-nowhere", path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        os.mkdir(path)
    elif kind == "device":
        try:
            os.mknod(path, 0o20666, os.makedev(1, 3))  # /dev/null: swallows and gives nothing
        except PermissionError:
            pytest.skip("only root makes device nodes")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            here = os.getcwd()
            os.chdir(os.path.dirname(path))  # the path of a socket is short
            try:
                listener.bind(os.path.basename(path))
            finally:
                os.chdir(here)


def _contents(path: str) -> object:
    return tree(path) if os.path.isdir(path) else Path(path).read_bytes()


def _other_is_well(units: Units) -> None:
    cdb, data = out_cdb(RESERVE, type_=1), basic_list(1)
    assert units.submit("other", A, cdb, data).result(60).status == Status.GOOD


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TRUTH)
def test_obstructed_truth_is_refused_by_name(
    root: str, units: Units, name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """07/44/01, whether it reads or writes; the log names the file; nothing is touched."""
    put(kind, f"{root}/disk/{name}", f"{root}/disk/kept")
    before = tree(f"{root}/disk")

    with pytest.raises(StateUnreadable) as caught, LogicalUnit.open(f"{root}/disk") as unit:
        unit.status()
    assert caught.value.path.startswith(f"{root}/disk/{name}")
    assert caught.value.remedy
    with caplog.at_level(logging.ERROR):
        assert sense_of(units.submit("disk", A, in_cdb(0)).result(60)) == LOST
    assert f"{root}/disk/{name}" in caplog.text
    write = units.submit("disk", A, out_cdb(RESERVE, type_=1), basic_list(1)).result(60)
    assert sense_of(write) == LOST

    assert tree(f"{root}/disk") == before
    _other_is_well(units)


@pytest.mark.parametrize("kind", KINDS)
def test_obstructed_head_is_refused_by_who_has_it_open(root: str, units: Units, kind: str) -> None:
    """A daemon that knows the state from before does not go on with it."""
    cdb = in_cdb(0)
    assert units.submit("disk", A, cdb).result(60).status == Status.GOOD
    put(kind, f"{root}/disk/{HEAD}", f"{root}/disk/kept")

    assert sense_of(units.submit("disk", A, cdb).result(60)) == LOST
    _other_is_well(units)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HELPERS)
def test_obstructed_helper_file_changes_no_reply(
    root: str, units: Units, name: str, kind: str
) -> None:
    """Locks, views and records are not the truth; what they were is left alone."""
    put(kind, f"{root}/disk/{name}", f"{root}/kept")
    before = _contents(f"{root}/kept")
    cdb, data = out_cdb(RESERVE, type_=1), basic_list(1)
    assert units.submit("disk", A, cdb, data).result(60).status == Status.GOOD
    conflict = units.submit("disk", B, cdb, data).result(60)
    assert conflict.status == Status.RESERVATION_CONFLICT

    with LogicalUnit.open(f"{root}/disk") as unit:
        assert unit.status().to_json()["reservation"]["key"] == f"0x{1:016x}"
        unit.tidy()
    assert _contents(f"{root}/kept") == before
    assert not os.path.lexists(f"{root}/kept-nowhere")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "directory"])
def test_obstructed_audit_trail_is_refused_by_name(root: str, kind: str) -> None:
    """History that cannot be read is not an empty one."""
    put(kind, f"{root}/disk/audit", f"{root}/kept")

    with LogicalUnit.open(f"{root}/disk") as unit, pytest.raises(StoreError, match="disk/audit"):
        list(unit.history())


@pytest.mark.parametrize("kind", KINDS)
def test_obstructed_lock_file_is_logged_by_name(
    root: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Commands go on without locks; a person is told which file to restore."""
    put(kind, f"{root}/disk/locks", f"{root}/kept")

    with caplog.at_level(logging.WARNING), LogicalUnit.open(f"{root}/disk") as unit:
        assert register(unit, B, 2).status == Status.GOOD

    assert f"{root}/disk/locks" in caplog.text


@pytest.mark.parametrize("name", [*TRUTH, "locks"])
def test_missing_file_is_not_made_anew(root: str, units: Units, name: str) -> None:
    """An absence is never repaired by guessing that all was empty."""
    os.rename(f"{root}/disk/{name}", f"{root}/kept")
    before = tree(f"{root}/disk")

    result = units.submit("disk", A, in_cdb(0)).result(60)

    # Without its newest commit a directory looks as it did before: nobody can tell from it.
    assert (result.status == Status.GOOD) == (name in (HEAD, "locks"))
    assert tree(f"{root}/disk") == before


def test_missing_head_is_noticed_by_who_knew_it(root: str, units: Units) -> None:
    """Whoever saw the transaction does not forget it."""
    assert units.submit("disk", A, in_cdb(0)).result(60).status == Status.GOOD
    os.unlink(f"{root}/disk/{HEAD}")

    assert sense_of(units.submit("disk", A, in_cdb(0)).result(60)) == LOST


# --------------------------------------------------------------------------- plumbing


class _Trickle(Syscalls):
    """Reads and writes a few bytes at a time, as a system call may."""

    def read(self, fd: int, size: int) -> bytes:
        return super().read(fd, min(size, 7))

    def write(self, fd: int, data: bytes) -> int:
        return super().write(fd, data[:5])


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """A descriptor of an empty directory."""
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """With this umask."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("syscalls", [Syscalls(), _Trickle()], ids=["whole", "trickle"])
@pytest.mark.parametrize("size", [0, 1, 6, 7, 8, 5000])
def test_file_is_written_and_read_whole(
    directory: int, tmp_path: Path, syscalls: Syscalls, size: int
) -> None:
    """Short reads and short writes are no ends."""
    data = os.urandom(size)
    files.write_new(syscalls, "file", data, dir_fd=directory, mode=0o640)

    assert (tmp_path / "file").read_bytes() == data
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert files.read_whole(syscalls, "file", dir_fd=directory) == data


def test_file_of_a_taken_name_is_left_alone(directory: int, tmp_path: Path) -> None:
    """Created or nothing; not through a symbolic link either."""
    (tmp_path / "file").write_text("here first")
    os.symlink("nowhere", tmp_path / "link")

    for name in ("file", "link"):
        with pytest.raises(FileExistsError):
            files.write_new(Syscalls(), name, b"x", dir_fd=directory, mode=0o600)
    assert (tmp_path / "file").read_text() == "here first"
    assert not (tmp_path / "nowhere").exists()


def test_file_of_our_own_name_is_made_without_asking_for_more(
    directory: int, tmp_path: Path
) -> None:
    """No O_EXCL, which NFS makes a change more of; what has bytes or another name stays."""
    flags: list[int] = []

    class Noted(Syscalls):
        """What is opened how."""

        def open(self, path: str, how: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
            """See `Syscalls.open`."""
            flags.append(how)
            return super().open(path, how, mode, dir_fd=dir_fd)

    def write(name: str) -> None:
        fd, status = files.write_ours(Noted(), name, b"x", dir_fd=directory, mode=0o600, keep=True)
        assert status == os.fstat(fd)
        os.close(fd)

    (tmp_path / "bytes").write_text("a commit")
    (tmp_path / "linked").touch()
    os.link(tmp_path / "linked", tmp_path / "commit")
    os.symlink("nowhere", tmp_path / "symlink")
    for name in ("bytes", "linked"):
        with pytest.raises(FileExistsError):
            write(name)
    with pytest.raises(OSError) as refused:
        write("symlink")
    assert refused.value.errno == errno.ELOOP
    assert (tmp_path / "bytes").read_text() == "a commit"
    assert (tmp_path / "commit").read_bytes() == b""
    assert not (tmp_path / "nowhere").exists()
    write("new")
    assert (tmp_path / "new").read_bytes() == b"x"
    assert all(not how & os.O_EXCL and how & os.O_NOFOLLOW for how in flags)


@pytest.mark.parametrize(
    "write",
    [
        files.write_new,
        functools.partial(files.write_ours, keep=False),
        functools.partial(files.write_ours, keep=True),
    ],
    ids=["new", "ours", "ours, kept open"],
)
@pytest.mark.parametrize("step", ["write", "fsync", "close", "fchmod", "fstat"])
def test_file_that_cannot_be_written_leaves_no_name(
    directory: int,
    tmp_path: Path,
    step: str,
    write: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A half-written file is never found; a failed close is a failed write."""
    syscalls = Syscalls()
    real = getattr(syscalls, step)

    def fail(*arguments: object) -> None:
        if step == "close":
            real(*arguments)
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(syscalls, step, fail)

    before = open_below(tmp_path)
    mode = 0o606 if step == "fchmod" else 0o600  # which the umask takes some of
    if step == "close" and getattr(write, "keywords", None) == {"keep": True}:
        return  # it is left open
    with umask(0o077), pytest.raises(OSError, match="broken"):
        write(syscalls, "file", b"x", dir_fd=directory, mode=mode)
    assert os.listdir(tmp_path) == []
    assert open_below(tmp_path) == before


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_file_has_its_mode_whatever_the_umask(directory: int, tmp_path: Path, mode: int) -> None:
    """And is not changed where it has it already."""
    for number, mask in enumerate((0, 0o022, 0o077, 0o777)):
        with umask(mask):
            files.write_new(Syscalls(), f"file{number}", b"x", dir_fd=directory, mode=mode)
        assert (tmp_path / f"file{number}").stat().st_mode & 0o7777 == mode


def test_file_larger_than_allowed_is_refused(directory: int, tmp_path: Path) -> None:
    """By its size before it is read, and by what is read if it grows."""
    (tmp_path / "file").write_bytes(b"x" * 11)
    with pytest.raises(StateUnreadable, match="larger than 10 bytes"):
        files.read_whole(Syscalls(), "file", dir_fd=directory, most=10)
    assert files.read_whole(Syscalls(), "file", dir_fd=directory, most=11) == b"x" * 11


def test_remove_tree_follows_no_link(directory: int, tmp_path: Path) -> None:
    """What a symbolic link leads to is somebody else's."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    inside = tmp_path / "inside"
    (inside / "deep").mkdir(parents=True)
    os.symlink(outside, inside / "deep" / "link")

    files.remove_tree(Syscalls(), "inside", dir_fd=directory)

    assert os.listdir(tmp_path) == ["outside"]
    assert (outside / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("number", "kind", "remedy"),
    [
        (errno.ENOSPC, StoreUnavailable, "free space"),
        (errno.EDQUOT, StoreUnavailable, "quota"),
        (errno.EROFS, StoreUnavailable, "read-write"),
        (errno.EACCES, StoreUnavailable, "access"),
        (errno.EPERM, StoreUnavailable, "access"),
        (errno.ESTALE, StoreUnavailable, "export"),
        (errno.EIO, StoreUnavailable, "storage"),
        (errno.EMFILE, StoreUnavailable, "open files"),
        (errno.ENFILE, StoreUnavailable, "open files"),
        (errno.ETIMEDOUT, StoreUnavailable, "network"),
        (errno.ENOLCK, StoreUnavailable, "lock service"),
        (errno.EINVAL, StoreUnavailable, "kernel log"),
        (errno.ELOOP, StateUnreadable, "in its place"),
        (errno.ENOTDIR, StateUnreadable, "in its place"),
        (errno.EISDIR, StateUnreadable, "in its place"),
        (errno.ENXIO, StateUnreadable, "in its place"),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_failed_call_names_file_and_remedy(
    number: int, kind: type[StoreError], remedy: str
) -> None:
    """One clause what, the file, and what a person can do."""
    error = files.unavailable(OSError(number, os.strerror(number)), "cannot be read", "/r/f")

    assert type(error) is kind
    assert str(error).startswith("/r/f: cannot be read: ")
    assert remedy in error.remedy
    if isinstance(error, StoreUnavailable):
        assert error.errno == number
