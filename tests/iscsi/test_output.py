"""What a connection sends, to clients that take it and to clients that do not."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from flockpr.iscsi.backlog import Backlog
from flockpr.iscsi.housekeeper import Housekeeper
from flockpr.iscsi.output import Loan, Output


class Pair:
    """An output and the client at the other end; the test is the housekeeper."""

    def __init__(self, stalled: float = 60.0, backlog: Backlog | None = None) -> None:
        self.now = 1000.0
        self.backlog = backlog or Backlog(1 << 30)
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
            backlog=self.backlog,
            clock=lambda: self.now,
        )

    def send(self, *chunks: bytes | memoryview, name: str = "") -> None:
        for release in self.output.send(chunks, (lambda: self.released.append(name))):
            release()

    def lend(self, *chunks: bytes | memoryview, name: str = "") -> None:
        """Send from memory that is another's: `name` when it was taken, `-name` when free."""
        loan = Loan(lambda: self.released.append(f"-{name}"))
        for release in self.output.send(chunks, loan, lambda: self.released.append(name)):
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
    pair.lend(memoryview(buffer), name="big")
    assert pair.released == []
    pair.look()
    assert pair.released == ["-big"]
    buffer[:] = b"y" * 1_000_000  # the buffer is another command's now
    taken = pair.take()
    while pair.output.pending:
        pair.flush()
        taken += pair.take()
    assert set(taken) == {ord("x")}
    assert len(taken) == 1_000_000
    assert pair.released == ["-big", "big"]


def test_look_counts_what_it_copied_until_it_is_taken(pair: Pair) -> None:
    """What is taken is told when it is taken: until then it is memory, whoever has it."""
    pair.lend(b"x" * 1_000_000, name="a")
    for _ in range(5):
        pair.look()
    assert pair.released == ["-a"]
    assert pair.backlog.total == pair.output.pending > 0
    pair.lend(b"y" * 1_000_000, name="b")
    pair.look()
    assert pair.backlog.total == pair.output.pending > 1_000_000
    while pair.output.pending:
        pair.take()
        pair.flush()
    assert pair.released == ["-a", "-b", "a", "b"]
    assert pair.backlog.total == 0


def test_look_at_small_pieces_keeps_order_and_bytes(pair: Pair) -> None:
    """Copies of small PDUs are put together, and are the same bytes in the same order."""
    sent = b""
    for number in range(40):
        chunks = [bytes([number, n % 256]) * 300 for n in range(100)]
        sent += b"".join(chunks)
        pair.lend(*chunks, name=str(number))
        if number % 7 == 3:
            pair.look()
    pair.send(b"the end", name="end")
    pair.look()
    taken = pair.take()
    while pair.output.pending:
        pair.flush()
        taken += pair.take()
    assert taken == sent + b"the end"
    assert [name for name in pair.released if not name.startswith("-")] == [
        *map(str, range(40)),
        "end",
    ]
    assert len(pair.released) == 81


def test_look_without_room_for_copies_waits_until_somebody_has_gone() -> None:
    """At the bound nothing is copied; who took nothing for longest goes, and then it is."""
    backlog = Backlog(1_500_000)
    first, second = Pair(backlog=backlog), Pair(backlog=backlog)
    try:
        first.lend(b"x" * 1_000_000, name="a")
        first.look()
        second.now += 5.0
        second.lend(b"x" * 1_000_000, name="b")
        second.look()
        assert second.released == []
        assert backlog.total == first.output.pending
        first.look()
        assert first.output.broken
        assert first.released == ["-a", "a"]
        assert backlog.total == 0
        second.look()
        assert second.released == ["-b"]
        assert not second.output.broken
        assert backlog.total == second.output.pending
    finally:
        first.close()
        second.close()


def test_look_at_client_that_was_to_go_and_took_everything_spares_it(pair: Pair) -> None:
    """Room was made by taking: nobody is dropped for what is no more."""
    pair.lend(b"x" * 1_000_000, name="a")
    pair.output.give_way()
    while pair.output.pending:
        pair.take()
        pair.flush()
    pair.lend(b"x" * 1_000_000, name="b")
    pair.look()
    assert not pair.output.broken


def test_send_while_buffers_are_short_copies_at_once() -> None:
    """Clients that do not take cannot have the buffers for a moment, or many of them had all."""
    crowded = False
    pair = Pair(backlog=Backlog(1 << 30, lambda: crowded))
    try:
        pair.lend(b"x" * 1_000_000, name="a")
        assert pair.released == []
        crowded = True
        pair.lend(b"x" * 1_000_000, name="b")
        assert pair.released == ["-a", "-b"]
        assert pair.backlog.total == pair.output.pending
    finally:
        pair.close()


def test_send_of_answers_that_nobody_takes_is_counted_at_once(pair: Pair) -> None:
    """What is in no buffer of a disk is memory, too, from the beginning."""
    for _ in range(10):
        pair.send(b"x" * 100_000)
    assert pair.backlog.total == pair.output.pending > 0
    pair.output.abandon()
    assert pair.backlog.total == 0


def test_client_that_takes_single_bytes_takes_no_answer(pair: Pair) -> None:
    """Who takes a little now and then is not spared for that when room is needed."""
    pair.lend(b"x" * 1_000_000, name="a")
    began = pair.output.since
    for _ in range(20):
        pair.now += 1.0
        pair.take()
        pair.flush()
    assert pair.output.pending
    assert pair.output.since == began
    while pair.output.pending:
        pair.now += 1.0
        pair.take()
        pair.flush()
    assert pair.output.since == pair.now


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
