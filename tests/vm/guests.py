"""Guests with one reserved disk, and sg_persist in them: what cluster software does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import frozen

from tests.vm.disk import ReservedDisk, compile_shim
from tests.vm.initramfs import initramfs
from tests.vm.kernel import kernel
from tests.vm.machine import Completed, Machine, Running

CONFLICT = 24
"""Exit status of sg_persist for RESERVATION CONFLICT (sg3_utils(8))."""
WRITE_EXCLUSIVE, WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 1, 5
_TYPE_NAMES = {
    WRITE_EXCLUSIVE: "Write Exclusive",
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY: "Write Exclusive, registrants only",
}

MODULES = ("virtio_pci", "virtio_console", "virtio_scsi", "sd_mod", "sg")
_DISK_BYTES = 32 << 20


@frozen
class Registrant:
    """One entry of READ FULL STATUS as sg_persist prints it.

    Args:
        initiator: Name in its TransportID.
        key: Its reservation key.
        holder: Whether it holds the reservation.
    """

    initiator: str
    key: int
    holder: bool


@frozen
class Guest:
    """A machine that has the disk as ``/dev/sda``.

    Args:
        machine: The machine.
        key: The reservation key that it uses.
        type: The type of its reservations.
    """

    machine: Machine
    key: int
    type: int = WRITE_EXCLUSIVE_REGISTRANTS_ONLY

    def start(self, options: str) -> Running:
        """Start sg_persist, without the INQUIRY that it would send first."""
        return self.machine.start(f"sg_persist -n {options} /dev/sda")

    def out(self, options: str) -> Completed:
        """Run PERSISTENT RESERVE OUT to its end."""
        return self.start(f"--out {options}").wait()

    def register(self) -> Completed:
        """Register the key; the guest must not be registered with another."""
        return self.out(f"--register --param-sark={self.key:#x}")

    def reserve(self) -> Completed:
        """Reserve."""
        return self.out(self.reserving)

    @property
    def reserving(self) -> str:
        """The options of `reserve`."""
        return f"--reserve --param-rk={self.key:#x} {self._type}"

    @property
    def _type(self) -> str:
        return f"--prout-type={self.type}"

    def release(self) -> Completed:
        """Release that reservation."""
        return self.out(f"--release --param-rk={self.key:#x} {self._type}")

    def preempt(self, victim: Guest) -> Completed:
        """Take the reservation over and remove the victim's registration."""
        keys = f"--param-rk={self.key:#x} --param-sark={victim.key:#x}"
        return self.out(f"--preempt {keys} {self._type}")

    def read(self, option: str) -> str:
        """Output of a PERSISTENT RESERVE IN that must succeed."""
        done = self.start(f"--in {option}").wait()
        assert done.status == 0, f"{self.machine.name}: {option}: {done}"
        return done.output

    def keys(self) -> set[int]:
        """READ KEYS."""
        return {
            int(key, 16) for key in re.findall(r"^ +(0x[0-9a-f]+)$", self.read("-k"), re.MULTILINE)
        }

    def holder(self) -> int | None:
        """Key of READ RESERVATION; None when nothing is reserved."""
        text = self.read("-r")
        key = re.search(r"Key=(0x[0-9a-f]+)", text)
        if key is None:
            return None
        assert text.rstrip().endswith(f"type: {_TYPE_NAMES[self.type]}"), text
        return int(key[1], 16)

    def full_status(self) -> set[Registrant]:
        """READ FULL STATUS."""
        entries = re.split(r"^ +Key=", self.read("-s"), flags=re.MULTILINE)[1:]
        return {_registrant(entry) for entry in entries}

    def helper_connected(self) -> bool:
        """What QMP query-pr-managers says of the one helper."""
        (manager,) = self.machine.qmp("query-pr-managers")
        assert manager["id"] == "helper"
        return bool(manager["connected"])


def _registrant(entry: str) -> Registrant:
    key = re.match(r"0x[0-9a-f]+", entry)
    name = re.search(r"iSCSI.*: (\S+)", entry)
    assert key is not None, entry
    assert name is not None, entry
    return Registrant(name[1], int(key[0], 16), "Reservation holder" in entry)


@contextmanager
def boot_guests(folder: Path, helpers: dict[str, Path]) -> Iterator[list[Guest]]:
    """Guests over one disk, each with its own helper socket; killed at the end.

    Args:
        folder: Where everything goes; short.
        helpers: Name of each guest, and the socket of its helper, which must accept by now:
            QEMU connects at once and gives up when it cannot.
    """
    shim = compile_shim(folder)
    chosen = kernel()
    initrd = folder / "guest.initrd"
    initrd.write_bytes(initramfs(chosen, MODULES, ["sg_persist"]))
    image = folder / "disk.img"
    with image.open("wb") as stream:
        stream.truncate(_DISK_BYTES)
    disk = ReservedDisk(image, shim)
    with ExitStack() as stack:
        guests = []
        for number, (name, helper) in enumerate(helpers.items(), start=1):
            machine = Machine(
                name,
                folder,
                chosen,
                initrd,
                arguments=disk.arguments(helper),
                environment=disk.environment,
            )
            stack.enter_context(machine)
            guests.append(Guest(machine, key=number << 8 | 0xA0 | number))
        for guest in guests:
            guest.machine.wait_booted()
            guest.machine.check("for i in $(seq 600); do test -b /dev/sda && exit; sleep 0.1; done")
        yield guests
