"""RESERVE, RELEASE and CLEAR where two rules meet."""

from __future__ import annotations

import pytest

from flockpr.spc.codes import Attention
from tests.support.scsi import (
    ALL_REGISTRANTS,
    CLEAR,
    EA,
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_LIST,
    INVALID_RELEASE,
    KEY_A,
    KEY_B,
    LIST_LENGTH,
    ONE_HOLDER,
    REGISTRANTS_ONLY,
    RELEASE,
    RESERVE,
    TYPES,
    WE,
    WERO,
    A,
    B,
    C,
    Unit,
    assert_conflict,
    assert_good,
    assert_refused,
    basic_list,
    told,
)

SPEC = basic_list(KEY_A, spec=True)


def pair(type_: int = 0) -> Unit:
    """A and B are registered; with a type A reserves."""
    unit = Unit().enter(a=KEY_A, b=KEY_B)
    return unit.hold(A, type_) if type_ else unit


@pytest.mark.parametrize("type_", TYPES)
def test_reserve_makes_the_sender_or_everybody_holder(type_: int) -> None:
    """SPC-4 5.13.9, 5.13.10: All Registrants types have no single holder."""
    unit = pair(type_)

    assert unit.reservation == (type_, None if type_ in ALL_REGISTRANTS else A)
    assert (unit.generation, unit.raised) == (2, set())


@pytest.mark.parametrize(("scope", "type_"), [(0, WE), (1, EA), (0, 0), (15, 15)])
def test_reserve_by_the_holder_with_anything_else_is_a_conflict(scope: int, type_: int) -> None:
    """SPC-4 5.13.9: a conflict outranks the fault of an invalid code."""
    unit = pair(EA)

    assert_conflict(unit.raw_out(A, RESERVE, basic_list(KEY_A), type_=type_, scope=scope))
    assert_conflict(unit.raw_out(A, RESERVE, SPEC[:21], type_=type_, scope=scope))


def test_reserve_by_a_non_holder_is_a_conflict_without_a_list() -> None:
    """SPC-4 table 66: nothing in the list could change that."""
    assert_conflict(pair(EA).raw_out(B, RESERVE, b"", type_=EA))


@pytest.mark.parametrize(
    ("action", "code", "data", "sense", "pointer"),
    [
        (RESERVE, (1, 0), basic_list(KEY_A), INVALID_FIELD_IN_CDB, (2, 7)),
        (RESERVE, (0, 2), basic_list(KEY_A), INVALID_FIELD_IN_CDB, (2, 3)),
        (RESERVE, (0, 9), SPEC, INVALID_FIELD_IN_CDB, (2, 3)),
        (RELEASE, (0, 4), basic_list(KEY_A)[:8], INVALID_FIELD_IN_CDB, (2, 3)),
        (RESERVE, (0, WE), basic_list(KEY_A)[:23], LIST_LENGTH, None),
        (RESERVE, (0, 9), basic_list(KEY_A)[:7], LIST_LENGTH, None),
        (RELEASE, (0, WE), basic_list(KEY_A) + b"\0", LIST_LENGTH, None),
    ],
)
def test_reserve_and_release_check_scope_then_type_then_list(
    action: int,
    code: tuple[int, int],
    data: bytes,
    sense: tuple[int, int, int],
    pointer: tuple[int, int] | None,
) -> None:
    """SPC-4 6.16.2 before 6.16.3, once the key is known to be right."""
    unit = pair()

    reply = unit.raw_out(A, action, data, type_=code[1], scope=code[0])
    assert_refused(reply, sense, cdb=pointer)
    assert unit.unchanged


@pytest.mark.parametrize("action", [RESERVE, RELEASE, CLEAR])
def test_out_with_spec_i_pt_is_refused_whatever_its_length(action: int) -> None:
    """SPC-4 6.16.3: SPEC_I_PT belongs to REGISTER."""
    reply = pair().raw_out(A, action, SPEC + bytes(9), type_=WE)

    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(20, 3))


@pytest.mark.parametrize("type_", TYPES)
def test_release_tells_the_others_of_shared_types_only(type_: int) -> None:
    """SPC-4 5.13.11.2: 2A/04 for Registrants Only and All Registrants."""
    unit = pair(type_)

    assert_good(unit.out(A, RELEASE, KEY_A, type_=type_))
    shared = type_ in REGISTRANTS_ONLY or type_ in ALL_REGISTRANTS
    assert unit.raised == (told(Attention.RESERVATIONS_RELEASED, B) if shared else set())
    assert (unit.reservation, unit.generation, len(unit.keys)) == (None, 2, 2)


@pytest.mark.parametrize("type_", ONE_HOLDER)
def test_release_by_a_non_holder_is_good_without_effect(type_: int) -> None:
    """SPC-4 5.13.11.2; but an invalid TYPE is refused, since RELEASE uses the field."""
    unit = pair(type_)

    assert_good(unit.out(B, RELEASE, KEY_B, type_=WE))
    assert unit.unchanged
    assert_refused(unit.out(B, RELEASE, KEY_B, type_=0), INVALID_FIELD_IN_CDB, cdb=(2, 3))


def test_release_by_the_holder_with_another_type_is_invalid() -> None:
    """SPC-4 5.13.11.2: a defined other type is 05/26/04, an obsolete one 05/24/00."""
    unit = pair(WERO)

    assert_refused(unit.out(A, RELEASE, KEY_A, type_=WE), INVALID_RELEASE)
    assert_refused(unit.out(A, RELEASE, KEY_A, type_=2), INVALID_FIELD_IN_CDB, cdb=(2, 3))
    assert_refused(unit.out(A, RELEASE, KEY_A, type_=WERO, scope=1), INVALID_FIELD_IN_CDB)


@pytest.mark.parametrize("type_", [0, *TYPES])
def test_clear_by_anyone_registered_removes_everything(type_: int) -> None:
    """SPC-4 5.13.11.2: 2A/03 to the others; SCOPE and TYPE are ignored, APTPL stays."""
    unit = Unit().enter(a=KEY_A, c=KEY_B)
    unit.out(B, 0, 0, KEY_B, aptpl=True)
    if type_:
        unit.hold(A, type_)

    assert_good(unit.out(B, CLEAR, KEY_B, type_=15, scope=15))
    assert (unit.keys, unit.reservation, unit.state.aptpl) == ({}, None, True)
    assert unit.raised == told(Attention.RESERVATIONS_PREEMPTED, A, C)
    assert set(unit.state.pending) == {A, C}
