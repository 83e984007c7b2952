"""Two hosts over one real GFS2 with DLM, and everything that can go wrong meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.peers import require
from tests.vm.cluster import boot_cluster
from tests.vm.faults import common_rows
from tests.vm.matrix import match, play_all, write_json

_NEEDED = ("qemu-system-x86_64", "busybox", "ip")
_TOKEN_SECONDS = 10


@pytest.mark.sweep
@pytest.mark.timeout(1500)
def test_matrix_gfs2_short(short_path: Path) -> None:
    """A daemon killed, a node killed and fenced: nothing is lost, nothing lands late."""
    require(*_NEEDED)
    with boot_cluster(short_path) as lab, match(lab, short_path) as playing:
        rows = [row for row in [*common_rows(lab), *lab.rows] if row.short]
        play_all(playing, [row for row in rows if "cut" not in row.name])


@pytest.mark.sweep
@pytest.mark.timeout(7200)
def test_matrix_gfs2_whole(short_path: Path) -> None:
    """Every row; the figures are kept where FLOCKPR_EVIDENCE says."""
    require(*_NEEDED)
    with (
        boot_cluster(short_path, token=_TOKEN_SECONDS) as lab,
        match(lab, short_path) as playing,
    ):
        chosen = os.environ.get("FLOCKPR_ROWS", "")
        rows = [row for row in [*common_rows(lab), *lab.rows] if chosen in row.name]
        found = play_all(playing, rows)
        if folder := os.environ.get("FLOCKPR_EVIDENCE"):
            path = Path(folder) / f"matrix-{lab.column}.json"
            kernel = lab.nodes[0].machine.check("uname -r").strip()
            write_json(path, lab.column, found, {"kernel": kernel})
