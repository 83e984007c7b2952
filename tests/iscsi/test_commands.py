"""Commands of the full feature phase: their order, their data and what is wrong with it."""

from __future__ import annotations

import pytest

from flockpr.iscsi import events
from flockpr.iscsi.command import Command
from flockpr.iscsi.commandset import MAX_PENDING
from flockpr.iscsi.pdu import Segment, parse_segments
from flockpr.iscsi.session import ProtocolConfig
from tests.support.iscsi_bench import (
    FIRST_CMD_SN,
    INITIATOR,
    NAMES,
    Bench,
    command,
    data_out,
    login_pdu,
)
from tests.support.iscsi_wire import R2T, REJECT, RESPONSE, Pdu, pdu

LOST_DATA = (0x0B, 0x47, 0x05)
UNEXPECTED_UNSOLICITED = (0x0B, 0x0C, 0x0C)
WRONG_AMOUNT = (0x0B, 0x0C, 0x0D)


def sense_of(response: Pdu) -> tuple[int, int, int]:
    """Sense key, code and qualifier of a CHECK CONDITION."""
    assert (response.opcode, response.status) == (RESPONSE, 2)
    return response.data[2 + 2], response.data[2 + 12], response.data[2 + 13]


def tags(found: list[events.Event]) -> list[int]:
    """The commands among the events."""
    return [event.itt for event in found if isinstance(event, Command)]


# ---------------------------------------------------------------------- order


def test_commands_in_order_arrive_at_once() -> None:
    """RFC 7143 4.2.2.1."""
    bench = Bench().login()
    found = bench.feed(*(command(n, cmd_sn=FIRST_CMD_SN + n) for n in range(10)))
    assert tags(found) == list(range(10))
    assert bench.connection.exp_cmd_sn == FIRST_CMD_SN + 10


@pytest.mark.parametrize("first", [100, 0xFFFFFFFD, 0x7FFFFFFE])
def test_commands_out_of_order_arrive_in_order(first: int) -> None:
    """RFC 7143 4.2.2.1: a command that comes too early waits, also where the numbers wrap."""
    bench = Bench()
    bench.feed(login_pdu({**NAMES, "InitialR2T": "No"}, cmd_sn=first))
    bench.events.clear()
    bench.sent()
    order = [3, 1, 2, 0, 5, 4]
    found = [tags(bench.feed(command(n, cmd_sn=first + n))) for n in order]
    assert found == [[], [], [], [0, 1, 2, 3], [], [4, 5]]
    assert bench.connection.exp_cmd_sn == (first + 6) & 0xFFFFFFFF


@pytest.mark.parametrize("distance", [-1, -100, 64, 65, 1 << 31, -(1 << 31)])
def test_command_outside_the_window_is_dropped_without_a_word(distance: int) -> None:
    """RFC 7143 4.2.2.1: "silently ignore any non-immediate command outside of this range"."""
    bench = Bench().login()
    bench.feed(command(1, cmd_sn=FIRST_CMD_SN + distance))
    assert bench.events == []
    assert bench.sent() == []
    bench.feed(command(2))
    assert bench.take(Command).itt == 2


def test_command_outside_the_window_with_data_leaves_the_stream_in_step() -> None:
    """Its immediate and unsolicited data are dropped with it."""
    bench = Bench().login()
    bench.feed(
        command(1, cmd_sn=FIRST_CMD_SN + 99, write=1024, data=bytes(512), final=False),
        data_out(1, bytes(512), offset=512),
        command(2),
    )
    assert bench.take(Command).itt == 2
    assert bench.sent() == []
    assert bench.buffers == {}


def test_command_that_waits_already_is_not_taken_twice() -> None:
    """The same number a second time is dropped, not executed again."""
    bench = Bench().login()
    bench.feed(command(1, cmd_sn=FIRST_CMD_SN + 1), command(2, cmd_sn=FIRST_CMD_SN + 1))
    bench.feed(command(3))
    assert tags(bench.events) == [3, 1]


def test_window_moves_on_with_answers() -> None:
    """The window is what bounds the commands of a session."""
    bench = Bench(ProtocolConfig(window=4)).login()
    bench.feed(*(command(n, cmd_sn=FIRST_CMD_SN + n) for n in range(6)))
    assert tags(bench.events) == [0, 1, 2, 3]
    held = [event for event in bench.events if isinstance(event, Command)]
    bench.connection.respond(held[0], 0)
    answer = bench.answer()
    assert (answer.exp_cmd_sn, answer.max_cmd_sn) == (FIRST_CMD_SN + 4, FIRST_CMD_SN + 4)
    bench.feed(command(8, cmd_sn=FIRST_CMD_SN + 4), command(9, cmd_sn=FIRST_CMD_SN + 5))
    assert tags(bench.events) == [0, 1, 2, 3, 8]
    assert bench.connection.forget(held[1])
    bench.connection.nop_in()
    assert bench.answer().max_cmd_sn == FIRST_CMD_SN + 5


def test_window_can_be_made_wider_at_any_time() -> None:
    """The door lets commands that take long not count."""
    bench = Bench(ProtocolConfig(window=2)).login()
    bench.connection.window = 5
    bench.connection.nop_in()
    assert bench.answer().max_cmd_sn == FIRST_CMD_SN + 4
    bench.connection.window = 1
    bench.connection.nop_in()
    assert bench.answer().max_cmd_sn == FIRST_CMD_SN + 4


def test_immediate_command_arrives_before_what_waits() -> None:
    """RFC 7143 4.2.2.1: it does not advance CmdSN and waits for nothing."""
    bench = Bench().login()
    bench.feed(command(1, cmd_sn=FIRST_CMD_SN + 1), command(2, immediate=True))
    assert tags(bench.events) == [2]
    assert bench.connection.exp_cmd_sn == FIRST_CMD_SN


def test_immediate_commands_have_a_limit_of_their_own() -> None:
    """RFC 7143 11.17.1: 06h, too many immediate commands; an answer makes room."""
    bench = Bench(ProtocolConfig(immediate_limit=2)).login()
    bench.feed(*(command(n, immediate=True) for n in range(3)))
    assert tags(bench.events) == [0, 1]
    reject = bench.answer()
    assert (reject.opcode, reject.byte_2) == (REJECT, 0x06)
    assert int.from_bytes(reject.data[16:20], "big") == 2
    assert isinstance(bench.events[0], Command)
    bench.connection.respond(bench.events[0], 0)
    bench.feed(command(4, immediate=True))
    assert tags(bench.events) == [0, 1, 4]


def test_tag_that_is_in_use_is_rejected_and_its_number_is_spent() -> None:
    """RFC 7143 11.17.1: 07h, task in progress; what follows must not wait for ever."""
    bench = Bench().login()
    bench.feed(command(1), command(1, cmd_sn=FIRST_CMD_SN + 1))
    reject = bench.answer()
    assert (reject.opcode, reject.byte_2) == (REJECT, 0x07)
    bench.feed(command(2, cmd_sn=FIRST_CMD_SN + 2))
    assert tags(bench.events) == [1, 2]


def test_reserved_tag_is_rejected() -> None:
    """RFC 7143 11.2.1.8: FFFFFFFFh is no tag of a task."""
    bench = Bench().login()
    bench.feed(command(0xFFFFFFFF))
    assert bench.answer().byte_2 == 0x09
    assert bench.connection.exp_cmd_sn == FIRST_CMD_SN + 1


@pytest.mark.parametrize(
    ("field", "number"),
    [
        ("00 00", 0),
        ("00 07", 7),
        ("40 07", 7),
        ("41 00", 256),
        ("01 2c", 300),
        ("80 00", -1),
        ("c1 00", -1),
        ("00 00 00 01", -1),
    ],
)
def test_logical_unit_number_is_read_from_its_field(field: str, number: int) -> None:
    """SAM-5 4.7.7: peripheral device and flat space addressing, one level."""
    bench = Bench().login()
    one = command(1)
    one.header[8:16] = bytes.fromhex(field).ljust(8, b"\0")
    bench.feed(one)
    assert bench.take(Command).lun == number


def test_extended_cdb_is_put_together() -> None:
    """RFC 7143 11.2.2.3: what is beyond 16 bytes comes in an AHS."""
    bench = Bench().login()
    ahs = b"\x00\x11\x01\x00" + bytes(range(16))
    bench.feed(command(1, cdb=b"\x7f" * 16, ahs=ahs))
    assert bench.take(Command).cdb == b"\x7f" * 16 + bytes(range(16))


def test_bidirectional_command_has_both_lengths() -> None:
    """RFC 7143 11.2.2.4: the read length comes in an AHS."""
    bench = Bench().login()
    one = command(1, read=0, write=512, data=bytes(512), ahs=b"\0\5\2\0" + b"\0\0\4\0")
    bench.feed(one)
    found = bench.take(Command)
    assert (found.write_length, found.read_length) == (512, 1024)


def test_additional_headers_are_split_and_never_raise() -> None:
    """RFC 7143 11.2.2: padding between them is not counted."""
    first, second = Segment(1, b"\0ab"), Segment(2, b"\0\0\0\2\0")
    text = b"\0\3\1\0ab\0\0" + b"\0\5\2\0\0\0\2\0"
    assert parse_segments(text) == (first, second)
    assert parse_segments(b"") == ()
    assert parse_segments(b"\0\0\1") is None


@pytest.mark.parametrize("ahs", [b"\0\6\1\0abcd", b"\xff\xff\1\0"])
def test_additional_header_that_ends_outside_is_rejected(ahs: bytes) -> None:
    """RFC 7143 11.2.2.1: AHSLength."""
    bench = Bench().login()
    bench.feed(command(1, ahs=ahs))
    assert bench.answer().byte_2 == 0x09
    assert bench.connection.exp_cmd_sn == FIRST_CMD_SN + 1


# ---------------------------------------------------------------------- Data-Out


def test_immediate_data_makes_a_command_complete() -> None:
    """RFC 7143 4.2.4.2: one PDU in, executed at once."""
    bench = Bench().login()
    bench.feed(command(1, write=700, data=b"d" * 700))
    found = bench.take(Command)
    assert found.complete
    assert found.filled == 700
    assert bytes(bench.buffers[1]) == b"d" * 700
    assert bench.sent() == []


def test_unsolicited_data_follows_immediate_data() -> None:
    """RFC 7143 4.2.4.2: up to FirstBurstLength, ended by the F bit."""
    bench = Bench().login(FirstBurstLength="4096")
    bench.feed(command(1, write=4096, data=b"a" * 1024, final=False))
    assert not bench.take(Command).complete
    bench.feed(data_out(1, b"b" * 1024, offset=1024, final=False))
    bench.feed(data_out(1, b"c" * 2048, offset=2048, data_sn=1))
    bench.take(events.DataComplete)
    assert bytes(bench.buffers[1]) == b"a" * 1024 + b"b" * 1024 + b"c" * 2048
    assert bench.sent() == []


def test_data_beyond_the_first_burst_is_asked_for() -> None:
    """RFC 7143 11.8: R2Ts of at most MaxBurstLength, as many at a time as was agreed."""
    bench = Bench().login(FirstBurstLength="1024", MaxBurstLength="2048", MaxOutstandingR2T="2")
    bench.feed(command(1, write=8192, data=b"0" * 1024))
    bench.events.clear()
    first, second = bench.sent()
    assert [(one.opcode, one.data_sn, one.buffer_offset, one.residual) for one in (first, second)]
    assert (first.opcode, first.data_sn, first.buffer_offset, first.residual) == (
        R2T,
        0,
        1024,
        2048,
    )
    assert (second.data_sn, second.buffer_offset, second.residual) == (1, 3072, 2048)
    assert first.ttt != second.ttt
    bench.feed(data_out(1, b"1" * 1024, ttt=first.ttt, offset=1024, final=False))
    assert bench.sent() == []
    bench.feed(data_out(1, b"1" * 1024, ttt=first.ttt, offset=2048, data_sn=1))
    third = bench.answer()
    assert (third.data_sn, third.buffer_offset, third.residual) == (2, 5120, 2048)
    bench.feed(data_out(1, b"2" * 2048, ttt=second.ttt, offset=3072))
    fourth = bench.answer()
    assert (fourth.data_sn, fourth.buffer_offset, fourth.residual) == (3, 7168, 1024)
    bench.feed(data_out(1, b"3" * 2048, ttt=third.ttt, offset=5120))
    assert bench.events == []
    bench.feed(data_out(1, b"4" * 1024, ttt=fourth.ttt, offset=7168))
    bench.take(events.DataComplete)
    expected = b"0" * 1024 + b"1" * 2048 + b"2" * 2048 + b"3" * 2048 + b"4" * 1024
    assert bytes(bench.buffers[1]) == expected


def test_command_without_data_of_its_own_is_asked_for_all_of_it() -> None:
    """InitialR2T=Yes and ImmediateData=No."""
    bench = Bench().login(InitialR2T="Yes", ImmediateData="No")
    bench.feed(command(1, write=512))
    assert not bench.take(Command).complete
    r2t = bench.answer()
    assert (r2t.buffer_offset, r2t.residual) == (0, 512)
    bench.feed(data_out(1, b"x" * 512, ttt=r2t.ttt))
    bench.take(events.DataComplete)


def test_command_that_wants_less_is_not_asked_for_more() -> None:
    """A CDB that takes less than EDTL: what comes beyond it is dropped, and no R2T asks for it."""
    buffer = bytearray(600)
    bench = Bench(allocate=lambda _: memoryview(buffer)).login(FirstBurstLength="1024")
    bench.feed(command(1, write=4096, data=b"w" * 1024))
    assert bench.take(Command).complete
    assert bench.sent() == []
    assert bytes(buffer) == b"w" * 600


def test_command_that_wants_nothing_is_complete_when_its_data_has_passed() -> None:
    """A read that is flagged as a write, or a command that will be refused."""
    bench = Bench(allocate=lambda _: memoryview(b"")).login(FirstBurstLength="2048")
    bench.feed(command(1, write=4096, data=bytes(512), final=False))
    assert not bench.take(Command).complete
    bench.feed(data_out(1, bytes(1536), offset=512))
    assert bench.take(events.DataComplete).command.complete
    assert bench.sent() == []


@pytest.mark.parametrize("numbers", [(0, 0), (1, 0), (27,), (0xFFFFFFFF,), (0, 2, 1)])
@pytest.mark.parametrize("solicited", [False, True])
def test_data_with_a_wrong_number_ends_the_command(
    numbers: tuple[int, ...], solicited: bool
) -> None:
    """RFC 7143 7.9, 11.7.5: it is answered when the F bit has come, and never executed."""
    size = 512 * len(numbers)
    keys = {"InitialR2T": "Yes", "ImmediateData": "No"} if solicited else {}
    bench = Bench().login(**keys)
    bench.feed(command(1, write=size, final=solicited))
    bench.take(Command)
    ttt = bench.answer().ttt if solicited else 0xFFFFFFFF
    for at, number in enumerate(numbers):
        assert bench.sent() == []
        last = at == len(numbers) - 1
        bench.feed(data_out(1, bytes(512), ttt=ttt, data_sn=number, offset=512 * at, final=last))
    assert bench.take(events.DataRefused).command.gone
    assert sense_of(bench.answer()) == LOST_DATA
    # The session lives: RFC 7143 7.9 asks for no more than the end of the task.
    bench.feed(command(2, cmd_sn=FIRST_CMD_SN + 1))
    assert bench.take(Command).itt == 2


def test_data_numbers_begin_anew_with_each_sequence() -> None:
    """RFC 7143 11.7.5: for unsolicited data and for each R2T from 0."""
    bench = Bench().login(FirstBurstLength="1024", MaxOutstandingR2T="1", MaxBurstLength="1024")
    bench.feed(command(1, write=3072, final=False), data_out(1, bytes(1024)))
    for offset in (1024, 2048):
        r2t = bench.answer()
        assert (r2t.opcode, r2t.buffer_offset) == (R2T, offset)
        bench.feed(data_out(1, bytes(1024), ttt=r2t.ttt, offset=offset))
    assert isinstance(bench.events[-1], events.DataComplete)


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (512, 512, WRONG_AMOUNT),  # a hole
        (0, 1025, WRONG_AMOUNT),  # beyond what was asked for
        (0, 1000, WRONG_AMOUNT),  # less than what was asked for
        (0xFFFFFFFF, 1024, WRONG_AMOUNT),
    ],
)
def test_data_that_is_not_what_was_asked_for_ends_the_command(
    offset: int, length: int, expected: tuple[int, int, int]
) -> None:
    """RFC 7143 11.4.7.2: incorrect amount of data; nothing is written outside the buffer."""
    bench = Bench().login(InitialR2T="Yes", ImmediateData="No")
    bench.feed(command(1, write=1024))
    bench.take(Command)
    r2t = bench.answer()
    bench.feed(data_out(1, b"!" * length, ttt=r2t.ttt, offset=offset))
    bench.take(events.DataRefused)
    assert sense_of(bench.answer()) == expected
    assert bytes(bench.buffers[1]) == bytes(1024)


def test_data_for_a_tag_that_was_not_given_ends_the_command() -> None:
    """RFC 7143 11.7.4: the target transfer tag."""
    bench = Bench().login(InitialR2T="Yes", ImmediateData="No")
    bench.feed(command(1, write=1024))
    bench.take(Command)
    r2t = bench.answer()
    bench.feed(data_out(1, bytes(1024), ttt=r2t.ttt + 1))
    bench.take(events.DataRefused)
    assert sense_of(bench.answer()) == WRONG_AMOUNT


def test_data_for_a_wrong_tag_that_goes_on_waits_for_the_end() -> None:
    """Only the F bit of what was asked for, or of the wrong sequence, ends the command."""
    bench = Bench().login(InitialR2T="Yes", ImmediateData="No")
    bench.feed(command(1, write=1024))
    bench.take(Command)
    r2t = bench.answer()
    bench.feed(data_out(1, bytes(512), ttt=r2t.ttt + 1, final=False))
    assert bench.sent() == []
    bench.feed(data_out(1, bytes(1024), ttt=r2t.ttt))
    assert sense_of(bench.answer()) == WRONG_AMOUNT


@pytest.mark.parametrize(
    ("keys", "given"),
    [
        ({"ImmediateData": "No"}, {"data": bytes(512)}),
        ({"InitialR2T": "Yes"}, {"final": False}),
        ({"InitialR2T": "Yes", "ImmediateData": "No"}, {"data": bytes(512), "final": False}),
    ],
)
def test_data_that_was_agreed_not_to_come_ends_the_command(
    keys: dict[str, str], given: dict[str, object]
) -> None:
    """RFC 7143 11.4.7.2: unexpected unsolicited data; the door does not even hear of it."""
    bench = Bench().login(**keys)
    bench.feed(command(1, write=1024, **given))  # type: ignore[arg-type]
    bench.feed(data_out(1, bytes(512), offset=512))
    assert tags(bench.events) == []
    assert sense_of(bench.answer()) == UNEXPECTED_UNSOLICITED


def test_data_of_a_command_that_writes_nothing_ends_it() -> None:
    """Data without the W bit."""
    bench = Bench().login()
    bench.feed(command(1, read=512, data=bytes(512)))
    assert tags(bench.events) == []
    assert sense_of(bench.answer()) == UNEXPECTED_UNSOLICITED


@pytest.mark.parametrize("edtl", [0, 100, 511])
def test_data_beyond_the_expected_length_ends_the_command(edtl: int) -> None:
    """RFC 7143 11.3.4: more immediate data than EDTL."""
    bench = Bench().login()
    bench.feed(command(1, write=edtl, data=bytes(512)))
    assert tags(bench.events) == []
    assert sense_of(bench.answer()) == WRONG_AMOUNT


def test_data_beyond_the_first_burst_ends_the_command() -> None:
    """RFC 7143 13.14: unsolicited data, immediate data among them."""
    bench = Bench().login(FirstBurstLength="1024")
    bench.feed(command(1, write=4096, data=bytes(512), final=False))
    bench.take(Command)
    bench.feed(data_out(1, bytes(513), offset=512))
    bench.take(events.DataRefused)
    assert sense_of(bench.answer()) == WRONG_AMOUNT


def test_data_for_nobody_is_dropped() -> None:
    """Of a command that was answered or aborted while its data was under way."""
    bench = Bench().login()
    bench.feed(data_out(77, bytes(512)))
    assert bench.events == []
    assert bench.sent() == []


def test_data_for_a_command_that_has_all_of_it_is_rejected() -> None:
    """It may be in execution: nothing is written into its buffer any more."""
    bench = Bench().login()
    bench.feed(command(1, write=512, data=b"d" * 512), command(2, cmd_sn=101, read=512))
    bench.feed(data_out(1, b"!" * 512), data_out(2, b"!" * 512))
    assert [one.byte_2 for one in bench.sent()] == [0x09, 0x09]
    assert bytes(bench.buffers[1]) == b"d" * 512


def test_data_that_is_damaged_is_rejected_and_ends_the_command() -> None:
    """RFC 7143 7.8: Reject for the PDU, and CHECK CONDITION when all sequences have ended."""
    bench = Bench().login(DataDigest="CRC32C", FirstBurstLength="1024")
    bench.feed(command(1, write=1024, final=False))
    bench.take(Command)
    damaged = bytearray(data_out(1, bytes(512), final=False).encode(data_digest=True))
    damaged[60] ^= 1
    bench.feed_bytes(bytes(damaged))
    reject = bench.answer()
    assert (reject.opcode, reject.byte_2) == (REJECT, 0x02)
    bench.feed(data_out(1, bytes(512), data_sn=1, offset=512))
    bench.take(events.DataRefused)
    assert sense_of(bench.answer()) == LOST_DATA


def test_command_whose_data_is_damaged_can_be_sent_again() -> None:
    """RFC 7143 7.8, 11.17.1: it never came; its number is not spent."""
    bench = Bench().login(DataDigest="CRC32C")
    damaged = bytearray(command(1, write=512, data=bytes(512)).encode(data_digest=True))
    damaged[50] ^= 1
    bench.feed_bytes(bytes(damaged))
    assert bench.answer().byte_2 == 0x02
    assert bench.take(events.Released).command.gone
    bench.feed(command(1, write=512, data=b"d" * 512))
    assert bench.take(Command).complete


def test_header_that_is_damaged_ends_the_connection() -> None:
    """RFC 7143 7.8: recovery level 0 can only begin again."""
    bench = Bench().login(HeaderDigest="CRC32C")
    damaged = bytearray(command(1).encode(header_digest=True))
    damaged[33] ^= 1
    bench.feed_bytes(bytes(damaged))
    assert bench.connection.closing
    assert bench.take(events.Violation).reason == "header digest"
    assert bench.feed(command(2)) == []


# ---------------------------------------------------------------------- memory that is late


def _late(**keys: str) -> Bench:
    return Bench(allocate=lambda _: None).login(**keys)


def test_memory_that_is_late_holds_the_transfer_back() -> None:
    """No R2T before there is a place for its data: that is the flow control of writes."""
    bench = _late(InitialR2T="Yes", ImmediateData="No")
    bench.feed(command(1, write=1024))
    found = bench.take(Command)
    assert not found.complete
    assert bench.sent() == []
    buffer = bytearray(1024)
    assert bench.connection.supply(found, memoryview(buffer)) == []
    r2t = bench.answer()
    bench.feed(data_out(1, b"z" * 1024, ttt=r2t.ttt))
    bench.take(events.DataComplete)
    assert bytes(buffer) == b"z" * 1024


def test_memory_that_is_late_gets_what_came_in_the_meantime() -> None:
    """Immediate and unsolicited data wait in a place of the connection's own."""
    bench = _late(FirstBurstLength="1024")
    bench.feed(command(1, write=2048, data=b"i" * 512, final=False))
    found = bench.take(Command)
    bench.feed(data_out(1, b"u" * 512, offset=512))
    assert bench.events == []
    buffer = bytearray(2048)
    bench.connection.supply(found, memoryview(buffer))
    r2t = bench.answer()
    assert (r2t.buffer_offset, r2t.residual) == (1024, 1024)
    assert bytes(buffer[:1024]) == b"i" * 512 + b"u" * 512


def test_memory_that_is_late_can_complete_a_command() -> None:
    """All data was unsolicited: the event comes from `supply`."""
    bench = _late()
    bench.feed(command(1, write=512, data=b"i" * 512))
    found = bench.take(Command)
    assert not found.complete
    buffer = bytearray(512)
    (event,) = bench.connection.supply(found, memoryview(buffer))
    assert isinstance(event, events.DataComplete)
    assert bytes(buffer) == b"i" * 512
    assert bench.connection.supply(found, memoryview(buffer)) == []


def test_memory_that_comes_in_the_middle_of_a_segment_gets_all_of_it() -> None:
    """Another thread supplies it while bytes are being received for the old place."""
    bench = _late(FirstBurstLength="1024")
    whole = command(1, write=1024, final=False).encode() + data_out(1, b"m" * 1024).encode()
    bench.feed_bytes(whole[:400])
    found = bench.take(Command)
    buffer = bytearray(1024)
    assert bench.connection.supply(found, memoryview(buffer)) == []
    bench.feed_bytes(whole[400:])
    bench.take(events.DataComplete)
    assert bytes(buffer) == b"m" * 1024


def test_memory_that_comes_before_the_command_is_whole_gets_all_of_it() -> None:
    """The same, while the immediate data of the command itself is being received."""
    asked: list[Command] = []

    def allocate(one: Command) -> memoryview | None:
        asked.append(one)
        return None

    bench = Bench(allocate=allocate).login()
    whole = command(1, write=1024, data=b"m" * 1024).encode()
    bench.feed_bytes(whole[:400])
    buffer = bytearray(1024)
    assert bench.connection.supply(asked[0], memoryview(buffer)) == []
    bench.feed_bytes(whole[400:])
    assert bench.take(Command).complete
    assert bytes(buffer) == b"m" * 1024


def test_memory_that_is_late_is_not_replaced_without_limit() -> None:
    """What waits is bounded; what is over the bound is answered TASK SET FULL."""
    bench = _late(FirstBurstLength="262144")
    count = MAX_PENDING // 65536
    for n in range(count + 2):
        bench.feed(command(n, cmd_sn=FIRST_CMD_SN + n, write=65536, data=bytes(65536)))
    announced = tags(bench.events)
    assert announced == list(range(count))
    assert [(one.itt, one.status) for one in bench.sent()] == [(count, 0x28), (count + 1, 0x28)]
    released = [one.command.itt for one in bench.events if isinstance(one, events.Released)]
    assert released == [count, count + 1]
    held = [event for event in bench.events if isinstance(event, Command)]
    assert bench.connection.respond(held[0], 8)
    bench.sent()
    bench.events.clear()
    bench.feed(command(99, cmd_sn=FIRST_CMD_SN + count + 2, write=65536, data=bytes(65536)))
    assert bench.take(Command).itt == 99


# ---------------------------------------------------------------------- early ends


def test_answer_before_the_data_has_come_waits_for_it() -> None:
    """RFC 7143 11.17.1: until the F bit; then the buffer is free."""
    bench = Bench().login(InitialR2T="Yes", MaxBurstLength="512", MaxOutstandingR2T="2")
    bench.feed(command(1, write=1024))
    found = bench.take(Command)
    first, second = bench.sent()
    assert not bench.connection.respond(found, 0x40)
    assert bench.sent() == []
    bench.feed(data_out(1, b"!" * 512, ttt=first.ttt))
    assert bench.sent() == []
    bench.feed(data_out(1, b"!" * 512, ttt=second.ttt, offset=512))
    assert bench.take(events.Released).command is found
    assert bench.answer().status == 0x40
    assert bytes(bench.buffers[1]) == bytes(1024)
    assert bench.connection.respond(found, 0)
    assert bench.sent() == []


def test_answer_while_nothing_is_expected_goes_out_at_once() -> None:
    """The door had no memory and gives up: there is nothing to wait for."""
    bench = _late(InitialR2T="Yes", ImmediateData="No")
    bench.feed(command(1, write=1024))
    assert bench.connection.respond(bench.take(Command), 8)
    assert bench.answer().status == 8


def test_command_that_is_forgotten_gets_no_answer_and_no_data() -> None:
    """ABORT TASK: what is still under way is dropped."""
    bench = Bench().login(InitialR2T="Yes", ImmediateData="No")
    bench.feed(command(1, write=1024))
    found = bench.take(Command)
    r2t = bench.answer()
    assert bench.connection.forget(found)
    assert bench.connection.respond(found, 0)
    bench.feed(data_out(1, b"!" * 1024, ttt=r2t.ttt))
    assert bench.events == []
    assert bench.sent() == []
    assert bytes(bench.buffers[1]) == bytes(1024)
    assert bench.connection.commands == ()


def test_command_that_is_forgotten_in_the_middle_of_a_segment_is_released_after_it() -> None:
    """The owner of the socket may be receiving into its buffer just now."""
    bench = Bench().login(FirstBurstLength="1024")
    whole = command(1, write=1024, final=False).encode() + data_out(1, b"m" * 1024).encode()
    bench.feed_bytes(whole[:400])
    found = bench.take(Command)
    assert not bench.connection.forget(found)
    assert not bench.connection.forget(found)
    bench.feed_bytes(whole[400:])
    assert bench.take(events.Released).command is found
    assert bench.connection.forget(found)
    assert bench.sent() == []


def test_tag_of_a_forgotten_command_can_be_used_again() -> None:
    """The initiator may, once it has the answer to ABORT TASK."""
    bench = Bench().login()
    bench.feed(command(1))
    bench.connection.forget(bench.take(Command))
    bench.feed(command(1, cmd_sn=FIRST_CMD_SN + 1))
    assert bench.take(Command).cmd_sn == FIRST_CMD_SN + 1


def test_connection_that_is_abandoned_gives_all_commands_back() -> None:
    """Also one that the door has made room for and not heard of yet."""
    bench = Bench().login()
    third = command(3, cmd_sn=FIRST_CMD_SN + 2, write=512, data=bytes(512)).encode()
    bench.feed(command(1), command(2, cmd_sn=FIRST_CMD_SN + 5))
    bench.feed_bytes(third[:100])
    found = bench.connection.abandon()
    assert sorted(one.itt for one in found) == [1, 2, 3]
    assert all(one.gone for one in found)
    assert bench.connection.closing
    assert bench.connection.commands == ()
    for one in found:
        assert bench.connection.respond(one, 0)
        assert bench.connection.forget(one) in {True, False}
    assert bench.sent() == []


def test_commands_that_are_not_answered_are_listed_in_order() -> None:
    """For task management by the door."""
    bench = Bench().login()
    bench.feed(*(command(n, cmd_sn=FIRST_CMD_SN + n) for n in (0, 1, 2)))
    bench.connection.respond(bench.connection.commands[1], 0)
    assert [one.itt for one in bench.connection.commands] == [0, 2]


def test_session_for_discovery_takes_no_commands() -> None:
    """RFC 7143 4.3: only SendTargets and the end."""
    bench = Bench()
    bench.feed(login_pdu({"InitiatorName": INITIATOR, "SessionType": "Discovery"}))
    bench.sent()
    bench.events.clear()
    bench.feed(command(1), pdu(2, 0x85, immediate=True, itt=2), pdu(0, itt=3, cmd_sn=101))
    assert bench.events == []
    assert [(one.opcode, one.byte_2) for one in bench.sent()] == [
        (REJECT, 4),
        (REJECT, 4),
        (0x20, 0),
    ]


def test_command_that_waits_for_its_turn_gathers_its_data() -> None:
    """Data-Out belongs to its command by the tag, whatever the order of CmdSN."""
    bench = Bench().login(FirstBurstLength="1024")
    bench.feed(command(2, cmd_sn=FIRST_CMD_SN + 1, write=1024, final=False))
    bench.feed(data_out(2, b"e" * 1024))
    assert bench.events == []
    bench.feed(command(1))
    assert [(one.itt, one.complete) for one in bench.connection.commands] == [
        (2, True),
        (1, True),
    ]
    assert tags(bench.events) == [1, 2]


def test_command_that_is_wrong_and_waits_for_its_turn_is_answered_then() -> None:
    """Its answer is not sent before those of commands before it were possible."""
    bench = Bench().login(FirstBurstLength="1024")
    bench.feed(command(2, cmd_sn=FIRST_CMD_SN + 1, write=1024, data=bytes(512), final=False))
    bench.feed(data_out(2, bytes(512), data_sn=5, offset=512, final=False))
    bench.feed(command(1))
    assert tags(bench.events) == [1]
    assert bench.sent() == []
    bench.feed(data_out(2, b"", data_sn=6, offset=1024))
    assert sense_of(bench.answer()) == LOST_DATA


def test_command_that_is_answered_twice_is_answered_once() -> None:
    """The second answer finds the first one waiting for the data."""
    bench = Bench().login(InitialR2T="Yes", ImmediateData="No")
    bench.feed(command(1, write=512))
    found = bench.take(Command)
    r2t = bench.answer()
    assert not bench.connection.respond(found, 0x40)
    assert not bench.connection.respond(found, 0)
    bench.feed(data_out(1, bytes(512), ttt=r2t.ttt))
    assert bench.answer().status == 0x40
