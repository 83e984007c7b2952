"""docs/tutorial.md: its commands run one after the other, and print what it shows."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from tests.support.daemon_process import environment
from tests.support.docs import read

PAGE = "docs/tutorial.md"
LONG = 100
_CHANGING = (
    (r"127\.0\.0\.1:\d+", "PORTAL"),
    (r"\b[0-9a-f]{16}\b", "ID"),
    (r"\d+ s ago", "AGE"),
    (r", on [\w.]+$", ""),
)


def steps() -> str:
    """The commands that a test can run, as one script."""
    blocks = re.findall(r"<!-- tutorial -->\n```sh\n(.*?)```", read(PAGE), re.DOTALL)
    return "".join(blocks)


def plain(line: str) -> str:
    """A line without what differs from run to run and from machine to machine."""
    for pattern, word in _CHANGING:
        line = re.sub(pattern, word, line)
    return " ".join(line.split())


@pytest.mark.peer("qemu-io")
def test_tutorial_runs_and_prints_what_it_shows(tmp_path: pathlib.Path) -> None:
    """In an empty directory, as somebody who types it; nothing is left behind."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in {
        "flockpr": "flockpr",
        "flockpr-sg-persist": "flockpr.tools.sg_persist",
    }.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (programs / name).chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", steps()],
        cwd=home,
        env=environment(PATH=f"{programs}:{os.environ['PATH']}"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=LONG)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # the target, too
            process.wait()
    assert process.returncode == 0, said
    assert list(home.iterdir()) == []

    printed = {plain(line) for line in said.splitlines()}
    shown = re.findall(r"```text\n(.*?)```", read(PAGE), re.DOTALL)
    assert shown
    for line in "".join(shown).splitlines():
        assert plain(line) in printed, line


def test_tutorial_shows_no_command_that_is_not_run() -> None:
    """But how to install, which CI runs from the README."""
    blocks = re.findall(r"(<!-- tutorial -->\n)?```sh\n(.*?)```", read(PAGE), re.DOTALL)
    rest = [text for marker, text in blocks if not marker]
    assert len(rest) == 1
    assert ".venv/bin/pip install -q ." in rest[0]
