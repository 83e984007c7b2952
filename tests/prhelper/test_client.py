"""The client of the helper protocol, against a server written byte by byte."""

from __future__ import annotations

import os
import pathlib
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator

import pytest

from flockpr.errors import ProtocolViolation
from flockpr.prhelper.client import HelperClient

Behaviour = Callable[[socket.socket], None]


@pytest.fixture
def directory() -> Iterator[str]:
    """A directory whose path leaves room for a Unix socket's name."""
    with tempfile.TemporaryDirectory(prefix="fpr") as path:
        yield path


def serve(directory: str, behave: Behaviour) -> tuple[str, threading.Thread]:
    """Accept one connection and hand it to `behave`; the path, and the thread to join."""
    path = os.path.join(directory, "s")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(1)

    def run() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                behave(connection)

    thread = threading.Thread(target=run)
    thread.start()
    return path, thread


def reply(status: int, payload: bytes = b"", sense: bytes = b"") -> bytes:
    """A response as the wire has it."""
    return struct.pack(">ii96s", status, len(payload), sense) + payload


def test_client_command_travels_as_qemu_sends_it(directory: str) -> None:
    """Greeting first, 16 bytes with one descriptor, then the parameter list; any part sizes."""
    seen: dict[str, object] = {}
    with open(os.path.join(directory, "device"), "wb") as device:
        inode = os.fstat(device.fileno()).st_ino

        def behave(connection: socket.socket) -> None:
            connection.sendall(b"\0\0\0\0")
            seen["features"] = connection.recv(4, socket.MSG_WAITALL)
            seen["cdb"], descriptors, _, _ = socket.recv_fds(connection, 16, 4)
            seen["inodes"] = [os.fstat(one).st_ino for one in descriptors]
            for one in descriptors:
                os.close(one)
            seen["data"] = connection.recv(24, socket.MSG_WAITALL)
            for byte in reply(2, sense=b"\x70\0\x05\0\0\0\0\x0a\0\0\0\0\x26\x04"):
                connection.sendall(bytes((byte,)))

        path, thread = serve(directory, behave)
        with HelperClient(path) as client:
            answer = client.execute(device.fileno(), b"\x5f" + bytes(9), bytes(range(24)))
        thread.join()

    assert seen == {
        "features": b"\0\0\0\0",
        "cdb": b"\x5f" + bytes(15),
        "inodes": [inode],
        "data": bytes(range(24)),
    }
    assert (answer.status, answer.sense_code, answer.data_in) == (2, (5, 0x26, 4), b"")
    assert len(answer.sense) == 96


def test_client_payload_and_descriptor_sense_are_read(directory: str) -> None:
    """PERSISTENT RESERVE IN brings a payload; 72h sense has its codes elsewhere."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(b"\0\0\0\0")
        connection.recv(4, socket.MSG_WAITALL)
        for answer in (reply(0, b"payload"), reply(2, sense=b"\x72\x05\x25\x00")):
            connection.recv(16, socket.MSG_WAITALL)
            connection.sendall(answer)

    path, thread = serve(directory, behave)
    with HelperClient(path) as client, open(os.devnull, "rb") as device:
        first = client.execute(device.fileno(), b"\x5e")
        second = client.execute(device.fileno(), b"\x5e")
    thread.join()

    assert (first.status, first.data_in) == (0, b"payload")
    assert second.sense_code == (5, 0x25, 0)


def test_client_requested_features_are_sent(directory: str) -> None:
    """Tests ask for features that QEMU may ask for one day."""
    words: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        connection.sendall(b"\0\0\0\x02")
        words.append(connection.recv(4, socket.MSG_WAITALL))

    path, thread = serve(directory, behave)
    with HelperClient(path, features=1) as client:
        assert client.offered == 2
        assert client.fileno() >= 0
        thread.join()

    assert words == [b"\0\0\0\x01"]


@pytest.mark.parametrize(
    "sent", [b"", b"\0\0\0\0", b"\0\0\0\0" + reply(0, b"1234")[:-1]], ids=["none", "word", "cut"]
)
def test_client_helper_closes_early_raises(directory: str, sent: bytes) -> None:
    """A helper that breaks off is told from one that answers."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(64):
            pass

    path, thread = serve(directory, behave)
    with (
        pytest.raises(ProtocolViolation),
        open(os.devnull, "rb") as device,
        HelperClient(path) as client,
    ):
        client.execute(device.fileno(), b"\x5e")
    thread.join()


def test_client_negative_payload_size_raises(directory: str) -> None:
    """QEMU would abort; here it is an error."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(b"\0\0\0\0")
        connection.recv(4, socket.MSG_WAITALL)
        connection.recv(16, socket.MSG_WAITALL)
        connection.sendall(struct.pack(">ii96s", 0, -1, b""))

    path, thread = serve(directory, behave)
    with (
        pytest.raises(ProtocolViolation, match="-1 bytes"),
        open(os.devnull, "rb") as device,
        HelperClient(path) as client,
    ):
        client.execute(device.fileno(), b"\x5e")
    thread.join()


def test_client_nobody_serves_raises_and_leaks_nothing(directory: str) -> None:
    """The descriptor of a failed connection is closed."""
    before = len(list(pathlib.Path("/proc/self/fd").iterdir()))

    with pytest.raises(FileNotFoundError):
        HelperClient(os.path.join(directory, "none"))

    # What an earlier test's thread closes meanwhile is not this client's.
    assert len(list(pathlib.Path("/proc/self/fd").iterdir())) <= before
