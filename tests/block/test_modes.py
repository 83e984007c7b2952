"""MODE SENSE and MODE SELECT."""

from __future__ import annotations

import pytest

from flockpr.spc.codes import Status
from tests.support import sbc_cdbs as cdbs
from tests.support.disks import BLOCK, Rig
from tests.support.scsi import B

INVALID_FIELD = (5, 0x24, 0)
INVALID_LIST = (5, 0x26, 0)
LIST_LENGTH = (5, 0x1A, 0)
MODE_CHANGED = (6, 0x2A, 1)
BLOCKS = 2048

RECOVERY = bytes.fromhex("010a") + bytes(10)
CACHING = bytes.fromhex("081204") + bytes(17)
CONTROL = bytes.fromhex("0a0a201000400000ffff0000")
EXCEPTIONS = bytes.fromhex("1c0a08") + bytes(9)
ALL = RECOVERY + CACHING + CONTROL + EXCEPTIONS


def sense(page: int, control: int = 0, length: int = 255, subpage: int = 0, dbd: int = 8) -> bytes:
    """MODE SENSE(6)."""
    return bytes((0x1A, dbd, control << 6 | page, subpage, length, 0))


def sense_10(page: int, flags: int = 8, length: int = 4096) -> bytes:
    """MODE SENSE(10)."""
    return bytes((0x5A, flags, page, 0, 0, 0, 0, *length.to_bytes(2, "big"), 0))


def select(rig: Rig, pages: bytes, header: bytes = bytes(4), **more: object) -> object:
    """MODE SELECT(6) that has to be GOOD."""
    data = header + pages
    return rig.good(bytes((0x15, 0x10, 0, 0, len(data), 0)), data, **more)


def select_10(data: bytes) -> tuple[bytes, bytes]:
    """MODE SELECT(10)."""
    return bytes((0x55, 0x10, *bytes(5), *len(data).to_bytes(2, "big"), 0)), data


def control(*, d_sense: bool = False, swp: bool = False) -> bytes:
    """The Control page with these bits."""
    page = bytearray(CONTROL)
    page[2] |= d_sense << 2
    page[4] |= swp << 3
    return bytes(page)


def test_mode_sense_gives_each_page(rig: Rig) -> None:
    """SPC-4 7.5, SBC-3 6.5: header with DPOFUA=1, and the page."""
    for code, page in ((1, RECOVERY), (8, CACHING), (0xA, CONTROL), (0x1C, EXCEPTIONS)):
        assert rig.good(sense(code)) == bytes((len(page) + 3, 0, 0x10, 0)) + page
    assert rig.good(sense(0x3F)) == bytes((len(ALL) + 3, 0, 0x10, 0)) + ALL
    assert rig.good(sense(0x3F, subpage=0xFF))[4:] == ALL
    assert rig.good(sense_10(0x3F)) == bytes((0, len(ALL) + 6, 0, 0x10, 0, 0, 0, 0)) + ALL


def test_mode_sense_has_a_block_descriptor_unless_told_otherwise(rig: Rig) -> None:
    """SBC-3 6.5.2: short of 8 bytes, or with LLBAA=1 long of 16; DBD=1 none."""
    short = BLOCKS.to_bytes(4, "big") + bytes((0, 0, 2, 0))
    long = BLOCKS.to_bytes(8, "big") + bytes(4) + bytes((0, 0, 2, 0))
    assert rig.good(sense(8, dbd=0))[3:12] == b"\x08" + short
    assert rig.good(sense_10(8, flags=0))[:16] == bytes((0, 34, 0, 0x10, 0, 0, 0, 8)) + short
    assert rig.good(sense_10(8, flags=0x10))[:24] == bytes((0, 42, 0, 0x10, 1, 0, 0, 16)) + long


def test_mode_sense_is_cut_to_its_allocation_length(rig: Rig) -> None:
    """SPC-4 4.3.4.6: MODE DATA LENGTH tells of what was cut off."""
    assert rig.good(sense(0x3F, length=4)) == bytes((len(ALL) + 3, 0, 0x10, 0))
    assert rig.good(sense(0x3F, length=0)) == b""


def test_mode_sense_of_changeable_and_default_values(rig: Rig) -> None:
    """SPC-4 6.13.1: PC=01b shows the bits that can be changed, 10b the defaults."""
    select(rig, control(swp=True))
    assert rig.good(sense(0xA, 1))[4:] == bytes.fromhex("0a0a04000800000000000000")
    assert rig.good(sense(8, 1))[4:] == bytes((8, 18)) + bytes(18)
    assert rig.good(sense(0x3F, 2))[4:] == ALL
    assert rig.good(sense(0xA, 0))[4:] == control(swp=True)


def test_mode_sense_of_saved_values_is_refused(rig: Rig) -> None:
    """SPC-4 6.13.1: PC=11b without saved pages is 05/39/00."""
    assert rig.code(sense(8, 3)) == (5, 0x39, 0)


def test_mode_sense_of_an_unknown_page_is_refused(rig: Rig) -> None:
    """SPC-4 6.13.1: a page or subpage that is not implemented is 05/24/00."""
    assert rig.code(sense(0x10)) == INVALID_FIELD
    assert rig.code(sense(0x3F, subpage=1)) == INVALID_FIELD


def test_descriptor_sense_changes_the_format_of_all_sense_data(rig: Rig) -> None:
    """SPC-4 7.5.8: D_SENSE=1: descriptor format, with its information and pointers."""
    select(rig, control(d_sense=True))
    answer = rig.run(cdbs.read(BLOCKS, 1))
    located = bytes((0x72, 5, 0x21, 0, 0, 0, 0, 12, 0, 0x0A, 0x80, 0))
    assert answer.sense == located + BLOCKS.to_bytes(8, "big")
    pointed = rig.run(bytes((0x28, 0x20, *bytes(8))))
    assert pointed.sense == bytes.fromhex("720524000000000802060000cf000100")
    wrong_key = bytes((0x5F, 0, 0, 0, 0, 0, 0, 0, 1, 0))
    assert rig.run(wrong_key, b"\0").sense[:4] == bytes((0x72, 5, 0x1A, 0))
    select(rig, control())
    assert rig.run(cdbs.read(BLOCKS, 1)).sense[0] == 0xF0


def test_software_write_protect_refuses_every_write(rig: Rig) -> None:
    """SBC-3 4.12: SWP=1: 07/27/02, WP=1 in the header; reads go on."""
    select(rig, control(swp=True))
    writes: list[tuple[bytes, bytes]] = [
        *((cdbs.write(0, 1, width), bytes(BLOCK)) for width in (6, 10, 12, 16)),
        *((cdbs.write_and_verify(0, 1, width), bytes(BLOCK)) for width in (10, 12, 16)),
        *((cdbs.write_same(0, 1, width, flags=8), b"") for width in (10, 16)),
        (cdbs.compare_and_write(0, 1), b""),
        (b"\x8b" + cdbs.write(0, 1, 16)[1:], b""),
        cdbs.unmap((0, 1)),
        cdbs.unmap(),
        (bytes((0x48, 2, *bytes(8))), b""),
    ]
    for cdb, data in writes:
        assert rig.code(cdb, data) == (7, 0x27, 2)
    assert rig.calls.names() == []
    assert rig.good(sense(8))[2] == 0x90
    rig.good(cdbs.read(0, 1))
    rig.good(cdbs.verify(0, 1))
    rig.good(cdbs.synchronize_cache())
    select(rig, control())
    rig.good(cdbs.write(0, 1), bytes(BLOCK))


def test_write_cache_cannot_be_switched_off(rig: Rig) -> None:
    """SBC-3 6.5.5: WCE=0 is refused, and MODE SENSE says that it cannot be changed."""
    page = bytearray(CACHING)
    page[2] = 0
    data = bytes(4) + bytes(page)
    cdb = bytes((0x15, 0x10, 0, 0, len(data), 0))
    assert rig.code(cdb, data) == (5, 0x26, 0)
    assert rig.good(sense(8, 1))[4:] == bytes((8, 18)) + bytes(18)


def test_mode_change_is_told_to_others_once(rig: Rig) -> None:
    """SPC-4 6.11: 2A/01 for every other nexus, none for the sender, none without a change."""
    other = rig.disk.attach(B)
    rig.good(bytes(6), of=other)
    select(rig, control())
    rig.good(bytes(6), of=other)
    select(rig, control(d_sense=True))
    select(rig, control())
    assert rig.code(bytes(6), of=other) == MODE_CHANGED
    rig.good(bytes(6), of=other)
    rig.good(bytes(6))


def test_mode_select_takes_back_what_mode_sense_gave(rig: Rig) -> None:
    """SPC-4 6.11: the usual way to change a bit: read, change, write back."""
    for flags in (0, 8, 0x10):
        data = bytearray(rig.good(sense_10(0x3F, flags=flags)))
        data[0:2] = bytes(2)
        rig.good(*select_10(bytes(data)))
    data = bytearray(rig.good(sense(0x3F, dbd=0)))
    data[0] = 0
    rig.good(bytes((0x15, 0x10, 0, 0, len(data), 0)), bytes(data))


def test_mode_select_of_nothing_is_good(rig: Rig) -> None:
    """SPC-4 6.11: PARAMETER LIST LENGTH 0, or a header alone, changes nothing."""
    rig.good(bytes((0x15, 0x10, 0, 0, 0, 0)))
    select(rig, b"")
    rig.good(*select_10(bytes(8)))


@pytest.mark.parametrize(
    ("index", "value"), [(1, 0x0B), (2, 0x10), (3, 0x00), (4, 0x10), (5, 0x00), (9, 0x01)]
)
def test_mode_select_of_what_cannot_be_changed_is_refused(rig: Rig, index: int, value: int) -> None:
    """SPC-4 6.11: 05/26/00 for a bit or a length that is another one; nothing changes."""
    page = bytearray(control(swp=True))
    page[index] = value
    data = bytes(4) + bytes(page)
    assert rig.code(bytes((0x15, 0x10, 0, 0, len(data), 0)), data) == INVALID_LIST
    assert rig.good(sense(0xA))[4:] == CONTROL


@pytest.mark.parametrize(
    "data",
    [
        bytes((0, 0, 0, 7)) + bytes(7) + CONTROL,
        bytes((0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 2, 0)) + CONTROL,
        bytes((0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 16, 0)) + CONTROL,
        bytes(4) + b"\x10\x0a" + bytes(10),
        bytes(4) + b"\x4a" + CONTROL[1:],
    ],
)
def test_mode_select_of_nonsense_is_refused(rig: Rig, data: bytes) -> None:
    """SPC-4 6.11, SBC-3 6.5.2: other capacities, block lengths, pages, subpages: 05/26/00."""
    assert rig.code(bytes((0x15, 0x10, 0, 0, len(data), 0)), data) == INVALID_LIST


def test_mode_select_of_a_list_cut_short_is_a_length_error(rig: Rig) -> None:
    """SPC-4 6.11: a list that ends within header, descriptor or page is 05/1A/00."""
    whole = bytes((0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 2, 0)) + CONTROL
    for end in range(1, len(whole)):
        if end != 12:
            cdb = bytes((0x15, 0x10, 0, 0, end, 0))
            assert rig.code(cdb, whole[:end]) == LIST_LENGTH
        assert rig.code(bytes((0x15, 0x10, 0, 0, len(whole), 0)), whole[:end]) == LIST_LENGTH
    for end in range(1, 8):
        assert rig.code(*select_10(bytes(end))) == LIST_LENGTH


def test_mode_select_that_is_to_be_saved_is_refused(rig: Rig) -> None:
    """SPC-4 6.11: SP=1 without saved pages is 05/24/00."""
    assert rig.code(bytes((0x15, 0x11, 0, 0, 0, 0))) == INVALID_FIELD


def test_reset_brings_the_defaults_back(rig: Rig) -> None:
    """SAM-5 6.3.3: a logical unit reset sets mode parameters to their defaults."""
    select(rig, control(swp=True, d_sense=True))
    assert rig.disk.reset("lun")
    assert rig.code(bytes(6)) == (6, 0x29, 3)
    assert rig.good(sense(0xA))[4:] == CONTROL
    assert rig.run(cdbs.write(0, 1), bytes(BLOCK)).status is Status.GOOD
