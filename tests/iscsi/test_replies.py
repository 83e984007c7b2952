"""How commands are answered: Data-In, status, residuals, digests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.iscsi.command import Command
from flockpr.iscsi.session import ProtocolConfig
from tests.support.iscsi_bench import Bench, command
from tests.support.iscsi_wire import DATA_IN, RESPONSE, Pdu

UNDERFLOW, OVERFLOW = 0x02, 0x04


def _arrived(bench: Bench, *, read: int | None = None, write: int | None = None) -> Command:
    bench.feed(command(1, read=read, write=write, data=bytes(write or 0)))
    found = bench.take(Command)
    assert isinstance(found, Command)
    return found


def _residual(one: Pdu) -> tuple[int, int]:
    return one.flags & 0x06, one.residual


@pytest.mark.parametrize(
    ("edtl", "given", "length", "expected"),
    [
        (512, 512, None, (0, 0)),
        (512, 512, 512, (0, 0)),
        (10000, 512, None, (UNDERFLOW, 9488)),
        (200, 512, None, (OVERFLOW, 312)),
        (0, 512, None, (OVERFLOW, 512)),
        (512, 512, 1024, (OVERFLOW, 512)),
        (255, 96, 255, (UNDERFLOW, 159)),  # an allocation length is not what is transferred
        (512, 0, None, (UNDERFLOW, 512)),
        (0, 0, None, (0, 0)),
    ],
)
def test_residual_of_a_read_compares_what_there_is_with_what_was_expected(
    edtl: int, given: int, length: int | None, expected: tuple[int, int]
) -> None:
    """RFC 7143 11.4.5.2."""
    bench = Bench().login()
    bench.connection.respond(
        _arrived(bench, read=edtl), 0, data=[bytes(given)] if given else [], length=length
    )
    one = bench.answer()
    assert _residual(one) == expected
    assert len(one.data) == min(edtl, given)
    assert one.opcode == (DATA_IN if min(edtl, given) else RESPONSE)


@pytest.mark.parametrize(
    ("edtl", "length", "expected"),
    [
        (512, 512, (0, 0)),
        (1024, 512, (UNDERFLOW, 512)),
        (10000, 512, (UNDERFLOW, 9488)),
        (200, 512, (OVERFLOW, 312)),
        (0, 512, (OVERFLOW, 512)),
        (512, 0, (UNDERFLOW, 512)),
        (512, None, (0, 0)),
    ],
)
def test_residual_of_a_write_compares_the_cdb_with_what_was_expected(
    edtl: int, length: int | None, expected: tuple[int, int]
) -> None:
    """RFC 7143 11.4.5.2."""
    bench = Bench().login()
    bench.connection.respond(_arrived(bench, write=edtl), 0, length=length)
    assert _residual(bench.answer()) == expected


def test_residual_of_a_failed_read_is_all_of_it() -> None:
    """Nothing came."""
    bench = Bench().login()
    bench.connection.respond(_arrived(bench, read=512), 0x18)
    one = bench.answer()
    assert (one.status, _residual(one)) == (0x18, (UNDERFLOW, 512))


def test_residual_of_a_read_that_only_writes_is_an_underflow() -> None:
    """READ(10) flagged as a write: GOOD, and nothing was taken of what the initiator had."""
    bench = Bench(allocate=lambda _: memoryview(b"")).login()
    bench.connection.respond(_arrived(bench, write=512), 0, data=[bytes(512)])
    one = bench.answer()
    assert (one.opcode, one.status, one.data) == (RESPONSE, 0, b"")
    assert _residual(one) == (UNDERFLOW, 512)


@given(
    length=st.integers(0, 40_000),
    cuts=st.lists(st.integers(0, 40_000), max_size=5),
    limit=st.integers(512, 9000),
    burst=st.integers(512, 20_000),
    edtl=st.integers(0, 40_000),
)
def test_read_of_any_size_is_split_as_was_agreed(
    length: int, cuts: list[int], limit: int, burst: int, edtl: int
) -> None:
    """RFC 7143 11.7: DataSN, Buffer Offset, F at the end of a burst, S in the last only."""
    bench = Bench().login(MaxRecvDataSegmentLength=str(limit), MaxBurstLength=str(burst))
    whole = bytes(n * 7 & 0xFF for n in range(length))
    places = sorted(min(cut, length) for cut in cuts)
    parts = [
        memoryview(whole)[start:stop]
        for start, stop in zip([0, *places], [*places, length], strict=True)
    ]
    bench.connection.respond(_arrived(bench, read=edtl), 0, data=parts)
    sent = bench.sent()
    wanted = min(edtl, length)
    assert b"".join(one.data for one in sent) == whole[:wanted]
    last = sent.pop()
    flags, residual = _residual(last)
    assert residual == abs(edtl - length)
    assert flags == (UNDERFLOW if edtl > length else OVERFLOW if edtl < length else 0)
    assert last.flags & 0x80
    if not wanted:
        assert last.opcode == RESPONSE
        return
    assert (last.flags & 1, last.stat_sn) == (1, 2)
    for number, one in enumerate([*sent, last]):
        assert (one.opcode, one.data_sn) == (DATA_IN, number)
        assert len(one.data) <= limit
    offset = start = 0
    for one in sent:
        assert one.buffer_offset == offset
        offset += len(one.data)
        assert one.flags == 0x80 * (offset - start == burst)
        assert (one.stat_sn, one.residual) == (0, 0)
        if one.flags:
            start = offset
        assert offset - start < burst
    assert last.buffer_offset == offset


def test_read_with_data_and_a_status_that_is_not_good_has_both() -> None:
    """RFC 7143 11.7.3: only GOOD may travel with data; ExpDataSN counts what was sent."""
    bench = Bench().login(MaxRecvDataSegmentLength="512")
    bench.connection.respond(_arrived(bench, read=1024), 2, b"s" * 18, [bytes(600)])
    first, second, response = bench.sent()
    assert [one.opcode for one in (first, second, response)] == [DATA_IN, DATA_IN, RESPONSE]
    assert not (first.flags | second.flags) & 1
    assert second.flags & 0x80
    assert (response.data_sn, _residual(response)) == (2, (UNDERFLOW, 424))


def test_bidirectional_command_has_two_residuals() -> None:
    """RFC 7143 11.4.5: the read direction has its own bits and its own count."""
    bench = Bench().login()
    one = command(1, read=0, write=512, data=bytes(512), ahs=b"\0\5\2\0" + b"\0\0\4\0")
    bench.feed(one)
    bench.connection.respond(bench.take(Command), 2, b"s" * 18, length=512)
    answer = bench.answer()
    assert answer.flags == 0x80 | 0x08
    assert answer.buffer_offset == 1024  # the bidirectional read residual count


def test_data_is_queued_as_it_was_given() -> None:
    """A read is not copied: the view itself is what is sent."""
    bench = Bench().login()
    data = memoryview(bytearray(4096))
    bench.connection.respond(_arrived(bench, read=4096), 0, data=[data])
    queued = bench.connection.data_to_send()
    assert len(queued) == 2
    assert queued[1] is data
    assert bench.connection.data_to_send() == []


@pytest.mark.parametrize("size", [1, 511, 513, 4096, 4097])
def test_digests_cover_header_and_padded_data(size: int) -> None:
    """RFC 7143 13.1: checked by the reader, which computes them for itself."""
    bench = Bench(ProtocolConfig(initial_stat_sn=0xFFFFFFFE)).login(
        HeaderDigest="CRC32C", DataDigest="CRC32C", MaxRecvDataSegmentLength="1024"
    )
    bench.feed(command(1, read=size))
    bench.connection.respond(bench.take(Command), 0, data=[bytes(range(256)) * 20][:1], length=None)
    assert sum(len(one.data) for one in bench.sent()) == size


def test_reads_that_fit_one_pdu_are_numbered_one_after_the_other() -> None:
    """RFC 7143 4.2.2.2: Data-In with status spends a StatSN like any response."""
    bench = Bench().login()
    for n in range(3):
        bench.feed(command(n, cmd_sn=100 + n, read=512))
        bench.connection.respond(bench.take(Command), 0, data=[bytes(512)])
    assert [(one.opcode, one.stat_sn) for one in bench.sent()] == [
        (DATA_IN, 2),
        (DATA_IN, 3),
        (DATA_IN, 4),
    ]


def test_status_numbers_wrap() -> None:
    """RFC 7143 4.2.2.2: StatSN is 32 bits."""
    bench = Bench(ProtocolConfig(initial_stat_sn=0xFFFFFFFE)).login()
    numbers = []
    for n in range(4):
        bench.feed(command(n, cmd_sn=100 + n))
        bench.connection.respond(bench.take(Command), 0)
        numbers.append(bench.answer().stat_sn)
    assert numbers == [0xFFFFFFFF, 0, 1, 2]
