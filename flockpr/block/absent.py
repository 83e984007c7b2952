"""What is answered without a logical unit: REPORT LUNS, and a LUN that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from flockpr.block.inquiry import NO_UNIT, standard
from flockpr.block.reply import ScsiReply, good
from flockpr.block.rows import Route, Row
from flockpr.block.table import find
from flockpr.spc.codes import Status
from flockpr.spc.sense import LUN_NOT_SUPPORTED, Sense, cdb_field

_ALL_KINDS: Final = frozenset((0x00, 0x02))
_WELL_KNOWN: Final = frozenset((0x01, 0x10, 0x11, 0x12))
"""SELECT REPORT values that ask for what there is none of (SPC-4 6.33)."""


def encode_lun(lun: int) -> bytes:
    """A LUN as 8 bytes: peripheral device addressing below 256, else flat space (SAM-5 4.7).

    Args:
        lun: 0 to 16383.
    """
    if lun < 256:
        return bytes((0, lun)) + bytes(6)
    return bytes((0x40 | lun >> 8, lun & 0xFF)) + bytes(6)


def report_luns(cdb: bytes, luns: Iterable[int]) -> ScsiReply:
    """Answer REPORT LUNS (SPC-4 6.33).

    Args:
        cdb: The CDB.
        luns: Numbers of the logical units that the initiator may see, in any order.
    """
    if len(cdb) < 12:
        return _check(cdb_field(len(cdb)))
    if cdb[2] in _WELL_KNOWN:
        luns = ()
    elif cdb[2] not in _ALL_KINDS:
        return _check(cdb_field(2))
    body = b"".join(encode_lun(lun) for lun in sorted(set(luns)))
    length = int.from_bytes(cdb[6:10], "big")
    return good(len(body).to_bytes(4, "big") + bytes(4) + body, length)


def answer_without_unit(cdb: bytes, luns: Iterable[int]) -> ScsiReply:
    """Answer a command to a LUN that does not exist (SPC-4 6.6.2, 6.33, 6.39; SAM-5 5.11).

    Args:
        cdb: The CDB; any bytes.
        luns: As in `report_luns`.
    """
    row = find(cdb)
    if isinstance(row, Row) and row.refusal(cdb) is None:
        if row.route is Route.REPORT_LUNS:
            return report_luns(cdb, luns)
        if row.route is Route.INQUIRY:
            if cdb[1] & 3 or cdb[2]:
                return _check(cdb_field(2))
            return good(standard(NO_UNIT), int.from_bytes(cdb[3:5], "big"))
        if row.route is Route.REQUEST_SENSE:
            sense = LUN_NOT_SUPPORTED
            return good(sense.descriptor() if cdb[1] & 1 else sense.fixed(), cdb[4])
    return _check(LUN_NOT_SUPPORTED)


def _check(sense: Sense) -> ScsiReply:
    return ScsiReply(Status.CHECK_CONDITION, sense.fixed())
