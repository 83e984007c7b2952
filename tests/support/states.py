"""States and documents for tests of the codec: what commands can bring about, and the rest."""

from __future__ import annotations

from hypothesis import strategies as st

from flockpr.core.events import (
    Adopted,
    Adoption,
    Event,
    LogicalUnitReset,
    NexusLoss,
    PowerCycle,
)
from flockpr.core.model import (
    SLOTS,
    LogicalUnitState,
    Nexus,
    PendingAttentions,
    Registration,
    Reservation,
    Spc2Reservation,
)
from flockpr.spc.codes import Attention, ReservationType
from flockpr.store.base import Applied, Served, Snapshot
from flockpr.store.document import Document
from tests.support.scsi import (
    RELEASE_6,
    RESERVE_6,
    TEST_UNIT_READY,
    TYPES,
    Unit,
    basic_list,
    nexus,
    out_cdb,
    transport_id,
)
from tests.support.spc_strategies import initiator_ports, unsigned

nexuses = st.builds(Nexus, initiator_ports, st.integers(1, 0xFFFF))
hexadecimal = st.text("0123456789abcdef", min_size=32, max_size=32)
texts = st.text(max_size=512)
_slots = st.integers(0, SLOTS - 1)
_codes = st.lists(st.sampled_from(list(Attention)), min_size=1, unique=True).map(tuple)


@st.composite
def valid_states(draw: st.DrawFn) -> LogicalUnitState:
    """Any state that keeps the invariants, whether or not commands can bring it about."""
    registrations: tuple[Registration, ...] = ()
    reservation = spc2 = None
    if draw(st.booleans()):
        who = draw(st.lists(nexuses, max_size=6, unique=True))
        slots = draw(st.lists(_slots, min_size=len(who), max_size=len(who), unique=True))
        registrations = tuple(
            Registration(of, draw(st.integers(1, (1 << 64) - 1)), slot, draw(st.booleans()))
            for of, slot in zip(who, slots, strict=True)
        )
        if draw(st.booleans()) and who:
            type_ = draw(st.sampled_from(list(ReservationType)))
            holder = None if type_.all_registrants else draw(st.sampled_from(who))
            reservation = Reservation(type_, holder)
    elif draw(st.booleans()):
        of = draw(nexuses)
        spc2 = Spc2Reservation(of, draw(_slots))
    epoch = draw(st.integers(0, 1 << 62))
    waiting = draw(st.lists(nexuses, max_size=4, unique=True))
    return LogicalUnitState(
        generation=draw(unsigned(32)),
        aptpl=draw(st.booleans()),
        registrations=registrations,
        reservation=reservation,
        spc2=spc2,
        attentions=tuple(PendingAttentions(of, draw(_codes)) for of in waiting),
        attention_epoch=epoch,
        overflowed=epoch > 0 and draw(st.booleans()),
        power_cycles=draw(st.integers(0, epoch)),
        next_slot=draw(_slots),
    )


_NEXUSES = [nexus(name, port) for name in "abc" for port in (1, 2)]
_keys = st.integers(0, 3)
_lists = st.builds(
    basic_list,
    _keys,
    _keys,
    aptpl=st.booleans(),
    all_ports=st.booleans(),
    ids=st.none() | st.lists(st.sampled_from([transport_id(of) for of in _NEXUSES]), max_size=2),
)
_outs = st.builds(
    lambda action, type_, data: (out_cdb(action, len(data), type_=type_), data),
    st.integers(0, 6),
    st.sampled_from(TYPES),
    _lists,
)
_others = st.sampled_from([(cdb, b"") for cdb in (RESERVE_6, RELEASE_6, TEST_UNIT_READY)])
_events: st.SearchStrategy[Event] = st.one_of(
    st.just(PowerCycle()),
    st.just(LogicalUnitReset()),
    st.builds(NexusLoss, st.sampled_from(_NEXUSES)),
    st.builds(
        Adoption,
        st.lists(st.builds(Adopted, st.sampled_from(_NEXUSES), _keys), max_size=3).map(tuple),
        st.none()
        | st.builds(
            Reservation,
            st.sampled_from(list(ReservationType)),
            st.none() | st.sampled_from(_NEXUSES),
        ),
        st.booleans(),
        st.none() | unsigned(32),
    ),
)


@st.composite
def reachable_histories(draw: st.DrawFn) -> list[LogicalUnitState]:
    """The state after each of a sequence of commands and events, and before the first."""
    unit = Unit(target_ports=(1, 2), pending=2)
    states = [unit.state]
    for of, what in draw(
        st.lists(st.tuples(st.sampled_from(_NEXUSES), _outs | _others | _events), max_size=25)
    ):
        if isinstance(what, tuple):
            unit.send(of, *what)
        else:
            unit.happen(what)
        states.append(unit.state)
    return states


def reachable_states() -> st.SearchStrategy[LogicalUnitState]:
    """What a sequence of commands and events leaves behind."""
    return reachable_histories().map(lambda states: states[-1])


commands = st.builds(
    Applied,
    nexus=texts,
    target_port=unsigned(16),
    action=texts,
    opcode=st.none() | unsigned(8),
    key=st.none() | unsigned(64),
    service_action_key=st.none() | unsigned(64),
    type=st.none() | unsigned(4),
    status=unsigned(8),
    generation_before=unsigned(32),
    generation_after=unsigned(32),
    door=texts,
    time=texts,
    raised=st.lists(texts, max_size=3).map(tuple),
)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Any document that the codec has to keep."""
    number = draw(st.integers(1, 10**16 - 1))
    txid, daemon = draw(hexadecimal), draw(texts)
    others = st.dictionaries(texts, st.tuples(st.integers(1, number), hexadecimal), max_size=4)
    snapshot = Snapshot(
        number=number,
        txid=txid,
        state=draw(valid_states() | reachable_states()),
        served=draw(st.dictionaries(_slots, st.builds(Served, texts, texts, texts), max_size=3)),
        time=draw(texts),
        host=draw(texts),
        daemon=daemon,
        deleted=draw(st.booleans()),
    )
    return Document(
        incarnation=draw(hexadecimal),
        previous="" if number == 1 else draw(hexadecimal),
        snapshot=snapshot,
        applied=tuple(draw(st.lists(commands, max_size=3))),
        daemons={**draw(others), daemon: (number, txid)},
        forgotten=draw(st.integers(0, number)),
    )


A, B = nexus("a"), nexus("b", 2, isid=0x0123456789AB)


def rich_document(number: int = 5) -> Document:
    """A document in which every member that can be filled is."""
    state = LogicalUnitState(
        generation=7,
        aptpl=True,
        registrations=(Registration(A, 0xA1, 3), Registration(B, 0xB2, 4, all_target_ports=True)),
        reservation=Reservation(ReservationType.WRITE_EXCLUSIVE, A),
        attentions=(PendingAttentions(B, (Attention.REGISTRATIONS_PREEMPTED,)),),
        attention_epoch=2,
        overflowed=True,
        power_cycles=1,
        next_slot=5,
    )
    txid = "ab" * 16
    snapshot = Snapshot(
        number=number,
        txid=txid,
        state=state,
        served={3: Served("host-1", "d1", "helper")},
        time="2026-01-01T00:00:00.000000Z",
        host="host-1",
        daemon="d1",
    )
    applied = Applied(
        nexus=A.initiator_port.text,
        target_port=1,
        action="PREEMPT",
        opcode=0x5F,
        key=0xA1,
        service_action_key=0xB2,
        type=1,
        status=0,
        generation_before=6,
        generation_after=7,
        door="helper",
        time="2026-01-01T00:00:00.000000Z",
        raised=("b@2 2a/05",),
    )
    return Document(
        incarnation="cd" * 16,
        previous="ef" * 16,
        snapshot=snapshot,
        applied=(applied,),
        daemons={"d0": (4, "ef" * 16), "d1": (number, txid)},
        forgotten=2,
    )
