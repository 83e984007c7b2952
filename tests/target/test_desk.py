"""Initiators that send nothing but reservation commands share a thread at the target door."""

from __future__ import annotations

import pathlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flockpr.block import ScsiReply
from flockpr.core.model import Nexus
from flockpr.iscsi import reading
from flockpr.iscsi.command import Command
from flockpr.iscsi.events import DataComplete, Released, Violation
from flockpr.iscsi.reading import ENOUGH, Reading, suits
from tests.support import sbc_cdbs
from tests.support.in_process import Rig
from tests.support.open_files import open_descriptors
from tests.support.scsi import in_cdb, keys_in, out_cdb
from tests.support.target_rig import CONFLICT, GOOD, SOLICITED, Session, eventually, make_root

READ_KEYS, REGISTER, RESERVE, REGISTER_IGNORE = 0, 0, 1, 6
READ = sbc_cdbs.read(0, 1)
WRITE = sbc_cdbs.write(0, 1)
BLOCK = bytes(range(256)) * 2
KEYS = in_cdb(READ_KEYS, 512)
PATIENCE = 100.0


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    """A root with two LUNs, `disk` and `other`."""
    return make_root(tmp_path, "disk", "other")


@pytest.fixture
def rig(root: pathlib.Path) -> Iterator[Rig]:
    """A server over it."""
    with Rig(root) as made:
        yield made


def keys_of(session: Session) -> list[int]:
    """The registered keys."""
    reply = session.command(KEYS, read=512)
    assert reply.good, reply
    return keys_in(reply.data)


def seated(rig: Rig) -> int:
    """How many connections are read from by the desk."""
    return len(rig.server._desk._sitting)


def readers() -> int:
    """How many threads read from one connection each."""
    return sum(
        thread.name.startswith("iscsi-") and thread.name[6:].isdigit()
        for thread in threading.enumerate()
    )


def sit(rig: Rig, *sessions: Session) -> None:
    """Have these sit down at the desk."""
    before = seated(rig)
    for session in sessions:
        for _ in range(ENOUGH + 1):
            keys_of(session)
    eventually(lambda: seated(rig) == before + len(sessions), "that they sit down")


def test_who_only_reserves_needs_no_thread(rig: Rig) -> None:
    """Twenty of them are served by one; what they read is what was registered."""
    sessions = [rig.session(f"s{number}") for number in range(20)]
    for number, session in enumerate(sessions, start=1):
        session.must(REGISTER_IGNORE, 0, number)
    sit(rig, *sessions)
    eventually(lambda: readers() == 0, "that their threads end")
    for session in sessions:
        assert keys_of(session) == list(range(1, 21))
    assert seated(rig) == 20


def test_registration_and_reservation_from_the_desk(rig: Rig) -> None:
    """What changes something is carried out as ever, whoever reads the command."""
    one, other = rig.session("a"), rig.session("b")
    sit(rig, one, other)
    one.must(REGISTER, 0, 0xA)
    other.must(REGISTER, 0, 0xB)
    one.must(RESERVE, 0xA, type_=1)
    assert keys_of(other) == [0xA, 0xB]
    assert seated(rig) == 2
    assert other.command(WRITE, BLOCK).status == CONFLICT
    assert one.command(WRITE, BLOCK).good


def test_parameter_list_that_is_asked_for_comes_to_the_desk(root: pathlib.Path) -> None:
    """RFC 7143 11.8: without immediate data the list follows an R2T."""
    with Rig(root) as rig:
        session = rig.session("a", keys=SOLICITED)
        sit(rig, session)
        session.must(REGISTER, 0, 0xA)
        assert keys_of(session) == [0xA]
        assert seated(rig) == 1


def test_who_reads_and_writes_leaves_the_desk_and_comes_back(rig: Rig) -> None:
    """With the very commands that it has sent."""
    session = rig.session("a")
    for _ in range(3):
        sit(rig, session)
        initiator = session.initiator
        tasks = [
            initiator.submit(session.lun, KEYS, read=512),
            initiator.submit(session.lun, WRITE, BLOCK),
            initiator.submit(session.lun, KEYS, read=512),
        ]
        assert [initiator.wait(task).status for task in tasks] == [GOOD] * 3
        # Not together with the WRITE: of two SIMPLE commands either may come first.
        assert session.command(READ, read=512).data == BLOCK
        assert seated(rig) == 0
        assert initiator.ping(b"hello") == b"hello"


def test_logout_from_the_desk_ends_the_session(rig: Rig) -> None:
    """It waits for what is in execution, so a thread of its own sees to it."""
    session = rig.session("a")
    sit(rig, session)
    assert session.initiator.logout() == 0
    eventually(lambda: rig.server.sessions == 0, "that the session ends")
    eventually(lambda: rig.server.connections == 0, "that the connection ends")


def test_connections_that_break_at_the_desk_leave_nothing(rig: Rig) -> None:
    """Closed or reset, all at once: no descriptor, no thread, no place at the desk."""
    counts = []
    for _ in range(2):  # what the first ones have opened for all stays
        sessions = [rig.session(f"s{number}") for number in range(6)]
        sit(rig, *sessions)
        counts.append(len(open_descriptors()))
        for number, session in enumerate(sessions):
            session.initiator.reset() if number % 2 else session.initiator.close()
        eventually(lambda: rig.server.connections == 0, "that the connections end")
        assert seated(rig) == readers() == 0
    first, second = counts
    eventually(lambda: len(open_descriptors()) <= second - 12, "that their descriptors are closed")
    assert second == first


def test_server_ends_while_they_sit(root: pathlib.Path) -> None:
    """They are told, and their threads and the desk's are gone."""
    with Rig(root) as rig:
        sessions = [rig.session(f"s{number}") for number in range(3)]
        sit(rig, *sessions)
        assert rig.server.stop(PATIENCE)
        assert all(session.initiator.closed(PATIENCE) for session in sessions)
        assert readers() == 0
        assert not any(thread.name.startswith("desk") for thread in threading.enumerate())


def test_session_at_the_desk_is_taken_over_by_its_successor(rig: Rig) -> None:
    """RFC 7143 6.3.1: the same name, ISID and portal group."""
    old = rig.session("a", isid=5)
    sit(rig, old)
    new = rig.session("a", isid=5)
    assert old.initiator.closed(PATIENCE)
    assert keys_of(new) == []
    eventually(lambda: rig.server.connections == 1, "that the old connection ends")


def nothing_known(_session: object, _cdb: bytes) -> bytes:
    """In the place of `Disk.read_at_once`: something has changed, and has to be looked at."""
    return b""


class Hang:
    """Looks at the reservations of a disk, of which nothing is known, that hang until `go_on`."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch, lun: str = "disk") -> None:
        self.look = rig.disks[lun].glance
        self.hanging = threading.Event()
        self.free = threading.Event()
        self.whom = ""
        monkeypatch.setattr(rig.disks[lun], "glance", self)
        monkeypatch.setattr(rig.disks[lun], "read_at_once", nothing_known)

    def __call__(self, session: Any, cdb: bytes) -> ScsiReply | None:
        nexus: Nexus = session.nexus
        if self.whom and nexus.initiator_port.name.endswith(f":{self.whom}"):
            self.hanging.set()
            assert self.free.wait(PATIENCE)
        return self.look(session, cdb)

    def go_on(self) -> None:
        """None hangs any more."""
        self.whom = ""
        self.free.set()


def test_look_that_hangs_delays_nobody_else(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of this host dies: the connection that met it is read from by another thread, the
    others get another desk, and the command is answered when it can be.
    """
    hang = Hang(rig, monkeypatch)
    bad, other = rig.session("bad"), rig.session("other")
    sit(rig, bad, other)
    hang.whom = "bad"
    task = bad.initiator.submit(bad.lun, KEYS, read=512)
    assert hang.hanging.wait(PATIENCE)
    assert keys_of(other) == []
    assert bad.initiator.ping(b"hello") == b"hello"
    assert task.reply is None
    hang.go_on()
    assert bad.initiator.wait(task).good
    assert keys_of(bad) == []
    assert keys_of(other) == []


def test_who_has_the_desk_hang_has_no_place_at_it_for_a_while(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it sends then, it is served by a thread of its own."""
    hang = Hang(rig, monkeypatch)
    bad, other = rig.session("bad"), rig.session("other")
    sit(rig, bad, other)
    monkeypatch.setattr("flockpr.units.respite.SHORTEST", PATIENCE)
    hang.whom = "bad"
    task = bad.initiator.submit(bad.lun, KEYS, read=512)
    assert hang.hanging.wait(PATIENCE)
    desk = rig.server._desk
    eventually(lambda: not desk.welcomes(bad.initiator.name), "that it is sent away")
    hang.go_on()
    assert bad.initiator.wait(task).good
    for _ in range(2 * ENOUGH):
        assert keys_of(bad) == []
    assert seated(rig) == 1
    assert keys_of(other) == []


def test_who_hangs_at_the_desk_does_not_sit_down_again_meanwhile(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a thread by then, whose place at the desk the guard would take away unseen."""
    hang = Hang(rig, monkeypatch)
    monkeypatch.setattr("flockpr.desk.PATIENCE", 1e9)
    monkeypatch.setattr("flockpr.desk.SURELY", 1e9)
    session = rig.session("a")
    sit(rig, session)
    hang.whom = "a"
    task = session.initiator.submit(session.lun, KEYS, read=512)
    assert hang.hanging.wait(PATIENCE)
    for _ in range(2 * ENOUGH):
        assert keys_of(session) == []
    assert seated(rig) == 0
    hang.go_on()
    assert session.initiator.wait(task).good
    eventually(lambda: keys_of(session) == [] and seated(rig) == 1, "that it sits down again")


def test_after_a_look_that_hung_none_is_taken_for_a_while(
    root: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of no LUN of the root: each would cost the others as much. Who asks is answered."""
    monkeypatch.setattr("flockpr.units.respite.SHORTEST", PATIENCE)
    with Rig(root) as rig:
        first = Hang(rig, monkeypatch)
        bad, other = rig.session("bad"), rig.session("other", lun="other")
        sit(rig, bad, other)
        looks: list[bytes] = []
        look = rig.disks["other"].glance

        def counted(session: Any, cdb: bytes) -> ScsiReply | None:
            looks.append(cdb)
            return look(session, cdb)

        monkeypatch.setattr(rig.disks["other"], "glance", counted)
        monkeypatch.setattr(rig.disks["other"], "read_at_once", nothing_known)
        assert keys_of(other) == []
        assert len(looks) == 1
        first.whom = "bad"
        task = bad.initiator.submit(bad.lun, KEYS, read=512)
        assert first.hanging.wait(PATIENCE)
        eventually(lambda: rig.server._desk.wary, "that it is seen")
        assert keys_of(other) == []
        assert len(looks) == 1
        first.go_on()
        assert bad.initiator.wait(task).good


def test_no_thread_for_who_leaves_the_desk_is_tried_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system has none for a moment: what was sent is answered when it has."""
    session = rig.session("a")
    sit(rig, session)
    monkeypatch.setattr(reading, "RETRY", 0.01)
    start, tries = Reading.start, []

    def refuse(self: Reading) -> None:
        tries.append(self)
        if len(tries) < 4:
            raise RuntimeError("no thread")
        start(self)

    monkeypatch.setattr(Reading, "start", refuse)
    assert session.command(WRITE, BLOCK).good
    assert len(tries) == 4


def test_look_that_hangs_without_another_thread_keeps_its_connection(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads from it until the look ends; then the thread that hung goes on with it."""
    hang = Hang(rig, monkeypatch)
    bad, other = rig.session("bad"), rig.session("other")
    sit(rig, bad, other)

    def refuse(_: Reading) -> None:
        raise RuntimeError("no thread")

    with monkeypatch.context() as none:
        none.setattr(Reading, "start", refuse)
        hang.whom = "bad"
        task = bad.initiator.submit(bad.lun, KEYS, read=512)
        assert hang.hanging.wait(PATIENCE)
        eventually(lambda: seated(rig) == 1, "that it is dismissed")
        assert keys_of(other) == []
        hang.go_on()
        assert bad.initiator.wait(task).good
        assert bad.initiator.ping(b"hello") == b"hello"
    assert bad.command(WRITE, BLOCK).good
    assert keys_of(other) == []


def test_error_that_should_not_be_ends_its_connection_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And is in the log."""
    one, other = rig.session("a"), rig.session("b")
    sit(rig, one, other)
    # An answer may be there before the turn is over that gave it.
    eventually(lambda: not rig.server._desk._lead.busy, "that the desk waits")

    def fail(_: object) -> bool:
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(reading, "suits", fail)
        one.initiator.submit(one.lun, KEYS, read=512)
        assert one.initiator.closed(PATIENCE)
    eventually(lambda: rig.server.connections == 1, "that the connection ends")
    assert "unexpected error" in caplog.text
    assert keys_of(other) == []


def command(cdb: bytes) -> Command:
    """A command of the protocol with this CDB."""
    return Command(
        itt=1,
        lun=0,
        lun_field=0,
        cdb=cdb.ljust(16, b"\0"),
        attribute=1,
        read=False,
        write=False,
        edtl=0,
        read_length=0,
        write_length=0,
        immediate=False,
        cmd_sn=1,
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], True),
        ([command(KEYS)], True),
        ([command(out_cdb(REGISTER)), command(KEYS)], True),
        ([DataComplete(command(out_cdb(REGISTER)))], True),
        ([DataComplete(command(WRITE))], False),
        ([command(KEYS), command(READ)], False),
        ([command(KEYS), Released(command(KEYS))], False),
        ([Violation("no PDU")], False),
    ],
)
def test_what_suits_the_desk(found: list[Any], expected: bool) -> None:
    """Reservation commands and their data, and nothing that one would have to wait for."""
    assert suits(found) is expected


class Readings:
    """Who reads from which connection, and whether two ever do at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.active: Counter[Reading] = Counter()
        self.twice: list[Reading] = []
        self._receive = Reading._receive

        def counted(reader: Reading, flags: int = 0) -> Any:
            return self.receive(reader, flags)

        monkeypatch.setattr(Reading, "_receive", counted)

    def receive(self, reader: Reading, flags: int) -> Any:
        """One reading."""
        if self.active[reader]:
            self.twice.append(reader)
        self.active[reader] += 1
        try:
            return self._receive(reader, flags)
        finally:
            self.active[reader] -= 1


def at_random(session: Session, chance: random.Random, rounds: int) -> None:
    """Reservations for the most part, alone and several at once; now and then another command."""
    initiator = session.initiator
    for _ in range(rounds):
        kind = chance.random()
        if kind < 0.9:
            count = 1 if kind < 0.8 else 4
            tasks = [initiator.submit(session.lun, KEYS, read=512) for _ in range(count)]
            assert all(initiator.wait(task).good for task in tasks)
        elif kind < 0.95:
            assert session.command(WRITE, BLOCK).good
        else:
            assert initiator.ping(b"x") == b"x"


def test_storm_of_looks_that_take_long_loses_no_connection(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relief, the guard and threads that cannot be started, all at once and at every moment: each
    connection is read from by one thread, and by some thread.
    """
    for name, value in (
        ("flockpr.desk.PATIENCE", 0.004),
        ("flockpr.desk.LOOK", 0.002),
        ("flockpr.desk.SURELY", 0.02),
        ("flockpr.iscsi.relief.TICK", 0.001),
        ("flockpr.iscsi.reading.ENOUGH", 1),
        ("flockpr.iscsi.reading.RETRY", 0.002),
        ("flockpr.units.respite.SHORTEST", 0.002),
        ("flockpr.units.respite.LONGEST", 0.01),
    ):
        monkeypatch.setattr(name, value)
    chance = random.Random(7)
    readings = Readings(monkeypatch)
    sessions = [rig.session(f"s{number}") for number in range(5)]
    look, known, start = rig.disks["disk"].glance, rig.disks["disk"].read_at_once, Reading.start

    def slow(session: Any, cdb: bytes) -> ScsiReply | None:
        if chance.random() < 0.1:
            time.sleep(chance.random() * 0.025)
        return look(session, cdb)

    def sometimes(session: Any, cdb: bytes) -> bytes:
        return b"" if chance.random() < 0.5 else known(session, cdb)

    def scarce(reader: Reading) -> None:
        if chance.random() < 0.15 and seated(rig):
            raise RuntimeError("no thread")
        start(reader)

    with monkeypatch.context() as storm, ThreadPoolExecutor() as pool:
        storm.setattr(rig.disks["disk"], "glance", slow)
        storm.setattr(rig.disks["disk"], "read_at_once", sometimes)
        storm.setattr(Reading, "start", scarce)
        seeds = [random.Random(number) for number in range(len(sessions))]
        list(pool.map(at_random, sessions, seeds, [200] * len(sessions)))
    assert readings.twice == []
    assert rig.server._desk._begun > 1
    assert rig.server.stop(PATIENCE)
