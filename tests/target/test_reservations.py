"""Persistent reservations through two targets over one root: who is told what, and when."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from flockpr.block.served import MAX_AGE
from tests.support import sbc_cdbs as sbc
from tests.support.daemons import Daemon, Door
from tests.support.daemons import out as helper_out
from tests.support.daemons import read as helper_read
from tests.support.iscsi_client import LUN_RESET, TARGET_WARM_RESET
from tests.support.scsi import (
    CLEAR,
    EA,
    EARO,
    KEY_A,
    KEY_B,
    KEY_C,
    MOVE,
    PREEMPT,
    PREEMPT_ABORT,
    REGISTER,
    REGISTER_IGNORE,
    RELEASE,
    RESERVE,
    WE,
    WEAR,
    WERO,
    basic_list,
    iscsi_id,
    keys_in,
    move_list,
    out_cdb,
)
from tests.support.target_rig import (
    BLOCK,
    CHECK_CONDITION,
    CLEARED,
    CONFLICT,
    GOOD,
    PREEMPTED,
    RELEASED,
    SOLICITED,
    TASK_ABORTED,
    FullStatus,
    Session,
    Target,
    eventually,
    initiator_name,
    make_root,
)

BLOCKFUL = b"\xaa" * BLOCK
ISID = 0x80_0000_0000_00
NAMES = [f"lun{number}" for number in range(40)]
PORTALS = ("127.0.0.1:0,2", "127.0.0.1:0,3")


class Bench:
    """Two target processes over one root, and a logical unit for every test."""

    def __init__(self, first: Target, second: Target) -> None:
        self.targets = (first, second)
        self._unused = list(NAMES)
        self.lun = ""
        self._open: list[Session] = []

    def fresh(self) -> None:
        """Take a logical unit that nobody has used."""
        self.lun = self._unused.pop()

    def log_in(self, short: str, target: int = 0, **options: Any) -> Session:
        """A session that ends with the test."""
        session = self.targets[target].log_in(short, self.lun, **options)
        self._open.append(session)
        return session

    def close(self) -> None:
        """End all sessions."""
        while self._open:
            self._open.pop().close()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The two targets, each with two portals."""
    directory = tmp_path_factory.mktemp("reservations")
    root = make_root(directory, *NAMES)
    targets = [Target(root, directory / f"{n}.log", portals=PORTALS) for n in (1, 2)]
    with targets[0], targets[1]:
        yield Bench(targets[0], targets[1])


@pytest.fixture
def bench(both: Bench) -> Iterator[Bench]:
    """A logical unit of the test's own."""
    both.fresh()
    yield both
    both.close()


def outdate() -> None:
    """Let what the targets have read of the state become too old to be believed, which holds on
    the slowest machine too: the next command is decided on a reading that begins after this call.
    """
    time.sleep(MAX_AGE + 0.1)


def read_one(of: Session) -> int:
    """The status of a READ."""
    return of.command(sbc.read(0, 1), read=BLOCK).status


def write_one(of: Session) -> int:
    """The status of a WRITE."""
    return of.command(sbc.write(0, 1), BLOCKFUL).status


def registered(bench: Bench, *, where: int = 1, type_: int = WERO) -> tuple[Session, Session]:
    """A holds through the first target; B is registered through target `where`."""
    a, b = bench.log_in("a"), bench.log_in("b", where)
    a.must(REGISTER, 0, KEY_A)
    b.must(REGISTER, 0, KEY_B)
    a.must(RESERVE, KEY_A, type_=type_)
    assert write_one(b) == (GOOD if type_ not in (WE, EA) else CONFLICT)
    return a, b


@pytest.mark.parametrize("where", [0, 1], ids=["same target", "other target"])
@pytest.mark.parametrize("action", [PREEMPT, PREEMPT_ABORT])
def test_preempt_victim_conflicts_then_is_told_once(bench: Bench, where: int, action: int) -> None:
    """RESERVATION CONFLICT goes before 2A/05, which comes once [SAM-5 5.3.3; SPC-4 5.13.11]"""
    a, b = registered(bench, where=where)
    a.must(action, KEY_A, KEY_B, type_=WERO)
    for _ in range(3):
        assert write_one(b) == CONFLICT
    reply = b.ready()
    assert (reply.status, reply.code) == (CHECK_CONDITION, PREEMPTED)
    assert b.ready().good
    assert write_one(b) == CONFLICT
    assert read_one(b) == GOOD
    assert a.told() == []
    assert a.keys() == [KEY_A]


def test_preempt_idle_victim_finds_it_within_a_second(bench: Bench) -> None:
    """A nexus that did nothing is told by the first command after a second [served state]"""
    a, b = registered(bench)
    assert b.ready().good
    a.must(PREEMPT, KEY_A, KEY_B)
    outdate()
    assert b.ready().code == PREEMPTED


def test_preempt_victim_under_write_exclusive_reads_and_is_told(bench: Bench) -> None:
    """A READ that may be done is not done: it tells 2A/05 instead [SAM-5 5.14; clearing]"""
    a, b = registered(bench)
    a.must(PREEMPT, KEY_A, KEY_B)
    outdate()
    reply = b.command(sbc.read(0, 1), read=BLOCK)
    assert (reply.status, reply.code, reply.data) == (CHECK_CONDITION, PREEMPTED, b"")
    assert read_one(b) == GOOD


@pytest.mark.parametrize("where", [0, 1], ids=["same target", "other target"])
def test_attention_waits_for_victim_that_is_logged_out(bench: Bench, where: int) -> None:
    """Preempted while logged out, told when it comes back, anywhere [SAM-5 5.14; nexus]"""
    a, b = registered(bench)
    b.logout()
    a.must(PREEMPT, KEY_A, KEY_B)
    b = bench.log_in("b", where, settled=False)
    assert write_one(b) in (CONFLICT, CHECK_CONDITION)
    assert b.told() == [PREEMPTED]
    b.logout()
    assert bench.log_in("b", 1 - where, settled=False).told() == []


def test_attention_told_by_one_target_is_gone_at_the_other(bench: Bench) -> None:
    """Two sessions of one nexus through two targets: told once in all [SAM-5 5.14; clearing]"""
    a, b = registered(bench)
    again = bench.log_in("b", 0)
    a.must(CLEAR, KEY_A)
    outdate()
    told = b.told() + again.told() + b.told()
    assert told == [CLEARED]


@pytest.mark.parametrize("where", [0, 1], ids=["same target", "other target"])
def test_attention_of_clear_and_release(bench: Bench, where: int) -> None:
    """CLEAR tells 2A/03; RELEASE of WERO 2A/04, of WE nothing [SPC-4 5.13.11.2; 2A/03, 2A/04]"""
    a, b = registered(bench, where=where)
    a.must(RELEASE, KEY_A, type_=WERO)
    eventually(lambda: b.told() == [RELEASED], "2A/04")
    a.must(RESERVE, KEY_A, type_=WE)
    a.must(RELEASE, KEY_A, type_=WE)
    outdate()
    assert b.told() == []
    a.must(CLEAR, KEY_A)
    eventually(lambda: b.told() == [CLEARED], "2A/03")
    assert a.told() == []
    assert write_one(b) == GOOD


def test_attention_inquiry_leaves_it_and_request_sense_tells_it(bench: Bench) -> None:
    """INQUIRY and REPORT LUNS clear nothing, REQUEST SENSE tells it as data [SAM-5 5.14]"""
    a, b = registered(bench)
    a.must(PREEMPT, KEY_A, KEY_B)
    outdate()
    assert b.command(sbc.inquiry(), read=255).good
    assert b.command(sbc.report_luns(), read=4096).good
    reply = b.command(sbc.request_sense(), read=252)
    assert (reply.status, reply.data[2] & 15, reply.data[12:14]) == (GOOD, 6, b"\x2a\x05")
    assert b.told() == []


def test_attention_reset_goes_before_conflict_and_preempt(bench: Bench) -> None:
    """29/03 comes before RESERVATION CONFLICT, 2A/05 after it [SAM-5 5.3.3; precedence]"""
    a, b = registered(bench)
    a.must(PREEMPT, KEY_A, KEY_B, type_=WERO)
    assert a.initiator.task_management(LUN_RESET, lun=a.lun) == 0
    outdate()
    reply = b.command(sbc.write(0, 1), BLOCKFUL)
    assert (reply.status, (reply.code or (0, 0, 0))[:2]) == (CHECK_CONDITION, (6, 0x29))
    assert write_one(b) == CONFLICT
    assert b.told() == [PREEMPTED]


@pytest.mark.parametrize("function", [LUN_RESET, TARGET_WARM_RESET])
def test_reset_keeps_registrations_and_reservation(bench: Bench, function: int) -> None:
    """Resets end SPC-2 reservations only; all nexuses are told 29/xx [SPC-4 5.13.5]"""
    a, b = registered(bench, where=0)
    stranger = bench.log_in("c")
    assert a.initiator.task_management(function, lun=a.lun) == 0
    for session in (b, stranger):
        code = session.ready().code
        assert code is not None
        assert code[:2] == (6, 0x29)
    for session in (a, b, stranger):
        session.settle()
    assert (a.keys(), a.reservation()) == ([KEY_A, KEY_B], (WERO, KEY_A))
    assert (write_one(b), write_one(stranger)) == (GOOD, CONFLICT)


def test_exclusive_access_stops_readers_of_the_other_target_at_once(bench: Bench) -> None:
    """After GOOD to RESERVE no READ of a stranger succeeds any more [SPC-4 5.13.9; order]"""
    a, c = bench.log_in("a"), bench.log_in("c", 1)
    a.must(REGISTER, 0, KEY_A)
    for _ in range(20):
        assert read_one(c) == GOOD
        a.must(RESERVE, KEY_A, type_=EA)
        assert read_one(c) == CONFLICT
        a.must(RELEASE, KEY_A, type_=EA)
        assert read_one(c) == GOOD


def test_generation_and_keys_are_the_same_through_both_targets(bench: Bench) -> None:
    """READ KEYS and READ RESERVATION agree at once [SPC-4 6.15; one state]"""
    a, b = bench.log_in("a"), bench.log_in("b", 1)
    a.must(REGISTER, 0, KEY_A)
    assert (b.keys(), b.generation()) == ([KEY_A], 1)
    b.must(REGISTER, 0, KEY_B)
    assert (a.keys(), a.generation()) == ([KEY_A, KEY_B], 2)
    b.must(RESERVE, KEY_B, type_=EARO)
    assert a.reservation() == (EARO, KEY_B)
    assert a.out(RESERVE, KEY_A, type_=EARO).status == CONFLICT
    a.must(PREEMPT, KEY_A, KEY_B, type_=WEAR)
    assert b.command(out_cdb(RELEASE, type_=WEAR), basic_list(KEY_B)).status == CONFLICT
    assert b.told() == [PREEMPTED]
    assert (b.reservation(), b.keys(), b.generation()) == ((WEAR, 0), [KEY_A], 3)


# Commands in flight.


def test_preempt_and_abort_ends_commands_in_flight(bench: Bench) -> None:
    """A WRITE that waits for data ends with TASK ABORTED, late data does no harm [SPC-4 5.13.11]"""
    a = bench.log_in("a")
    b = bench.log_in("b", keys=SOLICITED)
    for session, key in ((a, KEY_A), (b, KEY_B)):
        session.must(REGISTER, 0, key)
    a.must(RESERVE, KEY_A, type_=WERO)
    task, held = b.withhold(sbc.write(0, 8), BLOCKFUL * 8)
    a.must(PREEMPT_ABORT, KEY_A, KEY_B, type_=WERO)
    # A target may wait for the data that it has asked for (RFC 7143 4.2.3.3).
    for out in held:
        b.initiator.send(out)
    assert b.initiator.wait(task).status == TASK_ABORTED
    assert b.initiator.ping(b"alive") == b"alive"
    assert b.told() == [PREEMPTED]
    assert a.command(sbc.read(0, 8), read=8 * BLOCK).data == bytes(8 * BLOCK)


@pytest.mark.parametrize("where", [0, 1], ids=["same target", "other target"])
def test_preempt_write_that_waits_for_data_conflicts_when_it_comes(
    bench: Bench, where: int
) -> None:
    """PREEMPT leaves the command: its data is not written any more [SPC-4 5.13.11.2.4]"""
    a = bench.log_in("a")
    b = bench.log_in("b", where, keys=SOLICITED)
    for session, key in ((a, KEY_A), (b, KEY_B)):
        session.must(REGISTER, 0, key)
    a.must(RESERVE, KEY_A, type_=WERO)
    task, held = b.withhold(sbc.write(0, 8), BLOCKFUL * 8)
    a.must(PREEMPT, KEY_A, KEY_B, type_=WERO)
    for out in held:
        b.initiator.send(out)
    assert b.initiator.wait(task).status == CONFLICT
    assert a.command(sbc.read(0, 8), read=8 * BLOCK).data == bytes(8 * BLOCK)


# Who a nexus is.


def test_nexus_by_name_is_the_same_with_another_isid(bench: Bench) -> None:
    """The default: name alone, so that a restarted QEMU is no stranger [nexus mode name]"""
    a = bench.log_in("a", isid=ISID + 1)
    a.must(REGISTER, 0, KEY_A)
    a.must(RESERVE, KEY_A, type_=EA)
    a.logout()
    again = bench.log_in("a", 1, isid=ISID + 2)
    both = bench.log_in("a", 0, isid=ISID + 3)
    for session in (again, both):
        assert write_one(session) == GOOD
    assert again.full_status() == [FullStatus(initiator_name("a"), 2, KEY_A, True, EA, False)]
    assert write_one(bench.log_in("c")) == CONFLICT


def test_nexus_by_name_and_isid_is_another_with_another_isid(tmp_path: pathlib.Path) -> None:
    """By the standard: another ISID is another initiator port [nexus mode name+isid]"""
    root = make_root(tmp_path)
    config = tmp_path / "flockpr.toml"
    config.write_text('[lun.disk]\nnexus = "name+isid"\n')
    with (
        Target(root, tmp_path / "log", "--config", str(config)) as target,
        target.log_in("a", isid=ISID + 1) as a,
        target.log_in("a", isid=ISID + 2) as other,
    ):
        a.must(REGISTER, 0, KEY_A)
        a.must(RESERVE, KEY_A, type_=EA)
        assert (write_one(a), write_one(other)) == (GOOD, CONFLICT)
        text = f"{initiator_name('a')},i,0x{ISID + 1:012x}"
        assert a.full_status() == [FullStatus(text, 2, KEY_A, True, EA, False)]
        a.logout()
        with target.log_in("a", isid=ISID + 1) as again:
            assert write_one(again) == GOOD


def test_nexus_names_differ_by_case_only_are_one(bench: Bench) -> None:
    """Names compare without regard to case [RFC 3722; RFC 7143 4.2.7.1]"""
    a = bench.log_in("a")
    a.must(REGISTER, 0, KEY_A)
    a.must(RESERVE, KEY_A, type_=EA)
    loud = bench.log_in("A", isid=ISID + 9)
    assert write_one(loud) == GOOD


# Two portals: two target ports.


def ports_of(of: Session) -> list[tuple[str, int, int]]:
    """Initiator (short), target port and key of every registration."""
    return [
        (entry.initiator.rpartition(":")[2], entry.port, entry.key) for entry in of.full_status()
    ]


def test_ports_registration_is_of_one_port(bench: Bench) -> None:
    """The other portal is another target port, and another nexus [SPC-4 5.13.7]"""
    one, two = bench.log_in("a", portal=0), bench.log_in("a", portal=1)
    one.must(REGISTER, 0, KEY_A)
    one.must(RESERVE, KEY_A, type_=WERO)
    assert ports_of(two) == [("a", 2, KEY_A)]
    assert (write_one(one), write_one(two)) == (GOOD, CONFLICT)
    two.must(REGISTER, 0, KEY_B)
    assert write_one(two) == GOOD
    assert sorted(ports_of(one)) == [("a", 2, KEY_A), ("a", 3, KEY_B)]


def test_ports_all_target_ports_registers_both(bench: Bench) -> None:
    """ALL_TG_PT=1 counts for the other portal too, on both targets [SPC-4 5.13.7; ALL_TG_PT]"""
    one = bench.log_in("a", portal=0)
    two, three = bench.log_in("a", portal=1), bench.log_in("a", 1, portal=1)
    one.must(REGISTER, 0, KEY_A, all_ports=True)
    one.must(RESERVE, KEY_A, type_=WERO)
    assert [write_one(session) for session in (one, two, three)] == [GOOD] * 3
    assert KEY_A in set(two.keys())
    killer = bench.log_in("b", 1)
    killer.must(REGISTER, 0, KEY_B)
    killer.must(PREEMPT, KEY_B, KEY_A, type_=WERO)
    assert [write_one(session) for session in (one, two, three)] == [CONFLICT] * 3
    assert killer.keys() == [KEY_B]
    assert one.told() == [PREEMPTED]


def test_ports_spec_i_pt_registers_others_at_this_port(bench: Bench) -> None:
    """SPEC_I_PT=1 registers those named, at the port of the command [SPC-4 5.13.7; SPEC_I_PT]"""
    a = bench.log_in("a", portal=1)
    same, other = bench.log_in("b", 1, portal=1), bench.log_in("b", portal=0)
    a.must(REGISTER, 0, KEY_A, ids=[iscsi_id(initiator_name("b"))])
    assert sorted(ports_of(a)) == [("a", 3, KEY_A), ("b", 3, KEY_A)]
    a.must(RESERVE, KEY_A, type_=EARO)
    assert (read_one(same), read_one(other)) == (GOOD, CONFLICT)


def test_ports_register_and_move_to_another_port(bench: Bench) -> None:
    """REGISTER AND MOVE names initiator and target port [SPC-4 5.13.8]"""
    a = bench.log_in("a", portal=0)
    wrong, right = bench.log_in("b", 1, portal=0), bench.log_in("b", 1, portal=1)
    a.must(REGISTER, 0, KEY_A)
    a.must(RESERVE, KEY_A, type_=WE)
    data = move_list(KEY_A, KEY_C, iscsi_id(initiator_name("b")), port=3, unreg=True)
    assert a.raw_out(out_cdb(MOVE, len(data)), data).good
    assert ports_of(a) == [("b", 3, KEY_C)]
    assert [write_one(session) for session in (a, wrong, right)] == [CONFLICT, CONFLICT, GOOD]
    data = move_list(KEY_C, KEY_A, iscsi_id(initiator_name("a")), port=77)
    reply = right.raw_out(out_cdb(MOVE, len(data)), data)
    assert reply.code == (5, 0x26, 0)


# With the helper door beside.


def test_helper_door_and_target_share_one_state(tmp_path: pathlib.Path) -> None:
    """What one door records, the other enforces and reports [one state; two doors]"""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="fpr-") as short:
        root = make_root(pathlib.Path(short))
        daemon = Daemon(short, "host", [Door("guest")])
        with Target(root, tmp_path / "log") as target:
            daemon.start()
            try:
                _mixed_doors(daemon, target)
            finally:
                daemon.kill()


def _mixed_doors(daemon: Daemon, target: Target) -> None:
    """A guest behind the helper and two sessions."""
    with daemon.guest() as guest, target.log_in("a") as a, target.log_in("guest") as namesake:
        assert guest.send(helper_out(REGISTER_IGNORE, 0, KEY_B)).status == GOOD
        a.must(REGISTER, 0, KEY_A)
        assert a.keys() == [KEY_B, KEY_A]
        assert guest.send(helper_out(RESERVE, KEY_B, type_=WE)).status == GOOD
        assert write_one(a) == CONFLICT
        # The same initiator through another target port is another nexus.
        assert write_one(namesake) == CONFLICT
        a.must(PREEMPT, KEY_A, KEY_B, type_=WERO)
        assert write_one(a) == GOOD
        assert guest.send(helper_out(RESERVE, KEY_B, type_=WE)).status == CONFLICT
        assert keys_in(guest.send(helper_read()).data) == [KEY_A]
        assert guest.send(helper_out(REGISTER_IGNORE, 0, KEY_B)).status == GOOD
        assert write_one(a) == GOOD
        assert guest.send(helper_out(PREEMPT, KEY_B, KEY_A, type_=WERO)).status == GOOD
        assert write_one(a) == CONFLICT
        assert a.told() == [PREEMPTED]
