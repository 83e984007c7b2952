"""`flockpr doctor`: what it explains, and what it does to whom."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sqlite3
from typing import Any

import pytest

from flockpr import LogicalUnit, OutAction, ReservationType, create_lun
from flockpr.cli import doctor_devices, main
from flockpr.cli.doctor_database import find_damage
from flockpr.logical_unit import Result
from flockpr.manager.device import Device
from flockpr.manager.sgio import SgioManager
from flockpr.spc.codes import Status
from tests.support.helper import DEADLINE
from tests.support.luns import (
    ALICE,
    ALICE_KEY,
    BOB,
    BOB_KEY,
    contested_lun,
    out,
    preempted_lun,
    spc2_lun,
)

Capture = pytest.CaptureFixture[str]
A, B = "iqn.2026-01.example:alice", "iqn.2026-01.example:bob"


@pytest.fixture
def root(tmp_path: pathlib.Path) -> str:
    """An empty root."""
    return str(tmp_path)


def findings(capsys: Capture, root: str, *words: str) -> list[dict[str, str]]:
    """What it finds in the one logical unit."""
    assert main(["doctor", *words, "--root", root, "--json"]) == 0
    (unit,) = json.loads(capsys.readouterr().out)["luns"]
    found: list[dict[str, str]] = unit["findings"]
    return found


def evict(capsys: Capture, root: str, name: str, *words: str) -> dict[str, Any]:
    """What it plans, or did."""
    assert main(["doctor", "disk", "--evict", name, *words, "--root", root, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def actions(root: str) -> list[tuple[str, str]]:
    """Who did what, by the audit trail."""
    with LogicalUnit.open(os.path.join(root, "disk")) as unit:
        records = [one.to_json() for one in unit.history()]
    return [(one["action"], one["initiator"]) for one in records]


def test_doctor_explains_a_conflict_and_what_is_left_over(root: str, capsys: Capture) -> None:
    """Who holds, who is gone, why Bob was refused."""
    contested_lun(root)
    found = findings(capsys, root)
    assert [one["kind"] for one in found] == ["reservation", "stale", "stale", "nexus"]
    assert "Only registered initiators may write; everybody may read." in found[0]["text"]
    assert found[1]["remedy"] == f"flockpr doctor disk --evict {A}"
    assert "It holds the reservation." in found[1]["text"]
    assert found[3]["text"].startswith(f"{B} is registered with key 0x00000000000000b2")
    assert "RESERVATION CONFLICT once" in found[3]["text"]


def test_doctor_asked_about_a_stranger_says_what_it_may_do(root: str, capsys: Capture) -> None:
    """And how it gets in."""
    contested_lun(root)
    last = findings(capsys, root, "disk", "--nexus", "iqn.2026-01.example:carol")[-1]
    assert "is not registered, and may read and not write." in last["text"]
    assert last["remedy"].startswith("REGISTER AND IGNORE")


@pytest.mark.parametrize(
    ("type_", "registered", "stranger"),
    [
        (1, "may read and not write", "may read and not write"),
        (3, "may neither read nor write", "may neither read nor write"),
        (5, "may read and write", "may read and not write"),
        (6, "may read and write", "may neither read nor write"),
        (7, "may read and write", "may read and not write"),
        (8, "may read and write", "may neither read nor write"),
    ],
)
def test_doctor_knows_the_table_of_conflicts(
    type_: int, registered: str, stranger: str, root: str, capsys: Capture
) -> None:
    """SPC-4 5.13.1: of registered initiators that do not hold, and of strangers."""
    create_lun(root, "disk")
    with LogicalUnit.open(os.path.join(root, "disk")) as unit:
        for who, key in ((ALICE, ALICE_KEY), (BOB, BOB_KEY)):
            out(unit, who, OutAction.REGISTER, new=key)
        out(unit, ALICE, OutAction.RESERVE, own=ALICE_KEY, type_=ReservationType(type_))
    assert registered in findings(capsys, root, "disk", "--nexus", B)[-1]["text"]
    carol = findings(capsys, root, "disk", "--nexus", "iqn.2026-01.example:carol")[-1]
    assert stranger in carol["text"]


def test_doctor_tells_of_unit_attentions_and_spc2(root: str, capsys: Capture) -> None:
    """What the next command of somebody comes to."""
    preempted_lun(root, "disk")
    spc2_lun(root, "old")
    assert main(["doctor", "--root", root]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"The next command of {A} is answered with a unit attention (2a/05)" in text
    assert f"{A} holds it with an SPC-2 RESERVE" in text


def test_doctor_evicts_the_gone_holder_in_the_name_of_another(root: str, capsys: Capture) -> None:
    """The plan is what happens, and the reservation still keeps strangers out."""
    contested_lun(root)
    before = actions(root)
    plan = evict(capsys, root, A)
    assert (plan["done"], plan["after"], plan["refused"]) == (False, None, None)
    assert actions(root) == before
    assert plan["then"] == {
        "registered": [B],
        "reservation": f"Write Exclusive, registrants only, held by {B}",
        "attentions": [{"initiator": A, "attention": "REGISTRATIONS PREEMPTED (2a/05)"}],
    }

    done = evict(capsys, root, A, "--yes")

    assert done["done"]
    assert [one["initiator"] for one in done["after"]] == plan["then"]["registered"]
    assert done["after"][0]["holder"]
    assert actions(root)[len(before) :] == [("PREEMPT", B)]


def test_doctor_evicts_the_only_one_and_says_what_that_means(root: str, capsys: Capture) -> None:
    """With a nexus of its own, of which nothing is left."""
    preempted_lun(root, "disk")
    plan = evict(capsys, root, B)
    assert plan["then"]["reservation"] == "no reservation: whoever reaches the disk may write"
    done = evict(capsys, root, B, "--yes")
    assert done["after"] == []
    doctor = done["steps"][0]["initiator"]
    assert doctor.startswith("iqn.2026-11.org.flockpr:doctor.")
    assert [who for _, who in actions(root)][-3:] == [doctor] * 3


def test_doctor_does_not_take_the_key_of_others_with_it(root: str, capsys: Capture) -> None:
    """PREEMPT would; so the victim is unregistered in its own name."""
    create_lun(root, "disk")
    with LogicalUnit.open(os.path.join(root, "disk")) as unit:
        for who in (ALICE, BOB):
            out(unit, who, OutAction.REGISTER, new=ALICE_KEY)
    done = evict(capsys, root, A, "--yes")
    assert [one["initiator"] for one in done["after"]] == [B]
    assert actions(root)[-1] == ("REGISTER", A)


def test_doctor_leaves_who_is_alive_alone(root: str, capsys: Capture) -> None:
    """Unless there is a proof, or force."""
    contested_lun(root)
    with LogicalUnit.open(os.path.join(root, "disk")) as unit:
        assert unit.attend(ALICE)
        before = actions(root)
        assert evict(capsys, root, A)["refused"].startswith(f"{A} is alive")
        assert main(["doctor", "disk", "--evict", A, "--yes", "--root", root]) == 2
        assert "--proof TEXT; or --force" in capsys.readouterr().err
        assert actions(root) == before
        assert evict(capsys, root, A, "--yes", "--proof", "power is off")["done"]


def test_doctor_text_shows_the_plan(root: str, capsys: Capture) -> None:
    """And that nothing was done."""
    contested_lun(root)
    assert main(["doctor", "disk", "--evict", A, "--root", root]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"would evict {A}, key 0x00000000000000a1, gone"
    assert f"  {A} finds REGISTRATIONS PREEMPTED (2a/05)" in lines
    assert lines[-1] == "nothing was done; do it with --yes"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--evict", A], "--evict needs the name of a logical unit"),
        (["disk", "--evict", "iqn.x:nobody"], f"registered: {A}, {B}"),
    ],
)
def test_doctor_mistake_is_refused(words: list[str], told: str, root: str, capsys: Capture) -> None:
    """Before anything is done."""
    contested_lun(root)
    assert main(["doctor", *words, "--root", root]) == 2
    assert told in capsys.readouterr().err


def test_doctor_finds_a_disk_that_is_passed_through_as_well(
    root: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the keys that the disk itself has; a disk of another name, or without keys, is none."""
    wwid = "naa.6001405aaaaaaaaaaaaaaaaaaaaaaaaa"
    create_lun(root, "disk", wwids=[wwid])
    keys = [2]

    def perform(self: SgioManager, fd: int, cdb: bytes, data_out: bytes) -> Result:
        assert cdb[:2] == b"\x5e\x00"
        data = (1).to_bytes(4) + (8 * keys[0]).to_bytes(4) + bytes(8 * keys[0])
        return Result(Status.GOOD, data_in=data)

    monkeypatch.setattr(SgioManager, "perform", perform)
    monkeypatch.setattr(doctor_devices, "_disks", lambda devices: ["/dev/null", "/dev/absent"])
    named = [wwid.upper()]
    monkeypatch.setattr(
        doctor_devices, "identify_device", lambda descriptor: Device("block", tuple(named))
    )
    (found,) = [one for one in findings(capsys, root) if one["kind"] == "passed"]
    assert found["text"].startswith("/dev/null is this logical unit, which is emulated, and has 2")
    keys[0] = 0
    assert not [one for one in findings(capsys, root) if one["kind"] == "passed"]
    keys[0], named[0] = 1, "naa.6001405bbbbbbbbbbbbbbbbbbbbbbbbb"
    assert not [one for one in findings(capsys, root) if one["kind"] == "passed"]


def test_unit_that_is_marked_is_not_examined(root: str, capsys: Capture) -> None:
    """Nothing of it is emulated; named, it is an error that says so."""
    create_lun(root, "disk", wwids=["naa.6c"], passed=True)
    assert main(["doctor", "--root", root]) == 0
    assert main(["doctor", "disk", "--root", root]) == 1
    assert "is passed through to its device on every host" in capsys.readouterr().err
    assert main(["lun", "show", "disk", "--root", root]) == 0
    assert "on to the device, on every host" in capsys.readouterr().out


def test_doctor_finds_a_trail_that_is_damaged(root: str, capsys: Capture) -> None:
    """In a table that nobody reads to answer a command; while it is whole nothing is said."""
    contested_lun(root, store="sqlite")
    file = pathlib.Path(root, "disk", "commits.sqlite")
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("INSERT INTO audit VALUES (1, 1, zeroblob(20000))")
        connection.commit()
        page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name='audit'")
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        start = (page.fetchone()[0] - 1) * size
    assert not [one for one in findings(capsys, root) if one["kind"] == "database"]
    data = bytearray(file.read_bytes())
    assert data[start] == 13  # a leaf of a table
    data[start + 8 : start + 10] = b"\xff\xff"  # where its first row is
    file.write_bytes(data)
    (found,) = [one for one in findings(capsys, root) if one["kind"] == "database"]
    assert found["text"].startswith("Its database is damaged where commands do not look: ")
    assert found["remedy"] == "restore it from a backup"


def test_doctor_keeps_nobody_waiting_for_a_large_database(root: str) -> None:
    """It says so instead."""
    contested_lun(root, store="sqlite")
    with contextlib.closing(sqlite3.connect(f"{root}/disk/commits.sqlite")) as connection:
        connection.executemany(
            "INSERT INTO audit VALUES (?, 1, zeroblob(100))", [(n,) for n in range(9, 9999)]
        )
        connection.commit()
    (found,) = find_damage(root, "disk", patience=0)
    assert "too large to be checked" in found["text"]
    assert not list(find_damage(root, "disk", patience=DEADLINE))
