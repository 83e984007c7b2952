"""`--json`: what docs/cli.md describes is what is printed, key for key."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator

import pytest

from flockpr.cli import main
from flockpr.events import Event, Kind
from flockpr.filesystems.facts import facts_of
from flockpr.gate import forcing
from flockpr.probe import kept
from flockpr.probe.findings import Finding, Outcome
from flockpr.probe.mounts import Host
from flockpr.probe.report import Report
from flockpr.store.journal import EventJournal
from flockpr.store.syscalls import Syscalls
from tests.support import gate_story
from tests.support.docs import ROOT, read, rows, section
from tests.support.luns import broken_lun, contested_lun, preempted_lun, spc2_lun

VERBS = {
    "lun list": [["lun", "list"]],
    "lun show": [["lun", "show", "disk"]],
    "status": [["status"], ["status", "disk"]],
    "log": [["log", "disk"], ["log", "disk", "--refused"], ["log", "disk", "--events"]],
    "blame": [["blame", "a1"], ["blame", "b2", "disk", "--refused"]],
    "doctor": [["doctor"]],
    "doctor --evict": [["doctor", "taken", "--evict", "iqn.2026-01.example:bob"]],
    "gate show": [["gate", "show"], ["gate", "show", "disk"]],
    "gate force": [
        ["gate", "force", "disk", "--host", "node2", "--proof", "p"],
        ["gate", "force", "disk", "--host", "node2", "--proof", "p", "--yes"],
    ],
    "probe": [["probe"]],
}
PINNED = ROOT / "tests" / "cli" / "json_format_1.txt"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that does not answer is not called for seconds."""
    monkeypatch.setattr(forcing, "CALL", 0.05)


def flatten(value: object, path: str = "") -> Iterator[str]:
    """Every key of a document as a dotted path; [] for the elements of an array."""
    if isinstance(value, dict):
        for key, below in value.items():
            here = f"{path}.{key}" if path else key
            yield here
            yield from flatten(below, here)
    elif isinstance(value, list):
        for element in value:
            yield from flatten(element, f"{path}[]")


def documented(verb: str) -> dict[str, str]:
    """Key path to type, from the page."""
    table = rows(section(read("docs/cli.md"), f"### JSON of {verb}"))
    return {key.strip("`"): kind for key, kind, _ in table}


def produced(verb: str, root: str, capsys: pytest.CaptureFixture[str]) -> list[object]:
    """The documents of a verb over a root in which everything occurs."""
    disk = contested_lun(root, "disk")
    preempted_lun(root, "taken")
    spc2_lun(root, "old")
    broken_lun(root, "wreck")
    journal = EventJournal(Syscalls(), f"{root}/disk", host="node1", mode=0o600)
    journal.write(Event(Kind.LOST_PERMIT, f"{root}/{disk.image}", "lost", 1e9))
    mine = Host(os.uname().nodename, "", facts_of(root))
    assert kept.keep(Report(root, (mine,), (Finding("link", Outcome.GOOD, "fine"),)))
    documents = []
    with gate_story.everything(root, disk.lun, f"{root}/{disk.image}"):
        for argv in VERBS[verb]:
            where = [root] if verb == "probe" else ["--root", root]
            assert main([*argv, *where, "--json"]) in (0, 12)
            documents.append(json.loads(capsys.readouterr().out))
    return documents


@pytest.mark.parametrize("verb", VERBS)
def test_json_keys_are_the_documented_ones(
    verb: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page describes every key that is printed, and none that never is."""
    documents = produced(verb, str(tmp_path), capsys)

    assert {path for one in documents for path in flatten(one)} == set(documented(verb))


@pytest.mark.parametrize("verb", VERBS)
def test_json_values_are_of_the_documented_types(
    verb: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Types are part of the promise; null only where the page has a question mark."""
    types: dict[str, type | tuple[type, ...]] = {
        "integer": int,
        "number": (int, float),
        "string": str,
        "boolean": bool,
        "object": dict,
        "array": list,
        "array of strings": list,
        "array of integers": list,
    }

    def check(value: object, path: str) -> None:
        if path and not path.endswith("[]"):
            kind = kinds[path]
            assert value is not None or kind.endswith("?"), path
            if value is not None:
                assert isinstance(value, types[kind.rstrip("?")]), path
                assert isinstance(value, bool) == (kind.rstrip("?") == "boolean"), path
        if isinstance(value, dict):
            for key, below in value.items():
                check(below, f"{path}.{key}" if path else key)
        elif isinstance(value, list):
            for element in value:
                check(element, f"{path}[]")

    kinds = documented(verb)
    for document in produced(verb, str(tmp_path), capsys):
        check(document, "")


def test_json_keys_of_format_1_are_only_added_to() -> None:
    """A script that reads format 1 today reads it for ever: append new keys to the list.

    Taking a line out of the list, or changing one, breaks users.
    """
    pinned = PINNED.read_text(encoding="utf-8").splitlines()

    now = [f"{verb}: {path} {kind}" for verb in VERBS for path, kind in documented(verb).items()]
    assert sorted(pinned) == sorted(now)
