"""A hypothesis state machine whose rules are the commands and events of one logical unit.

Both the state machine of the package and the second model get each of them (`Twins`). The
parameters of the rules are small and have names, so that the script that hypothesis shrinks
a disagreement to can be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import attrs
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from flockpr.core import events, machine
from flockpr.core.invariants import check
from flockpr.core.model import UnitConfig
from tests.support.access_rows import ACCESS_ROWS, cdb_of
from tests.support.model2_bytes import Nexus2
from tests.support.scsi import (
    CLEAR,
    INQUIRY,
    MOVE,
    PREEMPT,
    PREEMPT_ABORT,
    REGISTER,
    REGISTER_IGNORE,
    RELEASE,
    RELEASE_6,
    RELEASE_10,
    REPORT_LUNS,
    RESERVE,
    RESERVE_6,
    RESERVE_10,
    basic_list,
    in_cdb,
    iscsi_id,
    move_list,
    out_cdb,
)
from tests.support.twins import Machine, Sent, Twins

_A, _B = "iqn.2026-01.org.example:a", "iqn.2026-01.org.example:b"
NEXUSES: dict[str, Nexus2] = {
    "a1": (_A, None, 1),
    "b1": (_B, 0x400001370000, 1),
    "c1": (_B, 0x400001370001, 1),
    "a2": (_A, None, 2),
    "b2": (_B, 0x400001370000, 2),
}
"""Initiator port and target port; b and c differ in their ISID only."""

IDENTIFIERS: dict[str, bytes] = {
    "a": iscsi_id(_A),
    "b": iscsi_id(f"{_B},i,0x400001370000"),
    "c": iscsi_id(f"{_B},i,0x400001370001"),
    "stranger": iscsi_id("stranger"),
    "upper case": iscsi_id(_A.upper()),
    "SAS": bytes((0x06,)) + bytes(23),
    "cut": iscsi_id(_A)[:20],
    "no terminator": bytes((0x05, 0, 0, 20)) + b"x" * 20,
}
"""TransportIDs by what they stand for; the last three are refused."""


def _declare(cdb: bytearray, data: bytes, length: int) -> bytes:
    """Put another PARAMETER LIST LENGTH into the CDB."""
    cdb[5:9] = length.to_bytes(4, "big")
    return data


def _reserved(cdb: bytearray, data: bytes) -> bytes:
    """Set reserved and obsolete bits, which say nothing (REGISTER AND MOVE: its byte 16)."""
    cdb[1] |= 0xA0
    cdb[3] = 0xFF
    return data[:16] + b"\xff" + data[17:]


Flaw = Callable[[bytearray, bytes], bytes]
FLAWS: dict[str, Flaw] = {
    "reserved bits": _reserved,
    "bit of SPEC_I_PT": lambda _, data: data[:20] + bytes((data[20] | 0x08,)) + data[21:],
    "list of 4": lambda cdb, data: _declare(cdb, data, 4)[:4],
    "list of 12": lambda cdb, data: _declare(cdb, data, 12)[:12],
    "list of 20": lambda cdb, data: _declare(cdb, data, 20)[:20],
    "last byte missing": lambda _, data: data[:-1],
    "byte too many": lambda cdb, data: _declare(cdb, data + b"\0", len(data) + 1),
    "declares nothing": lambda cdb, data: _declare(cdb, data, 0),
    "declares 64 KiB more": lambda cdb, data: _declare(cdb, data, len(data) + (1 << 16)),
}
"""What can be wrong with a parameter list, or with the length that the CDB declares.

In the list of REGISTER AND MOVE the bit of SPEC_I_PT is one of TRANSPORTID LENGTH.
"""

KINDS = {
    "WE": 1,
    "EA": 3,
    "WERO": 5,
    "EARO": 6,
    "WEAR": 7,
    "EAAR": 8,
    "none": 0,
    "reserved": 2,
    "element scope": 0x23,
}
"""Byte 2 of the CDB: scope and type; the last three are refused where they count."""

OTHERS = {f"{name} {head}": cdb_of(head) for name, head, _ in ACCESS_ROWS}
SPC2 = {
    "RESERVE(6)": RESERVE_6,
    "RELEASE(6)": RELEASE_6,
    "RESERVE(10)": RESERVE_10,
    "RELEASE(10)": RELEASE_10,
    "RESERVE(6) EXTENT": bytes((0x16, 0x01)) + RESERVE_6[2:],
    "RELEASE(10) 3RDPTY": bytes((0x57, 0x10)) + RELEASE_10[2:],
}
SILENT = {
    "INQUIRY": INQUIRY,
    "REPORT LUNS": REPORT_LUNS,
    "nothing": b"",
    "cut": bytes((0x5F, 0)),
    "NACA": bytes((0, 0, 0, 0, 0, 0x04)),
    "OUT 08h": out_cdb(8),
    "IN 04h": in_cdb(4),
}
"""What reports no attention: performed or refused whoever sends it."""


# A value that is listed twice comes twice as often; the first one is what shrinking leads to.
_who = st.sampled_from(tuple(NEXUSES))
_door = st.sampled_from(("helper", "iSCSI"))
_key: st.SearchStrategy[int | str] = st.sampled_from(("own",) * 7 + (0, 1, 2))
_new = st.sampled_from((1, 2, 1, 2, 0xFFFFFFFFFFFFFFFF, 0))
_kind = st.sampled_from((*tuple(KINDS)[:6] * 4, *KINDS))
_flag = st.booleans()
_listed = st.none() | st.lists(st.sampled_from(tuple(IDENTIFIERS)), max_size=2)
_length = st.sampled_from((8192, 8192, 0, 7, 8, 24)) | st.integers(0, 80)


class Side(RuleBasedStateMachine):
    """Both models of one logical unit; every rule is one command or one event.

    After each, `Twins` compares status, sense, data, attentions and the whole state, asks for
    the core's invariants and holds a state that did not change to being the same object. That
    is no `invariant` of hypothesis, which would put a line of its own behind every command.
    """

    machine: ClassVar[Machine] = Machine(machine.step, events.occur, check)
    rows: ClassVar[Counter[str]] = Counter()
    """Which rows of the decision tables were taken, over all examples."""

    twins: Twins
    doors: dict[str, str]

    @initialize(
        room=st.sampled_from((1024, 1024, 3)),
        pending=st.sampled_from((1024, 1024, 1)),
        generation=st.sampled_from((0, 2**32 - 2)),
        slot=st.sampled_from((0, 65534)),
        door=_door,
        entered=st.dictionaries(_who, st.sampled_from((1, 2)), max_size=4),
        held=st.sampled_from((None, *KINDS)),
    )
    def unit(
        self,
        *,
        room: int,
        pending: int,
        generation: int,
        slot: int,
        door: str,
        entered: dict[str, int],
        held: str | None,
    ) -> None:
        """A new unit: its limits, counters that may soon wrap, who registers and reserves."""
        config = UnitConfig((1, 2), room, pending)
        # With the limits of this unit, which `Twins` does not hand on.
        limited = attrs.evolve(self.machine, check=partial(check, config=config))
        self.twins = Twins(limited, config, generation, slot)
        self.doors = dict.fromkeys(NEXUSES, door)
        for who, key in entered.items():
            self.out(who, REGISTER_IGNORE, basic_list(0, key))
        if entered and held:
            first = next(iter(entered))
            self.out(first, RESERVE, basic_list(self.key(first, "own")), held)

    # ------------------------------------------------------------------ PERSISTENT RESERVE OUT

    @rule(who=_who, key=_key, new=_new, aptpl=_flag, all_ports=_flag, listed=_listed)
    def register(
        self,
        *,
        who: str,
        key: int | str,
        new: int,
        aptpl: bool,
        all_ports: bool,
        listed: list[str] | None,
    ) -> None:
        """REGISTER, with SPEC_I_PT if there is a list (of TransportIDs, maybe empty)."""
        ids = None if listed is None else [IDENTIFIERS[name] for name in listed]
        given = self.key(who, key)
        data = basic_list(given, new, aptpl=aptpl, all_ports=all_ports, ids=ids)
        self.out(who, REGISTER, data)

    @rule(who=_who, new=_new, aptpl=_flag, all_ports=_flag)
    def register_and_ignore(self, *, who: str, new: int, aptpl: bool, all_ports: bool) -> None:
        """REGISTER AND IGNORE EXISTING KEY."""
        self.out(who, REGISTER_IGNORE, basic_list(0, new, aptpl=aptpl, all_ports=all_ports))

    @rule(who=_who, key=_key, kind=_kind)
    def reserve(self, *, who: str, key: int | str, kind: str) -> None:
        """RESERVE."""
        self.out(who, RESERVE, basic_list(self.key(who, key)), kind)

    @rule(who=_who, key=_key, kind=st.sampled_from(("held",) * len(KINDS) + tuple(KINDS)))
    def release(self, *, who: str, key: int | str, kind: str) -> None:
        """RELEASE, half the time of the type that is held."""
        self.out(who, RELEASE, basic_list(self.key(who, key)), kind)

    @rule(who=_who, key=_key)
    def clear(self, *, who: str, key: int | str) -> None:
        """CLEAR."""
        self.out(who, CLEAR, basic_list(self.key(who, key)))

    @rule(who=_who, key=_key, victim=_new, kind=_kind)
    def preempt(self, *, who: str, key: int | str, victim: int, kind: str) -> None:
        """PREEMPT of a key."""
        self.out(who, PREEMPT, basic_list(self.key(who, key), victim), kind)

    @rule(who=_who, key=_key, victim=_new, kind=_kind)
    def preempt_and_abort(self, *, who: str, key: int | str, victim: int, kind: str) -> None:
        """PREEMPT AND ABORT of a key."""
        self.out(who, PREEMPT_ABORT, basic_list(self.key(who, key), victim), kind)

    @rule(
        who=_who,
        key=_key,
        new=_new,
        to=st.sampled_from(tuple(IDENTIFIERS)),
        port=st.sampled_from((1, 2, 1, 2, 3)),
        unreg=_flag,
        aptpl=_flag,
    )
    def move(
        self,
        *,
        who: str,
        key: int | str,
        new: int,
        to: str,
        port: int,
        unreg: bool,
        aptpl: bool,
    ) -> None:
        """REGISTER AND MOVE."""
        given, target = self.key(who, key), IDENTIFIERS[to]
        self.out(who, MOVE, move_list(given, new, target, port=port, unreg=unreg, aptpl=aptpl))

    @rule(
        who=_who,
        action=st.sampled_from(range(8)),
        new=_new,
        kind=st.just("held") | _kind,
        flaw=st.sampled_from(tuple(FLAWS)),
    )
    def flawed(self, *, who: str, action: int, new: int, kind: str, flaw: str) -> None:
        """Any service action with a list that has something wrong with it."""
        data = basic_list(self.key(who, "own"), new)
        if action == MOVE:
            data = move_list(self.key(who, "own"), new, IDENTIFIERS["b"])
        self.out(who, action, data, kind, FLAWS[flaw])

    # ------------------------------------------------------------------ other commands

    @rule(who=_who, action=st.integers(0, 3), length=_length)
    def read(self, *, who: str, action: int, length: int) -> None:
        """PERSISTENT RESERVE IN with that allocation length."""
        self.send(who, in_cdb(action, length))

    @rule(who=_who, command=st.sampled_from(tuple(SPC2)))
    def spc2(self, *, who: str, command: str) -> None:
        """RESERVE and RELEASE of SPC-2."""
        self.send(who, SPC2[command])

    @rule(who=_who, command=st.sampled_from(tuple(OTHERS)))
    def other(self, *, who: str, command: str) -> None:
        """A command that is stopped like a read, like a write or never."""
        self.send(who, OTHERS[command])

    @rule(who=_who, command=st.sampled_from(tuple(SILENT)))
    def silent(self, *, who: str, command: str) -> None:
        """A command that reports no attention."""
        self.send(who, SILENT[command])

    @rule(who=_who, descriptor=_flag, length=st.sampled_from((252, 18, 8, 0)))
    def request_sense(self, *, who: str, descriptor: bool, length: int) -> None:
        """REQUEST SENSE, which returns an attention as its data."""
        self.send(who, bytes((0x03, descriptor, 0, 0, length, 0)))

    # ------------------------------------------------------------------ events

    @rule()
    def power_cycle(self) -> None:
        """The unit loses power and comes back."""
        self.twins.happen("power", NEXUSES["a1"])

    @rule()
    def reset(self) -> None:
        """LOGICAL UNIT RESET."""
        self.twins.happen("reset", NEXUSES["a1"])

    @rule(who=_who)
    def lose(self, *, who: str) -> None:
        """A nexus is lost."""
        self.twins.happen("loss", NEXUSES[who])

    @rule(who=_who, door=_door)
    def login(self, *, who: str, door: str) -> None:
        """A nexus comes through this door from now on, which has not seen it before."""
        self.doors[who] = door
        self.twins.epochs.pop(NEXUSES[who], None)

    # ------------------------------------------------------------------ how it is sent

    def key(self, who: str, key: int | str) -> int:
        """The key that the nexus has (0 if it has none) for "own"."""
        return key if isinstance(key, int) else self.twins.model.keys.get(NEXUSES[who], 0)

    def out(
        self, who: str, action: int, data: bytes, kind: str = "none", flaw: Flaw | None = None
    ) -> None:
        """PERSISTENT RESERVE OUT, of that type and scope."""
        byte = self.twins.model.type if kind == "held" else KINDS[kind]
        cdb = bytearray(out_cdb(action, len(data), type_=byte))
        if flaw is not None:
            data = flaw(cdb, data)
        self.send(who, bytes(cdb), data)

    def send(self, who: str, cdb: bytes, data: bytes = b"") -> None:
        """Both get it."""
        # The helper's door reads a length of two bytes, and reports no attentions.
        helper = self.doors[who] == "helper"
        sent = Sent(NEXUSES[who], cdb, data, report=not helper, long_length=not helper)
        self.rows.update(self.twins.send(sent).rows)


def play(
    side: type[Side], examples: int, steps: int = 30, phases: Sequence[Phase] = tuple(Phase)
) -> None:
    """Let hypothesis look for a disagreement, in the same way every time.

    Raises:
        DisagreementError: The shortest script that it found ends in one.
    """
    how = settings(
        settings.get_profile("ci"),
        max_examples=examples,
        stateful_step_count=steps,
        report_multiple_bugs=False,
        database=None,
        phases=phases,
    )
    run_state_machine_as_test(side, settings=how)


def counting() -> type[Side]:
    """A machine with a count of rows of its own."""

    class Counting(Side):
        rows: ClassVar[Counter[str]] = Counter()

    return Counting
