"""What sg3_utils prints: hex dumps, sense data, exit codes, TransportIDs.

Scripts and fence agents match these lines, so they are its, to the byte: those of 1.46, the
version in Debian 12. The tests run the real tools and compare.
"""

from __future__ import annotations

import errno as errnos
import os

from flockpr.spc.sense import Sense, parse_sense

SYNTAX_ERROR, NOT_READY, MEDIUM, ILLEGAL, ATTENTION, PROTECT = 1, 2, 3, 5, 6, 7
INVALID_OPCODE, COPY_ABORTED, ABORTED, MISCOMPARE, NO_SENSE, RECOVERED = 9, 10, 11, 14, 20, 21
OUT_OF_RANGE, CONFLICT, BUSY, TASK_SET_FULL, TASK_ABORTED, CONTRADICT = 22, 24, 26, 27, 29, 31
PROTECTION, OS_ERROR, MALFORMED, OTHER_SENSE, OTHER = 40, 50, 97, 98, 99

_MEANINGS = {
    SYNTAX_ERROR: ("Syntax error", "command line options (usually)"),
    NOT_READY: ("Device not ready", "type: sense key"),
    MEDIUM: ("Medium or hardware error", "type: sense key (plus blank check for tape)"),
    ILLEGAL: ("Illegal request", "type: sense key, apart from Invalid opcode"),
    ATTENTION: ("Unit attention", "type: sense key"),
    PROTECT: ("Data protect", "type: sense key; write protected media?"),
    INVALID_OPCODE: ("Illegal request, Invalid opcode", "type: sense key + asc,ascq"),
    COPY_ABORTED: ("Copy aborted", "type: sense key"),
    ABORTED: (
        "Aborted command",
        "type: sense key, other than protection related (asc=0x10)",
    ),
    MISCOMPARE: ("Miscompare", "type: sense key"),
    NO_SENSE: ("No sense key", "type: probably additional sense code"),
    RECOVERED: ("Recovered error (warning)", "tye: sense key"),
    OUT_OF_RANGE: ("LBA out of range", ""),
    CONFLICT: ("Reservation conflict", "type: SCSI status"),
    BUSY: ("Busy", "type: SCSI status"),
    TASK_SET_FULL: ("Task set full", "type: SCSI status"),
    TASK_ABORTED: ("Task aborted", "type: SCSI status"),
    CONTRADICT: ("Contradict", "command line options contradict or select bad mode"),
    PROTECTION: ("Aborted command, protection error", ""),
    MALFORMED: ("Malformed SCSI command", "trouble building command"),
    OTHER_SENSE: ("Some other sense error", "try '-v' option for more information"),
    OTHER: ("Some other error", "possible transport of driver issue"),
}
_BY_STATUS = {
    0x04: 25,
    0x08: BUSY,
    0x18: CONFLICT,
    0x28: TASK_SET_FULL,
    0x30: 28,
    0x40: TASK_ABORTED,
}
_BY_KEY = {
    0x0: NO_SENSE,
    0x1: RECOVERED,
    0x2: NOT_READY,
    0x3: MEDIUM,
    0x4: MEDIUM,
    0x5: ILLEGAL,
    0x6: ATTENTION,
    0x7: PROTECT,
    0x8: MEDIUM,
    0xA: COPY_ABORTED,
    0xB: ABORTED,
    0xE: MISCOMPARE,
}
_KEYS = (
    *("No Sense", "Recovered Error", "Not Ready", "Medium Error", "Hardware Error"),
    *("Illegal Request", "Unit Attention", "Data Protect", "Blank Check", "Vendor specific(9)"),
    *("Copy Aborted", "Aborted Command", "Equal", "Volume Overflow", "Miscompare", "Completed"),
)
_CODES = {
    0x0000: "No additional sense information",
    0x0401: "Logical unit is in process of becoming ready",
    0x0403: "Logical unit not ready, manual intervention required",
    0x0801: "Logical unit communication time-out",
    0x1A00: "Parameter list length error",
    0x2000: "Invalid command operation code",
    0x2400: "Invalid field in cdb",
    0x2500: "Logical unit not supported",
    0x2600: "Invalid field in parameter list",
    0x2604: "Invalid release of persistent reservation",
    0x2900: "Power on, reset, or bus device reset occurred",
    0x2902: "SCSI bus reset occurred",
    0x2903: "Bus device reset function occurred",
    0x2907: "I_T nexus loss occurred",
    0x2A03: "Reservations preempted",
    0x2A04: "Reservations released",
    0x2A05: "Registrations preempted",
    0x2F00: "Commands cleared by another initiator",
    0x4400: "Internal target failure",
    0x4401: "Persistent reservation information lost",
    0x5504: "Insufficient registration resources",
}
"""Of the codes that a logical unit answers with (ASC << 8 | ASCQ)."""

TYPES = (
    *("obsolete [0]", "Write Exclusive", "obsolete [2]", "Exclusive Access", "obsolete [4]"),
    *("Write Exclusive, registrants only", "Exclusive Access, registrants only"),
    *("Write Exclusive, all registrants", "Exclusive Access, all registrants"),
    *("obsolete [9]", "obsolete [0xa]", "obsolete [0xb]", "obsolete [0xc]"),
    *("obsolete [0xd]", "obsolete [0xe]", "obsolete [0xf]"),
)


def exit_code_of_errno(number: int) -> int:
    """The exit code for an error of the operating system."""
    return OS_ERROR + number if 0 < number < MALFORMED - OS_ERROR else OS_ERROR


def meaning(code: int, *, longer: bool = False) -> str:
    """An exit code in words.

    Args:
        code: It.
        longer: As with ``-v``.
    """
    if code in _MEANINGS:
        text, more = _MEANINGS[code]
        return f"{text}, {more}" if longer and more else text
    if OS_ERROR < code < MALFORMED:
        text = os.strerror(code - OS_ERROR)
        return f"OS error: {text}" if longer else text
    hint = "" if longer else ", try '-v' option for more information"
    return f"Sense category: {code}{hint}"


def category(status: int, sense: bytes) -> int:
    """The exit code for the answer to a command; 0 for GOOD."""
    if status != 0x02:
        return _BY_STATUS.get(status, 0) if status else 0
    found = parse_sense(sense)
    if found is None:
        return OTHER_SENSE
    if (found.key, found.asc, found.ascq) == (0x5, 0x20, 0x00):
        return INVALID_OPCODE
    if (found.key, found.asc, found.ascq) == (0x5, 0x21, 0x00):
        return OUT_OF_RANGE
    if (found.key, found.asc) == (0xB, 0x10):
        return PROTECTION
    return _BY_KEY.get(found.key, OTHER_SENSE)


def sense_lines(sense: bytes, *, raw: bool = False) -> list[str]:
    """Fixed format sense data in words.

    Args:
        sense: As `Result` has it.
        raw: With its bytes, as with ``-vv``.
    """
    found = parse_sense(sense)
    if found is None:
        return [" >>> sense buffer empty"]
    code = found.asc << 8 | found.ascq
    if code in _CODES:
        named = f"Additional sense: {_CODES[code]}"
    else:
        named = f"ASC={found.asc:02x}, ASCQ={found.ascq:02x} (hex)"
    lines = [f"Fixed format, current; Sense key: {_KEYS[found.key]}", named]
    lines += _pointer(found)
    if raw:
        lines.append(f" Raw sense data (in hex), sb_len={len(sense)}, embedded_len={sense[7] + 8}")
        lines += hex_lines(sense[: sense[7] + 8], -1, indent="        ")
    return lines


def _pointer(sense: Sense) -> list[str]:
    if sense.pointer is None:
        return []
    where = "Command" if sense.pointer.in_cdb else "Data parameters"
    bit = "" if sense.pointer.bit is None else f" bit {sense.pointer.bit}"
    return [f"  Sense Key Specific: Error in {where}: byte {sense.pointer.byte}{bit}"]


def hex_lines(data: bytes, style: int, *, indent: str = "") -> list[str]:
    """A dump, 16 bytes a line.

    Args:
        data: The bytes.
        style: -1 bytes only; 1 with the offset in front; 0 also with the characters behind.
        indent: Put in front of each line.
    """
    lines = []
    for offset in range(0, len(data), 16):
        part = data[offset : offset + 16]
        text = " ".join(f"{byte:02x}" for byte in part[:8])
        if len(part) > 8:
            text += "  " + " ".join(f"{byte:02x}" for byte in part[8:])
        if style < 0:
            lines.append(indent + text)
            continue
        line = f"{' ' + f'{offset:02x}':8}{text}"
        if style == 0:
            shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)
            line = f"{line:60}{shown}"
        lines.append(indent + line)
    return lines


def transport_id_lines(data: bytes, indent: str) -> list[str]:
    """One TransportID in words (those with iSCSI names, which are all that flockpr has)."""
    kind, form = data[0] & 0x0F, data[0] >> 6
    lines = [f"{indent}Transport Id of initiator:"]
    if kind != 0x05:
        lines.append(f"{indent}  unknown protocol id=0x{kind:x}  TPID format={form}")
        return lines + hex_lines(data[:24], 1, indent=indent)
    name = data[4 : 4 + int.from_bytes(data[2:4], "big")].split(b"\0")[0].decode(errors="replace")
    what = "name" if form == 0 else "world wide unique port id"
    return [*lines, f"{indent}  iSCSI {what}: {name}"]


def os_error(error: OSError) -> tuple[int, str]:
    """Number and text of an error of the operating system."""
    number = error.errno or errnos.EIO
    return number, os.strerror(number)
