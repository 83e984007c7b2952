"""The commands of a disk, one row each: adding a command is adding a row.

A row says how long the CDB is, which of its bits mean something (CDB usage data of REPORT
SUPPORTED OPERATION CODES, SPC-4 6.35.3), which data go which way, what may refuse it, and
who carries it out.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

from flockpr.block import administration, data, provisioning
from flockpr.block.device import Answer, Device, Task
from flockpr.block.fields import (
    Extent,
    extent_6,
    extent_10,
    extent_12,
    extent_16,
    extent_compare_and_write,
    number,
)
from flockpr.block.inquiry import LIMITS
from flockpr.block.reply import NOTHING, Direction, Transfer
from flockpr.core.access import AccessClass, access_class
from flockpr.spc.sense import INVALID_OPCODE, INVALID_SERVICE_ACTION, Sense, cdb_field
from flockpr.store.images import BLOCK

Handler: TypeAlias = Callable[[Device, Task], Answer]
Amount: TypeAlias = Callable[[bytes], int]

SHORT, LONG, ERASE = 10, 60, 3600
"""Seconds that commands may take, for REPORT SUPPORTED OPERATION CODES."""
MAX_TRANSFER: Final = LIMITS.transfer * BLOCK
"""Bytes that one command moves at the most."""
_NACA: Final = 0x04


class Route(enum.Enum):
    """Who decides about a command."""

    MEDIUM = enum.auto()
    """Admitted by the cached state, under the permit; its handler carries it out."""

    INQUIRY = enum.auto()
    """Answered always, by the disk."""

    REQUEST_SENSE = enum.auto()
    """Answered always; reports what is pending."""

    REPORT_LUNS = enum.auto()
    """Answered always."""

    STATE = enum.auto()
    """Reservations: carried out by the logical unit."""


@attrs.frozen
class Row:
    """One command.

    Attributes:
        opcode: Operation code.
        name: The standard's.
        usage: CDB usage data, as long as the CDB.
        service_action: If its operation code has them.
        direction: Which way data go.
        amount: Bytes that a CDB moves.
        handler: Who carries it out; only with `Route.MEDIUM`.
        route: Who decides.
        medium: It needs a medium.
        writes: It is refused by write protection.
        buffered: Its data-in are blocks and are read into memory of the pool.
        seconds: How long it may take.
    """

    opcode: int
    name: str
    usage: bytes
    service_action: int | None = None
    direction: Direction = Direction.NONE
    amount: Amount = lambda _cdb: 0
    handler: Handler | None = None
    route: Route = Route.MEDIUM
    medium: bool = False
    writes: bool = False
    buffered: bool = False
    seconds: int = SHORT

    length: int = attrs.field(init=False, repr=False)
    access: AccessClass | None = attrs.field(init=False, repr=False)

    @length.default
    def _length(self) -> int:
        return len(self.usage)

    @access.default
    def _access(self) -> AccessClass | None:
        # START STOP UNIT and PREVENT ALLOW hang on a field of each CDB.
        if self.opcode in (0x1B, 0x1E):
            return None
        action = self.service_action or 0
        return access_class(bytes((self.opcode, action)).ljust(16, b"\0"))

    def refusal(self, cdb: bytes) -> Sense | None:
        """What is refused whoever sends it: a CDB cut short, and NACA=1."""
        if len(cdb) < self.length:
            return cdb_field(len(cdb))
        return cdb_field(self.length - 1, 2) if cdb[self.length - 1] & _NACA else None


def usage(text: str) -> bytes:
    """CDB usage data, from hexadecimal digits."""
    return bytes.fromhex(text)


_LBA4, _LBA8 = "ffffffff", "ffffffffffffffff"

# Forms of CDBs with a range: extent, index of the length field, usage of everything but the
# operation code and byte 1.
_SIX = (extent_6, 4, "ffffff04")
_TEN = (extent_10, 7, _LBA4 + "1fffff04")
_TWELVE = (extent_12, 6, _LBA4 + _LBA4 + "1f04")
_SIXTEEN = (extent_16, 10, _LBA8 + _LBA4 + "1f04")
_Form: TypeAlias = tuple[Extent, int, str]


def _blocks(extent: Extent, most: int = LIMITS.transfer) -> Amount:
    """Bytes of the range; none for one that is refused for its length."""

    def amount(cdb: bytes) -> int:
        blocks = extent(cdb)[1]
        return blocks * BLOCK if blocks <= most else 0

    return amount


def _read(opcode: int, name: str, form: _Form, flags: str) -> Row:
    extent, length_at, rest = form
    return Row(
        opcode,
        name,
        usage(f"{opcode:02x}{flags}{rest}"),
        direction=Direction.IN,
        amount=_blocks(extent),
        handler=data.Read(extent, length_at),
        medium=True,
        buffered=True,
        seconds=LONG,
    )


def _write(
    opcode: int, name: str, form: _Form, flags: str, kind: Callable[[Extent, int], Handler]
) -> Row:
    extent, length_at, rest = form
    return Row(
        opcode,
        name,
        usage(f"{opcode:02x}{flags}{rest}"),
        direction=Direction.OUT,
        amount=_blocks(extent),
        handler=kind(extent, length_at),
        medium=True,
        writes=True,
        seconds=LONG,
    )


def _verify(opcode: int, name: str, form: _Form) -> Row:
    extent, length_at, rest = form
    blocks = _blocks(extent)

    def amount(cdb: bytes) -> int:
        check = cdb[1] >> 1 & 3
        size = blocks(cdb)
        return size if check == 1 else min(size, BLOCK) if check == 3 else 0

    return Row(
        opcode,
        name,
        usage(f"{opcode:02x}f6{rest}"),
        direction=Direction.OUT,
        amount=amount,
        handler=data.Verify(extent, length_at),
        medium=True,
        seconds=LONG,
    )


def _write_same(opcode: int, name: str, form: _Form, *, may_lack_data: bool) -> Row:
    extent, length_at, rest = form

    def amount(cdb: bytes) -> int:
        return 0 if may_lack_data and cdb[1] & 1 else BLOCK

    return Row(
        opcode,
        name,
        usage(f"{opcode:02x}{'f9' if may_lack_data else 'f8'}{rest}"),
        direction=Direction.OUT,
        amount=amount,
        handler=provisioning.WriteSame(extent, length_at, may_lack_data=may_lack_data),
        medium=True,
        writes=True,
        seconds=LONG,
    )


def _ranged(opcode: int, name: str, form: _Form, flags: str, handler: Handler) -> Row:
    return Row(
        opcode,
        name,
        usage(f"{opcode:02x}{flags}{form[2]}"),
        handler=handler,
        medium=True,
        seconds=LONG,
    )


def _in(
    opcode: int,
    name: str,
    used: str,
    length: tuple[int, int],
    handler: Handler | None = None,
    *,
    action: int | None = None,
    route: Route = Route.MEDIUM,
    medium: bool = False,
) -> Row:
    """A command whose data-in are as long as its allocation length allows."""
    return Row(
        opcode,
        name,
        usage(used),
        service_action=action,
        direction=Direction.IN,
        amount=number(*length),
        handler=handler,
        route=route,
        medium=medium,
    )


def _list(
    opcode: int,
    name: str,
    used: str,
    length: tuple[int, int],
    handler: Handler | None = None,
    *,
    action: int | None = None,
    route: Route = Route.MEDIUM,
    unmap: bool = False,
) -> Row:
    """A command with a parameter list."""
    return Row(
        opcode,
        name,
        usage(used),
        service_action=action,
        direction=Direction.OUT,
        amount=number(*length),
        handler=handler,
        route=route,
        medium=unmap,
        writes=unmap,
        seconds=LONG,
    )


def _plain(opcode: int, name: str, used: str, handler: Handler | None, **more: bool) -> Row:
    """A command without data."""
    return Row(opcode, name, usage(used), handler=handler, medium=more.get("medium", False))


def _reserve(opcode: int, name: str, used: str) -> Row:
    return Row(opcode, name, usage(used), route=Route.STATE)


def _sanitize(action: int, name: str) -> Row:
    return Row(
        0x48,
        name,
        usage(f"48{0x80 | action:02x}00000000000000" + "04"),
        service_action=action,
        handler=provisioning.sanitize,
        medium=True,
        writes=True,
        seconds=ERASE,
    )


def _pr_in(action: int, name: str) -> Row:
    used = f"5e{action:02x}0000000000ffff04"
    return _in(0x5E, name, used, (7, 2), action=action, route=Route.STATE)


def _pr_out(action: int, name: str) -> Row:
    used = f"5f{action:02x}ff0000ffffffff04"
    return _list(0x5F, name, used, (5, 4), action=action, route=Route.STATE)


_COMPARE_BLOCKS: Final = _blocks(extent_compare_and_write, LIMITS.compare_and_write)
_COMPARE: Final = Row(
    0x89,
    "COMPARE AND WRITE",
    usage("89f8" + _LBA8 + "000000ff1f04"),
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
    _plain(0x00, "TEST UNIT READY", "000000000004", administration.unit_ready, medium=True),
    _in(0x03, "REQUEST SENSE", "03010000ff04", (4, 1), route=Route.REQUEST_SENSE),
    _read(0x08, "READ(6)", _SIX, "1f"),
    _write(0x0A, "WRITE(6)", _SIX, "1f", data.Write),
    _in(0x12, "INQUIRY", "1201ffffff04", (3, 2), route=Route.INQUIRY),
    _list(0x15, "MODE SELECT(6)", "15110000ff04", (4, 1), administration.mode_select),
    _reserve(0x16, "RESERVE(6)", "160000000004"),
    _reserve(0x17, "RELEASE(6)", "170000000004"),
    _in(0x1A, "MODE SENSE(6)", "1a08ffffff04", (4, 1), administration.mode_sense),
    _plain(0x1B, "START STOP UNIT", "1b010000f704", administration.start_stop_unit),
    _plain(0x1D, "SEND DIAGNOSTIC", "1d0400000004", administration.send_diagnostic),
    _plain(0x1E, "PREVENT ALLOW MEDIUM REMOVAL", "1e0000000304", administration.prevent_allow),
    Row(
        0x25,
        "READ CAPACITY(10)",
        usage("2500ffffffff00000104"),
        direction=Direction.IN,
        amount=lambda _cdb: 8,
        handler=administration.read_capacity_10,
        medium=True,
    ),
    _read(0x28, "READ(10)", _TEN, "f8"),
    _write(0x2A, "WRITE(10)", _TEN, "f8", data.Write),
    _write(0x2E, "WRITE AND VERIFY(10)", _TEN, "f6", data.WriteAndVerify),
    _verify(0x2F, "VERIFY(10)", _TEN),
    _ranged(0x34, "PRE-FETCH(10)", _TEN, "02", data.Prefetch(extent_10)),
    _ranged(0x35, "SYNCHRONIZE CACHE(10)", _TEN, "02", data.SynchronizeCache(extent_10)),
    _in(
        0x37,
        "READ DEFECT DATA(10)",
        "37001f00000000ffff04",
        (7, 2),
        administration.read_defect_data_10,
        medium=True,
    ),
    _write_same(0x41, "WRITE SAME(10)", _TEN, may_lack_data=False),
    _list(0x42, "UNMAP", "420100000000" + "1fffff04", (7, 2), provisioning.unmap, unmap=True),
    _sanitize(provisioning.BLOCK_ERASE, "SANITIZE, BLOCK ERASE"),
    _sanitize(provisioning.EXIT_FAILURE_MODE, "SANITIZE, EXIT FAILURE MODE"),
    _list(0x55, "MODE SELECT(10)", "5511000000" + "0000ffff04", (7, 2), administration.mode_select),
    _reserve(0x56, "RESERVE(10)", "56000000000000000004"),
    _reserve(0x57, "RELEASE(10)", "57000000000000000004"),
    _in(0x5A, "MODE SENSE(10)", "5a18ffff000000ffff04", (7, 2), administration.mode_sense),
    _pr_in(0, "PERSISTENT RESERVE IN, READ KEYS"),
    _pr_in(1, "PERSISTENT RESERVE IN, READ RESERVATION"),
    _pr_in(2, "PERSISTENT RESERVE IN, REPORT CAPABILITIES"),
    _pr_in(3, "PERSISTENT RESERVE IN, READ FULL STATUS"),
    _pr_out(0, "PERSISTENT RESERVE OUT, REGISTER"),
    _pr_out(1, "PERSISTENT RESERVE OUT, RESERVE"),
    _pr_out(2, "PERSISTENT RESERVE OUT, RELEASE"),
    _pr_out(3, "PERSISTENT RESERVE OUT, CLEAR"),
    _pr_out(4, "PERSISTENT RESERVE OUT, PREEMPT"),
    _pr_out(5, "PERSISTENT RESERVE OUT, PREEMPT AND ABORT"),
    _pr_out(6, "PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY"),
    _pr_out(7, "PERSISTENT RESERVE OUT, REGISTER AND MOVE"),
    _read(0x88, "READ(16)", _SIXTEEN, "f8"),
    _COMPARE,
    _write(0x8A, "WRITE(16)", _SIXTEEN, "f8", data.Write),
    _write(0x8B, "ORWRITE(16)", _SIXTEEN, "f8", lambda _extent, _at: data.OrWrite()),
    _write(0x8E, "WRITE AND VERIFY(16)", _SIXTEEN, "f6", data.WriteAndVerify),
    _verify(0x8F, "VERIFY(16)", _SIXTEEN),
    _ranged(0x90, "PRE-FETCH(16)", _SIXTEEN, "02", data.Prefetch(extent_16)),
    _ranged(0x91, "SYNCHRONIZE CACHE(16)", _SIXTEEN, "02", data.SynchronizeCache(extent_16)),
    _write_same(0x93, "WRITE SAME(16)", _SIXTEEN, may_lack_data=True),
    _in(
        0x9E,
        "READ CAPACITY(16)",
        "9e10" + _LBA8 + _LBA4 + "0104",
        (10, 4),
        administration.read_capacity_16,
        action=0x10,
        medium=True,
    ),
    _in(
        0x9E,
        "GET LBA STATUS",
        "9e12" + _LBA8 + _LBA4 + "0004",
        (10, 4),
        provisioning.get_lba_status,
        action=0x12,
        medium=True,
    ),
    _in(0xA0, "REPORT LUNS", "a000ff000000ffffffff0004", (6, 4), route=Route.REPORT_LUNS),
    _in(
        0xA3,
        "REPORT TARGET PORT GROUPS",
        "a3ea00000000ffffffff0004",
        (6, 4),
        administration.report_target_port_groups,
        action=0x0A,
    ),
    _in(
        0xA3,
        "REPORT SUPPORTED OPERATION CODES",
        "a30c87ffffffffffffff0004",
        (6, 4),
        _report_codes,
        action=0x0C,
    ),
    _in(
        0xA3,
        "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
        "a30d80000000ffffffff0004",
        (6, 4),
        administration.report_supported_task_management,
        action=0x0D,
    ),
    _read(0xA8, "READ(12)", _TWELVE, "f8"),
    _write(0xAA, "WRITE(12)", _TWELVE, "f8", data.Write),
    _write(0xAE, "WRITE AND VERIFY(12)", _TWELVE, "f6", data.WriteAndVerify),
    _verify(0xAF, "VERIFY(12)", _TWELVE),
    _in(
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
    if isinstance(row, Sense) or row.direction is Direction.NONE or len(cdb) < row.length:
        return NOTHING
    amount = row.amount(cdb)
    if row.direction is Direction.OUT and amount > MAX_TRANSFER:
        return NOTHING  # refused for its length, whatever comes
    return Transfer(row.direction, amount)
