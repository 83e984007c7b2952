"""The benchmark of the target still runs; its figures are for people."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from tests.support.daemon_process import REPOSITORY
from tests.support.peers import unavailable

pytestmark = [pytest.mark.peer("tgtd", "tgtadm", "cc"), pytest.mark.timeout(600)]

_HEADER = pathlib.Path("/usr/include/iscsi/iscsi.h")


def test_bench_target_shortened_prints_every_case(tmp_path: pathlib.Path) -> None:
    """Reads, writes and reservations, at both targets, each answered GOOD."""
    if not _HEADER.exists():
        unavailable(f"not installed: {_HEADER} (libiscsi-dev)")
    options = ["--rounds", "1", "--seconds", "0.1", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_target", *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [row for row in done.stdout.splitlines() if row.startswith(("read ", "write ", "PR "))]
    assert len(rows) == 14, done.stdout
    assert "enforcement and gate" in done.stdout
