"""Which commands a reservation lets through (SPC-4 5.13.1 and table 65; SBC-4 table 13).

The rules are one table, written to be held beside the standard's: what a command is, not
what it happens to transfer, decides. (A target that goes by the direction of the data
lets a SYNCHRONIZE CACHE or an UNMAP of a fenced node through.)

What the table does not know is treated like a write: an unknown command that slips past a
reservation is data corruption, one that conflicts is an error message.
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import Final

import attrs

from flockpr.core.model import LogicalUnitState, Nexus
from flockpr.core.standing import has_access
from flockpr.spc.transport_id import InitiatorPort


class AccessClass(enum.Enum):
    """How a command stands toward a reservation of somebody else."""

    ALWAYS = "A"
    """Never conflicts."""

    READ = "R"
    """Conflicts with the Exclusive Access types."""

    WRITE = "W"
    """Conflicts with every type."""

    OWN = "O"
    """Has tables of its own: PERSISTENT RESERVE OUT, RESERVE, RELEASE."""


A, R, W, O = AccessClass.ALWAYS, AccessClass.READ, AccessClass.WRITE, AccessClass.OWN  # noqa: E741

# (operation code, service action or None for all of them): (class, name)
#
# The service action is byte 1 bits 4-0, or bytes 8-9 of operation code 7Fh. Commands whose
# class hangs on another field stand in `CONDITIONS` instead.
COMMANDS: Final = MappingProxyType(
    {
        # Never conflict: they neither read nor change the medium or what protects it.
        (0x00, None): (A, "TEST UNIT READY"),
        (0x03, None): (A, "REQUEST SENSE"),
        (0x12, None): (A, "INQUIRY"),
        (0xA0, None): (A, "REPORT LUNS"),
        (0x25, None): (A, "READ CAPACITY(10)"),
        (0x9E, 0x10): (A, "READ CAPACITY(16)"),
        (0x4D, None): (A, "LOG SENSE"),
        (0x5E, None): (A, "PERSISTENT RESERVE IN"),
        (0x84, None): (A, "RECEIVE COPY RESULTS and its kin"),
        (0x86, None): (A, "ACCESS CONTROL IN"),
        (0x87, None): (A, "ACCESS CONTROL OUT"),
        (0xA3, 0x05): (A, "REPORT IDENTIFYING INFORMATION"),
        (0xA3, 0x0A): (A, "REPORT TARGET PORT GROUPS"),
        (0xA3, 0x0B): (A, "REPORT ALIASES"),
        (0xA3, 0x0E): (A, "REPORT PRIORITY"),
        (0xA3, 0x0F): (A, "REPORT TIMESTAMP"),
        (0x9E, 0x13): (A, "REPORT REFERRALS"),
        (0xAB, 0x01): (A, "READ MEDIA SERIAL NUMBER"),
        (0xA3, 0x1D): (A, "REPORT PROVISIONING INITIALIZATION PATTERN"),
        # Read-like.
        (0x08, None): (R, "READ(6)"),
        (0x28, None): (R, "READ(10)"),
        (0xA8, None): (R, "READ(12)"),
        (0x88, None): (R, "READ(16)"),
        (0x7F, 0x0009): (R, "READ(32)"),
        (0x2F, None): (R, "VERIFY(10)"),
        (0xAF, None): (R, "VERIFY(12)"),
        (0x8F, None): (R, "VERIFY(16)"),
        (0x7F, 0x000A): (R, "VERIFY(32)"),
        (0x34, None): (R, "PRE-FETCH(10)"),
        (0x90, None): (R, "PRE-FETCH(16)"),
        (0x9E, 0x12): (R, "GET LBA STATUS(16)"),
        (0x7F, 0x0012): (R, "GET LBA STATUS(32)"),
        (0x9E, 0x16): (R, "GET STREAM STATUS"),
        (0x9E, 0x17): (R, "GET PHYSICAL ELEMENT STATUS"),
        (0x83, 0x10): (R, "POPULATE TOKEN"),
        (0x37, None): (R, "READ DEFECT DATA(10)"),
        (0xB7, None): (R, "READ DEFECT DATA(12)"),
        (0x1A, None): (R, "MODE SENSE(6)"),
        (0x5A, None): (R, "MODE SENSE(10)"),
        (0x3C, None): (R, "READ BUFFER(10)"),
        (0x9B, None): (R, "READ BUFFER(16)"),
        (0x8C, None): (R, "READ ATTRIBUTE"),
        (0x1C, None): (R, "RECEIVE DIAGNOSTIC RESULTS"),
        (0xA3, 0x0C): (R, "REPORT SUPPORTED OPERATION CODES"),
        (0xA3, 0x0D): (R, "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS"),
        (0xA3, 0x10): (R, "MANAGEMENT PROTOCOL IN"),
        (0xA2, None): (R, "SECURITY PROTOCOL IN"),
        # Write-like.
        (0x0A, None): (W, "WRITE(6)"),
        (0x2A, None): (W, "WRITE(10)"),
        (0xAA, None): (W, "WRITE(12)"),
        (0x8A, None): (W, "WRITE(16)"),
        (0x7F, 0x000B): (W, "WRITE(32)"),
        (0x2E, None): (W, "WRITE AND VERIFY(10)"),
        (0xAE, None): (W, "WRITE AND VERIFY(12)"),
        (0x8E, None): (W, "WRITE AND VERIFY(16)"),
        (0x7F, 0x000C): (W, "WRITE AND VERIFY(32)"),
        (0x41, None): (W, "WRITE SAME(10)"),
        (0x93, None): (W, "WRITE SAME(16)"),
        (0x7F, 0x000D): (W, "WRITE SAME(32)"),
        (0x42, None): (W, "UNMAP"),
        (0x89, None): (W, "COMPARE AND WRITE"),
        (0x8B, None): (W, "ORWRITE(16)"),
        (0x7F, 0x000E): (W, "ORWRITE(32)"),
        (0x9C, None): (W, "WRITE ATOMIC(16)"),
        (0x35, None): (W, "SYNCHRONIZE CACHE(10)"),
        (0x91, None): (W, "SYNCHRONIZE CACHE(16)"),
        (0x04, None): (W, "FORMAT UNIT"),
        (0x38, None): (W, "FORMAT WITH PRESET"),
        (0x07, None): (W, "REASSIGN BLOCKS"),
        (0x48, None): (W, "SANITIZE"),
        (0x3F, None): (W, "WRITE LONG(10)"),
        (0x9F, 0x11): (W, "WRITE LONG(16)"),
        (0x3E, None): (W, "READ LONG(10)"),  # obsolete; conflicts in SBC-2 and SBC-3
        (0x9E, 0x11): (W, "READ LONG(16)"),
        (0x9E, 0x14): (W, "STREAM CONTROL"),
        (0x9E, 0x15): (W, "BACKGROUND CONTROL"),
        (0x9E, 0x18): (W, "REMOVE ELEMENT AND TRUNCATE"),
        (0x9E, 0x19): (W, "RESTORE ELEMENTS AND REBUILD"),
        (0x83, 0x00): (W, "EXTENDED COPY(LID1)"),
        (0x83, 0x01): (W, "EXTENDED COPY(LID4)"),
        (0x83, 0x1C): (W, "COPY OPERATION ABORT"),
        (0x83, 0x11): (W, "WRITE USING TOKEN"),
        (0x15, None): (W, "MODE SELECT(6)"),
        (0x55, None): (W, "MODE SELECT(10)"),
        (0x4C, None): (W, "LOG SELECT"),
        (0x1D, None): (W, "SEND DIAGNOSTIC"),
        (0x3B, None): (W, "WRITE BUFFER"),
        (0x8D, None): (W, "WRITE ATTRIBUTE"),
        (0xA4, 0x06): (W, "SET IDENTIFYING INFORMATION"),
        (0xA4, 0x0A): (W, "SET TARGET PORT GROUPS"),
        (0xA4, 0x0B): (W, "CHANGE ALIASES"),
        (0xA4, 0x0C): (W, "REMOVE I_T NEXUS"),
        (0xA4, 0x0E): (W, "SET PRIORITY"),
        (0xA4, 0x0F): (W, "SET TIMESTAMP"),
        (0xA4, 0x10): (W, "MANAGEMENT PROTOCOL OUT"),
        (0xB5, None): (W, "SECURITY PROTOCOL OUT"),
        (0x7F, 0x1800): (W, "RECEIVE CREDENTIAL"),
        # Decided by `prout` (SPC-4 table 66) and `spc2` (SPC-4 5.13.3).
        (0x5F, None): (O, "PERSISTENT RESERVE OUT"),
        (0x16, None): (O, "RESERVE(6)"),
        (0x17, None): (O, "RELEASE(6)"),
        (0x56, None): (O, "RESERVE(10)"),
        (0x57, None): (O, "RELEASE(10)"),
    }
)


@attrs.frozen
class Condition:
    """A command whose class hangs on a field: ALWAYS if it has this value, else WRITE.

    Attributes:
        byte: Where the field is in the CDB.
        mask: Its bits.
        value: The harmless value.
        name: The command.
    """

    byte: int
    mask: int
    value: int
    name: str

    def decide(self, cdb: bytes) -> AccessClass:
        """Return the class of a CDB; one too short to tell is treated like a write."""
        if len(cdb) > self.byte and cdb[self.byte] & self.mask == self.value:
            return AccessClass.ALWAYS
        return AccessClass.WRITE


CONDITIONS: Final = MappingProxyType(
    {
        # START=1 and POWER CONDITION=0 is a start; anything else stops, ejects or idles.
        0x1B: Condition(4, 0xF1, 0x01, "START STOP UNIT"),
        # PREVENT=00b allows removal.
        0x1E: Condition(4, 0x03, 0x00, "PREVENT ALLOW MEDIUM REMOVAL"),
    }
)

# What others may do while a nexus holds a RESERVE(6/10) (SPC-2 5.5.1 and table 9); of the
# conditional ones the harmless forms. RELEASE is decided by `spc2`. TEST UNIT READY is not
# among them: SPC-2 has it conflict.
SPC2_ALLOWED: Final = frozenset(
    {
        (0x03, None),  # REQUEST SENSE
        (0x12, None),  # INQUIRY
        (0xA0, None),  # REPORT LUNS
        (0x4D, None),  # LOG SENSE
        (0x25, None),  # READ CAPACITY(10)
        (0x9E, 0x10),  # READ CAPACITY(16)
        (0xA3, 0x0A),  # REPORT TARGET PORT GROUPS
        (0x1B, None),  # START STOP UNIT, start only
        (0x1E, None),  # PREVENT ALLOW MEDIUM REMOVAL, allow only
    }
)

_VARIABLE_LENGTH = 0x7F

# One command for each set of commands that stand and fall together, by `allowed`'s own answer:
# always but beside a SPC-2 reservation, reads, writes. What passes everything cannot be lost.
_SAMPLES: Final = (
    bytes(6),  # TEST UNIT READY
    bytes((0x28,)).ljust(10, b"\0"),  # READ(10)
    bytes((0x2A,)).ljust(10, b"\0"),  # WRITE(10)
)

_STRANGER: Final = Nexus(InitiatorPort("stranger"), 0)
"""Stands for everybody whom no state names: there is no target port 0."""


def service_action(cdb: bytes) -> int | None:
    """Return the service action field of a CDB, whether its command has one or not.

    Args:
        cdb: The CDB; any bytes.

    Returns:
        Bytes 8-9 for operation code 7Fh, else byte 1 bits 4-0; None if the CDB ends before.
    """
    if cdb[:1] == bytes((_VARIABLE_LENGTH,)):
        return int.from_bytes(cdb[8:10], "big") if len(cdb) >= 10 else None
    return cdb[1] & 0x1F if len(cdb) >= 2 else None


def access_class(cdb: bytes) -> AccessClass:
    """Return the class of a command; WRITE for what the table lacks.

    Args:
        cdb: The CDB; any bytes.
    """
    if not cdb:
        return AccessClass.WRITE
    if cdb[0] in CONDITIONS:
        return CONDITIONS[cdb[0]].decide(cdb)
    row = COMMANDS.get((cdb[0], service_action(cdb))) or COMMANDS.get((cdb[0], None))
    return AccessClass.WRITE if row is None else row[0]


def allowed(state: LogicalUnitState, nexus: Nexus, cdb: bytes) -> bool:
    """Tell whether reservations let a command through (SPC-4 5.13.1, SPC-2 5.5.1).

    Commands with tables of their own are `machine.step`'s to decide. Here they count as
    writes, so that a door that forgets to ask `step` fails safe.

    Args:
        state: The committed state at the start of the command.
        nexus: Who sends it.
        cdb: The CDB; any bytes.
    """
    if state.spc2 is not None:
        return state.spc2.holder == nexus or _allowed_beside_spc2(cdb)
    if has_access(state, nexus):
        return True
    wanted = access_class(cdb)
    if wanted is AccessClass.ALWAYS:
        return True
    reservation = state.reservation
    exclusive = reservation is None or reservation.type.exclusive_access
    return wanted is AccessClass.READ and not exclusive


def narrows(before: LogicalUnitState, after: LogicalUnitState) -> bool:
    """Tell whether some nexus may send less after a change than before it.

    Such a change must not be acknowledged while a door still lets commands through by the
    state before. One that only widens needs no such care: who goes by the old state refuses
    too much, and looks again before it refuses.

    Args:
        before: The committed state.
        after: The state that would follow.
    """
    if after.reservation is None and after.spc2 is None:
        return False  # everybody may send everything
    named = dict.fromkeys((*before.by_nexus, *after.by_nexus, _STRANGER))
    named.update((s.spc2.holder, None) for s in (before, after) if s.spc2 is not None)
    return any(
        allowed(before, nexus, cdb) and not allowed(after, nexus, cdb)
        for nexus in named
        for cdb in _SAMPLES
    )


def _allowed_beside_spc2(cdb: bytes) -> bool:
    """Tell whether a command of another nexus passes a SPC-2 reservation."""
    if access_class(cdb) is not AccessClass.ALWAYS:
        return False
    return (cdb[0], None) in SPC2_ALLOWED or (cdb[0], service_action(cdb)) in SPC2_ALLOWED
