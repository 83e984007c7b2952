"""The commands of a disk, one row each: adding a command is adding a row.

A row says how long the CDB is, which of its bits mean something (CDB usage data of REPORT
SUPPORTED OPERATION CODES, SPC-4 6.35.3), which data go which way, what may refuse it, and
who carries it out.
"""

from __future__ import annotations

from typing import Final

from flockpr.block import administration, data, provisioning
from flockpr.block.device import Answer, Device, Task
from flockpr.block.fields import extent_10, extent_16, extent_compare_and_write
from flockpr.block.inquiry import LIMITS
from flockpr.block.reply import NOTHING, Direction, Transfer
from flockpr.block.rows import (
    LBA4,
    LBA8,
    LONG,
    MAX_TRANSFER,
    SIX,
    SIXTEEN,
    TEN,
    TWELVE,
    Route,
    Row,
    answering,
    bytes_of,
    plain,
    pr_in,
    pr_out,
    ranged,
    reading,
    reserving,
    sanitizing,
    taking_list,
    usage,
    verifying,
    writing,
    writing_same,
)
from flockpr.spc.sense import INVALID_OPCODE, INVALID_SERVICE_ACTION, Sense, cdb_field

_COMPARE_BLOCKS: Final = bytes_of(extent_compare_and_write, LIMITS.compare_and_write)
_COMPARE: Final = Row(
    0x89,
    "COMPARE AND WRITE",
    usage("89f8" + LBA8 + "000000ff1f04"),
    direction=Direction.OUT,
    amount=lambda cdb: 2 * _COMPARE_BLOCKS(cdb),
    handler=data.CompareAndWrite(),
    medium=True,
    writes=True,
    seconds=LONG,
)


def _report_codes(device: Device, task: Task) -> Answer:
    from flockpr.block import opcodes  # it reports this very table

    return opcodes.report_supported_operation_codes(device, task)


ROWS: Final = (
    plain(
        0x00, "TEST UNIT READY", "000000000004", administration.unit_ready, medium=True, quick=True
    ),
    answering(0x03, "REQUEST SENSE", "03010000ff04", (4, 1), route=Route.REQUEST_SENSE),
    reading(0x08, "READ(6)", SIX, "1f"),
    writing(0x0A, "WRITE(6)", SIX, "1f", data.Write),
    answering(0x12, "INQUIRY", "1201ffffff04", (3, 2), route=Route.INQUIRY),
    taking_list(0x15, "MODE SELECT(6)", "15110000ff04", (4, 1), administration.mode_select),
    reserving(0x16, "RESERVE(6)", "160000000004"),
    reserving(0x17, "RELEASE(6)", "170000000004"),
    answering(0x1A, "MODE SENSE(6)", "1a08ffffff04", (4, 1), administration.mode_sense),
    plain(0x1B, "START STOP UNIT", "1b010000f704", administration.start_stop_unit),
    plain(0x1D, "SEND DIAGNOSTIC", "1d0400000004", administration.send_diagnostic),
    plain(0x1E, "PREVENT ALLOW MEDIUM REMOVAL", "1e0000000304", administration.prevent_allow),
    Row(
        0x25,
        "READ CAPACITY(10)",
        usage("2500ffffffff00000104"),
        direction=Direction.IN,
        amount=lambda _cdb: 8,
        handler=administration.read_capacity_10,
        medium=True,
    ),
    reading(0x28, "READ(10)", TEN, "f8"),
    writing(0x2A, "WRITE(10)", TEN, "f8", data.Write),
    writing(0x2E, "WRITE AND VERIFY(10)", TEN, "f6", data.WriteAndVerify),
    verifying(0x2F, "VERIFY(10)", TEN),
    ranged(0x34, "PRE-FETCH(10)", TEN, "02", data.Prefetch(extent_10)),
    ranged(0x35, "SYNCHRONIZE CACHE(10)", TEN, "02", data.SynchronizeCache(extent_10)),
    answering(
        0x37,
        "READ DEFECT DATA(10)",
        "37001f00000000ffff04",
        (7, 2),
        administration.read_defect_data_10,
        medium=True,
    ),
    writing_same(0x41, "WRITE SAME(10)", TEN, may_lack_data=False),
    taking_list(0x42, "UNMAP", "420100000000" + "1fffff04", (7, 2), provisioning.unmap, unmap=True),
    sanitizing(provisioning.BLOCK_ERASE, "SANITIZE, BLOCK ERASE"),
    sanitizing(provisioning.EXIT_FAILURE_MODE, "SANITIZE, EXIT FAILURE MODE"),
    taking_list(
        0x55, "MODE SELECT(10)", "5511000000" + "0000ffff04", (7, 2), administration.mode_select
    ),
    reserving(0x56, "RESERVE(10)", "56000000000000000004"),
    reserving(0x57, "RELEASE(10)", "57000000000000000004"),
    answering(0x5A, "MODE SENSE(10)", "5a18ffff000000ffff04", (7, 2), administration.mode_sense),
    pr_in(0, "PERSISTENT RESERVE IN, READ KEYS"),
    pr_in(1, "PERSISTENT RESERVE IN, READ RESERVATION"),
    pr_in(2, "PERSISTENT RESERVE IN, REPORT CAPABILITIES"),
    pr_in(3, "PERSISTENT RESERVE IN, READ FULL STATUS"),
    pr_out(0, "PERSISTENT RESERVE OUT, REGISTER"),
    pr_out(1, "PERSISTENT RESERVE OUT, RESERVE"),
    pr_out(2, "PERSISTENT RESERVE OUT, RELEASE"),
    pr_out(3, "PERSISTENT RESERVE OUT, CLEAR"),
    pr_out(4, "PERSISTENT RESERVE OUT, PREEMPT"),
    pr_out(5, "PERSISTENT RESERVE OUT, PREEMPT AND ABORT"),
    pr_out(6, "PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY"),
    pr_out(7, "PERSISTENT RESERVE OUT, REGISTER AND MOVE"),
    reading(0x88, "READ(16)", SIXTEEN, "f8"),
    _COMPARE,
    writing(0x8A, "WRITE(16)", SIXTEEN, "f8", data.Write),
    writing(0x8B, "ORWRITE(16)", SIXTEEN, "f8", lambda _extent, _at: data.OrWrite()),
    writing(0x8E, "WRITE AND VERIFY(16)", SIXTEEN, "f6", data.WriteAndVerify),
    verifying(0x8F, "VERIFY(16)", SIXTEEN),
    ranged(0x90, "PRE-FETCH(16)", SIXTEEN, "02", data.Prefetch(extent_16)),
    ranged(0x91, "SYNCHRONIZE CACHE(16)", SIXTEEN, "02", data.SynchronizeCache(extent_16)),
    writing_same(0x93, "WRITE SAME(16)", SIXTEEN, may_lack_data=True),
    answering(
        0x9E,
        "READ CAPACITY(16)",
        "9e10" + LBA8 + LBA4 + "0104",
        (10, 4),
        administration.read_capacity_16,
        action=0x10,
        medium=True,
    ),
    answering(
        0x9E,
        "GET LBA STATUS",
        "9e12" + LBA8 + LBA4 + "0004",
        (10, 4),
        provisioning.get_lba_status,
        action=0x12,
        medium=True,
    ),
    answering(0xA0, "REPORT LUNS", "a000ff000000ffffffff0004", (6, 4), route=Route.REPORT_LUNS),
    answering(
        0xA3,
        "REPORT TARGET PORT GROUPS",
        "a3ea00000000ffffffff0004",
        (6, 4),
        administration.report_target_port_groups,
        action=0x0A,
    ),
    answering(
        0xA3,
        "REPORT SUPPORTED OPERATION CODES",
        "a30c87ffffffffffffff0004",
        (6, 4),
        _report_codes,
        action=0x0C,
    ),
    answering(
        0xA3,
        "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
        "a30d80000000ffffffff0004",
        (6, 4),
        administration.report_supported_task_management,
        action=0x0D,
    ),
    reading(0xA8, "READ(12)", TWELVE, "f8"),
    writing(0xAA, "WRITE(12)", TWELVE, "f8", data.Write),
    writing(0xAE, "WRITE AND VERIFY(12)", TWELVE, "f6", data.WriteAndVerify),
    verifying(0xAF, "VERIFY(12)", TWELVE),
    answering(
        0xB7,
        "READ DEFECT DATA(12)",
        "b71fffffffff" + "ffffffff0004",
        (6, 4),
        administration.read_defect_data_12,
        medium=True,
    ),
)


def _index() -> list[Row | dict[int, Row] | None]:
    found: list[Row | dict[int, Row] | None] = [None] * 256
    for row in ROWS:
        if row.service_action is None:
            found[row.opcode] = row
            continue
        actions = found[row.opcode]
        if not isinstance(actions, dict):
            actions = found[row.opcode] = {}
        actions[row.service_action] = row
    return found


BY_OPCODE: Final = _index()
"""By operation code: the row, the rows by service action, or None."""


def find(cdb: bytes) -> Row | Sense:
    """The row of a CDB, or why there is none: 05/20/00, 05/24/00; any bytes."""
    if not cdb:
        return INVALID_OPCODE
    row = BY_OPCODE[cdb[0]]
    if isinstance(row, dict):
        if len(cdb) < 2:
            return cdb_field(1)
        return row.get(cdb[1] & 0x1F, INVALID_SERVICE_ACTION)
    return INVALID_OPCODE if row is None else row


def transfer_of(cdb: bytes) -> Transfer:
    """What a CDB itself moves; total, cheap, and never more than a buffer holds."""
    row = find(cdb)
    if isinstance(row, Sense) or len(cdb) < row.length:
        return NOTHING
    if row.direction is _NONE:
        return Transfer(_NONE, 0, row.quick(cdb))
    amount = row.amount(cdb)
    if amount > MAX_TRANSFER and row.direction is _OUT:
        return NOTHING  # refused for its length, whatever comes
    return Transfer(row.direction, amount, row.quick(cdb), row.reads_state)


_NONE, _OUT = Direction.NONE, Direction.OUT
