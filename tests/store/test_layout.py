"""docs/format.md and the code say the same, table by table, in both directions."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import attrs
import pytest

from flockpr.core.model import Spc2Reservation
from flockpr.gate import fenced, places, roster
from flockpr.logical_unit import LogicalUnit
from flockpr.store import claims, layout, sqlite_file
from flockpr.store.directory import SETTLE_SECONDS
from flockpr.store.document import DECODERS, MAX_DAEMONS, decode
from flockpr.store.encoding import ENCODERS, encode
from flockpr.store.kinds import SQLITE, STORES
from flockpr.store.layout import commit_name, segment_name
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from tests.support import docs
from tests.support.lun_tools import append, register, tidy_now
from tests.support.scsi import RESERVE_6, A, B
from tests.support.states import rich_document

PAGE = docs.read("docs/format.md")
WORDS = " ".join(PAGE.split())
RANGES = {"ORDER", "TIDY", "READS_FORMAT", "SLOT", "GATE", "HOST", "ALONE"}
ELSEWHERE = {"PERMITS", "KNOCK"}
NAMES = {"IDENTITY", "LOCKS", "COMMITS", "DATABASE", "DATABASE_JOURNAL", "AUDIT", "JOURNAL"}
NAMES |= {"REGISTRY", "ASIDE_PREFIX"}
ROOT_NAMES = {"NUMBERS", "DOORBELL", "HOST_RECORDS", "NEW_PREFIX", "DELETED_PREFIX"}
RECORD_NAMES = {"FENCED_PREFIX"}


def tables(heading: str) -> list[dict[str, list[str]]]:
    """The tables below a heading, each by its first cell without quotes."""
    result: list[dict[str, list[str]]] = []
    for part in re.split(r"\n(?=[^|])", docs.section(PAGE, heading)):
        table = {row[0].strip("`"): row[1:] for row in docs.rows("\n" + part)}
        if table:
            result.append(table)
    return result


def constants(kind: type) -> set[str]:
    """Names of the layout's public constants of a type."""
    return {name for name, value in vars(layout).items() if name.isupper() and type(value) is kind}


def test_names_in_the_page_are_the_code() -> None:
    """Each file's and each prefix's, and no other."""
    inside, root, records = tables("## Names")

    for table, expected in ((inside, NAMES), (root, ROOT_NAMES), (records, RECORD_NAMES)):
        found = {cells[0].strip("`"): name.rstrip("/") for name, cells in table.items()}
        assert found == {name: getattr(layout, name) for name in expected}
    assert constants(str) == NAMES | ROOT_NAMES | RECORD_NAMES


def test_offsets_in_the_page_are_the_code() -> None:
    """Every byte range, its constant and its number."""
    (table,) = tables("## Byte ranges of `locks`")
    elsewhere = docs.rows(docs.section(PAGE, "## Byte ranges of the image and the doorbell"))

    found = {cells[0].strip("`"): int(offset, 16) for offset, cells in table.items()}
    assert found == {name: getattr(layout, name) for name in RANGES}
    found = {cells[2].strip("`"): int(cells[1].strip("`"), 16) for cells in elsewhere}
    assert found == {name: getattr(layout, name) for name in ELSEWHERE}
    beyond = {name for name in constants(int) if getattr(layout, name) >= layout.LOCK_BASE}
    assert beyond == RANGES | ELSEWHERE | {"LOCK_BASE"}
    assert layout.LOCK_BASE == 1 << 62
    assert "The base is 2^62" in WORDS


def test_offsets_do_not_overlap() -> None:
    """Slots end before the gate, formats before the slots."""
    assert layout.ORDER < layout.TIDY < layout.READS_FORMAT
    assert layout.READS_FORMAT + layout.FORMAT < layout.SLOT
    assert layout.SLOT + 65536 <= layout.GATE < layout.HOST
    assert layout.HOST + layout.HOSTS == layout.ALONE
    assert layout.HOSTS == 1 << 40
    assert "modulo 2^40" in WORDS


def test_places_of_permits_and_rings_are_in_the_page() -> None:
    """Who holds a byte, and for whom somebody rings."""
    assert places.ALL_PERMITS == (layout.PERMITS, 1 << 56)
    assert "holds all 2^56 bytes from `PERMITS` on" in WORDS
    host, instances = 0x123456789A, 1 << 16
    assert "at + *h* * 2^16 + *i*" in WORDS
    assert places.permits_of(host) == (layout.PERMITS + host * instances, instances)
    assert places.any_permit(host).start - layout.PERMITS - host * instances in range(instances)
    assert "at + (*n* * 2^40 + *h*) * 2^7 + *g*" in WORDS
    assert places.ring(5, host) == (layout.KNOCK + (5 * (1 << 40) + host) * (1 << 7), 1)
    assert "whose number modulo 127 is *g* - 1" in WORDS
    assert places.group_of(host) == host % 127 + 1
    last = places.ring(claims.MAX_LUNS - 1, layout.HOSTS - 1, layout.KNOCK_GROUPS - 1)
    assert last.start < (1 << 63) - 1


def test_numbers_in_the_page_are_the_code() -> None:
    """What stays how long, and how names are made."""
    assert "256 commits stay, and each stays a minute" in WORDS
    assert (layout.KEEP_COMMITS, SETTLE_SECONDS) == (256, 60)
    assert "holds the commands of 256 transactions" in WORDS
    assert layout.SEGMENT == 256
    assert "last 10,000 transactions stay, and more for 30 days (up to 2,048 segments)" in WORDS
    assert layout.KEEP_TRANSACTIONS == 10_000
    assert layout.KEEP_SECONDS == 30 * 86400
    assert layout.KEEP_SEGMENTS == 2048
    assert "`commits/NNNNNNNNNNNNNNNN.json`, 16 decimal digits" in WORDS
    assert commit_name(7) == "0000000000000007.json"
    assert segment_name(257) == "0000000000000257.jsonl"
    assert "A name of a LUN is 1 to 64 letters, digits, `.`, `_`, `+`, `-`" in WORDS
    assert layout.MAX_NAME == 64
    assert layout.LUN_NAME.fullmatch("x" * 64)
    assert not layout.LUN_NAME.fullmatch("x" * 65)
    assert f"at most {MAX_DAEMONS} |" in WORDS
    assert f"# The lock directory, format {layout.FORMAT}\n" in PAGE
    assert set(ENCODERS) == set(DECODERS) == set(range(1, layout.FORMAT + 1))


TYPES: dict[str, Any] = {
    "number": int,
    "boolean": bool,
    "text": str,
    "object": dict,
    "array": list,
    "null": type(None),
    "32 hex digits": str,
}


def check(table: dict[str, list[str]], value: dict[str, Any], *, in_order: bool = True) -> None:
    """That an object has the members of a table, of the types in it."""
    assert set(value) == set(table)
    if in_order:
        assert list(value) == list(table)
    for name, item in value.items():
        allowed = tuple(TYPES[word] for word in table[name][0].split(" or "))
        assert type(item) in allowed, f"{name} is {item!r}"
        if table[name][0] == "32 hex digits" and item:
            assert re.fullmatch("[0-9a-f]{32}", item)


def _lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for p in directory.iterdir() for line in p.read_text().splitlines()]


def without_checksum(data: bytes) -> dict[str, Any]:
    """A commit's members; the checksum is the last."""
    value: dict[str, Any] = json.loads(data)
    assert next(reversed(value)) == "checksum"
    del value["checksum"]
    return value


def test_members_in_the_page_are_what_encode_writes() -> None:
    """The commit, its state, its commands: names, order and types."""
    commit, state, command = tables("## Commits")
    value = without_checksum(encode(rich_document()))

    check(commit, value)
    check(state, value["state"])
    check(command, value["commands"][0], in_order=False)
    assert set(value["served"]["3"]) == set(re.findall(r"`(\w+)`", commit["served"][1]))
    registration = re.findall(r"`(\w+)`", state["registrations"][1])
    assert all(set(entry) == set(registration) for entry in value["state"]["registrations"])
    assert set(value["state"]["reservation"]) == {"type", "holder"}
    assert set(value["state"]["reservation"]["holder"]) == {"initiator", "target_port"}
    attention = value["state"]["attentions"][0]
    assert [f"`{name}`" in state["attentions"][1] for name in attention] == [True] * 3
    assert '`"2a/05"`' in state["attentions"][1]
    assert attention["codes"] == ["2a/05"]


def test_members_of_a_spc2_reservation_are_in_the_page() -> None:
    """The one object that does not stand beside registrations."""
    document = rich_document()
    unit = attrs.evolve(
        document.snapshot.state,
        registrations=(),
        reservation=None,
        spc2=Spc2Reservation(A, 9),
    )
    document = attrs.evolve(document, snapshot=attrs.evolve(document.snapshot, state=unit))
    value = without_checksum(encode(document))
    _, state, _ = tables("## Commits")

    check(state, value["state"])
    found = re.findall(r"`(\w+)`", state["spc2"][1])
    assert set(value["state"]["spc2"]) == set(found)
    assert decode(encode(document)) == document


def test_members_of_what_commands_leave_behind_are_in_the_page(tmp_path: Path) -> None:
    """Commits, journal and audit segments of a LUN that was used, and its `lun.json`."""
    create_lun(str(tmp_path), "disk", image="disk.raw", wwids=["naa.6"])
    (tmp_path / "disk.raw").touch()
    store = LockDirectory(str(tmp_path / "disk"), keep=2, segment=2, settle=0)
    unit = LogicalUnit(store)
    unit.execute(B, RESERVE_6)
    unit.execute(A, RESERVE_6)
    unit.close()
    store = LockDirectory(str(tmp_path / "disk"), keep=2, segment=2, settle=0)
    append(store, 6)
    tidy_now(store)
    store.close()
    with LogicalUnit.open(str(tmp_path / "disk")) as unit:
        register(unit, A, 1)
        register(unit, A, 1, own=9)

    commit, state, command = tables("## Commits")
    (identity,) = tables("## `lun.json`")
    lun = tmp_path / "disk"
    emulated = {name: cells for name, cells in identity.items() if name != "passed"}
    check(emulated, json.loads((lun / "lun.json").read_text()), in_order=False)
    create_lun(str(tmp_path), "marked", wwids=["naa.7"], passed=True)
    marked = json.loads((tmp_path / "marked" / "lun.json").read_text())
    check(identity, marked, in_order=False)
    for path in (lun / "commits").iterdir():
        value = without_checksum(path.read_bytes())
        check(commit, value)
        check(state, value["state"])
        for entry in value["commands"]:
            check(command, entry, in_order=False)
    segments = _lines(lun / "audit")
    journal = _lines(lun / "journal")
    assert "(with `host`) of a journal, and (with `number`, `txid`, `host`, `daemon`)" in WORDS
    assert len(segments) >= 2
    assert len(journal) == 2
    for entry in segments:
        assert set(entry) == set(command) | {"number", "txid", "host", "daemon"}
    for entry in journal:
        assert set(entry) == set(command) | {"host"}


def test_members_of_records_of_hosts_are_in_the_page(tmp_path: Path) -> None:
    """A declaration, and what a process says of itself while it waits."""
    declared, process = tables("## Records of hosts")
    fenced.declare(str(tmp_path), 7, proof="its power was cut")
    roster.announce(str(tmp_path), 8, "iscsi")

    with roster.waiting(str(tmp_path), 8, 1, [7]):
        for path in (tmp_path / layout.HOST_RECORDS).iterdir():
            value = json.loads(path.read_text())
            kept = path.name.startswith(layout.FENCED_PREFIX)
            check(declared if kept else process, value)
            if not kept:
                assert set(re.findall(r"`(\w+)`", process["waits"][1])) - {"h"} == set(
                    value["waits"][0]
                )
    assert "removed by others after 30 days" in WORDS
    assert roster.KEEP == 30 * 86400
    assert process["last_contact"][1].endswith(f"each {roster.BEAT:.0f} seconds")


@pytest.mark.parametrize("store", STORES)
def test_files_of_a_lun_are_in_the_page(tmp_path: Path, store: str) -> None:
    """Nothing lies there that the page does not name."""
    create_lun(str(tmp_path), "disk", store=store)
    with LogicalUnit.open(str(tmp_path / "disk")) as unit:
        register(unit, A, 1)
        register(unit, A, 1, own=9)

    inside, root, _ = tables("## Names")
    files = {layout.COMMITS, layout.AUDIT}
    database = {layout.DATABASE, layout.DATABASE_JOURNAL}
    other = files if store == SQLITE else database
    expected = {name.rstrip("/") for name in inside if not name.endswith("-")} - other
    assert set(os.listdir(tmp_path / "disk")) == expected
    expected = {"disk", *(n for n in root if not n.endswith("-"))}
    later = {layout.DOORBELL, layout.HOST_RECORDS}  # made when first needed
    assert set(os.listdir(tmp_path)) == expected - later


def test_tables_of_the_database_are_in_the_page() -> None:
    """Word for word, with the numbers by which the file is known."""
    (table,) = tables("## The database")
    found = [f"CREATE TABLE {name} ({cells[0].strip('`')})" for name, cells in table.items()]
    assert tuple(found) == sqlite_file.SCHEMA
    assert f"`PRAGMA application_id` is {sqlite_file.APPLICATION:#X}".replace("0X", "0x") in WORDS
    assert f"`PRAGMA user_version` {sqlite_file.VERSION}," in WORDS
    assert sqlite_file.APPLICATION.to_bytes(4, "big") == b"FLPR"
    assert f"{layout.KEEP_COMMITS} of them" in WORDS
