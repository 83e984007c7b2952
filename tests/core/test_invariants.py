"""Every broken state is named, and no sequence of commands brings one about."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.core.events import Event, LogicalUnitReset, NexusLoss, PowerCycle, occur
from flockpr.core.invariants import check
from flockpr.core.machine import step
from flockpr.core.model import (
    SLOTS,
    LogicalUnitState,
    Nexus,
    PendingAttentions,
    Registration,
    Reservation,
    Spc2Reservation,
    UnitConfig,
)
from flockpr.spc.cdb import parse_command
from flockpr.spc.codes import Attention, ReservationType
from tests.support.scsi import (
    RELEASE_6,
    RESERVE_6,
    A,
    B,
    basic_list,
    move_list,
    nexus,
    out_cdb,
    transport_id,
)
from tests.support.spc_strategies import QUIET

WE = ReservationType.WRITE_EXCLUSIVE
WEAR = ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS
ONE = Registration(A, 1, 0)
GOOD = LogicalUnitState(registrations=(ONE,))
TOLD = PendingAttentions(A, (Attention.POWER_ON,))

BROKEN = {
    "registered twice": LogicalUnitState(registrations=(ONE, attrs.evolve(ONE, slot=1))),
    "share a slot": LogicalUnitState(registrations=(ONE, Registration(B, 1, 0))),
    "no reservation key": LogicalUnitState(registrations=(Registration(A, 0, 0),)),
    "is no reservation key": LogicalUnitState(registrations=(Registration(A, 1 << 64, 0),)),
    "slot out of range": LogicalUnitState(registrations=(Registration(A, 1, SLOTS),)),
    "at target port 0 has": LogicalUnitState(registrations=(Registration(nexus("a", 0), 1, 0),)),
    "target port out": LogicalUnitState(registrations=(Registration(nexus("a", 65536), 1, 0),)),
    "3 registrations, more than 2": LogicalUnitState(
        registrations=tuple(Registration(nexus(f"n{n}"), 1, n) for n in range(3))
    ),
    "names a holder": attrs.evolve(GOOD, reservation=Reservation(WEAR, A)),
    "without registrants": LogicalUnitState(reservation=Reservation(WEAR, None)),
    "has no holder": attrs.evolve(GOOD, reservation=Reservation(WE, None)),
    "holder is not registered": attrs.evolve(GOOD, reservation=Reservation(WE, B)),
    "beside persistent ones": attrs.evolve(GOOD, spc2=Spc2Reservation(B, 1)),
    "SPC-2 reservation has a slot": LogicalUnitState(spc2=Spc2Reservation(A, -1)),
    "two queues": LogicalUnitState(attentions=(TOLD, TOLD)),
    "empty queue": LogicalUnitState(attentions=(PendingAttentions(A, ()),)),
    "pending twice": LogicalUnitState(attentions=(PendingAttentions(A, TOLD.codes * 2),)),
    "3 nexuses have attentions, more than 2": LogicalUnitState(
        attentions=tuple(PendingAttentions(nexus(f"n{n}"), TOLD.codes) for n in range(3))
    ),
    "does not have 32 bits": LogicalUnitState(generation=1 << 32),
    "not have 32 bits": LogicalUnitState(generation=-1),
    "next slot": LogicalUnitState(next_slot=SLOTS),
    "fewer power cycles": LogicalUnitState(power_cycles=-1),
    "behind the power cycles": LogicalUnitState(power_cycles=2, attention_epoch=1),
    "without an epoch": LogicalUnitState(overflowed=True),
}


@pytest.mark.parametrize(("words", "state"), BROKEN.items(), ids=list(BROKEN))
def test_check_of_a_broken_state_names_what_is_broken(words: str, state: LogicalUnitState) -> None:
    """One sentence for what is wrong, and none for what is not."""
    found = check(state, UnitConfig(max_registrations=2, max_pending=2))

    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    "state",
    [
        LogicalUnitState(),
        GOOD,
        attrs.evolve(GOOD, reservation=Reservation(WE, A)),
        attrs.evolve(GOOD, reservation=Reservation(WEAR, None)),
        LogicalUnitState(spc2=Spc2Reservation(A, SLOTS - 1), next_slot=SLOTS - 1),
        LogicalUnitState(
            registrations=(Registration(nexus("a", 65535), (1 << 64) - 1, SLOTS - 1),),
            generation=(1 << 32) - 1,
            attentions=(TOLD,),
            attention_epoch=2,
            power_cycles=1,
            overflowed=True,
        ),
    ],
)
def test_check_of_a_sound_state_finds_nothing(state: LogicalUnitState) -> None:
    """The extremes are sound too."""
    assert check(state) == []


CONFIG = UnitConfig(target_ports=(1, 2), max_registrations=4, max_pending=2)
NEXUSES = [nexus(name, port) for name in "abc" for port in (1, 2)]
_keys = st.integers(0, 3)
_ids = st.sampled_from([transport_id(of) for of in NEXUSES])
_basic = st.builds(
    basic_list,
    _keys,
    _keys,
    aptpl=st.booleans(),
    all_ports=st.booleans(),
    ids=st.none() | st.lists(_ids, max_size=2),
)
_move = st.builds(
    move_list, _keys, _keys, _ids, port=st.integers(1, 2), unreg=st.booleans(), aptpl=st.booleans()
)


@st.composite
def _outs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    action = draw(st.integers(0, 7))
    data = draw(_move if action == 7 else _basic)
    type_ = draw(st.sampled_from((1, 3, 5, 6, 7, 8)))
    return out_cdb(action, len(data), type_=type_), data


_commands = st.one_of(
    _outs(), st.sampled_from([(RESERVE_6, b""), (RELEASE_6, b""), (bytes(6), b"")])
)
_events: st.SearchStrategy[Event] = st.one_of(
    st.just(PowerCycle()),
    st.just(LogicalUnitReset()),
    st.builds(NexusLoss, st.sampled_from(NEXUSES)),
)


@QUIET
@given(st.lists(st.tuples(st.sampled_from(NEXUSES), _commands | _events), max_size=40))
def test_check_after_any_sequence_finds_nothing(
    steps: list[tuple[Nexus, tuple[bytes, bytes] | Event]],
) -> None:
    """Reachable states are sound, and equal ones are one object."""
    state = LogicalUnitState()
    for of, what in steps:
        if isinstance(what, tuple):
            command = parse_command(*what)
            after = step(state, of, command, config=CONFIG, seen_epoch=None).state
        else:
            after = occur(state, what, config=CONFIG).state
        assert check(after, CONFIG) == []
        assert (after is state) == (after == state)
        assert after.attention_epoch >= state.attention_epoch
        state = after
