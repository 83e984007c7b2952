"""The Python that docs/python-api.md shows runs, and prints what the page says it prints."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.docs import ROOT, block_after, read

PAGE = "docs/python-api.md"


@pytest.mark.parametrize("name", ["logical-unit", "manager"])
def test_example_runs_and_prints_what_the_page_says(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Example and output on the page are those of a real run, warnings being errors."""
    text = read(PAGE)
    marker = f"<!-- example: {name} -->"
    code = block_after(text, marker)
    expected = block_after(text[text.index(marker) :], "It prints:")
    home = tmp_path_factory.mktemp("home")

    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(home), "HOME": str(home)},
        timeout=100,
    )

    assert ran.stderr == ""
    assert ran.stdout == f"{expected}\n"
    assert ran.returncode == 0
