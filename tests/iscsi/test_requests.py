"""Ping, text, task management, logout, and what is rejected."""

from __future__ import annotations

import pytest

from flockpr.iscsi import events
from flockpr.iscsi.command import Command
from flockpr.iscsi.session import ProtocolConfig
from tests.support.iscsi_bench import (
    FIRST_CMD_SN,
    INITIATOR,
    TARGET,
    Bench,
    command,
    login_pdu,
)
from tests.support.iscsi_wire import (
    LOGIN,
    LOGOUT,
    LOGOUT_RESPONSE,
    NO_TAG,
    NOP_IN,
    NOP_OUT,
    REJECT,
    SNACK,
    TASK_REQUEST,
    TASK_RESPONSE,
    TEXT,
    TEXT_RESPONSE,
    Pdu,
    decode_text,
    encode_text,
    pdu,
)

PORTAL = "127.0.0.1:3260,2"


def _discovery(**keys: str) -> Bench:
    bench = Bench()
    bench.feed(login_pdu({"InitiatorName": INITIATOR, "SessionType": "Discovery", **keys}))
    bench.sent()
    bench.events.clear()
    return bench


def _text(
    keys: dict[str, str] | bytes, flags: int = 0x80, *, itt: int = 5, ttt: int = NO_TAG
) -> Pdu:
    data = keys if isinstance(keys, bytes) else encode_text(keys)
    return pdu(TEXT, flags, immediate=True, itt=itt, ttt=ttt, data=data, cmd_sn=FIRST_CMD_SN)


def _task(function: int, *, immediate: bool = True, **fields: int) -> Pdu:
    made = pdu(TASK_REQUEST, 0x80 | function, immediate=immediate, itt=9, cmd_sn=FIRST_CMD_SN)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


# ---------------------------------------------------------------------- NOP


def test_ping_without_a_tag_gets_no_answer() -> None:
    """RFC 7143 11.18: it is itself an answer, or only acknowledges."""
    bench = Bench().login()
    bench.feed(pdu(NOP_OUT, immediate=True, itt=NO_TAG, ttt=3, data=b"x"))
    assert bench.sent() == []
    assert bench.events == []


def test_ping_that_is_not_immediate_waits_for_its_turn() -> None:
    """RFC 7143 4.2.2.1."""
    bench = Bench().login()
    bench.feed(pdu(NOP_OUT, itt=9, ttt=NO_TAG, cmd_sn=FIRST_CMD_SN + 1, data=b"later"))
    assert bench.sent() == []
    bench.feed(command(1))
    answer = bench.answer()
    assert (answer.opcode, answer.data, answer.ttt) == (NOP_IN, b"later", NO_TAG)
    assert answer.exp_cmd_sn == FIRST_CMD_SN + 2


def test_ping_is_not_answered_with_more_than_the_initiator_takes() -> None:
    """RFC 7143 11.19: at most its MaxRecvDataSegmentLength."""
    bench = Bench().login(MaxRecvDataSegmentLength="512")
    bench.feed(pdu(NOP_OUT, immediate=True, itt=9, data=bytes(range(256)) * 4))
    assert bench.answer().data == bytes(range(256)) * 2


# ---------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("value", "which"), [("All", None), (TARGET, TARGET), (TARGET.upper(), TARGET)]
)
def test_send_targets_in_a_discovery_session_asks_the_door(value: str, which: str | None) -> None:
    """RFC 7143 Appendix C."""
    bench = _discovery()
    bench.feed(_text({"SendTargets": value}))
    request = bench.take(events.TargetsRequested)
    assert request.which == which
    bench.connection.send_targets(request, [(TARGET, [PORTAL, "[::1]:3260,3"])])
    answer = bench.answer()
    assert (answer.opcode, answer.flags, answer.itt, answer.ttt) == (TEXT_RESPONSE, 0x80, 5, NO_TAG)
    assert decode_text(answer.data) == [
        ("TargetName", TARGET),
        ("TargetAddress", PORTAL),
        ("TargetAddress", "[::1]:3260,3"),
    ]


@pytest.mark.parametrize("value", ["", "All", TARGET])
def test_send_targets_in_a_normal_session_is_about_its_own_target(value: str) -> None:
    """RFC 7143 Appendix C; All is asked there as well, by libiscsi's own tests."""
    bench = Bench().login()
    bench.feed(_text({"SendTargets": value}))
    assert bench.take(events.TargetsRequested).which == TARGET


@pytest.mark.parametrize("value", ["Allx", "A", "all", "iqn.2026-01.org.example:other"])
def test_send_targets_for_anything_else_is_rejected(value: str) -> None:
    """RFC 7143 6.2: Reject is the answer, in a response that is complete."""
    bench = Bench().login()
    bench.feed(_text({"SendTargets": value}))
    answer = bench.answer()
    assert (answer.flags, decode_text(answer.data)) == (0x80, [("SendTargets", "Reject")])


def test_send_targets_with_no_target_has_an_empty_answer() -> None:
    """The initiator may see nothing."""
    bench = _discovery()
    bench.feed(_text({"SendTargets": "All"}))
    bench.connection.send_targets(bench.take(events.TargetsRequested), [])
    answer = bench.answer()
    assert (answer.flags, answer.data) == (0x80, b"")


def test_send_targets_with_many_goes_on_when_asked_to() -> None:
    """RFC 7143 11.11: C bit and a tag, until all of it was fetched."""
    bench = _discovery(MaxRecvDataSegmentLength="512")
    bench.feed(_text({"SendTargets": "All"}))
    targets = [(f"{TARGET}{n}", [PORTAL]) for n in range(30)]
    bench.connection.send_targets(bench.take(events.TargetsRequested), targets)
    text = b""
    while True:
        answer = bench.answer()
        text += answer.data
        assert len(answer.data) <= 512
        if answer.flags == 0x80:
            break
        assert answer.flags == 0x40
        assert answer.ttt != NO_TAG
        bench.feed(_text({}, ttt=answer.ttt))
    assert decode_text(text)[::2] == [("TargetName", name) for name, _ in targets]


def test_send_targets_whose_exchange_was_dropped_is_not_answered() -> None:
    """A new exchange begins while the door still thinks about the old one."""
    bench = _discovery()
    bench.feed(_text({"SendTargets": "All"}))
    request = bench.take(events.TargetsRequested)
    bench.feed(_text({"X-foo": "1"}, itt=6))
    bench.sent()
    bench.connection.send_targets(request, [(TARGET, [PORTAL])])
    assert bench.sent() == []


def test_text_with_other_keys_is_answered_as_the_rules_say() -> None:
    """RFC 7143 6.2 and section 13: what is not for this phase is rejected."""
    bench = Bench().login()
    bench.feed(_text({"X-foo": "1", "MaxBurstLength": "512", "InitiatorAlias": "a", "Y": "Reject"}))
    assert decode_text(bench.answer().data) == [
        ("X-foo", "NotUnderstood"),
        ("MaxBurstLength", "Reject"),
    ]
    assert bench.connection.parameters.max_burst_length == 262144


def test_text_may_declare_another_segment_length() -> None:
    """RFC 7143 13.12: the one length that may change in this phase."""
    bench = Bench().login()
    bench.feed(_text({"MaxRecvDataSegmentLength": "512"}))
    bench.sent()
    bench.feed(command(1, read=1024))
    bench.connection.respond(bench.take(Command), 0, data=[bytes(1024)])
    assert [len(one.data) for one in bench.sent()] == [512, 512]
    bench.feed(_text({"MaxRecvDataSegmentLength": "1"}))
    assert decode_text(bench.answer().data) == [("MaxRecvDataSegmentLength", "Reject")]


def test_text_in_parts_is_put_together() -> None:
    """RFC 7143 11.10.2: the C bit of requests."""
    bench = _discovery()
    text = encode_text({"SendTargets": "All"})
    bench.feed(_text(text[:9], 0x40))
    answer = bench.answer()
    assert (answer.flags, answer.data) == (0, b"")
    bench.feed(_text(text[9:], 0x80, ttt=answer.ttt))
    assert bench.take(events.TargetsRequested).which is None


def test_text_that_is_not_final_is_answered_so() -> None:
    """RFC 7143 11.11.1: the initiator has more to say."""
    bench = Bench().login()
    bench.feed(_text({"X-foo": "1"}, 0))
    answer = bench.answer()
    assert answer.flags == 0
    assert decode_text(answer.data) == [("X-foo", "NotUnderstood")]
    bench.feed(_text({}, 0x80, ttt=answer.ttt))
    answer = bench.answer()
    assert (answer.flags, answer.ttt, answer.data) == (0x80, NO_TAG, b"")


@pytest.mark.parametrize(
    ("request_pdu", "reason"),
    [
        (_text(b"nonsense\0"), 4),
        (_text({}, 0xC0), 4),
        (_text({}, itt=NO_TAG), 4),
        (_text({}, ttt=1234), 9),
    ],
)
def test_text_that_is_wrong_is_rejected(request_pdu: Pdu, reason: int) -> None:
    """RFC 7143 11.17.1."""
    bench = Bench().login()
    bench.feed(request_pdu)
    answer = bench.answer()
    assert (answer.opcode, answer.byte_2) == (REJECT, reason)


def test_text_into_a_long_answer_is_rejected() -> None:
    """RFC 7143 11.10.4: what asks for the rest is empty."""
    bench = _discovery(MaxRecvDataSegmentLength="512")
    bench.feed(_text({"SendTargets": "All"}))
    bench.connection.send_targets(bench.take(events.TargetsRequested), [(TARGET, [PORTAL] * 99)])
    bench.feed(_text({"X": "1"}, ttt=bench.answer().ttt))
    assert bench.answer().byte_2 == 4


def test_text_without_end_is_rejected() -> None:
    """Nothing is kept without a limit; a new exchange can begin."""
    bench = _discovery()
    ttt = NO_TAG
    for _ in range(3):
        bench.feed(_text(b"x" * 8000, 0x40, ttt=ttt))
        answer = bench.answer()
        ttt = answer.ttt
    assert (answer.opcode, answer.byte_2) == (REJECT, 0x0A)
    bench.feed(_text({"SendTargets": "All"}))
    bench.take(events.TargetsRequested)


def test_text_that_is_longer_than_all_limits_is_rejected() -> None:
    """The segment is allowed, the text in it is not."""
    bench = Bench().login()
    bench.feed(_text(b"A=" + b"x" * 20000))
    answer = bench.answer()
    assert (answer.opcode, answer.byte_2) == (REJECT, 0x0A)


# ---------------------------------------------------------------------- task management


def test_abort_task_names_the_task() -> None:
    """RFC 7143 11.5.1, 11.5.5."""
    bench = Bench().login()
    bench.feed(command(1))
    found = bench.take(Command)
    bench.feed(_task(1, ttt=1, cmd_sn=FIRST_CMD_SN + 1, ref_cmd_sn=FIRST_CMD_SN))
    request = bench.take(events.TaskManagement)
    assert request.referenced is found
    assert not request.unreceived


def test_abort_task_of_one_that_was_answered_names_none() -> None:
    """RFC 7143 11.6.1: the door says that the task does not exist."""
    bench = Bench().login()
    bench.feed(command(1))
    bench.connection.respond(bench.take(Command), 0)
    bench.feed(_task(1, ttt=1, cmd_sn=FIRST_CMD_SN + 1, ref_cmd_sn=FIRST_CMD_SN))
    request = bench.take(events.TaskManagement)
    assert (request.referenced, request.unreceived) == (None, False)


def test_abort_task_of_one_that_never_came_gives_up_its_number() -> None:
    """RFC 7143 11.6.1, first note: as if it had been received, so that others go on."""
    bench = Bench().login()
    bench.feed(command(2, cmd_sn=FIRST_CMD_SN + 1))
    bench.feed(_task(1, ttt=1, cmd_sn=FIRST_CMD_SN + 2, ref_cmd_sn=FIRST_CMD_SN))
    waited, request = bench.events
    assert isinstance(waited, Command)
    assert waited.itt == 2
    assert isinstance(request, events.TaskManagement)
    assert (request.referenced, request.unreceived) == (None, True)
    assert bench.connection.exp_cmd_sn == FIRST_CMD_SN + 2


def test_abort_task_of_one_that_waits_for_its_turn_drops_it() -> None:
    """The door has not heard of it and never does."""
    bench = Bench().login()
    bench.feed(command(2, cmd_sn=FIRST_CMD_SN + 1, write=512, data=bytes(512)))
    bench.feed(_task(1, ttt=2, cmd_sn=FIRST_CMD_SN + 2, ref_cmd_sn=FIRST_CMD_SN + 1))
    released, request = bench.events
    assert isinstance(released, events.Released)
    assert isinstance(request, events.TaskManagement)
    assert request.unreceived
    bench.events.clear()
    bench.feed(command(1))
    assert bench.take(Command).itt == 1
    assert bench.connection.exp_cmd_sn == FIRST_CMD_SN + 2


@pytest.mark.parametrize("function", [2, 4, 5, 6, 7])
def test_function_that_is_known_goes_to_the_door(function: int) -> None:
    """RFC 7143 11.5.1."""
    bench = Bench().login()
    bench.feed(_task(function))
    request = bench.take(events.TaskManagement)
    assert request.function == function
    bench.connection.task_management_response(request, 255)
    answer = bench.answer()
    assert (answer.opcode, answer.itt, answer.byte_2) == (TASK_RESPONSE, 9, 255)


@pytest.mark.parametrize(("function", "response"), [(3, 5), (8, 4), (0, 5), (9, 5), (127, 5)])
def test_function_that_is_not_is_answered_at_once(function: int, response: int) -> None:
    """RFC 7143 11.6.1: CLEAR ACA, TASK REASSIGN and what nobody has defined."""
    bench = Bench().login()
    bench.feed(_task(function))
    assert bench.events == []
    assert bench.answer().byte_2 == response


def test_task_management_in_order_waits_for_its_turn() -> None:
    """RFC 7143 4.2.2.1: it comes after the commands before it."""
    bench = Bench().login()
    bench.feed(_task(5, immediate=False, cmd_sn=FIRST_CMD_SN + 1))
    assert bench.events == []
    bench.feed(command(1))
    assert [type(event) for event in bench.events] == [Command, events.TaskManagement]


def test_task_management_has_a_limit() -> None:
    """A client cannot pile up resets; an answer makes room."""
    bench = Bench(ProtocolConfig(immediate_limit=2)).login()
    bench.feed(_task(5), _task(5), _task(5))
    assert len(bench.events) == 2
    assert bench.answer().byte_2 == 6
    assert isinstance(bench.events[0], events.TaskManagement)
    bench.connection.task_management_response(bench.events[0], 0)
    bench.feed(_task(5))
    assert len(bench.events) == 3


# ---------------------------------------------------------------------- logout


def _logout(reason: int, cid: int = 1, cmd_sn: int = FIRST_CMD_SN) -> Pdu:
    return pdu(LOGOUT, 0x80 | reason, immediate=True, ttt=cid << 16, itt=8, cmd_sn=cmd_sn)


@pytest.mark.parametrize(("reason", "cid"), [(0, 1), (0, 99), (1, 1)])
def test_logout_ends_everything_that_follows(reason: int, cid: int) -> None:
    """RFC 7143 11.14: nothing may be sent after it."""
    bench = Bench().login()
    bench.feed(_logout(reason, cid), command(1))
    request = bench.take(events.LogoutRequested)
    assert bench.feed(command(2)) == []
    bench.connection.logout_response(request)
    answer = bench.answer()
    assert (answer.opcode, answer.byte_2, answer.itt) == (LOGOUT_RESPONSE, 0, 8)
    assert bench.connection.closing


def test_logout_lets_commands_be_answered_first() -> None:
    """RFC 7143 11.15: the door may still answer what it executes."""
    bench = Bench().login()
    bench.feed(command(1), _logout(0, cmd_sn=FIRST_CMD_SN + 1))
    found, request = bench.events
    assert isinstance(found, Command)
    assert isinstance(request, events.LogoutRequested)
    bench.connection.respond(found, 0)
    bench.connection.logout_response(request)
    assert [one.itt for one in bench.sent()] == [1, 8]


@pytest.mark.parametrize(("reason", "cid", "response"), [(1, 2, 1), (2, 1, 2)])
def test_logout_of_something_else_is_answered_and_changes_nothing(
    reason: int, cid: int, response: int
) -> None:
    """RFC 7143 11.15.1: no such connection; recovery is not supported."""
    bench = Bench().login()
    bench.feed(_logout(reason, cid), command(1))
    assert bench.take(Command).itt == 1
    assert bench.answer().byte_2 == response
    assert not bench.connection.closing


def test_logout_for_an_unknown_reason_is_rejected() -> None:
    """RFC 7143 11.14.1."""
    bench = Bench().login()
    bench.feed(_logout(5))
    assert (bench.events, bench.answer().byte_2) == ([], 9)


# ---------------------------------------------------------------------- what is no request


@pytest.mark.parametrize("opcode", [0x07, 0x0F, 0x1C, 0x1E, 0x20, 0x21, 0x25, 0x31, 0x3F])
def test_opcode_that_is_no_request_is_rejected(opcode: int) -> None:
    """RFC 7143 11.17.1: 05h; the stream stays in step."""
    bench = Bench().login()
    bench.feed(pdu(opcode, data=b"whatever"), command(1))
    assert bench.answer().byte_2 == 0x05
    assert bench.take(Command).itt == 1


def test_request_without_a_number_spends_none() -> None:
    """RFC 7143 11.16: SNACK has no CmdSN; what stands in its place is not taken for one."""
    bench = Bench().login()
    bench.feed(pdu(SNACK, itt=NO_TAG, cmd_sn=FIRST_CMD_SN))
    assert bench.answer().byte_2 == 3
    assert bench.connection.exp_cmd_sn == FIRST_CMD_SN


@pytest.mark.parametrize(("immediate", "spent"), [(False, 1), (True, 0)])
def test_request_that_is_rejected_spends_its_number(immediate: bool, spent: int) -> None:
    """Or all that follows would wait for it; an immediate one has none to spend."""
    bench = Bench().login()
    bench.feed(pdu(TEXT, immediate=immediate, itt=5, cmd_sn=FIRST_CMD_SN, data=bytes(20000)))
    assert bench.answer().byte_2 == 0x0A
    assert bench.connection.exp_cmd_sn == FIRST_CMD_SN + spent


def test_login_in_the_full_feature_phase_is_rejected() -> None:
    """RFC 7143 6.3: it is over."""
    bench = Bench().login()
    bench.feed(pdu(LOGIN, 0x87, immediate=True))
    assert bench.answer().byte_2 == 0x04


def test_request_that_is_damaged_can_be_sent_again() -> None:
    """RFC 7143 7.8: Reject, and its number is not spent."""
    bench = Bench().login(DataDigest="CRC32C")
    whole = pdu(NOP_OUT, itt=9, ttt=NO_TAG, cmd_sn=FIRST_CMD_SN, data=b"ping")
    damaged = bytearray(whole.encode(data_digest=True))
    damaged[49] ^= 1
    bench.feed_bytes(bytes(damaged))
    assert bench.answer().byte_2 == 0x02
    bench.feed(whole)
    assert bench.answer().data == b"ping"


def test_request_outside_the_window_is_dropped_without_a_word() -> None:
    """RFC 7143 4.2.2.1, for all non-immediate requests."""
    bench = Bench().login()
    far = FIRST_CMD_SN + 64
    bench.feed(
        pdu(NOP_OUT, itt=9, cmd_sn=far, data=b"x"),
        pdu(TEXT, itt=9, ttt=NO_TAG, cmd_sn=far, data=encode_text({"SendTargets": "All"})),
        _task(5, immediate=False, cmd_sn=far),
        pdu(LOGOUT, 0x80, itt=9, cmd_sn=far),
    )
    assert bench.events == []
    assert bench.sent() == []
