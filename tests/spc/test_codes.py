"""Code values (SPC-4 6.15.3.4, SAM-5 5.3.3)."""

from __future__ import annotations

import pytest

from flockpr.spc.codes import Attention, ReservationType

TYPES = {
    # number: all registrants, registrants only, exclusive access
    1: (False, False, False),
    3: (False, False, True),
    5: (False, True, False),
    6: (False, True, True),
    7: (True, False, False),
    8: (True, False, True),
}


def test_reservation_types_are_the_six_of_the_standard() -> None:
    """SPC-4 6.15.3.4, table 200: all other numbers are obsolete or reserved."""
    assert {int(type_) for type_ in ReservationType} == set(TYPES)


@pytest.mark.parametrize("number", TYPES)
def test_reservation_type_properties_follow_the_table(number: int) -> None:
    """SPC-4 6.15.3.4: who holds, who shares, and whether reads are excluded."""
    type_ = ReservationType(number)
    found = (type_.all_registrants, type_.registrants_only, type_.exclusive_access)
    assert found == TYPES[number]


def test_attentions_of_reset_class_are_those_of_asc_29h() -> None:
    """SAM-5 5.3.3: these outrank RESERVATION CONFLICT, those of 2Ah and 2F/00 do not."""
    found = {code for code in Attention if code.reset_class}
    assert found == {
        Attention.POWER_ON,
        Attention.BUS_RESET,
        Attention.LOGICAL_UNIT_RESET,
        Attention.NEXUS_LOSS,
    }
