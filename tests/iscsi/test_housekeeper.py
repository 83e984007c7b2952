"""The thread for deadlines and slow readers."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from flockpr.iscsi.housekeeper import Housekeeper

PATIENCE = 60.0


@pytest.fixture
def housekeeper() -> Iterator[Housekeeper]:
    """One that works, and ends with the test."""
    keeper = Housekeeper()
    keeper.start()
    yield keeper
    keeper.close()


def test_later_calls_in_order_of_time(housekeeper: Housekeeper) -> None:
    """What is due first is called first, whatever was asked first."""
    called: list[str] = []
    done = threading.Event()
    housekeeper.later(0.2, done.set)
    housekeeper.later(0.1, lambda: called.append("second"))
    housekeeper.soon(lambda: called.append("first"))
    assert done.wait(PATIENCE)
    assert called == ["first", "second"]


def test_cancelled_call_is_not_made(housekeeper: Housekeeper) -> None:
    """A call that was cancelled in time does not happen."""
    called: list[str] = []
    done = threading.Event()
    housekeeper.cancel(housekeeper.later(0.05, lambda: called.append("cancelled")))
    housekeeper.later(0.1, done.set)
    assert done.wait(PATIENCE)
    assert called == []


def test_error_in_a_call_spares_the_others(
    housekeeper: Housekeeper, caplog: pytest.LogCaptureFixture
) -> None:
    """One that fails is logged, and the next is called."""
    done = threading.Event()

    def fail() -> None:
        raise RuntimeError("on purpose")

    housekeeper.soon(fail)
    housekeeper.soon(done.set)
    assert done.wait(PATIENCE)
    assert "on purpose" in caplog.text


def test_when_writable_calls_once_there_is_room(housekeeper: Housekeeper) -> None:
    """A full socket is waited for, not polled."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += ours.send(bytes(1 << 16))
        room = threading.Event()
        housekeeper.when_writable(ours.fileno(), room.set)
        assert not room.wait(0.1)
        while sent:
            sent -= len(theirs.recv(1 << 16))
        assert room.wait(PATIENCE)
        housekeeper.forget(ours.fileno())


def test_forgotten_descriptor_number_may_be_used_again(housekeeper: Housekeeper) -> None:
    """A number that was forgotten and now is another file is watched anew."""
    for _ in range(3):
        reading, writing = os.pipe()
        room = threading.Event()
        housekeeper.when_writable(writing, room.set)
        assert room.wait(PATIENCE)
        housekeeper.forget(writing)
        os.close(reading)
        os.close(writing)


def test_closed_housekeeper_leaves_no_thread_and_takes_calls() -> None:
    """`close` ends it; whoever comes late is neither served nor failed."""
    keeper = Housekeeper()
    keeper.start()
    keeper.close()
    keeper.close()
    assert not keeper.alive
    keeper.soon(lambda: None)
    keeper.when_writable(0, lambda: None)
    keeper.forget(0)
