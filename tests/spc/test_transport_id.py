"""Initiator ports and TransportIDs (SPC-4 7.6.4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.spc.transport_id import (
    FibreChannel,
    InitiatorPort,
    ListedTransportId,
    ParallelScsi,
    Sas,
    Sbp,
    Sop,
    Srp,
    TransportId,
    TransportIdFault,
    encode,
    parse_transport_id,
    parse_transport_ids,
)
from tests.support.spc_strategies import QUIET, initiator_ports, transport_ids

NAME = "iqn.2024-01.org.example:a"  # 25 bytes
PORT = InitiatorPort(NAME, 0x0123456789AB)


def iscsi(text: bytes, first: int = 0x05, additional: int | None = None) -> bytes:
    """Return an iSCSI TransportID with this text, taken as it is."""
    size = len(text) if additional is None else additional
    return bytes((first, 0)) + size.to_bytes(2, "big") + text


# Initiator ports


@pytest.mark.parametrize(
    "name",
    [
        "",
        "n" * 224,
        "é" * 112,
        "with space",
        "nul\0",
        "tab\t",
        "del\x7f",
        "next\x85line",
        "wide\u3000space",
        "a,i,0xb",
        "a,I,0Xb",
        "lone\ud800surrogate",
    ],
)
def test_initiator_port_with_unfit_name_raises_value_error(name: str) -> None:
    """RFC 3722 and SPC-4 7.6.4.6: 1 to 223 bytes, nothing that a text form cannot carry."""
    with pytest.raises(ValueError):
        InitiatorPort(name)


@pytest.mark.parametrize("name", ["n", "n" * 223, "é" * 111, "eui.02004567a425678d", "naa.5,i,0"])
def test_initiator_port_with_fit_name_is_accepted(name: str) -> None:
    """RFC 3720 3.2.6.1: names up to 223 bytes."""
    assert InitiatorPort(name).name == name


@pytest.mark.parametrize("isid", [-1, 1 << 48])
def test_initiator_port_with_isid_beyond_48_bits_raises_value_error(isid: int) -> None:
    """SPC-4 7.6.4.6: an ISID has 48 bits."""
    with pytest.raises(ValueError):
        InitiatorPort(NAME, isid)


def test_initiator_port_names_compare_without_regard_to_case() -> None:
    """SPC-4 7.6.4.6: one port however its name is spelled."""
    assert InitiatorPort("IQN.2024-01.Org.Example:A") == InitiatorPort(NAME)
    assert hash(InitiatorPort("IQN.2024-01.Org.Example:A")) == hash(InitiatorPort(NAME))


def test_initiator_port_with_and_without_isid_have_an_order() -> None:
    """Both forms of one name may be in one registry, and lists of them get sorted."""
    ports = [InitiatorPort(NAME, 1), InitiatorPort(NAME), InitiatorPort("a", 2)]
    assert sorted(ports) == [ports[2], ports[1], ports[0]]


def test_initiator_port_text_holds_isid_as_12_hex_digits() -> None:
    """SPC-4 7.6.4.6: name, separator, ISID."""
    assert PORT.text == str(PORT) == NAME + ",i,0x0123456789ab"
    assert InitiatorPort(NAME).text == NAME


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",i,0x0123456789ab",
        "a,i,0x",
        "a,i,0x0123456789a",
        "a,i,0x0123456789abc",
        "a,i,0x0123456789ag",
        "a,i,0x01234_6789ab",
        "a,i,0x0123456789ab\n",
        "a,i,0x0123456789ab,i,0x0123456789ab",
        "a,i,0x٠١٢٣٤٥٦٧٨٩٠١",
        "a b",
    ],
)
def test_from_text_with_malformed_text_raises_value_error(text: str) -> None:
    """SPC-4 7.6.4.6: exactly 12 hex digits after the separator."""
    with pytest.raises(ValueError):
        InitiatorPort.from_text(text)


@QUIET
@given(initiator_ports)
def test_initiator_port_text_round_trips_in_any_case(port: InitiatorPort) -> None:
    """What `text` writes is read back, and lower-casing twice changes nothing more."""
    assert InitiatorPort.from_text(port.text) == port
    assert InitiatorPort(port.name, port.isid) == port


# What is on the wire

FIXED: list[tuple[str, TransportId]] = [
    (
        "00000000 00000000 21000024ff123456 0000000000000000",
        FibreChannel(0x21000024FF123456),
    ),
    ("01000007 00000002 0000000000000000 0000000000000000", ParallelScsi(7, 2)),
    ("03000000 00000000 0123456789abcdef 0000000000000000", Sbp(0x0123456789ABCDEF)),
    (
        "04000000 00000000 00112233445566778899aabbccddeeff",
        Srp(0x00112233445566778899AABBCCDDEEFF),
    ),
    ("06000000 5000c50012345678 000000000000000000000000", Sas(0x5000C50012345678)),
    ("0a000102 00000000 0000000000000000 0000000000000000", Sop(0x0102)),
]


@pytest.mark.parametrize(("text", "value"), FIXED)
def test_fixed_transport_id_vectors_encode_and_decode(text: str, value: TransportId) -> None:
    """SPC-4 7.6.4.2 to 7.6.4.8: layouts of 24 bytes."""
    data = bytes.fromhex(text)
    assert encode(value) == data
    assert parse_transport_id(data) == value


@pytest.mark.parametrize(("text", "value"), FIXED)
def test_fixed_transport_id_ignores_reserved_bits_of_byte_0(text: str, value: TransportId) -> None:
    """SPC-4 7.6.4.1: bits 5-4 are reserved and need not be checked."""
    data = bytearray.fromhex(text)
    data[0] |= 0x30
    assert parse_transport_id(bytes(data)) == value


def test_iscsi_transport_id_without_isid_is_format_00b() -> None:
    """SPC-4 7.6.4.6: 05h, ADDITIONAL LENGTH, null-terminated and null-padded name."""
    expected = b"\x05\x00\x00\x1c" + NAME.encode() + bytes(3)
    assert encode(InitiatorPort(NAME)) == expected
    assert parse_transport_id(expected) == InitiatorPort(NAME)


def test_iscsi_transport_id_with_isid_is_format_01b() -> None:
    """SPC-4 7.6.4.6: 45h, and one null that ends name, separator and ISID together."""
    expected = b"\x45\x00\x00\x2c" + NAME.encode() + b",i,0x0123456789ab" + bytes(2)
    assert encode(PORT) == expected
    assert parse_transport_id(expected) == PORT


def test_iscsi_transport_id_of_short_name_is_padded_to_24_bytes() -> None:
    """SPC-4 7.6.4.6: ADDITIONAL LENGTH is at least 20."""
    assert encode(InitiatorPort("a")) == b"\x05\x00\x00\x14a" + bytes(19)


@pytest.mark.parametrize("size", [19, 20, 23, 24])
def test_iscsi_transport_id_always_holds_the_terminating_null(size: int) -> None:
    """SPC-4 7.6.4.6: a name that fills the last word gets another word for its null."""
    data = encode(InitiatorPort("n" * size))
    assert len(data) % 4 == 0
    assert data[4 + size] == 0
    assert parse_transport_id(data) == InitiatorPort("n" * size)


def test_iscsi_transport_id_is_read_without_regard_to_case() -> None:
    """SPC-4 7.6.4.6: letters of the name and of the ISID."""
    text = NAME.upper().encode() + b",i,0x0123456789AB" + bytes(2)
    assert parse_transport_id(iscsi(text, 0x45)) == PORT


def test_iscsi_transport_id_padding_is_not_looked_at() -> None:
    """The first null ends the text; what follows is padding."""
    assert parse_transport_id(iscsi(b"a\0" + b"x" * 18)) == InitiatorPort("a")


LONG = NAME.encode() + b",i,0x0123456789ab" + bytes(2)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(iscsi(bytes(20)), id="empty name"),
        pytest.param(iscsi(b"n" * 20), id="no null"),
        pytest.param(iscsi(b"a" + bytes(19), additional=16) + bytes(8), id="length below 20"),
        pytest.param(iscsi(b"a" + bytes(20)), id="length 21"),
        pytest.param(iscsi(b"n" * 224 + bytes(4)), id="name of 224 bytes"),
        pytest.param(iscsi(b"\xff\xfe" + bytes(18)), id="not UTF-8"),
        pytest.param(iscsi(b"a b" + bytes(17)), id="space"),
        pytest.param(iscsi(LONG, 0x05), id="ISID in format 00b"),
        pytest.param(iscsi(b"a" + bytes(19), 0x45), id="no ISID in format 01b"),
        pytest.param(iscsi(b"a\0,i,0x0123456789ab" + bytes(1), 0x45), id="null before separator"),
        pytest.param(iscsi(b"a,i,0x012345" + bytes(8), 0x45), id="half the ISID"),
        pytest.param(iscsi(LONG, 0x85), id="format 10b"),
        pytest.param(iscsi(LONG, 0xC5), id="format 11b"),
        pytest.param(b"\x40" + bytes(23), id="Fibre Channel, format 01b"),
        pytest.param(b"\x86" + bytes(23), id="SAS, format 10b"),
        *(pytest.param(bytes((n,)) + bytes(23), id=f"protocol {n:x}h") for n in (2, 7, 8, 9)),
        *(pytest.param(bytes((n,)) + bytes(23), id=f"protocol {n:x}h") for n in range(11, 16)),
    ],
)
def test_malformed_transport_id_is_a_fault_at_its_offset(data: bytes) -> None:
    """SPC-4 7.6.4: what is no TransportID, though all its bytes are there."""
    assert parse_transport_id(data) == TransportIdFault(0)
    assert parse_transport_id(b"pre" + data, 3) == TransportIdFault(3)


def test_sas_transport_id_of_16_bytes_is_truncated() -> None:
    """SPC-4 7.6.4.1: at least 24 bytes, whatever some path of a client sends."""
    data = bytes.fromhex("06000000 5000c50012345678 00000000")
    assert parse_transport_id(data) == TransportIdFault(0, truncated=True)


def test_transport_id_beyond_the_end_is_truncated() -> None:
    """An offset behind the data is a TransportID of which nothing is there."""
    assert parse_transport_id(b"", 5) == TransportIdFault(5, truncated=True)


# Properties


@QUIET
@given(transport_ids, st.binary(max_size=8), st.binary(max_size=8))
def test_transport_id_round_trips_at_any_offset(
    value: TransportId, head: bytes, tail: bytes
) -> None:
    """Encoding gives a multiple of 4 and at least 24 bytes that decode to the same value."""
    data = encode(value)
    assert len(data) >= 24
    assert len(data) % 4 == 0
    assert parse_transport_id(head + data + tail, len(head)) == value


@QUIET
@given(transport_ids, st.data())
def test_transport_id_cut_anywhere_is_truncated(value: TransportId, data: st.DataObject) -> None:
    """No proper prefix of a TransportID is one."""
    whole = encode(value)
    size = data.draw(st.integers(0, len(whole) - 1))
    assert parse_transport_id(whole[:size]) == TransportIdFault(0, truncated=True)


@QUIET
@given(st.lists(transport_ids, max_size=6), st.binary(max_size=23))
def test_transport_ids_back_to_back_are_listed_with_their_offsets(
    values: list[TransportId], rest: bytes
) -> None:
    """A rest that is no TransportID is a fault behind the entries that are fine."""
    encoded = [encode(value) for value in values]
    offsets = [2 + sum(map(len, encoded[:index])) for index in range(len(encoded) + 1)]
    data = b"ab" + b"".join(encoded) + rest
    listed, fault = parse_transport_ids(data, 2, len(data))
    assert listed == tuple(map(ListedTransportId, offsets, values))
    assert fault == (TransportIdFault(offsets[-1], truncated=True) if rest else None)


def test_transport_ids_with_end_beyond_the_data_stop_at_the_data() -> None:
    """The caller's end is not trusted beyond the bytes."""
    data = encode(Sas(1))
    listed, fault = parse_transport_ids(data, 0, len(data) + 100)
    assert (listed, fault) == ((ListedTransportId(0, Sas(1)),), None)
