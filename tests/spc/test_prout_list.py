"""PERSISTENT RESERVE OUT parameter lists (SPC-4 6.16.3, 6.16.4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.spc.codes import OutAction
from flockpr.spc.prout_list import (
    MAX_LENGTH,
    PROutParameters,
    encode_basic_list,
    encode_move_list,
    parse_parameter_list,
)
from flockpr.spc.sense import (
    INVALID_SPEC_I_PT,
    PARAMETER_LIST_LENGTH_ERROR,
    Sense,
    list_field,
)
from flockpr.spc.transport_id import InitiatorPort, ListedTransportId, Sas, TransportId, encode
from tests.support.spc_strategies import QUIET, initiator_ports, keys, transport_ids, unsigned

A = InitiatorPort("iqn.2024-01.org.example:a", 1)
B = InitiatorPort("iqn.2024-01.org.example:b")
ALL_BUT_MOVE = [action for action in OutAction if action != OutAction.REGISTER_AND_MOVE]
ALL_BUT_REGISTER = [action for action in ALL_BUT_MOVE if action != OutAction.REGISTER]


def parse(action: int, data: bytes, length: int | None = None) -> PROutParameters:
    """Parse a list whose CDB tells its length, unless another length is given."""
    return parse_parameter_list(action, len(data) if length is None else length, data)


# Basic list


@pytest.mark.parametrize("action", ALL_BUT_MOVE)
def test_basic_list_vector_is_read(action: OutAction) -> None:
    """SPC-4 6.16.3: keys in bytes 0-15, ALL_TG_PT and APTPL in byte 20."""
    data = bytes.fromhex("0123456789abcdef fedcba9876543210 00000000 05 00 0000")
    expected = PROutParameters(0x0123456789ABCDEF, 0xFEDCBA9876543210, aptpl=True, all_tg_pt=True)
    assert parse(action, data) == expected
    assert (
        encode_basic_list(0x0123456789ABCDEF, 0xFEDCBA9876543210, aptpl=True, all_tg_pt=True)
        == data
    )


def test_basic_list_obsolete_and_reserved_bits_are_ignored() -> None:
    """SPC-4 6.16.3: bytes 16-19 and 22-23 are obsolete, the rest of 20-21 reserved."""
    data = bytes(15) + b"\x07" + b"\xff" * 4 + b"\xf3" + b"\xff" * 3
    assert parse(0, data) == PROutParameters(0, 7, aptpl=True)


@pytest.mark.parametrize("action", ALL_BUT_MOVE)
@pytest.mark.parametrize("size", [*range(24), 25, 28, 48])
def test_basic_list_of_other_length_is_a_length_fault_with_keys(
    action: OutAction, size: int
) -> None:
    """SPC-4 6.16.1: 05/1A/00, beside whatever keys could be read."""
    parameters = parse(action, encode_basic_list(1, 2).ljust(48, b"\0")[:size])
    assert parameters.fault == PARAMETER_LIST_LENGTH_ERROR
    assert parameters.reservation_key == (1 if size >= 8 else None)
    assert parameters.service_action_reservation_key == (2 if size >= 16 else None)


def test_basic_list_data_beyond_its_length_are_no_part_of_it() -> None:
    """A buffer longer than PARAMETER LIST LENGTH is cut to it."""
    assert parse(0, encode_basic_list(1, 2) + b"\xff" * 9, 24) == PROutParameters(1, 2)


@pytest.mark.parametrize("action", list(OutAction))
def test_list_with_less_data_than_its_length_is_a_length_fault(action: OutAction) -> None:
    """The CDB promised more than came."""
    data = encode_basic_list(1, 2)
    assert parse(action, data, 25).fault == PARAMETER_LIST_LENGTH_ERROR
    assert parse(action, data[:20], 24).fault == PARAMETER_LIST_LENGTH_ERROR
    assert parse(action, b"", 24) == PROutParameters(fault=PARAMETER_LIST_LENGTH_ERROR)


@pytest.mark.parametrize("size", range(25))
def test_move_list_without_transport_id_has_a_fault_and_the_keys(size: int) -> None:
    """SPC-4 6.16.4: 05/1A/00 below 24 bytes, then TRANSPORTID LENGTH promises too much."""
    parameters = parse(7, encode_move_list(1, 2, A, unreg=True)[:size])
    assert parameters.fault == (list_field(20) if size == 24 else PARAMETER_LIST_LENGTH_ERROR)
    assert parameters.reservation_key == (1 if size >= 8 else None)
    assert parameters.service_action_reservation_key == (2 if size >= 16 else None)
    assert parameters.unreg == (size >= 18)


# SPEC_I_PT


def test_spec_i_pt_list_vector_is_read() -> None:
    """SPC-4 6.16.3: TransportIDs back to back from byte 28, with their offsets."""
    data = encode_basic_list(0, 5, transport_ids=[A, B])
    assert data[20] == 0x08
    assert int.from_bytes(data[24:28], "big") == len(data) - 28
    assert parse(0, data) == PROutParameters(
        0,
        5,
        spec_i_pt=True,
        transport_ids=(ListedTransportId(28, A), ListedTransportId(28 + len(encode(A)), B)),
    )


def test_spec_i_pt_without_transport_ids_is_no_fault() -> None:
    """An empty list of ports is a plain REGISTER."""
    data = encode_basic_list(0, 5, transport_ids=[])
    assert len(data) == 28
    assert parse(0, data) == PROutParameters(0, 5, spec_i_pt=True)


@pytest.mark.parametrize("action", ALL_BUT_REGISTER)
@pytest.mark.parametrize("size", [21, 24, 27, 28, 60, 200])
def test_spec_i_pt_on_other_service_action_is_a_list_fault_whatever_the_length(
    action: OutAction, size: int
) -> None:
    """SPC-4 6.16.3: SPEC_I_PT=1 belongs to REGISTER only; pointer byte 20 bit 3."""
    data = encode_basic_list(1, 2, transport_ids=[A]).ljust(200, b"\0")
    parameters = parse(action, data[:size])
    assert parameters.fault == INVALID_SPEC_I_PT
    assert (parameters.reservation_key, parameters.service_action_reservation_key) == (1, 2)


@pytest.mark.parametrize("size", [24, 25, 27])
def test_spec_i_pt_list_shorter_than_28_is_a_length_fault(size: int) -> None:
    """SPC-4 6.16.3: the length field of the TransportIDs has to be there."""
    data = encode_basic_list(0, 5, transport_ids=[A])[:size]
    parameters = parse(0, data)
    assert parameters.fault == PARAMETER_LIST_LENGTH_ERROR
    assert parameters.short_of_spec_i_pt


@pytest.mark.parametrize(("size", "length"), [(21, 21), (23, 23), (24, 28), (28, 29)])
def test_spec_i_pt_list_with_another_length_fault_is_not_only_short_of_spec_i_pt(
    size: int, length: int
) -> None:
    """A list that is no basic list either keeps its fault where SPEC_I_PT is ignored."""
    parameters = parse(0, encode_basic_list(0, 0, transport_ids=[])[:size], length)
    assert parameters.fault == PARAMETER_LIST_LENGTH_ERROR
    assert not parameters.short_of_spec_i_pt


def test_spec_i_pt_data_length_beyond_the_list_points_to_byte_24() -> None:
    """SPC-4 6.16.3: TRANSPORTID PARAMETER DATA LENGTH lies; no entry is trusted."""
    data = encode_basic_list(0, 5, transport_ids=[A, B])[:-1]
    parameters = parse(0, data)
    assert parameters.fault == list_field(24)
    assert parameters.transport_ids == ()


def test_spec_i_pt_bytes_after_the_transport_ids_are_ignored() -> None:
    """Only what the data length covers is a list of TransportIDs."""
    data = encode_basic_list(0, 5, transport_ids=[A])
    assert parse(0, data + b"\xff" * 5) == parse(0, data)


@pytest.mark.parametrize("rest", [b"\0", b"\0" * 23, b"\x06" + bytes(15), b"\x02" + bytes(23)])
def test_spec_i_pt_rest_that_is_no_transport_id_points_to_it(rest: bytes) -> None:
    """SPC-4 7.6.4: 05/26/00 with the offset of that TransportID; those before it are read."""
    data = bytearray(encode_basic_list(0, 5, transport_ids=[A]) + rest)
    offset = len(data) - len(rest)
    data[24:28] = (len(data) - 28).to_bytes(4, "big")
    parameters = parse(0, bytes(data))
    assert parameters.fault == list_field(offset)
    assert parameters.transport_ids == (ListedTransportId(28, A),)


def test_spec_i_pt_entries_of_other_protocols_are_read_and_no_fault() -> None:
    """Whether this target speaks the protocol is the state machine's business."""
    parameters = parse(0, encode_basic_list(0, 5, transport_ids=[Sas(1), A]))
    assert parameters.fault is None
    assert [entry.offset for entry in parameters.transport_ids] == [28, 52]


def test_list_longer_than_is_taken_is_a_length_fault() -> None:
    """SPC-4 6.16.1: more than the device server can take is 05/1A/00; keys are read."""
    assert MAX_LENGTH == 256 * 1024
    longest = InitiatorPort("n" * 223, 1)
    fits = encode_basic_list(1, 2, transport_ids=[longest] * 1024)
    assert parse(0, fits).fault is None
    assert parse(0, fits.ljust(MAX_LENGTH, b"\0")).fault is None
    parameters = parse(0, fits.ljust(MAX_LENGTH + 1, b"\0"))
    assert parameters.fault == PARAMETER_LIST_LENGTH_ERROR
    assert (parameters.reservation_key, parameters.transport_ids) == (1, ())


# REGISTER AND MOVE


def test_move_list_vector_is_read() -> None:
    """SPC-4 6.16.4: UNREG and APTPL in byte 17, target port in 18-19, TransportID from 24."""
    entry = encode(A)
    data = bytes.fromhex("00000000000000010000000000000002 00 03 0102")
    data += len(entry).to_bytes(4, "big") + entry
    assert encode_move_list(1, 2, A, 0x0102, unreg=True, aptpl=True) == data
    parameters = parse(7, data)
    assert parameters == PROutParameters(
        1,
        2,
        aptpl=True,
        unreg=True,
        relative_target_port=0x0102,
        transport_ids=(ListedTransportId(24, A),),
    )
    assert parameters.transport_id == A


def test_move_list_reserved_bits_are_ignored() -> None:
    """SPC-4 6.16.4: byte 16 and bits 7-2 of byte 17; the target port is 1 unless said."""
    assert parse(7, encode_move_list(1, 2, A)).relative_target_port == 1
    data = bytearray(encode_move_list(1, 2, A))
    data[16:18] = b"\xff\xfc"
    assert parse(7, bytes(data)) == parse(7, encode_move_list(1, 2, A))


@pytest.mark.parametrize("length", [0, 4, 20, 23, 25, 26, 27, 0x2C + 8, 0xFFFFFFFC])
def test_move_list_with_wrong_transport_id_length_points_to_byte_20(length: int) -> None:
    """SPC-4 6.16.4: below 24, no multiple of 4, or longer than the list."""
    data = bytearray(encode_move_list(1, 2, A))
    assert len(data) == 24 + 0x30
    data[20:24] = length.to_bytes(4, "big")
    parameters = parse(7, bytes(data))
    assert parameters.fault == list_field(20)
    assert (parameters.reservation_key, parameters.transport_id) == (1, None)


def test_move_list_transport_id_cut_by_its_length_points_to_byte_20() -> None:
    """SPC-4 6.16.4: a truncated TransportID, though the list goes on."""
    data = bytearray(encode_move_list(1, 2, A))
    data[20:24] = (0x2C).to_bytes(4, "big")
    assert parse(7, bytes(data)).fault == list_field(20)


def test_move_list_longer_than_its_transport_id_is_read() -> None:
    """What follows the TransportID is ignored, inside its length and behind it."""
    data = bytearray(encode_move_list(1, 2, A) + b"\xff" * 8)
    plain = parse(7, encode_move_list(1, 2, A))
    assert parse(7, bytes(data)) == plain
    data[20:24] = (0x30 + 8).to_bytes(4, "big")
    assert parse(7, bytes(data)) == plain


def test_move_list_with_malformed_transport_id_points_to_it() -> None:
    """SPC-4 7.6.4: 05/26/00 with the byte of the TransportID."""
    data = bytearray(encode_move_list(1, 2, A))
    data[24] = 0x0F
    assert parse(7, bytes(data)).fault == list_field(24)


# Properties


@QUIET
@given(
    keys,
    keys,
    st.booleans(),
    st.booleans(),
    st.none() | st.lists(transport_ids, max_size=5),
)
def test_basic_list_round_trips(
    key: int, action_key: int, aptpl: bool, all_tg_pt: bool, values: list[TransportId] | None
) -> None:
    """What is encoded is what is read."""
    data = encode_basic_list(
        key, action_key, aptpl=aptpl, all_tg_pt=all_tg_pt, transport_ids=values
    )
    parameters = parse(0, data)
    assert parameters.fault is None
    assert parameters.reservation_key == key
    assert parameters.service_action_reservation_key == action_key
    assert (parameters.aptpl, parameters.all_tg_pt) == (aptpl, all_tg_pt)
    assert parameters.spec_i_pt == (values is not None)
    assert [entry.transport_id for entry in parameters.transport_ids] == (values or [])


@QUIET
@given(keys, transport_ids, unsigned(16), st.booleans(), st.booleans())
def test_move_list_round_trips(
    key: int, value: TransportId, port: int, unreg: bool, aptpl: bool
) -> None:
    """What is encoded is what is read."""
    action_key = key ^ 0x0123456789ABCDEF
    data = encode_move_list(key, action_key, value, port, unreg=unreg, aptpl=aptpl)
    assert parse(7, data) == PROutParameters(
        key,
        action_key,
        aptpl=aptpl,
        unreg=unreg,
        relative_target_port=port,
        transport_ids=(ListedTransportId(24, value),),
    )


def expected_prefix_fault(action: int, spec_i_pt: bool, size: int) -> Sense:
    """Say which fault a prefix of a valid list has, from the length rules alone."""
    if action == OutAction.REGISTER_AND_MOVE:
        return list_field(20) if size >= 24 else PARAMETER_LIST_LENGTH_ERROR
    return list_field(24) if spec_i_pt and size >= 28 else PARAMETER_LIST_LENGTH_ERROR


@QUIET
@given(st.lists(initiator_ports, min_size=1, max_size=4), st.data())
def test_every_proper_prefix_of_a_valid_list_has_its_fault(
    ports: list[InitiatorPort], data: st.DataObject
) -> None:
    """However a list is cut, the keys that came are read and the fault says what is wrong."""
    for action, whole in (
        (0, encode_basic_list(1, 2)),
        (0, encode_basic_list(1, 2, transport_ids=ports)),
        (7, encode_move_list(1, 2, ports[0])),
    ):
        size = data.draw(st.integers(0, len(whole) - 1))
        parameters = parse(action, whole[:size])
        assert parameters.fault == expected_prefix_fault(action, whole[20] == 8, size)
        assert parameters.reservation_key == (1 if size >= 8 else None)
        assert parameters.service_action_reservation_key == (2 if size >= 16 else None)
