"""The README: its commands are the ones that CI runs, its first screen says what matters."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.support.docs import ROOT, block_after, read


@pytest.mark.parametrize("name", ["run", "test"])
def test_readme_command_is_one_line_that_ci_reads(name: str) -> None:
    """What .ci/readme-command prints is the whole block that people see under the name."""
    shown = block_after(read("README.md"), f"<!-- command: {name} -->")

    printed = subprocess.run(
        [ROOT / ".ci" / "readme-command", name], capture_output=True, text=True, check=True
    )

    assert printed.stdout == f"{shown}\n"
    assert "\n" not in shown


def test_readme_command_unknown_name_fails() -> None:
    """A name that the README does not have is a failure of CI, not an empty command."""
    asked = subprocess.run([ROOT / ".ci" / "readme-command", "none"], capture_output=True)

    assert asked.returncode == 1
    assert asked.stdout == b""


def test_ci_script_runs_both_readme_commands() -> None:
    """.ci/run takes both commands from the README and runs what it took."""
    script = read(".ci/run")

    for name in ("run", "test"):
        assert f"{name}_command=$(.ci/readme-command {name})" in script
        assert f'bash -euo pipefail -c "${name}_command"' in script


def test_ci_script_is_executable_and_parses() -> None:
    """CI can start it."""
    for name in ("run", "readme-command"):
        path = ROOT / ".ci" / name

        assert os.access(path, os.X_OK)
        subprocess.run(["bash", "-n", path], check=True)


def test_readme_commands_set_up_for_themselves() -> None:
    """Each starts with Python and pip alone: it makes its environment and installs into it."""
    for name in ("run", "test"):
        command = block_after(read("README.md"), f"<!-- command: {name} -->")

        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install")


def test_readme_first_screen_says_what_the_door_cannot_do() -> None:
    """Somebody who reads one screen and a half knows that nothing is enforced."""
    first = "\n".join(read("README.md").split("\n")[:75])

    assert "```text" in first
    assert "see reads and writes" in first
    assert re.search(r"\*enforces\*\s+none", first)
    assert "This is not fencing" in first
