"""docs/promises.md says what the table of file systems says, and its evidence exists."""

from __future__ import annotations

import re

import pytest

from flockpr.filesystems import Facts, Fencing, Gated, Promise, judge
from flockpr.filesystems.mounts import Mount
from flockpr.filesystems.rules import Answer
from tests.support.docs import ROOT, read, rows

PAGE = read("docs/promises.md")
V42 = "rw,vers=4.2,hard,local_lock=none"
V3 = "rw,vers=3,hard,local_lock=none"


def facts(kind: str, options: str = "rw", **more: object) -> Facts:
    """Facts of a mount."""
    if kind in ("nfs", "nfs4"):
        more = {"recover_lost_locks": "N", "lockd": True, "pnfs": "", **more}
    mount = Mount(kind, "s:/e", "/mnt", tuple(options.split(",")))
    return Facts(mount, **more)  # type: ignore[arg-type]


# First column of the page, as plain text: what stands for it.
STANDS_FOR: dict[str, list[Facts]] = {
    "ext4, xfs, btrfs": [facts("ext4"), facts("xfs"), facts("btrfs")],
    "tmpfs, overlay": [facts("tmpfs"), facts("overlay")],
    "NFS 4.2": [facts("nfs4", V42)],
    "NFS 4.1": [facts("nfs4", "rw,vers=4.1,hard")],
    "NFS 4.0": [facts("nfs4", "rw,vers=4.0,hard")],
    "NFS 4 with recover_lost_locks=Y, or where that cannot be read": [
        facts("nfs4", V42, recover_lost_locks="Y"),
    ],
    "NFS 4.1 or 4.2 with a layout driver (pNFS), or where that cannot be read": [
        facts("nfs4", V42, pnfs="LAYOUT_FLEX_FILES"),
        facts("nfs4", "rw,vers=4.1,hard", pnfs="LAYOUT_SCSI"),
    ],
    "NFS 3": [facts("nfs", V3)],
    'NFS 3, fencing = "external" declared': [facts("nfs", V3)],
    "NFS 3 without lockd": [facts("nfs", V3, lockd=False)],
    "NFS with soft, or with softerr and nosoftreval": [
        facts("nfs4", f"{V42},soft"),
        facts("nfs4", f"{V42},softerr"),
        facts("nfs", f"{V3},soft"),
    ],
    "NFS with nolock, local_lock=all or local_lock=posix": [
        facts("nfs", f"{V3},nolock"),
        facts("nfs4", "rw,vers=4.2,local_lock=all"),
        facts("nfs4", "rw,vers=4.2,local_lock=posix"),
    ],
    "NFS with softreval, which softerr turns on": [
        facts("nfs4", f"{V42},softreval"),
        facts("nfs4", f"{V42},softerr,softreval"),
        facts("nfs", f"{V3},softreval"),
    ],
    "NFS with nocto": [facts("nfs4", f"{V42},nocto"), facts("nfs", f"{V3},nocto")],
    "GFS2 with lock_dlm": [facts("gfs2", lock_protocol="lock_dlm", dlm_fences=True)],
    "GFS2 with enable_fencing=0 of dlm_controld": [
        facts("gfs2", lock_protocol="lock_dlm", dlm_fences=False)
    ],
    "GFS2 with lock_nolock, localflocks or enable_plock=0, or where the first cannot be read": [
        facts("gfs2"),
        facts("gfs2", lock_protocol="lock_nolock"),
        facts("gfs2", "rw,localflocks"),
        facts("gfs2", dlm_locks=False),
    ],
    "OCFS2, CephFS, Lustre, GPFS, GlusterFS": [
        facts(kind) for kind in ("ocfs2", "ceph", "lustre", "gpfs", "glusterfs")
    ],
    "SMB, FUSE, 9p, virtiofs": [
        facts(kind) for kind in ("cifs", "smb3", "fuse.x", "fuseblk", "9p", "virtiofs")
    ],
    "any other, and one that cannot be told": [facts("newfs"), Facts(None)],
    "any of them, mounted ro": [
        facts("ext4", "ro"),
        facts("nfs4", f"ro,{V42[3:]}"),
        facts("gfs2", "ro"),
    ],
}
GATED = {"yes": Gated.YES, "declared": Gated.DECLARED, "no": Gated.NO}
ADVISORY = {
    "yes": Answer.YES,
    "yes, for this host": Answer.CONDITION,
    "this host": Answer.CONDITION,
    "not tried": Answer.CONDITION,
    "no": Answer.NO,
}
PROMISES = PAGE.partition("\n## ")[0]  # the table of faults further down has as many columns
TABLE = {row[0].replace("`", ""): row[1:] for row in rows(PROMISES) if len(row) == 4}


def test_page_has_the_rows_that_are_judged_here() -> None:
    """A row that nobody judges may say anything."""
    assert set(TABLE) == set(STANDS_FOR)


@pytest.mark.parametrize("name", STANDS_FOR)
def test_row_of_the_page_is_what_is_promised(name: str) -> None:
    """Each mount that a row stands for, at both doors."""
    gated, hosts, helper = TABLE[name]
    fencing = Fencing.EXTERNAL if "declared" in name else Fencing.NONE
    for known in STANDS_FOR[name]:
        promise: Promise = judge(known, fencing)

        assert promise.gated is GATED[gated], known
        assert promise.many_hosts is (hosts == "many"), known
        assert promise.advisory is ADVISORY[helper], known


def test_evidence_of_the_page_exists() -> None:
    """Every test file and directory that it names."""
    named = set(re.findall(r"`(tests/[\w/.]+)`", PAGE))

    assert named
    for path in named:
        assert (ROOT / path).exists(), path
