"""`--json` of the verbs that do one thing and have little to tell."""

from __future__ import annotations

import json
import pathlib
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest

from flockpr import create_lun
from flockpr.cli import build_parser, main
from flockpr.cli.grammar import describe
from tests.support.daemon_process import PATIENCE, environment, short_directory
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


def test_every_verb_has_json() -> None:
    """All that do something, also those that run until they are ended."""
    for command in describe(build_parser()).walk():
        flags = {flag for option in command.options for flag in option.flags}
        assert command.commands or "--json" in flags, command.name


def test_completion_prints_its_script_as_a_document(capsys: Capture) -> None:
    """Character for character."""
    assert main(["completion", "fish"]) == 0
    script = capsys.readouterr().out
    assert document(capsys, "completion", "fish") == {"shell": "fish", "script": script}


def test_demo_prints_its_steps_as_a_document() -> None:
    """Nothing else; each step with its answer and what it must be."""
    command = [sys.executable, "-m", "flockpr", "demo", "--json"]
    played = subprocess.run(
        command, capture_output=True, text=True, timeout=2 * PATIENCE, env=environment()
    )
    assert played.returncode == 0, played.stderr
    found = json.loads(played.stdout)
    assert found["good"] is True
    assert len(found["steps"]) == 12
    for step in found["steps"]:
        assert set(step) == {"what", "host", "command", "answer", "expected"}
        assert step["answer"] == step["expected"]


@pytest.mark.parametrize("verb", ["serve", "target"])
def test_daemon_says_in_one_line_what_it_serves(verb: str) -> None:
    """Once it accepts: who reads the line can connect."""
    with short_directory() as folder:
        create_lun(str(folder / "root"), "disk", size=1 << 20)
        path = str(folder / "socket")
        where = {"serve": ["--socket", path], "target": ["--portal", "127.0.0.1:0"]}
        command = [sys.executable, "-m", "flockpr", verb, "--root", str(folder / "root"), "--json"]
        with subprocess.Popen(
            [*command, *where[verb]],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
        ) as daemon:
            try:
                assert daemon.stdout is not None
                found = json.loads(daemon.stdout.readline())
                assert found.pop("format") == 1
                assert (found["root"], found["pid"]) == (str(folder / "root"), daemon.pid)
                if verb == "serve":
                    assert (found["sockets"], found["portals"], found["luns"]) == ([path], [], [])
                    with socket.socket(socket.AF_UNIX) as client:
                        client.connect(path)
                else:
                    (portal,) = found["portals"]
                    (lun,) = found["luns"]
                    assert (found["sockets"], portal["tag"], lun["name"]) == ([], 2, "disk")
                    (url,) = lun["urls"]
                    assert url.startswith(f"iscsi://{portal['address']}/iqn.")
                    host, _, port = portal["address"].rpartition(":")
                    socket.create_connection((host, int(port))).close()
                daemon.send_signal(signal.SIGTERM)
                assert daemon.wait(PATIENCE) == 0
                assert daemon.stdout.read() == b""
            finally:
                daemon.kill()
