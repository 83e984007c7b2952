"""What PERSISTENT RESERVE IN reads is answered where it is read, while nothing has changed."""

from __future__ import annotations

import os
import pathlib
import random
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from flockpr.core.model import Nexus
from flockpr.iscsi import execution as module
from flockpr.spc.transport_id import InitiatorPort
from flockpr.store.identity import TARGET_PORT
from flockpr.store.removal import delete_lun
from flockpr.units import Units
from tests.support import sbc_cdbs
from tests.support.in_process import Rig
from tests.support.scsi import basic_list, in_cdb, keys_in, out_cdb
from tests.support.target_rig import Session, eventually, make_root

READ_KEYS, READ_RESERVATION, REPORT_CAPABILITIES, READ_FULL_STATUS = range(4)
REGISTER, RESERVE, CLEAR, PREEMPT, REGISTER_IGNORE = 0, 1, 3, 4, 6
KEYS = in_cdb(READ_KEYS, 512)
WRITE = sbc_cdbs.write(0, 1)
BLOCK = bytes(512)
READ_10 = sbc_cdbs.read(0, 1).ljust(16, b"\0")


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    """A root with two LUNs, `disk` and `other`."""
    return make_root(tmp_path, "disk", "other")


@pytest.fixture
def rig(root: pathlib.Path) -> Iterator[Rig]:
    """A server over it."""
    with Rig(root) as made:
        yield made


class Counted:
    """Counts how the commands of a disk are answered."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch, lun: str = "disk") -> None:
        self.how: Counter[str] = Counter()
        disk = rig.disks[lun]
        known, look, execute = disk.read_at_once, disk.glance, disk.execute

        def read_at_once(session: Any, cdb: bytes) -> bytes:
            data = known(session, cdb)
            self.how["known" if data else "not known"] += 1
            return data

        def glance(session: Any, cdb: bytes) -> Any:
            self.how["looked"] += 1
            return look(session, cdb)

        def executed(*arguments: Any, **more: Any) -> Any:
            self.how["executed"] += 1
            return execute(*arguments, **more)

        monkeypatch.setattr(disk, "read_at_once", read_at_once)
        monkeypatch.setattr(disk, "glance", glance)
        monkeypatch.setattr(disk, "execute", executed)


def keys_of(session: Session) -> list[int]:
    """The registered keys."""
    reply = session.command(KEYS, read=512)
    assert reply.good, reply
    return keys_in(reply.data)


def known_to(session: Session) -> None:
    """Ask until what it reads is known."""
    for _ in range(4):
        keys_of(session)


def test_what_is_read_again_is_neither_looked_up_nor_executed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a second the path of the LUN is; so most of these."""
    counted = Counted(rig, monkeypatch)
    session = rig.session("a")
    session.must(REGISTER, 0, 0xA)
    known_to(session)
    counted.how.clear()
    for _ in range(200):
        assert keys_of(session) == [0xA]
    assert counted.how["known"] >= 100
    assert counted.how["known"] + counted.how["not known"] == 200


def test_every_change_is_read_by_the_next_command(rig: Rig) -> None:
    """Whoever makes it, whatever is read, and however often it was read before."""
    chance = random.Random(11)
    sessions = [rig.session(f"s{number}") for number in range(3)]
    expected: dict[int, int] = {}
    for turn in range(1, 120):
        who = chance.randrange(3)
        sessions[who].must(REGISTER_IGNORE, 0, turn)
        expected[who] = turn
        for _ in range(chance.randrange(4)):
            for session in sessions:
                assert sorted(keys_of(session)) == sorted(expected.values())


def test_change_by_another_process_of_this_host_is_read(rig: Rig, root: pathlib.Path) -> None:
    """Its commit is in the directory before its command is answered."""
    session = rig.session("a")
    nexus = Nexus(InitiatorPort("iqn.2026-01.test:elsewhere"), TARGET_PORT)
    elsewhere = Units(str(root))
    try:
        for key in range(1, 40):
            known_to(session)
            done = elsewhere.submit(
                "disk", nexus, out_cdb(REGISTER_IGNORE), basic_list(0, key)
            ).result()
            assert done.status == 0
            assert keys_of(session) == [key]
    finally:
        elsewhere.close()


def test_unit_attention_comes_first(rig: Rig) -> None:
    """SPC-4 5.13.11: who was preempted is told with its next command, and once."""
    one, other = rig.session("a"), rig.session("b")
    one.must(REGISTER, 0, 0xA)
    other.must(REGISTER, 0, 0xB)
    known_to(one)
    known_to(other)
    other.must(PREEMPT, 0xB, 0xA, type_=1)
    told = one.command(KEYS, read=512)
    assert (told.status, told.sense[2] & 0xF, told.sense[12:14]) == (2, 6, b"\x2a\x05")
    assert keys_of(one) == [0xB]


def test_unit_attention_that_only_this_process_knows_comes_first(rig: Rig) -> None:
    """A reset of the logical unit, by somebody else: 29h."""
    one, other = rig.session("a"), rig.session("b")
    known_to(one)
    assert other.initiator.task_management(5, lun=other.lun) == 0
    told = one.command(KEYS, read=512)
    assert (told.status, told.sense[2] & 0xF, told.sense[12]) == (2, 6, 0x29)
    assert keys_of(one) == []


def test_lun_that_is_deleted_is_not_read_any_more(
    rig: Rig, root: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next command is refused: what was known of it is of no use."""
    session = rig.session("a")
    session.must(REGISTER, 0, 0xA)
    session.must(CLEAR, 0xA)
    known_to(session)
    counted = Counted(rig, monkeypatch)
    for _ in range(20):
        assert keys_of(session) == []
    assert counted.how["known"]
    delete_lun(str(root), "disk")
    assert not session.command(KEYS, read=512).good


@pytest.mark.parametrize(
    ("cdb", "length"),
    [
        (in_cdb(READ_KEYS, 8), 8),
        (in_cdb(READ_KEYS, 4096), 16),
        (in_cdb(READ_RESERVATION, 4096), 24),
        (in_cdb(REPORT_CAPABILITIES, 4096), 8),
        (in_cdb(READ_FULL_STATUS, 4096), None),
    ],
)
def test_it_is_what_the_thread_of_the_lun_answers(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, cdb: bytes, length: int | None
) -> None:
    """With room for less, for just that, and for more."""
    session = rig.session("a")
    session.must(REGISTER, 0, 0xA)
    session.must(RESERVE, 0xA, type_=3)
    known_to(session)
    for read in (4, length or 40, 4096):
        for _ in range(3):
            at_once = session.command(cdb, read=read)
        with monkeypatch.context() as slow:
            slow.setattr(rig.disks["disk"], "read_at_once", lambda *_: b"")
            slow.setattr(rig.disks["disk"], "glance", lambda *_: None)
            executed = session.command(cdb, read=read)
        assert at_once.good
        assert at_once == executed
        if length is not None:
            assert len(at_once.data) == min(read, length)


def test_wrong_service_action_is_refused_as_ever(rig: Rig) -> None:
    """And NACA, which this target does not have."""
    session = rig.session("a")
    known_to(session)
    naca = bytearray(KEYS.ljust(16, b"\0"))
    naca[9] = 4
    for wrong in (in_cdb(0x1F, 512), bytes(naca)):
        for _ in range(3):
            refused = session.command(wrong, read=512)
            assert (refused.status, refused.sense[2] & 0xF, refused.sense[12]) == (2, 5, 0x24)


def test_two_luns_are_not_mixed_up(rig: Rig) -> None:
    """Each connection asks for its own."""
    one, other = rig.session("a"), rig.session("a2", lun="other")
    one.must(REGISTER, 0, 0xA)
    other.must(REGISTER, 0, 0xB)
    for _ in range(20):
        assert keys_of(one) == [0xA]
        assert keys_of(other) == [0xB]


def test_no_file_system_is_asked(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done under the lock of a connection, so it must not wait for a disk."""
    session = rig.session("a")
    known_to(session)
    disk = rig.disks["disk"]
    at_once, stat = disk.read_at_once, os.stat
    looked: list[object] = []
    inside: list[int] = []
    answers: Counter[bool] = Counter()

    def noted(*arguments: Any, **more: Any) -> os.stat_result:
        if threading.get_ident() in inside:
            looked.append(arguments)
        return stat(*arguments, **more)

    def asked(of: Any, cdb: bytes) -> bytes:
        inside.append(threading.get_ident())
        data = at_once(of, cdb)
        inside.pop()
        answers[bool(data)] += 1
        return data

    monkeypatch.setattr(os, "stat", noted)
    monkeypatch.setattr(disk, "read_at_once", asked)
    for turn in range(50):
        keys_of(session)
        if not turn % 10:
            session.must(REGISTER_IGNORE, 0, turn + 1)
    assert session.command(WRITE, BLOCK).good
    assert looked == []
    assert answers[True]
    assert answers[False]


def test_when_nothing_is_said_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a client that takes nothing, of much, and by a session or a disk that is gone."""
    session = rig.session("a")
    session.must(REGISTER, 0, 0xA)
    known_to(session)
    (connection,) = rig.server._connections
    execution, cdb = connection._execution, KEYS.ljust(16, b"\0")
    attachment = execution.channels[session.lun].attachment
    disk = rig.disks["disk"]

    def known() -> bool:
        keys_of(session)
        keys_of(session)
        return bool(execution.at_once(session.lun, cdb))

    def never() -> bool:
        return not any(execution.at_once(session.lun, cdb) for _ in range(3))

    eventually(known, "that it is known")
    assert not execution.at_once(session.lun + 1, cdb)
    assert not execution.at_once(session.lun, READ_10)
    for of, name, value in (
        (execution.wire.output, "pending", 1),
        (module, "_LITTLE", 15),
        (attachment.disk_nexus, "attached", False),
        (disk, "_closed", True),
        (attachment.line, "ended", True),
    ):
        eventually(known, "that it is known")
        with monkeypatch.context() as other:
            other.setattr(of, name, value)
            assert never(), name
    eventually(known, "that it is known")
