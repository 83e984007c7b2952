"""A plain file that QEMU takes for a SCSI disk and whose reservations go to a helper."""

from __future__ import annotations

import subprocess
from pathlib import Path

from attrs import frozen

from tests.support.peers import require

_SOURCE = Path(__file__).with_name("sgshim.c")


def compile_shim(folder: Path) -> Path:
    """The library of ``sgshim.c``, compiled into `folder`."""
    compiler = require("cc")["cc"]
    library = folder / "sgshim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return library


def scsi_block(device: Path, helper: Path) -> list[str]:
    """QEMU's arguments for a disk that is a device of its host.

    Args:
        device: Of the host.
        helper: Socket that PERSISTENT RESERVE commands go to.
    """
    file = f"file.driver=host_device,file.filename={device},file.locking=off"
    # fmt: off
    return [
        "-object", f"pr-manager-helper,id=helper,path={helper}",
        "-blockdev", f"driver=raw,node-name=disk,{file},file.pr-manager=helper",
        "-device", "virtio-scsi-pci",
        "-device", "scsi-block,drive=disk,share-rw=on",
    ]
    # fmt: on


@frozen
class ReservedDisk:
    """A disk for guests: ``scsi-block`` over ``host_device`` with a ``pr-manager-helper``.

    Args:
        image: The plain file; several guests may have it at once.
        shim: The compiled ``sgshim.c``.
    """

    image: Path
    shim: Path

    @property
    def environment(self) -> dict[str, str]:
        """What QEMU's environment needs for the disguise."""
        return {"LD_PRELOAD": str(self.shim), "FLOCKPR_SHIM_DISK": str(self.image)}

    def arguments(self, helper: Path) -> list[str]:
        """QEMU's arguments; its PERSISTENT RESERVE commands go to the socket `helper`."""
        return scsi_block(self.image, helper)
