"""PERSISTENT RESERVE IN, READ RESERVATION (SPC-4 6.15.3)."""

from __future__ import annotations

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
    D,
    Unit,
    in_cdb,
)


def test_read_reservation_nothing_held_is_a_header() -> None:
    """No reservation: PRGENERATION and a zero length [SPC-4 6.15.3.2; nothing held]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    assert unit.send(A, in_cdb(1)).data == bytes((0, 0, 0, 2, 0, 0, 0, 0))


@pytest.mark.parametrize("type_", ONE_HOLDER)
def test_read_reservation_shows_key_of_holder_and_type(type_: int) -> None:
    """One holder: its key, LU_SCOPE and the type [SPC-4 6.15.3.2; held]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
    expected = bytes((0, 0, 0, 2, 0, 0, 0, 0x10)) + KEY_A.to_bytes(8, "big")
    assert unit.send(D, in_cdb(1)).data == expected + bytes((0, 0, 0, 0, 0, type_, 0, 0))


@pytest.mark.parametrize("type_", ALL_REGISTRANTS)
def test_read_reservation_all_registrants_shows_key_zero(type_: int) -> None:
    """All Registrants: the key is zero [SPC-4 5.13.6.3 b); 6.15.3.2]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)
    expected = bytes((0, 0, 0, 2, 0, 0, 0, 0x10)) + bytes(8)
    assert unit.send(D, in_cdb(1)).data == expected + bytes((0, 0, 0, 0, 0, type_, 0, 0))


def test_read_reservation_follows_change_of_key() -> None:
    """The key shown is the holder's current one [SPC-4 5.13.6.3 b)]"""
    unit = Unit().enter(a=KEY_A).hold(A, WE)
    unit.out(A, REGISTER, KEY_A, KEY_C)
    assert unit.send(A, in_cdb(1)).data[8:16] == KEY_C.to_bytes(8, "big")


@pytest.mark.parametrize("length", [0, 7, 8, 15, 16, 23, 24, 8192])
def test_read_reservation_short_allocation_cuts_data_not_length(length: int) -> None:
    """Data is cut, ADDITIONAL LENGTH is not [SPC-4 6.15.3.2; 4.2.5.6 ALLOCATION LENGTH]"""
    unit = Unit().enter(a=KEY_A).hold(A, WE)
    whole = unit.send(A, in_cdb(1)).data
    reply = unit.send(A, in_cdb(1, length))
    assert (reply.status, reply.data) == (0, whole[:length])
    assert unit.unchanged
