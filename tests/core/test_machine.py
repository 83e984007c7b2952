"""`step`: order of checks, status precedence, identity of what is unchanged, PRGENERATION."""

from __future__ import annotations

import attrs
import pytest

from flockpr.core.events import PowerCycle
from flockpr.core.machine import step
from flockpr.core.model import LogicalUnitState, PendingAttentions, Spc2Reservation
from flockpr.spc.cdb import (
    OtherCommand,
    Refused,
    parse_command,
)
from flockpr.spc.codes import Attention, Status
from flockpr.spc.sense import INVALID_OPCODE
from tests.support.scsi import (
    CLEAR,
    EA,
    INQUIRY,
    INVALID_FIELD_IN_CDB,
    KEY_A,
    KEY_B,
    LIST_LENGTH,
    PREEMPT,
    PREEMPT_ABORT,
    READ_10,
    REGISTER,
    REGISTER_IGNORE,
    RELEASE,
    RELEASE_6,
    REPORT_LUNS,
    REQUEST_SENSE,
    RESERVE,
    RESERVE_6,
    TEST_UNIT_READY,
    WE,
    WEAR,
    WERO,
    WRITE_10,
    A,
    B,
    C,
    Unit,
    assert_attention,
    assert_conflict,
    assert_good,
    assert_refused,
    basic_list,
    in_cdb,
    out_cdb,
)

PREEMPTED = Attention.REGISTRATIONS_PREEMPTED
RELEASED = Attention.RESERVATIONS_RELEASED
NACA = 0x04


def held(type_: int = EA, *, report: bool = False) -> Unit:
    """A holds a reservation, B is registered, C is a stranger."""
    return Unit(report=report).enter(a=KEY_A, b=KEY_B).hold(A, type_)


def waiting(unit: Unit, *codes: Attention) -> Unit:
    """The same unit with these attentions pending for B, which are reported."""
    unit.report = True
    unit.state = attrs.evolve(unit.state, attentions=(PendingAttentions(B, codes),))
    return unit


UNKNOWN = [in_cdb(action) for action in range(4, 32)] + [out_cdb(n) for n in range(8, 32)]


@pytest.mark.parametrize("cdb", UNKNOWN)
def test_step_with_an_unknown_service_action_outranks_all(cdb: bytes) -> None:
    """SPC-4 6.15.1, 6.16.2: 05/24/00 from anybody, before conflicts and attentions."""
    unit = held(report=True)
    unit.happen(PowerCycle())
    unit.state = attrs.evolve(unit.state, spc2=Spc2Reservation(B, 9))

    for of in (A, C):
        assert_refused(unit.send(of, cdb), INVALID_FIELD_IN_CDB, cdb=(1, 4))
        assert unit.unchanged
        assert unit.outcome.seen_epoch != unit.state.attention_epoch


def test_step_with_a_refused_command_neither_reports_nor_clears() -> None:
    """What the parser refuses is refused whoever sends it and whatever waits."""
    unit = waiting(held(), Attention.POWER_ON)

    assert_refused(unit.send(B, b""), (5, 0x20, 0))
    assert unit.unchanged
    assert step(unit.state, B, Refused(INVALID_OPCODE)).state is unit.state


@pytest.mark.parametrize(
    ("cdb", "data"),
    [
        (TEST_UNIT_READY, b""),
        (READ_10, b""),
        (WRITE_10, b""),
        (in_cdb(0), b""),
        (out_cdb(RESERVE, type_=WE), basic_list(KEY_B)),
        (out_cdb(RELEASE, type_=WE), basic_list(KEY_B)),
        (out_cdb(REGISTER_IGNORE), basic_list(0, 5)),
        (RESERVE_6, b""),
    ],
)
def test_step_with_a_reset_attention_outranks_conflict(cdb: bytes, data: bytes) -> None:
    """SAM-5 5.3.3: 29/xx comes first, is reported once and the command is not performed."""
    unit = waiting(held(), PREEMPTED, Attention.LOGICAL_UNIT_RESET)

    assert_attention(unit.send(B, cdb, data), Attention.LOGICAL_UNIT_RESET)
    assert unit.state.pending[B] == (PREEMPTED,)
    assert attrs.evolve(unit.state, attentions=unit.before.attentions) == unit.before


@pytest.mark.parametrize(
    ("cdb", "data"),
    [
        (READ_10, b""),
        (WRITE_10, b""),
        (RESERVE_6, b""),
        (out_cdb(RESERVE, type_=WE), basic_list(KEY_B)),
        (out_cdb(RELEASE, type_=EA), basic_list(KEY_A)),
        (out_cdb(PREEMPT, type_=EA), basic_list(KEY_B, 0x99)),
        (out_cdb(REGISTER), basic_list(0x99, 1)),
    ],
)
def test_step_with_a_conflict_keeps_the_other_attentions(cdb: bytes, data: bytes) -> None:
    """SAM-5 5.3.3: RESERVATION CONFLICT outranks 2A/xx, which waits for the next command."""
    unit = waiting(held(), PREEMPTED)

    assert_conflict(unit.send(B, cdb, data))
    assert unit.unchanged
    assert_attention(unit.send(B, TEST_UNIT_READY), PREEMPTED)
    assert_good(unit.send(B, TEST_UNIT_READY))


@pytest.mark.parametrize(
    ("cdb", "data"),
    [
        (out_cdb(RELEASE, type_=9), basic_list(KEY_B)),
        (out_cdb(CLEAR, 20), basic_list(KEY_B)[:20]),
        (out_cdb(CLEAR), basic_list(KEY_B)),
        (out_cdb(REGISTER), basic_list(KEY_B, 0)),
        (in_cdb(1), b""),
    ],
)
def test_step_with_another_attention_outranks_faults_and_performance(
    cdb: bytes, data: bytes
) -> None:
    """SAM-5 5.3.3: a pending 2A/xx comes before ILLEGAL REQUEST and before GOOD."""
    unit = waiting(held(), PREEMPTED, RELEASED)

    assert_attention(unit.send(B, cdb, data), PREEMPTED)
    assert unit.state.pending[B] == (RELEASED,)
    assert unit.state.registrations == unit.before.registrations
    assert unit.generation == unit.before.generation


@pytest.mark.parametrize("cdb", [INQUIRY, REPORT_LUNS])
def test_step_with_an_exempt_command_leaves_attentions_alone(cdb: bytes) -> None:
    """SAM-5 5.14: INQUIRY and REPORT LUNS are performed and clear nothing."""
    unit = waiting(held(), Attention.POWER_ON)

    assert_good(unit.send(B, cdb))
    assert unit.unchanged
    assert unit.outcome.reply.data == b""


def test_step_with_an_exempt_command_does_not_count_as_shown() -> None:
    """A missed epoch still waits after INQUIRY."""
    unit = held(report=True)
    unit.send(C, INQUIRY)
    unit.happen(PowerCycle())

    unit.send(C, INQUIRY)
    assert_attention(unit.send(C, TEST_UNIT_READY), Attention.POWER_ON)
    assert unit.unchanged
    assert_good(unit.send(C, TEST_UNIT_READY))


def test_step_with_request_sense_returns_the_attention_as_data() -> None:
    """SPC-4 6.37: GOOD, the most urgent attention is the data and is cleared."""
    unit = waiting(held(), PREEMPTED, Attention.POWER_ON)

    reply = unit.send(B, REQUEST_SENSE)
    assert (reply.status, reply.sense) == (Status.GOOD, None)
    assert reply.data == bytes.fromhex("70 00 06 00000000 0a 00000000 2900 00000000")
    descriptor = unit.send(B, bytes((0x03, 1, 0, 0, 252, 0)))
    assert descriptor.data == bytes.fromhex("72 06 2a05 00000000")
    assert unit.send(B, REQUEST_SENSE).data == b""
    assert unit.unchanged


def test_step_with_request_sense_is_cut_to_its_allocation_length() -> None:
    """SPC-4 6.37: a length of 0 shows nothing, so it clears nothing."""
    unit = waiting(held(), PREEMPTED)

    assert unit.send(B, bytes((0x03, 0, 0, 0, 0, 0))).data == b""
    assert unit.unchanged
    assert len(unit.send(B, bytes((0x03, 0, 0, 0, 14, 0))).data) == 14
    assert unit.state.attentions == ()


def test_step_with_request_sense_made_by_hand_does_not_raise() -> None:
    """A CDB that ends early counts as zeroes."""
    unit = waiting(held(), PREEMPTED)

    assert_good(step(unit.state, B, OtherCommand(b"\x03", 0x03)).reply)


def test_step_without_reporting_leaves_attentions_pending() -> None:
    """A door that reports no attentions neither loses nor sees them."""
    unit = waiting(held(WERO), Attention.POWER_ON, PREEMPTED)
    unit.report = False

    assert_good(unit.send(B, TEST_UNIT_READY))
    assert unit.unchanged
    assert unit.send(B, REQUEST_SENSE).data == b""
    assert_good(unit.out(B, CLEAR, KEY_B))
    assert unit.state.pending[B] == (Attention.POWER_ON, PREEMPTED)
    assert unit.state.pending[A] == (Attention.RESERVATIONS_PREEMPTED,)


@pytest.mark.parametrize(
    ("cdb", "status"),
    [(WRITE_10, Status.RESERVATION_CONFLICT), (READ_10, Status.GOOD), (INQUIRY, Status.GOOD)],
)
def test_step_with_other_commands_admits_or_conflicts(cdb: bytes, status: Status) -> None:
    """SPC-4 table 65: GOOD without data is admission."""
    unit = held(WE)

    reply = unit.send(C, cdb)
    assert (reply.status, reply.data) == (status, b"")
    assert unit.unchanged


COUNTED = [
    (REGISTER, KEY_A, 5, 0),
    (REGISTER, KEY_A, 0, 0),
    (REGISTER_IGNORE, 0, 5, 0),
    (CLEAR, KEY_A, 0, 0),
    (PREEMPT, KEY_A, KEY_B, 0),
    (PREEMPT_ABORT, KEY_A, KEY_A, WE),
]


@pytest.mark.parametrize(("action", "key", "sark", "type_"), COUNTED)
def test_step_counts_each_command_once(action: int, key: int, sark: int, type_: int) -> None:
    """SPC-4 6.15.2: +1 for each such command that is GOOD, with 32 bits."""
    unit = held()
    unit.state = attrs.evolve(unit.state, generation=0xFFFF_FFFF)

    assert_good(unit.out(A, action, key, sark, type_=type_))
    assert unit.generation == 0


@pytest.mark.parametrize("action", [REGISTER, REGISTER_IGNORE])
def test_step_counts_a_registration_that_does_nothing(action: int) -> None:
    """SPC-4 6.15.2 counts requests, so a REGISTER without effect counts; APTPL is taken."""
    unit = Unit()

    assert_good(unit.out(A, action, 0, 0, aptpl=True))
    assert (unit.generation, unit.state.aptpl, unit.keys) == (1, True, {})


def test_step_without_effect_returns_the_very_state() -> None:
    """The store commits when the object is another one, so nothing may copy it for nothing."""
    unit = held(WEAR)
    sent = [
        (A, out_cdb(RESERVE, type_=WEAR), basic_list(KEY_A), Status.GOOD),
        (B, out_cdb(RESERVE, type_=WEAR), basic_list(KEY_B), Status.GOOD),
        (B, out_cdb(RESERVE, type_=WE), basic_list(KEY_B), Status.RESERVATION_CONFLICT),
        (B, out_cdb(RELEASE, type_=WE), basic_list(KEY_B), Status.CHECK_CONDITION),
        (B, out_cdb(CLEAR), basic_list(KEY_A), Status.RESERVATION_CONFLICT),
        (C, out_cdb(CLEAR), basic_list(KEY_A), Status.RESERVATION_CONFLICT),
        (C, out_cdb(REGISTER), basic_list(KEY_A, 1), Status.RESERVATION_CONFLICT),
        (B, out_cdb(PREEMPT), basic_list(KEY_B, 0x99), Status.RESERVATION_CONFLICT),
        (B, out_cdb(PREEMPT, type_=9), basic_list(KEY_B, 0), Status.CHECK_CONDITION),
        (B, RESERVE_6, b"", Status.GOOD),
        (B, RELEASE_6, b"", Status.GOOD),
        (C, RELEASE_6, b"", Status.RESERVATION_CONFLICT),
        (C, in_cdb(3), b"", Status.GOOD),
        (C, WRITE_10, b"", Status.RESERVATION_CONFLICT),
    ]
    for of, cdb, data, status in sent:
        assert unit.send(of, cdb, data).status == status
        assert unit.unchanged


def test_step_beside_a_spc2_reservation_refuses_its_holder_too() -> None:
    """SPC-4 5.13.3: PERSISTENT RESERVE IN and OUT conflict from anyone, REGISTER included."""
    unit = Unit()
    unit.send(A, RESERVE_6)

    for of in (A, B):
        assert_conflict(unit.out(of, REGISTER_IGNORE, 0, 1))
        assert_conflict(unit.send(of, in_cdb(0)))
    assert unit.unchanged


def test_step_remembers_for_its_door_what_it_has_shown() -> None:
    """A nexus that was told of the epoch is not told again, by any status."""
    unit = held(report=True)
    unit.send(C, TEST_UNIT_READY)
    unit.happen(PowerCycle())

    assert_attention(unit.send(C, WRITE_10), Attention.POWER_ON)
    assert unit.outcome.seen_epoch == unit.state.attention_epoch == 1


def test_step_of_who_overflows_the_queues_is_not_told_of_it() -> None:
    """Attentions go to victims: the epoch that a preempt begins says nothing to its sender."""
    unit = Unit(pending=1, report=True).enter(a=KEY_A, b=KEY_B, c=KEY_B)

    assert_good(unit.out(A, PREEMPT, KEY_A, KEY_B))
    assert (unit.state.attention_epoch, unit.state.overflowed) == (1, True)
    assert_good(unit.send(A, TEST_UNIT_READY))
    assert_attention(unit.send(C, TEST_UNIT_READY), Attention.POWER_ON)
    assert_attention(unit.send(B, TEST_UNIT_READY), Attention.POWER_ON)
    assert_attention(unit.send(B, TEST_UNIT_READY), PREEMPTED)


def test_step_after_an_overflow_tells_a_stranger_to_every_door() -> None:
    """Who no door knows may be the one whose attention was dropped."""
    unit = Unit(pending=1, report=True).enter(a=KEY_A, b=KEY_B, c=KEY_B)
    unit.out(A, PREEMPT, KEY_A, KEY_B)
    unit.epochs.clear()

    assert_attention(unit.send(C, TEST_UNIT_READY), Attention.POWER_ON)
    assert_good(unit.send(C, TEST_UNIT_READY))


def test_step_without_reporting_hands_the_epoch_back() -> None:
    """A door that shows no attention has shown none."""
    state = LogicalUnitState(attention_epoch=4)
    command = parse_command(TEST_UNIT_READY)

    for seen in (None, 3, 4):
        outcome = step(state, A, command, report_attentions=False, seen_epoch=seen)
        assert outcome.seen_epoch == seen


def test_step_with_naca_is_refused_before_a_conflict() -> None:
    """SPC-4 6.1: NACA=1 without ACA is 05/24/00 whoever sends it."""
    unit = held()

    cdb = out_cdb(CLEAR)[:9] + bytes((NACA,))
    assert_refused(unit.send(C, cdb, basic_list()), INVALID_FIELD_IN_CDB, cdb=(9, 2))


@pytest.mark.parametrize("action", [RELEASE, CLEAR, PREEMPT, REGISTER, REGISTER_IGNORE])
def test_step_with_an_unreadable_key_is_a_length_error(action: int) -> None:
    """SPC-4 6.16.3: with fewer than 8 bytes nothing in the list can conflict."""
    unit = held()

    assert_refused(unit.raw_out(A, action, basic_list()[:7], type_=9), LIST_LENGTH)
    assert unit.unchanged
