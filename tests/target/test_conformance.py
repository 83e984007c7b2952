"""The conformance tests of persistent reservations once more, through the target door."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.support.daemon_process import REPOSITORY, environment

SUITES = (
    "clear",
    "read_full_status",
    "read_keys",
    "read_reservation",
    "register",
    "register_and_ignore",
    "register_and_move",
    "report_capabilities",
    "unit_attentions",
)
"""Every few tests of these run, and fewer of the larger ones."""
LARGE = ("preempt", "release", "reserve", "spc2_reserve_release", "precedence", "parameter_lists")


def outcomes(report: str) -> dict[str, int]:
    """How many tests passed, failed, ..., by pytest's last line."""
    return {word: int(count) for count, word in re.findall(r"(\d+) (\w+)", report.splitlines()[-1])}


def run(directory: pathlib.Path, suites: Sequence[str], every: int) -> dict[str, int]:
    """Run suites over iSCSI; fails with their report."""
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "tests.support.over_iscsi"),
        *("-p", "no:randomly", "-p", "no:cacheprovider", "-m", ""),
        *(f"--basetemp={directory / 'pytest'}", "--timeout=300"),
        *(f"tests/conformance/test_{suite}.py" for suite in suites),
    ]
    variables = environment(FLOCKPR_TEST_EVERY=str(every))
    variables["PYTHONPATH"] = str(REPOSITORY)
    variables.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(
        command, env=variables, cwd=REPOSITORY, capture_output=True, text=True, timeout=3000
    )
    counted = outcomes(done.stdout.strip() or "nothing")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return counted


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("suites", "every"), [(SUITES, 6), (LARGE, 23)], ids=["small", "large"])
def test_conformance_over_iscsi_in_samples(
    tmp_path: pathlib.Path, suites: Sequence[str], every: int
) -> None:
    """Same scenarios, real door, every so manieth of them [SPC-4 5.13; conformance]"""
    assert run(tmp_path, suites, every)["passed"] >= 30


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("suite", [*SUITES, *LARGE, "power", "preempt_and_abort"])
def test_conformance_over_iscsi_all(tmp_path: pathlib.Path, suite: str) -> None:
    """All of them [SPC-4 5.13; conformance]"""
    assert run(tmp_path, [suite], 1)["passed"] >= 4
