"""A daemon is killed at every system call of a commit, and started again.

Every acknowledged PERSISTENT RESERVE OUT is there then, an unacknowledged one happened wholly
or not at all, and the logical unit works at once.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import pytest

from flockpr import LogicalUnit
from flockpr.core.model import LogicalUnitState
from flockpr.errors import ProtocolViolation
from flockpr.spc.codes import Status
from tests.support.daemons import (
    BY_THE_UNITS,
    LUN,
    READ_FULL_STATUS,
    Answer,
    Daemon,
    Door,
    Guest,
    Sent,
    audit_trail,
    chain,
    committed,
    decide,
    out,
    read,
    wait_for,
)
from tests.support.fault_rig import Point, points
from tests.support.scsi import (
    CLEAR,
    PREEMPT_ABORT,
    REGISTER,
    REGISTER_IGNORE,
    RELEASE,
    RESERVE,
    WERO,
    nexus,
)
from tests.support.strace import SOCKET_CALLS, Call, traced

pytestmark = pytest.mark.peer("strace")

A, B = Door("a"), Door("b")
SIGKILLED = -9

LAST_WORDS = {
    "preempt and abort": out(PREEMPT_ABORT, 0xB, 0xA, type_=WERO),
    "register": out(REGISTER, 0xB, 0xBB, aptpl=True),
    "clear": out(CLEAR, 0xB),
}
"""What B sends when the daemon dies, with A and B registered and A the holder."""


class Victim:
    """A daemon that dies again and again, and what it has acknowledged so far.

    Args:
        directory: Where all of it is.
        network: The daemon takes the root for a network file system.
        behind: Another daemon commits just before the last command.
        last: The command with which it dies.
    """

    def __init__(
        self, directory: str, last: Sent, *, network: bool = False, behind: bool = False
    ) -> None:
        self.directory = directory
        self.last = last
        self.acknowledged = 0
        self.died_at: set[str] = set()
        self._network = network
        self._behind = behind
        self._foreign = 0
        self._daemon = Daemon(directory, "one", [A, B], *BY_THE_UNITS)
        self._state = committed(directory)
        self._guests: list[Guest] = []

    def live(self) -> None:
        """Start, find everything as it was, and lead up to the last command."""
        self._daemon.start()
        self._guests = [self._daemon.guest(A), self._daemon.guest(B)]
        guest_a, guest_b = self._guests
        if self._network:
            self._daemon.believe_in_a_network(guest_b)
        self.say(guest_b, read(READ_FULL_STATUS))
        self.say(guest_b, out(REGISTER_IGNORE, 0, 0xB))
        self.say(guest_b, out(CLEAR, 0xB))
        self.say(guest_a, out(REGISTER, 0, 0xA))
        self.say(guest_b, out(REGISTER, 0, 0xB))
        self.say(guest_a, out(RESERVE, 0xA, type_=WERO))

    def say(self, guest: Guest, sent: Sent) -> None:
        """Send a command that is GOOD, at once."""
        state, good = decide(self._state, guest.who, sent)
        assert good.status == Status.GOOD
        assert guest.send(sent) == good, self._daemon.last_words()
        self.acknowledged += state is not self._state
        self._state = state

    def baseline(self) -> tuple[list[Point], list[Point]]:
        """What the committing and the answering thread do for the last command."""
        self.live()
        guest = self._guests[1]
        committing, answering = self._daemon.workers(guest)
        self._daemon.settle(committing)
        self._commit_elsewhere()
        with traced(self._daemon.pid, self.directory, follow=True) as calls:
            self.say(guest, self.last)
            self._daemon.settle(committing)
        by_thread = [
            points([call for call in calls if call.tid == tid]) for tid in (committing, answering)
        ]
        sockets = [point for point in by_thread[1] if point.name in SOCKET_CALLS]
        return by_thread[0], sockets

    def end(self, inject: str, *, answering: bool = False) -> None:
        """Die while the last command is carried out, and look at what is left of it."""
        guest = self._guests[1]
        target = self._daemon.workers(guest)[answering]
        self._daemon.settle(target)
        self._commit_elsewhere()
        after, good = decide(self._state, guest.who, self.last)
        answer: Answer | None = None
        with traced(target, self.directory, inject=[inject]) as calls:
            try:
                answer = guest.send(self.last)
            except (ProtocolViolation, ConnectionError):
                assert self._daemon.wait() == SIGKILLED
            else:
                assert answer == good
                self.acknowledged += 1
                self._daemon.settle_or_end(target)
        self.die()
        found = committed(self.directory)
        if answer is None:
            assert found in (self._state, after), f"half a command after {inject}: {found}"
        else:
            assert found == after, f"acknowledged and lost at {inject}"
        self._state = found
        self._note(calls)

    def _note(self, calls: Sequence[Call]) -> None:
        if calls and calls[-1].result in ("", "?"):
            self.died_at.add(calls[-1].name)

    def _commit_elsewhere(self) -> None:
        if not self._behind:
            return
        self._foreign += 1
        who, sent = nexus("other"), out(REGISTER_IGNORE, 0, self._foreign)
        self._state, good = decide(self._state, who, sent)
        with LogicalUnit.open(os.path.join(self.directory, "root", LUN)) as unit:
            result = unit.execute(who, sent.cdb, sent.data_out, report_attentions=False)
        assert result.status == good.status == Status.GOOD
        self.acknowledged += 1

    def die(self) -> None:
        """Die now, if that has not happened."""
        for guest in self._guests:
            guest.close()
        self._guests = []
        self._daemon.kill()

    @property
    def state(self) -> LogicalUnitState:
        """What must be there."""
        return self._state


def _baseline(victim: Victim) -> tuple[list[Point], list[Point]]:
    try:
        return victim.baseline()
    finally:
        victim.die()


def _sweep(victim: Victim, deaths: Sequence[tuple[Point, bool]]) -> None:
    try:
        for point, answering in deaths:
            victim.live()
            victim.end(f"{point.name}:signal=KILL:when={point.count}", answering=answering)
        victim.live()
    finally:
        victim.die()
    chain(victim.directory)
    assert committed(victim.directory) == victim.state
    recorded = [record for record in audit_trail(victim.directory) if record["opcode"] is not None]
    # Beside what was acknowledged at most the last command of each life.
    assert victim.acknowledged <= len(recorded) <= victim.acknowledged + len(deaths)


def _one_of_each(found: Sequence[Point]) -> list[Point]:
    """The first call of each kind, and all syncs: those of files, those of directories."""
    return [point for point in found if point.count == 1 or "sync" in point.name]


@pytest.mark.parametrize("network", [False, True], ids=["local", "network"])
def test_daemon_killed_at_each_kind_of_system_call_loses_nothing(
    directory: str, network: bool
) -> None:
    """SIGKILL at each kind of system call of a commit and of its answer."""
    victim = Victim(directory, LAST_WORDS["preempt and abort"], network=network)
    committing, answering = _baseline(victim)
    deaths = [(point, False) for point in _one_of_each(committing)]
    if not network:
        deaths += [(point, True) for point in _one_of_each(answering)]
    _sweep(victim, deaths)
    # Lost locks are looked for every few seconds only, which is what pread64 is for.
    assert victim.died_at >= {point.name for point, _ in deaths} - {"recvmsg", "pread64"}


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("last", LAST_WORDS)
@pytest.mark.parametrize("behind", [False, True], ids=["fresh", "behind"])
@pytest.mark.parametrize("network", [False, True], ids=["local", "network"])
def test_daemon_killed_at_every_system_call_loses_nothing(
    directory: str, network: bool, behind: bool, last: str
) -> None:
    """SIGKILL at every single system call of a commit, of what follows it, and of its answer."""
    victim = Victim(directory, LAST_WORDS[last], network=network, behind=behind)
    committing, answering = _baseline(victim)
    deaths = [(point, False) for point in committing] + [(point, True) for point in answering]
    _sweep(victim, deaths)


@pytest.mark.timeout(600)
def test_daemon_with_a_database_killed_at_each_sync_loses_nothing(database: str) -> None:
    """The same of SQLite's calls, before the first write and before the one that counts, too."""
    victim = Victim(database, LAST_WORDS["preempt and abort"])
    committing, _ = _baseline(victim)
    syncs = [point for point in committing if point.name == "fdatasync"]
    assert len(syncs) == 5  # its journal, where that is, its journal, the file, its journal
    writes = [point for point in committing if point.name == "pwrite64"]
    _sweep(victim, [(point, False) for point in (*syncs, writes[0], writes[-1])])
    assert victim.died_at == {"fdatasync", "pwrite64"}


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("last", LAST_WORDS)
@pytest.mark.parametrize("behind", [False, True], ids=["fresh", "behind"])
def test_daemon_with_a_database_killed_at_every_system_call_loses_nothing(
    database: str, behind: bool, last: str
) -> None:
    """At every single one, and at those of the answer."""
    victim = Victim(database, LAST_WORDS[last], behind=behind)
    committing, answering = _baseline(victim)
    deaths = [(point, False) for point in committing] + [(point, True) for point in answering]
    _sweep(victim, deaths)


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("call", ["openat", "newfstatat", "read", "fcntl", "fsync", "getdents64"])
def test_daemon_killed_while_it_opens_a_lun_loses_nothing(directory: str, call: str) -> None:
    """SIGKILL at every system call with which a daemon takes a logical unit up."""
    with Daemon(directory, "one", [A]) as daemon, daemon.guest() as guest:
        for first in (out(REGISTER, 0, 1), out(RESERVE, 1, type_=WERO)):
            assert guest.send(first).status == Status.GOOD
    before, sent = committed(directory), out(RELEASE, 1, type_=WERO)
    count, alive = 0, False
    while not alive:
        count += 1
        inject = [f"{call}:signal=KILL:when={count}"]
        with (
            Daemon(directory, "one", [A]) as daemon,
            daemon.guest() as guest,
            traced(daemon.pid, directory, follow=True, inject=inject),
        ):
            try:
                alive = guest.send(sent).status == Status.GOOD
            except (ProtocolViolation, ConnectionError):
                assert daemon.wait() == SIGKILLED
        now = committed(directory)
        released = decide(before, A.nexus, sent)[0]
        assert now in ((released,) if alive else (before, released))
        before = now
    assert count > 1


def test_view_of_a_daemon_that_ends_is_the_newest_and_of_a_killed_one_is_healed(
    directory: str,
) -> None:
    """Publishing waits for a pause: SIGTERM is one, and after SIGKILL the next daemon does it."""

    def shown() -> tuple[int, int]:
        with LogicalUnit.open(os.path.join(directory, "root", LUN)) as unit:
            status = unit.status()
            return status.published or 0, status.snapshot.number

    def caught_up(number: int) -> bool:
        return shown() == (number, number)

    for key in (1, 3, 5):
        with Daemon(directory, "one", [A]) as daemon, daemon.guest() as guest:
            assert guest.send(out(REGISTER_IGNORE, 0, key)).status == Status.GOOD
            assert daemon.stop() == 0
        view, newest = shown()
        assert view == newest

        with Daemon(directory, "one", [A]) as daemon, daemon.guest() as guest:
            assert guest.send(out(REGISTER_IGNORE, 0, key + 1)).status == Status.GOOD
            daemon.kill()
        view, newest = shown()
        assert view in (newest - 1, newest)

        with Daemon(directory, "one", [A]) as daemon, daemon.guest() as guest:
            assert guest.send(read(READ_FULL_STATUS)).status == Status.GOOD
            wait_for(functools.partial(caught_up, newest), daemon.last_words)
