"""What is known of file systems by their names; pure."""

from __future__ import annotations

from typing import Final

COHERENT: Final = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "ramfs", "zfs", "bcachefs", "overlay"}
)
"""File systems of one host, whose names and attributes are always current."""
TELLING: Final = COHERENT - {"overlay"}
"""Of these, those where whatever changes a directory does so by the inode that is watched."""
VOLATILE: Final = frozenset({"tmpfs", "ramfs"})
"""In memory."""
NETWORK: Final = frozenset({"nfs", "nfs4"})
"""A server keeps the locks."""
CLUSTER: Final = frozenset({"gfs2"})
"""Hosts that share a disk keep the locks between them, and fence each other."""
UNTRIED: Final = frozenset({"ocfs2", "ceph", "lustre", "gpfs", "afs", "beegfs", "glusterfs"})
"""May do; nobody has proven it."""
LOCAL_LOCKS: Final = frozenset({"cifs", "smb3", "smbfs", "9p", "virtiofs", "vboxsf", "vmhgfs"})
"""Locks that often stop at the host."""
AUTOMOUNT: Final = frozenset({"autofs"})
"""Stands where something is mounted as soon as somebody looks."""


def locks_stop_at_the_host(kind: str) -> bool:
    """Whether locks there often hold on one host only: SMB, 9p, virtiofs, and all of FUSE."""
    return kind in LOCAL_LOCKS or kind.startswith("fuse")
