"""The target door in one process: sessions, hanging disks, task management, limits, its end."""

from __future__ import annotations

import contextlib
import pathlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from flockpr.block import Disk
from flockpr.errors import ConfigError, LunNotFound
from flockpr.gate import Permit
from flockpr.iscsi.command import Command
from flockpr.iscsi.commands import CommandTask
from flockpr.iscsi.execution import Execution
from flockpr.iscsi.flights import FlightRing, Flights
from flockpr.iscsi.management import LAST_WORDS
from flockpr.iscsi.output import Output, Release
from flockpr.iscsi.pace import Pace
from flockpr.iscsi.server import TargetServer
from flockpr.iscsi.settings import ChapAccount, Limits, LunSettings, Portal
from flockpr.store.identity import target_name
from flockpr.store.listing import read_identity
from flockpr.store.provision import create_lun
from flockpr.units import Units
from tests.support import iscsi_wire, sbc_cdbs
from tests.support.in_process import Rig, iscsi_threads
from tests.support.iscsi_client import ConnectionLost, Initiator, LoginRefused
from tests.support.open_files import open_below, open_descriptors
from tests.support.scsi import in_cdb
from tests.support.target_rig import (
    BUSY,
    CLEARED,
    CONFLICT,
    GOOD,
    SOLICITED,
    TASK_ABORTED,
    TASK_SET_FULL,
    Session,
    eventually,
    initiator_name,
    make_root,
)

REGISTER, RESERVE, CLEAR, PREEMPT_AND_ABORT = 6, 1, 3, 5
WRITE_EXCLUSIVE_RO = 5
ABORT_TASK, ABORT_TASK_SET, CLEAR_TASK_SET, LUN_RESET, WARM_RESET, COLD_RESET = 1, 2, 4, 5, 6, 7
COMPLETE, NO_SUCH_TASK, NO_SUCH_LUN, REJECTED = 0, 1, 2, 255

READ = sbc_cdbs.read(0, 1)
WRITE = sbc_cdbs.write(0, 1)
BLOCK = bytes(range(256)) * 2
MIB = 1 << 20


@pytest.fixture(autouse=True, params=["executed", "launched"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who carries out a read or write that comes alone: a thread of ours, or the kernel."""
    way = str(request.param)
    if way == "launched":
        # What comes alone is launched where the disk is slow.
        monkeypatch.setattr(Pace, "quick", lambda _: False)
    return way


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    """A root with two LUNs, `disk` and `other`."""
    return make_root(tmp_path, "disk", "other")


@pytest.fixture
def rig(root: pathlib.Path) -> Iterator[Rig]:
    """A server with two portals over it."""
    with Rig(root, tags=(2, 3)) as made:
        yield made


def read_of(session: Session) -> bytes:
    """The first block."""
    reply = session.command(READ, read=512)
    assert reply.good, reply
    return reply.data


def test_server_answers_within_the_time_of_its_logical_units(root: pathlib.Path) -> None:
    """`timeout` of the daemon holds at this door, too: a PREEMPT that may wait for a lease longer
    than the default is not given up by the one who asked for it.
    """
    with contextlib.closing(Units(str(root), timeout=123.0)) as units:
        server = TargetServer(str(root), portals=[Portal(port=0)], units=units)
        with server:
            disks = [lun.disk for lun in server._targets.luns]
            assert [disk._timeout for disk in disks if isinstance(disk, Disk)] == [123.0, 123.0]


# ---------------------------------------------------------------------- sessions


def test_session_reinstatement_ends_the_old_session(rig: Rig) -> None:
    """RFC 7143 6.3.1: the same name, ISID and portal group: the old connection is closed."""
    old = rig.session("a", isid=5)
    new = rig.session("a", isid=5)
    assert old.initiator.closed(60.0)
    assert new.command(WRITE, BLOCK).good
    assert rig.server.sessions == 1


def test_sessions_with_another_isid_live_beside_each_other(rig: Rig) -> None:
    """RFC 7143 6.3.1: another ISID is another session; in nexus = "name" the same nexus."""
    first, second = rig.session("a", isid=5), rig.session("a", isid=6)
    first.must(REGISTER, 0, 0xA)
    first.must(RESERVE, 0xA, type_=1)
    assert second.command(WRITE, BLOCK).good
    assert read_of(first) == BLOCK


def test_sessions_with_isid_in_the_nexus_are_strangers(root: pathlib.Path) -> None:
    """RFC 7143 3.4.1.5: nexus = "name+isid": another ISID conflicts with the reservation."""
    with Rig(root, settings={"disk": LunSettings(nexus="name+isid")}) as rig:
        first, second = rig.session("a", isid=5), rig.session("a", isid=6)
        first.must(REGISTER, 0, 0xA)
        first.must(RESERVE, 0xA, type_=1)
        assert second.command(WRITE, BLOCK).status == CONFLICT
        assert [s.initiator for s in first.full_status()] == [
            f"{initiator_name('a')},i,0x000000000005"
        ]


def test_session_that_comes_back_keeps_its_registration(rig: Rig) -> None:
    """A restarted QEMU has a new ISID; with nexus = "name" that does not lock it out."""
    first = rig.session("a", isid=5)
    first.must(REGISTER, 0, 0xA)
    first.must(RESERVE, 0xA, type_=1)
    first.close()
    again = rig.session("a", isid=77)
    assert again.command(WRITE, BLOCK).good
    again.must(2, 0xA, type_=1)


def test_sessions_through_two_portals_are_two_nexuses(rig: Rig) -> None:
    """SPC-4 5.13.7: another target port is another nexus, with a registration of its own."""
    first, second = rig.session("a"), rig.session("a", portal=1)
    first.must(REGISTER, 0, 0xA)
    first.must(RESERVE, 0xA, type_=1)
    assert second.command(WRITE, BLOCK).status == CONFLICT
    second.must(REGISTER, 0, 0xB)
    assert sorted((s.port, s.key) for s in first.full_status()) == [(2, 0xA), (3, 0xB)]


def test_discovery_lists_targets_with_all_their_portals(rig: Rig) -> None:
    """RFC 7143 appendix C: SendTargets=All names each target and where it is."""
    listed = rig.initiator(target=None).targets()
    portals = [f"127.0.0.1:{a.port},{a.tag}" for a in rig.server.addresses]
    assert listed == {target.name: portals for target in rig.server.targets}
    assert len(listed) == 2


def test_discovery_leaves_out_what_the_initiator_may_not_see(root: pathlib.Path) -> None:
    """A LUN with a list of initiators is not told to others, and they may not log in."""
    settings = {"disk": LunSettings(initiators=frozenset({initiator_name("a")}))}
    with Rig(root, settings=settings) as rig:
        assert len(rig.initiator("a", target=None).targets()) == 2
        (name,) = rig.initiator("b", target=None).targets()
        assert name == rig.url("other").target
        rig.session("a")
        with pytest.raises(LoginRefused) as refused:
            rig.session("b")
        assert refused.value.status == (2, 2)


def test_login_to_a_target_that_is_not_there_is_refused(rig: Rig) -> None:
    """RFC 7143 11.13.5: 0203."""
    with pytest.raises(LoginRefused) as refused:
        rig.initiator(target="iqn.2026-11.org.flockpr:nobody")
    assert refused.value.status == (2, 3)


def test_chap_accounts_are_asked_for_and_bound_to_initiators(root: pathlib.Path) -> None:
    """RFC 7143 12.1: a right secret gets in; a wrong one, or another's account, does not."""
    accounts = (
        ChapAccount("anybody", b"secret of anybody"),
        ChapAccount("only-a", b"secret of a alone", initiator_name("a")),
    )
    mutual = ChapAccount("target", b"secret of the target")
    with Rig(root, chap=accounts, mutual=mutual) as rig:
        rig.session("b", chap=("anybody", "secret of anybody"))
        rig.session(
            "a",
            chap=("only-a", "secret of a alone"),
            mutual=("target", "secret of the target"),
        )
        for name, chap in (
            ("b", ("only-a", "secret of a alone")),
            ("a", ("only-a", "secret of anybody")),
            ("a", None),
        ):
            with pytest.raises(LoginRefused) as refused:
                rig.session(name, chap=chap)
            assert refused.value.status == (2, 1)


def test_failed_chap_is_logged_with_who_tried_but_not_each_time(
    root: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Guessing is seen, and does not fill the log."""
    with Rig(root, chap=[ChapAccount("user", b"secret of the user")]) as rig:
        for secret in ("wrong secret number 1", "wrong secret number 2"):
            with pytest.raises(LoginRefused):
                rig.session("guesser", chap=("admin", secret))
        target = rig.url().target
    (line,) = [r.getMessage() for r in caplog.records if "authentication" in r.getMessage()]
    for part in ("from 127.0.0.1:", initiator_name("guesser"), target, "'admin'"):
        assert part in line


def test_one_target_for_all_luns_reports_each(root: pathlib.Path) -> None:
    """With a name for the target its LUNs are listed together; others do not exist."""
    with Rig(root, target_name="iqn.2026-01.org.example:all") as rig:
        session = rig.session("a")
        reply = session.command(bytes((0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0)), read=256)
        assert reply.data[:4] == bytes((0, 0, 0, 16))
        assert [reply.data[9], reply.data[17]] == [0, 1]
        assert session.initiator.command(1, READ, read=512).good
        assert session.initiator.command(2, READ, read=512).code == (5, 0x25, 0)


def test_lun_0_that_does_not_exist_answers_inquiry_and_report_luns(tmp_path: pathlib.Path) -> None:
    """SAM-5 4.8.3, SPC-4 6.4.2: qualifier 011b, type 1Fh; the list has the LUN that exists."""
    root = make_root(tmp_path, "disk")
    create_lun(str(root), "seventh", size=1 << 20, lun=7)
    with Rig(root) as rig:
        initiator = rig.initiator("a", "seventh")
        assert initiator.command(0, sbc_cdbs.inquiry(), read=255).data[0] == 0x7F
        reply = initiator.command(0, bytes((0xA0, *bytes(7), 1, 0, 0, 0)), read=256)
        assert (len(reply.data), reply.data[9]) == (16, 7)
        assert initiator.command(0, READ, read=512).code == (5, 0x25, 0)
        assert initiator.command(0, bytes((3, 0, 0, 0, 252, 0)), read=252).data[12] == 0x25


# ---------------------------------------------------------------------- reservations at a look


@pytest.mark.parametrize("way", ["executed"], indirect=True)
def test_read_keys_is_answered_by_a_look_and_sees_what_others_commit(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the logical unit's thread, as long as nothing was committed and nothing is owed."""
    submitted: list[bytes] = []
    submit = Units.submit

    def noted(units: Units, lun: str, nexus: Any, cdb: bytes, *more: Any, **named: Any) -> Any:
        submitted.append(cdb)
        return submit(units, lun, nexus, cdb, *more, **named)

    monkeypatch.setattr(Units, "submit", noted)
    first, second = rig.session("a"), rig.session("b", "disk")
    first.must(REGISTER, 0, 0xA)
    assert first.keys() == [0xA]
    before = len(submitted)
    assert [first.keys() for _ in range(5)] == [[0xA]] * 5
    assert len(submitted) == before
    second.must(REGISTER, 0, 0xB)
    assert first.keys() == [0xA, 0xB]
    second.must(CLEAR, 0xB)
    told = first.command(in_cdb(0), read=8192)
    assert told.code == CLEARED
    assert first.keys() == []


# ---------------------------------------------------------------------- disks that hang


def test_hanging_lun_delays_neither_nops_nor_other_luns_of_a_connection(root: pathlib.Path) -> None:
    """A file system that hangs holds up the commands for its LUN and nothing else."""
    with Rig(root, target_name="iqn.2026-01.org.example:all") as rig:
        session = rig.session("a")
        rig.calls["disk"].hang()
        stuck = [session.initiator.submit(0, READ, read=512) for _ in range(20)]
        rig.calls["disk"].until_waiting(8)
        assert session.initiator.ping(b"hello") == b"hello"
        assert session.initiator.command(1, WRITE, BLOCK).good
        assert session.initiator.command(1, READ, read=512).data == BLOCK
        rig.calls["disk"].go_on()
        assert all(session.initiator.wait(task).good for task in stuck)


def test_hanging_lun_does_not_use_up_the_window_of_its_session(root: pathlib.Path) -> None:
    """RFC 7143 4.2.2.1: CmdSN is one for all LUNs; what hangs makes room in time."""
    with Rig(root, target_name="iqn.2026-01.org.example:all") as rig:
        session = rig.session("a")
        rig.calls["disk"].hang()
        stuck = [session.initiator.submit(0, READ, read=512) for _ in range(64)]
        assert session.initiator.command(1, WRITE, BLOCK).good
        rig.calls["disk"].go_on()
        assert all(session.initiator.wait(task).good for task in stuck)


def test_hanging_lun_takes_no_more_than_its_queue(root: pathlib.Path) -> None:
    """SAM-5 5.3.1: TASK SET FULL beyond the bound, and the LUN works when it goes on."""
    with Rig(root, limits=Limits(queue_each=10)) as rig:
        session = rig.session("a")
        rig.calls["disk"].hang()
        stuck = [session.initiator.submit(0, READ, read=512) for _ in range(10)]
        rig.calls["disk"].until_waiting(8)
        assert session.command(READ, read=512).status == TASK_SET_FULL
        rig.calls["disk"].go_on()
        assert all(session.initiator.wait(task).good for task in stuck)
        assert read_of(session) == bytes(512)


def test_lun_whose_locks_hang_is_busy_in_time_and_holds_up_nobody(
    root: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster gets over the loss of a node: the command that comes to it first is answered like
    those after it, other LUNs are served, the target ends, and later all goes on.
    """
    with Rig(root, target_name="iqn.2026-01.org.example:all") as rig:
        session = rig.session("a")
        calls = rig.calls["disk"]
        disk = rig.disks["disk"]
        permit = disk._permit
        assert isinstance(permit, Permit)
        monkeypatch.setattr(disk, "_timeout", 0.3)
        permit.renew()
        eventually(lambda: not permit.held, "that the permit is given back")
        calls.hang_in_locks()
        stuck = [session.initiator.submit(0, READ, read=512) for _ in range(20)]
        calls.until_waiting(1)
        assert session.initiator.command(1, WRITE, BLOCK).good
        assert {session.initiator.wait(task).status for task in stuck} == {BUSY}
        assert session.initiator.command(1, READ, read=512).data == BLOCK

        calls.go_on()
        monkeypatch.setattr(disk, "_timeout", 60.0)
        assert session.initiator.command(0, READ, read=512).good

        permit.renew()
        eventually(lambda: not permit.held, "that the permit is given back")
        monkeypatch.setattr(disk, "_timeout", 0.3)
        calls.hang_in_locks()
        session.initiator.submit(0, READ, read=512)
        calls.until_waiting(1)
        assert rig.server.stop(60.0)


def test_login_waits_for_the_write_of_the_session_before(rig: Rig) -> None:
    """A write of a dead session never lands on top of one of its successor."""
    old = rig.session("a", isid=5)
    rig.calls["disk"].hang()
    old.initiator.submit(0, WRITE, BLOCK)
    rig.calls["disk"].until_waiting(1)
    old.close()
    came: list[Session] = []
    login = threading.Thread(target=lambda: came.append(rig.session("a", isid=6)))
    login.start()
    other = rig.session("b", "other")
    assert other.command(WRITE, BLOCK).good
    assert not came
    rig.calls["disk"].go_on()
    login.join(60.0)
    assert came[0].command(WRITE, bytes(512)).good
    assert read_of(came[0]) == bytes(512)


def test_login_behind_a_write_that_hangs_is_refused_in_time(root: pathlib.Path) -> None:
    """RFC 7143 11.13.5: 0301; the initiator tries again."""
    with Rig(root, limits=Limits(reinstatement=0.1)) as rig:
        old = rig.session("a")
        rig.calls["disk"].hang()
        old.initiator.submit(0, WRITE, BLOCK)
        rig.calls["disk"].until_waiting(1)
        with pytest.raises(LoginRefused) as refused:
            rig.session("a")
        assert refused.value.status == (3, 1)
        rig.calls["disk"].go_on()
        eventually(lambda: not rig.server.sessions, "the end of the old session")
        rig.session("a")


class LateReader:
    """Holds up the thread that reads from a connection with the next WRITE in its hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.armed = False
        self.waiting, self.go = threading.Event(), threading.Event()
        self.executed: list[bytes] = []
        arrived, execute = Execution.arrived, Execution.execute

        def held(execution: Execution, command: Command) -> None:
            if self.armed and command.cdb[:1] == WRITE[:1]:
                self.armed = False
                self.waiting.set()
                assert self.go.wait(60.0)
            arrived(execution, command)

        def noted(execution: Execution, task: CommandTask) -> None:
            if task.command.cdb[:1] == WRITE[:1]:
                self.executed.append(bytes(task.data_out))
            execute(execution, task)

        def launched(flights: Flights, task: CommandTask) -> FlightRing | None:
            ring = launch(flights, task)
            if ring is not None and task.command.cdb[:1] == WRITE[:1]:
                self.executed.append(bytes(task.data_out))
            return ring

        launch = Flights.launch
        monkeypatch.setattr(Execution, "arrived", held)
        monkeypatch.setattr(Execution, "execute", noted)
        monkeypatch.setattr(Flights, "launch", launched)

    def send(self, session: Session) -> None:
        """Send some writes of which only the first is read."""
        self.armed = True
        session.initiator.submit(0, WRITE, BLOCK)
        assert self.waiting.wait(60.0)
        for _ in range(20):
            session.initiator.submit(0, WRITE, BLOCK)


@pytest.mark.parametrize("how", ["reinstated", "closed", "reset"])
def test_writes_of_a_session_that_is_over_are_not_executed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """RFC 7143 6.3.5: what was read, or could be, when its successor began lands no more."""
    late = LateReader(monkeypatch)
    old = rig.session("a", isid=5)
    late.send(old)
    if how == "closed":
        old.initiator.socket.close()
        sessions = rig.server._registry.all
        eventually(lambda: all(session.carrier.lost() for session in sessions), "the loss")
    elif how == "reset":
        assert rig.session("b").initiator.task_management(COLD_RESET) == COMPLETE
        assert old.initiator.closed(60.0)
    new = rig.session("a", isid=5 if how == "reinstated" else 6)
    assert new.command(WRITE, bytes(512)).good
    late.go.set()
    eventually(lambda: rig.server.connections == 1, "the end of the old connection")
    (tasks,) = {lun.tasks for lun in rig.server.targets[0].luns.values()}
    eventually(lambda: not len(tasks), "the end of the commands")
    assert late.executed == [bytes(512)]
    assert read_of(new) == bytes(512)


def test_logout_while_a_write_hangs_does_not_say_that_all_is_over(root: pathlib.Path) -> None:
    """RFC 7143 11.15.1: response 3, cleanup failed; the write may land yet."""
    with Rig(root, limits=Limits(reinstatement=0.1)) as rig:
        session = rig.session("a")
        rig.calls["disk"].hang()
        session.initiator.submit(0, WRITE, BLOCK)
        rig.calls["disk"].until_waiting(1)
        assert session.initiator.logout() == 3
        rig.calls["disk"].go_on()
        eventually(lambda: not rig.server.sessions, "the end of the session")
        other = rig.session("a")
        assert read_of(other) == BLOCK
        assert other.initiator.logout() == 0


# ---------------------------------------------------------------------- task management


def test_abort_task_of_a_waiting_task_ends_it_without_a_response(rig: Rig) -> None:
    """RFC 7143 11.5.1: "function complete", and the task is never executed."""
    session = rig.session("a", keys=SOLICITED)
    task, held = session.withhold(WRITE, BLOCK)
    assert session.initiator.task_management(ABORT_TASK, task=task) == COMPLETE
    session.initiator.forget(task)
    for late in held:
        session.initiator.send(late)
    assert read_of(session) == bytes(512)


def test_abort_task_of_a_task_in_execution_waits_for_its_end(rig: Rig) -> None:
    """RFC 7143 11.6.1: complete means that the write cannot land any more."""
    session = rig.session("a")
    rig.calls["disk"].hang()
    task = session.initiator.submit(0, WRITE, BLOCK)
    rig.calls["disk"].until_waiting(1)
    session.initiator.forget(task)
    request = session.initiator.task_request(ABORT_TASK, task=task)
    session.initiator.send(request)
    session.initiator.ping()  # another answer overtakes it
    rig.calls["disk"].go_on()
    answer = session.initiator.receive()
    assert (answer.opcode, answer.itt, answer.byte_2) == (
        iscsi_wire.TASK_RESPONSE,
        request.itt,
        COMPLETE,
    )


def test_task_management_that_takes_too_long_is_rejected(root: pathlib.Path) -> None:
    """RFC 7143 11.6.1: a target never says "complete" of a write that may still land."""
    with Rig(root, limits=Limits(task_management=0.1)) as rig:
        session = rig.session("a")
        rig.calls["disk"].hang()
        session.initiator.submit(0, WRITE, BLOCK)
        rig.calls["disk"].until_waiting(1)
        assert session.initiator.task_management(LUN_RESET) == REJECTED


def test_task_management_that_takes_too_long_is_logged_with_who_and_what(
    root: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log tells which initiator, which function, which LUN."""
    with Rig(root, limits=Limits(task_management=0.1)) as rig:
        session = rig.session("a")
        rig.calls["disk"].hang()
        session.initiator.submit(0, WRITE, BLOCK)
        rig.calls["disk"].until_waiting(1)
        assert session.initiator.task_management(LUN_RESET) == REJECTED
    (line,) = [r.getMessage() for r in caplog.records if "task management" in r.getMessage()]
    for part in (initiator_name("a"), "function 5", "LUN 0"):
        assert part in line


def test_abort_task_of_a_task_that_is_not_there_says_so(rig: Rig) -> None:
    """RFC 7143 11.6.1: "task does not exist" once it has been answered."""
    session = rig.session("a")
    task = session.initiator.submit(0, READ, read=512)
    session.initiator.wait(task)
    assert session.initiator.task_management(ABORT_TASK, task=task) == NO_SUCH_TASK


def test_task_management_of_a_lun_that_is_not_there_says_so(rig: Rig) -> None:
    """RFC 7143 11.6.1: "LUN does not exist"."""
    session = rig.session("a")
    assert session.initiator.task_management(LUN_RESET, lun=9) == NO_SUCH_LUN


@pytest.mark.parametrize("function", [ABORT_TASK_SET, CLEAR_TASK_SET])
def test_task_set_of_others_is_spared(rig: Rig, function: int) -> None:
    """SAM-5 7.3, 7.5 with TST=001b: only the tasks of the nexus that asks."""
    mine, other = rig.session("a", keys=SOLICITED), rig.session("b", keys=SOLICITED)
    my_task, _ = mine.withhold(WRITE, BLOCK)
    task, held = other.withhold(WRITE, BLOCK)
    assert mine.initiator.task_management(function) == COMPLETE
    mine.initiator.forget(my_task)
    for data in held:
        other.initiator.send(data)
    assert other.initiator.wait(task).status == GOOD


@pytest.mark.parametrize("function", [LUN_RESET, WARM_RESET])
def test_task_management_that_ends_tasks_of_others_tells_them(rig: Rig, function: int) -> None:
    """SAM-5 5.6.3 with TAS=1: the others' tasks end with TASK ABORTED."""
    mine, other = rig.session("a"), rig.session("b", keys=SOLICITED)
    task, held = other.withhold(WRITE, BLOCK)
    assert mine.initiator.task_management(function) == COMPLETE
    for data in held:
        other.initiator.send(data)
    assert other.initiator.wait(task).status == TASK_ABORTED
    assert other.settle(), "a reset is told"
    assert read_of(other) == bytes(512)


def test_target_cold_reset_ends_all_sessions(rig: Rig) -> None:
    """RFC 7143 11.5.1: the connections of every session with the target are closed."""
    mine, other = rig.session("a"), rig.session("b")
    bystander = rig.session("c", "other")
    assert mine.initiator.task_management(COLD_RESET) == COMPLETE
    assert mine.initiator.closed(60.0)
    assert other.initiator.closed(60.0)
    assert bystander.ready().good
    assert rig.session("a").command(WRITE, BLOCK).good


def test_target_cold_reset_leaves_who_logs_in_after_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that begins between the answer and the end of the others goes on."""
    housekeeper = rig.server._door.housekeeper
    later, due = housekeeper.later, threading.Event()
    calls: list[Callable[[], None]] = []

    def held(seconds: float, call: Callable[[], None]) -> object:
        if seconds != LAST_WORDS:
            return later(seconds, call)
        calls.append(call)
        due.set()
        return None

    monkeypatch.setattr(housekeeper, "later", held)
    mine = rig.session("a")
    assert mine.initiator.task_management(COLD_RESET) == COMPLETE
    assert due.wait(60.0)
    after = rig.session("b")
    (end,) = calls
    end()
    assert mine.initiator.closed(60.0)
    assert after.command(WRITE, BLOCK).good


def test_preempt_and_abort_ends_the_tasks_of_the_victim(rig: Rig) -> None:
    """SPC-4 5.13.11.2: what the victim has under way ends with TASK ABORTED, unwritten."""
    victim, other = rig.session("victim", keys=SOLICITED), rig.session("other")
    victim.must(REGISTER, 0, 0xA)
    other.must(REGISTER, 0, 0xB)
    victim.must(RESERVE, 0xA, type_=WRITE_EXCLUSIVE_RO)
    task, held = victim.withhold(WRITE, BLOCK)
    other.must(PREEMPT_AND_ABORT, 0xB, 0xA, type_=WRITE_EXCLUSIVE_RO)
    for data in held:
        victim.initiator.send(data)
    assert victim.initiator.wait(task).status == TASK_ABORTED
    assert victim.command(WRITE, BLOCK).status == CONFLICT
    assert victim.told() == [(6, 0x2A, 5)]
    assert read_of(other) == bytes(512)


# ---------------------------------------------------------------------- slow and silent clients


def test_client_that_reads_nothing_delays_nobody(rig: Rig) -> None:
    """Answers that a client does not take wait for it alone, and within bounds."""
    slow, other = rig.session("slow"), rig.session("b")
    big = sbc_cdbs.read(0, 2048)
    tasks = [slow.initiator.submit(0, big, read=2048 * 512) for _ in range(30)]
    for _ in range(50):
        assert other.command(WRITE, BLOCK).good
    assert read_of(other) == BLOCK
    for task in tasks:
        reply = slow.initiator.wait(task)
        assert reply.good
        assert len(reply.data) == 2048 * 512


def test_client_that_takes_nothing_for_too_long_is_dropped(root: pathlib.Path) -> None:
    """What it asked for is not kept for ever."""
    with Rig(root, limits=Limits(stalled=0.5)) as rig:
        slow = rig.session("slow")
        for _ in range(30):
            slow.initiator.submit(0, sbc_cdbs.read(0, 2048), read=2048 * 512)
        eventually(lambda: not rig.server.connections, "the end of the connection")


class Looks:
    """Makes the looks at what clients leave lying frequent, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        look = Output.look

        def counted(output: Output) -> list[Release]:
            self.count += 1
            return look(output)

        monkeypatch.setattr("flockpr.iscsi.output._LOOK", 0.01)
        monkeypatch.setattr(Output, "look", counted)

    def more(self, number: int) -> None:
        """Wait until there were so many more."""
        enough = self.count + number
        eventually(lambda: self.count >= enough, "looks at what waits")


def test_client_that_reads_nothing_is_read_nothing_for(
    root: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was copied for a client counts until it takes it: its other READs wait."""
    looks = Looks(monkeypatch)
    with Rig(root, limits=Limits(output=2 * MIB)) as rig:
        slow = rig.session("slow", receive_buffer=4096)
        calls = rig.calls["disk"]
        before = calls.reads
        tasks = [slow.initiator.submit(0, sbc_cdbs.read(0, 2048), read=MIB) for _ in range(60)]
        looks.more(100)
        # Two wait to be taken, and what is in the system's buffers was taken, as far as we know.
        assert calls.reads - before < 20
        assert rig.server._door.backlog.total <= 2 * MIB + 100_000
        for task in tasks:
            assert len(slow.initiator.wait(task).data) == MIB
        assert calls.reads - before == 60
        eventually(lambda: not rig.server._door.backlog.total, "the end of what waits")


def test_clients_that_read_nothing_are_bounded_together(
    root: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At the bound of all of them clients are dropped, by name, and a bystander is served."""
    looks = Looks(monkeypatch)
    most = 0
    with Rig(root, limits=Limits(output=2 * MIB, output_all=6 * MIB)) as rig:
        backlog = rig.server._door.backlog
        other = rig.session("bystander", "other")
        for number in range(12):
            greedy = rig.session(f"greedy{number}", receive_buffer=4096)
            for _ in range(30):
                greedy.initiator.submit(0, sbc_cdbs.read(0, 2048), read=MIB)
        for _ in range(30):
            looks.more(5)
            most = max(most, backlog.total)
            assert other.command(WRITE, BLOCK).good
            assert read_of(other) == BLOCK
        # What is no data of a disk is counted in any case, and is little.
        assert 4 * MIB < most < 6 * MIB + 100_000
        eventually(lambda: rig.server.connections <= 7, "the end of some clients")
        assert rig.server.connections > 1
        assert re.search(r"greedy\d+\): dropped: too much waits", caplog.text)
        assert "bystander): dropped" not in caplog.text
        for initiator in rig.opened:
            if initiator is not other.initiator:
                initiator.close()
        eventually(lambda: rig.server.connections == 1, "the end of the connections")
        eventually(lambda: not backlog.total, "the end of what waits")
        assert read_of(other) == BLOCK


def test_client_that_sends_no_data_is_dropped(root: pathlib.Path) -> None:
    """Memory that a client was given for its data is not its for ever, whatever it answers."""
    with Rig(root, limits=Limits(stalled=0.4)) as rig:
        session = rig.session("a", keys=SOLICITED)
        session.withhold(WRITE, BLOCK)
        assert session.initiator.closed(60.0)
        eventually(lambda: not rig.server.sessions, "the end of the session")


def test_client_that_sends_nothing_is_dropped_at_the_login_deadline(root: pathlib.Path) -> None:
    """A client that connects and is silent does not stay."""
    with Rig(root, limits=Limits(login=0.2)) as rig:
        url = rig.url()
        with socket.create_connection((url.host, url.port)) as sock:
            sock.settimeout(60.0)
            assert sock.recv(1) == b""
        eventually(lambda: not rig.server.connections, "the end of the connection")


def test_client_that_was_refused_and_goes_on_sending_is_closed(root: pathlib.Path) -> None:
    """A byte now and then does not keep the connection from others."""
    with Rig(root) as rig:
        url = rig.url()
        with socket.create_connection((url.host, url.port)) as sock:
            eventually(lambda: rig.server.connections, "the connection")
            sock.sendall(bytes(48))

            def ended() -> bool:
                with contextlib.suppress(OSError):
                    sock.send(b"x")
                return not rig.server.connections

            eventually(ended, "the end of the connection")


def test_client_that_was_refused_is_dropped_at_the_login_deadline(
    root: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the connection waits for then."""
    monkeypatch.setattr("flockpr.iscsi.connection._LINGER", 1000.0)
    with Rig(root, limits=Limits(login=0.5)) as rig:
        url = rig.url()
        with socket.create_connection((url.host, url.port)) as sock:
            eventually(lambda: rig.server.connections, "the connection")
            sock.sendall(bytes(48))
            eventually(lambda: not rig.server.connections, "the end of the connection")


def test_silent_session_is_asked_and_dropped_when_it_does_not_answer(root: pathlib.Path) -> None:
    """RFC 7143 11.19: a NOP-In asks; who does not answer is gone, and its nexus with it."""
    with Rig(root, limits=Limits(keepalive=0.2, keepalive_answer=0.3)) as rig:
        session = rig.session("a")
        assert session.command(bytes((0x16, *bytes(5)))).good
        eventually(lambda: not rig.server.connections, "the end of the connection")
        assert rig.session("b").command(bytes((0x16, *bytes(5)))).good


def test_session_that_answers_pings_stays(root: pathlib.Path) -> None:
    """A client that is idle but alive is kept."""
    with Rig(root, limits=Limits(keepalive=0.1, keepalive_answer=30.0)) as rig:
        session = rig.session("a")
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            session.initiator.poll(0.05)
        assert session.ready().good


def test_connections_beyond_the_limit_are_turned_away(root: pathlib.Path) -> None:
    """One more than there may be is closed at once; the others stay, and a place comes free."""
    with Rig(root, limits=Limits(connections=2)) as rig:
        first, second = rig.session("a"), rig.session("b")
        url = rig.url()
        with socket.create_connection((url.host, url.port)) as sock:
            sock.settimeout(60.0)
            assert sock.recv(1) == b""
        second.close()
        eventually(lambda: rig.server.connections == 1, "a free place")
        assert rig.session("c").ready().good
        assert first.ready().good


def test_many_logins_leave_nothing_behind(rig: Rig) -> None:
    """No descriptor, thread, session or timer is left of sessions that came and went."""
    rig.session("first").close()
    eventually(lambda: not rig.server.connections, "the end of the first")
    before, threads = len(open_descriptors()), len(iscsi_threads())
    for number in range(300):
        session = rig.session("a", isid=number)
        if number % 3 == 0:
            session.initiator.reset()
        elif number % 3 == 1:
            session.logout()
        else:
            session.close()
    eventually(lambda: not rig.server.connections, "the end of all")
    eventually(lambda: len(open_descriptors()) <= before, "closed descriptors")
    eventually(lambda: len(iscsi_threads()) <= threads, "ended threads")
    assert rig.server.sessions == 0


# ---------------------------------------------------------------------- start and stop


def test_stop_answers_what_is_in_execution(root: pathlib.Path) -> None:
    """A command that was received is answered, then the connection is closed."""
    with Rig(root) as rig:
        session = rig.session("a")
        rig.calls["disk"].hang()
        task = session.initiator.submit(0, WRITE, BLOCK)
        rig.calls["disk"].until_waiting(1)
        stopped: list[bool] = []
        stop = threading.Thread(target=lambda: stopped.append(rig.server.stop(60.0)))
        stop.start()
        time.sleep(0.05)
        rig.calls["disk"].go_on()
        assert session.initiator.wait(task).good
        stop.join(60.0)
        assert stopped == [True]
        eventually(lambda: not iscsi_threads(), "the end of all threads")


def test_stop_does_not_wait_longer_than_it_was_told(root: pathlib.Path) -> None:
    """A disk that hangs does not keep the server from ending."""
    with Rig(root) as rig:
        session = rig.session("a")
        rig.calls["disk"].hang()
        session.initiator.submit(0, WRITE, BLOCK)
        rig.calls["disk"].until_waiting(1)
        assert not rig.server.stop(0.2)
        assert session.initiator.closed(60.0)
        assert not rig.server.stop(0.2)
        rig.calls["disk"].go_on()


def test_stop_with_idle_sessions_is_quick_and_can_be_repeated(rig: Rig) -> None:
    """Idle sessions are closed; ports are free again."""
    idle = [rig.session("a"), rig.session("b", "other")]
    addresses = rig.server.addresses
    assert rig.server.stop(60.0)
    assert rig.server.stop(60.0)
    assert all(session.initiator.closed(60.0) for session in idle)
    for address in addresses:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address.host, address.port))


def test_stop_says_so_to_initiators(rig: Rig) -> None:
    """RFC 7143 11.9: an asynchronous message says that the connection will be dropped."""
    session = rig.session("a")
    assert rig.server.stop(60.0)
    with pytest.raises(ConnectionLost):
        session.initiator.poll(60.0)
    assert [pdu.header[36] for pdu in session.initiator.asynchronous] == [2]


def test_rescan_serves_luns_that_were_added(rig: Rig, root: pathlib.Path) -> None:
    """A LUN that was made later is served after a rescan, and sessions go on."""
    session = rig.session("a")
    create_lun(str(root), "third", size=1 << 20, target_ports=[3])
    rig.server.rescan()
    assert read_of(rig.session("a", "third", portal=1)) == bytes(512)
    assert session.ready().good


def test_start_with_a_lun_that_is_not_there_raises(root: pathlib.Path) -> None:
    """A LUN that was named must be there; nothing stays open."""
    threads = iscsi_threads()
    server = TargetServer(str(root), portals=[Portal(port=0)], luns=["disk", "nobody"])
    with pytest.raises(LunNotFound):
        server.start()
    assert not open_below(root)
    assert set(iscsi_threads()) <= set(threads)


def test_start_without_names_serves_what_can_be_served(
    root: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A LUN whose image is missing is logged, and the others are served."""
    (root / "images" / "disk.img").unlink()
    with TargetServer(str(root), portals=[Portal(port=0)]) as server:
        assert [target.name for target in server.targets] == [
            target_name(read_identity(str(root), "other"))
        ]
    assert "disk is not served" in caplog.text


def test_start_of_a_lun_that_no_portal_offers_raises(root: pathlib.Path) -> None:
    """A portal's tag that lun.json does not list offers nothing."""
    server = TargetServer(str(root), portals=[Portal(port=0, tag=9)], luns=["disk"])
    with pytest.raises(ConfigError, match="target ports"):
        server.start()


def test_start_on_a_port_that_is_taken_raises(rig: Rig, root: pathlib.Path) -> None:
    """The address in use is an error of the start, not of a thread."""
    taken = rig.server.addresses[0]
    server = TargetServer(str(root), portals=[Portal(port=0), Portal(taken.host, taken.port)])
    with pytest.raises(OSError, match="in use"):
        server.start()


def test_portal_of_an_inherited_socket_is_served(root: pathlib.Path) -> None:
    """A socket that listens already, as systemd hands it over, is used as it is."""
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    with TargetServer(str(root), portals=[Portal(tag=3, socket=sock)]) as server:
        assert [(a.port, a.tag) for a in server.addresses] == [(port, 3)]
        target = server.targets[0].name
        with Initiator(("127.0.0.1", port), target=target, name=initiator_name("a")) as client:
            assert client.ping(b"x") == b"x"


def test_portal_on_ipv6_is_named_with_brackets(root: pathlib.Path) -> None:
    """RFC 7143 13.8: TargetAddress of an IPv6 portal."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 here")
    with TargetServer(str(root), portals=[Portal("::1", 0)]) as server:
        (address,) = server.addresses
        assert server.url("disk").startswith(f"iscsi://[::1]:{address.port}/iqn.")
        found = Initiator((address.host, address.port), target=None, name=initiator_name("a"))
        with found:
            listed = found.targets()
        assert set(map(tuple, listed.values())) == {(f"[::1]:{address.port},2",)}


def test_portal_that_others_reach_is_refused_without_chap(root: pathlib.Path) -> None:
    """Whoever serves from Python must say so too; a socket that listens already tells where."""
    account = [ChapAccount("anybody", b"secret of anybody")]
    word: dict[str, Any]
    with socket.create_server(("0.0.0.0", 0)) as sock:
        for portal in (Portal("0.0.0.0", 0), Portal(socket=sock)):
            with pytest.raises(ConfigError, match="other hosts can connect"):
                TargetServer(str(root), portals=[Portal(port=0), portal])
            for word in ({"chap": account}, {"allow_unauthenticated": True}):
                assert TargetServer(str(root), portals=[portal], **word).stop(0.0)


def test_portal_on_every_address_is_named_as_the_client_found_it(root: pathlib.Path) -> None:
    """RFC 7143 13.8: an initiator is never told to connect to 0.0.0.0."""
    everywhere = [Portal("0.0.0.0", 0)]
    with TargetServer(str(root), portals=everywhere, allow_unauthenticated=True) as server:
        port = server.addresses[0].port
        found = Initiator(("127.0.0.2", port), target=None, name=initiator_name("a"))
        with found:
            listed = found.targets()
        assert set(map(tuple, listed.values())) == {(f"127.0.0.2:{port},2",)}


def test_settings_say_who_is_loopback() -> None:
    """Addresses and names; what cannot be resolved is not."""
    from flockpr.iscsi.settings import is_loopback

    assert is_loopback("127.0.0.1")
    assert is_loopback("127.1.2.3")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("::")
    assert not is_loopback("192.0.2.1")
    assert not is_loopback("does-not-exist.invalid")


def test_settings_refuse_impossible_values() -> None:
    """Values that cannot be are refused where they are made."""
    with pytest.raises(ValueError, match="tag"):
        Portal(tag=0)
    with pytest.raises(ValueError, match="nexus"):
        LunSettings(nexus="isid")  # type: ignore[arg-type]
    assert "secret" not in repr(ChapAccount("user", b"very secret")).replace("secret=", "")
    assert attrs.asdict(LunSettings(initiators=["IQN.2026-01.org:A"]))["initiators"] == frozenset(
        {"iqn.2026-01.org:a"}
    )
