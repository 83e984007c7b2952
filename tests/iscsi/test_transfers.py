"""Data of any size gets across, whatever was agreed on: an honest initiator against the target."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from flockpr.iscsi import events
from flockpr.iscsi.command import Command
from flockpr.iscsi.session import ProtocolConfig
from tests.support.iscsi_bench import FIRST_CMD_SN, Bench, command, data_out
from tests.support.iscsi_wire import NO_TAG, R2T, RESPONSE, Pdu


@attrs.frozen
class Agreement:
    """Parameters of one session, and how much of each write comes with the command."""

    keys: dict[str, str]
    segment: int
    piece: int


@st.composite
def _agreements(draw: st.DrawFn) -> Agreement:
    yes_no, digest = st.sampled_from(["Yes", "No"]), st.sampled_from(["None", "CRC32C"])
    keys = {
        "InitialR2T": draw(yes_no),
        "ImmediateData": draw(yes_no),
        "FirstBurstLength": str(draw(st.integers(512, 5000))),
        "MaxBurstLength": str(draw(st.integers(512, 5000))),
        "MaxOutstandingR2T": str(draw(st.integers(1, 4))),
        "HeaderDigest": draw(digest),
        "DataDigest": draw(digest),
    }
    return Agreement(keys, draw(st.integers(512, 5000)), draw(st.sampled_from([0, 0, 1, 97, 1024])))


def _cut(data: bytes, offset: int, end: int, segment: int, *, ttt: int, itt: int) -> Iterator[Pdu]:
    """The Data-Outs of one sequence."""
    number = 0
    while offset < end:
        stop = min(offset + segment, end)
        yield data_out(
            itt, data[offset:stop], ttt=ttt, data_sn=number, offset=offset, final=stop == end
        )
        offset, number = stop, number + 1


def _opening(bench: Bench, itt: int, cmd_sn: int, data: bytes, share: float) -> list[Pdu]:
    """The command and what may come with it."""
    agreed = bench.connection.parameters
    unasked = min(len(data), agreed.first_burst_length)
    immediate = 0
    if agreed.immediate_data:
        immediate = int(min(unasked, agreed.receive_limit) * share)
    more = not agreed.initial_r2t and immediate < unasked
    first = command(itt, cmd_sn=cmd_sn, write=len(data), data=data[:immediate], final=not more)
    if not more:
        return [first]
    return [first, *_cut(data, immediate, unasked, agreed.receive_limit, ttt=NO_TAG, itt=itt)]


@settings(max_examples=150, deadline=None)
@given(
    agreement=_agreements(),
    writes=st.lists(
        st.tuples(st.integers(1, 20_000), st.floats(0, 1), st.booleans()), min_size=1, max_size=5
    ),
)
def test_writes_of_any_size_arrive_whole(
    agreement: Agreement, writes: list[tuple[int, float, bool]]
) -> None:
    """RFC 7143 4.2.4.2, 11.7, 11.8: several at once, some of them with memory that is late."""
    late: list[Command] = []
    buffers: dict[int, bytearray] = {}

    def allocate(one: Command) -> memoryview | None:
        if writes[one.itt][2]:
            late.append(one)
            return None
        return memoryview(buffers.setdefault(one.itt, bytearray(one.write_length)))

    config = ProtocolConfig(max_recv_data_segment_length=agreement.segment)
    bench = Bench(config, allocate=allocate, piece=agreement.piece).login(**agreement.keys)
    agreed = bench.connection.parameters
    sources = [bytes((n * 31 + k) & 0xFF for k in range(w[0])) for n, w in enumerate(writes)]
    queue: list[Pdu] = []
    for itt, (source, (_, share, _)) in enumerate(zip(sources, writes, strict=True)):
        queue += _opening(bench, itt, FIRST_CMD_SN + itt, source, share)
    complete: set[int] = set()
    while len(complete) < len(writes):
        bench.feed(*queue)
        queue = []
        if late:
            one = late.pop()
            buffers[one.itt] = bytearray(one.write_length)
            bench.events += bench.connection.supply(one, memoryview(buffers[one.itt]))
        for event in bench.events:
            if isinstance(event, Command) and event.complete:
                complete.add(event.itt)
            elif isinstance(event, events.DataComplete):
                complete.add(event.command.itt)
            else:
                assert isinstance(event, Command)
        bench.events.clear()
        for r2t in bench.sent():
            assert r2t.opcode == R2T
            offset, length = r2t.buffer_offset, r2t.residual
            assert length <= agreed.max_burst_length
            source = sources[r2t.itt]
            queue += _cut(
                source, offset, offset + length, agreed.receive_limit, ttt=r2t.ttt, itt=r2t.itt
            )
    assert not queue
    assert [bytes(buffers[itt]) for itt in range(len(writes))] == sources
    for one in bench.connection.commands:
        assert bench.connection.respond(one, 0, length=one.write_length)
    assert [(one.opcode, one.flags) for one in bench.sent()] == [(RESPONSE, 0x80)] * len(writes)
