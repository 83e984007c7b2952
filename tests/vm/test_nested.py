"""QEMU beside its daemon inside an emulated machine, the disk's file on the NFSv4.2 share.

Emulation within emulation: a guest's boot takes minutes, the test about seven. Nothing stands
between QEMU and the daemon here, in contrast to test_nfs.py and its tunnel: the descriptor that
the daemon gets is that of a file on the share, opened by QEMU on the same host.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.peers import require
from tests.vm.disk import ReservedDisk, compile_shim
from tests.vm.guests import CONFLICT
from tests.vm.machine import Running
from tests.vm.nested import qemu, steps
from tests.vm.share import MOUNT_POINT, Host, Lab, boot_lab

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(3600)]

LUN = "disk"
_IMAGE = Path(MOUNT_POINT, "disk.img")
_HELPER = Path("/run/pr.sock")
_SECONDS = 2400


def _start_guest(folder: Path, host: Host, role: str) -> Running:
    """QEMU in a machine, with the guest that plays a role of ``guest/nested.sh``."""
    disk = ReservedDisk(_IMAGE, folder / "sgshim.so")
    environment = " ".join(f"{name}={value}" for name, value in disk.environment.items())
    return host.machine.start(f"{environment} {qemu(folder, role, disk.arguments(_HELPER))}")


def _steps(output: str) -> dict[str, int]:
    """Name of each step to its exit status."""
    return {name: status for name, (status, _) in steps(output).items()}


def _boot(folder: Path, lab: Lab) -> list[Running]:
    lab.create_lun(LUN)
    lab.hosts[0].machine.check(f"truncate -s 32M {_IMAGE}")
    compile_shim(folder)
    roles = ("alice", "bob")
    for number, role in enumerate(roles):
        lab.daemon(number, LUN, f"iqn.2026-01.test:{role}").start()
    return [_start_guest(folder, host, role) for host, role in zip(lab.hosts, roles, strict=True)]


def test_nested_qemu_guests_of_two_nfs_clients_contest_one_disk(short_path: Path) -> None:
    """Register, reserve, conflict, preempt, READ FULL STATUS, each guest on its own host."""
    require("qemu-system-x86_64", "busybox", "sg_persist", "cc", "mkfs.ext4", "ip")
    with boot_lab(short_path, ["host1", "host2"], memory=1024) as lab:
        alice, bob = (guest.wait(_SECONDS).output for guest in _boot(short_path, lab))
    seen = {"register": 0, "reserve": 0, "status": 0, "again": CONFLICT, "holder": 0}
    assert _steps(alice) == seen, alice
    assert _steps(bob) == {"register": 0, "reserve": CONFLICT, "preempt": 0, "holder": 0}, bob
    for name in ("iqn.2026-01.test:alice", "iqn.2026-01.test:bob"):
        assert name in alice
    assert "Key=0xb2" in alice.partition("again ")[2]
    assert "Key=0xb2" in bob.partition("preempt ")[2]
