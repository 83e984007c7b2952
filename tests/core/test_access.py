"""The access table: complete, fail-safe, and decided by type, standing and class."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.core.access import COMMANDS, CONDITIONS, AccessClass, access_class, allowed
from flockpr.core.model import (
    LogicalUnitState,
    Registration,
    Reservation,
    Spc2Reservation,
)
from flockpr.spc.codes import ReservationType
from tests.support.access_rows import ACCESS_ROWS, cdb_of
from tests.support.scsi import (
    INQUIRY,
    READ_10,
    RELEASE_6,
    REPORT_LUNS,
    REQUEST_SENSE,
    RESERVE_10,
    TEST_UNIT_READY,
    WRITE_10,
    A,
    B,
    C,
    in_cdb,
    out_cdb,
)

READ_CAPACITY_10 = cdb_of("25")
BY_CLASS = {"A": READ_CAPACITY_10, "R": READ_10, "W": WRITE_10}
OWN = {0x5F, 0x16, 0x17, 0x56, 0x57}


def reserved(kind: ReservationType) -> LogicalUnitState:
    """A reserves with A and B registered; C is a stranger."""
    holder = None if kind.all_registrants else A
    registrations = (Registration(A, 1, 0), Registration(B, 2, 1))
    return LogicalUnitState(registrations=registrations, reservation=Reservation(kind, holder))


@pytest.mark.parametrize(("name", "head", "expected"), ACCESS_ROWS, ids=str)
def test_access_class_of_a_row_is_the_standards(name: str, head: str, expected: str) -> None:
    """SPC-4 table 65, SBC-4 table 13: every row, read off independently."""
    assert access_class(cdb_of(head)).value == expected, name


def test_access_table_has_no_row_that_the_standards_list_lacks() -> None:
    """SPC-4 table 65, SBC-4 table 13: nothing was added by mistake, not even a write."""
    listed = set()
    for _, head, _ in ACCESS_ROWS:
        cdb = cdb_of(head)
        action = int.from_bytes(cdb[8:10], "big") if cdb[0] == 0x7F else cdb[1] & 0x1F
        listed |= {(cdb[0], action), (cdb[0], None)}

    extra = {key for key in COMMANDS if key not in listed and key[0] not in OWN}
    assert extra == {(0x5E, None)}


def test_access_table_has_every_row_by_its_own_key() -> None:
    """Rows are found as themselves and not by the fail-safe, but for those it stands for."""
    found = 0
    for name, head, _ in ACCESS_ROWS:
        cdb = cdb_of(head)
        action = int.from_bytes(cdb[8:10], "big") if cdb[0] == 0x7F else cdb[1] & 0x1F
        known = (cdb[0], action) in COMMANDS or (cdb[0], None) in COMMANDS or cdb[0] in CONDITIONS
        unlisted = name.startswith(("unlisted", "vendor")) or name.endswith("obsolete")
        assert known is not unlisted, name
        found += known
    assert found > 100


def test_access_table_names_are_unique() -> None:
    """No command stands in the table twice under two keys."""
    names = [name for _, name in COMMANDS.values()] + [c.name for c in CONDITIONS.values()]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize("opcode", sorted(OWN))
def test_access_class_of_commands_with_own_tables_is_own(opcode: int) -> None:
    """SPC-4 table 66 and 5.13.3 decide PERSISTENT RESERVE OUT, RESERVE and RELEASE."""
    assert access_class(bytes((opcode, *bytes(9)))) is AccessClass.OWN


@given(st.binary(max_size=40))
def test_access_class_of_any_bytes_is_a_class(cdb: bytes) -> None:
    """Total: no CDB makes it raise."""
    assert access_class(cdb) in AccessClass


@pytest.mark.parametrize(
    "cdb", [b"", b"\x9e", b"\x7f", b"\x7f" + bytes(8), b"\x1b\x00\x00\x00", b"\x1e\x00\x00\x00"]
)
def test_access_class_of_a_cut_cdb_fails_safe(cdb: bytes) -> None:
    """What cannot be read is treated like a write."""
    assert access_class(cdb) is AccessClass.WRITE


def test_access_class_ignores_reserved_bits_above_the_service_action() -> None:
    """SPC-4 4.2.5: reserved bits need not be checked, so they must not change the class."""
    assert access_class(bytes((0x9E, 0xF0, *bytes(14)))) is AccessClass.ALWAYS


# Classes that holder, registered nexus and stranger may use under each type (SPC-4 5.13.1).
MATRIX = {
    ReservationType.WRITE_EXCLUSIVE: ("ARW", "AR", "AR"),
    ReservationType.EXCLUSIVE_ACCESS: ("ARW", "A", "A"),
    ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY: ("ARW", "ARW", "AR"),
    ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY: ("ARW", "ARW", "A"),
    ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS: ("ARW", "ARW", "AR"),
    ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS: ("ARW", "ARW", "A"),
}


@pytest.mark.parametrize("kind", ReservationType)
@pytest.mark.parametrize("letter", "ARW")
def test_allowed_under_a_reservation_follows_type_and_standing(
    kind: ReservationType, letter: str
) -> None:
    """SPC-4 5.13.1: the decision by type, standing and class of command."""
    state = reserved(kind)

    granted = [allowed(state, nexus, BY_CLASS[letter]) for nexus in (A, B, C)]
    assert granted == [letter in rights for rights in MATRIX[kind]]


@pytest.mark.parametrize("letter", "ARW")
def test_allowed_without_a_reservation_lets_all_pass(letter: str) -> None:
    """Registrations alone stop nobody."""
    state = attrs.evolve(reserved(ReservationType.EXCLUSIVE_ACCESS), reservation=None)

    assert all(allowed(state, nexus, BY_CLASS[letter]) for nexus in (A, B, C))


def test_allowed_stops_commands_with_own_tables_of_strangers() -> None:
    """A door that asks here instead of `step` fails safe."""
    state = reserved(ReservationType.WRITE_EXCLUSIVE)

    assert not any(allowed(state, C, cdb) for cdb in (out_cdb(0), RESERVE_10, RELEASE_6))


@pytest.mark.parametrize(
    ("cdb", "passes"),
    [
        (INQUIRY, True),
        (REPORT_LUNS, True),
        (REQUEST_SENSE, True),
        (cdb_of("4d"), True),
        (READ_CAPACITY_10, True),
        (cdb_of("9e10"), True),
        (cdb_of("a30a"), True),
        (cdb_of("1b00000001"), True),
        (cdb_of("1b00000000"), False),
        (cdb_of("1e00000000"), True),
        (cdb_of("1e00000001"), False),
        (TEST_UNIT_READY, False),
        (READ_10, False),
        (WRITE_10, False),
        (cdb_of("1a"), False),
        (cdb_of("9e12"), False),
        (cdb_of("a30c"), False),
        (in_cdb(0), False),
        (b"", False),
    ],
)
def test_allowed_beside_a_spc2_reservation_is_the_short_list(cdb: bytes, passes: bool) -> None:
    """SPC-2 5.5.1: what others may do while a nexus holds a RESERVE; its holder does all."""
    state = LogicalUnitState(spc2=Spc2Reservation(A, 0))

    assert allowed(state, B, cdb) is passes
    assert allowed(state, A, cdb)
