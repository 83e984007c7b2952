"""A guest of QEMU in an emulated machine: emulation within emulation, minutes for a boot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tests.vm.guests import MODULES
from tests.vm.initramfs import initramfs
from tests.vm.kernel import kernel
from tests.vm.machine import KERNEL_ARGUMENTS

# Without ACPI, whose interpreter takes minutes here, a PC restarts through the keyboard's port.
_QUICKER = "acpi=off reboot=k nokaslr clocksource=tsc"


def qemu(folder: Path, role: str, disk: Sequence[str]) -> str:
    """The shell command that runs it in a machine which sees our files; its output is the
    guest's console.

    Args:
        folder: Where its files go.
        role: What it plays of ``guest/nested.sh``.
        disk: QEMU's arguments for its disk.
    """
    chosen = kernel()
    initrd = folder / f"{role}.initrd"
    settings = {"STORY": "/nested.sh", "ROLE": role}
    initrd.write_bytes(initramfs(chosen, MODULES, ["sg_persist"], settings))
    return (
        "exec qemu-system-x86_64 -nodefaults -no-user-config -no-reboot "
        "-machine pc,hpet=off,usb=off -accel tcg,tb-size=64 -cpu qemu64,+rdrand -m 192 "
        f"-display none -serial stdio -kernel {chosen.image} -initrd {initrd} "
        f"-append '{KERNEL_ARGUMENTS} {_QUICKER}' {' '.join(disk)}"
    )


def steps(console: str) -> dict[str, tuple[int, str]]:
    """Exit status of each step of the role, and what was printed since the step before it."""
    parts = re.split(r"^([a-z]+) (\d+)\r?$", console, flags=re.MULTILINE)
    return {
        name: (int(status), text)
        for text, name, status in zip(parts[::3], parts[1::3], parts[2::3], strict=False)
    }
