"""iSCSI PDUs as bytes: opcodes, flags and the layouts of the basic header segments.

Every PDU is a basic header segment (BHS) of 48 bytes, additional header segments (AHS),
an optional header digest, a data segment padded to four bytes, and an optional data digest
(RFC 7143 11.1). What is here only packs and unpacks; who may send what, and when, is in
`session` and `login`. Multi-byte fields are big-endian, digests are not (see `digests`).
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

import attrs

BHS_LENGTH: Final = 48
MAX_AHS_LENGTH: Final = 255 * 4
"""TotalAHSLength is one byte that counts words (RFC 7143 11.2.1.5)."""
MAX_DATA_SEGMENT_LENGTH: Final = (1 << 24) - 1
NO_TAG: Final = 0xFFFFFFFF
"""The reserved value of initiator task tags and target transfer tags (11.2.1.8, 11.7.4)."""


class Opcode(IntEnum):
    """RFC 7143 11.2.1.2, without the immediate bit."""

    NOP_OUT = 0x00
    SCSI_COMMAND = 0x01
    TASK_MANAGEMENT_REQUEST = 0x02
    LOGIN_REQUEST = 0x03
    TEXT_REQUEST = 0x04
    DATA_OUT = 0x05
    LOGOUT_REQUEST = 0x06
    SNACK = 0x10
    NOP_IN = 0x20
    SCSI_RESPONSE = 0x21
    TASK_MANAGEMENT_RESPONSE = 0x22
    LOGIN_RESPONSE = 0x23
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    LOGOUT_RESPONSE = 0x26
    R2T = 0x31
    ASYNC_MESSAGE = 0x32
    REJECT = 0x3F


OPCODE_MASK: Final = 0x3F
IMMEDIATE: Final = 0x40
"""I bit in byte 0 of a request (11.2.1.1)."""
FINAL: Final = 0x80
"""F bit in byte 1."""
CONTINUE: Final = 0x40
"""C bit of Text and Login PDUs (11.10.2, 11.12.3)."""
TRANSIT: Final = 0x80
"""T bit of Login PDUs (11.12.2)."""
READ: Final = 0x40
WRITE: Final = 0x20
ATTRIBUTE_MASK: Final = 0x07
"""R, W and ATTR of a SCSI Command (11.3.1)."""
HAS_STATUS: Final = 0x01
"""S bit of Data-In (11.7.3)."""
UNDERFLOW: Final = 0x02
OVERFLOW: Final = 0x04
BIDI_UNDERFLOW: Final = 0x08
BIDI_OVERFLOW: Final = 0x10
"""Residual bits of SCSI Response; U and O also of Data-In (11.4.1, 11.7.3)."""


class RejectReason(IntEnum):
    """RFC 7143 11.17.1."""

    DATA_DIGEST_ERROR = 0x02
    SNACK_REJECT = 0x03
    PROTOCOL_ERROR = 0x04
    COMMAND_NOT_SUPPORTED = 0x05
    IMMEDIATE_COMMAND_REJECT = 0x06
    TASK_IN_PROGRESS = 0x07
    INVALID_DATA_ACK = 0x08
    INVALID_PDU_FIELD = 0x09
    OUT_OF_RESOURCES = 0x0A
    WAITING_FOR_LOGOUT = 0x0C


class TaskFunction(IntEnum):
    """RFC 7143 11.5.1."""

    ABORT_TASK = 1
    ABORT_TASK_SET = 2
    CLEAR_ACA = 3
    CLEAR_TASK_SET = 4
    LOGICAL_UNIT_RESET = 5
    TARGET_WARM_RESET = 6
    TARGET_COLD_RESET = 7
    TASK_REASSIGN = 8


class TaskResponse(IntEnum):
    """RFC 7143 11.6.1."""

    COMPLETE = 0
    TASK_DOES_NOT_EXIST = 1
    LUN_DOES_NOT_EXIST = 2
    TASK_STILL_ALLEGIANT = 3
    REASSIGN_NOT_SUPPORTED = 4
    NOT_SUPPORTED = 5
    AUTHORIZATION_FAILED = 6
    REJECTED = 255


class LogoutReason(IntEnum):
    """RFC 7143 11.14.1."""

    CLOSE_SESSION = 0
    CLOSE_CONNECTION = 1
    REMOVE_FOR_RECOVERY = 2


class LogoutResponse(IntEnum):
    """RFC 7143 11.15.1."""

    CLOSED = 0
    CID_NOT_FOUND = 1
    RECOVERY_NOT_SUPPORTED = 2
    CLEANUP_FAILED = 3


class AsyncEvent(IntEnum):
    """RFC 7143 11.9.1."""

    SCSI = 0
    LOGOUT = 1
    DROP_CONNECTION = 2
    DROP_SESSION = 3
    NEGOTIATE = 4


# Bytes 0 to 7 are alike in every PDU: opcode, flags, two bytes of their own, lengths. The
# fields of bytes 8 to 47 are named by the comment on each layout.
REQUEST = Struct(">BBHIQIIIIIII")
"""byte 0, byte 1, bytes 2-3, AHS and data length, LUN or ISID+TSIH, ITT, bytes 20-23, 24-27
(CmdSN), 28-31 (ExpStatSN), 32-35, 36-39, 40-43; bytes 44-47 are read apart where they count."""
RESPONSE = Struct(">BBBBIQIIIIIIII")
"""byte 0 to byte 3, data length, LUN, ITT, bytes 20-23, 24-27 (StatSN), 28-31 (ExpCmdSN),
32-35 (MaxCmdSN), 36-39, 40-43, 44-47."""
LOGIN_TAIL = Struct(">IHHIIII")
"""Login Request bytes 16 to 39: ITT, CID, reserved, CmdSN, ExpStatSN, reserved twice."""

assert REQUEST.size == 44
assert RESPONSE.size == BHS_LENGTH


@attrs.frozen
class Segment:
    """One additional header segment: AHSType and the bytes specific to it (11.2.2)."""

    kind: int
    data: bytes


EXTENDED_CDB: Final = 1
BIDIRECTIONAL_LENGTH: Final = 2


def parse_segments(ahs: bytes) -> tuple[Segment, ...] | None:
    """Splits the additional header segments of one PDU.

    Args:
        ahs: All of them, a multiple of four bytes long.

    Returns:
        The segments in order, or None when a length reaches beyond the end (11.2.2.1).
    """
    segments = []
    at = 0
    while at < len(ahs):
        if at + 4 > len(ahs):
            return None
        length = ahs[at] << 8 | ahs[at + 1]
        # AHSLength counts what follows the first three bytes, and its padding is not counted.
        end = at + 3 + length
        if end > len(ahs):
            return None
        segments.append(Segment(ahs[at + 2], ahs[at + 3 : end]))
        at = (end + 3) & ~3
    return tuple(segments)


def lun_number(lun_field: int) -> int:
    """Logical unit number of an 8-byte LUN field, or -1 when it addresses no unit of ours.

    Peripheral device and flat space addressing of one level (SAM-5 4.7.7). A bus identifier
    that is not zero is read as the upper bits of the number, because initiators write larger
    numbers that way without asking which method the target used.

    Args:
        lun_field: The field as a big-endian integer.
    """
    if lun_field & 0xFFFFFFFFFFFF or lun_field >> 63:
        return -1
    return (lun_field >> 48) & 0x3FFF
