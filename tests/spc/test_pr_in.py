"""PERSISTENT RESERVE IN payloads (SPC-4 6.15.2 to 6.15.5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.spc.codes import ReservationType
from flockpr.spc.pr_in import (
    Capabilities,
    FullStatus,
    FullStatusReport,
    HeldReservation,
    Keys,
    ReservationReport,
    encode_capabilities,
    encode_full_status,
    encode_keys,
    encode_reservation,
    parse_capabilities,
    parse_full_status,
    parse_keys,
    parse_reservation,
    truncate,
)
from flockpr.spc.transport_id import InitiatorPort, Sas, encode
from tests.support.spc_strategies import QUIET, keys, transport_ids, unsigned

PORT = InitiatorPort("iqn.2024-01.org.example:a", 0x0123456789AB)
ALL_TYPES = frozenset(int(type_) for type_ in ReservationType)

statuses = st.builds(
    FullStatus,
    keys,
    transport_ids,
    unsigned(16),
    st.booleans(),
    unsigned(4),
    unsigned(4),
    st.booleans(),
)


@pytest.mark.parametrize(
    ("held", "payload"),
    [
        ([], "00000000 00000000"),
        ([0xABC], "00000001 00000008 0000000000000abc"),
        ([1, 1, 2**64 - 1], "00000001 00000018" + "00" * 7 + "01" + "00" * 7 + "01" + "ff" * 8),
    ],
)
def test_read_keys_vectors(held: list[int], payload: str) -> None:
    """SPC-4 6.15.2, and as a Linux target answers: duplicates are kept."""
    data = bytes.fromhex(payload)
    generation = 1 if held else 0
    assert encode_keys(generation, held) == data
    assert parse_keys(data) == Keys(generation, tuple(held))


@pytest.mark.parametrize(
    ("held", "payload"),
    [
        (None, "00000001 00000000"),
        (HeldReservation(0xABC, 5), "00000001 00000010 0000000000000abc 00000000 00 05 0000"),
        (HeldReservation(0, 8), "00000001 00000010 0000000000000000 00000000 00 08 0000"),
        (HeldReservation(1, 3, 2), "00000001 00000010 0000000000000001 00000000 00 23 0000"),
    ],
)
def test_read_reservation_vectors(held: HeldReservation | None, payload: str) -> None:
    """SPC-4 6.15.3, and as a Linux target answers."""
    data = bytes.fromhex(payload)
    assert encode_reservation(1, held) == data
    assert parse_reservation(data) == ReservationReport(1, held)


def test_read_reservation_of_14_bytes_is_enough() -> None:
    """SPC-4 6.15.3: what follows SCOPE and TYPE is obsolete, and some leave it out."""
    data = bytes.fromhex("00000001 0000000e 0000000000000abc 00000000 00 05")
    assert parse_reservation(data) == ReservationReport(1, HeldReservation(0xABC, 5))


@pytest.mark.parametrize(
    ("report", "payload"),
    [
        (
            Capabilities(
                compatible_handling=True,
                specify_initiator_ports=True,
                all_target_ports=True,
                persist_capable=True,
                allow_commands=1,
                types=ALL_TYPES,
            ),
            "0008 1d 90 ea01 0000",
        ),
        (Capabilities(persist_active=True, allow_commands=4), "0008 00 41 0000 0000"),
        (Capabilities(replace_lost=True, types=frozenset((3,))), "0008 80 80 0800 0000"),
        (Capabilities(types=frozenset()), "0008 00 80 0000 0000"),
    ],
)
def test_report_capabilities_vectors(report: Capabilities, payload: str) -> None:
    """SPC-4 6.15.4; the first is what a Linux target answers."""
    data = bytes.fromhex(payload)
    assert encode_capabilities(report) == data
    assert parse_capabilities(data) == report
    assert parse_capabilities(data[:6]) == report


@pytest.mark.parametrize("type_", list(ReservationType))
def test_report_capabilities_mask_has_one_bit_for_each_type(type_: ReservationType) -> None:
    """SPC-4 6.15.4, table 202: WR_EX_AR to WR_EX in byte 4, EX_AC_AR in byte 5."""
    bits = {1: "0200", 3: "0800", 5: "2000", 6: "4000", 7: "8000", 8: "0001"}
    payload = encode_capabilities(Capabilities(types=frozenset((type_,))))
    assert payload[4:6].hex() == bits[type_]


def test_read_full_status_vector_of_one_sas_holder() -> None:
    """SPC-4 6.15.5, and as a Linux target answers: 56 bytes."""
    data = bytes.fromhex(
        "00000001 00000030"
        "0000000000000abc 00000000 01 05 00000000 0001 00000018"
        "06000000 5000c50012345678 000000000000000000000000"
    )
    entry = FullStatus(0xABC, Sas(0x5000C50012345678), 1, holder=True, type=5)
    assert len(data) == 56
    assert encode_full_status(1, [entry]) == data
    assert parse_full_status(data) == FullStatusReport(1, (entry,))


def test_read_full_status_vector_of_an_iscsi_port_with_all_tg_pt() -> None:
    """SPC-4 6.15.5: ALL_TG_PT in byte 12 bit 1; SCOPE and TYPE zero for a non-holder."""
    entry = FullStatus(7, PORT, 0, all_target_ports=True)
    body = "0000000000000007 00000000 02 00 00000000 0000 00000030"
    data = bytes.fromhex("0000000a 00000048" + body) + encode(PORT)
    assert encode_full_status(10, [entry]) == data
    assert parse_full_status(data) == FullStatusReport(10, (entry,))


def test_read_full_status_with_unreadable_transport_id_goes_on_behind_it() -> None:
    """A client shows the other registrations though one port is of a kind it cannot read."""
    entries = [FullStatus(1, Sas(1)), FullStatus(2, Sas(2))]
    data = bytearray(encode_full_status(1, entries))
    data[32] = 0x0F
    report = parse_full_status(bytes(data))
    assert report is not None
    assert [(entry.key, entry.transport_id) for entry in report.registrations] == [
        (1, None),
        (2, Sas(2)),
    ]


def test_encode_full_status_without_transport_id_raises_value_error() -> None:
    """Every registration of the target has a port to report."""
    with pytest.raises(ValueError):
        encode_full_status(1, [FullStatus(1, None)])


@pytest.mark.parametrize("length", [0, 1, 7, 8, 16, 17, 0xFFFF])
def test_truncate_cuts_and_never_pads(length: int) -> None:
    """SPC-4 4.2.5.6: the ALLOCATION LENGTH is a maximum; the length fields stay whole."""
    payload = encode_keys(1, [5])
    assert truncate(payload, length) == payload[:length]
    assert len(truncate(payload, length)) == min(length, 16)


@pytest.mark.parametrize("size", range(8))
def test_payload_without_header_is_none(size: int) -> None:
    """Fewer than 8 bytes tell nothing (6 of REPORT CAPABILITIES do)."""
    data = b"\xff" * size
    assert parse_keys(data) is None
    assert parse_reservation(data) is None
    assert parse_full_status(data) is None
    assert (parse_capabilities(data) is None) == (size < 6)


@QUIET
@given(unsigned(32), st.lists(keys, max_size=40), unsigned(9))
def test_read_keys_round_trips_and_says_what_was_cut(
    generation: int, held: list[int], allocation: int
) -> None:
    """A cut payload gives the keys that came whole and how many bytes lack."""
    whole = encode_keys(generation, held)
    assert parse_keys(whole) == Keys(generation, tuple(held))
    cut = truncate(whole, allocation)
    if len(cut) < 8:
        assert parse_keys(cut) is None
    else:
        count = (len(cut) - 8) // 8
        expected = Keys(generation, tuple(held[:count]), len(whole) - len(cut))
        assert parse_keys(cut) == expected


@QUIET
@given(
    unsigned(32),
    st.none() | st.builds(HeldReservation, keys, unsigned(4), unsigned(4)),
    st.integers(8, 40),
)
def test_read_reservation_round_trips_and_says_what_was_cut(
    generation: int, held: HeldReservation | None, allocation: int
) -> None:
    """The reservation is read as soon as SCOPE and TYPE came."""
    whole = encode_reservation(generation, held)
    assert parse_reservation(whole) == ReservationReport(generation, held)
    cut = truncate(whole, allocation)
    seen = held if len(cut) >= 22 else None
    assert parse_reservation(cut) == ReservationReport(generation, seen, len(whole) - len(cut))


@QUIET
@given(
    st.builds(
        Capabilities,
        *[st.booleans()] * 6,
        allow_commands=unsigned(3),
        types=st.none() | st.frozensets(unsigned(4)),
    )
)
def test_report_capabilities_round_trips(report: Capabilities) -> None:
    """What is encoded is what is read."""
    data = encode_capabilities(report)
    assert len(data) == 8
    assert parse_capabilities(data) == report


@QUIET
@given(unsigned(32), st.lists(statuses, max_size=8), st.data())
def test_read_full_status_round_trips_and_says_what_was_cut(
    generation: int, entries: list[FullStatus], data: st.DataObject
) -> None:
    """A cut payload gives the descriptors that came whole."""
    whole = encode_full_status(generation, entries)
    assert parse_full_status(whole) == FullStatusReport(generation, tuple(entries))
    size = data.draw(st.integers(8, len(whole)))
    report = parse_full_status(truncate(whole, size))
    assert report is not None
    assert report.missing == len(whole) - size
    assert report.registrations == tuple(entries[: len(report.registrations)])
    longer = encode_full_status(generation, entries[: len(report.registrations) + 1])
    assert len(encode_full_status(generation, report.registrations)) <= size
    assert len(report.registrations) == len(entries) or len(longer) > size
