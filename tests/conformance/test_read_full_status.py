"""PERSISTENT RESERVE IN, READ FULL STATUS (SPC-4 6.15.5)."""

from __future__ import annotations

import attrs
import pytest

from tests.support.scsi import (
    ALL_REGISTRANTS,
    KEY_A,
    KEY_B,
    KEY_C,
    ONE_HOLDER,
    REGISTER,
    WE,
    A,
    B,
    D,
    Unit,
    in_cdb,
    nexus,
    transport_id,
)


@attrs.frozen
class Descriptor:
    """One full status descriptor, taken apart by hand."""

    key: int
    all_ports: bool
    holder: bool
    scope_type: int
    port: int
    identifier: bytes
    reserved: bytes


def descriptors(data: bytes) -> list[Descriptor]:
    """Take the payload apart."""
    found, at = [], 8
    assert int.from_bytes(data[4:8], "big") == len(data) - 8
    while at < len(data):
        size = int.from_bytes(data[at + 20 : at + 24], "big")
        head = data[at : at + 24]
        found.append(
            Descriptor(
                key=int.from_bytes(head[:8], "big"),
                all_ports=bool(head[12] & 2),
                holder=bool(head[12] & 1),
                scope_type=head[13],
                port=int.from_bytes(head[18:20], "big"),
                identifier=data[at + 24 : at + 24 + size],
                reserved=head[8:12] + bytes((head[12] & 0xFC,)) + head[14:18],
            )
        )
        at += 24 + size
    assert at == len(data)
    return found


def test_full_status_nothing_registered_is_a_header() -> None:
    """Nothing registered: PRGENERATION and a zero length [SPC-4 6.15.5; payload]"""
    assert Unit().send(A, in_cdb(3)).data == bytes(8)


def test_full_status_describes_each_nexus() -> None:
    """Key, port and TransportID of every registration [SPC-4 6.15.5; descriptor]"""
    unit = Unit(target_ports=(1, 0x0102))
    known = {
        nexus("a"): KEY_A,
        nexus("a", 0x0102): KEY_B,
        nexus("long" * 20, isid=0x00023D000001): KEY_C,
    }
    for of, key in known.items():
        unit.out(of, REGISTER, 0, key)
    data = unit.send(D, in_cdb(3)).data
    assert data[:4] == bytes((0, 0, 0, 3))
    shown = {(entry.key, entry.port, entry.identifier) for entry in descriptors(data)}
    assert shown == {(key, of.target_port, transport_id(of)) for of, key in known.items()}


def test_full_status_without_reservation_marks_no_holder() -> None:
    """No reservation: R_HOLDER, scope and type are zero [SPC-4 6.15.5; R_HOLDER]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    for entry in descriptors(unit.send(A, in_cdb(3)).data):
        assert (entry.holder, entry.scope_type, entry.reserved) == (False, 0, bytes(9))


@pytest.mark.parametrize("type_", ONE_HOLDER)
def test_full_status_marks_the_holder(type_: int) -> None:
    """One holder: R_HOLDER, scope and type with it alone [SPC-4 6.15.5; R_HOLDER]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(B, type_)
    entries = descriptors(unit.send(A, in_cdb(3)).data)
    shown = {(entry.key, entry.holder, entry.scope_type) for entry in entries}
    assert shown == {(KEY_A, False, 0), (KEY_B, True, type_)}


@pytest.mark.parametrize("type_", ALL_REGISTRANTS)
def test_full_status_all_registrants_marks_everybody(type_: int) -> None:
    """All Registrants: everybody holds, with the real keys [SPC-4 6.15.5; 5.13.10]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
    entries = descriptors(unit.send(A, in_cdb(3)).data)
    shown = {(entry.key, entry.holder, entry.scope_type) for entry in entries}
    assert shown == {(KEY_A, True, type_), (KEY_B, True, type_)}


def test_full_status_identifier_with_isid_is_format_1() -> None:
    """An ISID makes it format 01b, padded to four [SPC-4 7.6.4.6; format 01b]"""
    unit = Unit()
    unit.out(nexus("a", isid=0x00023D000001), REGISTER, 0, KEY_A)
    (entry,) = descriptors(unit.send(A, in_cdb(3)).data)
    text = b"iqn.2026-01.org.example:a,i,0x00023d000001"
    assert entry.identifier[:4] == bytes((0x45, 0, 0, 44))
    assert entry.identifier[4:] == text + bytes(44 - len(text))


def test_full_status_identifier_without_isid_is_format_0() -> None:
    """No ISID makes it format 00b, at least 24 bytes [SPC-4 7.6.4.6; format 00b]"""
    unit = Unit()
    unit.enter(a=KEY_A)
    (entry,) = descriptors(unit.send(A, in_cdb(3)).data)
    text = b"iqn.2026-01.org.example:a"
    assert entry.identifier == bytes((0x05, 0, 0, 28)) + text + bytes(28 - len(text))


@pytest.mark.parametrize("length", [0, 7, 8, 31, 32, 60, 84, 8192])
def test_full_status_short_allocation_cuts_data_not_length(length: int) -> None:
    """Data is cut, ADDITIONAL LENGTH is not [SPC-4 6.15.5; 4.2.5.6 ALLOCATION LENGTH]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, WE)
    whole = unit.send(A, in_cdb(3)).data
    reply = unit.send(A, in_cdb(3, length))
    assert (reply.status, reply.data) == (0, whole[:length])
    assert unit.unchanged


def test_full_status_of_registration_at_all_ports_covers_each_port_once() -> None:
    """ALL_TG_PT=1 describes all ports at once, 0 one port [SPC-4 6.15.5; ALL_TG_PT]"""
    unit = Unit(target_ports=(1, 2)).enter(b=KEY_B)
    unit.out(A, REGISTER, 0, KEY_A, all_ports=True)
    covered = []
    for entry in descriptors(unit.send(B, in_cdb(3)).data):
        covered += [(entry.key, port) for port in ((1, 2) if entry.all_ports else (entry.port,))]
    assert sorted(covered) == sorted([(KEY_A, 1), (KEY_A, 2), (KEY_B, 1)])
