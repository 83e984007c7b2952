"""Parameter lists, CDBs and TransportIDs that are wrong in form (SPC-4 6.16.3, 6.16.4, 7.6.4)."""

from __future__ import annotations

import pytest

from flockpr.core.machine import step
from flockpr.core.model import LogicalUnitState
from flockpr.spc.cdb import parse_command
from tests.support.scsi import (
    CLEAR,
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_LIST,
    KEY_A,
    KEY_B,
    KEY_C,
    LIST_LENGTH,
    MOVE,
    PREEMPT,
    PREEMPT_ABORT,
    REGISTER,
    REGISTER_IGNORE,
    RELEASE,
    RESERVE,
    WE,
    A,
    B,
    C,
    Unit,
    assert_conflict,
    assert_good,
    assert_refused,
    basic_list,
    in_cdb,
    iscsi_id,
    move_list,
    nexus,
    out_cdb,
    transport_id,
)

BASIC = [REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_ABORT, REGISTER_IGNORE]


def ready() -> Unit:
    """A and B are registered, A holds WE."""
    return Unit().enter(a=KEY_A, b=KEY_B).hold(A, WE)


@pytest.mark.parametrize("action", BASIC)
@pytest.mark.parametrize("length", [8, 16, 20, 23, 25, 28, 48])
def test_list_length_other_than_24_refused(action: int, length: int) -> None:
    """Any length but 24 is refused [SPC-4 6.16.1; PARAMETER LIST LENGTH]"""
    unit = ready()
    data = basic_list(KEY_A, KEY_B)[:length].ljust(length, b"\0")
    assert_refused(unit.raw_out(A, action, data, type_=WE), LIST_LENGTH)
    assert unit.unchanged


@pytest.mark.parametrize("action", [*BASIC, MOVE])
@pytest.mark.parametrize("length", [0, 1, 7])
def test_list_without_key_refused(action: int, length: int) -> None:
    """Too short for RESERVATION KEY: 05/1A/00 [SPC-4 6.16.1; ruling on short lists]"""
    unit = ready()
    data = basic_list(KEY_A, KEY_B)[:length]
    assert_refused(unit.raw_out(A, action, data, type_=WE), LIST_LENGTH)
    assert unit.unchanged


@pytest.mark.parametrize("action", BASIC)
@pytest.mark.parametrize("claimed", [25, 48, 0x10018])
def test_list_shorter_than_cdb_says_refused(action: int, claimed: int) -> None:
    """Less data than the CDB claims is refused [SPC-4 6.16.1; PARAMETER LIST LENGTH]"""
    unit = ready()
    data = basic_list(KEY_A, KEY_B)
    assert_refused(unit.raw_out(A, action, data, type_=WE, length=claimed), LIST_LENGTH)


def test_list_bytes_beyond_cdb_length_are_unseen() -> None:
    """What the CDB does not announce is not looked at [SPC-4 6.16.1; PARAMETER LIST LENGTH]"""
    unit = ready()
    data = basic_list(KEY_A, KEY_C) + b"more"
    assert_good(unit.raw_out(A, REGISTER, data, length=24))
    assert unit.keys[A] == KEY_C


def test_list_length_is_four_bytes_of_the_cdb() -> None:
    """PARAMETER LIST LENGTH is bytes 5 to 8, on the helper door 7 and 8 [SPC-4 6.16.1]"""
    cdb = bytearray(out_cdb(REGISTER, 24))
    cdb[5] = cdb[6] = 1
    data = basic_list(0, KEY_A)
    for long, status in ((True, 2), (False, 0)):
        command = parse_command(bytes(cdb), data, long_parameter_length=long)
        assert step(LogicalUnitState(), A, command).reply.status == status


@pytest.mark.parametrize("action", [a for a in BASIC if a != REGISTER])
@pytest.mark.parametrize("length", [21, 24, 28, 60])
def test_list_spec_i_pt_elsewhere_refused_whatever_the_length(action: int, length: int) -> None:
    """SPEC_I_PT is for REGISTER alone [SPC-4 6.16.3; SPEC_I_PT]"""
    unit = ready()
    data = basic_list(KEY_A, KEY_B, spec=True)[:length].ljust(length, b"\0")
    reply = unit.raw_out(A, action, data, type_=WE)
    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(20, 3))
    assert unit.unchanged


@pytest.mark.parametrize("length", [24, 25, 27])
def test_list_spec_i_pt_without_length_field_refused(length: int) -> None:
    """SPEC_I_PT needs TRANSPORTID PARAMETER DATA LENGTH [SPC-4 6.16.3; table 215]"""
    unit = Unit()
    data = basic_list(0, KEY_A, spec=True).ljust(length, b"\0")
    assert_refused(unit.raw_out(A, REGISTER, data), LIST_LENGTH)
    assert unit.unchanged


@pytest.mark.parametrize("excess", [1, 4, 24, 2**32 - 100])
def test_list_transport_ids_beyond_list_refused(excess: int) -> None:
    """A data length beyond the list: 05/26/00 at byte 24 [SPC-4 6.16.3; table 215 a)]"""
    unit = Unit()
    data = bytearray(basic_list(0, KEY_A, ids=[transport_id(B)]))
    data[24:28] = (int.from_bytes(data[24:28], "big") + excess).to_bytes(4, "big")
    reply = unit.raw_out(A, REGISTER, bytes(data))
    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(24, None))
    assert unit.unchanged


def test_list_bytes_after_transport_ids_are_unseen() -> None:
    """Bytes that the data length does not cover are ignored [SPC-4 6.16.3; ruling on excess]"""
    unit = Unit()
    data = basic_list(0, KEY_A, ids=[transport_id(B)]) + b"\xff" * 30
    assert_good(unit.raw_out(A, REGISTER, data))
    assert unit.keys == {A: KEY_A, B: KEY_A}


@pytest.mark.parametrize("rest", [1, 4, 20, 23])
def test_list_rest_that_is_no_transport_id_refused(rest: int) -> None:
    """A rest inside the data length is refused, at its offset [SPC-4 6.16.3; table 215 b)]"""
    unit = Unit()
    first = transport_id(B)
    reply = unit.out(A, REGISTER, 0, KEY_A, ids=[first, bytes((5, 0, 0, 20))[:rest].ljust(rest)])
    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(28 + len(first), None))
    assert unit.unchanged


GOOD_ID = iscsi_id("iqn.2026-01.org.example:b,i,0x400001370000")
BAD_IDS = {
    "reserved format": bytes((0x85,)) + iscsi_id("b")[1:],
    "reserved format 3": bytes((0xC5,)) + iscsi_id("b")[1:],
    "length under 20": bytes((0x05, 0, 0, 16)) + b"b".ljust(20, b"\0"),
    "length not a multiple of 4": bytes((0x05, 0, 0, 21)) + b"b".ljust(21, b"\0"),
    "length beyond the data": bytes((0x05, 0, 0, 24)) + b"b".ljust(20, b"\0"),
    "no terminator": bytes((0x05, 0, 0, 20)) + b"b" * 20,
    "empty name": bytes((0x05, 0, 0, 20)) + bytes(20),
    "no separator": bytes((0x45,)) + iscsi_id("b")[1:],
    "null before the separator": bytes((0x45, 0, 0, 24)) + b"b\0,i,0x400001370000".ljust(24, b"\0"),
    "11 digits": iscsi_id("b,i,0x40000137000"),
    "13 digits": iscsi_id("b,i,0x4000013700000"),
    "no digit": iscsi_id("b,i,0x40000137000g"),
    "no name": iscsi_id(",i,0x400001370000"),
    "name of 224 bytes": iscsi_id("b" * 224),
}


@pytest.mark.parametrize("bad", BAD_IDS.values(), ids=BAD_IDS.keys())
@pytest.mark.parametrize("before", [0, 1])
def test_list_malformed_transport_id_refused(bad: bytes, before: int) -> None:
    """A malformed TransportID registers nobody [SPC-4 7.6.4.6; REGISTER]"""
    unit = Unit()
    first = [transport_id(C)] * before
    reply = unit.out(A, REGISTER, 0, KEY_A, ids=[*first, bad])
    offset = 28 + sum(map(len, first))
    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(offset, None))
    assert unit.unchanged


@pytest.mark.parametrize("bad", BAD_IDS.values(), ids=BAD_IDS.keys())
def test_move_malformed_transport_id_refused(bad: bytes) -> None:
    """A malformed TransportID moves nothing [SPC-4 7.6.4.6; REGISTER AND MOVE]"""
    unit = ready()
    assert_refused(unit.raw_out(A, MOVE, move_list(KEY_A, KEY_C, bad)), INVALID_FIELD_IN_LIST)
    assert unit.unchanged


@pytest.mark.parametrize("first", [0x00, 0x01, 0x03, 0x04, 0x06, 0x0A])
def test_list_transport_id_of_other_protocol_refused(first: int) -> None:
    """Ports here have iSCSI names, others are refused [SPC-4 7.6.4; ruling on protocols]"""
    foreign = bytes((first, *range(1, 24)))
    reply = Unit().out(A, REGISTER, 0, KEY_A, ids=[transport_id(B), foreign])
    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(28 + len(transport_id(B)), None))
    unit = ready()
    reply = unit.raw_out(A, MOVE, move_list(KEY_A, KEY_C, foreign))
    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(24, None))


def test_list_longest_name_is_good() -> None:
    """A name of 223 bytes is good [SPC-4 7.6.4.6; name length]"""
    unit = Unit()
    assert_good(unit.out(A, REGISTER, 0, KEY_A, ids=[iscsi_id("b" * 223 + ",i,0x000000000001")]))


def test_list_padded_transport_id_is_good() -> None:
    """More null padding than needed is good [SPC-4 7.6.4.6; padding]"""
    unit = Unit()
    text = b"iqn.2026-01.org.example:b"
    padded = bytes((0x05, 0, 0, 64)) + text.ljust(64, b"\0")
    assert_good(unit.out(A, REGISTER, 0, KEY_A, ids=[padded]))
    assert unit.keys == {A: KEY_A, B: KEY_A}


@pytest.mark.parametrize("byte", [16, 17, 18, 19, 21, 22, 23])
def test_list_obsolete_and_reserved_bytes_ignored(byte: int) -> None:
    """Obsolete and reserved bytes are ignored [SPC-4 table 214; keywords]"""
    data = bytearray(basic_list(0, KEY_A))
    data[byte] = 0xFF
    data[20] = 0xF2
    assert_good(Unit().raw_out(A, REGISTER, bytes(data)))


# ------------------------------------------------------------------ REGISTER AND MOVE


@pytest.mark.parametrize("length", [8, 16, 23])
def test_move_list_under_24_bytes_refused(length: int) -> None:
    """A list without its fixed part: 05/1A/00 [SPC-4 6.16.4; PARAMETER LIST LENGTH]"""
    unit = ready()
    data = move_list(KEY_A, KEY_C, transport_id(C))[:length]
    assert_refused(unit.raw_out(A, MOVE, data), LIST_LENGTH)
    assert unit.unchanged


@pytest.mark.parametrize("length", [0, 4, 20, 23, 25, 26, 27, 32, 10000])
def test_move_transport_id_length_wrong_refused(length: int) -> None:
    """Under 24, no multiple of 4, beyond the list: 05/26/00 at byte 20 [SPC-4 6.16.4]"""
    unit = ready()
    identifier = iscsi_id("c")
    assert len(identifier) == 24
    reply = unit.raw_out(A, MOVE, move_list(KEY_A, KEY_C, identifier, length=length))
    assert_refused(reply, INVALID_FIELD_IN_LIST, field=(20, None))
    assert unit.unchanged


def test_move_transport_id_length_beyond_its_transport_id_is_good() -> None:
    """Longer than its TransportID: the rest is ignored [SPC-4 6.16.4; ruling on excess]"""
    unit = ready()
    identifier = transport_id(C) + b"\xff" * 8
    assert_good(unit.raw_out(A, MOVE, move_list(KEY_A, KEY_C, identifier)))
    assert unit.reservation == (WE, C)


def test_move_reserved_bits_ignored() -> None:
    """Reserved bits of bytes 16 and 17 are ignored [SPC-4 6.16.4; keywords]"""
    unit = ready()
    data = bytearray(move_list(KEY_A, KEY_C, transport_id(C)))
    data[16] = 0xFF
    data[17] = 0xFC
    assert_good(unit.raw_out(A, MOVE, bytes(data)))
    assert unit.keys[A] == KEY_A


# ------------------------------------------------------------------ CDBs


@pytest.mark.parametrize("action", range(4, 32))
def test_cdb_unknown_in_action_refused(action: int) -> None:
    """Service actions 04h to 1Fh are refused, at byte 1 [SPC-4 table 201; reserved]"""
    assert_refused(Unit().send(A, in_cdb(action)), INVALID_FIELD_IN_CDB, cdb=(1, 4))


@pytest.mark.parametrize("action", range(8, 32))
def test_cdb_unknown_out_action_refused(action: int) -> None:
    """08h (REPLACE LOST RESERVATION) to 1Fh are refused [SPC-4 table 213; not implemented]"""
    assert_refused(Unit().out(A, action, 0, KEY_A), INVALID_FIELD_IN_CDB, cdb=(1, 4))


@pytest.mark.parametrize("bits", [0x20, 0x40, 0x80, 0xE0])
def test_cdb_reserved_bits_beside_service_action_ignored(bits: int) -> None:
    """Bits 7 to 5 of byte 1 are ignored [SPC-4 6.15.1 and 6.16.1; keywords]"""
    unit = Unit()
    cdb = bytearray(out_cdb(REGISTER))
    cdb[1] |= bits
    assert_good(unit.send(A, bytes(cdb), basic_list(0, KEY_A)))
    assert_good(unit.send(A, in_cdb(bits)))
    assert len(unit.outcome.reply.data) == 16


def test_cdb_reserved_bytes_ignored() -> None:
    """Reserved bytes of both CDBs are ignored [SPC-4 6.15.1 and 6.16.1; keywords]"""
    unit = Unit()
    cdb = bytearray(out_cdb(REGISTER))
    cdb[3] = cdb[4] = 0xFF
    assert_good(unit.send(A, bytes(cdb), basic_list(0, KEY_A)))
    cdb = bytearray(in_cdb(0))
    cdb[2:7] = b"\xff" * 5
    assert_good(unit.send(A, bytes(cdb)))


@pytest.mark.parametrize("cdb", [in_cdb(0), out_cdb(REGISTER)])
def test_cdb_naca_refused(cdb: bytes) -> None:
    """NACA=1 is refused: there is no ACA here [SAM-5 5.2 CONTROL; NACA]"""
    reply = Unit().send(A, cdb[:9] + b"\x04", basic_list(0, KEY_A))
    assert_refused(reply, INVALID_FIELD_IN_CDB, cdb=(9, 2))


@pytest.mark.parametrize("control", [0x01, 0x02, 0x08, 0xC0])
def test_cdb_other_control_bits_ignored(control: int) -> None:
    """LINK and other bits of CONTROL are ignored [SAM-5 5.2 CONTROL; keywords]"""
    unit = Unit()
    assert_good(unit.send(A, out_cdb(REGISTER)[:9] + bytes((control,)), basic_list(0, KEY_A)))
    assert_good(unit.send(A, in_cdb(0)[:9] + bytes((control,))))


def test_cdb_empty_refused() -> None:
    """No CDB: there is no such opcode [SPC-4 4.5; INVALID COMMAND OPERATION CODE]"""
    assert_refused(Unit().send(A, b""), (5, 0x20, 0))


@pytest.mark.parametrize("cdb", [in_cdb(0)[:9], out_cdb(0)[:9], b"\x5e", b"\x16\0\0", b"\x88" * 15])
def test_cdb_short_refused(cdb: bytes) -> None:
    """A CDB that is shorter than its opcode needs is refused [SPC-4 4.2.5; ruling on short CDBs]"""
    assert_refused(Unit().send(A, cdb), INVALID_FIELD_IN_CDB)


def test_cdb_padding_is_unseen() -> None:
    """PERSISTENT RESERVE CDBs may come padded to 16 bytes [SPC-4 6.15.1 and 6.16.1; length]"""
    unit = Unit()
    assert_good(unit.send(A, out_cdb(REGISTER) + b"\xff" * 6, basic_list(0, KEY_A)))
    assert_good(unit.send(nexus("b"), in_cdb(0) + b"\xff" * 6))


def test_list_conflict_seen_in_a_faulty_list() -> None:
    """A wrong key is seen although the list is too short [SPC-4 5.13.7; ruling on order]"""
    assert_conflict(ready().raw_out(B, CLEAR, basic_list(KEY_A)[:8]))
