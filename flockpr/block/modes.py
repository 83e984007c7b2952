"""Mode pages: MODE SENSE and MODE SELECT (SPC-4 6.11 to 6.14, 7.5; SBC-3 6.5).

Values are shared by all nexuses of this process and last until a reset or a restart; nothing
is saved. What can be changed: D_SENSE and SWP of the Control page. WCE cannot: an initiator that
switches the cache off stops flushing for good, and would do so to another target, or to this one
after a restart, that knows nothing of it.
"""

from __future__ import annotations

from typing import Final

import attrs

from flockpr.block import senses
from flockpr.spc.sense import (
    PARAMETER_LIST_LENGTH_ERROR,
    Sense,
    cdb_field,
    list_field,
)

RECOVERY, CACHING, CONTROL, EXCEPTIONS = 0x01, 0x08, 0x0A, 0x1C
ALL_PAGES: Final = 0x3F
ALL_SUBPAGES: Final = 0xFF

WRITE_PROTECT: Final = 0x80
DPOFUA: Final = 0x10

_D_SENSE, _SWP, _WCE = 0x04, 0x08, 0x04


@attrs.frozen
class Modes:
    """What a nexus can change.

    Attributes:
        descriptor_sense: D_SENSE: sense data in descriptor format.
        software_write_protect: SWP: writes are refused with 07/27/02.
    """

    descriptor_sense: bool = False
    software_write_protect: bool = False


DEFAULT: Final = Modes()
_CHANGEABLE: Final = Modes(True, True)


def _page(code: int, body: bytes) -> bytes:
    return bytes((code, len(body))) + body


def _pages(modes: Modes, fixed: bool = True) -> dict[int, bytes]:
    """Each page as bytes; with `fixed` False only what `modes` says is set in them."""
    recovery = bytes(10)
    caching = bytearray(18)
    control = bytearray(10)
    control[0] = _D_SENSE if modes.descriptor_sense else 0
    control[2] = _SWP if modes.software_write_protect else 0
    exceptions = bytearray(10)
    if fixed:
        caching[0] = _WCE  # what the storage caches, a power cut takes
        # TST 001b: a task set for each nexus, so that one nexus's ordered command holds up
        # nobody else's.
        control[0] |= 0x20
        # QUEUE ALGORITHM MODIFIER 1h: simple commands are reordered at will.
        control[1] = 0x10
        # TAS: commands that another nexus aborts end with TASK ABORTED.
        control[3] = 0x40
        # BUSY TIMEOUT PERIOD: not limited.
        control[6:8] = b"\xff\xff"
        # DEXCPT: there is nothing here whose failure could be foretold.
        exceptions[0] = 0x08
    return {
        RECOVERY: _page(RECOVERY, recovery),
        CACHING: _page(CACHING, bytes(caching)),
        CONTROL: _page(CONTROL, bytes(control)),
        EXCEPTIONS: _page(EXCEPTIONS, bytes(exceptions)),
    }


def sense_pages(modes: Modes, control: int, code: int, subpage: int) -> bytes | Sense:
    """The pages that MODE SENSE asks for.

    Args:
        modes: The current values.
        control: PAGE CONTROL: 0 current, 1 changeable, 2 default, 3 saved.
        code: PAGE CODE.
        subpage: SUBPAGE CODE.
    """
    if control == 3:
        return senses.SAVING_NOT_SUPPORTED
    if control == 1:
        pages = _pages(_CHANGEABLE, fixed=False)
    else:
        pages = _pages(modes if control == 0 else DEFAULT)
    if subpage not in (0, ALL_SUBPAGES):
        return cdb_field(3)
    if code == ALL_PAGES:
        return b"".join(pages.values())
    return pages.get(code) or cdb_field(2, 5)


def header(
    pages: bytes,
    *,
    device_specific: int,
    blocks: int | None,
    block_size: int,
    ten: bool,
    long: bool,
) -> bytes:
    """The answer to MODE SENSE: header, block descriptor, pages (SPC-4 7.5.5).

    Args:
        pages: The pages.
        device_specific: DEVICE-SPECIFIC PARAMETER (SBC-3 6.5.1).
        blocks: Capacity for a block descriptor; None for none.
        block_size: Bytes of a block.
        ten: MODE SENSE(10).
        long: LLBAA: a block descriptor with 64 bits (SBC-3 6.5.2.3).
    """
    descriptor = b""
    if blocks is not None and long:
        descriptor = blocks.to_bytes(8, "big") + bytes(4) + block_size.to_bytes(4, "big")
    elif blocks is not None:
        descriptor = min(blocks, 0xFFFF_FFFF).to_bytes(4, "big") + block_size.to_bytes(4, "big")
    size = len(descriptor)
    rest = descriptor + pages
    if ten:
        flag = 1 if size == 16 else 0
        head = bytes((0, device_specific, flag, 0)) + size.to_bytes(2, "big")
        return (len(rest) + 6).to_bytes(2, "big") + head + rest
    return bytes((len(rest) + 3, 0, device_specific, size)) + rest


def select(modes: Modes, data: bytes, *, ten: bool, blocks: int, block_size: int) -> Modes | Sense:
    """Read the parameter list of MODE SELECT.

    Args:
        modes: The current values.
        data: The list, as long as the CDB says.
        ten: MODE SELECT(10).
        blocks: The medium's capacity.
        block_size: Bytes of a block.

    Returns:
        The new values, or why nothing is changed: 05/1A/00 for a list that ends within
        something, 05/26/00 for a value that cannot be had (SPC-4 6.11).
    """
    if not data:
        return modes
    head = 8 if ten else 4
    if len(data) < head:
        return PARAMETER_LIST_LENGTH_ERROR
    size = int.from_bytes(data[6:8], "big") if ten else data[3]
    long = ten and bool(data[4] & 1)
    fault = _check_descriptor(
        data, head, size, 16 if long else 8, blocks=blocks, block_size=block_size
    )
    if fault is not None:
        return fault
    offset = head + size
    current = _pages(modes)
    while offset < len(data):
        found = _select_page(modes, current, data, offset)
        if isinstance(found, Sense):
            return found
        modes, offset = found
    return modes


def _check_descriptor(
    data: bytes, head: int, size: int, whole: int, *, blocks: int, block_size: int
) -> Sense | None:
    if len(data) < head + size:
        return PARAMETER_LIST_LENGTH_ERROR
    if size == 0:
        return None
    if size != whole:
        return list_field(head - 2 if head == 8 else 3)
    number = data[head : head + (8 if whole == 16 else 4)]
    count = int.from_bytes(number, "big")
    length = int.from_bytes(data[head + whole - (4 if whole == 16 else 3) : head + whole], "big")
    # 0 and all ones mean the capacity as it is (SBC-3 6.5.2.2); it cannot be changed here.
    if count not in (0, blocks, (1 << 8 * len(number)) - 1):
        return list_field(head)
    return None if length == block_size else list_field(head + whole - 4)


def _select_page(
    modes: Modes, current: dict[int, bytes], data: bytes, offset: int
) -> tuple[Modes, int] | Sense:
    code = data[offset] & 0x3F
    page = current.get(code)
    if data[offset] & 0x40 or page is None:
        return list_field(offset, 5)
    if len(data) < offset + 2:
        return PARAMETER_LIST_LENGTH_ERROR
    if data[offset + 1] != len(page) - 2:
        return list_field(offset + 1)
    new = data[offset : offset + len(page)]
    if len(new) < len(page):
        return PARAMETER_LIST_LENGTH_ERROR
    changeable = _pages(_CHANGEABLE, fixed=False)[code]
    for index in range(2, len(page)):
        if (new[index] ^ page[index]) & ~changeable[index]:
            return list_field(offset + index)
    if code == CONTROL:
        modes = attrs.evolve(
            modes,
            descriptor_sense=bool(new[2] & _D_SENSE),
            software_write_protect=bool(new[4] & _SWP),
        )
    return modes, offset + len(page)
