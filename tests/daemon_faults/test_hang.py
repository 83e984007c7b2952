"""The file server of one logical unit hangs: a system call of its thread does not come back.

strace holds the call for as long as a test wants, so nothing here depends on how fast the
machine is: while the call is held, it is held.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import attrs
import pytest

from flockpr.errors import ProtocolViolation
from flockpr.spc.codes import Status
from tests.support.daemons import (
    BY_THE_UNITS,
    Answer,
    Daemon,
    Door,
    Guest,
    Sent,
    chain,
    committed,
    decide,
    make_lun,
    out,
    read,
    wait_for,
)
from tests.support.fault_rig import UNKNOWN
from tests.support.scsi import REGISTER_IGNORE
from tests.support.strace import Strace

pytestmark = pytest.mark.peer("strace")

A, B, ELSEWHERE = Door("a"), Door("b"), Door("c", "other")
TIMEOUT = ("--timeout", "6")
"""Long enough for any command that is not held."""
FOR_EVER = "delay_enter=3600s"


class Held(threading.Thread):
    """A command that somebody waits for.

    Attributes:
        answer: When it has come.
    """

    def __init__(self, guest: Guest, sent: Sent) -> None:
        super().__init__(daemon=True)
        self.answer: Answer | None = None
        self._guest = guest
        self._sent = sent
        self.start()

    def run(self) -> None:
        """Send and wait; a connection that breaks is no answer."""
        with contextlib.suppress(ProtocolViolation, ConnectionError):
            self.answer = self._guest.send(self._sent)

    def wait(self) -> Answer:
        """The answer; bounded by the connection's own timeout."""
        self.join()
        assert self.answer is not None
        return self.answer


@attrs.frozen
class Scene:
    """A daemon that serves two logical units, three guests, and the thread of the first unit."""

    directory: str
    daemon: Daemon
    a: Guest
    b: Guest
    elsewhere: Guest
    worker: int

    def hold(self, call: str, count: int) -> Strace:
        """Hold a system call of the first logical unit from its next command on."""
        self.daemon.settle(self.worker)
        output = os.path.join(self.directory, "trace")
        return Strace(self.worker, output, inject=[f"{call}:{FOR_EVER}:when={count}"])

    def others_are_served(self, keys: range) -> None:
        """The other logical unit answers, on old and new connections."""
        for key in keys:
            assert self.elsewhere.send(out(REGISTER_IGNORE, 0, key)).status == Status.GOOD
        with self.daemon.guest(ELSEWHERE) as another:
            assert another.send(read()).status == Status.GOOD

    def all_works_again(self) -> None:
        """The first logical unit answers, as the rules say."""

        def works() -> bool:
            before, sent = committed(self.directory), read()
            answer = self.a.send(sent)
            return answer == decide(before, self.a.who, sent)[1]

        wait_for(works, self.daemon.last_words)
        before, sent = committed(self.directory), out(REGISTER_IGNORE, 0, 0xFFFF)
        after, good = decide(before, self.a.who, sent)
        assert self.a.send(sent) == good
        assert committed(self.directory) == after
        chain(self.directory)


@pytest.fixture
def scene(directory: str) -> Iterator[Scene]:
    """Two logical units on one daemon."""
    make_lun(directory, "other")
    with (
        Daemon(directory, "one", [A, B, ELSEWHERE], *TIMEOUT, *BY_THE_UNITS) as daemon,
        daemon.guest(A) as a,
        daemon.guest(B) as b,
        daemon.guest(ELSEWHERE) as elsewhere,
    ):
        assert a.send(out(REGISTER_IGNORE, 0, 1)).status == Status.GOOD
        worker, _ = daemon.workers(a)
        yield Scene(directory, daemon, a, b, elsewhere, worker)


def _held(tracer: Strace, call: str, count: int = 1) -> bool:
    """Whether it has come to the call that is held, which is one that has not ended."""
    calls = [one for one in tracer.so_far() if one.name == call]
    return len(calls) == count and calls[-1].left is None


def test_link_that_hangs_is_an_unknown_outcome_and_delays_nobody_else(scene: Scene) -> None:
    """The command is ABORTED in bounded time, those behind it are BUSY, others are served."""
    before, sent = committed(scene.directory), out(REGISTER_IGNORE, 0, 2)
    after, _ = decide(before, scene.a.who, sent)
    with scene.hold("linkat", 1) as tracer:
        aborted = Held(scene.a, sent)
        wait_for(lambda: _held(tracer, "linkat"))
        behind = Held(scene.b, out(REGISTER_IGNORE, 0, 3))
        scene.others_are_served(range(1, 9))
        assert aborted.wait().code == UNKNOWN
        assert behind.wait().status == Status.BUSY
        with scene.daemon.guest(B) as late:
            assert late.send(read()).status == Status.BUSY
        scene.others_are_served(range(9, 17))
        assert committed(scene.directory) == before
    # The link was under way: now it takes place, once. Nothing that was BUSY ever does.
    wait_for(lambda: committed(scene.directory) != before)
    assert committed(scene.directory) == after
    scene.all_works_again()


def test_link_that_hangs_until_its_number_is_taken_never_happens(scene: Scene) -> None:
    """A second daemon goes on meanwhile; the late link finds its number taken."""
    with Daemon(scene.directory, "two", [Door("d")]) as two, two.guest() as d:
        with scene.hold("linkat", 1) as tracer:
            aborted = Held(scene.a, out(REGISTER_IGNORE, 0, 2))
            wait_for(lambda: _held(tracer, "linkat"))
            expected = committed(scene.directory)
            for key in (5, 6):
                expected, good = decide(expected, d.who, out(REGISTER_IGNORE, 0, key))
                assert d.send(out(REGISTER_IGNORE, 0, key)) == good
            assert aborted.wait().code == UNKNOWN
        scene.daemon.settle(scene.worker)
        found = scene.b.send(read())
        assert found == decide(expected, scene.b.who, read())[1]
        assert committed(scene.directory) == expected
        scene.all_works_again()


@pytest.mark.parametrize(("call", "count"), [("openat", 2), ("fsync", 1)])
def test_command_that_hangs_before_its_link_is_busy_and_never_happens(
    scene: Scene, call: str, count: int
) -> None:
    """What was answered BUSY is withdrawn, also when the storage comes back."""
    before = committed(scene.directory)
    with scene.hold(call, count) as tracer:
        busy = Held(scene.a, out(REGISTER_IGNORE, 0, 2))
        wait_for(lambda: _held(tracer, call, count))
        scene.others_are_served(range(1, 5))
        assert busy.wait().status == Status.BUSY
    scene.daemon.settle(scene.worker)
    after, good = decide(before, scene.b.who, out(REGISTER_IGNORE, 0, 3))
    wait_for(lambda: scene.b.send(read()).status == Status.GOOD)
    assert scene.b.send(out(REGISTER_IGNORE, 0, 3)) == good
    assert committed(scene.directory) == after
    scene.all_works_again()


def test_directory_sync_that_hangs_is_an_unknown_outcome(scene: Scene) -> None:
    """After the link nothing is BUSY: it took effect, and the command behind it waits."""
    sent = out(REGISTER_IGNORE, 0, 2)
    after, _ = decide(committed(scene.directory), scene.a.who, sent)
    with scene.hold("fsync", 2) as tracer:
        aborted = Held(scene.a, sent)
        wait_for(lambda: _held(tracer, "fsync", 2))
        assert committed(scene.directory) == after
        assert aborted.wait().code == UNKNOWN
    scene.all_works_again()


def test_daemon_that_is_terminated_does_not_wait_for_a_hung_unit(directory: str) -> None:
    """SIGTERM while a system call hangs: the daemon ends with 0 after its time to drain."""
    with (
        Daemon(directory, "one", [A], *TIMEOUT, *BY_THE_UNITS, "--drain", "1") as daemon,
        daemon.guest() as guest,
    ):
        worker, _ = daemon.workers(guest)
        before, sent = committed(directory), out(REGISTER_IGNORE, 0, 2)
        after, _ = decide(before, guest.who, sent)
        inject = [f"linkat:{FOR_EVER}:when=1"]
        with Strace(worker, os.path.join(directory, "trace"), inject=inject) as tracer:
            hung = Held(guest, sent)
            wait_for(lambda: _held(tracer, "linkat"))
            daemon.terminate()
            # The process has gone but for the thread that strace itself does not let go.
            wait_for(daemon.gone, daemon.last_words)
        assert daemon.wait() == 0
        hung.join()
        assert committed(directory) in (before, after)
