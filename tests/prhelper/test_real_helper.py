"""The same requests to QEMU's own helper and to ours: both answer, or both close.

What they answer differs, since a regular file is no SCSI device for the real one; whether
they answer must not: QEMU and the guest see a closed connection as something else entirely.
"""

from __future__ import annotations

import os
import pathlib
import socket
import struct
import subprocess
from collections.abc import Iterator

import attrs
import pytest

from tests.support.helper import (
    DEADLINE,
    RawClient,
    eventually,
    sense_code,
    serving,
    short_directory,
)
from tests.support.peers import require

pytestmark = pytest.mark.peer("qemu-pr-helper")

IN = bytes((0x5E, 0, 0, 0, 0, 0, 0, 0, 24, *bytes(7)))
OUT = bytes((0x5F, 0, 0, 0, 0, 0, 0, 0, 24, *bytes(7)))
DATA = bytes(24)
HELLO = bytes(4)


def cdb(opcode: int, length: int = 0, action: int = 0, high: int = 0) -> bytes:
    """A CDB with bytes 7-8 and 5-6."""
    return bytes((opcode, action, 0, 0, 0)) + struct.pack(">HH", high, length) + bytes(7)


@attrs.frozen
class Case:
    """What a client sends, and what becomes of it.

    Attributes:
        messages: Bytes, and how many descriptors with them.
        responses: How many responses they get.
        end: `open` (another request is answered), `closed` (by the helper), or `unfinished`
            (a request is incomplete; the client ends its stream).
        real_differs: The helper of QEMU 7.2 closes.
    """

    messages: tuple[tuple[bytes, int], ...]
    responses: int
    end: str = "open"
    real_differs: bool = False


def fine(*messages: tuple[bytes, int], responses: int = 1) -> Case:
    """Everything is answered and the connection stays."""
    return Case(((HELLO, 0), *messages), responses)


def breaks(*messages: tuple[bytes, int], responses: int = 0) -> Case:
    """The helper closes."""
    return Case(((HELLO, 0), *messages), responses, "closed")


def unfinished(*messages: tuple[bytes, int]) -> Case:
    """The client ends its stream within a request."""
    return Case(messages, 0, "unfinished")


CASES = {
    "in": fine((IN, 1)),
    "in, length 0": fine((cdb(0x5E, 0), 1)),
    "in, length 8192": fine((cdb(0x5E, 8192), 1)),
    "in, length 8193": breaks((cdb(0x5E, 8193), 1)),
    "in, length 65535": breaks((cdb(0x5E, 65535), 1)),
    "in, bytes 5-6 set": fine((cdb(0x5E, 24, high=0xFFFF), 1), (IN, 1), responses=2),
    "in, garbage above the action": fine((cdb(0x5E, 24, 0xE0), 1)),
    "in, unknown action": fine((cdb(0x5E, 24, 0x1F), 1)),
    "in, no descriptor": breaks((IN, 0)),
    "in, two descriptors": breaks((IN, 2)),
    "in, three descriptors": breaks((IN, 3)),
    "in, one with each half": breaks((IN[:8], 1), (IN[8:], 1)),
    "in, with the first byte": fine((IN[:1], 1), (IN[1:], 0)),
    "in, with the last byte": fine((IN[:15], 0), (IN[15:], 1)),
    "in, byte by byte": fine(*((bytes((byte,)), int(n == 7)) for n, byte in enumerate(IN))),
    "in, handshake in pieces": Case(((b"\0", 0), (b"\0\0\0", 0), (IN, 1)), 1),
    "in, handshake and CDB in one": Case(((HELLO + IN[:15], 0), (IN[15:], 1)), 1),
    "descriptor with the handshake": Case(((HELLO, 1), (IN, 0)), 0, "closed"),
    "descriptor with handshake and CDB": Case(((HELLO + IN, 1),), 0, "closed"),
    "descriptor of the last request": breaks((IN, 1), (IN, 0), responses=1),
    "out": fine((OUT, 1), (DATA, 0)),
    "out, data in one message": fine((OUT + DATA, 1)),
    "out, data byte by byte": fine((OUT, 1), *((b"\0", 0) for _ in range(24))),
    "out, length 0": fine((cdb(0x5F, 0), 1), (IN, 1), responses=2),
    "out, length 1": fine((cdb(0x5F, 1), 1), (b"\0", 0), (IN, 1), responses=2),
    "out, length 8192": fine((cdb(0x5F, 8192), 1), (bytes(8192), 0), (IN, 1), responses=2),
    "out, length 8193": breaks((cdb(0x5F, 8193), 1)),
    "out, bytes 5-6 set": fine((cdb(0x5F, 24, high=1), 1), (DATA, 0), (IN, 1), responses=2),
    "out, unknown action": fine((cdb(0x5F, 24, 0x1F), 1), (DATA, 0), (IN, 1), responses=2),
    "out, no descriptor": breaks((OUT, 0)),
    "out, descriptor with data only": breaks((OUT, 0), (DATA, 1)),
    "out, second descriptor with data": fine((OUT, 1), (DATA, 1), (IN, 1), responses=2),
    "pipelined": fine((OUT, 1), (DATA, 0), (IN, 1), (OUT, 1), (DATA, 0), (IN, 1), responses=4),
    "half of the handshake": unfinished((HELLO[:2], 0)),
    "only handshake": fine(responses=0),
    "half a CDB": unfinished((HELLO, 0), (IN[:9], 1)),
    "no data": unfinished((HELLO, 0), (OUT, 1)),
    "half of the data": unfinished((HELLO, 0), (OUT, 1), (DATA[:9], 0)),
    "features 2": Case(((b"\0\0\0\2", 0),), 0, "closed"),
    "features 01000000": Case(((b"\1\0\0\0", 0),), 0, "closed"),
    "features ffffffff": Case(((b"\xff" * 4, 0),), 0, "closed"),
    **{
        f"opcode {opcode:#04x}": breaks((cdb(opcode, 24), 1))
        for opcode in (0x00, 0x12, 0x28, 0x5D, 0x60, 0x88, 0xA3)
    },
    # The helper of QEMU 7.2 knows neither the CLEANUP bit nor its opcode.
    "features 1": Case(((b"\0\0\0\1", 0), (IN, 1)), 1, real_differs=True),
    "cleanup": Case(((HELLO, 0), (cdb(0xFF), 1)), 1, real_differs=True),
}


@pytest.fixture(scope="module")
def real() -> Iterator[str]:
    """Path of a running qemu-pr-helper's socket."""
    binary = require("qemu-pr-helper")["qemu-pr-helper"]
    with short_directory() as directory:
        path = os.path.join(directory, "s")
        process = subprocess.Popen(
            [binary, "-k", path, "-q"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            eventually(lambda: connects(path), "qemu-pr-helper did not start")
            yield path
        finally:
            process.terminate()
            process.wait(DEADLINE)


@pytest.fixture(scope="module")
def ours() -> Iterator[str]:
    """Path of our server's socket."""
    with serving() as served:
        yield served.path


def connects(path: str) -> bool:
    """Whether somebody accepts."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(path) == 0


def play(path: str, case: Case, device: pathlib.Path) -> tuple[bytes, int, str]:
    """Send a case's messages: the greeting, how many responses came, and how it ended."""
    with RawClient(path, handshake=False) as client:
        greeting = client.receive(4)
        responses = 0
        try:
            for data, count in case.messages:
                send(client, data, count, device)
            if case.end == "unfinished":
                client.sock.shutdown(socket.SHUT_WR)
                assert client.closed()
                return greeting, 0, "unfinished"
            if case.end == "open":
                send(client, IN, 1, device)  # is anybody there?
            while response(client):
                responses += 1
                if case.end == "open" and responses == case.responses + 1:
                    return greeting, case.responses, "open"
        except (BrokenPipeError, ConnectionResetError):
            pass
        return greeting, responses, "closed"


def send(client: RawClient, data: bytes, count: int, device: pathlib.Path) -> None:
    """Send a message with that many new descriptors."""
    opened = [os.open(device, os.O_RDWR) for _ in range(count)]
    try:
        client.send(data, *opened)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def response(client: RawClient) -> bool:
    """Receive one whole response; False at the end of the stream."""
    header = client.receive(104)
    if not header:
        return False
    assert len(header) == 104
    _, size = struct.unpack_from(">ii", header)
    assert len(client.receive(size)) == size
    return True


@pytest.mark.parametrize("name", CASES)
def test_both_helpers_answer_or_both_close(
    real: str, ours: str, tmp_path: pathlib.Path, name: str
) -> None:
    """Framing decisions agree with those of the binary that QEMU ships."""
    case = CASES[name]
    device = tmp_path / "device"
    device.touch()
    expected = (HELLO, case.responses, case.end)
    assert play(ours, case, device) == expected
    if case.real_differs:
        assert play(real, case, device) == (HELLO, 0, "closed")
    else:
        assert play(real, case, device) == expected


def test_out_on_a_read_only_descriptor_is_refused_alike(
    real: str, ours: str, tmp_path: pathlib.Path
) -> None:
    """05/20/00 after the data, and the next request is in step; also for O_PATH."""
    (tmp_path / "device").touch()
    for flags in (os.O_RDONLY, os.O_PATH):
        descriptor = os.open(tmp_path / "device", flags)
        for path in (real, ours):
            with RawClient(path) as client:
                for _ in range(2):
                    status, sense, payload = client.run(descriptor, OUT, DATA)
                    assert (status, sense_code(sense), payload) == (2, (5, 0x20, 0), b"")
        os.close(descriptor)
