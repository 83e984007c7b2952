"""PERSISTENT RESERVE IN, REPORT CAPABILITIES (SPC-4 6.15.4)."""

from __future__ import annotations

import pytest

from tests.support.scsi import KEY_A, REGISTER, A, D, Unit, in_cdb


def capabilities(unit: Unit) -> bytes:
    """The eight bytes."""
    return unit.send(D, in_cdb(2)).data


def test_capabilities_are_eight_bytes() -> None:
    """LENGTH says eight, and eight bytes come [SPC-4 6.15.4; LENGTH]"""
    data = capabilities(Unit())
    assert (len(data), data[:2]) == (8, b"\0\x08")


def test_capabilities_name_what_works() -> None:
    """CRH, SIP_C, ATP_C, PTPL_C are set, RLR_C is not [SPC-4 6.15.4; byte 2]"""
    assert capabilities(Unit())[2] == 0x10 | 0x08 | 0x04 | 0x01


def test_capabilities_allow_commands_is_four() -> None:
    """TMV is set, ALLOW COMMANDS is 4: the access table [SPC-4 6.15.4; byte 3]"""
    assert capabilities(Unit())[3] & 0xFE == 0x80 | 4 << 4


@pytest.mark.parametrize("aptpl", [False, True])
def test_capabilities_show_aptpl_of_last_registration(aptpl: bool) -> None:
    """PTPL_A is the APTPL that was accepted last [SPC-4 6.15.4; PTPL_A]"""
    unit = Unit()
    unit.out(A, REGISTER, 0, KEY_A, aptpl=True)
    unit.out(A, REGISTER, KEY_A, KEY_A, aptpl=aptpl)
    assert capabilities(unit)[3] & 1 == aptpl


def test_capabilities_type_mask_has_six_types() -> None:
    """The mask has the six types and no other [SPC-4 6.15.4; PERSISTENT RESERVATION TYPE MASK]"""
    assert capabilities(Unit())[4:] == bytes((0xEA, 0x01, 0, 0))


@pytest.mark.parametrize("length", [0, 1, 4, 7, 8, 9])
def test_capabilities_short_allocation_cuts(length: int) -> None:
    """A short ALLOCATION LENGTH is no error [SPC-4 6.15.4; 4.2.5.6 ALLOCATION LENGTH]"""
    unit = Unit()
    whole = capabilities(unit)
    reply = unit.send(A, in_cdb(2, length))
    assert (reply.status, reply.data) == (0, whole[:length])
