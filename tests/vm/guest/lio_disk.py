"""A disk of the kernel's own target, LIO, with two paths: two initiator ports, as two hosts have.

To be imported by what runs in a machine; the modules are loaded.
"""

import os
import subprocess
import time

CORE = "/sys/kernel/config/target/core"
PORTS = "/sys/kernel/config/target/loopback"
SERIAL = "21c2c28a-f1e8-465e-b174-e7d335d341ee"
SIZE = 8 << 20


def put(path, text):
    """Write an attribute."""
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def until(look, what, seconds=600):
    """Wait for something; what it is."""
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.1)
    return found


def disks():
    """Names of all SCSI disks."""
    return {name for name in os.listdir("/sys/block") if name.startswith("sd")}


class Disk:
    """A disk with `paths` paths; known nowhere when the object is made.

    Args:
        number: Tells it from others.
        paths: How many.
        settings: Attributes of the target, by name.
    """

    def __init__(self, number=0, paths=2, **settings):
        if not os.path.isdir(CORE):
            subprocess.run(
                ["mount", "-t", "configfs", "configfs", "/sys/kernel/config"], check=True
            )
        # Where the target keeps reservations that survive power loss.
        os.makedirs("/var/target/pr", exist_ok=True)
        self.core = f"{CORE}/fileio_{number}/disk"
        image = f"/run/lio{number}.img"
        with open(image, "wb") as file:
            file.truncate(SIZE)
        os.makedirs(self.core)
        put(f"{self.core}/control", f"fd_dev_name={image},fd_dev_size={SIZE}")
        put(f"{self.core}/enable", "1")
        put(f"{self.core}/wwn/vpd_unit_serial", f"{number:08x}{SERIAL[8:]}")
        for name, value in settings.items():
            put(f"{self.core}/attrib/{name}", str(value))
        self.ports = [
            f"{PORTS}/naa.50014050000{number:02x}{path:02x}0/tpgt_1" for path in range(paths)
        ]
        self.paths = [self._connect(port) for port in self.ports]

    def _connect(self, port):
        before = disks()
        os.makedirs(f"{port}/lun/lun_0")
        put(f"{port}/nexus", port.split("/")[-2][:-1] + "1")
        os.symlink(self.core, f"{port}/lun/lun_0/disk")
        (name,) = until(lambda: disks() - before, "a disk")
        return until(lambda: os.path.exists(f"/dev/{name}") and f"/dev/{name}", "its node")

    def remove(self):
        """Take it away: no reservation of it is left."""
        for port in self.ports:
            os.unlink(f"{port}/lun/lun_0/disk")
            os.rmdir(f"{port}/lun/lun_0")
            os.rmdir(port)
            os.rmdir(os.path.dirname(port))
        os.rmdir(self.core)
        os.rmdir(os.path.dirname(self.core))
        until(lambda: not any(map(os.path.exists, self.paths)), "the end of the disk")
