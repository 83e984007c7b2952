"""Files that hang when they are closed, by accident or on purpose: nobody else waits for them."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from flockpr import desk as module
from flockpr.desk import Desk, Turn
from flockpr.logical_unit import Result
from flockpr.prhelper.aside import Aside
from flockpr.prhelper.connection import Limits
from flockpr.spc.codes import Status
from tests.support.desks import READ_KEYS, REGISTER_IGNORE, Gate, Readers, at, sit, sitting
from tests.support.helper import DEADLINE, PORT, RawClient, Served, eventually, serving
from tests.support.open_files import count_open
from tests.support.scsi import basic_list, in_cdb

pytestmark = pytest.mark.usefixtures("patient")

REGISTER = REGISTER_IGNORE.ljust(16, b"\0")
KEYS = READ_KEYS.ljust(16, b"\0")


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing takes so long that another thread would take the desk."""
    monkeypatch.setattr(module, "PATIENCE", 1e9)
    monkeypatch.setattr(module, "SURELY", 1e9)


@contextlib.contextmanager
def lingering() -> Iterator[socket.socket]:
    """A socket whose last close hangs until the context ends: it has something to send, and
    nobody reads it.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with socket.create_connection(listener.getsockname()) as ours:
            theirs, _ = listener.accept()
            with theirs:
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
                ours.setblocking(False)
                while any(fill(ours) for _ in range(5)):
                    pass
                try:
                    yield ours
                finally:
                    theirs.close()  # with data unread, which resets the connection


def fill(sock: socket.socket) -> bool:
    """Send as much as it takes; whether it took anything. What the other end has taken, and has
    not said so yet, makes room a moment later.
    """
    time.sleep(0.05)
    try:
        sock.send(bytes(1 << 16))
    except BlockingIOError:
        return False
    return True


def queue_behind(served: Served, units: Readers, client: RawClient, disk: int) -> None:
    """Have a command carried out until `go_on`: what the client sends meanwhile waits."""
    units.hung.add("disk")
    client.send(REGISTER + basic_list(0, 1), disk)
    eventually(lambda: len(units.pending) == 1, "the command did not arrive")


def go_on(units: Readers) -> None:
    """End what `queue_behind` began."""
    units.hung.clear()
    units.pending[0].set_result(Result(Status.GOOD))


def served_on(client: RawClient, disk: int) -> None:
    """Somebody is answered, whether it only reads or not."""
    for _ in range(5):
        assert client.run(disk, READ_KEYS)[0] == Status.GOOD
        assert client.run(disk, REGISTER_IGNORE, basic_list(0, 2))[0] == Status.GOOD


@pytest.mark.usefixtures("unguarded")
def test_file_that_hangs_in_its_last_close_delays_nobody_else(units: Readers, disk: int) -> None:
    """The desk does not close it: a thread of its client's own does, so its client is answered,
    but gets no further meanwhile, or it could have a thousand of them hang.
    """
    with (
        serving(manager=at(units)) as served,
        RawClient(served.path) as bad,
        RawClient(served.path) as other,
    ):
        sit(served, bad, disk)
        sit(served, other, disk, 1)
        # Or the thread that looks at the file could be the last to close it, as it may be once.
        served.server._places.aside = lambda look: look()
        with lingering() as file:
            queue_behind(served, units, bad, disk)
            bad.send(REGISTER + basic_list(0, 3), file.fileno())
            file.close()
            bad.send(KEYS, disk)
            go_on(units)
            assert [bad.reply()[0], bad.reply()[0]] == [Status.GOOD, Status.GOOD]
            served_on(other, disk)
            with RawClient(served.path) as third:
                served_on(third, disk)
            bad.sock.settimeout(0.1)
            with pytest.raises(TimeoutError):
                bad.sock.recv(1)
            bad.sock.settimeout(DEADLINE)
        assert bad.reply()[0] == Status.GOOD
        assert sitting(served) >= 1


@pytest.mark.usefixtures("unguarded")
def test_connection_that_hangs_in_its_close_delays_nobody_else(units: Readers, disk: int) -> None:
    """What was sent and never read goes with it, and closing that hangs."""
    with serving(manager=at(units)) as served, RawClient(served.path) as other:
        sit(served, other, disk)
        with lingering() as file:
            with RawClient(served.path) as bad:
                sit(served, bad, disk, 1)
                queue_behind(served, units, bad, disk)
                bad.send(bytes(16), disk)  # nothing of this protocol
                bad.send(KEYS, file.fileno())
                file.close()
                go_on(units)
                assert bad.reply()[0] == Status.GOOD
                eventually(lambda: sitting(served) == 1, "it is not closed")
                served_on(other, disk)
            assert served.server.connections == 2
        eventually(lambda: served.server.connections == 1, "the connection stayed")
        eventually(lambda: count_open(os.readlink(f"/proc/self/fd/{disk}")) == 1, "a leak")


def test_who_has_the_desk_hang_is_kept_away(units: Readers, disk: int) -> None:
    """A client that closes its file while the helper lets go of it: the kernel closes it there.
    It is its owner that is kept away, not the connection: a new one would do it again.
    """
    with (
        serving(manager=at(units)) as served,
        RawClient(served.path) as bad,
        RawClient(served.path) as other,
    ):
        sit(served, bad, disk)
        sit(served, other, disk, 1)
        with lingering() as file:
            queue_behind(served, units, bad, disk)
            bad.send(KEYS, disk)
            bad.send(KEYS, file.fileno())
            file.close()
            go_on(units)
            assert [bad.reply()[0] for _ in range(3)] == [Status.GOOD] * 3
            eventually(lambda: sitting(served) == 1, "it is not noticed")
            assert not served.server.seating.desk.welcomes((served.server.path, PORT))
            served_on(other, disk)
        assert bad.run(disk, READ_KEYS)[0] == Status.GOOD
        assert units.told == 0  # no look was it that hung


def test_look_that_hangs_is_told_to_the_units(units: Readers, disk: int) -> None:
    """So that no other logical unit of that file system is looked at."""
    with (
        serving(manager=at(units)) as served,
        RawClient(served.path) as client,
        RawClient(served.path) as other,
    ):
        sit(served, client, disk)
        sit(served, other, disk, 1)
        units.hanging.add("disk")
        client.send(KEYS, disk)
        eventually(lambda: units.told == 1, "it is not told")
        units.hanging.clear()
        served_on(other, disk)
        units.gate.set()
        assert client.reply()[0] == Status.GOOD


@pytest.mark.parametrize("what", ["no descriptor", "too long"])
def test_request_that_breaks_the_protocol_ends_the_connection_at_the_desk(
    units: Readers, disk: int, what: str
) -> None:
    """As it does elsewhere, though it only reads."""
    with serving(manager=at(units)) as served, RawClient(served.path) as client:
        sit(served, client, disk)
        if what == "no descriptor":
            client.send(KEYS)
        else:
            client.send(in_cdb(0, 8193).ljust(16, b"\0"), disk)
        assert client.closed()
        eventually(lambda: served.server.connections == 0, "the connection stayed")


def test_after_a_hang_nothing_that_may_hang_is_done_at_the_desk(units: Readers, disk: int) -> None:
    """Whoever did it may come under another name. All are answered, by the units, for a while."""
    with (
        serving(manager=at(units)) as served,
        RawClient(served.path) as client,
        RawClient(served.path) as other,
    ):
        sit(served, client, disk)
        sit(served, other, disk, 1)
        desk = served.server.seating.desk
        assert not desk.wary
        units.hanging.add("disk")
        client.send(KEYS, disk)
        eventually(lambda: desk.wary, "it is not noticed")
        desk._wary._until = math.inf
        units.hanging.clear()
        units.gate.set()
        assert client.reply()[0] == Status.GOOD
        before = units.at_once
        served_on(other, disk)
        assert units.at_once == before
        desk._wary._until = 0.0
        eventually(
            lambda: desk.welcomes((served.server.path, PORT)), "its owner is kept away for ever"
        )
        served_on(other, disk)
        served_on(other, disk)
        assert units.at_once > before


def test_descriptor_that_cannot_be_examined_is_an_answer_at_the_desk(
    units: Readers, disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that a thread gives, and no broken connection, which QEMU would only repeat."""

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    units.names[os.readlink(f"/proc/self/fd/{disk}")] = "disk"
    with serving(manager=at(units, None)) as served, RawClient(served.path) as client:
        sit(served, client, disk)
        with monkeypatch.context() as patch:
            patch.setattr("flockpr.manager.known.mark_of", broken)
            patch.setattr("flockpr.manager.file_lock.mark_of", broken)
            assert client.run(disk, READ_KEYS)[0] == Status.CHECK_CONDITION
        assert client.run(disk, READ_KEYS)[0] == Status.GOOD


def test_guard_does_not_rest_while_a_command_is_carried_out(
    units: Readers, disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the guard that answers a command of which the units never say anything."""
    monkeypatch.setattr(module, "REST", 1e6)
    limits = Limits(command=module.REST_AFTER + 2 * module.LATE)
    with (
        serving(manager=at(units), limits=limits) as served,
        RawClient(served.path) as client,
    ):
        sit(served, client, disk)
        queue_behind(served, units, client, disk)
        assert client.reply()[0] == Status.CHECK_CONDITION


class Sitting:
    """Somebody at a desk, whose turn hangs after the connection has got a thread of its own."""

    owner = "somebody"

    def __init__(self) -> None:
        self.end, self.others = socket.socketpair()
        self.gate, self.dismissals = Gate(), 0
        self.given: list[str] = []

    def fileno(self) -> int:
        """Of the connection."""
        return self.end.fileno()

    def turn(self) -> Turn:
        """Hang."""
        self.gate.wait()
        return Turn.STAY

    def park(self) -> bool:
        """Never asked."""
        raise AssertionError

    def overdue(self, now: float) -> bool:
        """Nothing is."""
        del now
        return False

    def dismissed(self) -> bool:
        """No longer sitting."""
        self.dismissals += 1
        return False

    def close(self) -> None:
        """Go away."""
        self.gate.close()
        self.end.close()
        self.others.close()


def test_connection_that_has_a_thread_does_not_get_a_second_one() -> None:
    """It was given one while its turn went on, and the guard came too late."""
    served: list[Sitting] = []
    with contextlib.closing(Sitting()) as one:
        desk: Desk[Sitting] = Desk(serve=served.append, alone=served.append, ended=served.append)
        assert desk.take(one)
        first = desk._thread
        assert first is not None
        one.others.send(b"x")
        eventually(lambda: one.dismissals == 1, "it is not dismissed")
        one.gate.set()
        first.join(DEADLINE)
        assert not first.is_alive()
        assert served == []
        desk.stop()


def test_work_aside_is_never_left_to_a_thread_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever threads come and go at that moment; here they go all the time."""
    monkeypatch.setattr("flockpr.prhelper.aside.KEEP", 0.001)
    for number in range(150):
        aside, gate, done = Aside(), threading.Event(), threading.Event()
        aside.put(lambda: None)
        time.sleep(number % 10 * 1e-4)
        aside.put(lambda gate=gate: gate.wait(DEADLINE))  # type: ignore[misc]
        time.sleep(0.003)
        aside.put(done.set)
        assert done.wait(DEADLINE)
        gate.set()


def test_threads_aside_do_not_wait_for_each_other(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever hangs or fails there; one that is free takes the next."""
    aside = Aside()
    gate, done = threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        gate.wait(DEADLINE)
        done.release()

    for _ in range(5):
        aside.put(hang)
    aside.put(lambda: print(1 // 0))
    aside.put(done.release)
    assert done.acquire(timeout=DEADLINE)
    eventually(lambda: "ZeroDivisionError" in caplog.text, "it is not logged")
    gate.set()
    for _ in range(5):
        assert done.acquire(timeout=DEADLINE)


def test_threads_aside_end_when_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what comes then is done by a new one."""
    monkeypatch.setattr("flockpr.prhelper.aside.KEEP", 0.01)
    aside = Aside()
    found: list[threading.Thread] = []
    for count in (1, 2):
        aside.put(lambda: found.append(threading.current_thread()))
        eventually(lambda count=count: len(found) == count, "it is not done")  # type: ignore[misc]
        found[-1].join(DEADLINE)
        assert not found[-1].is_alive()
    assert found[0] is not found[1]


def test_work_aside_is_done_where_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """By whoever asks for it."""
    aside = Aside()
    found: list[threading.Thread] = []

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        aside.put(lambda: found.append(threading.current_thread()))
    assert found == [threading.current_thread()]


class Polls:
    """What an epoll object says, by a clock of its own: each question takes ten microseconds."""

    def __init__(self, slept: float) -> None:
        self.now = 0.0
        self.questions = 0
        self.sleeps = 0
        self._slept = slept

    def monotonic(self) -> float:
        """See `time.monotonic`."""
        return self.now

    def poll(self, timeout: float = -1) -> list[tuple[int, int]]:
        """Nothing is there; somebody comes while it sleeps."""
        if timeout == 0:
            self.questions += 1
            self.now += 10e-6
            return []
        self.sleeps += 1
        self.now += self._slept
        return [(7, 1)]


@pytest.mark.parametrize(
    ("answered", "quick", "slept", "then"),
    [
        (True, True, 1.0, False),
        (True, True, 50e-6, True),
        (True, False, 50e-6, True),
        (True, False, 1.0, False),
        (False, True, 50e-6, False),
    ],
)
def test_desk_waits_awake_for_quick_clients_only_and_not_for_long(
    monkeypatch: pytest.MonkeyPatch, answered: bool, quick: bool, slept: float, then: bool
) -> None:
    """Never while a command is carried out, and one that sends nothing costs one such wait."""
    polls = Polls(slept)
    monkeypatch.setattr(module, "time", polls)
    desk: Desk[Sitting] = Desk(serve=lambda _: None, alone=lambda _: None, ended=lambda _: None)
    real = desk._poll
    monkeypatch.setattr(desk, "_poll", polls)
    try:
        assert desk._next(answered, quick) == ([(7, 1)], then)
    finally:
        monkeypatch.setattr(desk, "_poll", real)
        monkeypatch.undo()
        desk.stop()

    assert polls.sleeps == 1
    assert (polls.questions > 0) is (answered and quick)
    assert polls.questions <= module.EAGER / 10e-6 + 1
