"""docs/pytest.md: its examples are test files that pass, its timeline is what is shown."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

from flockpr.pytest_plugin.faults import POINTS
from flockpr.pytest_plugin.nexus import Nexus
from tests.support.daemon_process import PATIENCE, environment
from tests.support.docs import block_after, read, rows, section

PAGE = "docs/pytest.md"


def run_pytest(folder: pathlib.Path, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a test file as a user does, warnings being errors."""
    (folder / "test_example.py").write_text(code)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-p", "flockpr.pytest_plugin", "-p", "no:randomly"]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("name", ["agent", "failover", "validation"])
def test_page_example_passes(name: str, tmp_path: pathlib.Path) -> None:
    """Copied from the page into a file."""
    done = run_pytest(tmp_path, block_after(read(PAGE), f"<!-- example: {name} -->"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_page_timeline_is_what_a_failing_test_shows(tmp_path: pathlib.Path) -> None:
    """Line by line, but for the times."""
    code = """
def test_it(flockpr_cluster):
    one, two = flockpr_cluster(2)
    one.register(0xA1).ok()
    two.reserve(0xB2).ok()
"""
    done = run_pytest(tmp_path, code, "--tb=short")
    assert done.returncode == 1
    shown = re.search(r"```text\n-+ (.*?)```", read(PAGE), re.DOTALL)
    assert shown is not None

    def plain(text: str) -> list[str]:
        lines = [re.sub(r"^ +[\d.]+  ", "", line) for line in text.splitlines()]
        return [re.sub(r" +", " ", line) for line in lines][1:]

    wanted = plain(shown[1])
    found = plain(done.stdout[done.stdout.index("flockpr timeline of disk") :])
    assert found[: len(wanted)] == wanted
    assert "RESERVE key=0xb2 type=5 of node2: RESERVATION CONFLICT, and not GOOD" in done.stdout


def test_page_names_every_point_and_every_method() -> None:
    """And none that is not there."""
    faults = section(read(PAGE), "## Faults")
    points = {name for cell, *_ in rows(faults) for name in re.findall(r"`([a-z]+-[a-z]+)`", cell)}
    assert points == set(POINTS)
    commands = section(read(PAGE), "## Commands")
    named = {name for cell, *_ in rows(commands) for name in re.findall(r"`(\w+)\(", cell)}
    public = {name for name, value in vars(Nexus).items() if not name.startswith("_")}
    assert named == {name for name in public if callable(getattr(Nexus, name))}
