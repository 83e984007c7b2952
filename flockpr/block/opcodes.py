"""REPORT SUPPORTED OPERATION CODES (SPC-4 6.35), from the table that also carries them out."""

from __future__ import annotations

from flockpr.block.device import Answer, Device, Task
from flockpr.block.reply import good
from flockpr.block.rows import Row
from flockpr.block.table import BY_OPCODE, ROWS
from flockpr.spc.sense import cdb_field

_SERVACTV, _CTDP_ALL = 0x01, 0x02
_CTDP_ONE = 0x80
_NOT_SUPPORTED, _SUPPORTED = 0x01, 0x03


def report_supported_operation_codes(_device: Device, task: Task) -> Answer:
    """All commands, or one: by operation code (001b), with service action (010b), or
    whichever of both fits (011b).
    """
    cdb = task.cdb
    timeouts = bool(cdb[2] & 0x80)
    options, opcode = cdb[2] & 7, cdb[3]
    action = int.from_bytes(cdb[4:6], "big")
    length = int.from_bytes(cdb[6:10], "big")
    if options == 0:
        body = b"".join(_descriptor(row, timeouts) for row in ROWS)
        return good(len(body).to_bytes(4, "big") + body, length)
    entry = BY_OPCODE[opcode]
    if options > 3:
        return cdb_field(2, 2)
    if options == 1 and isinstance(entry, dict):
        return cdb_field(2, 2)  # which of them was not said
    if options == 2 and isinstance(entry, Row):
        return cdb_field(2, 2)
    if isinstance(entry, dict):
        row = entry.get(action)
    else:
        row = entry if options != 3 or not action else None
    return good(_one(row, timeouts), length)


def _descriptor(row: Row, timeouts: bool) -> bytes:
    flags = (_CTDP_ALL if timeouts else 0) | (0 if row.service_action is None else _SERVACTV)
    action = (row.service_action or 0).to_bytes(2, "big")
    head = bytes((row.opcode, 0)) + action + bytes((0, flags)) + row.length.to_bytes(2, "big")
    return head + _timeouts(row) if timeouts else head


def _one(row: Row | None, timeouts: bool) -> bytes:
    if row is None:
        return bytes((0, _NOT_SUPPORTED, 0, 0))
    flags = _SUPPORTED | (_CTDP_ONE if timeouts else 0)
    data = bytes((0, flags)) + row.length.to_bytes(2, "big") + row.usage
    return data + _timeouts(row) if timeouts else data


def _timeouts(row: Row) -> bytes:
    """A command timeouts descriptor (SPC-4 6.35.4)."""
    return b"\x00\x0a\x00\x00" + bytes(4) + row.seconds.to_bytes(4, "big")
