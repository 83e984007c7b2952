"""`--json` of the verbs that do one thing and have little to tell."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from flockpr.cli import main
from tests.support.luns import broken_lun, contested_lun

Capture = pytest.CaptureFixture[str]


def document(capsys: Capture, *words: str, code: int = 0) -> dict[str, Any]:
    """The JSON that a verb prints, without the format number that all have."""
    assert main([*words, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found.pop("format") == 1
    return found


def test_verbs_with_little_to_tell_print_one_document(
    tmp_path: pathlib.Path, capsys: Capture
) -> None:
    """What was done, and to what."""
    root = str(tmp_path)
    contested_lun(root)
    where = ("disk", "--root", root)
    head = {"root": root, "name": "disk"}
    grown = document(capsys, "lun", "grow", *where, "--size", "2M")
    assert grown == {**head, "size": 2 << 20, "before": 1 << 20}
    cycled = document(capsys, "lun", "power-cycle", *where)
    assert cycled == {**head, "registrations_kept": 0}
    deleted = document(capsys, "lun", "delete", *where)
    assert deleted == {**head, "deleted": True, "image_left": "images/disk.raw"}


def test_upgrade_prints_one_document_for_all(tmp_path: pathlib.Path, capsys: Capture) -> None:
    """Also of the logical unit that it could not upgrade."""
    contested_lun(str(tmp_path))
    broken_lun(str(tmp_path), "wreck")
    found = document(capsys, "upgrade", "--root", str(tmp_path), code=12)["luns"]
    assert found[0] == {"name": "disk", "before": 1, "now": 1, "error": None}
    assert found[1]["name"] == "wreck"
    assert found[1]["error"]["exit_code"] == 12
