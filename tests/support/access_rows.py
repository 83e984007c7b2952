"""The access table, row by row: a command, its CDB, and its class (SPC-4 table 65, SBC-4 table 13).

Class A is never stopped by a persistent reservation, R is stopped like a read, W like a
write. The list is written from the standard's tables and knows nothing of the package.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

ACCESS_ROWS: tuple[tuple[str, str, str], ...] = (
    # name, CDB in hex (cut after the bytes that matter, zeroes follow), class
    ("TEST UNIT READY", "00", "A"),
    ("REQUEST SENSE", "03", "A"),
    ("INQUIRY", "12", "A"),
    ("REPORT LUNS", "a0", "A"),
    ("READ CAPACITY(10)", "25", "A"),
    ("READ CAPACITY(16)", "9e10", "A"),
    ("LOG SENSE", "4d", "A"),
    ("START STOP UNIT start", "1b00000001", "A"),
    ("START STOP UNIT stop", "1b00000000", "W"),
    ("START STOP UNIT eject", "1b00000002", "W"),
    ("START STOP UNIT load", "1b00000003", "A"),
    ("START STOP UNIT start with a power condition", "1b00000011", "W"),
    ("START STOP UNIT power condition", "1b00000030", "W"),
    ("PREVENT ALLOW MEDIUM REMOVAL allow", "1e00000000", "A"),
    ("PREVENT ALLOW MEDIUM REMOVAL prevent", "1e00000001", "W"),
    ("PREVENT ALLOW MEDIUM REMOVAL prevent, obsolete code", "1e00000002", "W"),
    ("PREVENT ALLOW MEDIUM REMOVAL prevent, obsolete code 3", "1e00000003", "W"),
    ("RECEIVE COPY STATUS(LID1)", "8400", "A"),
    ("RECEIVE COPY DATA(LID1)", "8401", "A"),
    ("RECEIVE COPY OPERATING PARAMETERS", "8403", "A"),
    ("RECEIVE COPY FAILURE DETAILS", "8404", "A"),
    ("RECEIVE COPY STATUS(LID4)", "8405", "A"),
    ("RECEIVE ROD TOKEN INFORMATION", "8407", "A"),
    ("REPORT ALL ROD TOKENS", "8408", "A"),
    ("ACCESS CONTROL IN", "86", "A"),
    ("ACCESS CONTROL OUT", "87", "A"),
    ("REPORT IDENTIFYING INFORMATION", "a305", "A"),
    ("REPORT TARGET PORT GROUPS", "a30a", "A"),
    ("REPORT ALIASES", "a30b", "A"),
    ("REPORT PRIORITY", "a30e", "A"),
    ("REPORT TIMESTAMP", "a30f", "A"),
    ("REPORT REFERRALS", "9e13", "A"),
    ("READ MEDIA SERIAL NUMBER", "ab01", "A"),
    ("REPORT PROVISIONING INITIALIZATION PATTERN", "a31d", "A"),
    ("READ(6)", "08", "R"),
    ("READ(10)", "28", "R"),
    ("READ(12)", "a8", "R"),
    ("READ(16)", "88", "R"),
    ("READ(32)", "7f000000000000180009", "R"),
    ("VERIFY(10)", "2f", "R"),
    ("VERIFY(10) with BYTCHK", "2f02", "R"),
    ("VERIFY(12)", "af", "R"),
    ("VERIFY(16)", "8f", "R"),
    ("VERIFY(32)", "7f00000000000018000a", "R"),
    ("PRE-FETCH(10)", "34", "R"),
    ("PRE-FETCH(16)", "90", "R"),
    ("GET LBA STATUS(16)", "9e12", "R"),
    ("GET LBA STATUS(32)", "7f000000000000180012", "R"),
    ("GET STREAM STATUS", "9e16", "R"),
    ("GET PHYSICAL ELEMENT STATUS", "9e17", "R"),
    ("POPULATE TOKEN", "8310", "R"),
    ("READ DEFECT DATA(10)", "37", "R"),
    ("READ DEFECT DATA(12)", "b7", "R"),
    ("MODE SENSE(6)", "1a", "R"),
    ("MODE SENSE(10)", "5a", "R"),
    ("READ BUFFER(10)", "3c", "R"),
    ("READ BUFFER(16)", "9b", "R"),
    ("READ ATTRIBUTE", "8c", "R"),
    ("RECEIVE DIAGNOSTIC RESULTS", "1c", "R"),
    ("REPORT SUPPORTED OPERATION CODES", "a30c", "R"),
    ("REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", "a30d", "R"),
    ("MANAGEMENT PROTOCOL IN", "a310", "R"),
    ("SECURITY PROTOCOL IN", "a2", "R"),
    ("WRITE(6)", "0a", "W"),
    ("WRITE(10)", "2a", "W"),
    ("WRITE(12)", "aa", "W"),
    ("WRITE(16)", "8a", "W"),
    ("WRITE(32)", "7f00000000000018000b", "W"),
    ("WRITE AND VERIFY(10)", "2e", "W"),
    ("WRITE AND VERIFY(12)", "ae", "W"),
    ("WRITE AND VERIFY(16)", "8e", "W"),
    ("WRITE AND VERIFY(32)", "7f00000000000018000c", "W"),
    ("WRITE SAME(10)", "41", "W"),
    ("WRITE SAME(16)", "93", "W"),
    ("WRITE SAME(16) with UNMAP", "9308", "W"),
    ("WRITE SAME(32)", "7f00000000000018000d", "W"),
    ("UNMAP", "42", "W"),
    ("COMPARE AND WRITE", "89", "W"),
    ("ORWRITE(16)", "8b", "W"),
    ("ORWRITE(32)", "7f00000000000018000e", "W"),
    ("WRITE ATOMIC(16)", "9c", "W"),
    ("SYNCHRONIZE CACHE(10)", "35", "W"),
    ("SYNCHRONIZE CACHE(16)", "91", "W"),
    ("FORMAT UNIT", "04", "W"),
    ("FORMAT WITH PRESET", "38", "W"),
    ("REASSIGN BLOCKS", "07", "W"),
    ("SANITIZE", "48", "W"),
    ("WRITE LONG(10)", "3f", "W"),
    ("WRITE LONG(16)", "9f11", "W"),
    ("READ LONG(10)", "3e", "W"),
    ("READ LONG(16)", "9e11", "W"),
    ("STREAM CONTROL", "9e14", "W"),
    ("BACKGROUND CONTROL", "9e15", "W"),
    ("REMOVE ELEMENT AND TRUNCATE", "9e18", "W"),
    ("RESTORE ELEMENTS AND REBUILD", "9e19", "W"),
    ("EXTENDED COPY(LID1)", "8300", "W"),
    ("EXTENDED COPY(LID4)", "8301", "W"),
    ("COPY OPERATION ABORT", "831c", "W"),
    ("WRITE USING TOKEN", "8311", "W"),
    ("MODE SELECT(6)", "15", "W"),
    ("MODE SELECT(10)", "55", "W"),
    ("LOG SELECT", "4c", "W"),
    ("SEND DIAGNOSTIC", "1d", "W"),
    ("WRITE BUFFER", "3b", "W"),
    ("WRITE ATTRIBUTE", "8d", "W"),
    ("SET IDENTIFYING INFORMATION", "a406", "W"),
    ("SET TARGET PORT GROUPS", "a40a", "W"),
    ("CHANGE ALIASES", "a40b", "W"),
    ("REMOVE I_T NEXUS", "a40c", "W"),
    ("SET PRIORITY", "a40e", "W"),
    ("SET TIMESTAMP", "a40f", "W"),
    ("MANAGEMENT PROTOCOL OUT", "a410", "W"),
    ("SECURITY PROTOCOL OUT", "b5", "W"),
    ("RECEIVE CREDENTIAL", "7f000000000000181800", "W"),
    # fail safe: what the tables do not list may change the medium for all we know
    ("unlisted service action of SERVICE ACTION IN(16)", "9e1f", "W"),
    ("unlisted service action of MAINTENANCE IN", "a31f", "W"),
    ("unlisted service action of MAINTENANCE OUT", "a41f", "W"),
    ("unlisted service action of THIRD-PARTY COPY OUT", "831f", "W"),
    ("unlisted service action of SERVICE ACTION IN(12)", "ab02", "W"),
    ("unlisted service action of a variable length CDB", "7f000000000000187777", "W"),
    ("REZERO UNIT, obsolete", "01", "W"),
    ("SEEK(10), obsolete", "2b", "W"),
    ("vendor specific, six bytes", "20", "W"),
    ("vendor specific, group 6", "c0", "W"),
    ("vendor specific, group 7", "ff", "W"),
)


_NOWHERE = ("unlisted", "vendor specific", "REZERO", "SEEK")
"""How the names of the rows begin that stand in no table."""


def unlisted(
    table: Mapping[tuple[int, int | None], object], conditions: Container[int]
) -> list[str]:
    """Which rows a table of commands lacks, by name; the last rows here are in none.

    Args:
        table: Keyed by operation code and service action, None for all of them.
        conditions: Operation codes whose class hangs on a field.
    """
    lacking = []
    for name, head, _ in ACCESS_ROWS:
        cdb = cdb_of(head)
        action = int.from_bytes(cdb[8:10], "big") if cdb[0] == 0x7F else cdb[1] & 0x1F
        keys = {(cdb[0], action), (cdb[0], None)}
        if not keys & set(table) and cdb[0] not in conditions:
            lacking.append(name)
    return [name for name in lacking if not name.startswith(_NOWHERE)]


def cdb_of(head: str) -> bytes:
    """The whole CDB for one of the rows: the given bytes and zeroes up to the opcode's length."""
    start = bytes.fromhex(head)
    length = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}.get(start[0] >> 5, 16)
    return start.ljust(32 if start[0] == 0x7F else length, b"\0")
