"""The second model's bytes: CDBs, TransportIDs, sense, the access table, and its answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.model2_rows import ROWS

Port = tuple[str, int | None]
"""Initiator port: iSCSI name in lower case, ISID or None."""

Nexus2 = tuple[str, int | None, int]
"""I_T nexus: name, ISID or None, relative target port identifier."""

Pointer = tuple[str, int, int | None]
"""Field pointer: "cdb" or "list", byte, bit or None."""

GOOD, CHECK, CONFLICT = 0x00, 0x02, 0x18
WRITE_EXCLUSIVE_TYPES = (1, 5, 7)
SHARED_TYPES = (5, 6, 7, 8)
ALL_REGISTRANTS_TYPES = (7, 8)
TYPES = (1, 3, 5, 6, 7, 8)

REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_ABORT, REGISTER_IGNORE, MOVE = range(8)
SA_NAMES = ("register", "reserve", "release", "clear", "preempt", "abort", "ignore", "move")

ALWAYS = {0x00, 0x03, 0x12, 0xA0, 0x25, 0x4D, 0x84, 0x86, 0x87}
ALWAYS_SA = {
    *((0x9E, 0x10), (0x9E, 0x13), (0xAB, 0x01)),
    *((0xA3, sa) for sa in (0x05, 0x0A, 0x0B, 0x0E, 0x0F, 0x1D)),
}
READS = {
    *(0x08, 0x28, 0xA8, 0x88, 0x2F, 0xAF, 0x8F, 0x34, 0x90, 0x37, 0xB7, 0x1A, 0x5A),
    *(0x3C, 0x9B, 0x8C, 0x1C, 0xA2),
}
READS_SA = {
    *((0x7F, 0x0009), (0x7F, 0x000A), (0x7F, 0x0012), (0x9E, 0x12), (0x9E, 0x16), (0x9E, 0x17)),
    *((0x83, 0x10), (0xA3, 0x0C), (0xA3, 0x0D), (0xA3, 0x10)),
}


@dataclass
class Answer:
    """What one command gets: the rows that decided it, the reply, and what it does."""

    rows: tuple[str, ...]
    status: int = GOOD
    sense: tuple[int, int, int] | None = None
    pointers: frozenset[Pointer] | None = None
    """The field pointers that the rules allow; None: they fix none."""
    data: bytes = b""
    raised: set[tuple[Nexus2, int]] = field(default_factory=set)
    aborted: set[Nexus2] = field(default_factory=set)
    step_one: bool = False
    """Refused before anything else is looked at."""
    effect: Callable[[Answer], None] | None = None
    told: int | None = None
    """The unit attention that was shown."""
    behind: bool = False
    """The nexus had not seen the attention epoch before this command ..."""
    caught_up: bool = False
    """... and has now."""

    def __post_init__(self) -> None:
        unknown = [row for row in self.rows if row not in ROWS]
        assert not unknown, unknown


def refuse(row: str, asc: int, ascq: int, *pointers: Pointer, step_one: bool = False) -> Answer:
    """CHECK CONDITION, ILLEGAL REQUEST."""
    allowed = frozenset(pointers) if pointers else None
    return Answer((row,), CHECK, (5, asc, ascq), allowed, step_one=step_one)


def conflict(*rows: str) -> Answer:
    """RESERVATION CONFLICT."""
    return Answer(rows, CONFLICT)


def number(data: bytes, start: int, end: int) -> int:
    """A big-endian integer out of a buffer."""
    return int.from_bytes(data[start:end], "big")


def sense_bytes(attention: int, descriptor: bool) -> bytes:
    """A unit attention as parameter data of REQUEST SENSE."""
    if descriptor:
        return bytes([0x72, 6, attention >> 8, attention & 0xFF, 0, 0, 0, 0])
    return bytes([0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, attention >> 8, attention & 0xFF]) + (
        bytes(4)
    )


def cdb_length(cdb: bytes) -> int:
    """How many bytes a CDB that starts so has at least."""
    if cdb[0] == 0x7F:
        return 8 + max(2, cdb[7] if len(cdb) > 7 else 0)
    return {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}.get(cdb[0] >> 5, 1)


def control_byte(opcode: int) -> int | None:
    """Where the CONTROL byte is; None for vendor specific commands."""
    if opcode == 0x7F:
        return 1
    return {0: 5, 1: 9, 2: 9, 4: 15, 5: 11}.get(opcode >> 5)


def access_class(cdb: bytes) -> str:
    """A: never stopped; R: stopped like a read; W: stopped like a write, and all unknown ones."""
    opcode = cdb[0]
    action = number(cdb, 8, 10) if opcode == 0x7F else cdb[1] & 0x1F
    if opcode == 0x1B:
        return "A" if cdb[4] & 0xF1 == 0x01 else "W"
    if opcode == 0x1E:
        return "A" if cdb[4] & 0x03 == 0 else "W"
    if opcode in ALWAYS or (opcode, action) in ALWAYS_SA:
        return "A"
    if opcode in READS or (opcode, action) in READS_SA:
        return "R"
    return "W"


def passes_spc2(cdb: bytes) -> bool:
    """What others may do while somebody holds an SPC-2 reservation."""
    opcode, action = cdb[0], cdb[1] & 0x1F
    if opcode in {0x12, 0xA0, 0x03, 0x4D, 0x25}:
        return True
    if (opcode, action) in {(0x9E, 0x10), (0xA3, 0x0A)}:
        return True
    return opcode in {0x1B, 0x1E} and access_class(cdb) == "A"


def transport_id(data: bytes, start: int) -> tuple[Port, int] | str:
    """The iSCSI TransportID at `start` and its length, or what is wrong with it."""
    if len(data) - start < 24:
        return "short"
    if data[start] & 0xCF not in {0x05, 0x45}:
        return "foreign"
    length = 4 + number(data, start + 2, start + 4)
    if length < 24 or length % 4:
        return "bad"
    if start + length > len(data):
        return "short"
    text, terminator, _ = data[start + 4 : start + length].partition(b"\0")
    if not terminator:
        return "bad"
    isid = None
    if data[start] & 0xC0:
        text, separator, digits = text.partition(b",i,0x")
        if not separator or len(digits) != 12 or set(digits) - set(b"0123456789abcdefABCDEF"):
            return "bad"
        isid = int(digits, 16)
    if not 1 <= len(text) <= 223 or b",i,0x" in text:
        return "bad"
    try:
        name = text.decode("utf-8").lower()
    except UnicodeDecodeError:
        return "bad"
    if any(character.isspace() or not character.isprintable() for character in name):
        return "bad"
    return (name, isid), length
