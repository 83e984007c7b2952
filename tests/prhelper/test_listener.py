"""The socket's name: taken without stealing, given back without deleting."""

from __future__ import annotations

import fcntl
import os
import pathlib
import socket
import stat
import threading
from collections.abc import Iterator

import pytest

from flockpr.errors import ConfigError
from flockpr.prhelper import listener as module
from flockpr.prhelper.listener import Listener
from tests.support.helper import short_directory


@pytest.fixture
def path() -> Iterator[str]:
    """A free socket path."""
    with short_directory() as directory:
        yield os.path.join(directory, "s")


def dead_socket(path: str) -> None:
    """Leave a socket behind, as a killed daemon does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(path)
        sock.listen(1)


def accepts(path: str) -> bool:
    """Whether somebody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        return sock.connect_ex(path) == 0


def test_bind_makes_a_socket_that_accepts_and_close_removes_it(path: str) -> None:
    """Ready as soon as the name is there."""
    listener = Listener.bind(path)
    assert accepts(path)
    assert listener.path == path
    assert not os.get_inheritable(listener.socket.fileno())
    listener.close()
    listener.close()
    assert not os.path.exists(path)


def test_bind_replaces_a_dead_socket(path: str) -> None:
    """What SIGKILL leaves behind must not stop the next start."""
    dead_socket(path)
    with_inode = os.lstat(path).st_ino
    listener = Listener.bind(path)
    assert accepts(path)
    listener.close()
    assert with_inode


def test_bind_refuses_a_live_socket_and_leaves_it_alone(path: str) -> None:
    """The real helper steals it."""
    first = Listener.bind(path)
    with pytest.raises(ConfigError, match="in use"):
        Listener.bind(path)
    assert accepts(path)
    first.close()


def test_bind_refuses_a_live_socket_with_a_full_backlog(path: str) -> None:
    """EAGAIN is not "dead"."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as busy:
        busy.bind(path)
        busy.listen(0)
        waiting = []
        while True:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.setblocking(False)
            waiting.append(client)
            if client.connect_ex(path):
                break
        with pytest.raises(ConfigError, match="in use"):
            Listener.bind(path)
        for client in waiting:
            client.close()
    assert os.path.exists(path)


def test_bind_refuses_a_socket_of_another_kind(path: str) -> None:
    """A datagram socket is somebody else's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        with pytest.raises(ConfigError, match="in use"):
            Listener.bind(path)
    assert os.path.exists(path)


@pytest.mark.parametrize("kind", ["file", "directory", "link", "fifo"])
def test_bind_refuses_what_is_no_socket(path: str, kind: str) -> None:
    """The real helper deletes a regular file there."""
    match kind:
        case "file":
            pathlib.Path(path).write_text("precious")
        case "directory":
            os.mkdir(path)
        case "link":
            os.symlink("elsewhere", path)
        case "fifo":
            os.mkfifo(path)
    before = os.lstat(path).st_ino
    with pytest.raises(ConfigError, match="no socket"):
        Listener.bind(path)
    assert os.lstat(path).st_ino == before


@pytest.mark.parametrize("bad", ["relative", "/tmp/" + "x" * 103, "/nul\0"])
def test_bind_refuses_paths_that_do_not_fit(bad: str) -> None:
    """Absolute, and at most 107 bytes."""
    with pytest.raises(ConfigError):
        Listener.bind(bad)


def test_bind_in_a_directory_that_is_not_there_is_an_error(path: str) -> None:
    """ENOENT names what is missing."""
    with pytest.raises(FileNotFoundError):
        Listener.bind(os.path.join(os.path.dirname(path), "missing", "s"))


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777])
def test_bind_gives_the_mode_asked_for(path: str, mode: int) -> None:
    """Whoever may write to the socket may connect."""
    listener = Listener.bind(path, mode=mode, owner=os.getuid(), group=os.getgid())
    assert stat.S_IMODE(os.lstat(path).st_mode) == mode
    listener.close()


def test_close_leaves_another_ones_socket_alone(path: str) -> None:
    """Who came later has replaced the name."""
    first = Listener.bind(path)
    os.unlink(path)
    second = Listener.bind(path)
    first.close()
    assert accepts(path)
    second.close()
    assert not os.path.exists(path)


def test_close_when_the_name_is_gone_is_fine(path: str) -> None:
    """Somebody cleaned up."""
    listener = Listener.bind(path)
    os.unlink(path)
    listener.close()


def test_starts_at_the_same_time_have_one_winner(path: str) -> None:
    """All find the same dead socket; one replaces it, the others see a live one."""
    dead_socket(path)
    start = threading.Barrier(8)
    won: list[Listener] = []
    lost: list[ConfigError] = []

    def run() -> None:
        start.wait()
        try:
            won.append(Listener.bind(path))
        except ConfigError as error:
            lost.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert accepts(path)
    won[0].close()


def test_directory_locked_by_somebody_else_is_not_waited_for_long(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may lock directories for its own reasons."""
    monkeypatch.setattr(module, "LOCK_TIMEOUT", 0.1)
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    Listener.bind(path).close()
    os.close(descriptor)


def test_adopted_socket_keeps_its_name(path: str) -> None:
    """Systemd goes on listening there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as owner:
        owner.bind(path)
        owner.listen(1)
        listener = Listener.adopt(owner.dup())
        assert listener.path == path
        listener.close()
        assert accepts(path)


@pytest.mark.parametrize("kind", ["datagram", "tcp", "not listening"])
def test_adopt_refuses_what_is_no_listening_unix_socket(kind: str) -> None:
    """Passed descriptors are checked, not believed."""
    family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
    with (
        socket.socket(
            family, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM
        ) as sock,
        pytest.raises(ConfigError),
    ):
        Listener.adopt(sock)
