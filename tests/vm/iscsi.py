"""Guests whose disk is a logical unit of an iSCSI target, through QEMU's own initiator."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from attrs import define, field

from tests.support.peers import unavailable
from tests.support.targets import Url
from tests.vm.contest import Contender
from tests.vm.guests import MODULES, WRITE_EXCLUSIVE
from tests.vm.initramfs import initramfs
from tests.vm.kernel import Kernel, kernel
from tests.vm.machine import Machine

_SCSI_BLOCK = ("-device", "virtio-scsi-pci", "-device", "scsi-block,drive=disk,share-rw=on")
WAIT_FOR_DISK = "for i in $(seq 600); do test -b /dev/sda && exit; sleep 0.1; done; exit 1"

_PROGRAMS = ("sg_persist", "sg_turs", "mkfs.ext4", "e2fsck")
_MODULES = (*MODULES, "crc32c_generic", "ext4")

_DRIVERS = Path("/usr/lib")
"""Debian keeps QEMU's drivers below, that for iSCSI in a package of its own."""


def drive(url: Url, initiator: str) -> list[str]:
    """QEMU's arguments for the disk, in the short form.

    Args:
        url: Of the logical unit.
        initiator: Name of the initiator.
    """
    options = "if=none,id=disk,format=raw,cache=none"
    return ["-iscsi", f"initiator-name={initiator}", "-drive", f"file={url},{options}"]


def blockdev(url: Url, initiator: str) -> list[str]:
    """QEMU's arguments for the disk, in the form that libvirt uses."""
    place = f"portal={url.host}:{url.port},target={url.target},lun={url.lun}"
    node = "driver=iscsi,node-name=disk,transport=tcp,cache.direct=on"
    return ["-blockdev", f"{node},{place},initiator-name={initiator}"]


@define
class Qemu:
    """Boots guests in whose QEMU the initiator is.

    Args:
        folder: Where everything goes; short.
    """

    folder: Path
    _kernel: Kernel = field(factory=kernel, init=False)

    def __attrs_post_init__(self) -> None:
        if not any(_DRIVERS.glob("*/qemu/block-iscsi.so")):
            unavailable("QEMU has no iSCSI driver: not installed: qemu-block-extra")

    def boot(self, name: str, disk: Sequence[str]) -> Machine:
        """A guest that was started and is not waited for; it may be one that was killed.

        Args:
            name: Of the guest.
            disk: QEMU's arguments for its disk, and more.
        """
        initrd = self.folder / "guest.initrd"
        if not initrd.exists():
            initrd.write_bytes(initramfs(self._kernel, _MODULES, _PROGRAMS))
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return Machine(name, self.folder, self._kernel, initrd, arguments=[*disk, *_SCSI_BLOCK])


def contender(machine: Machine, key: int) -> Contender:
    """The booted guest, when its disk is there."""
    machine.wait_booted()
    machine.check(WAIT_FOR_DISK)
    return Contender(machine, key, WRITE_EXCLUSIVE)
