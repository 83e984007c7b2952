"""Deep queues through a real target, with the kernel's own rings."""

from __future__ import annotations

import contextlib
import errno
import pathlib
import random
from collections.abc import Iterator
from typing import Any

import pytest

from flockpr.block import Ring
from flockpr.block.calls import ImageCalls
from flockpr.iscsi import inline
from flockpr.iscsi.output import Output
from flockpr.iscsi.pace import Pace
from flockpr.iscsi.settings import Limits
from tests.support import sbc_cdbs
from tests.support.in_process import HangingCalls, Rig
from tests.support.iscsi_client import ConnectionLost, Task
from tests.support.open_files import open_below
from tests.support.target_rig import CONFLICT, GOOD, Session, eventually, make_root

REGISTER, RESERVE, PREEMPT = 6, 1, 4
WRITE_EXCLUSIVE_RO = 5
BLOCK = 512
BLOCKS = 64
DEPTH = 32


class Counted:
    """How many commands took off."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        submit = Ring.submit

        def counted(ring: Ring[object]) -> list[object]:
            self.count += ring.queued
            return submit(ring)

        monkeypatch.setattr(Ring, "submit", counted)


@pytest.fixture
def flown(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """The kernel's rings, and how much they are used: whatever may be launched is, also what comes
    alone, and however busy the machine is.
    """
    monkeypatch.setattr(Pace, "quick", lambda _: False)
    monkeypatch.setattr(inline, "SLOW", 60.0)
    monkeypatch.setattr(HangingCalls, "ring", ImageCalls.ring)
    return Counted(monkeypatch)


@pytest.fixture
def rig(tmp_path: pathlib.Path, flown: Counted) -> Iterator[Rig]:
    """A server with the LUN `disk`."""
    del flown
    with Rig(make_root(tmp_path, "disk")) as rig:
        yield rig


def write(session: Session, lba: int, blocks: int, data: bytes) -> Task:
    """Send one."""
    return session.initiator.submit(0, sbc_cdbs.write(lba, blocks), data)


def read(session: Session, lba: int, blocks: int) -> Task:
    """Send one."""
    return session.initiator.submit(0, sbc_cdbs.read(lba, blocks), read=blocks * BLOCK)


def test_what_was_written_at_depth_is_read_at_depth(rig: Rig, flown: Counted) -> None:
    """Each command gets its own data and its own place, in whatever order the disk ends them."""
    chance = random.Random(5)
    sessions = [rig.session(name) for name in "ab"]
    model = bytearray(BLOCKS * BLOCK)
    for _ in range(40):
        under_way: list[tuple[Session, Task, bytes | None]] = []
        free = list(range(0, BLOCKS, 2))  # commands that overlap have no order
        chance.shuffle(free)
        for lba in free[:DEPTH]:
            session = chance.choice(sessions)
            if chance.random() < 0.5:
                data = chance.randbytes(2 * BLOCK)
                model[lba * BLOCK : (lba + 2) * BLOCK] = data
                under_way.append((session, write(session, lba, 2, data), None))
            else:
                expected = bytes(model[lba * BLOCK : (lba + 2) * BLOCK])
                under_way.append((session, read(session, lba, 2), expected))
        for session, task, content in under_way:
            answer = session.initiator.wait(task)
            assert answer.status == GOOD
            assert content is None or answer.data == content
    assert flown.count > DEPTH


def test_no_write_of_who_was_preempted_lands_afterwards(rig: Rig, flown: Counted) -> None:
    """SPC-4 5.13.11: from GOOD to PREEMPT on, what the victim has sent conflicts."""
    holder, victim = rig.session("a"), rig.session("b")
    for session, key in ((holder, 0xA), (victim, 0xB)):
        session.must(REGISTER, 0, key)
    for turn in range(20):
        victim.must(RESERVE, 0xB, 0, type_=WRITE_EXCLUSIVE_RO)
        fill = bytes((turn + 1,)) * BLOCK
        sent = [write(victim, lba, 1, fill) for lba in range(DEPTH)]
        holder.must(PREEMPT, 0xA, 0xB, type_=WRITE_EXCLUSIVE_RO)
        before = holder.initiator.wait(read(holder, 0, DEPTH)).data
        sent += [write(victim, lba, 1, fill) for lba in range(8)]
        states = [victim.initiator.wait(task).status for task in sent]
        assert states[-1] != GOOD
        assert holder.initiator.wait(read(holder, 0, DEPTH)).data == before
        landed = [lba for lba in range(DEPTH) if before[lba * BLOCK] == turn + 1]
        assert {lba for lba in range(DEPTH) if states[lba] == GOOD} <= {*landed}
        victim.settle()
        assert victim.command(sbc_cdbs.write(0, 1), fill).status == CONFLICT
        holder.must(REGISTER, 0xA, 0)
        for session, key in ((holder, 0xA), (victim, 0xB)):
            session.settle()
            session.must(REGISTER, 0, key)
    assert flown.count  # how many is a matter of who is quicker


@pytest.mark.parametrize("how", ["logout", "close", "reset", "stop"])
def test_end_with_a_deep_queue_leaves_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """No descriptor of a ring, no memory, nobody inside the permit."""
    rings: list[Ring[object]] = []
    ring_of = ImageCalls.ring

    def noted(calls: ImageCalls, room: int) -> Ring[object] | None:
        ring = ring_of(calls, room)
        if ring is not None:
            rings.append(ring)
        return ring

    monkeypatch.setattr(HangingCalls, "ring", noted)
    session = rig.session("a")
    for _ in range(3):
        tasks = [read(session, 0, 8) for _ in range(DEPTH)]
        for task in tasks:
            assert session.initiator.wait(task).status == GOOD
    for _ in range(DEPTH):
        read(session, 0, 8)
    disk = rig.disks["disk"]
    match how:
        case "logout":
            assert session.initiator.logout() == 0
        case "close":
            session.initiator.close()
        case "reset":
            session.initiator.reset()
        case _:
            assert rig.server.stop(60.0)
    eventually(lambda: not rig.server.connections, "that the connection ends")
    assert rings
    eventually(lambda: all(ring.fd < 0 for ring in rings), "that the rings are closed")
    assert disk._pool.lent == 0
    assert disk._permit._inside == 0  # type: ignore[attr-defined]
    if how == "stop":
        assert not [name for name in open_below(rig.root) if name.endswith(".img")]


def test_target_without_rings_serves_deep_queues(
    rig: Rig, flown: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the system has none, or all are in use."""
    monkeypatch.setattr(HangingCalls, "ring", lambda _self, _room: None)
    session = rig.session("a")
    for _ in range(3):
        tasks = [read(session, lba, 1) for lba in range(DEPTH)]
        assert {session.initiator.wait(task).status for task in tasks} == {GOOD}
    assert flown.count == 0


def test_reads_that_are_held_back_fly_when_there_is_room(
    tmp_path: pathlib.Path, flown: Counted
) -> None:
    """A client that asks for more than may wait for it gets all of it, bit by bit."""
    size = 64 << 10
    with Rig(make_root(tmp_path, "disk"), limits=Limits(output=2 * size)) as rig:
        session = rig.session("a")
        data = random.Random(6).randbytes(size)
        blocks = size // BLOCK
        assert session.initiator.wait(write(session, 0, blocks, data)).status == GOOD
        for _ in range(3):
            tasks = [read(session, 0, blocks) for _ in range(DEPTH)]
            assert all(session.initiator.wait(task).data == data for task in tasks)
    assert flown.count > 0


def test_error_while_answers_are_sent_ends_the_connection_and_its_commands(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for commands that nobody will answer: the initiator can log in again."""
    session = rig.session("a")
    send = Output.send

    def broken(output: Output, *arguments: Any) -> Any:
        if len(arguments) > 1 and not output.broken:  # answers of commands
            raise OSError(errno.ENOSPC, "no place in epoll")
        return send(output, *arguments)

    monkeypatch.setattr(Output, "send", broken)
    with contextlib.suppress(ConnectionLost):
        for _ in range(DEPTH):
            read(session, 0, 8)
    eventually(lambda: not rig.server.connections, "that the connection ends")
    monkeypatch.setattr(Output, "send", send)
    eventually(lambda: not rig.server.sessions, "that the session ends")
    assert rig.disks["disk"]._permit._inside == 0  # type: ignore[attr-defined]
    again = rig.session("a")
    assert again.initiator.wait(read(again, 0, 1)).status == GOOD
