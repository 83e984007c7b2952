"""What a connection sends, to clients that take it and to clients that do not."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from flockpr.iscsi.housekeeper import Housekeeper
from flockpr.iscsi.output import Output


class Pair:
    """An output and the client at the other end; the test is the housekeeper."""

    def __init__(self, stalled: float = 60.0) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.theirs.setblocking(False)
        self.released: list[str] = []
        self.housekeeper = Housekeeper()  # not started: nothing happens by itself
        self.output = Output(
            self.ours,
            self.housekeeper,
            flush=lambda: None,
            look=lambda: None,
            stalled=stalled,
        )

    def send(self, *chunks: bytes | memoryview, name: str = "") -> None:
        for release in self.output.send(chunks, (lambda: self.released.append(name))):
            release()

    def flush(self) -> None:
        for release in self.output.flush():
            release()

    def look(self) -> None:
        for release in self.output.look():
            release()

    def take(self) -> bytes:
        taken = b""
        while True:
            try:
                taken += self.theirs.recv(1 << 20)
            except BlockingIOError:
                return taken

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()
        self.housekeeper.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A connected pair."""
    made = Pair()
    yield made
    made.close()


def test_send_that_fits_is_released_at_once(pair: Pair) -> None:
    """What the socket takes is sent by whoever has it, and its memory is free."""
    pair.send(b"head", b"data", name="a")
    assert pair.take() == b"headdata"
    assert pair.released == ["a"]
    assert pair.output.pending == 0


def test_send_to_slow_client_keeps_order_and_bytes(pair: Pair) -> None:
    """What does not fit is queued, whatever is behind it too, and all arrives in order."""
    chunks = [bytes([n]) * 7001 for n in range(1, 60)]
    for n, chunk in enumerate(chunks):
        pair.send(chunk[:48], memoryview(chunk)[48:], name=str(n))
    assert pair.output.pending > 0
    taken = b""
    while pair.output.pending:
        taken += pair.take()
        pair.flush()
    taken += pair.take()
    assert taken == b"".join(chunks)
    assert pair.released == [str(n) for n in range(59)]


def test_look_frees_the_buffers_of_a_client_that_reads_nothing(pair: Pair) -> None:
    """A client that does not read keeps bytes of its own, not buffers of the disks."""
    buffer = bytearray(b"x" * 1_000_000)
    pair.send(memoryview(buffer), name="big")
    assert pair.released == []
    pair.look()
    assert pair.released == ["big"]
    buffer[:] = b"y" * 1_000_000  # the buffer is another command's now
    taken = pair.take()
    while pair.output.pending:
        pair.flush()
        taken += pair.take()
    assert set(taken) == {ord("x")}
    assert len(taken) == 1_000_000
    assert pair.released == ["big"]


def test_look_at_client_that_takes_nothing_for_too_long_breaks_the_connection() -> None:
    """A client that takes nothing within its time is dropped."""
    pair = Pair(stalled=0.0)
    try:
        pair.send(b"x" * 1_000_000, name="big")
        pair.look()
        assert pair.output.broken
        assert pair.released == ["big"]
        assert pair.ours.recv(1) == b""
    finally:
        pair.close()


def test_send_on_broken_connection_releases(pair: Pair) -> None:
    """Once broken, everything is released and nothing is sent or raised."""
    pair.send(b"x" * 1_000_000, name="first")
    pair.theirs.close()
    pair.flush()
    pair.send(b"more", name="second")
    assert pair.output.broken
    assert pair.released == ["first", "second"]


def test_send_of_more_chunks_than_one_call_takes_arrives(pair: Pair) -> None:
    """More buffers than IOV_MAX are sent in several calls."""
    chunks = [b"%04d" % n for n in range(3000)]
    pair.send(*chunks, name="many")
    taken = b""
    while pair.output.pending:
        pair.flush()
        taken += pair.take()
    assert taken == b"".join(chunks)
    assert pair.released == ["many"]
