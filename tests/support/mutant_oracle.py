"""What has to notice a mutant: recorded random traffic, and what chance does not reach."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import attrs

from flockpr.core.events import occur
from flockpr.core.invariants import check
from flockpr.core.machine import step
from flockpr.core.model import LogicalUnitState, Nexus, PendingAttentions, UnitConfig
from flockpr.core.outcome import Outcome
from flockpr.spc.cdb import (
    Command,
    OtherCommand,
    PersistentReserveIn,
    PersistentReserveOut,
)
from flockpr.spc.codes import Attention, Status
from flockpr.spc.prout_list import PROutParameters
from tests.support.access_rows import ACCESS_ROWS, cdb_of, unlisted
from tests.support.model2_bytes import Nexus2, access_class
from tests.support.model2_unit import Moved
from tests.support.mutants import processor_time
from tests.support.scsi import (
    CLEAR,
    PREEMPT,
    REGISTER,
    REGISTER_IGNORE,
    RELEASE,
    RESERVE,
    TEST_UNIT_READY,
    basic_list,
    in_cdb,
    iscsi_id,
    out_cdb,
)
from tests.support.traffic import Script, Traffic, replay
from tests.support.twins import Machine, Sent, Twins, typed

A: Nexus2 = ("iqn.2026-01.org.example:a", None, 1)
B: Nexus2 = ("iqn.2026-01.org.example:b", None, 1)
SECONDS = 5.0
"""Of processor time that one piece of the oracle may take; they need a few hundredths."""


@functools.cache
def script(commands: int) -> Script:
    """Random traffic that the machine and the model agree on."""
    traffic = Traffic(Machine(step, occur, check), seed=4711)
    traffic.run(commands)
    return traffic.script


def all_opcodes(machine: Machine) -> Iterator[None]:
    """Every operation code with every service action, under three reservations of another."""
    cdbs = [
        bytes((opcode, action, 0, 0, flags, 0, 0, 0x18, *action.to_bytes(2, "big"), *bytes(22)))
        for opcode in range(256)
        for action in (range(32) if opcode >= 0x40 else (0, 1))
        for flags in ((0, 1, 2, 3, 16, 32, 64, 128, 17) if opcode in {0x1B, 0x1E} else (0,))
        if opcode not in {0x5E, 0x5F, 0x16, 0x17, 0x56, 0x57}
    ]
    cdbs += [
        bytes((0x7F, 0, 0, 0, 0, 0, 0, 0x18, *action.to_bytes(2, "big"), *bytes(22)))
        for action in (*range(0x20), 0x17FF, 0x1800, 0x1801)
    ]
    for type_ in (0, 1, 3):
        twins = Twins(machine, UnitConfig())
        if type_:
            twins.send(Sent(A, out_cdb(REGISTER), basic_list(0, 1)))
            twins.send(Sent(A, out_cdb(RESERVE, type_=type_), basic_list(1)))
        else:
            twins.send(Sent(A, b"\x16" + bytes(5)))
        for cdb in cdbs:
            twins.send(Sent(B, cdb))
        yield


def crowd(machine: Machine) -> Iterator[None]:
    """More registrations than fit, leaving and coming back; slots wrap."""
    limit = 12
    twins = Twins(machine, UnitConfig((1,), limit), next_slot=65530)
    nexuses: list[Nexus2] = [(f"n{number}", None, 1) for number in range(limit + 2)]
    for round_ in range(3):
        for number, nexus in enumerate(nexuses):
            twins.send(Sent(nexus, out_cdb(REGISTER_IGNORE), basic_list(0, number % 4 + 1)))
        twins.send(Sent(nexuses[round_], out_cdb(PREEMPT), basic_list(round_ + 1, 4)))
        ids = [iscsi_id(f"m{number}") for number in range(limit)]
        data = basic_list(0, 9, ids=ids[: limit // 4])
        twins.send(Sent(nexuses[3], out_cdb(REGISTER, len(data)), data))
        data = basic_list(0, 9, ids=ids)
        twins.send(Sent(nexuses[7], out_cdb(REGISTER, len(data)), data))
        for nexus in nexuses:
            twins.send(Sent(nexus, TEST_UNIT_READY))
    twins.send(Sent(nexuses[2], out_cdb(CLEAR), basic_list(3)))
    yield


def slots(machine: Machine) -> Iterator[None]:
    """A slot that is still taken when its turn comes again is passed over."""
    nexuses: list[Nexus2] = [(f"n{number}", None, 1) for number in range(9)]
    for start in (0, 65534):
        twins = Twins(machine, UnitConfig(), next_slot=start)
        for nexus in nexuses[:4]:
            twins.send(Sent(nexus, out_cdb(REGISTER), basic_list(0, 1)))
        twins.send(Sent(nexuses[2], out_cdb(REGISTER), basic_list(1, 0)))
        twins.state = attrs.evolve(twins.state, next_slot=start)
        for nexus in nexuses[4:]:
            twins.send(Sent(nexus, out_cdb(REGISTER), basic_list(0, 1)))
        yield


def overflow(machine: Machine) -> Iterator[None]:
    """Exactly as many victims as fit, and one more; with a power cycle in between."""
    for limit in (3, 4, 5):
        twins = Twins(machine, UnitConfig((1,), 64, limit))
        nexuses: list[Nexus2] = [(f"n{number}", None, 1) for number in range(5)]
        for event in ("power", "reset", "power"):
            for nexus in nexuses:
                twins.send(Sent(nexus, out_cdb(REGISTER), basic_list(0, 1, aptpl=True)))
                twins.send(Sent(nexus, out_cdb(REGISTER), basic_list(0, 1, aptpl=True)))
            twins.send(Sent(nexuses[0], out_cdb(CLEAR), basic_list(1)))
            for nexus in nexuses[:2]:
                twins.send(Sent(nexus, out_cdb(REGISTER), basic_list(0, 1), report=False))
            twins.happen(event, nexuses[0])
            for nexus in (*nexuses, ("stranger", None, 1)):
                for _ in range(3):
                    twins.send(Sent(nexus, TEST_UNIT_READY))
        yield


def sibling(machine: Machine) -> Iterator[None]:
    """The own port in its own list, registered at another target port already."""
    twins = Twins(machine, UnitConfig((1, 2)))
    other: Nexus2 = (A[0], A[1], 2)
    twins.send(Sent(other, out_cdb(REGISTER), basic_list(0, 5)))
    data = basic_list(0, 6, all_ports=True, ids=[iscsi_id(A[0]), iscsi_id(A[0])])
    twins.send(Sent(A, out_cdb(REGISTER, len(data)), data))
    yield


def all_ports(machine: Machine) -> Iterator[None]:
    """READ FULL STATUS of an initiator whose ports are alike, and then no more."""
    twins = Twins(machine, UnitConfig((1, 2)))
    other: Nexus2 = (A[0], A[1], 2)
    outside: Nexus2 = (A[0], A[1], 9)

    def register(nexus: Nexus2, old: int, new: int, *, everywhere: bool = False) -> None:
        data = basic_list(old, new, all_ports=everywhere)
        twins.send(Sent(nexus, out_cdb(REGISTER), data))
        twins.send(Sent(B, in_cdb(3)))

    register(A, 0, 5, everywhere=True)
    register(other, 5, 6)
    register(other, 6, 5)
    register(other, 5, 0)
    register(other, 0, 5)
    register(outside, 0, 5, everywhere=True)
    register(outside, 5, 6)
    register(outside, 6, 0)
    for type_ in (1, 7):
        twins.send(Sent(A, out_cdb(RESERVE, type_=type_), basic_list(5)))
        twins.send(Sent(B, in_cdb(3)))
        twins.send(Sent(A, out_cdb(RELEASE, type_=type_), basic_list(5)))
    yield


def moving(machine: Machine) -> Iterator[None]:
    """What another target had comes in: sound or not, where there is room or somebody already."""
    c: Nexus2 = (A[0], A[1], 2)
    two = ((A, 5, False), (B, 6, True))
    sound = [
        Moved(two, type_, None if type_ > 6 else holder, aptpl, generation)
        for type_, holder in ((0, None), (1, A), (6, B), (7, None), (8, None))
        for aptpl in (False, True)
        for generation in (None, 0, 4, 7, 8, 9, 0xFFFF_FFFF)
    ]
    unsound = [
        *(Moved(()), Moved(((A, 0, False),)), Moved((*two, two[0])), Moved(((c, 5, False),))),
        *(Moved(two, 1, c), Moved(two, 1), Moved(two, 7, A), Moved(two, generation=1 << 32)),
        *(Moved((*two, (("x", None, 1), 1, False), (("y", None, 1), 1, False))), Moved((), 7)),
    ]
    for begin in (0, 3, 8, 0xFFFF_FFFE, 0xFFFF_FFFF):
        for moved in (*sound, *unsound):
            twins = Twins(machine, UnitConfig((1,), 3), generation=begin)
            taken = twins.adopt(moved).status != 0
            for cdb in (in_cdb(0), in_cdb(1), in_cdb(3)):
                twins.send(Sent(B, cdb))
            twins.adopt(sound[10])
            if not taken:
                twins.happen("power", A)
                twins.adopt(sound[0])
    for cdb, data in ((out_cdb(REGISTER), basic_list(0, 1)), (b"\x16" + bytes(5), b"")):
        twins = Twins(machine, UnitConfig())
        twins.send(Sent(B, cdb, data))
        twins.adopt(sound[10])
        yield


def by_hand(machine: Machine) -> Iterator[None]:
    """Commands that no parser makes are refused, not a crash; the table has every row."""
    state = LogicalUnitState()
    nexus = typed(A)
    refused: list[tuple[Command, int]] = [
        (PersistentReserveOut(99, 0, 0, PROutParameters()), 0x24),
        (PersistentReserveIn(99, 8), 0x24),
        (PersistentReserveOut(0, 0, 0, PROutParameters()), 0x1A),
        (PersistentReserveOut(6, 0, 0, PROutParameters()), 0x1A),
        (PersistentReserveOut(6, 0, 0, PROutParameters(5)), 0x1A),
    ]
    for registered in (False, True):
        for command, asc in refused:
            reply = _step(machine, state, nexus, command).reply
            assert reply.sense is not None
            assert reply.sense.asc == asc
        if registered:
            for action in range(1, 8):
                for parameters in (PROutParameters(), PROutParameters(5)):
                    command = PersistentReserveOut(action, 0, 1, parameters)
                    outcome = _step(machine, state, nexus, command)
                    assert outcome.state is state
                    assert outcome.reply.status != Status.GOOD
        state = _step(machine, state, nexus, PersistentReserveOut(6, 0, 0, _KEY_FIVE)).state
        command = PersistentReserveOut(1, 0, 3, _KEY_FIVE)
        state = _step(machine, state, nexus, command).state
    for cdb in (b"", *(bytes((opcode, *bytes(n))) for opcode in range(256) for n in range(6))):
        if cdb[:1] == b"\x5e":
            continue
        reply = _step(machine, state, typed(B), OtherCommand(cdb, cdb[0] if cdb else 0)).reply
        kind = access_class(cdb.ljust(16, b"\0")) if cdb else "W"
        if cdb[:1] in {b"\x1b", b"\x1e"} and len(cdb) < 5:
            kind = "W"
        assert (reply.status == Status.GOOD) == (kind == "A"), cdb
    waiting = PendingAttentions(typed(B), (Attention.COMMANDS_CLEARED,))
    state = attrs.evolve(state, attentions=(waiting,))
    for length in range(5):
        outcome = _step(machine, state, typed(B), OtherCommand(b"\x03" + bytes(length), 3))
        assert outcome.reply.data == b""
        assert outcome.state is state
    for head, kind in (*((row[1], row[2]) for row in ACCESS_ROWS), *_OWN_TABLES):
        assert machine.access.access_class(cdb_of(head)).value == kind, head
    for cdb, kind in _SHORT:
        assert machine.access.access_class(cdb).value == kind, cdb
    assert not unlisted(machine.access.COMMANDS, machine.access.CONDITIONS)
    yield


def narrowing(machine: Machine) -> Iterator[None]:
    """Who loses what from any of these states to any other: every command of the table is tried."""
    stranger: Nexus2 = ("stranger", None, 1)
    nobody: Nexus2 = ("nobody", None, 1)
    histories: list[list[Sent]] = [[], [_spc2(A)], [_spc2(B)]]
    for joined in ((A,), (A, B), (stranger,), (A, stranger)):
        registered = [Sent(nexus, out_cdb(REGISTER), basic_list(0, 1)) for nexus in joined]
        histories += [registered, [*registered, _spc2(joined[-1])]]
        histories += [
            [*registered, Sent(holder, out_cdb(RESERVE, type_=type_), basic_list(1))]
            for holder in joined
            for type_ in (1, 3, 5, 6, 7, 8)
        ]
    cdbs = [cdb_of(row[1]) for row in ACCESS_ROWS]
    states: list[tuple[LogicalUnitState, set[tuple[Nexus2, bytes]]]] = []
    for history in histories:
        twins = Twins(machine, UnitConfig())
        for sent in history:
            twins.send(sent)
        may = {
            (nexus, cdb)
            for nexus in (A, B, stranger, nobody)
            for cdb in cdbs
            if twins.model.other(nexus, cdb).status != Status.RESERVATION_CONFLICT
        }
        states.append((twins.state, may))
        yield
    for before, had in states:
        for after, has in states:
            assert bool(machine.access.narrows(before, after)) == bool(had - has), (before, after)
    yield


def _spc2(nexus: Nexus2) -> Sent:
    return Sent(nexus, b"\x16" + bytes(5))


_KEY_FIVE = PROutParameters(5, 5)
_OWN_TABLES = (("5e", "A"), ("5f", "O"), ("16", "O"), ("17", "O"), ("56", "O"), ("57", "O"))
_SHORT = (
    *((b"", "W"), (b"\x28", "R"), (b"\xa3\x05", "A"), (b"\xa3", "W"), (b"\x1e\0\0\0", "W")),
    *((b"\x7f" + bytes(8) + b"\x09", "R"), (b"\x7f" + bytes(8), "W")),
    *((b"\x7f" + bytes(7) + b"\x01\x09", "W"), (b"\x7f" + bytes(7) + b"\x09", "W")),
)


def _step(machine: Machine, state: LogicalUnitState, nexus: Nexus, command: Command) -> Outcome:
    return machine.step(
        state, nexus, command, config=UnitConfig(), report_attentions=True, seen_epoch=None
    )


def notices(machine: Machine, commands: int) -> str | None:
    """What the oracle says against a machine; None if it finds nothing.

    Args:
        machine: The machine.
        commands: How many random commands to send.
    """
    pieces: tuple[Callable[[Machine], Iterator[None]], ...] = (
        crowd,
        slots,
        overflow,
        sibling,
        all_ports,
        moving,
        by_hand,
        narrowing,
        lambda it: replay(it, script(commands)),
        all_opcodes,
    )
    try:
        for piece in pieces:
            played = piece(machine)
            finished = False
            while not finished:
                with processor_time(SECONDS):
                    finished = next(played, attrs.NOTHING) is attrs.NOTHING
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
