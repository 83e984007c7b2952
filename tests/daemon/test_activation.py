"""Sockets passed by systemd, and notifications to it: over real sockets, without systemd."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator

import pytest

from flockpr.daemon.activation import Notifier, take_sockets
from flockpr.errors import ConfigError


@pytest.fixture
def short() -> Iterator[str]:
    """A directory whose name leaves room for a socket's."""
    directory = tempfile.mkdtemp(prefix="fpr-")
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def passed(*sockets: socket.socket) -> Iterator[int]:
    """Duplicates at consecutive numbers, as they are after exec; yields the first number."""
    first = 500  # far above what a test process has open
    for index, entry in enumerate(sockets):
        os.dup2(entry.fileno(), first + index, inheritable=True)
    try:
        yield first
    finally:
        for index in range(len(sockets)):
            with contextlib.suppress(OSError):
                os.close(first + index)


def listening(path: str) -> socket.socket:
    """A listening Unix socket."""
    made = socket.socket(socket.AF_UNIX)
    made.bind(path)
    made.listen()
    return made


def announce(count: object, pid: object, names: str = "") -> dict[str, str]:
    """The environment that announces sockets."""
    return {"LISTEN_FDS": str(count), "LISTEN_PID": str(pid), "LISTEN_FDNAMES": names, "A": "b"}


def test_passed_sockets_are_taken_with_names_and_paths(short: str) -> None:
    """Every socket comes with its name; it is closed on exec, and the variables are gone."""
    with listening(f"{short}/a") as a, listening(f"{short}/b") as b, passed(a, b) as first:
        environ = announce(2, 42, "one:unknown")
        taken = take_sockets(environ, pid=42, first=first)
        assert [(entry.name, entry.path) for entry in taken] == [
            ("one", f"{short}/a"),
            ("", f"{short}/b"),
        ]
        assert environ == {"A": "b"}
        for entry in taken:
            assert not os.get_inheritable(entry.socket.fileno())
            entry.socket.close()


@pytest.mark.parametrize(
    ("count", "pid"),
    [(1, 41), (0, 42), (-1, 42), ("x", 42), ("", 42), (1, ""), ("1 ", 42), ("²", 42)],
)
def test_announcement_that_is_not_for_us_takes_nothing_and_is_removed(
    short: str, count: object, pid: object
) -> None:
    """Another process's LISTEN_PID, or nonsense: nothing is touched, nothing handed on."""
    with listening(f"{short}/a") as a, passed(a) as first:
        environ = announce(count, pid)
        assert take_sockets(environ, pid=42, first=first) == []
        assert environ == {"A": "b"}
        assert os.get_inheritable(first)


def test_tcp_socket_is_taken_for_the_target_door() -> None:
    """It has no path, and is told from those of the helper door."""
    with socket.create_server(("127.0.0.1", 0)) as inet, passed(inet) as first:
        [taken] = take_sockets(announce(1, 42), pid=42, first=first)
        with taken.socket:
            assert (taken.path, taken.is_unix) == ("", False)
            assert taken.socket.getsockname() == inet.getsockname()


def refused(first: int, complaint: str) -> None:
    """One descriptor announced at that number is refused so."""
    with pytest.raises(ConfigError, match=complaint):
        take_sockets(announce(1, 42), pid=42, first=first)


def test_descriptor_that_is_no_listening_stream_socket_is_refused(short: str) -> None:
    """A socket that is connected, of another kind, or no socket at all."""
    with socket.socket(socket.AF_UNIX) as idle, passed(idle) as first:
        refused(first, "not a listening stream socket")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        with passed(datagrams) as first:
            refused(first, "not a listening stream socket")
    reader, writer = os.pipe()
    refused(reader, f"descriptor {reader} is no socket")
    refused(987654, "descriptor 987654")
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("abstract", [False, True])
def test_notification_arrives_at_path_and_abstract_name(short: str, abstract: bool) -> None:
    """READY=1, STOPPING=1 and WATCHDOG=1 each come as one datagram of lines."""
    name = f"{short}/n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(60)
        manager.bind("\0" + name if abstract else name)
        environ = {"NOTIFY_SOCKET": ("@" if abstract else "") + name, "A": "b"}
        notifier = Notifier.from_environ(environ)
        assert environ == {"A": "b"}
        assert notifier.ready("two\nlines")
        assert manager.recv(100) == b"READY=1\nSTATUS=two lines"
        assert notifier.stopping()
        assert manager.recv(100) == b"STOPPING=1"
        assert notifier.alive()
        assert manager.recv(100) == b"WATCHDOG=1"


def test_notification_without_anybody_is_no_error(short: str) -> None:
    """No manager, a manager that has gone, or one that is not a Unix socket."""
    for address in ("", "vsock:2:1234", f"{short}/gone", "relative"):
        assert not Notifier.from_environ({"NOTIFY_SOCKET": address}).ready()


def test_watchdog_ping_to_a_full_queue_does_not_wait(short: str) -> None:
    """A manager that does not read must not stop the daemon."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{short}/n")
        notifier = Notifier(f"{short}/n")
        for _ in range(100_000):
            if not notifier.alive():
                return
        pytest.fail("the queue never filled")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("3000000", "", 3.0),
        ("3000000", "42", 3.0),
        ("3000000", "41", None),
        ("0", "", None),
        ("-5", "", None),
        ("x", "", None),
        ("", "", None),
    ],
)
def test_watchdog_interval_is_for_this_process_only(
    usec: str, pid: str, seconds: float | None
) -> None:
    """WATCHDOG_USEC counts unless WATCHDOG_PID names another process."""
    environ = {"WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    assert Notifier.from_environ(environ, pid=42).watchdog == seconds
    assert environ == {}
