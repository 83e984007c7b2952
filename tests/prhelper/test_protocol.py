"""The framing, without sockets."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.errors import ProtocolViolation
from flockpr.prhelper.protocol import (
    GREETING,
    MAX_KNOWN,
    MAX_TRANSFER,
    Conversation,
    Request,
    encode_response,
)
from flockpr.spc.codes import Status

IN, OUT, CLEANUP = 0x5E, 0x5F, 0xFF


def cdb(opcode: int, length: int = 0, *, byte1: int = 0, high: bytes = b"\0\0") -> bytes:
    """16 bytes with the length at 7-8 and `high` at 5-6."""
    return bytes((opcode, byte1, 0, 0, 0)) + high + struct.pack(">H", length) + bytes(7)


def greeted() -> Conversation:
    """A conversation after the handshake."""
    conversation = Conversation()
    assert conversation.receive(bytes(4)) is None
    return conversation


def feed(conversation: Conversation, stream: bytes, descriptors: list[int]) -> list[Request]:
    """Feed a stream in the pieces asked for; descriptors come at these offsets."""
    requests, offset = [], 0
    while offset < len(stream):
        piece = stream[offset : offset + conversation.wanted]
        inside = [at for at in descriptors if offset <= at < offset + len(piece)]
        count = len(inside) if conversation.takes_descriptors else 0
        request = conversation.receive(piece, count)
        offset += len(piece)
        if request is not None:
            requests.append(request)
    return requests


def test_greeting_is_zero_in_either_byte_order() -> None:
    """QEMU does not swap the feature word: only zero cannot be misread."""
    assert bytes(4) == GREETING


@pytest.mark.parametrize(
    ("word", "fine"),
    [
        (b"\0\0\0\0", True),
        (b"\0\0\0\1", True),
        (b"\0\0\0\2", False),
        (b"\1\0\0\0", False),
        (b"\xff\xff\xff\xff", False),
        (b"\0\0\0\3", False),
    ],
)
def test_features_not_offered_break_the_stream(word: bytes, fine: bool) -> None:
    """Bit 0 is CLEANUP, which is served anyway; any other bit closes."""
    conversation = Conversation()
    if fine:
        assert conversation.receive(word) is None
        assert conversation.greeted
        assert conversation.wanted == 16
    else:
        with pytest.raises(ProtocolViolation, match="not offered"):
            conversation.receive(word)


def test_request_in_is_complete_with_its_cdb() -> None:
    """PERSISTENT RESERVE IN has no data-out, whatever its allocation length."""
    conversation = greeted()
    request = conversation.receive(cdb(IN, 8192), 1)
    assert request == Request(cdb(IN, 8192))
    assert conversation.idle


def test_request_out_wants_exactly_its_data() -> None:
    """Data-out is read before anything is decided, without room for descriptors."""
    conversation = greeted()
    assert conversation.receive(cdb(OUT, 24), 1) is None
    assert conversation.wanted == 24
    assert not conversation.takes_descriptors
    assert not conversation.idle
    assert conversation.receive(bytes(range(24))) == Request(cdb(OUT, 24), bytes(range(24)))


def test_length_is_bytes_7_and_8_for_out_too() -> None:
    """Bytes 5-6 are not length: a CDB with 00 01 00 18 at 5-8 has 24 bytes of data-out."""
    conversation = greeted()
    assert conversation.receive(cdb(OUT, 24, high=b"\x00\x01"), 1) is None
    assert conversation.wanted == 24


@pytest.mark.parametrize("opcode", [IN, OUT])
def test_length_zero_is_accepted(opcode: int) -> None:
    """A length of zero is answered, for OUT without waiting for data."""
    assert greeted().receive(cdb(opcode, 0), 1) == Request(cdb(opcode, 0))


@pytest.mark.parametrize("opcode", [IN, OUT])
def test_length_above_the_most_breaks_the_stream(opcode: int) -> None:
    """8192 is accepted, 8193 and 65535 close."""
    conversation = greeted()
    conversation.receive(cdb(opcode, MAX_TRANSFER), 1)
    for length in (MAX_TRANSFER + 1, 65535):
        with pytest.raises(ProtocolViolation, match="transfer length"):
            greeted().receive(cdb(opcode, length), 1)


@pytest.mark.parametrize("opcode", [0x00, 0x12, 0x16, 0x17, 0x28, 0x5D, 0x60, 0x88, 0xA3, 0xFE])
def test_other_opcodes_break_the_stream(opcode: int) -> None:
    """Ruling 12.3: whether data-out follows them is unknown."""
    with pytest.raises(ProtocolViolation, match="operation code"):
        greeted().receive(cdb(opcode), 1)


def test_cleanup_is_a_request_without_data() -> None:
    """FFh may come without negotiation."""
    assert greeted().receive(cdb(CLEANUP), 1) == Request(cdb(CLEANUP))


def test_service_action_is_masked() -> None:
    """QEMU passes bits 5-7 of byte 1 on as the guest wrote them."""
    request = greeted().receive(cdb(IN, 8, byte1=0xE3), 1)
    assert request is not None
    assert request.service_action == 3


@pytest.mark.parametrize("at", range(16))
def test_descriptor_may_come_with_any_byte_of_the_cdb(at: int) -> None:
    """The descriptor is accepted with any of the 16 bytes."""
    conversation = greeted()
    for index, byte in enumerate(cdb(IN, 8)):
        request = conversation.receive(bytes((byte,)), 1 if index == at else 0)
    assert request == Request(cdb(IN, 8))


@pytest.mark.parametrize("opcode", [IN, OUT, CLEANUP])
def test_descriptor_missing_breaks_the_stream(opcode: int) -> None:
    """No descriptor by the end of the CDB closes, before data-out is waited for."""
    with pytest.raises(ProtocolViolation, match="no file descriptor"):
        greeted().receive(cdb(opcode, 24))


def test_descriptor_of_the_last_request_does_not_serve_the_next() -> None:
    """Each request needs its own."""
    conversation = greeted()
    conversation.receive(cdb(IN, 8), 1)
    with pytest.raises(ProtocolViolation, match="no file descriptor"):
        conversation.receive(cdb(IN, 8))


def test_request_that_comes_again_is_checked_again() -> None:
    """It is known, and what comes with it is not: a descriptor, none, two, or one that was lost."""
    again = cdb(IN, 8)
    conversation = greeted()
    for _ in range(3):
        assert conversation.receive(again, 1) == Request(again)
    for came in (0, 1):
        lost = conversation.receive(again, came, lost=True)
        assert lost == Request(again, descriptor_lost=True)
    assert conversation.receive(again, 1) == Request(again)
    assert conversation.receive(again[:8], 1) is None
    assert conversation.receive(again[8:]) == Request(again)
    with pytest.raises(ProtocolViolation, match="more than one"):
        conversation.receive(again, 2)


def test_data_that_looks_like_a_known_request_is_data() -> None:
    """A parameter list may have any bytes."""
    conversation, known = greeted(), cdb(IN, 8)
    assert conversation.receive(known, 1) == Request(known)
    for _ in range(2):
        assert conversation.receive(cdb(OUT, 16), 1) is None
        assert conversation.receive(known) == Request(cdb(OUT, 16), known)


@given(st.lists(st.integers(0, 9), max_size=40))
def test_known_requests_are_few_and_right(lengths: list[int]) -> None:
    """However many different ones a guest sends."""
    conversation = greeted()
    for length in lengths:
        assert conversation.receive(cdb(IN, length), 1) == Request(cdb(IN, length))
        assert len(conversation._known) <= MAX_KNOWN


def test_second_descriptor_breaks_the_stream_at_once() -> None:
    """Two in one message, or one with each half of the CDB."""
    with pytest.raises(ProtocolViolation, match="more than one"):
        greeted().receive(cdb(IN, 8), 2)
    conversation = greeted()
    conversation.receive(cdb(IN, 8)[:8], 1)
    with pytest.raises(ProtocolViolation, match="more than one"):
        conversation.receive(cdb(IN, 8)[8:], 1)


def test_descriptor_lost_by_the_system_is_a_request_to_refuse() -> None:
    """A full table of open files is ours to answer for, and data-out is still consumed."""
    conversation = greeted()
    assert conversation.receive(cdb(OUT, 4), 0, lost=True) is None
    request = conversation.receive(b"data")
    assert request is not None
    assert request.descriptor_lost
    following = conversation.receive(cdb(IN, 4), 1)
    assert following is not None
    assert not following.descriptor_lost


def test_receive_of_more_than_wanted_is_refused() -> None:
    """A longer read would mix up descriptors, so it is a mistake of the caller."""
    with pytest.raises(ValueError, match="wanted"):
        Conversation().receive(bytes(5))
    with pytest.raises(ValueError, match="wanted"):
        Conversation().receive(b"")


@pytest.mark.parametrize(
    ("stream", "within"),
    [
        (b"", ""),
        (bytes(2), "the feature word"),
        (bytes(4), ""),
        (bytes(4) + cdb(OUT, 24)[:1], "a CDB"),
        (bytes(4) + cdb(OUT, 24)[:15], "a CDB"),
        (bytes(4) + cdb(OUT, 24), "data-out"),
        (bytes(4) + cdb(OUT, 24) + bytes(23), "data-out"),
        (bytes(4) + cdb(OUT, 24) + bytes(24), ""),
    ],
)
def test_end_of_stream_says_what_it_interrupts(stream: bytes, within: str) -> None:
    """Only the end between two requests is an orderly one."""
    conversation = Conversation()
    feed(conversation, stream, [4])
    assert conversation.end() == within


@given(
    st.lists(
        st.tuples(st.sampled_from([IN, OUT, CLEANUP]), st.integers(0, 200), st.integers(0, 15)),
        max_size=8,
    )
)
def test_pipelined_requests_come_out_as_they_went_in(items: list[tuple[int, int, int]]) -> None:
    """Any sequence of requests, each with its descriptor at any byte of its CDB."""
    stream, descriptors, expected = bytes(4), [], []
    for opcode, length, at in items:
        descriptors.append(len(stream) + at)
        data = bytes((length * 7 + at) % 256 for _ in range(length)) if opcode == OUT else b""
        stream += cdb(opcode, length) + data
        expected.append(Request(cdb(opcode, length), data))
    conversation = Conversation()
    assert feed(conversation, stream, descriptors) == expected
    assert conversation.end() == ""


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=6))
def test_any_stream_gives_requests_or_a_violation(stream: bytes, descriptors: list[int]) -> None:
    """Total: no stream raises anything else, and buffers stay bounded."""
    conversation = Conversation()
    try:
        feed(conversation, stream, descriptors)
    except ProtocolViolation:
        return
    assert 1 <= conversation.wanted <= MAX_TRANSFER


def decode(response: bytes) -> tuple[int, int, bytes, bytes]:
    """Status, announced size, sense and payload of a response."""
    status, size, sense = struct.unpack_from(">ii96s", response)
    return status, size, sense, response[104:]


@given(
    opcode=st.sampled_from([IN, OUT, CLEANUP]),
    length=st.integers(0, MAX_TRANSFER),
    status=st.sampled_from(list(Status)),
    sense=st.binary(max_size=120),
    data_in=st.binary(max_size=300),
)
def test_response_never_has_a_size_that_aborts_qemu(
    opcode: int, length: int, status: Status, sense: bytes, data_in: bytes
) -> None:
    """Payload only for IN with GOOD, at most the allocation length, the size its exact length."""
    response = encode_response(Request(cdb(opcode, length)), status, sense, data_in)
    answered, size, carried, payload = decode(response)
    assert answered == status
    assert size == len(payload) <= length
    if opcode != IN or status != Status.GOOD:
        assert size == 0
    else:
        assert payload == data_in[:length]
    if status == Status.CHECK_CONDITION:
        assert carried == sense[:96].ljust(96, b"\0") or not sense
        assert carried.strip(b"\0") or sense
    else:
        assert carried == bytes(96)


def test_response_check_condition_without_sense_says_hardware_error() -> None:
    """All-zero sense data would tell the guest that nothing is wrong."""
    *_, sense, payload = decode(encode_response(Request(cdb(IN, 8)), 2, b"", b"data"))
    assert (sense[0], sense[2], sense[12], sense[13]) == (0x70, 0x04, 0x44, 0x00)
    assert payload == b""
