"""Which commands a reservation stops (SPC-4 tables 65 and 66, SBC-4 table 13)."""

from __future__ import annotations

import pytest

from tests.support.access_rows import ACCESS_ROWS, cdb_of
from tests.support.scsi import (
    EA,
    EAAR,
    EARO,
    KEY_A,
    KEY_B,
    TYPES,
    WE,
    WEAR,
    WERO,
    WRITE_10,
    A,
    B,
    D,
    Unit,
    assert_conflict,
    assert_good,
)

ROWS = pytest.mark.parametrize(
    ("head", "kind"), [(row[1], row[2]) for row in ACCESS_ROWS], ids=[row[0] for row in ACCESS_ROWS]
)


def held(type_: int) -> Unit:
    """A holds the reservation, B is registered, D is not."""
    return Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)


@ROWS
@pytest.mark.parametrize("type_", TYPES)
def test_access_holder_may_do_all(head: str, kind: str, type_: int) -> None:
    """The holder is never stopped [SPC-4 table 65; holder]"""
    assert_good(held(type_).send(A, cdb_of(head)))


@ROWS
@pytest.mark.parametrize("type_", [WERO, EARO, WEAR, EAAR])
def test_access_registrant_of_shared_type_may_do_all(head: str, kind: str, type_: int) -> None:
    """Under RO and AR a registered nexus is never stopped [SPC-4 table 65; registered]"""
    assert_good(held(type_).send(B, cdb_of(head)))


@ROWS
@pytest.mark.parametrize("registered", [False, True])
def test_access_write_exclusive_stops_writes(head: str, kind: str, registered: bool) -> None:
    """WE stops writes of all others, registered or not [SPC-4 table 65; Write Excl]"""
    reply = held(WE).send(B if registered else D, cdb_of(head))
    (assert_conflict if kind == "W" else assert_good)(reply)


@ROWS
@pytest.mark.parametrize("registered", [False, True])
def test_access_exclusive_access_stops_reads_too(head: str, kind: str, registered: bool) -> None:
    """EA stops reads and writes of all others [SPC-4 table 65; Excl Access]"""
    reply = held(EA).send(B if registered else D, cdb_of(head))
    (assert_good if kind == "A" else assert_conflict)(reply)


@ROWS
@pytest.mark.parametrize("type_", [WERO, WEAR])
def test_access_write_exclusive_rr_stops_writes_of_strangers(
    head: str, kind: str, type_: int
) -> None:
    """WERO and WEAR stop writes of unregistered nexuses [SPC-4 table 65; Write Excl RR]"""
    reply = held(type_).send(D, cdb_of(head))
    (assert_conflict if kind == "W" else assert_good)(reply)


@ROWS
@pytest.mark.parametrize("type_", [EARO, EAAR])
def test_access_exclusive_access_rr_stops_strangers(head: str, kind: str, type_: int) -> None:
    """EARO and EAAR stop reads of strangers too [SPC-4 table 65; Excl Access RR]"""
    reply = held(type_).send(D, cdb_of(head))
    (assert_good if kind == "A" else assert_conflict)(reply)


@ROWS
def test_access_without_reservation_all_may(head: str, kind: str) -> None:
    """Registrations alone stop nobody [SPC-4 5.13.1; no reservation]"""
    unit = Unit().enter(a=KEY_A)
    for of in (A, D):
        assert_good(unit.send(of, cdb_of(head)))


@pytest.mark.parametrize("opcode", range(256))
def test_access_every_opcode_is_decided(opcode: int) -> None:
    """No opcode escapes: what the table does not allow is stopped [SPC-4 table 65; fail safe]"""
    if opcode in {0x16, 0x17, 0x56, 0x57, 0x5E, 0x5F}:
        return
    cdb = bytes((opcode, 0, 0, 0, 0, 0, 0, 0x18, *bytes(24)))
    allowed = {0x00, 0x03, 0x12, 0x1E, 0x25, 0x4D, 0x84, 0x86, 0x87, 0xA0}
    reply = held(EA).send(D, cdb)
    (assert_good if opcode in allowed else assert_conflict)(reply)


def test_access_changes_nothing() -> None:
    """Reads and writes change no reservation [SPC-4 5.13.1]"""
    unit = held(WE)
    unit.send(A, WRITE_10)
    assert unit.unchanged
    unit.send(D, WRITE_10)
    assert unit.unchanged
