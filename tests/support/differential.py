"""What LIO answered to recorded commands, and what the emulated logical unit answers to them.

The recording was made over a disk of the kernel's target (tests/vm/test_passing.py). Each command
is decided here on the state that LIO had then: it is rebuilt from LIO's own READ FULL STATUS
whenever the two have come to different states. A command that LIO answered with a unit attention
was not carried out by it, and is left out; when those are reported is another matter.
"""

from __future__ import annotations

import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import attrs

from flockpr.core.machine import step
from flockpr.core.model import LogicalUnitState, Nexus, Registration, Reservation
from flockpr.core.outcome import Reply
from flockpr.prhelper.door import describe_command
from flockpr.prhelper.protocol import Request
from flockpr.spc.cdb import parse_command
from flockpr.spc.codes import InAction, Opcode, OutAction, ReservationType, Status
from flockpr.spc.sense import UNIT_ATTENTION, parse_sense
from flockpr.spc.transport_id import InitiatorPort
from tests.support.pr_sequences import Sent

RECORDED = pathlib.Path(__file__).parents[1] / "vm" / "recorded" / "lio-6.1.txt"
_ADDRESSES = (bytes.fromhex("5001405000000001"), bytes.fromhex("5001405000000011"))
"""SAS addresses of the initiator ports of the two paths."""
NEXUSES = tuple(Nexus(InitiatorPort(f"iqn.2026-11.org.flockpr:path{path}")) for path in (0, 1))
_WHOLE = 1024
"""Bytes of allocation that a payload of two registrations fits in."""


@attrs.frozen
class Recorded:
    """One command, and LIO's answer.

    Attributes:
        path: 0 or 1.
        cdb: The command.
        data_out: Its parameter list.
        status: SCSI status.
        sense: Sense key, ASC and ASCQ as text; "" without.
        data_in: What came.
    """

    path: int
    cdb: bytes
    data_out: bytes
    status: int
    sense: str
    data_in: bytes

    @property
    def action(self) -> int:
        """Service action."""
        return self.cdb[1] & 0x1F

    @property
    def reads(self) -> bool:
        """PERSISTENT RESERVE IN."""
        return self.cdb[0] == Opcode.PERSISTENT_RESERVE_IN

    @property
    def room(self) -> int:
        """Allocation or parameter list length."""
        return int.from_bytes(self.cdb[7:9])

    @property
    def text(self) -> str:
        """The command in words."""
        return describe_command(Request(self.cdb.ljust(16, b"\0")))

    @classmethod
    def of(cls, sent: Sent, status: int, sense: bytes, data_in: bytes) -> Recorded:
        """A command and its answer; sense data as it came."""
        parsed = parse_sense(sense) if status == Status.CHECK_CONDITION else None
        text = "" if parsed is None else str(parsed)
        return cls(sent.path, sent.cdb, sent.data_out, status, text, data_in)


@attrs.frozen
class Difference:
    """LIO answered otherwise.

    Attributes:
        command: The command, in words.
        theirs: LIO's answer.
        ours: That of the emulated logical unit.
        row: Which known disagreement it is; "" if none.
    """

    command: str
    theirs: str
    ours: str
    row: str


def recorded() -> list[Recorded]:
    """The recording: a line is path, CDB, list, status, sense data, data; `N*00` are N zeros."""
    found = []
    for line in RECORDED.read_text().splitlines():
        path, cdb, listed, status, sense, data = line.split()
        sent = Sent(int(path), bytes.fromhex(cdb), _bytes(listed))
        found.append(Recorded.of(sent, int(status, 16), _bytes(sense), _bytes(data)))
    return found


def _bytes(text: str) -> bytes:
    if text == "-":
        return b""
    return bytes(int(text[:-3])) if text.endswith("*00") else bytes.fromhex(text)


def differences(commands: list[Recorded]) -> tuple[list[Difference], Counter[str]]:
    """All differences, and how many commands were compared, had attentions, were skipped."""
    state: LogicalUnitState | None = LogicalUnitState()
    found: list[Difference] = []
    counts: Counter[str] = Counter()
    for command in commands:
        if command.sense.startswith(f"{UNIT_ATTENTION:02X}/"):
            counts["attentions"] += 1
            continue
        if state is None:
            state = _rebuilt(command)
            counts["skipped"] += 1
            continue
        counts["compared"] += 1
        parsed = parse_command(command.cdb, command.data_out, long_parameter_length=False)
        outcome = step(state, NEXUSES[command.path], parsed, report_attentions=False)
        found += _compared(command, outcome.reply, state)
        if not command.reads and (command.status == Status.GOOD) != (
            outcome.reply.status == Status.GOOD
        ):
            state = None  # one of the two has changed something
            continue
        state = outcome.state
        if command.reads and len(command.data_in) >= 4 and command.action != _CAPABILITIES:
            state = attrs.evolve(state, generation=int.from_bytes(command.data_in[:4]))
    return found, counts


_CAPABILITIES = InAction.REPORT_CAPABILITIES


def _rebuilt(command: Recorded) -> LogicalUnitState | None:
    """The state that a whole READ FULL STATUS shows."""
    whole = command.action == InAction.READ_FULL_STATUS and command.room >= _WHOLE
    if not command.reads or not whole or command.status != Status.GOOD:
        return None
    registrations, reservation = _full_status(command.data_in)
    return LogicalUnitState(
        generation=int.from_bytes(command.data_in[:4]),
        registrations=tuple(
            Registration(nexus, key, slot) for slot, (nexus, key) in enumerate(registrations)
        ),
        reservation=reservation,
        next_slot=len(registrations),
    )


def _full_status(data: bytes) -> tuple[list[tuple[Nexus, int]], Reservation | None]:
    """Who is registered, and who holds; TransportIDs of either protocol."""
    registrations: list[tuple[Nexus, int]] = []
    reservation = None
    offset = 8
    while offset < len(data):
        length = int.from_bytes(data[offset + 20 : offset + 24])
        identifier = data[offset + 24 : offset + 24 + length]
        nexus = next(one for one in NEXUSES if _is_of(identifier, one))
        registrations.append((nexus, int.from_bytes(data[offset : offset + 8])))
        if data[offset + 12] & 1:
            kind = ReservationType(data[offset + 13] & 0x0F)
            reservation = Reservation(kind, None if kind.all_registrants else nexus)
        offset += 24 + length
    return registrations, reservation


def _is_of(identifier: bytes, nexus: Nexus) -> bool:
    address = _ADDRESSES[NEXUSES.index(nexus)]
    name = nexus.initiator_port.text.encode()
    return identifier[4:12] == address or identifier[4:].rstrip(b"\0") == name


def _compared(command: Recorded, reply: Reply, state: LogicalUnitState) -> Iterator[Difference]:
    theirs = _answer(command.status, command.sense)
    ours = _answer(reply.status, "" if reply.sense is None else str(reply.sense))
    if theirs != ours:
        yield _difference(command, theirs, ours, state)
    elif command.reads and command.status == Status.GOOD:
        yield from _payloads(command, reply.data, state)


def _answer(status: int, sense: str) -> str:
    name = Status(status).name.replace("_", " ")
    return sense if status == Status.CHECK_CONDITION else name


def _payloads(command: Recorded, data: bytes, state: LogicalUnitState) -> Iterator[Difference]:
    theirs, ours = command.data_in, data
    if command.action == _CAPABILITIES:
        if theirs != ours:
            yield _difference(command, theirs.hex(), ours.hex(), state)
        return
    if theirs[:4] != ours[:4]:
        change = int.from_bytes(theirs[:4]) - int.from_bytes(ours[:4])
        yield _difference(command, f"PRGENERATION {change:+}", "PRGENERATION", state)
    if command.action != InAction.READ_FULL_STATUS:
        if theirs[4:] != ours[4:]:
            yield _difference(command, theirs[4:].hex(), ours[4:].hex(), state)
    elif command.room >= _WHOLE and _shown(theirs) != _shown(ours):
        yield _difference(command, str(_shown(theirs)), str(_shown(ours)), state)


def _shown(data: bytes) -> tuple[list[tuple[Nexus, int]], Reservation | None]:
    """What READ FULL STATUS shows, but for ports and order, which are each target's own."""
    registrations, reservation = _full_status(data)
    return sorted(registrations), reservation


def _difference(command: Recorded, theirs: str, ours: str, state: LogicalUnitState) -> Difference:
    rows = (name for name, row in ROWS.items() if row.holds(command, theirs, ours, state))
    row = next(rows, "")
    return Difference(command.text, theirs, ours, row)


def _registered(command: Recorded, state: LogicalUnitState) -> bool:
    return NEXUSES[command.path] in state.by_nexus


def _holds(command: Recorded, state: LogicalUnitState) -> bool:
    held = state.reservation
    return held is not None and held.holder in (None, NEXUSES[command.path])


Predicate = Callable[[Recorded, str, str, LogicalUnitState], bool]


@attrs.frozen
class Row:
    """A known disagreement.

    Attributes:
        standard: What the standard says, and where.
        known: It is among those that were gathered from the source of targets before.
        holds: Whether a difference is this one: command, LIO's answer, ours, the state.
    """

    standard: str
    known: bool
    holds: Predicate


_CONFLICT = "RESERVATION CONFLICT"

ROWS: Mapping[str, Row] = {
    "allocation length < 8": Row(
        "A short ALLOCATION LENGTH is no error (4.2.5.6)",
        True,
        lambda c, theirs, ours, s: (
            c.reads and c.room < 8 and (theirs, ours) == ("05/24/00", "GOOD")
        ),
    ),
    "unregistered, no reservation": Row(
        "RESERVATION CONFLICT for who is not registered (5.13.5, table 66); LIO says that its own"
        " communication failed",
        True,
        lambda c, theirs, ours, s: (
            not _registered(c, s)
            and s.reservation is None
            and (theirs, ours) == ("02/08/00", _CONFLICT)
        ),
    ),
    "RELEASE by holder, other type": Row(
        "INVALID RELEASE OF PERSISTENT RESERVATION (5.13.11.2.2)",
        True,
        lambda c, theirs, ours, s: (
            not c.reads
            and c.action == OutAction.RELEASE
            and _holds(c, s)
            and (theirs, ours) == (_CONFLICT, "05/26/04")
        ),
    ),
    "RELEASE, non-holder, wrong RK": Row(
        "The key is looked at first: RESERVATION CONFLICT (6.16.3)",
        True,
        lambda c, theirs, ours, s: (
            not c.reads
            and c.action == OutAction.RELEASE
            and _registered(c, s)
            and not _holds(c, s)
            and (theirs, ours) == ("GOOD", _CONFLICT)
        ),
    ),
    "PRGEN on unregister": Row(
        "Each REGISTER that is carried out counts (6.15.2)",
        True,
        lambda c, theirs, ours, s: theirs == "PRGENERATION -1",
    ),
    "APTPL after CLEAR": Row(
        "CLEAR does not change it (5.13.11.2.7); LIO switches it off",
        True,
        lambda c, theirs, ours, s: (
            _capabilities(c, theirs, ours, "90", "c1") and s.aptpl and not s.registrations
        ),
    ),
    "ALLOW COMMANDS": Row(
        "4 is the access table of the standard (6.15.4); LIO says 1, for less",
        True,
        lambda c, theirs, ours, s: _capabilities(c, theirs, ours, "90", "c0"),
    ),
    "READ RESERVATION, room for the key": Row(
        "What has room is sent (4.2.5.6); LIO sends zeros unless all of it has room",
        False,
        lambda c, theirs, ours, s: (
            c.reads
            and c.action == InAction.READ_RESERVATION
            and 8 < c.room < 24
            and theirs == ours[:8] + "0" * len(theirs[8:])
        ),
    ),
    "RESERVE with an obsolete SCOPE": Row(
        "It is a field of the CDB: 05/24/00; LIO takes it for one of the list",
        False,
        lambda c, theirs, ours, s: (
            not c.reads and bool(c.cdb[2] >> 4) and (theirs, ours) == ("05/26/00", "05/24/00")
        ),
    ),
    "RELEASE of nothing, with a TYPE that is none": Row(
        "RELEASE uses the field, so a code that is none is refused (6.16.2); LIO does not look",
        False,
        lambda c, theirs, ours, s: (
            not c.reads
            and c.action == OutAction.RELEASE
            and s.reservation is None
            and c.cdb[2] & 0x0F not in list(ReservationType)
            and (theirs, ours) == ("GOOD", "05/24/00")
        ),
    ),
}


def _capabilities(command: Recorded, theirs: str, ours: str, one: str, other: str) -> bool:
    """Whether only byte 3 of REPORT CAPABILITIES differs, and so."""
    return (
        command.reads
        and command.action == _CAPABILITIES
        and (theirs[6:8], ours[6:8]) == (one, other)
        and (theirs[:6], theirs[8:]) == (ours[:6], ours[8:])
    )
