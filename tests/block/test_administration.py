"""Capacity, readiness, power, removal, ports, and what the disk says it can do."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from flockpr.block.rows import Route, Row
from flockpr.block.table import BY_OPCODE, ROWS
from flockpr.core.access import access_class
from flockpr.spc.codes import Status
from tests.support import sbc_cdbs as cdbs
from tests.support.disks import BLOCK, Rig, rigs
from tests.support.scsi import B

INVALID_FIELD = (5, 0x24, 0)
NO_MEDIUM = (2, 0x3A, 0)
PREVENTED = (5, 0x53, 2)
DATA = bytes(BLOCK)


@pytest.fixture
def removable(tmp_path: pathlib.Path) -> Iterator[Rig]:
    """A disk whose medium can be ejected."""
    yield from rigs(tmp_path, removable=True)


def start_stop(flags: int) -> bytes:
    """START STOP UNIT; 1 START, 2 LOEJ, 4 NO FLUSH, then POWER CONDITION."""
    return bytes((0x1B, 0, 0, 0, flags, 0))


def prevent(value: int) -> bytes:
    """PREVENT ALLOW MEDIUM REMOVAL."""
    return bytes((0x1E, 0, 0, 0, value, 0))


EJECT, LOAD = start_stop(2), start_stop(3)


def supported(options: int = 0, opcode: int = 0, action: int = 0, length: int = 8192) -> bytes:
    """REPORT SUPPORTED OPERATION CODES; 80h of `options` is RCTD."""
    wanted = bytes((opcode, *action.to_bytes(2, "big")))
    return bytes((0xA3, 0x0C, options)) + wanted + length.to_bytes(4, "big") + bytes(2)


def test_read_capacity_10_is_the_last_block(rig: Rig) -> None:
    """SBC-3 5.15: the LBA of the last block, not their number; 8 bytes."""
    assert rig.good(cdbs.READ_CAPACITY_10) == bytes.fromhex("000007ff00000200")


def test_read_capacity_10_of_an_lba_without_pmi_is_refused(rig: Rig) -> None:
    """SBC-3 5.15: the LBA means something with PMI=1 only."""
    assert rig.code(bytes((0x25, 0, 0, 0, 0, 1, 0, 0, 0, 0))) == INVALID_FIELD
    rig.good(bytes((0x25, 0, 0, 0, 0, 1, 0, 0, 1, 0)))


def test_read_capacity_16_tells_of_provisioning(rig: Rig) -> None:
    """SBC-3 5.16: 8 blocks per physical block, LBPME=1, LBPRZ=1; no protection."""
    data = rig.good(cdbs.READ_CAPACITY_16)
    assert data == bytes.fromhex("00000000000007ff000002000003c000") + bytes(16)
    for length in range(33):
        cdb = cdbs.READ_CAPACITY_16[:13] + bytes((length, 0, 0))
        assert rig.good(cdb) == data[:length]


def test_physical_block_of_one_block_is_told_everywhere(tmp_path: pathlib.Path) -> None:
    """SBC-3 5.16, 6.6.4: the exponent, and the granularities that follow from it."""
    for rig in rigs(tmp_path, physical_block_size=512):
        assert rig.good(cdbs.READ_CAPACITY_16)[13] == 0
        assert rig.good(cdbs.inquiry(0xB0))[6:8] == b"\x00\x01"
        assert rig.good(cdbs.inquiry(0xB0))[28:32] == b"\x00\x00\x00\x01"


def test_capacity_beyond_32_bits_is_told_by_the_long_form_only(tmp_path: pathlib.Path) -> None:
    """SBC-3 5.15: FFFFFFFFh means: ask READ CAPACITY(16)."""
    for rig in rigs(tmp_path, blocks=(1 << 32) + 5):
        assert rig.good(cdbs.READ_CAPACITY_10)[:4] == b"\xff" * 4
        assert rig.good(cdbs.READ_CAPACITY_16)[:8] == ((1 << 32) + 4).to_bytes(8, "big")
        assert rig.good(cdbs.read((1 << 32) + 4, 1, 16)) == DATA
        last = (1 << 32) + 4
        assert rig.good(cdbs.get_lba_status(0, 40))[8:24] == bytes(8) + b"\xff" * 4 + b"\x01\0\0\0"
        rig.good(cdbs.write(last, 1, 16), b"z" * BLOCK)
        assert rig.content(last, 1) == b"z" * BLOCK


def test_start_and_stop_of_what_does_not_turn_is_good(rig: Rig) -> None:
    """SBC-3 5.26: a stop makes the data stable, unless NO_FLUSH=1; the disk stays ready."""
    rig.good(start_stop(1))
    assert rig.calls.names() == []
    rig.good(start_stop(0))
    assert rig.calls.names() == ["fdatasync"]
    rig.good(start_stop(4))
    for condition in range(1, 16):
        rig.good(start_stop(condition << 4 | 2))
    assert rig.calls.names() == []
    rig.good(cdbs.TEST_UNIT_READY)


def test_eject_of_what_cannot_be_removed_is_refused(rig: Rig) -> None:
    """SBC-3 5.26: LOEJ=1 of a fixed disk is 05/24/00 and changes nothing."""
    assert rig.code(EJECT) == INVALID_FIELD
    assert rig.code(LOAD) == INVALID_FIELD
    rig.good(cdbs.TEST_UNIT_READY)
    rig.good(prevent(1))
    rig.good(prevent(0))
    assert rig.code(prevent(2)) == INVALID_FIELD


def test_ejected_medium_refuses_what_needs_one(removable: Rig) -> None:
    """SPC-4 4.6: 02/3A/00 for every command on the medium; others go on."""
    rig = removable
    assert rig.good(cdbs.inquiry())[1] == 0x80
    rig.good(EJECT)
    needs: list[tuple[bytes, bytes]] = [
        (cdbs.TEST_UNIT_READY, b""),
        (cdbs.READ_CAPACITY_10, b""),
        (cdbs.READ_CAPACITY_16, b""),
        (cdbs.read(0, 1), b""),
        (cdbs.write(0, 1), DATA),
        (cdbs.verify(0, 1), b""),
        (cdbs.write_and_verify(0, 1), DATA),
        (cdbs.write_same(0, 1), DATA),
        (cdbs.compare_and_write(0, 1), 2 * DATA),
        (cdbs.synchronize_cache(), b""),
        (cdbs.get_lba_status(0), b""),
        (b"\x34" + bytes(9), b""),
        (b"\x8b" + bytes(15), b""),
        cdbs.unmap((0, 1)),
        (b"\x48\x02" + bytes(8), b""),
    ]
    for cdb, data in needs:
        assert rig.code(cdb, data) == NO_MEDIUM
    assert rig.good(cdbs.request_sense())[12:14] == b"\x3a\x00"
    rig.good(cdbs.mode_sense(0x3F))
    rig.good(start_stop(0))
    rig.good(LOAD)
    rig.good(cdbs.TEST_UNIT_READY)
    rig.good(cdbs.write(0, 1), DATA)


def test_eject_makes_data_stable_first(removable: Rig) -> None:
    """SBC-3 5.26: what was written is on the medium before it is taken out."""
    removable.good(EJECT)
    assert removable.calls.names() == ["fdatasync"]


def test_prevented_removal_refuses_eject_and_load_of_everybody(removable: Rig) -> None:
    """SPC-4 6.17: 05/53/02 while any nexus prevents; each one allows for itself."""
    rig = removable
    other = rig.disk.attach(B)
    rig.good(prevent(1))
    rig.good(prevent(1), of=other)
    for session in (rig.session, other):
        assert rig.code(EJECT, of=session) == PREVENTED
        rig.good(cdbs.TEST_UNIT_READY, of=session)
    rig.good(prevent(0))
    assert rig.code(EJECT) == PREVENTED
    rig.disk.detach(other)
    rig.good(EJECT)
    rig.good(prevent(1))
    assert rig.code(LOAD) == PREVENTED
    assert rig.disk.reset("lun")
    assert rig.code(cdbs.TEST_UNIT_READY) == (6, 0x29, 3)
    rig.good(LOAD)


@pytest.mark.parametrize("kind", ["lun", "target"])
def test_reset_allows_removal_again(removable: Rig, kind: str) -> None:
    """SPC-4 6.17: a reset ends every prevention."""
    removable.good(prevent(1))
    assert removable.disk.reset("lun" if kind == "lun" else "target")
    assert removable.run(cdbs.TEST_UNIT_READY).status is Status.CHECK_CONDITION
    removable.good(EJECT)


def test_read_only_disk_refuses_writes_and_says_so(tmp_path: pathlib.Path) -> None:
    """SBC-3 4.12: 07/27/00 for whatever writes, WP=1; before anything else about the command."""
    for rig in rigs(tmp_path, read_only=True):
        for cdb in (
            cdbs.write(0, 1),
            cdbs.write(1 << 30, 1),
            cdbs.write_same(0, 1, flags=8),
            cdbs.unmap((0, 1))[0],
            cdbs.compare_and_write(0, 1),
        ):
            assert rig.code(cdb) == (7, 0x27, 0)
        assert rig.good(cdbs.mode_sense(8))[2] == 0x90
        rig.good(cdbs.read(0, 1))


def test_defect_lists_are_empty(rig: Rig) -> None:
    """SBC-3 5.17, 5.18: the lists asked for, in the format asked for, without entries."""
    assert rig.good(bytes((0x37, 0, 0x1D, 0, 0, 0, 0, 0, 32, 0))) == bytes((0, 0x1D, 0, 0))
    twelve = bytes((0xB7, 0x1D, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0))
    assert rig.good(twelve) == bytes((0, 0x1D)) + bytes(6)


def test_self_test_is_the_only_diagnostic(rig: Rig) -> None:
    """SPC-4 6.42: SELFTEST=1 passes; there are no pages."""
    rig.good(bytes((0x1D, 4, 0, 0, 0, 0)))
    assert rig.code(bytes((0x1D, 0x10, 0, 0, 8, 0)), bytes(8)) == INVALID_FIELD
    assert rig.code(bytes((0x1D, 4, 0, 0, 8, 0)), bytes(8)) == INVALID_FIELD


def test_target_port_groups_are_one_with_all_ports(rig: Rig) -> None:
    """SPC-4 6.37: active/optimized, all relative ports of lun.json; both formats."""
    group = bytes.fromhex("0001000100020003") + bytes.fromhex("000000010000000200000003")
    cdb = bytes((0xA3, 0x0A, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0))
    assert rig.good(cdb) == (20).to_bytes(4, "big") + group
    long = bytes((0xA3, 0x2A)) + cdb[2:]
    assert rig.good(long) == (24).to_bytes(4, "big") + bytes((0x10, 0, 0, 0)) + group
    assert rig.code(bytes((0xA3, 0x4A)) + cdb[2:]) == INVALID_FIELD
    assert rig.good(cdb[:9] + bytes((4, 0, 0))) == (20).to_bytes(4, "big")


def test_task_management_functions_are_those_of_the_door(rig: Rig) -> None:
    """SPC-4 6.36: ATS, ATSS, CTSS, LURS, TRS; 4 bytes, or 16 with REPD=1."""
    cdb = bytes((0xA3, 0x0D, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0))
    assert rig.good(cdb) == bytes((0xDA, 0, 0, 0))
    assert rig.good(cdb[:2] + b"\x80" + cdb[3:]) == bytes((0xDA, 0, 0, 12)) + bytes(12)


def test_supported_codes_lists_every_row(rig: Rig) -> None:
    """SPC-4 6.35.2: 8 bytes each, with CDB length; SERVACTV where there are service actions."""
    data = rig.good(supported())
    assert int.from_bytes(data[:4], "big") == len(data) - 4 == 8 * len(ROWS)
    found = [data[at : at + 8] for at in range(4, len(data), 8)]
    for row, entry in zip(ROWS, found, strict=True):
        action = (row.service_action or 0).to_bytes(2, "big")
        flag = row.service_action is not None
        assert entry == bytes((row.opcode, 0)) + action + bytes((0, flag, 0, len(row.usage)))
    codes = [(entry[0], entry[2:4]) for entry in found]
    assert codes == sorted(codes)
    assert len(set(codes)) == len(codes)


def test_supported_codes_with_timeouts(rig: Rig) -> None:
    """SPC-4 6.35.4: RCTD=1 adds 12 bytes to each, and sets CTDP."""
    data = rig.good(supported(0x80))
    assert len(data) == 4 + 20 * len(ROWS)
    for index, row in enumerate(ROWS):
        entry = data[4 + 20 * index : 24 + 20 * index]
        assert entry[5] & 2
        assert entry[8:12] == bytes.fromhex("000a0000")
        assert int.from_bytes(entry[16:20], "big") == row.seconds
    one = rig.good(supported(0x81, 0x28))
    assert one[:4] == bytes((0, 0x83, 0, 10))
    assert one[14:] == bytes.fromhex("000a000000000000") + (60).to_bytes(4, "big")


def test_supported_code_of_one_command_shows_its_usage(rig: Rig) -> None:
    """SPC-4 6.35.3: byte 0 is the operation code; bits that mean something are set."""
    assert rig.good(supported(1, 0x28)) == bytes.fromhex("0003000a28f8ffffffff1fffff04")
    assert rig.good(supported(2, 0x9E, 0x10))[:6] == bytes.fromhex("000300109e10")
    assert rig.good(supported(3, 0x9E, 0x12))[:6] == bytes.fromhex("000300109e12")
    assert rig.good(supported(3, 0x28))[:5] == bytes.fromhex("0003000a28")
    for cdb in (
        supported(1, 0xC0),
        supported(2, 0x9E, 0x1F),
        supported(2, 0xC0),
        supported(3, 0x28, 1),
    ):
        assert rig.good(cdb) == bytes((0, 1, 0, 0))


def test_supported_codes_asked_for_wrongly_are_refused(rig: Rig) -> None:
    """SPC-4 6.35.1: 001b for a code with service actions, 010b for one without: 05/24/00."""
    for cdb in (supported(1, 0x9E), supported(2, 0x28), supported(4), supported(7)):
        assert rig.code(cdb) == INVALID_FIELD


def test_every_row_agrees_with_the_access_table() -> None:
    """No command has a class of its own here: the access table of `core` decides."""
    for row in ROWS:
        if row.access is not None:
            cdb = bytes((row.opcode, row.service_action or 0)).ljust(16, b"\0")
            assert row.access is access_class(cdb)
        assert row.usage[0] == row.opcode
        assert row.usage[-1] == 0x04
        assert len(row.usage) in (6, 10, 12, 16)
        assert (row.handler is not None) == (row.route is Route.MEDIUM)
    assert sum(1 if isinstance(x, Row) else len(x) for x in BY_OPCODE if x) == len(ROWS)
