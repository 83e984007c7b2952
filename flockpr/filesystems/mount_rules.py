"""What the mount of a directory says about it, before anything is tried; pure."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from flockpr.filesystems.kinds import (
    CLUSTER,
    COHERENT,
    NETWORK,
    UNTRIED,
    VOLATILE,
    locks_stop_at_the_host,
)
from flockpr.filesystems.mounts import Mount
from flockpr.filesystems.rules import Finding, Outcome


@attrs.frozen
class Facts:
    """What a host knows of what a path stands on, without touching it.

    Attributes:
        mount: Its line of the mount table; None where that is not known.
        recover_lost_locks: Parameter of the NFS client, as the kernel writes it; None where
            the module is not loaded or /sys cannot be read.
        lockd: Whether the kernel has the lock manager of NFS 3; None where that is not known.
        lock_protocol: Of GFS2, such as ``lock_dlm``; None where that is not known.
        dlm_fences: Whether DLM waits for fencing; None where that is not known.
        dlm_locks: Whether DLM carries byte-range locks between nodes; None likewise.
        pnfs: The layout driver of an NFS 4 mount, as the kernel calls it; empty where it has none,
            None where that is not known.
    """

    mount: Mount | None
    recover_lost_locks: str | None = None
    lockd: bool | None = None
    lock_protocol: str | None = None
    dlm_fences: bool | None = None
    dlm_locks: bool | None = None
    pnfs: str | None = None

    @property
    def kind(self) -> str:
        """Type of the file system; empty where that is not known."""
        return self.mount.kind if self.mount else ""

    @property
    def filesystem(self) -> str:
        """The same for people, with the version of NFS."""
        if self.mount is None:
            return "an unknown file system"
        if self.kind in NETWORK:
            return f"nfs {nfs_version(self.mount)}".rstrip()
        return self.kind


def nfs_version(mount: Mount) -> str:
    """The version of an NFS mount, such as ``4.2``; empty where the table does not say."""
    return mount.value("vers") or mount.value("nfsvers") or ("4" if mount.kind == "nfs4" else "")


def findings_of(facts: Facts) -> Iterator[Finding]:
    """What the mount says."""
    mount = facts.mount
    if mount is None:
        yield _finding("mount", "the mount table does not have it", Outcome.UNKNOWN)
        return
    what = f"{mount.kind}, {mount.source} on {mount.point}"
    if mount.has("ro"):
        yield _finding("read-only", "it is mounted read-only")
    if mount.kind in COHERENT:
        yield _finding("one-host", f"{mount.kind} is a file system of one host")
        if mount.kind in VOLATILE:
            yield _finding("volatile", f"{mount.kind} is in memory")
    elif mount.kind in NETWORK:
        yield _finding("mount", what, Outcome.GOOD)
        yield from _nfs(facts, mount)
    elif mount.kind in CLUSTER:
        yield _finding("mount", what, Outcome.GOOD)
        yield from _gfs2(facts, mount)
    elif locks_stop_at_the_host(mount.kind):
        yield _finding("local-locks", f"locks of {mount.kind} often stop at the host")
        if mount.has("nobrl"):
            yield _finding("smb-locks", "nobrl: byte-range locks stay on this host")
    elif mount.kind in UNTRIED:
        yield _finding("untried", f"nothing has been proven on {mount.kind}")
    else:
        yield _finding("mount", f"{mount.kind} is not known to flockpr")


def _nfs(facts: Facts, mount: Mount) -> Iterator[Finding]:
    version = nfs_version(mount)
    old = not version.startswith("4")
    if mount.has("nolock") or not {"all", "posix"}.isdisjoint(mount.values("local_lock")):
        yield _finding("nfs-locks", "nolock or local_lock: locks stay on this host")
    if version == "2":
        yield _finding("nfs-v2", "NFS 2 has no locks beyond the first 2 GiB of a file")
    elif old:
        yield _finding("nfs-v3", f"NFS {version or 'of unknown version'} has no leases")
    if old and facts.lockd is False:
        yield _finding("nfs-lockd", "this kernel runs no lockd: there are no locks")
    if mount.has("soft", "softerr"):
        yield _finding("nfs-soft", "soft: a request is given up, and may be done later")
    if mount.has("nocto"):
        yield _finding("nfs-nocto", "nocto: an open does not ask the server")
    if mount.has("softreval"):  # which Linux shows of softerr as well
        yield _finding("nfs-softreval", "softreval: the cache answers for a server out of reach")
    yield _finding(
        "nfs-export",
        "whether the server exports it with async cannot be seen from here: it must be sync",
        Outcome.NOTE,
    )
    if not old:
        yield _recover(facts.recover_lost_locks)
        if version != "4.0":
            yield _layouts(facts.pnfs)


def _layouts(driver: str | None) -> Finding:
    """RFC 8881 12: with a layout, reads and writes go to where the data are, past the server that
    keeps the locks.
    """
    if driver is None:
        return _finding("nfs-pnfs", "it cannot be read", Outcome.UNKNOWN)
    if not driver:
        return _finding("nfs-pnfs", "reads and writes go to the server", Outcome.GOOD)
    return _finding("nfs-pnfs", f"{driver}: they go past the server that keeps the locks")


def _recover(value: str | None) -> Finding:
    if value is None:
        return _finding("nfs-recover", "it cannot be read", Outcome.UNKNOWN)
    if value in ("N", "0"):
        return _finding("nfs-recover", "lost locks stay lost", Outcome.GOOD)
    return _finding("nfs-recover", f"{value}: lost locks are taken again without a word")


def _gfs2(facts: Facts, mount: Mount) -> Iterator[Finding]:
    if mount.has("localflocks"):
        yield _finding("gfs2-locks", "localflocks: locks stay on this host")
    protocols = {*mount.values("lockproto")}
    if facts.lock_protocol is not None:
        protocols.add(facts.lock_protocol)
    if mount.has("lock_nolock"):
        protocols.add("lock_nolock")
    if foreign := protocols - {"lock_dlm"}:
        yield _finding("gfs2-locks", f"{' '.join(sorted(foreign))}: there is no cluster")
    elif not protocols:
        # The module is the superblock's choice where the mount names none: it may be lock_nolock.
        what = "its lock module cannot be told: neither the mount nor /sys/fs/gfs2 names it"
        yield _finding("gfs2-locks", what, Outcome.UNKNOWN)
    if facts.dlm_locks is False:
        yield _finding("gfs2-locks", "enable_plock=0: locks stay on this host")
    if facts.dlm_fences is False:
        yield _finding("cluster-unfenced", "enable_fencing=0: locks of a lost node are given away")
    yield _finding("cluster-fencing", "GFS2 is as safe as the fencing of its nodes")


def _finding(name: str, what: str, outcome: Outcome = Outcome.BAD) -> Finding:
    return Finding(name, outcome, what)
