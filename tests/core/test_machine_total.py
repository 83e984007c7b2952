"""`step` is total: whatever bytes or values come, there is an answer."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.core.machine import step
from flockpr.core.model import LogicalUnitState, PendingAttentions, UnitConfig
from flockpr.spc.cdb import PersistentReserveIn, PersistentReserveOut, parse_command
from flockpr.spc.codes import Attention, Status
from flockpr.spc.prout_list import PROutParameters
from tests.support.scsi import (
    INVALID_FIELD_IN_CDB,
    KEY_A,
    KEY_B,
    WE,
    WEAR,
    WERO,
    A,
    B,
    C,
    Unit,
    assert_refused,
)
from tests.support.spc_strategies import QUIET


def held(type_: int) -> LogicalUnitState:
    """A holds a reservation, B is registered and has an attention pending, C is a stranger."""
    state = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_).state
    waiting = PendingAttentions(B, (Attention.REGISTRATIONS_PREEMPTED,))
    return attrs.evolve(state, attentions=(waiting,))


@pytest.mark.parametrize("action", [-1, 8, 99])
def test_step_with_an_unknown_typed_service_action_is_refused(action: int) -> None:
    """Commands made by hand do not make it raise either."""
    for command in (
        PersistentReserveOut(action, 0, 0, PROutParameters()),
        PersistentReserveIn(action if action != 8 else 4, 8),
    ):
        outcome = step(LogicalUnitState(), A, command)
        assert_refused(outcome.reply, INVALID_FIELD_IN_CDB, cdb=(1, 4))


@QUIET
@given(
    st.binary(max_size=40)
    | st.builds(
        lambda head, rest: bytes((head, *rest)),
        st.sampled_from((0x5F, 0x5E, 0x16, 0x57, 0x03)),
        st.binary(min_size=9, max_size=9),
    ),
    st.binary(max_size=80),
    st.sampled_from((None, 0, 1)),
    st.booleans(),
)
def test_step_with_any_bytes_never_raises(
    cdb: bytes, data: bytes, seen: int | None, long_length: bool
) -> None:
    """Total: whatever a client sends, there is an answer, and refusals change nothing."""
    config = UnitConfig(target_ports=(1, 2), max_registrations=3)
    state = held(WERO)
    for of in (A, B, C):
        command = parse_command(cdb, data, long_parameter_length=long_length)
        outcome = step(state, of, command, config=config, seen_epoch=seen)
        assert (outcome.reply.status == Status.CHECK_CONDITION) == (outcome.reply.sense is not None)
        assert (outcome.state is state) == (outcome.state == state)


@QUIET
@given(
    st.integers(-1, 9),
    st.integers(0, 15),
    st.integers(0, 15),
    st.builds(
        PROutParameters,
        st.none() | st.sampled_from((0, KEY_A, KEY_B)),
        st.none() | st.sampled_from((0, KEY_A, KEY_B)),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.integers(0, 2),
    ),
    st.sampled_from((WE, WERO, WEAR)),
)
def test_step_with_any_typed_command_never_raises(
    action: int, scope: int, type_: int, parameters: PROutParameters, reserved: int
) -> None:
    """Lists that the parser would not make are answered as well."""
    state = held(reserved)
    for of in (A, B, C):
        outcome = step(state, of, PersistentReserveOut(action, scope, type_, parameters))
        assert outcome.reply.data == b""
