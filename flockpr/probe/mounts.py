"""What the mount of a directory says about it, before anything is tried; pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs

from flockpr.probe.findings import Finding, Outcome
from flockpr.store.mounts import COHERENT, Mount

NETWORK: Final = frozenset({"nfs", "nfs4"})
CLUSTER: Final = frozenset({"gfs2"})
UNTRIED: Final = frozenset({"ocfs2", "ceph", "lustre", "gpfs", "afs", "beegfs", "glusterfs"})
"""May do; nobody has proven it."""
LOCAL_LOCKS: Final = frozenset({"cifs", "smb3", "smbfs", "9p", "virtiofs", "vboxsf", "vmhgfs"})
"""Locks that often stop at the host."""


@attrs.frozen
class Host:
    """A host, as its mount table and its kernel describe it.

    Attributes:
        name: Its name.
        boot: Identifier of its boot, the same for all containers of one kernel.
        mount: What the directory is on; None where that is not known.
        recover_lost_locks: Parameter of its NFS client, as the kernel writes it; None where
            the module is not loaded.
    """

    name: str
    boot: str
    mount: Mount | None
    recover_lost_locks: str | None = None


def judge_mount(host: Host) -> Iterator[Finding]:
    """What the mount says."""
    mount = host.mount
    if mount is None:
        yield _finding(host, "mount", "the mount table does not have it", Outcome.UNKNOWN)
        return
    what = f"{mount.kind}, {mount.source} on {mount.point}"
    if mount.has("ro"):
        yield _finding(host, "read-only", "it is mounted read-only")
    if mount.kind in COHERENT:
        yield _finding(host, "one-host", f"{mount.kind} is a file system of one host")
        if mount.kind in ("tmpfs", "ramfs"):
            yield _finding(host, "volatile", f"{mount.kind} is in memory")
    elif mount.kind in NETWORK:
        yield _finding(host, "mount", what, Outcome.GOOD)
        yield from _nfs(host, mount)
    elif mount.kind in CLUSTER:
        yield _finding(host, "mount", what, Outcome.GOOD)
        yield from _gfs2(host, mount)
    elif mount.kind in LOCAL_LOCKS or mount.kind.startswith("fuse"):
        yield _finding(host, "local-locks", f"locks of {mount.kind} often stop at the host")
        if mount.has("nobrl"):
            yield _finding(host, "smb-locks", "nobrl: byte-range locks stay on this host")
    elif mount.kind in UNTRIED:
        yield _finding(host, "untried", f"nothing has been proven on {mount.kind}")
    else:
        yield _finding(host, "mount", f"{mount.kind} is not known to flockpr")


def _nfs(host: Host, mount: Mount) -> Iterator[Finding]:
    version = mount.value("vers") or mount.value("nfsvers") or ("4" if mount.kind == "nfs4" else "")
    old = not version.startswith("4")
    if mount.has("nolock") or mount.value("local_lock") in ("all", "posix"):
        yield _finding(host, "nfs-locks", "nolock or local_lock: locks stay on this host")
    if old:
        yield _finding(host, "nfs-v3", f"NFS {version or 'of unknown version'} has no leases")
    if mount.has("soft", "softerr"):
        yield _finding(host, "nfs-soft", "soft: a request is given up, and may be done later")
    if mount.has("nocto"):
        yield _finding(host, "nfs-nocto", "nocto: an open does not ask the server")
    yield _finding(
        host,
        "nfs-export",
        "whether the server exports it with async cannot be seen from here: it must be sync",
        Outcome.NOTE,
    )
    if not old:
        yield _recover(host)


def _recover(host: Host) -> Finding:
    value = host.recover_lost_locks
    if value is None:
        return _finding(host, "nfs-recover", "it cannot be read", Outcome.UNKNOWN)
    if value in ("N", "0"):
        return _finding(host, "nfs-recover", "lost locks stay lost", Outcome.GOOD)
    return _finding(host, "nfs-recover", f"{value}: lost locks are taken again without a word")


def _gfs2(host: Host, mount: Mount) -> Iterator[Finding]:
    if mount.has("localflocks"):
        yield _finding(host, "gfs2-locks", "localflocks: locks stay on this host")
    if mount.has("lock_nolock") or mount.value("lockproto") == "lock_nolock":
        yield _finding(host, "gfs2-locks", "lock_nolock: there is no cluster")
    yield _finding(host, "cluster-fencing", "GFS2 is as safe as the fencing of its nodes")


def _finding(host: Host, name: str, what: str, outcome: Outcome = Outcome.BAD) -> Finding:
    return Finding(name, outcome, what, host.name)
