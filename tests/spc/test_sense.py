"""Sense data (SPC-4 4.5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.spc import sense
from flockpr.spc.codes import Attention
from flockpr.spc.sense import FieldPointer, Sense, parse_sense
from tests.support.spc_strategies import QUIET, unsigned

pointers = st.builds(FieldPointer, st.booleans(), unsigned(16), st.none() | st.integers(0, 7))
senses = st.one_of(
    st.builds(Sense, unsigned(4), unsigned(8), unsigned(8)),
    st.builds(Sense, st.just(5), unsigned(8), unsigned(8), pointers),
)


@pytest.mark.parametrize(
    ("value", "codes"),
    [
        (sense.PARAMETER_LIST_LENGTH_ERROR, "05/1A/00"),
        (sense.INVALID_OPCODE, "05/20/00"),
        (sense.INVALID_FIELD_IN_CDB, "05/24/00"),
        (sense.LUN_NOT_SUPPORTED, "05/25/00"),
        (sense.INVALID_FIELD_IN_PARAMETER_LIST, "05/26/00"),
        (sense.INVALID_RELEASE, "05/26/04"),
        (sense.INSUFFICIENT_REGISTRATION_RESOURCES, "05/55/04"),
        (sense.RESERVATION_INFORMATION_LOST, "07/44/01"),
        (sense.NOT_READY_BECOMING, "02/04/01"),
        (sense.NOT_READY_INTERVENTION, "02/04/03"),
        (sense.OUTCOME_UNKNOWN, "0B/08/01"),
        (sense.INTERNAL_TARGET_FAILURE, "04/44/00"),
    ],
)
def test_sense_named_constant_has_the_codes_of_the_standard(value: Sense, codes: str) -> None:
    """SPC-4 4.5.6: the codes that this package reports, without a pointer."""
    assert str(value) == codes
    assert value.pointer is None


def test_fixed_without_pointer_is_18_bytes_with_zero_specific_field() -> None:
    """SPC-4 4.5.3: 70h, key, length 0Ah, ASC, ASCQ."""
    data = sense.INVALID_OPCODE.fixed()
    assert data.hex() == "70000500" + "0000000a" + "00000000" + "2000" + "00" + "000000"
    assert len(data) == 18


@pytest.mark.parametrize(
    ("value", "specific"),
    [
        (sense.INVALID_SERVICE_ACTION, "cc0001"),
        (sense.INVALID_SCOPE, "cf0002"),
        (sense.INVALID_TYPE, "cb0002"),
        (sense.INVALID_SPEC_I_PT, "8b0014"),
        (sense.INVALID_ALL_TG_PT, "8a0014"),
        (sense.INVALID_SERVICE_ACTION_RESERVATION_KEY, "8f0008"),
        (sense.INVALID_RELATIVE_TARGET_PORT, "800012"),
        (sense.cdb_field(9, 2), "ca0009"),
        (sense.list_field(0x1234), "801234"),
    ],
)
def test_fixed_with_pointer_sets_sense_key_specific_bytes(value: Sense, specific: str) -> None:
    """SPC-4 4.5.2.4.2: SKSV, C/D, BPV, BIT POINTER and FIELD POINTER in bytes 15-17."""
    assert value.fixed()[15:].hex() == specific


def test_descriptor_without_pointer_is_8_bytes() -> None:
    """SPC-4 4.5.2: 72h, key, ASC, ASCQ, no descriptors."""
    assert sense.INVALID_RELEASE.descriptor().hex() == "7205260400000000"


def test_descriptor_with_pointer_is_16_bytes() -> None:
    """SPC-4 4.5.2.4: one sense key specific descriptor, type 02h, length 06h."""
    expected = "7205240000000008" + "02060000" + "cb0002" + "00"
    assert sense.INVALID_TYPE.descriptor().hex() == expected


def test_pointer_beyond_16_bits_is_left_out() -> None:
    """A pointer cut to 16 bits would name an innocent field."""
    assert sense.list_field(0x10000).fixed()[15:] == bytes(3)
    assert len(sense.list_field(0x10000).descriptor()) == 8


@pytest.mark.parametrize("code", list(Attention))
def test_attention_has_key_6_and_the_codes_of_its_number(code: Attention) -> None:
    """SPC-4 5.13: unit attentions are reported with sense key 06h."""
    value = sense.attention(code)
    assert (value.key, value.asc << 8 | value.ascq, value.pointer) == (6, code, None)


@QUIET
@given(senses)
def test_sense_round_trips_through_both_formats(value: Sense) -> None:
    """What is written is what is read, fixed and descriptor."""
    assert parse_sense(value.fixed()) == value
    assert parse_sense(value.descriptor()) == value


@QUIET
@given(senses, st.binary(max_size=80))
def test_parse_sense_of_cut_or_padded_data_keeps_the_codes(value: Sense, tail: bytes) -> None:
    """Cut data give the codes or None; bytes after the additional length are ignored."""
    for data, enough in ((value.fixed(), 14), (value.descriptor(), 4)):
        assert parse_sense(data + tail) == value
        for size in range(len(data)):
            cut = parse_sense(data[:size])
            assert (cut is None) == (size < enough)
            assert cut is None or str(cut) == str(value)


def test_parse_sense_of_progress_indication_gives_no_pointer() -> None:
    """SPC-4 4.5.2.4.4: with NOT READY the same bytes are a progress indication."""
    data = bytearray(sense.NOT_READY_BECOMING.fixed())
    data[15:18] = b"\x80\x12\x34"
    assert parse_sense(bytes(data)) == sense.NOT_READY_BECOMING


def test_parse_sense_finds_the_pointer_behind_other_descriptors() -> None:
    """SPC-4 4.5.2.1: descriptors come in any order; each says its length."""
    plain = sense.INVALID_TYPE.descriptor()
    information = b"\x00\x0a\x80\x00" + b"\x02" * 8
    field_replaceable_unit = b"\x03\x02\x00\x00"
    body = information + field_replaceable_unit + plain[8:]
    data = plain[:7] + bytes((len(body),)) + body
    assert parse_sense(data) == sense.INVALID_TYPE
