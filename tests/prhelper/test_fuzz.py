"""Any client against a running server: it answers or closes, leaks nothing, goes on."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.helper import RawClient, Served, eventually, serving
from tests.support.open_files import count_open
from tests.support.scsi import in_cdb

_cdbs = st.builds(
    lambda opcode, byte1, byte2, middle, length, rest: (
        bytes((opcode, byte1, byte2)) + middle + struct.pack(">H", length) + rest
    ),
    st.sampled_from([0x5E, 0x5F, 0x5E, 0x5F, 0xFF, 0x12]) | st.integers(0, 255),
    st.integers(0, 7) | st.integers(0, 255),
    st.integers(0, 255),
    st.binary(min_size=4, max_size=4),
    st.sampled_from([0, 1, 8, 24, 28, 8192, 8193]) | st.integers(0, 65535),
    st.binary(min_size=7, max_size=7),
)
_pieces = st.tuples(
    _cdbs | st.binary(max_size=40) | st.integers(0, 64).map(bytes),
    st.sampled_from([0, 0, 1, 1, 1, 1, 2, 5, 20]),
)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """One server for all examples: what one leaves behind, the next would meet."""
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A file that nobody else opens."""
    path = tmp_path_factory.mktemp("fuzz") / "device"
    path.touch()
    return path


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(pieces=st.lists(_pieces, max_size=8), word=st.sampled_from([bytes(4), b"", b"\xff" * 4]))
def test_any_stream_is_answered_or_closed_and_leaks_nothing(
    served: Served, device: pathlib.Path, pieces: list[tuple[bytes, int]], word: bytes
) -> None:
    """Responses are whole and of allowed sizes; descriptors are closed; the server lives."""
    with RawClient(served.path, handshake=False) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if word:
                client.send(word)
            for data, count in pieces:
                opened = [os.open(device, os.O_RDWR) for _ in range(count)]
                try:
                    if data:
                        client.send(data, *opened)
                finally:
                    for descriptor in opened:
                        os.close(descriptor)
        with contextlib.suppress(OSError):
            client.sock.shutdown(socket.SHUT_WR)
        received = bytearray()
        reset = False
        try:
            while part := client.sock.recv(65536):
                received += part
        except ConnectionResetError:
            reset = True  # closed with input unread: what was under way may be lost
    check_responses(bytes(received), reset=reset)
    eventually(lambda: count_open(str(device)) == 0, "a descriptor stayed open")
    with RawClient(served.path) as client:
        descriptor = os.open(device, os.O_RDONLY)
        assert client.run(descriptor, in_cdb(0))[0] == 0
        os.close(descriptor)


def check_responses(stream: bytes, *, reset: bool) -> None:
    """A greeting and whole responses, nothing else."""
    if reset and not stream:
        return
    assert stream[:4] == bytes(4)
    offset = 4
    while offset < len(stream):
        status, size = struct.unpack_from(">ii", stream, offset)
        assert status in (0x00, 0x02, 0x08, 0x18)
        assert 0 <= size <= 8192
        assert status == 0 or size == 0
        if status == 2:
            assert stream[offset + 8] == 0x70
        offset += 104 + size
    assert offset == len(stream)
