"""Anything that a peer could send, cut to any pieces: no exception, no difference, no growth."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flockpr.iscsi import events
from flockpr.iscsi.command import Command
from flockpr.iscsi.commandset import MAX_PENDING
from flockpr.iscsi.login import Admission
from flockpr.iscsi.session import BUFFER, Phase, ProtocolConfig
from tests.support.iscsi_bench import FIRST_CMD_SN, NAMES, Bench, command, data_out, login_pdu
from tests.support.iscsi_wire import (
    LOGOUT,
    NO_TAG,
    NOP_OUT,
    TASK_REQUEST,
    TEXT,
    Pdu,
    encode_text,
    pdu,
)

_CONFIG = ProtocolConfig(
    max_recv_data_segment_length=4096,
    first_burst_length=2048,
    max_burst_length=2048,
    window=8,
    immediate_limit=3,
)

_TAGS = st.sampled_from([0, 1, 2, 3, 4, NO_TAG])
_TRANSFER_TAGS = st.sampled_from([NO_TAG, 1, 2, 3, 4, 5, 6])
_NUMBERS = st.one_of(
    st.integers(-2, 10).map(lambda n: (FIRST_CMD_SN + n) & 0xFFFFFFFF),
    st.integers(0, 0xFFFFFFFF),
)
_SIZES = st.sampled_from([0, 1, 3, 512, 1024, 1500, 2048, 4096, 5000])
_DATA = st.sampled_from([0, 1, 511, 512, 1024, 2048, 4096, 4097]).map(bytes)
_FLAG = st.booleans()
_CHAP_KEYS = ["CHAP_A", "CHAP_N", "CHAP_R", "CHAP_I", "CHAP_C"]

_PDUS: st.SearchStrategy[Pdu] = st.one_of(
    st.builds(
        command,
        _TAGS,
        cmd_sn=_NUMBERS,
        read=st.none() | _SIZES,
        write=st.none() | _SIZES,
        data=_DATA,
        final=_FLAG,
        immediate=_FLAG,
        ahs=st.sampled_from([b"", b"\0\5\2\0\0\0\2\0", b"\0\x11\1\0" + bytes(16), b"\xff\xff\1\0"]),
        cdb=st.binary(max_size=16),
    ),
    st.builds(
        data_out,
        _TAGS,
        _DATA,
        ttt=_TRANSFER_TAGS,
        data_sn=st.integers(-1, 3),
        offset=_SIZES,
        final=_FLAG,
    ),
    st.builds(
        lambda itt, number, data, immediate: pdu(
            NOP_OUT, itt=itt, cmd_sn=number, data=data, immediate=immediate
        ),
        _TAGS,
        _NUMBERS,
        _DATA,
        _FLAG,
    ),
    st.builds(
        lambda flags, itt, ttt, number, keys, immediate: pdu(
            TEXT, flags, itt=itt, ttt=ttt, cmd_sn=number, data=keys, immediate=immediate
        ),
        st.sampled_from([0x80, 0x40, 0xC0, 0]),
        _TAGS,
        _TRANSFER_TAGS,
        _NUMBERS,
        st.sampled_from(
            [
                b"",
                b"=",
                encode_text({"SendTargets": "All"}),
                encode_text({"MaxRecvDataSegmentLength": "512", "X": "y"}),
                b"Send",
            ]
        ),
        _FLAG,
    ),
    st.builds(
        lambda function, itt, referenced, number, reference, immediate: pdu(
            TASK_REQUEST,
            0x80 | function,
            itt=itt,
            ttt=referenced,
            cmd_sn=number,
            ref_cmd_sn=reference,
            immediate=immediate,
        ),
        st.integers(0, 10),
        _TAGS,
        _TAGS,
        _NUMBERS,
        _NUMBERS,
        _FLAG,
    ),
    st.builds(
        lambda reason, number, immediate: pdu(
            LOGOUT, 0x80 | reason, itt=9, ttt=1 << 16, cmd_sn=number, immediate=immediate
        ),
        st.integers(0, 4),
        _NUMBERS,
        _FLAG,
    ),
    st.builds(pdu, st.integers(0, 0x3F), st.integers(0, 255), data=_DATA, itt=_TAGS),
)


@attrs.frozen
class Traffic:
    """What one client sends after its login, and how the session was agreed on."""

    keys: dict[str, str]
    stream: bytes


@st.composite
def _traffic(draw: st.DrawFn) -> Traffic:
    """A row of PDUs, most of them well formed, some of the bytes changed."""
    keys = {
        "InitialR2T": draw(st.sampled_from(["Yes", "No"])),
        "ImmediateData": draw(st.sampled_from(["Yes", "No"])),
        "HeaderDigest": draw(st.sampled_from(["None", "CRC32C"])),
        "DataDigest": draw(st.sampled_from(["None", "CRC32C"])),
        "MaxOutstandingR2T": draw(st.sampled_from(["1", "3"])),
    }
    stream = bytearray()
    for one in draw(st.lists(_PDUS, max_size=12)):
        stream += one.encode(
            header_digest=keys["HeaderDigest"] == "CRC32C",
            data_digest=keys["DataDigest"] == "CRC32C",
        )
    for at, value in draw(
        st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=3)
    ):
        if stream:
            stream[at % len(stream)] = value
    return Traffic(keys, bytes(stream + draw(st.binary(max_size=60))))


def _summary(found: list[events.Event], bench: Bench) -> list[object]:
    seen: list[object] = []
    for event in found:
        if isinstance(event, Command):
            place = event.view if event.view is not None else b""
            seen.append((event.itt, event.cmd_sn, event.cdb, bytes(place)))
        elif isinstance(event, events.DataComplete | events.DataRefused | events.Released):
            seen.append((type(event), event.command.itt, event.command.filled))
        elif isinstance(event, events.TaskManagement):
            named = event.referenced.itt if event.referenced else None
            seen.append((event.function, event.itt, named, event.unreceived))
        else:
            seen.append(event)
    return seen


def _session(traffic: Traffic, cuts: list[int]) -> tuple[list[object], bytes, str]:
    bench = Bench(_CONFIG).login(**traffic.keys)
    bench.feed_bytes(traffic.stream, cuts)
    sent = b"".join(bytes(part) for part in bench.connection.data_to_send())
    return _summary(bench.events, bench), sent, bench.connection.violation


_CUTS = st.lists(st.integers(1, 700), max_size=30)
_FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
_MANY = settings(_FEW, max_examples=10_000)


@_FEW
@given(_traffic(), _CUTS)
def test_traffic_of_any_kind_is_the_same_in_any_pieces(traffic: Traffic, cuts: list[int]) -> None:
    """The events, the answers and the end do not depend on how TCP cuts the stream."""
    assert _session(traffic, cuts) == _session(traffic, [])


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@_MANY
@given(_traffic(), _CUTS)
def test_much_traffic_is_the_same_in_any_pieces(traffic: Traffic, cuts: list[int]) -> None:
    """As above, for as long as nobody waits for it."""
    assert _session(traffic, cuts) == _session(traffic, [])


class _Door:
    """Answers, forgets and supplies as it comes to mind."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.waiting: list[Command] = []
        self.known: list[Command] = []
        self.given: dict[int, tuple[Command, bytearray]] = {}

    def allocate(self, one: Command) -> memoryview | None:
        """Memory now, later, or less than the initiator has."""
        choice = self.random.random()
        if choice < 0.3:
            self.waiting.append(one)
            return None
        length = one.write_length if choice < 0.8 else self.random.randint(0, one.write_length)
        buffer = bytearray(length)
        self.given[id(one)] = (one, buffer)
        return memoryview(buffer)

    def at_once(self, lun: int, cdb: bytes) -> bytes:
        """What is known, or that nothing is."""
        del lun, cdb
        return bytes(self.random.choice([0, 0, 1, 24, 600, 9000]))

    def act(self, bench: Bench) -> None:
        """One of the things that a door may do at any time."""
        connection, chance = bench.connection, self.random.random()
        requests: list[events.Event] = list(bench.events)
        bench.events.clear()
        for event in requests:
            if isinstance(event, Command):
                self.known.append(event)
            elif isinstance(event, events.TaskManagement):
                connection.task_management_response(event, 0)
            elif isinstance(event, events.TargetsRequested):
                connection.send_targets(event, [("iqn.x", ["h:1,2"])] * self.random.randint(0, 99))
            elif isinstance(event, events.LogoutRequested) and chance < 0.5:
                connection.logout_response(event)
        if chance < 0.4 and self.known:
            one = self.known.pop(self.random.randrange(len(self.known)))
            if self.random.random() < 0.3:
                connection.forget(one)
            else:
                data = [bytes(self.random.randint(0, 9000))] * self.random.randint(0, 2)
                status = self.random.choice([0, 0, 2, 8, 0x40])
                connection.respond(one, status, b"s" * 18 if status == 2 else b"", data)
        elif chance < 0.7 and self.waiting:
            one = self.waiting.pop()
            bench.events += connection.supply(one, memoryview(bytearray(one.write_length)))
        elif chance < 0.75:
            connection.nop_in()


@_FEW
@given(_traffic(), _CUTS, st.integers(0, 1 << 30))
def test_door_may_do_anything_at_any_time(traffic: Traffic, cuts: list[int], seed: int) -> None:
    """Answers in any order, late memory, aborts between two pieces of a segment."""
    _anything(traffic, cuts, seed)


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@_MANY
@given(_traffic(), _CUTS, st.integers(0, 1 << 30))
def test_door_may_do_anything_for_long(traffic: Traffic, cuts: list[int], seed: int) -> None:
    """As above, for as long as nobody waits for it."""
    _anything(traffic, cuts, seed)


def _anything(traffic: Traffic, cuts: list[int], seed: int) -> None:
    door = _Door(seed)
    bench = Bench(_CONFIG, allocate=door.allocate, at_once=door.at_once).login(**traffic.keys)
    rest = traffic.stream
    for cut in [*cuts, len(rest)]:
        bench.feed_bytes(rest[:cut])
        rest = rest[cut:]
        door.act(bench)
        limit = _CONFIG.window + _CONFIG.immediate_limit
        assert len(bench.connection.commands) <= limit
        bench.connection.data_to_send()
    bench.connection.abandon()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.lists(st.integers(1, 60), max_size=10))
def test_bytes_of_any_kind_before_the_login_never_raise(data: bytes, cuts: list[int]) -> None:
    """Total: the connection closes, waits, or answers with a login status."""
    Bench().feed_bytes(data, cuts)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.dictionaries(
                st.sampled_from(
                    [*NAMES, "AuthMethod", *_CHAP_KEYS, "MaxBurstLength", "HeaderDigest", "X"]
                ),
                st.sampled_from(
                    [
                        *NAMES.values(),
                        "CHAP",
                        "None",
                        "5",
                        "0x00",
                        "user",
                        "",
                        "Discovery",
                        "Reject",
                    ]
                ),
                max_size=8,
            ),
            st.integers(0, 255),
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_logins_of_any_kind_never_raise(
    requests: list[tuple[dict[str, str], int]], protected: bool
) -> None:
    """Total, and nobody reaches the full feature phase without the secret."""
    admission = Admission(2, chap={"user": b"secret"} if protected else None)
    bench = Bench(admission=admission)
    for keys, flags in requests:
        if bench.connection.phase is Phase.LOGIN:
            bench.feed(login_pdu(keys, flags))
    if protected:
        assert bench.connection.phase is not Phase.FULL_FEATURE


def _lying_login() -> bytes:
    lie = login_pdu(NAMES)
    lie.header[5:8] = b"\xff\xff\xff"
    return lie.encode_as_is()


def _lying_command() -> bytes:
    return command(1, write=0xFFFFFFFF, final=False).encode()


def _many_texts() -> bytes:
    return b"".join(
        pdu(TEXT, 0x40, immediate=True, itt=1, ttt=NO_TAG, data=b"x" * 8000).encode()
        for _ in range(100)
    )


def _many_writes() -> bytes:
    return b"".join(
        command(n, cmd_sn=FIRST_CMD_SN + n, write=262144, data=bytes(65536)).encode()
        for n in range(64)
    )


@pytest.mark.parametrize(
    ("make", "logged_in", "bound"),
    [
        (_lying_login, False, 100_000),
        (_lying_command, True, 262144 + 100_000),
        (_many_texts, True, 100_000),
        (_many_writes, True, MAX_PENDING + 400_000),
    ],
)
def test_memory_that_a_peer_can_take_is_bounded(
    make: Callable[[], bytes], logged_in: bool, bound: int
) -> None:
    """Claimed lengths, texts without end, and writes for which the door has no memory."""
    data = make()
    bench = Bench(allocate=lambda _: None)
    if logged_in:
        bench.login(FirstBurstLength="262144")
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for at in range(0, len(data), BUFFER):
            bench.feed_bytes(data[at : at + BUFFER])
            bench.connection.data_to_send()
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert kept < bound


def test_memory_of_a_client_that_only_knocks_is_small() -> None:
    """Thousands of connections that never log in must be affordable."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        benches = [Bench() for _ in range(100)]
        for bench in benches:
            bench.feed_bytes(login_pdu(NAMES).encode()[:60])
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert kept < 100 * 20_000
