"""Every parser is total: any bytes give a value or a sense, never an exception."""

from __future__ import annotations

import itertools
import typing

from hypothesis import example, given, settings
from hypothesis import strategies as st

from flockpr.spc import pr_in
from flockpr.spc.cdb import Command, OtherCommand, PersistentReserveOut, Refused, parse_command
from flockpr.spc.prout_list import (
    PROutParameters,
    encode_basic_list,
    encode_move_list,
    parse_parameter_list,
)
from flockpr.spc.sense import parse_sense
from flockpr.spc.transport_id import (
    InitiatorPort,
    TransportId,
    TransportIdFault,
    encode,
    parse_transport_id,
    parse_transport_ids,
)
from tests.support.spc_strategies import QUIET, keys, transport_ids, unsigned

LONG = settings(QUIET, max_examples=300)

any_bytes = st.binary(max_size=600)
cdbs = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda opcode, rest: bytes((opcode,)) + rest,
        st.sampled_from((0x5E, 0x5F, 0x16, 0x17, 0x56, 0x57, 0x7F, 0x12, 0x9E)),
        st.binary(max_size=39),
    ),
)
basic_lists = st.builds(
    encode_basic_list,
    keys,
    keys,
    aptpl=st.booleans(),
    all_tg_pt=st.booleans(),
    transport_ids=st.none() | st.lists(transport_ids, max_size=4),
)
move_lists = st.builds(
    encode_move_list,
    keys,
    keys,
    transport_ids,
    unsigned(16),
    unreg=st.booleans(),
    aptpl=st.booleans(),
)


@st.composite
def damaged(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """Return valid bytes after a few bit flips, overwrites, cuts and insertions."""
    data = bytearray(draw(valid))
    for _ in range(draw(st.integers(0, 4))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.integers(0, 4)):
            case 0:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                data[at] = draw(st.sampled_from((0x00, 0x7F, 0x80, 0xFF)))
            case 2:
                del data[at:]
            case 3:
                data[at:at] = draw(st.binary(max_size=30))
            case _:
                del data[at : at + draw(st.integers(1, 8))]
    return bytes(data)


lists = st.one_of(any_bytes, damaged(basic_lists), damaged(move_lists))


def check_parameters(parameters: PROutParameters, size: int) -> None:
    """Check what holds for every result of reading a list of `size` bytes."""
    fault = parameters.fault
    assert (parameters.reservation_key is None) == (size < 8)
    assert (parameters.service_action_reservation_key is None) == (size < 16)
    if fault is None:
        assert size >= 24
    else:
        assert str(fault) in {"05/1A/00", "05/26/00"}
        assert len(fault.fixed()) == 18
    if fault is not None and fault.pointer is not None:
        assert not fault.pointer.in_cdb
        assert fault.pointer.byte < size
    offsets = [entry.offset for entry in parameters.transport_ids]
    assert offsets == sorted(set(offsets))
    assert all(24 <= offset <= size - 24 for offset in offsets)


@LONG
@given(cdbs, lists, st.booleans())
@example(b"", b"", True)
def test_parse_command_of_any_bytes_gives_a_command(cdb: bytes, data: bytes, long: bool) -> None:
    """A command or a refusal with ILLEGAL REQUEST, whatever comes."""
    command = parse_command(cdb, data, long_parameter_length=long)
    assert isinstance(command, typing.get_args(Command))
    if isinstance(command, Refused):
        assert str(command.sense) in {"05/20/00", "05/24/00"}
        assert len(command.sense.fixed()) == 18
        assert len(command.sense.descriptor()) in {8, 16}
    elif isinstance(command, PersistentReserveOut):
        length = int.from_bytes(cdb[5 if long else 7 : 9], "big")
        check_parameters(command.parameters, min(length, len(data)))
    elif isinstance(command, OtherCommand):
        assert (command.cdb, command.opcode) == (cdb, cdb[0])


def test_parse_command_of_every_opcode_and_length_gives_a_command() -> None:
    """No opcode is an exception at any CDB length, with all bits clear or set."""
    for opcode, size in itertools.product(range(256), range(1, 34)):
        for fill in (b"\0", b"\xff"):
            command = parse_command(bytes((opcode,)).ljust(size, fill))
            assert isinstance(command, typing.get_args(Command))


@LONG
@given(st.integers(0, 31), lists, st.integers(-40, 40))
def test_parse_parameter_list_of_any_bytes_gives_parameters(
    action: int, data: bytes, difference: int
) -> None:
    """Whatever came, and whatever length the CDB said: keys that came, and a fault."""
    length = max(0, len(data) + difference)
    parameters = parse_parameter_list(action, length, data)
    check_parameters(parameters, min(length, len(data)))
    if difference > 0:
        assert parameters.fault is not None


@LONG
@given(st.sampled_from((0, 3, 6, 7)), lists)
def test_list_without_fault_means_the_same_when_written_again(action: int, data: bytes) -> None:
    """Nothing that is accepted gets lost or invented by reading."""
    read = parse_parameter_list(action, len(data), data)
    if read.fault is not None:
        return
    assert read.reservation_key is not None
    assert read.service_action_reservation_key is not None
    ports = [entry.transport_id for entry in read.transport_ids]
    if action == 7:
        again = encode_move_list(
            read.reservation_key,
            read.service_action_reservation_key,
            ports[0],
            read.relative_target_port,
            unreg=read.unreg,
            aptpl=read.aptpl,
        )
    else:
        again = encode_basic_list(
            read.reservation_key,
            read.service_action_reservation_key,
            aptpl=read.aptpl,
            all_tg_pt=read.all_tg_pt,
            transport_ids=ports if read.spec_i_pt else None,
        )
    second = parse_parameter_list(action, len(again), again)
    assert second.fault is None
    assert [entry.transport_id for entry in second.transport_ids] == ports
    assert parse_parameter_list(action, len(again), again) == second
    for field in ("reservation_key", "service_action_reservation_key", "aptpl", "all_tg_pt"):
        assert getattr(second, field) == getattr(read, field)
    for field in ("spec_i_pt", "unreg", "relative_target_port"):
        assert getattr(second, field) == getattr(read, field)


@LONG
@given(st.one_of(any_bytes, damaged(transport_ids.map(encode))), st.integers(0, 700))
def test_parse_transport_id_of_any_bytes_gives_a_value_or_a_fault(data: bytes, offset: int) -> None:
    """A TransportID of a known protocol, or the offset of what is none."""
    for start in (0, offset):
        found = parse_transport_id(data, start)
        assert isinstance(found, (*typing.get_args(TransportId), TransportIdFault))
        if isinstance(found, TransportIdFault):
            assert found.offset == start
        else:
            assert parse_transport_id(encode(found)) == found
    listed, fault = parse_transport_ids(data, 0, offset)
    assert fault is None or fault.offset < min(offset, len(data))
    assert len(listed) <= len(data) // 24


def test_parse_transport_id_of_every_first_byte_gives_a_value_or_a_fault() -> None:
    """Every format code and protocol, with all bits behind it clear or set."""
    for first, fill in itertools.product(range(256), (b"\0", b"\xff", b"a")):
        found = parse_transport_id(bytes((first,)).ljust(24, fill))
        known = first >> 6 == 0 and first & 0x0F in {0, 1, 3, 4, 6, 0xA}
        assert isinstance(found, TransportIdFault) != known


@LONG
@given(any_bytes)
def test_payload_and_sense_parsers_of_any_bytes_give_a_value_or_none(data: bytes) -> None:
    """A client's parsers do not trust the target either."""
    for parse in (pr_in.parse_keys, pr_in.parse_reservation, pr_in.parse_full_status):
        assert (parse(data) is None) == (len(data) < 8)
    assert (pr_in.parse_capabilities(data) is None) == (len(data) < 6)
    parse_sense(data)


@LONG
@given(st.binary(max_size=40), st.sampled_from((0x70, 0x72, 0xF0, 0xF2)))
def test_parse_sense_of_any_bytes_behind_a_response_code_does_not_raise(
    data: bytes, response: int
) -> None:
    """Descriptors that lie about their length end the search."""
    found = parse_sense(bytes((response,)) + data)
    assert found is None or (found.key < 16 and len(found.fixed()) == 18)


@LONG
@given(st.text(max_size=60) | st.text(st.sampled_from("aA,iI0xX19 \0é")))
def test_from_text_of_any_text_gives_a_port_or_value_error(text: str) -> None:
    """Text from a configuration file or a document."""
    try:
        port = InitiatorPort.from_text(text)
    except ValueError:
        return
    assert InitiatorPort.from_text(port.text) == port
    assert parse_transport_id(encode(port)) == port
