"""What one row of the command table says, and the forms that rows come in.

Block commands come in families: the same fields at other places for each length of CDB. A
family is a function here, so that a row of the table is one line.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

from flockpr.block import data, provisioning
from flockpr.block.device import Answer, Device, Task
from flockpr.block.fields import (
    Extent,
    extent_6,
    extent_10,
    extent_12,
    extent_16,
    number,
)
from flockpr.block.inquiry import LIMITS
from flockpr.block.reply import Direction
from flockpr.core.access import AccessClass, access_class
from flockpr.spc.sense import Sense, cdb_field
from flockpr.store.images import BLOCK

Handler: TypeAlias = Callable[[Device, Task], Answer]
Amount: TypeAlias = Callable[[bytes], int]

SHORT, LONG, ERASE = 10, 60, 3600
"""Seconds that commands may take, for REPORT SUPPORTED OPERATION CODES."""
MAX_TRANSFER: Final = LIMITS.transfer * BLOCK
"""Bytes that one command moves at the most."""
_NACA: Final = 0x04
_FUA: Final = 0x08


def _never(_cdb: bytes) -> bool:
    return False


def _always(_cdb: bytes) -> bool:
    return True


def _without_fua(cdb: bytes) -> bool:
    return cdb[0] <= 0x1F or not cdb[1] & _FUA


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
        quick: It is one system call on the image, or none, and waits for nothing else.
        reads_state: It reads reservations, and may be answered by a glance.
        span: Which bytes it reads or writes, where that is all and one call does it; else None.
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
    quick: Callable[[bytes], bool] = _never
    reads_state: bool = False
    span: Callable[[Device, bytes], data.Span | None] | None = None
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


LBA4: Final = "ffffffff"
LBA8: Final = "ffffffffffffffff"
"""Usage of an LBA field."""

# Forms of CDBs with a range: extent, index of the length field, usage of everything but the
# operation code and byte 1.
SIX = (extent_6, 4, "ffffff04")
TEN = (extent_10, 7, LBA4 + "1fffff04")
TWELVE = (extent_12, 6, LBA4 + LBA4 + "1f04")
SIXTEEN = (extent_16, 10, LBA8 + LBA4 + "1f04")
Form: TypeAlias = tuple[Extent, int, str]


def bytes_of(extent: Extent, most: int = LIMITS.transfer) -> Amount:
    """Bytes of the range; none for one that is refused for its length."""

    def amount(cdb: bytes) -> int:
        blocks = extent(cdb)[1]
        return blocks * BLOCK if blocks <= most else 0

    return amount


def reading(opcode: int, name: str, form: Form, flags: str) -> Row:
    """READ, of one length."""
    extent, length_at, rest = form
    handler = data.Read(extent, length_at)
    return Row(
        opcode,
        name,
        usage(f"{opcode:02x}{flags}{rest}"),
        direction=Direction.IN,
        amount=bytes_of(extent),
        handler=handler,
        medium=True,
        buffered=True,
        quick=_always,
        span=handler.span,
        seconds=LONG,
    )


def writing(
    opcode: int, name: str, form: Form, flags: str, kind: Callable[[Extent, int], Handler]
) -> Row:
    """A command that writes as many blocks as it brings."""
    extent, length_at, rest = form
    handler = kind(extent, length_at)
    plain = isinstance(handler, data.Write)
    return Row(
        opcode,
        name,
        usage(f"{opcode:02x}{flags}{rest}"),
        direction=Direction.OUT,
        amount=bytes_of(extent),
        handler=handler,
        medium=True,
        writes=True,
        quick=_without_fua if plain else _never,
        span=handler.span if isinstance(handler, data.Write) else None,
        seconds=LONG,
    )


def verifying(opcode: int, name: str, form: Form) -> Row:
    """VERIFY, of one length; BYTCHK says how much it brings."""
    extent, length_at, rest = form
    blocks = bytes_of(extent)

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


def writing_same(opcode: int, name: str, form: Form, *, may_lack_data: bool) -> Row:
    """WRITE SAME, of one length; it brings one block, or none with NDOB=1."""
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


def ranged(opcode: int, name: str, form: Form, flags: str, handler: Handler) -> Row:
    """A command about a range, without data."""
    return Row(
        opcode,
        name,
        usage(f"{opcode:02x}{flags}{form[2]}"),
        handler=handler,
        medium=True,
        seconds=LONG,
    )


def answering(
    opcode: int,
    name: str,
    used: str,
    length: tuple[int, int],
    handler: Handler | None = None,
    *,
    action: int | None = None,
    route: Route = Route.MEDIUM,
    medium: bool = False,
    reads_state: bool = False,
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
        reads_state=reads_state,
    )


def taking_list(
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


def plain(opcode: int, name: str, used: str, handler: Handler | None, **more: bool) -> Row:
    """A command without data."""
    quick = _always if more.get("quick") else _never
    medium = more.get("medium", False)
    return Row(opcode, name, usage(used), handler=handler, medium=medium, quick=quick)


def reserving(opcode: int, name: str, used: str) -> Row:
    """RESERVE or RELEASE."""
    return Row(opcode, name, usage(used), route=Route.STATE)


def sanitizing(action: int, name: str) -> Row:
    """A service action of SANITIZE."""
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


def pr_in(action: int, name: str) -> Row:
    """A service action of PERSISTENT RESERVE IN."""
    used = f"5e{action:02x}0000000000ffff04"
    return answering(0x5E, name, used, (7, 2), action=action, route=Route.STATE, reads_state=True)


def pr_out(action: int, name: str) -> Row:
    """A service action of PERSISTENT RESERVE OUT."""
    used = f"5f{action:02x}ff0000ffffffff04"
    return taking_list(0x5F, name, used, (5, 4), action=action, route=Route.STATE)
