"""Commands that the protocol answers where it reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.iscsi.command import Command
from flockpr.iscsi.commandset import MOST_AT_ONCE
from flockpr.iscsi.session import ProtocolConfig
from tests.support.iscsi_bench import FIRST_CMD_SN, Bench, command
from tests.support.iscsi_wire import DATA_IN, NOP_OUT, Pdu, pdu

CDB = bytes((0x5E, 0, 0, 0, 0, 0, 0, 0x20, 0)).ljust(16, b"\0")
ORDERED, HEAD_OF_QUEUE = 2, 3


class Known:
    """What is known: the same for every command. Counts how often it was asked."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[int, bytes]] = []

    def __call__(self, lun: int, cdb: bytes) -> bytes:
        self.asked.append((lun, cdb))
        return self.data


def bench_that_knows(data: bytes, **keys: str) -> tuple[Bench, Known]:
    """A session in which this is known."""
    known = Known(data)
    return Bench(at_once=known).login(**keys), known


def ask(itt: int, *, read: int = 512, cmd_sn: int | None = None, lun: int = 0) -> Pdu:
    """A command that reads, in its order by its tag."""
    return command(
        itt, cmd_sn=FIRST_CMD_SN + itt if cmd_sn is None else cmd_sn, read=read, cdb=CDB, lun=lun
    )


def raw(bench: Bench) -> bytes:
    """What was sent, as it is."""
    return b"".join(bytes(part) for part in bench.connection.data_to_send())


def test_what_is_known_is_answered_and_is_no_event() -> None:
    """RFC 7143 11.7.3: Data-In with the status, in one PDU; the next command is expected."""
    bench, known = bench_that_knows(b"0123456789abcdef")
    assert bench.feed(ask(0, read=16, lun=3)) == []
    (answer,) = bench.sent()
    assert (answer.opcode, answer.flags, answer.status) == (DATA_IN, 0x81, 0)
    assert (answer.itt, answer.data) == (0, b"0123456789abcdef")
    assert bench.connection.exp_cmd_sn == FIRST_CMD_SN + 1
    assert bench.connection.passed == 1
    assert bench.connection.commands == ()
    assert known.asked == [(3, CDB)]


@given(
    data=st.binary(min_size=1, max_size=3000),
    read=st.integers(min_value=0, max_value=4000),
    digests=st.booleans(),
    before=st.integers(min_value=0, max_value=3),
)
def test_it_is_the_answer_that_a_door_would_give(
    data: bytes, read: int, digests: bool, before: int
) -> None:
    """Byte for byte, its numbers, residuals and digests included."""
    keys = {"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"} if digests else {}
    bench, known = bench_that_knows(data, **keys)
    other = Bench().login(**keys)
    for itt in range(before + 1):
        asked = ask(itt, read=read)
        bench.feed(asked)
        (event,) = other.feed(asked)
        assert isinstance(event, Command)
        other.connection.respond(event, 0, b"", (data,))
        expected = raw(other)
        if read:
            assert bench.connection.passed == itt + 1
            assert raw(bench) == expected
        else:
            # Nothing would be taken: that is no Data-In.
            assert bench.connection.passed == 0
            (held,) = bench.events[-1:]
            assert isinstance(held, Command)
            bench.connection.respond(held, 0, b"", (data,))
            assert raw(bench) == expected
    assert len(known.asked) == (before + 1 if read else 0)


def test_what_is_not_known_is_an_event() -> None:
    """Nothing has happened to it then."""
    bench, known = bench_that_knows(b"")
    (event,) = bench.feed(ask(0))
    assert isinstance(event, Command)
    assert event.itt == 0
    assert bench.sent() == []
    assert len(known.asked) == 1


def with_flags(flags: int) -> Pdu:
    """A command with other flags."""
    made = ask(0)
    made.flags = flags
    return made


@pytest.mark.parametrize(
    "asked",
    [
        with_flags(0x80 | 0x40 | ORDERED),
        with_flags(0x80 | 0x40 | HEAD_OF_QUEUE),
        with_flags(0x40 | 1),
        with_flags(0x80 | 1),
        command(0, read=512, write=24, cdb=CDB),
        command(0, write=24, cdb=CDB),
        command(0, read=512, cdb=CDB, immediate=True),
        command(0, read=512, cdb=CDB, data=b"1234"),
        command(0, read=512, cdb=CDB, ahs=b"\0\x11\1\0" + bytes(16)),
        ask(0, cmd_sn=FIRST_CMD_SN + 1),
        ask(0, cmd_sn=FIRST_CMD_SN - 1),
        ask(0, cmd_sn=FIRST_CMD_SN + 1000),
        pdu(1, 0xC1, itt=0xFFFFFFFF, cmd_sn=FIRST_CMD_SN),
    ],
)
def test_what_is_out_of_the_ordinary_is_not_asked_for(asked: Pdu) -> None:
    """It goes the way of all commands, or of what is wrong."""
    bench, known = bench_that_knows(b"data")
    bench.feed(asked)
    assert known.asked == []
    assert bench.connection.passed == 0


def test_nothing_overtakes_a_command_of_the_session() -> None:
    """It may be ORDERED, and take away what this one would say."""
    bench, known = bench_that_knows(b"data")
    (first,) = bench.feed(command(0, cmd_sn=FIRST_CMD_SN, write=0))
    assert isinstance(first, Command)
    (second,) = bench.feed(ask(1))
    assert isinstance(second, Command)
    assert known.asked == []
    bench.connection.respond(first, 0)
    bench.connection.respond(second, 0)
    assert bench.feed(ask(2)) == []
    assert len(known.asked) == 1


def test_nothing_overtakes_what_came_with_it() -> None:
    """A request that has been read and not been carried out yet."""
    bench, known = bench_that_knows(b"data")
    reset = pdu(2, 0x80 | 5, immediate=True, itt=77, cmd_sn=FIRST_CMD_SN)
    found = bench.feed(reset, ask(0))
    assert [isinstance(event, Command) for event in found] == [False, True]
    assert known.asked == []


def test_one_that_came_too_early_waits_and_is_an_event() -> None:
    """The one that it waited for is, too: what follows it has been read already."""
    bench, known = bench_that_knows(b"data")
    assert bench.feed(ask(1)) == []
    found = bench.feed(ask(0))
    assert [event.itt for event in found if isinstance(event, Command)] == [0, 1]
    assert known.asked == []


def test_held_request_that_is_no_command_is_not_stranded() -> None:
    """It has a number as well, and would never get its turn once that was passed."""
    bench, known = bench_that_knows(b"data")
    ping = pdu(NOP_OUT, itt=9, cmd_sn=FIRST_CMD_SN + 1, data=b"ping")
    assert bench.feed(ping) == []
    bench.feed(ask(0))
    assert bench.connection.exp_cmd_sn == FIRST_CMD_SN + 2
    assert known.asked == []


def test_only_so_many_of_one_reading() -> None:
    """Those of other clients wait meanwhile; the rest is events, in order."""
    bench, _ = bench_that_knows(b"data")
    found = bench.feed(*(ask(itt) for itt in range(MOST_AT_ONCE + 5)))
    tags = [event.itt for event in found if isinstance(event, Command)]
    assert tags == list(range(MOST_AT_ONCE, MOST_AT_ONCE + 5))
    assert [one.itt for one in bench.sent()] == list(range(MOST_AT_ONCE))


def test_more_than_one_pdu_holds_is_an_event() -> None:
    """The initiator takes 512 bytes in a PDU."""
    bench, _ = bench_that_knows(bytes(600), MaxRecvDataSegmentLength="512")
    (event,) = bench.feed(ask(0, read=600))
    assert isinstance(event, Command)
    bench.connection.respond(event, 0, b"", (bytes(600),))
    assert [len(one.data) for one in bench.sent()] == [512, 88]
    assert bench.feed(ask(1, read=512)) == []


def test_window_moves_on_with_what_was_answered() -> None:
    """RFC 7143 4.2.2.1: a session of one command at a time goes on for ever."""
    known = Known(b"data")
    bench = Bench(ProtocolConfig(window=1), at_once=known).login()
    for itt in range(5):
        assert bench.feed(ask(itt)) == []
        answer = bench.answer()
        assert answer.max_cmd_sn == answer.exp_cmd_sn == FIRST_CMD_SN + itt + 1
