"""The access table over iSCSI: who may send what while somebody holds (SPC-4 tables 65 and 66).

The rows were written from the standards' tables; the package's own table is not looked at.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import attrs
import pytest

from tests.support import sbc_cdbs as sbc
from tests.support.scsi import (
    CLEAR,
    EA,
    KEY_A,
    KEY_B,
    REGISTER,
    REGISTER_IGNORE,
    RELEASE_6,
    RESERVE,
    RESERVE_6,
    RESERVE_10,
    TYPES,
    WE,
    basic_list,
    in_cdb,
    out_cdb,
)
from tests.support.target_rig import (
    BLOCK,
    CONFLICT,
    GOOD,
    Session,
    Target,
    image_of,
    make_root,
)

ZEROES = bytes(BLOCK)
STRANGERS_MARK = b"\xee" * BLOCK
MODE_PAGES = bytes((0, 0, 0, 0, 0x0A, 0x0A, *bytes(10)))
"""A list for MODE SELECT(6): the control page with all zero."""


@attrs.frozen
class Row:
    """A command of one class.

    Attributes:
        name: Of the command.
        kind: A (always), R (like a read) or W (like a write).
        cdb: It.
        data: What it sends.
        read: How much it may read.
        good: Whether it succeeds where it may; others only must not conflict.
    """

    name: str
    kind: str
    cdb: bytes
    data: bytes = b""
    read: int = 0
    good: bool = True


def _unmap(lba: int, count: int) -> tuple[bytes, bytes]:
    return sbc.unmap((lba, count))


ROWS: tuple[Row, ...] = (
    Row("TEST UNIT READY", "A", sbc.TEST_UNIT_READY),
    Row("REQUEST SENSE", "A", sbc.request_sense(), read=252),
    Row("INQUIRY", "A", sbc.inquiry(), read=255),
    Row("INQUIRY 83h", "A", sbc.inquiry(0x83), read=255),
    Row("REPORT LUNS", "A", sbc.report_luns(), read=4096),
    Row("READ CAPACITY(10)", "A", sbc.READ_CAPACITY_10, read=8),
    Row("READ CAPACITY(16)", "A", sbc.READ_CAPACITY_16, read=32),
    Row("START STOP UNIT start", "A", bytes((0x1B, 0, 0, 0, 1, 0))),
    Row("PREVENT ALLOW allow", "A", bytes((0x1E, 0, 0, 0, 0, 0)), good=False),
    Row("REPORT TARGET PORT GROUPS", "A", bytes((0xA3, 0x0A, *bytes(7), 255, 0, 0)), read=255),
    Row("READ KEYS", "A", in_cdb(0), read=8192),
    Row("READ RESERVATION", "A", in_cdb(1), read=8192),
    Row("REPORT CAPABILITIES", "A", in_cdb(2), read=8192),
    Row("READ FULL STATUS", "A", in_cdb(3), read=8192),
    Row("READ(6)", "R", sbc.read(0, 1, 6), read=BLOCK),
    Row("READ(10)", "R", sbc.read(0, 1, 10), read=BLOCK),
    Row("READ(10) of no block", "R", sbc.read(0, 0, 10)),
    Row("READ(12)", "R", sbc.read(0, 1, 12), read=BLOCK),
    Row("READ(16)", "R", sbc.read(0, 1, 16), read=BLOCK),
    Row("READ(16) of many", "R", sbc.read(0, 256, 16), read=256 * BLOCK),
    Row("VERIFY(10)", "R", sbc.verify(0, 1, 10)),
    Row("VERIFY(12)", "R", sbc.verify(0, 1, 12)),
    Row("VERIFY(16)", "R", sbc.verify(0, 1, 16)),
    Row("VERIFY(10) with BYTCHK", "R", sbc.verify(1000, 1, 10, flags=2), ZEROES),
    Row("PRE-FETCH(10)", "R", bytes((0x34, *bytes(7), 1, 0)), good=False),
    Row("PRE-FETCH(16)", "R", bytes((0x90, *bytes(12), 1, 0, 0)), good=False),
    Row("GET LBA STATUS", "R", sbc.get_lba_status(0), read=4096),
    Row("MODE SENSE(6)", "R", sbc.mode_sense(0x3F), read=255),
    Row("MODE SENSE(10)", "R", bytes((0x5A, 0, 0x3F, *bytes(5), 255, 0)), read=255),
    Row("SUPPORTED OPCODES", "R", bytes((0xA3, 0x0C, *bytes(6), 16, 0, 0, 0)), read=4096),
    Row("SUPPORTED FUNCTIONS", "R", bytes((0xA3, 0x0D, *bytes(7), 16, 0, 0)), read=16),
    Row("WRITE(6)", "W", sbc.write(1, 1, 6), STRANGERS_MARK),
    Row("WRITE(10)", "W", sbc.write(1, 1, 10), STRANGERS_MARK),
    Row("WRITE(10) with FUA", "W", sbc.write(1, 1, 10, fua=True), STRANGERS_MARK),
    Row("WRITE(10) of no block", "W", sbc.write(1, 0, 10)),
    Row("WRITE(12)", "W", sbc.write(1, 1, 12), STRANGERS_MARK),
    Row("WRITE(16)", "W", sbc.write(1, 1, 16), STRANGERS_MARK),
    Row("WRITE(16) of many", "W", sbc.write(1, 300, 16), STRANGERS_MARK * 300),
    Row("WRITE AND VERIFY(10)", "W", sbc.write_and_verify(1, 1, 10), STRANGERS_MARK),
    Row("WRITE AND VERIFY(12)", "W", sbc.write_and_verify(1, 1, 12), STRANGERS_MARK),
    Row("WRITE AND VERIFY(16)", "W", sbc.write_and_verify(1, 1, 16), STRANGERS_MARK),
    Row("WRITE SAME(10)", "W", sbc.write_same(1, 1, 10), STRANGERS_MARK),
    Row("WRITE SAME(16)", "W", sbc.write_same(1, 1, 16), STRANGERS_MARK),
    Row("WRITE SAME(16) with UNMAP", "W", sbc.write_same(8, 8, 16, flags=8), ZEROES),
    Row("UNMAP", "W", *_unmap(8, 8)),
    Row("UNMAP of nothing", "W", sbc.unmap()[0], sbc.unmap()[1]),
    Row("COMPARE AND WRITE", "W", sbc.compare_and_write(1000, 1), ZEROES + ZEROES),
    Row("ORWRITE(16)", "W", bytes((0x8B, *bytes(8), 1, *bytes(3), 1, 0, 0)), ZEROES, good=False),
    Row("SYNCHRONIZE CACHE(10)", "W", sbc.synchronize_cache()),
    Row("SYNCHRONIZE CACHE(16)", "W", sbc.synchronize_cache(width=16)),
    Row("MODE SELECT(6)", "W", bytes((0x15, 0x10, 0, 0, 16, 0)), MODE_PAGES, good=False),
    Row("MODE SELECT(10)", "W", bytes((0x55, 0x10, *bytes(6), 0, 0)), good=False),
    Row("START STOP UNIT stop", "W", bytes((0x1B, 0, 0, 0, 0, 0)), good=False),
    Row("PREVENT ALLOW prevent", "W", bytes((0x1E, 0, 0, 0, 1, 0)), good=False),
)
OPTIONAL = {"START STOP UNIT stop", "PREVENT ALLOW prevent"}
"""What changes how the unit answers, or holds something: only sent where it conflicts."""

UNDER_SPC2 = {
    *("INQUIRY", "INQUIRY 83h", "REPORT LUNS", "REQUEST SENSE", "READ CAPACITY(10)"),
    *("READ CAPACITY(16)", "REPORT TARGET PORT GROUPS", "START STOP UNIT start"),
    "PREVENT ALLOW allow",
}
"""What SPC-2 5.5.1 lets others do under a reservation of the old kind."""

WHOLE = ("WE", "EA", "WERO", "EARO", "WEAR", "EAAR")


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Target, Target]]:
    """Two target processes over one root with one logical unit per type, and two more."""
    directory = tmp_path_factory.mktemp("access")
    root = make_root(directory, *(f"type{type_}" for type_ in TYPES), "old", "free")
    first, second = (Target(root, directory / f"{number}.log") for number in (1, 2))
    with first, second:
        yield first, second


def judge(of: Session, row: Row, allowed: bool, who: str) -> None:
    """Send a row and hold the answer to the table."""
    if allowed and row.name in OPTIONAL:
        return
    reply = of.command(row.cdb, row.data, row.read)
    note = f"{who}, {row.name}: {reply}"
    if not allowed:
        assert (reply.status, reply.sense, reply.data) == (CONFLICT, b"", b""), note
    elif row.good:
        assert reply.status == GOOD, note
    else:
        assert reply.status != CONFLICT, note


def permitted(type_: int, who: str, kind: str) -> bool:
    """SPC-4 table 65, in the shape of the reference: what is stopped, by type."""
    if who == "holder" or (who == "registrant" and type_ not in (WE, EA)):
        return True
    write_exclusive = type_ in (1, 5, 7)
    return kind == "A" or (kind == "R" and write_exclusive)


@pytest.mark.parametrize("type_", TYPES, ids=WHOLE)
def test_access_every_class_is_held_to_the_table(
    targets: tuple[Target, Target], type_: int
) -> None:
    """Holder, registrant and stranger, through two targets [SPC-4 table 65; SBC-3 table 13]"""
    lun = f"type{type_}"
    image = image_of(targets[0].root, lun)
    holder = targets[0].log_in("holder", lun)
    others = [
        (who, target.log_in(f"{who}{number}", lun))
        for number, target in enumerate(targets)
        for who in ("registrant", "stranger")
    ]
    try:
        holder.must(REGISTER, 0, KEY_A)
        for who, session in others:
            if who == "registrant":
                session.must(REGISTER, 0, KEY_B)
        holder.must(RESERVE, KEY_A, type_=type_)
        for who, session in others:
            before = image.read_bytes()
            for row in ROWS:
                judge(session, row, permitted(type_, who, row.kind), who)
            if not permitted(type_, who, "W"):
                assert image.read_bytes() == before
        for row in ROWS:
            judge(holder, row, True, "holder")
        assert image.read_bytes()[BLOCK : 2 * BLOCK] == STRANGERS_MARK
    finally:
        for _, session in others:
            session.close()
        holder.close()


def test_access_without_reservation_all_may(targets: tuple[Target, Target]) -> None:
    """Registrations alone stop nobody [SPC-4 5.13.1; no reservation]"""
    with targets[0].log_in("a", "free") as a, targets[1].log_in("b", "free") as b:
        a.must(REGISTER, 0, KEY_A)
        for session in (a, b):
            for row in ROWS:
                judge(session, row, True, "anybody")


def test_access_under_spc2_reservation_others_may_ask_only(
    targets: tuple[Target, Target],
) -> None:
    """RESERVE(6) stops all others, PERSISTENT RESERVE from anybody [SPC-2 5.5.1; RESERVE]"""
    with (
        targets[0].log_in("a", "old") as a,
        targets[0].log_in("b", "old") as b,
        targets[1].log_in("c", "old") as c,
    ):
        assert a.command(RESERVE_6).good
        for other in (b, c):
            for row in ROWS:
                judge(other, row, row.name in UNDER_SPC2, "other")
            assert other.command(RESERVE_10).status == CONFLICT
            assert other.command(RELEASE_6).good  # without effect
        for row in ROWS:
            judge(a, row, row.cdb[0] != 0x5E, "holder")
        for session in (a, b, c):
            reply = session.command(out_cdb(REGISTER_IGNORE), basic_list(0, KEY_A))
            assert reply.status == CONFLICT
        assert a.command(RELEASE_6).good
        assert c.command(RESERVE_6).good
        assert a.command(sbc.read(0, 1), read=BLOCK).status == CONFLICT


def test_access_spc2_reservation_dies_with_the_session_of_its_holder(
    tmp_path: pathlib.Path,
) -> None:
    """Logout, a broken connection and a killed target all free it [SPC-2 5.5.1; nexus loss]"""
    root = make_root(tmp_path)
    with Target(root, tmp_path / "1.log") as first, Target(root, tmp_path / "2.log") as second:
        for leave in (Session.logout, Session.close, lambda _: first.kill()):
            a, b = first.log_in("a"), second.log_in("b")
            assert a.command(RESERVE_6).good
            assert b.command(RESERVE_6).status == CONFLICT
            leave(a)
            with b:
                _until_good(b)
                assert b.command(RELEASE_6).good


def _until_good(of: Session) -> None:
    from tests.support.target_rig import eventually

    eventually(lambda: of.command(RESERVE_6).good, "the end of the other's reservation")


def test_access_clear_ends_what_a_reservation_stopped(targets: tuple[Target, Target]) -> None:
    """After CLEAR strangers read and write at once, on the other target too [SPC-4 5.13.11]"""
    with targets[0].log_in("a", "free") as a, targets[1].log_in("c", "free") as c:
        a.must(REGISTER_IGNORE, 0, KEY_A)
        a.must(RESERVE, KEY_A, type_=EA)
        assert c.command(sbc.read(0, 1), read=BLOCK).status == CONFLICT
        a.must(CLEAR, KEY_A)
        assert c.command(sbc.read(0, 1), read=BLOCK).good
        assert c.command(sbc.write(0, 1), ZEROES).good
