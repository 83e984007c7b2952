"""The mount table."""

from __future__ import annotations

import os

import pytest

from flockpr.filesystems.mounts import Mount, filesystem_type, mount_of

TABLE = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
40 22 0:50 / /mnt/a\040b rw,noatime shared:7 master:2 - nfs4 srv:/e\134x rw,vers=4.2,hard
41 22 0:50 /sub /mnt/c ro,noatime - nfs4 srv:/e\134x rw,vers=4.2,hard
42 22 0:60 / /mnt/c rw - tmpfs tmpfs rw
43 22 0:31 /vol /data rw - btrfs /dev/vdb rw,subvol=/vol
broken line
44 22 0:61 / /short rw - fuse
"""


@pytest.mark.parametrize(
    ("major", "minor", "path", "kind", "point"),
    [
        (254, 0, "/mnt", "ext4", "/"),
        (0, 50, "/mnt/a b/deep", "nfs4", "/mnt/a b"),
        (0, 50, "/mnt/c/deep", "nfs4", "/mnt/c"),
        (0, 60, "/mnt/c/deep", "tmpfs", "/mnt/c"),
        (0, 99, "/data/deep", "btrfs", "/data"),
        (0, 99, "/database", "ext4", "/"),
    ],
)
def test_mount_of_by_device_and_then_by_path(
    major: int, minor: int, path: str, kind: str, point: str
) -> None:
    """The device decides; among its mounts, or without one, the longest path."""
    found = mount_of(os.makedev(major, minor), path, TABLE)

    assert found is not None
    assert (found.kind, found.point) == (kind, point)


def test_mount_of_two_over_each_other_is_the_last() -> None:
    """What was mounted over another hides it."""
    first, second = (line for line in TABLE.split("\n")[2:4])
    both = f"{first}\n{second.replace('0:60', '0:50')}"

    found = mount_of(os.makedev(0, 50), "/mnt/c", both)

    assert found is not None
    assert found.kind == "tmpfs"


def test_mount_options_are_those_of_mount_and_file_system() -> None:
    """Escapes are undone; what stands before the `=` is compared as a whole."""
    mount = mount_of(os.makedev(0, 50), "/mnt/a b", TABLE)

    assert mount == Mount(
        "nfs4", r"srv:/e\x", "/mnt/a b", ("rw", "noatime", "rw", "vers=4.2", "hard")
    )
    assert mount.value("vers") == "4.2"
    assert mount.value("ver") is None
    assert mount.has("soft", "hard")
    assert not mount.has("har")


@pytest.mark.parametrize("table", ["", "x", "1 2 3:4 - a b c"])
def test_mount_of_without_a_table_is_unknown(table: str) -> None:
    """What is not known is not guessed."""
    assert mount_of(os.makedev(3, 4), "/x", table) is None


def test_filesystem_type_of_an_unknown_device_is_none() -> None:
    """No path, no guess: whoever asks takes it for a network file system."""
    assert filesystem_type(os.makedev(4000, 99999)) is None
    assert filesystem_type(os.stat("/proc").st_dev) == "proc"
