"""docs/tools.md: its commands run, and its table has every key that is printed."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from flockpr import create_lun
from flockpr.tools import sg_persist
from tests.support.daemon_process import PATIENCE, environment
from tests.support.docs import block_after, read, rows, section

PAGE = "docs/tools.md"
_PROGRAMS = {
    "flockpr": "flockpr",
    "flockpr-sg-persist": "flockpr.tools.sg_persist",
    "flockpr-sg-turs": "flockpr.tools.sg_turs",
    "flockpr-mpathpersist": "flockpr.tools.mpathpersist",
}


def test_tools_example_runs(tmp_path: pathlib.Path) -> None:
    """As a user types it, in an empty directory."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in _PROGRAMS.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        program.chmod(0o755)
    script = block_after(read(PAGE), "<!-- example: tools -->")
    done = subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=tmp_path,
        env=environment(PATH=f"{programs}:{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "Key=0xa1" in done.stdout
    assert "1 registered reservation key follows" in done.stdout


def test_tools_page_documents_the_json(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every key, and none that never is."""
    monkeypatch.setenv("FLOCKPR_INITIATOR", "iqn.2026-01.org.example:a")
    create_lun(str(tmp_path), "disk")
    keys = set()
    for name, code in ((f"{tmp_path}/disk", 0), ("/nope/disk", 52)):
        assert sg_persist.main(["-n", "-k", "--json", name]) == code
        keys |= set(json.loads(capsys.readouterr().out))
    documented = {
        key.strip("`") for key, *_ in rows(section(read(PAGE), "## JSON of flockpr-sg-persist"))
    }
    assert documented == keys
