"""Who may do what when: reservations, unit attentions, the permit."""

from __future__ import annotations

import threading
import time

import attrs
import pytest

from flockpr.block import senses, served
from flockpr.core.model import (
    LogicalUnitState,
    PendingAttentions,
    Registration,
    Reservation,
    Spc2Reservation,
)
from flockpr.errors import Busy, StateUnreadable, StoreUnavailable
from flockpr.spc.codes import Attention, ReservationType, Status
from tests.support import sbc_cdbs as cdbs
from tests.support.disks import BLOCK, Rig, wait_until
from tests.support.scsi import (
    KEY_B,
    PREEMPT_ABORT,
    REGISTER_IGNORE,
    RESERVE,
    WE,
    A,
    B,
    basic_list,
    in_cdb,
    out_cdb,
)

CONFLICT = Status.RESERVATION_CONFLICT
PREEMPTED = (6, 0x2A, 5)
WRITE = cdbs.write(0, 1)
DATA = bytes(BLOCK)
MEDIUM = [
    cdbs.read(0, 1),
    WRITE,
    cdbs.verify(0, 1),
    cdbs.synchronize_cache(),
    cdbs.READ_CAPACITY_10,
    cdbs.TEST_UNIT_READY,
    cdbs.mode_sense(0x3F),
    cdbs.get_lba_status(0),
]


def held_by_b(type_: ReservationType, state: LogicalUnitState | None = None) -> LogicalUnitState:
    """A state in which B holds a reservation."""
    return attrs.evolve(
        state or LogicalUnitState(),
        registrations=(Registration(B, KEY_B, 0),),
        reservation=Reservation(type_, B),
    )


def test_first_command_asks_and_later_ones_do_not(rig: Rig) -> None:
    """The logical unit is asked once for a state; reads and writes after it are decided here."""
    for _ in range(50):
        rig.good(cdbs.read(0, 1))
        rig.good(WRITE, DATA)
    assert rig.units.asked == [0x28]


def test_conflict_is_answered_by_the_logical_unit_after_the_permit(rig: Rig) -> None:
    """Before any RESERVATION CONFLICT the state is read again; never inside the permit."""
    inside: list[int] = []
    rig.good(cdbs.read(0, 1))
    rig.units.hook = lambda: inside.append(rig.permit.inside)
    rig.units.now = held_by_b(ReservationType.WRITE_EXCLUSIVE)
    rig.permit.retake()
    assert rig.run(WRITE, DATA).status is CONFLICT
    assert rig.run(WRITE, DATA).status is CONFLICT
    rig.good(cdbs.read(0, 1))
    assert rig.units.asked == [0x28, 0x2A, 0x2A]
    assert inside == [0, 0]


def test_conflict_that_is_gone_by_now_is_not_answered(rig: Rig) -> None:
    """What the served state refuses is refused only when the newest one does, too."""
    rig.units.now = held_by_b(ReservationType.EXCLUSIVE_ACCESS)
    assert rig.run(cdbs.read(0, 1)).status is CONFLICT
    rig.units.now = LogicalUnitState()
    rig.good(cdbs.read(0, 1))
    rig.good(WRITE, DATA)


@pytest.mark.parametrize("exclusive", [False, True])
def test_every_command_goes_by_its_class(rig: Rig, exclusive: bool) -> None:
    """SPC-4 table 65: a stranger's reads and writes under both kinds of reservation."""
    kind = ReservationType.EXCLUSIVE_ACCESS if exclusive else ReservationType.WRITE_EXCLUSIVE
    rig.units.now = held_by_b(kind)
    reads = [
        *(cdbs.read(0, 1, width) for width in (6, 10, 12, 16)),
        *(cdbs.verify(0, 1, width) for width in (10, 12, 16)),
        cdbs.mode_sense(0x3F),
        cdbs.get_lba_status(0),
        b"\x34" + bytes(9),
        b"\xa3\x0c" + bytes(10),
        b"\xa3\x0d" + bytes(10),
        b"\x37" + bytes(9),
    ]
    writes = [
        *(cdbs.write(0, 1, width) for width in (6, 10, 12, 16)),
        *(cdbs.write_and_verify(0, 1, width) for width in (10, 12, 16)),
        *(cdbs.write_same(0, 1, width, flags=8) for width in (10, 16)),
        *(cdbs.synchronize_cache(width=width) for width in (10, 16)),
        cdbs.compare_and_write(0, 1),
        cdbs.unmap((0, 1))[0],
        b"\x8b" + bytes(15),
        b"\x48\x02" + bytes(8),
        b"\x15" + bytes(5),
        b"\x55" + bytes(9),
        b"\x1d\x04" + bytes(4),
        b"\x1b\x00\x00\x00\x00\x00",
        b"\x1e\x00\x00\x00\x01\x00",
    ]
    always = [
        cdbs.TEST_UNIT_READY,
        cdbs.READ_CAPACITY_10,
        cdbs.READ_CAPACITY_16,
        cdbs.inquiry(),
        cdbs.request_sense(),
        cdbs.report_luns(),
        in_cdb(0),
        b"\xa3\x0a" + bytes(10),
        b"\x1b\x00\x00\x00\x01\x00",
        b"\x1e\x00\x00\x00\x00\x00",
    ]
    for cdb in always:
        rig.good(cdb)
    for cdb in reads:
        assert (rig.run(cdb).status is CONFLICT) == exclusive, cdb.hex()
    for cdb in writes:
        assert rig.run(cdb, DATA).status is CONFLICT, cdb.hex()
    assert not {name for name in rig.calls.names() if name.startswith(("pwrite", "punch"))}


def test_spc2_reservation_lets_through_what_it_must(rig: Rig) -> None:
    """SPC-2 5.5.1: beside RESERVE(6) of another TEST UNIT READY conflicts, INQUIRY does not."""
    rig.units.now = LogicalUnitState(spc2=Spc2Reservation(B, 0))
    for cdb in (cdbs.TEST_UNIT_READY, cdbs.read(0, 1), cdbs.mode_sense(8), in_cdb(0)):
        assert rig.run(cdb).status is CONFLICT
    for cdb in (cdbs.inquiry(), cdbs.request_sense(), cdbs.READ_CAPACITY_10, cdbs.READ_CAPACITY_16):
        rig.good(cdb)
    other = rig.disk.attach(B)
    rig.good(WRITE, DATA, of=other)
    rig.good(bytes((0x17, *bytes(5))), of=other)
    rig.good(WRITE, DATA)


def test_reservation_made_here_counts_for_the_next_command_of_others(rig: Rig) -> None:
    """What one session changes is seen by all sessions of this process at once."""
    other = rig.disk.attach(B)
    rig.good(WRITE, DATA)
    rig.good(WRITE, DATA, of=other)
    register = out_cdb(REGISTER_IGNORE), basic_list(0, KEY_B)
    rig.good(*register, of=other)
    rig.good(out_cdb(RESERVE, type_=WE), basic_list(KEY_B, 0), of=other)
    assert rig.run(WRITE, DATA).status is CONFLICT
    rig.good(WRITE, DATA, of=other)


def test_shared_attention_is_reported_once_before_io(rig: Rig) -> None:
    """SAM-5 5.14: an attention that another host raised reaches this nexus with its next I/O."""
    rig.good(cdbs.read(0, 1))
    waiting = (PendingAttentions(A, (Attention.REGISTRATIONS_PREEMPTED,)),)
    rig.units.now = attrs.evolve(rig.units.now, attentions=waiting)
    rig.permit.retake()
    assert rig.code(cdbs.read(0, 1)) == PREEMPTED
    rig.good(cdbs.read(0, 1))


def test_conflict_outranks_a_preempted_attention(rig: Rig) -> None:
    """SAM-5 5.3.3: the victim's write conflicts and keeps its 2A/05 for what does not."""
    waiting = (PendingAttentions(A, (Attention.REGISTRATIONS_PREEMPTED,)),)
    held = held_by_b(ReservationType.WRITE_EXCLUSIVE)
    rig.units.now = attrs.evolve(held, attentions=waiting)
    assert rig.run(WRITE, DATA).status is CONFLICT
    assert rig.run(WRITE, DATA).status is CONFLICT
    assert rig.code(cdbs.TEST_UNIT_READY) == PREEMPTED
    rig.good(cdbs.TEST_UNIT_READY)


def test_power_cycle_elsewhere_is_told_to_an_idle_session(rig: Rig) -> None:
    """A new attention epoch means 29/00 to every nexus that has not been shown it."""
    rig.good(cdbs.read(0, 1))
    rig.units.now = attrs.evolve(rig.units.now, attention_epoch=7)
    rig.permit.retake()
    assert rig.code(cdbs.read(0, 1)) == (6, 0x29, 0)
    rig.good(cdbs.read(0, 1))
    asked = len(rig.units.asked)
    rig.good(cdbs.read(0, 1))
    assert len(rig.units.asked) == asked


def test_inquiry_and_report_luns_neither_report_nor_clear(rig: Rig) -> None:
    """SAM-5 5.14: both are performed with an attention pending."""
    rig.session.tell(senses.LOGICAL_UNIT_RESET)
    rig.good(cdbs.inquiry())
    rig.good(cdbs.report_luns())
    assert rig.code(cdbs.TEST_UNIT_READY) == (6, 0x29, 3)


def test_request_sense_gives_what_is_pending_as_data(rig: Rig) -> None:
    """SPC-4 6.39: GOOD, and the attention is reported; local ones and shared ones."""
    rig.session.tell(senses.LOGICAL_UNIT_RESET)
    waiting = (PendingAttentions(A, (Attention.RESERVATIONS_RELEASED,)),)
    rig.units.now = attrs.evolve(rig.units.now, attentions=waiting)
    assert rig.good(cdbs.request_sense())[12:14] == b"\x29\x03"
    assert rig.good(cdbs.request_sense())[12:14] == b"\x2a\x04"
    assert rig.good(cdbs.request_sense()) == bytes((0x70, 0, 0, 0, 0, 0, 0, 10)) + bytes(10)
    assert rig.good(b"\x03\x01\x00\x00\xfc\x00") == bytes((0x72, *bytes(7)))
    assert rig.good(cdbs.request_sense(4)) == bytes((0x70, 0, 0, 0))


def test_request_sense_without_room_keeps_what_is_pending(rig: Rig) -> None:
    """SPC-4 6.39: allocation length 0 transfers nothing, so nothing was reported."""
    rig.session.tell(senses.LOGICAL_UNIT_RESET)
    assert rig.good(cdbs.request_sense(0)) == b""
    assert rig.code(cdbs.TEST_UNIT_READY) == (6, 0x29, 3)


def test_local_reset_attention_outranks_conflict_and_others_do_not(rig: Rig) -> None:
    """SAM-5 5.3.3: 29/xx first, then RESERVATION CONFLICT, then 2A/xx."""
    rig.units.now = held_by_b(ReservationType.WRITE_EXCLUSIVE)
    rig.session.tell(senses.CAPACITY_CHANGED)
    rig.session.tell(senses.LOGICAL_UNIT_RESET)
    assert rig.code(WRITE, DATA) == (6, 0x29, 3)
    assert rig.run(WRITE, DATA).status is CONFLICT
    assert rig.code(cdbs.read(0, 1)) == (6, 0x2A, 9)
    rig.good(cdbs.read(0, 1))


def test_local_attention_comes_before_reservation_commands_that_do_not_conflict(
    rig: Rig,
) -> None:
    """SAM-5 5.3.3: PR OUT that conflicts says so first; one that does not reports 2A/09."""
    rig.units.now = held_by_b(ReservationType.WRITE_EXCLUSIVE)
    rig.session.tell(senses.CAPACITY_CHANGED)
    wrong = out_cdb(RESERVE, type_=WE), basic_list(1, 0)
    assert rig.run(*wrong).status is CONFLICT
    assert rig.code(in_cdb(0)) == (6, 0x2A, 9)
    rig.good(in_cdb(0))
    rig.session.tell(senses.LOGICAL_UNIT_RESET)
    assert rig.code(*wrong) == (6, 0x29, 3)
    assert rig.run(*wrong).status is CONFLICT


def test_preempt_and_abort_says_whose_tasks_end(rig: Rig) -> None:
    """SPC-4 5.13.11.2: the transport has to end the victims' commands."""
    other = rig.disk.attach(B)
    rig.good(out_cdb(REGISTER_IGNORE), basic_list(0, 0xA), of=rig.session)
    rig.good(out_cdb(REGISTER_IGNORE), basic_list(0, 0xB), of=other)
    reply = rig.disk.execute(other, out_cdb(PREEMPT_ABORT, type_=WE), basic_list(0xB, 0xA))
    assert reply.status is Status.GOOD
    assert A in reply.aborted
    assert rig.code(cdbs.TEST_UNIT_READY) == PREEMPTED


def test_state_is_never_served_beyond_its_age(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that is older than a second is not believed, whoever keeps it young has died."""
    rig.disk.detach(rig.session)
    session = rig.disk.attach(A)
    rig.good(cdbs.read(0, 1), of=session)
    monkeypatch.setattr(served, "MAX_AGE", -1.0)
    rig.units.now = held_by_b(ReservationType.EXCLUSIVE_ACCESS)
    assert rig.run(cdbs.read(0, 1), of=session).status is CONFLICT


def test_idle_session_is_served_the_newest_state_soon(rig: Rig) -> None:
    """Attentions and widenings of other hosts reach sessions whose permit stays open."""
    rig.good(cdbs.read(0, 1))
    waiting = (PendingAttentions(A, (Attention.RESERVATIONS_RELEASED,)),)
    rig.units.now = attrs.evolve(rig.units.now, attentions=waiting)
    wait_until(lambda: rig.run(cdbs.read(0, 1)).status is Status.CHECK_CONDITION)
    rig.good(cdbs.read(0, 1))


def test_nothing_is_asked_while_nobody_is_attached(rig: Rig) -> None:
    """An idle disk costs the file server nothing."""
    rig.good(cdbs.read(0, 1))
    rig.disk.detach(rig.session)
    time.sleep(0.1)
    reads = rig.units.reads
    time.sleep(3 * served.REFRESH)
    assert rig.units.reads <= reads + 1


def test_state_that_was_being_read_when_the_permit_went_is_not_served(rig: Rig) -> None:
    """A reading that began before a narrowing command shows what that command has ended."""
    rig.good(cdbs.read(0, 1))
    copy = rig.disk._served
    old = rig.units.now
    units_state = rig.units.state

    def slow(lun: str, door: str = "api") -> object:
        future = units_state(lun, door)
        if threading.current_thread() is late:
            began.set()
            assert go_on.wait(60)
        return future

    began, go_on = threading.Event(), threading.Event()
    rig.units.state = slow  # type: ignore[method-assign, assignment]
    late = threading.Thread(target=lambda: copy.read(time.monotonic() + 60))
    late.start()
    assert began.wait(60)
    rig.units.now = held_by_b(ReservationType.EXCLUSIVE_ACCESS)
    rig.permit.retake()
    assert rig.run(cdbs.read(0, 1)).status is CONFLICT
    go_on.set()
    late.join(60)
    assert copy.current() is not old
    assert rig.run(cdbs.read(0, 1)).status is CONFLICT


def test_closed_permit_is_busy_and_a_fault_is_not_ready(rig: Rig) -> None:
    """BUSY while somebody narrows; NOT READY when the image cannot be had."""
    rig.permit.closed = True
    for cdb in MEDIUM:
        assert rig.run(cdb, DATA if cdb == WRITE else b"").status is Status.BUSY
    rig.good(cdbs.inquiry())
    rig.good(in_cdb(0))
    rig.permit.closed = False
    rig.permit.fault = StoreUnavailable("gone", "image")
    assert rig.code(cdbs.read(0, 1))[0] == 2


@pytest.mark.parametrize(
    ("fault", "code"),
    [(StateUnreadable("broken", "disk"), (7, 0x44, 1)), (StoreUnavailable("away"), (2, 4, 1))],
)
def test_state_that_cannot_be_read_fails_closed(
    rig: Rig, fault: StateUnreadable, code: tuple[int, int, int]
) -> None:
    """SPC-4 5.13.5: without a state no read and no write; INQUIRY and REQUEST SENSE go on."""
    rig.good(cdbs.read(0, 1))
    rig.units.fault = fault
    rig.disk._served.drop()
    for cdb in MEDIUM:
        assert rig.code(cdb, DATA if cdb == WRITE else b"") == code
    assert not {name for name in rig.calls.names() if name.startswith("pwrite")}
    rig.good(cdbs.inquiry())
    rig.units.fault = None
    rig.good(cdbs.read(0, 1))


def test_state_that_is_busy_is_busy(rig: Rig) -> None:
    """A store that has no time says BUSY, and the initiator sends the command again."""
    rig.units.fault = Busy("too much to do")
    assert rig.run(cdbs.read(0, 1)).status is Status.BUSY


def test_command_that_others_overtake_for_ever_is_busy(rig: Rig) -> None:
    """When the state changes between each asking and each reading, it ends all the same."""
    rig.good(cdbs.read(0, 1))
    epochs = iter(range(1, 1000))

    def change() -> None:
        rig.units.now = attrs.evolve(rig.units.now, attention_epoch=next(epochs))

    rig.units.hook = change
    change()
    rig.disk._served.drop()
    answers = {rig.run(cdbs.read(0, 1)).status for _ in range(3)}
    assert answers <= {Status.BUSY, Status.CHECK_CONDITION}


def test_command_that_is_cancelled_before_it_begins_does_nothing(rig: Rig) -> None:
    """SAM-5 5.3.1: TASK ABORTED, and not a byte was written."""
    answer = rig.run(WRITE, b"x" * BLOCK, cancelled=lambda: True)
    assert answer.status is Status.TASK_ABORTED
    assert rig.content(0, 1) == bytes(BLOCK)


def test_sessions_of_one_nexus_are_counted(rig: Rig) -> None:
    """Reservations of a nexus live as long as one of its sessions does."""
    second = rig.disk.attach(A)
    third = rig.disk.attach(B)
    assert rig.units.present == [A, B]
    assert rig.permit.attended == 3
    rig.disk.detach(rig.session)
    rig.disk.detach(rig.session)
    assert rig.units.present == [A, B]
    rig.disk.detach(second)
    rig.disk.detach(third)
    assert rig.units.present == []
    assert rig.permit.attended == 0


def test_reset_tells_every_session_and_frees_a_spc2_reservation(rig: Rig) -> None:
    """SAM-5 6.3.3: 29/03 for all, named in the shared state or not; SPC-2 reservations end."""
    other = rig.disk.attach(B)
    rig.good(bytes((0x16, *bytes(5))), of=other)
    assert rig.run(cdbs.TEST_UNIT_READY).status is CONFLICT
    assert rig.disk.reset("lun")
    for session in (rig.session, other):
        assert rig.code(cdbs.TEST_UNIT_READY, of=session) == (6, 0x29, 3)
        rig.good(WRITE, DATA, of=session)


def test_target_reset_is_29_02_where_only_this_process_knows(rig: Rig) -> None:
    """SAM-5 6.3.2: a hard reset; registered nexuses find the shared 29/03."""
    other = rig.disk.attach(B)
    rig.good(out_cdb(REGISTER_IGNORE), basic_list(0, KEY_B), of=other)
    assert rig.disk.reset("target")
    assert rig.code(cdbs.TEST_UNIT_READY) == (6, 0x29, 2)
    assert rig.code(cdbs.TEST_UNIT_READY, of=other) == (6, 0x29, 3)
    rig.good(cdbs.TEST_UNIT_READY)
    rig.good(cdbs.TEST_UNIT_READY, of=other)


def test_reset_that_cannot_be_committed_is_told(rig: Rig) -> None:
    """The transport has to refuse a reset that did not happen."""
    rig.units.fault = StoreUnavailable("away")
    assert not rig.disk.reset("lun")
    rig.units.fault = None
    rig.good(cdbs.TEST_UNIT_READY)


def test_closed_disk_answers_and_lets_go(rig: Rig) -> None:
    """After close a late command is refused, not raised; sessions are gone."""
    rig.disk.close()
    rig.disk.close()
    assert rig.code(cdbs.read(0, 1)) == (5, 0x25, 0)
    assert rig.units.present == []


def test_internal_error_is_an_answer(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """A fault of ours is 04/44/00 for one command, never an exception in the transport."""
    rig.good(cdbs.read(0, 1))

    def broken(name: str) -> None:
        raise RuntimeError(name)

    rig.calls.hook = broken
    assert rig.code(cdbs.read(0, 1)) == (4, 0x44, 0)
    rig.calls.hook = None
    assert "internal error" in caplog.text
    rig.good(cdbs.read(0, 1))
    assert rig.disk._pool.lent == 0


@pytest.mark.parametrize("cdb", [WRITE, cdbs.read(0, 1), in_cdb(0)])
def test_session_that_was_detached_gets_nothing_done(rig: Rig, cdb: bytes) -> None:
    """The last line: another session may have begun in its place."""
    rig.disk.detach(rig.session)
    assert rig.run(cdb, b"\x55" * BLOCK).status is Status.TASK_ABORTED
    assert rig.content(0, 1) == DATA
