"""The recipe of docs/lio.md, with the real LIO of an emulated machine.

By hand, a few minutes::

    pytest -m sweep tests/vm/test_lio.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve

from flockpr import create_lun, read_identity
from flockpr.device_index import DeviceIndex
from tests.support.docs import block_after, read
from tests.support.peers import find, require
from tests.vm.initramfs import initramfs
from tests.vm.kernel import Kernel, _files_of, kernel
from tests.vm.machine import Machine

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(3600)]

PAGE = "docs/lio.md"
SERIAL = "21c2c28a-f1e8-465e-b174-e7d335d341ee"
SIZE = 16 << 20
MODULES = (
    *("virtio_pci", "virtio_console", "virtio_blk", "crc32c_generic", "ext4", "sd_mod", "sg"),
    *("target_core_mod", "target_core_file", "tcm_loop"),
)


def kernel_with_lio(folder: Path) -> Kernel:
    """The rig's kernel, and of its package the modules of the target as well."""
    chosen = kernel()
    modules = folder / "modules"
    shutil.copytree(chosen.modules, modules)
    files = _files_of(f"linux-image-{chosen.release}")
    with files as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if "/kernel/drivers/target/" in member.name and member.name.endswith(".ko"):
                content = archive.extractfile(member)
                assert content is not None
                (modules / Path(member.name).name).write_bytes(content.read())
    return evolve(chosen, modules=modules)


@pytest.fixture
def machine(short_path: Path) -> Iterator[Machine]:
    """A machine with a file system that takes direct reads and writes, and an image on it."""
    require("qemu-system-x86_64", "busybox", "sg_persist", "sg_inq", "mkfs.ext4")
    tree = short_path / "tree"
    tree.mkdir()
    with (tree / "disk3.img").open("wb") as image:
        image.truncate(SIZE)
    share = short_path / "share.img"
    with share.open("wb") as file:
        file.truncate(64 << 20)
    mkfs = [find("mkfs.ext4") or "", "-q", "-d", str(tree), str(share)]
    subprocess.run(mkfs, check=True, timeout=100)
    initrd = short_path / "initrd"
    chosen = kernel_with_lio(short_path)
    initrd.write_bytes(initramfs(chosen, MODULES, ["sg_persist", "sg_inq"]))
    drive = ("-drive", f"file={share},format=raw,if=virtio")
    with Machine("host", short_path, chosen, initrd, arguments=drive) as host:
        host.wait_booted()
        host.check("for i in $(seq 600); do test -b /dev/vda && exit; sleep 0.1; done; exit 1")
        host.check("mkdir /mnt; mount -t ext4 /dev/vda /mnt")
        yield host


def computed(serial: str) -> str:
    """The identifier, by the line of the page."""
    lines = block_after(read(PAGE), "<!-- lio: once -->").splitlines()
    (line,) = [line for line in lines if line.startswith("wwid=")]
    script = f"serial={serial}; {line}; echo $wwid"
    done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_recipe_makes_a_device_that_is_found_by_its_identifier(
    machine: Machine, tmp_path: Path
) -> None:
    """The device carries what was computed beforehand; LIO itself refuses reservations."""
    wwid = computed(SERIAL)
    before = (
        f"serial={SERIAL}; image=/mnt/disk3.img; size={SIZE}; "
        # The modules are loaded; busybox's modprobe would look for a list of them.
        "modprobe() { :; }\nset -eu\n"
    )
    machine.check(before + block_after(read(PAGE), "<!-- lio: host -->"))
    machine.check("for i in $(seq 600); do test -b /dev/sda && exit; sleep 0.1; done; exit 1")

    seen = machine.check("cat /sys/block/sda/device/wwid").strip()
    assert seen == wwid
    root = str(tmp_path / "root")
    create_lun(root, "disk3", serial=SERIAL, wwids=[wwid])
    assert read_identity(root, "disk3").serial == SERIAL
    assert DeviceIndex(root, timeout=100).find([seen]) == "disk3"
    page = machine.check("sg_inq --page=0x80 /dev/sda")
    assert SERIAL in page
    for action in ("--in --read-keys", "--out --register --param-sark=a1"):
        refused = machine.start(f"sg_persist -n {action} /dev/sda").wait()
        assert refused.status == 9, refused  # invalid operation code (sg3_utils(8))

    written = machine.check(
        "echo written | dd of=/dev/sda bs=4096 count=1 conv=sync,fsync && head -n 1 /mnt/disk3.img"
    )
    assert "written" in written.splitlines()

    machine.check(
        before
        + "core=/sys/kernel/config/target/core/fileio_0/disk3\n"
        + "port=/sys/kernel/config/target/loopback/naa.5001405000000003/tpgt_1\n"
        + block_after(read(PAGE), "<!-- lio: end -->")
    )
    assert re.fullmatch(r"gone\s*", machine.check("test -b /dev/sda || echo gone"))
