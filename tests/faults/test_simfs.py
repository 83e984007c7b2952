"""The simulated file system answers as the kernel does, and loses what a power cut may take."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flockpr.store.syscalls import Syscalls
from tests.support.simfs import Call, Client, Disk, Killed

NAMES = ("a", "b", "d")
_name = st.sampled_from(NAMES)
_steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(("create", "read", "write", "unlink", "mkdir", "rmdir")), _name),
        st.tuples(st.sampled_from(("stat", "enter", "size", "nofollow")), _name),
        st.tuples(st.sampled_from(("link", "rename")), _name, _name),
        st.tuples(st.just("list")),
    ),
    max_size=25,
)


def perform(sys_: Syscalls, root: int, step: tuple[str, ...]) -> object:
    """One step; what it comes to, errors as their numbers."""
    try:
        return _perform(sys_, root, step)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def _with(sys_: Syscalls, fd: int, action: Callable[[int], object]) -> object:
    try:
        return action(fd)
    finally:
        sys_.close(fd)


def _perform(sys_: Syscalls, root: int, step: tuple[str, ...]) -> object:
    new = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    match step:
        case ("create", name):
            return _with(sys_, sys_.open(name, new, dir_fd=root), lambda fd: sys_.write(fd, b"x"))
        case ("write", name):
            fd = sys_.open(name, os.O_WRONLY | os.O_APPEND, dir_fd=root)
            return _with(sys_, fd, lambda fd: sys_.write(fd, b"more"))
        case ("read", name):
            fd = sys_.open(name, os.O_RDONLY, dir_fd=root)
            return _with(sys_, fd, lambda fd: (sys_.read(fd, 3), sys_.read(fd, 99)))
        case ("size", name):
            fd = sys_.open(name, os.O_RDWR, dir_fd=root)
            return _with(sys_, fd, lambda fd: (sys_.fstat(fd).st_size, sys_.pread(fd, 2, 1)))
        case ("nofollow", name):
            fd = sys_.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
            return _with(sys_, fd, lambda fd: sorted(sys_.listdir(fd)))
        case ("enter", name):
            fd = sys_.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)
            return _with(sys_, fd, lambda fd: perform(sys_, fd, ("create", "inner")))
        case ("unlink", name):
            return sys_.unlink(name, dir_fd=root)  # type: ignore[func-returns-value]
        case ("mkdir", name):
            return sys_.mkdir(name, 0o700, dir_fd=root)  # type: ignore[func-returns-value]
        case ("rmdir", name):
            return sys_.rmdir(name, dir_fd=root)  # type: ignore[func-returns-value]
        case ("stat", name):
            status = sys_.stat(name, dir_fd=root)
            kind = stat.S_IFMT(status.st_mode)
            return kind, status.st_size if kind == stat.S_IFREG else None, kind and status.st_nlink
        case ("link", source, target):
            return sys_.link(source, target, dir_fd=root)  # type: ignore[func-returns-value]
        case ("rename", source, target):
            sys_.rename(source, target, source_fd=root, target_fd=root)
            return None
        case ("list",):
            return sorted(sys_.listdir(root))
    raise AssertionError(step)


def comparable(answer: object) -> object:
    """Without what differs between file systems: the link count of directories."""
    if isinstance(answer, tuple) and answer and answer[0] == stat.S_IFDIR:
        return answer[:1]
    return answer


@settings(max_examples=150)
@given(_steps)
def test_simulated_calls_answer_as_the_kernel_does(steps: list[tuple[str, ...]]) -> None:
    """The same steps in a directory of this machine, with the same answers and errors."""
    disk = Disk()
    with tempfile.TemporaryDirectory() as path:
        real, client = Syscalls(), Client(disk)
        flags = os.O_RDONLY | os.O_DIRECTORY
        roots = real.open(path, flags), client.open("/", flags)
        for step in steps:
            expected = comparable(perform(real, roots[0], step))
            assert comparable(perform(client, roots[1], step)) == expected, step
        real.close(roots[0])
        client.close(roots[1])
        assert not client.fds


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from((fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK, -1, -2)),
            st.integers(0, 2),
        ),
        max_size=20,
    )
)
def test_simulated_locks_answer_as_the_kernel_does(steps: list[tuple[int, int, int]]) -> None:
    """OFD locks of three open files: set, release, ask (-1), close and open anew (-2)."""
    disk = Disk()
    with tempfile.TemporaryDirectory() as path:
        real, client = Syscalls(), Client(disk)
        flags = os.O_RDWR | os.O_CREAT
        where = {id(real): f"{path}/f", id(client): "/f"}
        fds = {
            id(sys_): [sys_.open(where[id(sys_)], flags) for _ in range(3)]
            for sys_ in (real, client)
        }

        def take(sys_: Syscalls, who: int, kind: int, start: int) -> object:
            mine = fds[id(sys_)]
            try:
                if kind == -1:
                    return sys_.get_lock(mine[who], fcntl.F_RDLCK, start, 1)
                if kind == -2:
                    sys_.close(mine[who])
                    mine[who] = sys_.open(where[id(sys_)], flags)
                    return None
                sys_.set_lock(mine[who], kind, start, 1)
            except OSError as error:
                return error.errno
            return None

        for step in steps:
            assert take(real, *step) == take(client, *step), step
        for fd in fds[id(real)]:
            real.close(fd)


def test_power_cut_keeps_what_was_synced_and_promises_nothing_else() -> None:
    """A file's contents and a directory's names, each for itself."""
    disk = Disk()
    client = Client(disk)
    fd = client.open("/f", os.O_WRONLY | os.O_CREAT)
    client.write(fd, b"abc")
    client.fsync(fd)
    assert "f" not in disk.cut(lambda _: 0).root.names
    root = client.open("/", os.O_RDONLY | os.O_DIRECTORY)
    client.fsync(root)
    client.write(fd, b"def")
    client.link("f", "g", dir_fd=root)
    client.unlink("f", dir_fd=root)
    assert set(disk.cut(lambda _: 0).root.names) == {"f"}
    assert disk.cut(lambda _: 0).contents("/f") == b"abc"
    assert disk.cut(lambda n: min(n - 1, 1)).contents("/g") == b"abcdef"
    fates = [lambda n, c=choice: {2: 0, 5: c}.get(n, 4) for choice in (2, 3, 4)]
    kept = [disk.cut(fate).contents("/f") for fate in fates]
    assert kept == [b"\0" * 6, b"abcd", b"abcd\0\0"]
    assert disk.contents("/g") == b"abcdef"


def test_forgetful_client_believes_its_names_until_the_directory_is_opened_anew() -> None:
    """As an NFS client does, for names that are there and for names that are not."""
    disk = Disk()
    server, client = Client(disk), Client(disk, forgetful=True)
    flags = os.O_RDONLY | os.O_DIRECTORY
    theirs, mine = server.open("/", flags), client.open("/", flags)
    for name in ("old", "new"):
        if name == "old":
            server.close(server.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=theirs))
            client.stat("old", dir_fd=mine)
        else:
            with pytest.raises(FileNotFoundError):
                client.stat("new", dir_fd=mine)
    server.unlink("old", dir_fd=theirs)
    server.close(server.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=theirs))
    with pytest.raises(FileNotFoundError):
        client.stat("new", dir_fd=mine)
    client.stat("old", dir_fd=mine)
    with pytest.raises(OSError) as caught:
        client.open("old", os.O_RDONLY, dir_fd=mine)
    assert caught.value.errno == errno.ESTALE
    mine = client.open("/", flags)
    client.stat("new", dir_fd=mine)
    with pytest.raises(FileNotFoundError):
        client.stat("old", dir_fd=mine)


def test_dead_client_does_nothing_more_and_holds_nothing() -> None:
    """As after SIGKILL: locks and descriptors are gone, no call has an effect."""
    disk = Disk()
    first, second = Client(disk), Client(disk)
    flags = os.O_RDWR | os.O_CREAT
    mine, theirs = first.open("/f", flags), second.open("/f", flags)
    first.set_lock(mine, fcntl.F_WRLCK, 0, 1)
    with pytest.raises(BlockingIOError):
        second.set_lock(theirs, fcntl.F_WRLCK, 0, 1)
    first.die()
    second.set_lock(theirs, fcntl.F_WRLCK, 0, 1)
    with pytest.raises(Killed):
        first.open("/g", flags)
    assert "g" not in disk.root.names


def test_tap_before_prevents_a_call_and_tap_after_loses_its_reply() -> None:
    """What the fault tests inject."""
    disk = Disk()

    def strike(_: Client, call: Call) -> None:
        if call.name == "mkdir":
            raise OSError(errno.EIO, "no")

    with pytest.raises(OSError):
        Client(disk, before=strike).mkdir("/x", 0o700)
    assert "x" not in disk.root.names
    with pytest.raises(OSError):
        Client(disk, after=strike).mkdir("/x", 0o700)
    assert "x" in disk.root.names
