"""PERSISTENT RESERVE IN, READ KEYS (SPC-4 6.15.2)."""

from __future__ import annotations

import pytest

from tests.support.scsi import KEY_A, KEY_B, REGISTER, TYPES, A, B, D, Unit, in_cdb, keys_in, nexus


def test_read_keys_nothing_registered_is_a_header() -> None:
    """Nothing registered: eight bytes, all zero [SPC-4 6.15.2; payload]"""
    assert Unit().send(A, in_cdb(0)).data == bytes(8)


def test_read_keys_lists_every_nexus_duplicates_too() -> None:
    """One key per registered nexus, duplicates kept [SPC-4 6.15.2; payload]"""
    unit = Unit(target_ports=(1, 2)).enter(a=KEY_A, b=KEY_A, c=KEY_B)
    unit.out(nexus("a", 2), REGISTER, 0, 2**64 - 1)
    data = unit.send(D, in_cdb(0)).data
    assert data[:8] == bytes((0, 0, 0, 4, 0, 0, 0, 32))
    assert sorted(keys_in(data)) == sorted((KEY_A, KEY_A, KEY_B, 2**64 - 1))


def test_read_keys_order_is_stable() -> None:
    """The order does not change from one command to the next [SPC-4 6.15.2]"""
    unit = Unit().enter(c=3, a=1, b=2)
    assert unit.send(A, in_cdb(0)).data == unit.send(B, in_cdb(0)).data


@pytest.mark.parametrize("length", [0, 1, 4, 7, 8, 12, 16, 23, 24, 25, 65535])
def test_read_keys_short_allocation_cuts_data_not_length(length: int) -> None:
    """Data is cut, ADDITIONAL LENGTH is not [SPC-4 6.15.2; 4.2.5.6 ALLOCATION LENGTH]"""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    whole = unit.send(A, in_cdb(0)).data
    assert whole[4:8] == bytes((0, 0, 0, 16))
    reply = unit.send(A, in_cdb(0, length))
    assert (reply.status, reply.data) == (0, whole[:length])


@pytest.mark.parametrize("type_", TYPES)
def test_read_keys_from_stranger_under_reservation_is_good(type_: int) -> None:
    """PERSISTENT RESERVE IN is allowed under any reservation [SPC-4 table 65; PR IN]"""
    unit = Unit().enter(a=KEY_A).hold(A, type_)
    assert keys_in(unit.send(D, in_cdb(0)).data) == [KEY_A]


def test_read_keys_changes_nothing() -> None:
    """PRGENERATION is as it was [SPC-4 6.15.2 PRGENERATION]"""
    unit = Unit().enter(a=KEY_A)
    unit.send(A, in_cdb(0))
    assert unit.unchanged
