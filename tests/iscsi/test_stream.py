"""Where PDUs begin and end."""

from __future__ import annotations

import attrs
import pytest

from flockpr.iscsi import digests
from flockpr.iscsi.stream import PduStream
from tests.support.iscsi_wire import pdu


@attrs.define
class Recorder:
    """A receiver that keeps everything; `room` is the size of the destinations it gives."""

    room: int | None = 1 << 24
    seen: list[tuple[int, bytes, bytes, bool]] = attrs.field(factory=list)
    reason: str = ""
    places: list[int] = attrs.field(factory=list)
    _bhs: bytes = b""
    _ahs: bytes = b""
    _data: bytearray | None = None

    def begin(self, bhs: bytes, ahs: bytes, length: int) -> memoryview | None:
        """Make room for the data."""
        self._bhs, self._ahs = bhs, ahs
        self.places.append(length)
        if self.room is None:
            self._data = bytearray()
            return None
        self._data = bytearray(min(length, self.room))
        return memoryview(self._data)

    def finish(self, intact: bool) -> bool:
        """Keep it."""
        self.seen.append((self._bhs[0], self._ahs, bytes(self._data or b""), intact))
        return True

    def broken(self, reason: str) -> None:
        """Keep why."""
        self.reason = reason


def _pour(stream: PduStream, data: bytes, piece: int) -> None:
    rest = memoryview(data)
    while rest:
        part, rest = rest[: piece or len(rest)], rest[piece or len(rest) :]
        while part:
            taken = 0
            for buffer in stream.get_buffers():
                count = min(len(buffer), len(part) - taken)
                buffer[:count] = part[taken : taken + count]
                taken += count
            part = part[taken:]
            stream.received(taken)


_PDUS = [
    pdu(1, itt=1),
    pdu(5, data=b"abc"),
    pdu(5, data=bytes(range(256)) * 8),
    pdu(1, ahs=b"\0\5\2\0abcd"),
    pdu(4, data=b"x" * 4096),
    pdu(0, data=b"wxyz"),
]


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("piece", [1, 7, 48, 52, 1000, 0])
def test_stream_in_any_pieces_gives_the_same_pdus(header: bool, data: bool, piece: int) -> None:
    """RFC 7143 11.1: headers, AHS, padding and digests, however they are cut."""
    recorder = Recorder()
    stream = PduStream(recorder, 2048, 1 << 16)
    stream.use_digests(digests.load(), header=header, data=data)
    text = b"".join(one.encode(header_digest=header, data_digest=data) for one in _PDUS)
    _pour(stream, text, piece)
    assert recorder.seen == [(one.header[0], one.ahs, one.data, True) for one in _PDUS]
    assert not recorder.reason


def test_stream_with_a_long_segment_offers_its_destination_first() -> None:
    """A large segment is not received into the buffer and then copied."""
    recorder = Recorder()
    stream = PduStream(recorder, 2048, 1 << 20)
    whole = pdu(5, data=b"q" * 100_000).encode()
    _pour(stream, whole[:148], 0)
    direct, ordinary = stream.get_buffers()
    assert len(direct) == 100_000 - 100
    assert len(ordinary) == 2048
    direct[:] = whole[148:]
    following = pdu(0).encode()
    ordinary[:48] = following
    stream.received(len(direct) + 48)
    assert [len(one[2]) for one in recorder.seen] == [100_000, 0]
    assert recorder.seen[0][2] == b"q" * 100_000


@pytest.mark.parametrize("room", [None, 0, 1, 99])
@pytest.mark.parametrize("piece", [1, 50, 0])
def test_stream_with_too_little_room_drops_the_rest(room: int | None, piece: int) -> None:
    """What does not fit its destination goes nowhere, and its digest is still looked at."""
    recorder = Recorder(room=room)
    stream = PduStream(recorder, 2048, 1 << 16)
    stream.use_digests(digests.load(), header=False, data=True)
    one = pdu(5, data=bytes(range(250))).encode(data_digest=True)
    _pour(stream, one + one, piece)
    expected = (5, b"", bytes(range(250))[: room or 0], True)
    assert recorder.seen == [expected, expected]


@pytest.mark.parametrize("at", [48, 100, 297, 298, 300, 302])
def test_stream_with_a_wrong_data_digest_says_so_and_goes_on(at: int) -> None:
    """RFC 7143 7.8: data, padding or the digest itself may be what is damaged."""
    recorder = Recorder()
    stream = PduStream(recorder, 2048, 1 << 16)
    stream.use_digests(digests.load(), header=False, data=True)
    damaged = bytearray(pdu(5, data=bytes(250)).encode(data_digest=True))
    damaged[at] ^= 0x10
    _pour(stream, bytes(damaged) + pdu(0).encode(), 0)
    assert [one[3] for one in recorder.seen] == [False, True]


@pytest.mark.parametrize("at", [0, 20, 47, 50, 59])
def test_stream_with_a_wrong_header_digest_breaks(at: int) -> None:
    """RFC 7143 7.8: where the next PDU begins is not known any more; AHS is covered, too."""
    recorder = Recorder()
    stream = PduStream(recorder, 2048, 1 << 16)
    stream.use_digests(digests.load(), header=True, data=False)
    damaged = bytearray(pdu(5, ahs=b"\0\5\2\0abcd").encode(header_digest=True))
    damaged[at] ^= 1
    _pour(stream, bytes(damaged), 0)
    assert recorder.reason == "header digest"
    assert not recorder.seen


def test_stream_with_a_segment_over_the_limit_breaks_before_anything_is_made() -> None:
    """No destination is asked for a length that is not allowed."""
    recorder = Recorder()
    stream = PduStream(recorder, 2048, 8192)
    lie = pdu(4)
    lie.header[5:8] = (8193).to_bytes(3, "big")
    _pour(stream, lie.encode_as_is(), 0)
    assert "8193" in recorder.reason
    assert not recorder.places


def test_stream_with_the_longest_ahs_fits_the_smallest_buffer() -> None:
    """TotalAHSLength of 255 words: 1072 bytes with header and digest."""
    recorder = Recorder()
    stream = PduStream(recorder, 1072, 8192)
    stream.use_digests(digests.load(), header=True, data=False)
    _pour(stream, pdu(1, ahs=bytes(1020), data=b"12").encode(header_digest=True) * 3, 13)
    assert [len(one[1]) for one in recorder.seen] == [1020] * 3


def test_stream_that_is_stopped_keeps_what_comes_until_it_is_full() -> None:
    """While a question is open nothing is parsed, nothing is lost and nothing grows."""
    recorder = Recorder()
    stream = PduStream(recorder, 2048, 8192)
    stream.stopped = True
    _pour(stream, pdu(0).encode() * 42, 0)
    assert not recorder.seen
    _pour(stream, bytes(32), 0)
    with pytest.raises(RuntimeError):
        stream.get_buffers()
    stream.stopped = False
    stream.parse()
    assert len(recorder.seen) == 42


def test_stream_that_has_ended_takes_anything_and_keeps_nothing() -> None:
    """After a violation bytes may still be coming."""
    recorder = Recorder()
    stream = PduStream(recorder, 2048, 8192)
    stream.discard()
    _pour(stream, pdu(0).encode() * 1000, 0)
    assert not recorder.seen


def test_stream_of_another_size_keeps_what_it_holds() -> None:
    """The buffer grows when the full feature phase begins."""
    recorder = Recorder()
    stream = PduStream(recorder, 1072, 8192)
    whole = pdu(0, data=b"abcd").encode()
    _pour(stream, whole + whole[:20], 0)
    stream.resize(65536)
    (buffer,) = stream.get_buffers()
    assert len(buffer) == 65536 - 20
    _pour(stream, whole[20:], 0)
    assert [one[2] for one in recorder.seen] == [b"abcd", b"abcd"]
