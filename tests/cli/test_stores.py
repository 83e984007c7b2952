"""Every verb over a logical unit with a database: it prints what it prints of a lock directory."""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Sequence

import pytest

from flockpr import LogicalUnit, OutAction, Status
from flockpr.cli import main
from flockpr.cli.exit_codes import ExitCode
from flockpr.store.kinds import LOCKDIR, SQLITE, STORES, store_of
from flockpr.store.layout import DATABASE
from flockpr.store.syscalls import Syscalls
from tests.support.luns import ALICE, ALICE_KEY, BOB, BOB_KEY, TYPE, contested_lun, out

Capture = pytest.CaptureFixture[str]

VERBS: Sequence[Sequence[str]] = (
    ("lun", "list"),
    ("lun", "show", "disk"),
    ("status",),
    ("status", "disk", "--at", "3"),
    ("log", "disk"),
    ("log", "disk", "--refused"),
    ("log", "disk", "--events"),
    ("log", "disk", "--nexus", "*bob", "--limit", "1"),
    ("blame", "a1"),
    ("diff", "disk", "2"),
    ("diff", "disk", "2", "4"),
    ("timeline", "disk"),
    ("doctor",),
    ("doctor", "disk", "--nexus", BOB.initiator_port.name),
    ("doctor", "disk", "--evict", BOB.initiator_port.name),
    ("metrics",),
    ("gate", "show"),
    ("libvirt", "xml", "vm", "disk"),
    ("export", "disk", "--format", "lio"),
    ("upgrade",),
    ("doctor", "disk", "--evict", BOB.initiator_port.name, "--yes", "--force"),
    ("lun", "grow", "disk", "--size", "2M"),
    ("lun", "power-cycle", "disk"),
    ("lun", "clone", "disk", "copy"),
    ("lun", "list"),
    ("lun", "delete", "disk", "--force", "--image"),
    ("lun", "list"),
)
"""In this order, on one root."""

_DIFFERS = (
    r"naa\.3[0-9a-f]{15}",
    r"(?<![0-9a-f])3[0-9a-f]{15}\b",
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    r"\b[0-9a-f]{32}\b",
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?",
    r'"(age_s|registered_s)": [0-9.e-]+',
    r"\b\d+(\.\d+)? ?(s|ms)( ago)?\b",
    r"(?<=seconds)[^\n]* [0-9.e+-]+",
)
"""Identifiers, times and ages."""


def told(root: str, verbs: Sequence[Sequence[str]], capsys: Capture, *more: str) -> list[object]:
    """Exit codes and what is printed, without what differs from one logical unit to the next."""
    found: list[object] = []
    for verb in verbs:
        code = main([*verb, "--root", root, *more])
        printed = capsys.readouterr()
        text = (printed.out + printed.err).replace(root, "ROOT")
        for pattern in _DIFFERS:
            text = re.sub(pattern, "*", text)
        text = re.sub(r"(store\W+)(lockdir|sqlite)", r"\1STORE", text, flags=re.IGNORECASE)
        found.append((verb, code, re.sub(r" +", " ", text)))
    return found


def test_verbs_print_the_same_whichever_store_it_is(
    tmp_path: pathlib.Path, capsys: Capture
) -> None:
    """Word for word."""
    found = {}
    for store in STORES:
        root = str(tmp_path / store)
        os.mkdir(root)
        contested_lun(root, store=store)
        found[store] = told(root, VERBS, capsys)
    for one, other in zip(found[LOCKDIR], found[SQLITE], strict=True):
        assert one == other


def test_create_makes_the_store_that_is_asked_for(tmp_path: pathlib.Path, capsys: Capture) -> None:
    """A lock directory unless another is named; what is shown says which."""
    root = str(tmp_path)
    assert main(["lun", "create", "plain", "--root", root]) == 0
    assert main(["lun", "create", "db", "--store", "sqlite", "--size", "1M", "--root", root]) == 0
    capsys.readouterr()
    assert main(["lun", "list", "--root", root, "--json"]) == 0
    luns = json.loads(capsys.readouterr().out)["luns"]
    assert {lun["name"]: lun["store"] for lun in luns} == {"plain": LOCKDIR, "db": SQLITE}
    assert main(["lun", "show", "db", "--root", root]) == 0
    assert re.search(r"(?i)^store: +sqlite$", capsys.readouterr().out, re.MULTILINE)
    assert main(["lun", "clone", "db", "again", "--root", root]) == 0
    assert store_of(str(tmp_path / "again")) == SQLITE


def test_create_of_a_store_that_there_is_not_is_a_mistake(
    tmp_path: pathlib.Path, capsys: Capture
) -> None:
    """2, and nothing is made."""
    argv = ["lun", "create", "x", "--store", "oracle", "--root", str(tmp_path)]
    assert main(argv) == ExitCode.USAGE
    assert "choose from 'lockdir', 'sqlite'" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_create_of_a_database_where_hosts_share_is_refused(
    tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what, where and what to do."""
    monkeypatch.setattr(Syscalls, "coherent", lambda *_: False)
    argv = ["lun", "create", "x", "--store", "sqlite", "--root", str(tmp_path)]
    assert main(argv) == ExitCode.FAILED
    printed = capsys.readouterr().err
    assert str(tmp_path) in printed
    assert "locks of SQLite are not to be trusted" in printed
    assert "remedy: use a file system of this host" in printed
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("verb", [("status",), ("log", "disk"), ("doctor",), ("metrics",)])
def test_database_that_is_damaged_is_said_to_be(
    tmp_path: pathlib.Path, capsys: Capture, verb: Sequence[str]
) -> None:
    """12, and never as a logical unit on which nobody is registered."""
    contested_lun(str(tmp_path), store=SQLITE)
    (tmp_path / "disk" / DATABASE).write_bytes(b"")
    code = main([*verb, "--root", str(tmp_path)])
    printed = capsys.readouterr()
    if verb[0] != "metrics":
        assert code == ExitCode.STATE_UNREADABLE
        assert "commits.sqlite" in printed.err
        assert "is empty, which is not the same as an empty state" in printed.err
    assert "registrations{" not in printed.out


def test_registrations_move_from_one_store_to_the_other(
    tmp_path: pathlib.Path, capsys: Capture
) -> None:
    """By export and import, which is how one takes over the other's."""
    root = str(tmp_path)
    contested_lun(root)
    assert main(["export", "disk", "--format", "lio", "--root", root]) == 0
    text = capsys.readouterr().out
    (tmp_path / "file").write_text(text)
    assert main(["lun", "create", "db", "--store", "sqlite", "--root", root]) == 0
    argv = ["import", "db", str(tmp_path / "file"), "--format", "lio", "--root", root, "--yes"]
    assert main(argv) == 0, capsys.readouterr().err
    with LogicalUnit.open(str(tmp_path / "db")) as unit:
        state = unit.snapshot().state
        assert {one.key for one in state.registrations} == {ALICE_KEY, BOB_KEY}
        assert state.reservation is not None
        assert state.reservation.type == TYPE
        assert out(unit, ALICE, OutAction.RELEASE, own=ALICE_KEY, type_=TYPE) == Status.GOOD
