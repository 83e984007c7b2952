"""What a host tells about itself, from tables that are data."""

from __future__ import annotations

import os
import pathlib

import pytest

from flockpr.filesystems import Terms, promise_of
from flockpr.filesystems.facts import Sources, facts_of
from flockpr.filesystems.mounts import Mount, covering, read_table
from tests.support.mount_tables import Tables

GFS2 = "rw,noatime"


@pytest.fixture
def tables(tmp_path: pathlib.Path) -> Tables:
    """A host whose mount table and /sys are a test's."""
    return Tables(tmp_path / "host")


def test_facts_of_this_host_are_those_of_its_mount_table(tmp_path: pathlib.Path) -> None:
    """Whatever tests run on has a line there."""
    mount = facts_of(str(tmp_path)).mount

    assert mount is not None
    assert mount.kind in read_table()


def test_facts_of_nfs_have_the_parameter_of_its_client(
    tmp_path: pathlib.Path, tables: Tables
) -> None:
    """And whether the kernel has a lock manager."""
    tables.mount(tmp_path, "nfs4", "rw,vers=4.2")
    assert facts_of(str(tmp_path), sources=tables.sources).recover_lost_locks is None
    tables.recover("Y")

    facts = facts_of(str(tmp_path), sources=tables.sources)

    assert facts.recover_lost_locks == "Y"
    assert facts.lockd is False
    tables.lockd()
    assert facts_of(str(tmp_path), sources=tables.sources).lockd is True


def test_facts_of_nfs_have_its_layout_driver(tmp_path: pathlib.Path, tables: Tables) -> None:
    """Of the mount that is seen at that point, whatever else is mounted."""
    (tmp_path / "a b").mkdir()
    (tmp_path / "c").mkdir()
    tables.mount(tmp_path / "c", "nfs4", "rw,vers=4.2")
    tables.layouts(tmp_path / "c", "LAYOUT_FLEX_FILES")
    escaped = pathlib.Path(str(tmp_path / "a b").replace(" ", "\\040"))
    tables.mount(escaped, "nfs4", "rw,vers=4.2", tables.device)

    assert facts_of(str(tmp_path / "c"), sources=tables.sources).pnfs == "LAYOUT_FLEX_FILES"
    assert facts_of(str(tmp_path / "a b"), sources=tables.sources).pnfs == ""
    tables.layouts(escaped, None)
    assert facts_of(str(tmp_path / "a b"), sources=tables.sources).pnfs == ""
    (tables.place / "proc/self/mountstats").unlink()
    assert facts_of(str(tmp_path / "c"), sources=tables.sources).pnfs is None


def test_facts_of_what_is_missing_are_those_of_where_it_will_be(
    tmp_path: pathlib.Path, tables: Tables
) -> None:
    """`lun create` asks before there is anything."""
    tables.mount(tmp_path, "nfs4", "rw,vers=4.1")

    facts = facts_of(str(tmp_path / "root" / "deeper"), sources=tables.sources)

    assert facts.filesystem == "nfs 4.1"


def test_facts_through_a_symbolic_link_are_those_of_its_end(
    tmp_path: pathlib.Path, tables: Tables
) -> None:
    """The name of a link is on a mount that does not matter."""
    (tmp_path / "there").mkdir()
    (tmp_path / "here").symlink_to("there")
    tables.mount(tmp_path, "ext4", "rw")
    tables.mount(tmp_path / "there", "nfs4", "rw,vers=4.2")

    assert facts_of(str(tmp_path / "here"), sources=tables.sources).kind == "nfs4"


@pytest.mark.parametrize(
    ("arguments", "conf", "fences"),
    [
        (None, "enable_fencing=0\n", None),
        ([], None, True),
        ([], "# enable_fencing=0\n", True),
        ([], "log_debug=1\nenable_fencing = 0  # in the lab\n", False),
        (["--enable_fencing", "0"], "enable_fencing=1\n", False),
        (["--enable_fencing=0"], None, False),
        (["-f", "0"], None, False),
        (["-f0", "-D"], None, False),
        (["-f1"], "enable_fencing=0\n", True),
        (["--foreground", "-q", "0"], None, True),
    ],
)
def test_facts_of_gfs2_say_whether_dlm_waits_for_fencing(
    tmp_path: pathlib.Path,
    tables: Tables,
    arguments: list[str] | None,
    conf: str | None,
    fences: bool | None,
) -> None:
    """In the daemon's own words; without a daemon nobody knows."""
    tables.mount(tmp_path, "gfs2", GFS2)
    tables.dlm(arguments, conf)

    assert facts_of(str(tmp_path), sources=tables.sources).dlm_fences is fences


def test_facts_of_gfs2_say_whether_dlm_carries_locks(
    tmp_path: pathlib.Path, tables: Tables
) -> None:
    """enable_plock=0 leaves byte ranges on their node."""
    tables.mount(tmp_path, "gfs2", GFS2)
    tables.dlm(["-p", "0"], None)

    assert facts_of(str(tmp_path), sources=tables.sources).dlm_locks is False


def test_facts_of_gfs2_have_its_lock_module(tmp_path: pathlib.Path, tables: Tables) -> None:
    """The mount table does not have it where the superblock says it."""
    tables.mount(tmp_path, "gfs2", GFS2)
    tables.gfs2("other:fs", "lock_nolock", device="7:7")
    tables.gfs2("rig:x", "lock_dlm", device=tables.device)

    assert facts_of(str(tmp_path), sources=tables.sources).lock_protocol == "lock_dlm"


def test_covering_mount_is_found_without_a_look_at_the_path() -> None:
    """The deepest, and of those that lie over each other the last."""
    table = (
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        "2 1 0:5 / /mnt rw - nfs4 s:/e rw,vers=4.2\n"
        "3 2 0:6 / /mnt rw - tmpfs tmpfs rw\n"
    )

    assert covering("/mnt/x/y", table) == Mount("tmpfs", "tmpfs", "/mnt", ("rw", "rw"))
    assert covering("/mntx", table) == Mount("ext4", "/dev/sda", "/", ("rw", "rw"))
    assert covering("/x", "") is None


def test_promise_of_a_path_is_that_of_its_mount(tmp_path: pathlib.Path, tables: Tables) -> None:
    """By path, or by a descriptor where the path may hang."""
    tables.mount(tmp_path, "nfs", "rw,vers=3,hard")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert promise_of(str(tmp_path), sources=tables.sources).exclusive
        declared = promise_of("/nowhere", fencing="external", fd=fd, sources=tables.sources)
    finally:
        os.close(fd)

    assert not declared.exclusive


def test_promise_that_is_told_does_not_look_at_the_image(
    tmp_path: pathlib.Path, tables: Tables
) -> None:
    """`flockpr status` must not hang with the image's server: the path need not even be there."""
    tables.mount(tmp_path, "ext4", "rw")
    tables.mount(tmp_path / "images", "9p", "rw")

    told = Terms(sources=tables.sources).told(str(tmp_path), "images/disk.img")

    assert told.exclusive
    assert "9p" in told.filesystem


def test_sources_of_this_host_are_the_kernels() -> None:
    """The defaults."""
    assert Sources().sysfs == "/sys"
    assert Sources().procfs == "/proc"
