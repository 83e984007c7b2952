"""What to paste into QEMU's command line."""

from __future__ import annotations

import shlex

from flockpr.daemon.settings import Settings


def qemu_options(path: str) -> str:
    """QEMU's options for one disk with reservations answered at the socket `path`.

    DEVICE stands for the disk: only a SCSI device works (scsi-block on host_device), because
    nothing else makes QEMU ask a pr-manager.
    """
    value = shlex.quote(f"pr-manager-helper,id=flockpr,path={path.replace(',', ',,')}")
    return " \\\n".join(
        (
            f"  -object {value}",
            "  -blockdev driver=host_device,node-name=disk0,filename=DEVICE,pr-manager=flockpr",
            "  -device virtio-scsi-pci,id=scsi0 -device scsi-block,bus=scsi0.0,drive=disk0",
        )
    )


def announcement(settings: Settings) -> str:
    """What somebody who started the daemon without any option has to know."""
    socket = settings.sockets[0]
    root = shlex.quote(settings.root)
    return (
        f"flockpr serves {socket.path} from {settings.root}\n"
        "\n"
        "Make a logical unit for each disk, once, on any host that shares the root:\n"
        f"  flockpr lun create NAME --root {root} --wwid WWID\n"
        "\n"
        "Give QEMU (DEVICE is a SCSI disk such as /dev/sdb):\n"
        f"{qemu_options(socket.path)}\n"
    )
