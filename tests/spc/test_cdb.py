"""Command descriptor blocks (SPC-4 6.15, 6.16; SPC-2 RESERVE and RELEASE)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.spc.cdb import (
    Command,
    OtherCommand,
    PersistentReserveIn,
    PersistentReserveOut,
    Refused,
    Release,
    Reserve,
    encode_persistent_reserve_in,
    encode_persistent_reserve_out,
    encode_reserve,
    parse_command,
)
from flockpr.spc.codes import InAction, OutAction
from flockpr.spc.prout_list import PROutParameters, encode_basic_list
from flockpr.spc.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_OPCODE,
    INVALID_SERVICE_ACTION,
    PARAMETER_LIST_LENGTH_ERROR,
    cdb_field,
)
from tests.support.spc_strategies import QUIET, unsigned

SHORT = Refused(INVALID_FIELD_IN_CDB)
LIST = encode_basic_list(1, 2)


def parse(text: str, data_out: bytes = b"") -> Command:
    """Parse a CDB written in hex."""
    return parse_command(bytes.fromhex(text), data_out)


# PERSISTENT RESERVE IN


@pytest.mark.parametrize("action", list(InAction))
def test_pr_in_service_action_and_allocation_length_are_read(action: InAction) -> None:
    """SPC-4 6.15.1: SERVICE ACTION in byte 1, ALLOCATION LENGTH in bytes 7-8."""
    cdb = bytes((0x5E, action, 0, 0, 0, 0, 0, 0x20, 0x01, 0))
    assert encode_persistent_reserve_in(action, 0x2001) == cdb
    assert parse_command(cdb) == PersistentReserveIn(action, 0x2001)


@pytest.mark.parametrize("action", range(0x04, 0x20))
def test_pr_in_unknown_service_action_is_refused(action: int) -> None:
    """SPC-4 6.15.1, table 193: reserved service actions, pointer byte 1 bit 4."""
    cdb = bytes((0x5E, action, 0, 0, 0, 0, 0, 0, 8, 0))
    assert parse_command(cdb) == Refused(INVALID_SERVICE_ACTION)


def test_pr_in_reserved_bits_are_ignored() -> None:
    """Reserved bits of byte 1 and reserved bytes 2-6 are not checked."""
    assert parse("5ee1 ffffffffff 0008 00") == PersistentReserveIn(1, 8)


def test_pr_in_padded_to_16_bytes_is_read_like_10() -> None:
    """A helper client pads its CDBs to 16 bytes; CONTROL stays byte 9."""
    assert parse("5e00 0000000000 0008 00 ffffffffffff") == PersistentReserveIn(0, 8)


# PERSISTENT RESERVE OUT


@pytest.mark.parametrize("action", list(OutAction))
def test_pr_out_fields_are_read(action: OutAction) -> None:
    """SPC-4 6.16.1: SCOPE and TYPE as they came, list length in bytes 5-8."""
    cdb = bytes((0x5F, action, 0xA5, 0, 0, 0, 0, 0, 24, 0))
    assert encode_persistent_reserve_out(action, 24, scope=0xA, type_=5) == cdb
    command = parse_command(cdb, LIST)
    assert isinstance(command, PersistentReserveOut)
    assert (command.service_action, command.scope, command.type) == (action, 0xA, 5)
    assert command.parameters.reservation_key == 1
    assert command.parameters.service_action_reservation_key == 2


@pytest.mark.parametrize("action", range(0x08, 0x20))
def test_pr_out_unknown_service_action_is_refused(action: int) -> None:
    """SPC-4 6.16.2: reserved ones and REPLACE LOST RESERVATION, pointer byte 1 bit 4."""
    cdb = bytes((0x5F, action, 0, 0, 0, 0, 0, 0, 24, 0))
    assert parse_command(cdb, LIST) == Refused(INVALID_SERVICE_ACTION)


def test_pr_out_unknown_service_action_outranks_naca() -> None:
    """The service action decides whether the command exists at all."""
    assert parse("5f1f 05 0000 00000018 04", LIST) == Refused(INVALID_SERVICE_ACTION)
    assert parse("5e1f 00 0000 00000018 04") == Refused(INVALID_SERVICE_ACTION)


def test_pr_out_reserved_bits_are_ignored() -> None:
    """Reserved bits of byte 1, bytes 3-4 and of CONTROL (LINK too) are not checked."""
    plain = parse("5f01 05 0000 00000018 00", LIST)
    assert isinstance(plain, PersistentReserveOut)
    assert parse("5fe1 05 ffff 00000018 fb", LIST) == plain


@pytest.mark.parametrize(("cdb", "short"), [("00000018", 24), ("00010018", 24), ("ffff0018", 24)])
def test_pr_out_short_parameter_length_is_bytes_7_and_8(cdb: str, short: int) -> None:
    """A helper client knows 16 bits of length only, whatever bytes 5-6 hold."""
    command = parse_command(
        bytes.fromhex("5f06000000" + cdb + "00"), LIST, long_parameter_length=False
    )
    assert short == len(LIST)
    assert command == PersistentReserveOut(6, 0, 0, PROutParameters(1, 2))


def test_pr_out_long_parameter_length_is_bytes_5_to_8() -> None:
    """SPC-4 6.16.1: 32 bits, so 65560 is no 24."""
    command = parse("5f06 00 0000 00010018 00", LIST)
    assert isinstance(command, PersistentReserveOut)
    assert command.parameters.fault == PARAMETER_LIST_LENGTH_ERROR
    assert command.parameters.reservation_key == 1


# CONTROL, lengths, other commands


@pytest.mark.parametrize(
    ("cdb", "byte"),
    [
        ("5e 00 00 00 00 00 00 00 08 04", 9),
        ("5f 00 00 00 00 00 00 00 18 04", 9),
        ("00 00 00 00 00 04", 5),
        ("16 00 00 00 00 04", 5),
        ("56 00 00 00 00 00 00 00 00 04", 9),
        ("a0 00 00 00 00 00 00 00 00 00 00 04", 11),
        ("88 00 00 00 00 00 00 00 00 00 00 00 00 00 00 04", 15),
        ("7f 04 00 00 00 00 00 02 00 09", 1),
    ],
)
def test_naca_is_refused_wherever_control_is(cdb: str, byte: int) -> None:
    """SAM-5 5.2: NACA=1 without ACA is 05/24/00 with a pointer to the bit."""
    assert parse(cdb) == Refused(cdb_field(byte, 2))


@pytest.mark.parametrize(
    ("opcode", "needed"),
    [
        *((opcode, 6) for opcode in (0x00, 0x12, 0x16, 0x17)),
        *((opcode, 10) for opcode in (0x28, 0x56, 0x57, 0x5E, 0x5F, 0x7F)),
        *((opcode, 12) for opcode in (0xA0, 0xA3)),
        *((opcode, 16) for opcode in (0x88, 0x9E)),
    ],
)
def test_cdb_shorter_than_its_opcode_needs_is_refused(opcode: int, needed: int) -> None:
    """SPC-4 4.2.5.1: the group code gives the length; less is 05/24/00."""
    for size in range(1, needed):
        assert parse_command(bytes((opcode,)).ljust(size, b"\0")) == SHORT


def test_empty_cdb_is_refused_as_no_opcode() -> None:
    """There is no operation code to implement."""
    assert parse_command(b"") == Refused(INVALID_OPCODE)


@pytest.mark.parametrize(
    ("cdb", "command"),
    [
        ("16 00 00 00 00 00", Reserve(0x16)),
        ("17 00 00 00 00 00", Release(0x17)),
        ("56 00 00 00 00 00 00 00 00 00", Reserve(0x56)),
        ("57 00 00 00 00 00 00 00 00 00", Release(0x57)),
    ],
)
def test_reserve_and_release_are_read(cdb: str, command: Command) -> None:
    """SPC-2 7.21 to 7.24: the whole logical unit."""
    assert parse(cdb) == command
    assert encode_reserve(bytes.fromhex(cdb)[0]) == bytes.fromhex(cdb)


@pytest.mark.parametrize("opcode", [0x16, 0x17, 0x56, 0x57])
def test_reserve_with_third_party_or_extent_is_refused(opcode: int) -> None:
    """SPC-2 7.21: 3RDPTY=1 and EXTENT=1 are 05/24/00; obsolete fields are ignored."""
    cdb = bytearray(encode_reserve(opcode))
    cdb[1:5] = b"\xe2\xff\xff\xff"
    assert isinstance(parse_command(bytes(cdb)), Reserve | Release)
    cdb[1] = 0x01
    assert parse_command(bytes(cdb)) == Refused(cdb_field(1, 0))
    cdb[1] = 0x11
    assert parse_command(bytes(cdb)) == Refused(cdb_field(1, 4))


@pytest.mark.parametrize(
    ("cdb", "action"),
    [
        ("00 00 00 00 00 00", None),
        ("12 01 80 00 ff 00", None),
        ("28 00 00 00 00 00 00 00 01 00", None),
        ("9e f0 00 00 00 00 00 00 00 00 00 00 00 00 00 00", 0x10),
        ("a3 0c 00 00 00 00 00 00 00 00 00 00", 0x0C),
        ("7f 00 00 00 00 00 00 18 00 0b" + " 00" * 22, 0x000B),
        ("7f 00 00 00 00 00 00 02 18 00", 0x1800),
        ("c1", None),
        ("ff", None),
        ("60", None),
    ],
)
def test_other_commands_carry_opcode_and_service_action(cdb: str, action: int | None) -> None:
    """The access table is keyed by both; vendor specific CDBs have no length rule."""
    data = bytes.fromhex(cdb)
    assert parse_command(data) == OtherCommand(data, data[0], action)


def test_opcodes_with_service_actions_are_those_of_the_standard() -> None:
    """SPC-4 4.2.2: those whose byte 1 bits 4-0 are a SERVICE ACTION."""
    found = set()
    for opcode in set(range(256)) - {0x16, 0x17, 0x56, 0x57, 0x5E, 0x5F, 0x7F}:
        command = parse_command(bytes((opcode, 0xE3)).ljust(16, b"\0"))
        assert isinstance(command, OtherCommand)
        assert command.service_action in {None, 3}
        if command.service_action is not None:
            found.add(opcode)
    assert found == {
        *(0x48, 0x83, 0x84, 0x86, 0x87, 0x8C),
        *(0x9D, 0x9E, 0x9F, 0xA3, 0xA4, 0xA9, 0xAB),
    }


@pytest.mark.parametrize("additional", ["00", "01", "03"])
def test_variable_length_cdb_with_wrong_length_is_refused(additional: str) -> None:
    """SPC-4 4.2.3: ADDITIONAL CDB LENGTH covers the service action and all that is there."""
    assert parse("7f 00 00 00 00 00 00 " + additional + " 00 09") == Refused(cdb_field(7))


@QUIET
@given(unsigned(16), st.sampled_from(InAction))
def test_pr_in_round_trips(length: int, action: InAction) -> None:
    """What is encoded is what is read."""
    cdb = encode_persistent_reserve_in(action, length)
    assert parse_command(cdb) == PersistentReserveIn(action, length)


@QUIET
@given(st.sampled_from(OutAction), unsigned(4), unsigned(4))
def test_pr_out_round_trips(action: OutAction, scope: int, type_: int) -> None:
    """What is encoded is what is read, on both kinds of door."""
    cdb = encode_persistent_reserve_out(action, 24, scope=scope, type_=type_)
    for long in (True, False):
        command = parse_command(cdb, LIST, long_parameter_length=long)
        assert isinstance(command, PersistentReserveOut)
        assert (command.service_action, command.scope, command.type) == (action, scope, type_)
