"""Two hosts over one real shared file system, and everything that can go wrong meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.peers import require
from tests.vm.faults import common_rows
from tests.vm.matrix import match, play_all, write_json
from tests.vm.nfs import boot_nfs_lab

NEEDED = ("qemu-system-x86_64", "busybox", "mkfs.ext4", "ip")


@pytest.mark.peer
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("version", ["4.2", pytest.param("3", marks=pytest.mark.nfs3)])
def test_matrix_nfs_short(short_path: Path, version: str) -> None:
    """A daemon killed, a link cut, a server restarted: nothing is lost, nothing lands late."""
    require(*NEEDED)
    with boot_nfs_lab(short_path, version) as lab, match(lab, short_path) as playing:
        rows = [row for row in [*common_rows(lab), *lab.rows] if row.short]
        play_all(playing, rows, each=False)


@pytest.mark.sweep
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("version", ["4.2", "4.1", "4.0", "3"])
def test_matrix_nfs_whole(short_path: Path, version: str) -> None:
    """Every row, or those that FLOCKPR_ROWS names in part, separated by semicolons; the figures
    are kept where FLOCKPR_EVIDENCE says.
    """
    require(*NEEDED)
    with boot_nfs_lab(short_path, version) as lab, match(lab, short_path) as playing:
        chosen = os.environ.get("FLOCKPR_ROWS", "").split(";")
        every = [*common_rows(lab), *lab.rows]
        rows = [row for row in every if any(part in row.name for part in chosen)]
        for row in rows:
            found = play_all(playing, [row])
            if folder := os.environ.get("FLOCKPR_EVIDENCE"):
                path = Path(folder) / f"matrix-{lab.column}.json"
                facts = {"Linux": lab.builder.kernel.release, "run": time.strftime("%Y-%m-%d")}
                write_json(path, lab.column, found, facts)
