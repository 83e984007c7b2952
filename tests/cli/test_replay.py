"""`flockpr replay`, and the examples of docs/cli.md."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from flockpr import create_lun
from flockpr.cli import main
from flockpr.tools import sg_persist
from tests.cli.test_json import flatten
from tests.support.daemon_process import PATIENCE, environment
from tests.support.docs import block_after, read, rows, section

Capture = pytest.CaptureFixture[str]
STORY = (
    ("node1", "-n -o -G -S a1"),
    ("node1", "-n -o -R -K a1 -T 5"),
    ("node2", "-n -o -R -K b2 -T 5"),
    ("node2", "-n -o -I -S b2"),
    ("node2", "-n -o -P -K b2 -S a1 -T 5"),
    ("node1", "-n -i -k"),
    ("node1", "-n -i -s"),
    ("node1", "-n -o -z -K 1"),
)


@pytest.fixture
def trace(tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """What flockpr-sg-persist --json printed of a story."""
    root = tmp_path / "root"
    create_lun(str(root), "disk", size=1 << 20)
    monkeypatch.setenv("FLOCKPR_ROOT", str(root))
    path = tmp_path / "trace"
    with path.open("w") as file:
        for who, words in STORY:
            monkeypatch.setenv("FLOCKPR_INITIATOR", f"iqn.2026-01.org.example:{who}")
            sg_persist.main([*words.split(), "disk", "--json"])
            file.write(capsys.readouterr().out)
    return path


def replayed(capsys: Capture, *words: str, code: int = 0) -> dict[str, Any]:
    """The document of a replay."""
    assert main(["replay", *words, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_replay_of_what_was_recorded_is_the_same(trace: pathlib.Path, capsys: Capture) -> None:
    """Status, sense and data, against a new logical unit."""
    found = replayed(capsys, str(trace))
    assert (found["count"], found["differences"]) == (len(STORY), [])
    assert main(["replay", str(trace)]) == 0
    assert capsys.readouterr().out == f"{len(STORY)} commands, all as recorded\n"


def test_replay_shows_what_was_answered_otherwise(trace: pathlib.Path, capsys: Capture) -> None:
    """Against the unit itself, which node2 holds by now."""
    found = replayed(capsys, str(trace), "--against", "disk", code=1)
    first = found["differences"][0]
    assert (first["number"], first["field"]) == (2, "status")
    assert (first["recorded"], first["answered"]) == ("GOOD", "RESERVATION CONFLICT")
    described = {
        key.strip("`") for key, *_ in rows(section(read("docs/cli.md"), "### JSON of replay"))
    }
    assert set(flatten(found)) == described
    assert main(["replay", str(trace), "--against", "disk"]) == 1
    assert " answered otherwise\n" in capsys.readouterr().out


def test_replay_compares_only_what_was_recorded(tmp_path: pathlib.Path, capsys: Capture) -> None:
    """A trace by hand has what its author knows."""
    path = tmp_path / "trace"
    path.write_text('{"initiator": "iqn.x:a", "cdb": "5e000000000000200000"}')
    assert replayed(capsys, str(path))["count"] == 1
    path.write_text('{"initiator": "iqn.x:a", "cdb": "5e000000000000200000", "status": 24}')
    (found,) = replayed(capsys, str(path), code=1)["differences"]
    assert (found["recorded"], found["answered"]) == ("RESERVATION CONFLICT", "GOOD")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "document 1: no object"),
        ("{", "document 1 is no JSON"),
        ('{"initiator": "iqn.x:a"}', "no command ('cdb')"),
        ('{"initiator": "", "cdb": "00"}', "no command"),
        ('{"initiator": "a", "cdb": "zz"}', "no command"),
        ('{"initiator": "a", "cdb": "00", "target_port": 0}', "target_port 0"),
    ],
)
def test_replay_of_no_trace_says_where(
    text: str, told: str, tmp_path: pathlib.Path, capsys: Capture
) -> None:
    """Before anything is sent."""
    path = tmp_path / "trace"
    path.write_text(text)
    assert main(["replay", str(path)]) == 2
    assert told in capsys.readouterr().err


def test_examples_of_the_page_run(tmp_path: pathlib.Path) -> None:
    """In an empty directory, one after the other, each with success."""
    programs = tmp_path / "bin"
    programs.mkdir()
    modules = {"flockpr": "flockpr", "flockpr-sg-persist": "flockpr.tools.sg_persist"}
    for name, module in modules.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        program.chmod(0o755)
    (tmp_path / "trace.jsonl").write_text('{"initiator": "iqn.x:a", "cdb": "000000000000"}\n')
    done = subprocess.run(
        ["sh", "-eu", "-c", block_after(read("docs/cli.md"), "<!-- command: examples -->")],
        cwd=tmp_path,
        env=environment(PATH=f"{programs}:{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
    assert "evicted iqn.2026-01.org.example:node1" in done.stdout


def test_examples_of_the_page_have_every_verb() -> None:
    """But those that run until they are stopped, or are shown on pages of their own."""
    examples = block_after(read("docs/cli.md"), "<!-- command: examples -->")
    listed = read("docs/cli.md").split("```text\n")[1].split("```")[0]
    verbs = {line.split("  ")[0] for line in listed.splitlines() if line.startswith("flockpr ")}
    words = {tuple(part for part in verb.split() if part.islower()) for verb in verbs}
    missing = {" ".join(word) for word in words if " ".join(word) not in examples}
    assert missing == {
        "flockpr serve",
        "flockpr target",
        "flockpr demo",
        "flockpr probe",
        "flockpr gate force",
        "flockpr gate forget",
    }
