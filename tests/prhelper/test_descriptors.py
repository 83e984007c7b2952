"""Passed descriptors: none stays open, whatever the client does."""

from __future__ import annotations

import array
import os
import pathlib
import resource
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from flockpr.prhelper import inbox as inbox_module
from flockpr.spc.codes import Status
from tests.support.helper import DEADLINE, RawClient, Served, eventually, serving
from tests.support.open_files import count_open, open_descriptors
from tests.support.scsi import basic_list, in_cdb

CDB_IN = in_cdb(0).ljust(16, b"\0")
CDB_OUT = bytes((0x5F, 6, 0, 0, 0, 0, 0, 0, 24, *bytes(7)))


@pytest.fixture
def served() -> Iterator[Served]:
    """A server whose every descriptor is the logical unit `disk`."""
    with serving() as running:
        yield running


@pytest.fixture
def device(tmp_path: pathlib.Path) -> str:
    """Path of a file that only this test opens."""
    path = tmp_path / "device"
    path.write_bytes(b"")
    return str(path)


def send_and_see(served: Served, device: str, parts: list[tuple[bytes, int]]) -> bytes:
    """Send messages with that many new descriptors each; what comes back until the end."""
    with RawClient(served.path) as client:
        try:
            for data, count in parts:
                opened = [os.open(device, os.O_RDWR) for _ in range(count)]
                try:
                    client.send(data, *opened)
                finally:
                    for descriptor in opened:
                        os.close(descriptor)
            client.sock.shutdown(socket.SHUT_WR)
            return client.receive(1 << 16)
        except (BrokenPipeError, ConnectionResetError):
            return b""


ABUSES = [
    pytest.param([(CDB_IN, 1)], 104 + 8, id="in"),
    pytest.param([(CDB_OUT, 1), (basic_list(0, 1), 0)], 104, id="out"),
    pytest.param([(CDB_IN, 2)], 0, id="two in one message"),
    pytest.param([(CDB_IN[:8], 1), (CDB_IN[8:], 1)], 0, id="one with each half"),
    pytest.param([(CDB_IN, 9)], 0, id="one more than there is room for"),
    pytest.param([(CDB_IN, 253)], 0, id="as many as a message can carry"),
    pytest.param([(CDB_IN[:5], 1)], 0, id="half a CDB"),
    pytest.param([(CDB_OUT, 1)], 0, id="no data-out"),
    pytest.param([(CDB_OUT, 1), (bytes(23), 0)], 0, id="half of the data-out"),
    pytest.param([(CDB_OUT, 1), (basic_list(0, 1), 1)], 104, id="one with data-out too"),
    pytest.param([(CDB_OUT, 1), (basic_list(0, 1), 5)], 104, id="five with data-out too"),
    pytest.param([(CDB_OUT, 0), (basic_list(0, 1), 1)], 0, id="only with data-out"),
    pytest.param([(b"\x12" + bytes(15), 1)], 0, id="another opcode"),
    pytest.param([(b"\xff" + bytes(15), 1)], 104, id="cleanup"),
    pytest.param([(CDB_IN[:7] + b"\xff\xff" + bytes(7), 1)], 0, id="too long"),
    pytest.param([(CDB_IN, 1), (CDB_IN, 1), (CDB_IN, 0)], 224, id="the third without"),
]


@pytest.mark.parametrize(("parts", "answered"), ABUSES)
def test_descriptors_are_closed_on_every_path(
    served: Served, device: str, parts: list[tuple[bytes, int]], answered: int
) -> None:
    """Whatever was received is closed, by the end of the connection at the latest."""
    reply = send_and_see(served, device, parts)
    # A connection that is closed with unread input is reset, so a reply may get lost there.
    assert len(reply) == answered or (reply == b"" and answered == 224)
    eventually(lambda: count_open(device) == 0, "a descriptor stayed open")


def test_descriptors_of_which_only_the_first_fits_close(
    served: Served, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MSG_CTRUNC: with one entry left in the table of open files, a second one does not show."""
    monkeypatch.setattr(inbox_module, "_CONTROL_SIZE", socket.CMSG_LEN(4))
    assert send_and_see(served, device, [(CDB_IN, 1)])
    assert send_and_see(served, device, [(CDB_IN, 2)]) == b""
    eventually(lambda: count_open(device) == 0, "a descriptor stayed open")


def test_descriptor_is_closed_after_each_command(served: Served, device: str) -> None:
    """Not only at the end of a connection that may last for months."""
    with RawClient(served.path) as client:
        for number in range(50):
            descriptor = os.open(device, os.O_RDWR)
            assert client.run(descriptor, CDB_OUT, basic_list(0, number + 1))[0] == Status.GOOD
            os.close(descriptor)
        eventually(lambda: count_open(device) == 0, "a descriptor stayed open")


def test_descriptor_with_the_handshake_is_not_used(served: Served, device: str) -> None:
    """It is dropped, so the CDB is without one."""
    descriptor = os.open(device, os.O_RDWR)
    with RawClient(served.path, handshake=False) as client:
        client.receive(4)
        client.send(bytes(4), descriptor)
        client.send(CDB_IN)
        assert client.closed()
    with RawClient(served.path, handshake=False) as client:
        client.receive(4)
        client.send(bytes(4) + CDB_IN, descriptor)
        assert client.closed()
    os.close(descriptor)
    eventually(lambda: count_open(device) == 0, "a descriptor stayed open")


def test_received_descriptors_are_closed_on_exec(served: Served, device: str) -> None:
    """Another thread may start a program in between."""
    served.units.hung.add("disk")
    descriptor = os.open(device, os.O_RDWR)
    with RawClient(served.path) as client:
        client.send(CDB_IN, descriptor)
        os.close(descriptor)
        eventually(lambda: bool(served.units.pending), "the command did not arrive")
        received = [
            int(number) for number, found in open_descriptors() if found == os.path.realpath(device)
        ]
        assert received
        assert not any(os.get_inheritable(number) for number in received)


def test_other_control_messages_are_ignored(served: Served, device: str) -> None:
    """Credentials beside the descriptor are no second descriptor."""
    descriptor = os.open(device, os.O_RDWR)
    credentials = array.array("i", [os.getpid(), os.getuid(), os.getgid()]).tobytes()
    with RawClient(served.path) as client:
        client.sock.sendmsg(
            [CDB_IN],
            [
                (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials),
                (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor])),
            ],
        )
        assert client.reply()[0] == Status.GOOD
    os.close(descriptor)


FULL_TABLE = """
import os, resource, socket, sys, threading
from tests.support.helper import RawClient, eventually, serving
from tests.support.open_files import count_open
from tests.support.scsi import in_cdb, basic_list

CDB_IN = in_cdb(0).ljust(16, b"\\0")
CDB_OUT = bytes((0x5F, 6, 0, 0, 0, 0, 0, 0, 24, *bytes(7)))
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
device = os.open("/dev/null", os.O_RDWR)
before = count_open("/dev/null")

with serving() as served:
    client = RawClient(served.path)
    assert client.run(device, CDB_IN)[0] == 0
    late = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    late.settimeout(60)
    eventually(lambda: count_open("/dev/null") == before, "the descriptor stayed open")
    # From here on no descriptor can be made in this process.
    highest = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    filler = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 4, hard))
    try:
        while True:
            filler.append(os.dup(device))
    except OSError:
        pass
    client.send(CDB_OUT, device)
    client.send(basic_list(0, 1))
    assert client.reply()[0] == 0x08, "a full table is BUSY, not a disconnect"
    late.connect(served.path)
    late.settimeout(0.5)
    try:
        late.recv(4)
    except TimeoutError:
        pass
    else:
        raise AssertionError("accepted without a descriptor?")
    assert served.server.alive
    for number in filler:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    late.settimeout(60)
    assert late.recv(4) == bytes(4), "the client in the backlog is served afterwards"
    assert client.run(device, CDB_OUT, basic_list(0, 1))[0] == 0
    late.close()
    client.close()
print("fine")
"""


def test_full_table_of_open_files_is_survived() -> None:
    """EMFILE: a lost descriptor is BUSY with its data-out consumed, accept goes on later."""
    root = pathlib.Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_TABLE)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096)),
    )
    assert done.stdout.strip() == "fine", done.stderr
