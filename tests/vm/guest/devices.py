"""One daemon that chooses, and disks: emulated, passed on, and by the kernel's calls.

Prints a JSON object: by step, what was answered and what the disk itself has then.
"""

import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(__file__))

from asking import DIRECT, Steps
from lio_disk import Disk, until

from flockpr import create_lun
from flockpr.manager.device import identify_device
from flockpr.prhelper.client import HelperClient
from tests.support.pr_sequences import read, write

ROOT, CONFIG = "/run/chosen", "/run/chosen.toml"
SOCKETS = {"auto": "/run/auto.sock", "sgio": "/run/sgio.sock"}
FLOCKPR = (sys.executable, "-m", "flockpr")


def wwid(path):
    """The identifier of a device, as its first name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return identify_device(descriptor).wwids[0]
    finally:
        os.close(descriptor)


def linear(path, name):
    """A map of the device mapper over a whole disk."""
    with open(f"/sys/block/{os.path.basename(path)}/size", encoding="ascii") as file:
        sectors = int(file.read())
    command = ["dmsetup", "create", name, "--noudevsync", "--uuid", f"LVM-{name}"]
    subprocess.run([*command, "--table", f"0 {sectors} linear {path} 0"], check=True)
    subprocess.run(["dmsetup", "mknodes", "--noudevsync"], check=True)
    node = f"/dev/mapper/{name}"
    return until(lambda: os.path.exists(node) and node, "the map")


def configure(emulated, called):
    """A root in which a disk is emulated, and a configuration."""
    create_lun(ROOT, "emulated", wwids=[wwid(emulated)])
    with open(CONFIG, "w", encoding="ascii") as file:
        file.write(f'[serve]\nroot = "{ROOT}"\n')
        file.writelines(
            f'[[socket]]\npath = "{path}"\nmanager = "{kind}"\n' for kind, path in SOCKETS.items()
        )
        file.write("[devices]\n" + "".join(f'"{name}" = "ioc-pr"\n' for name in called))


def changes(steps, paths, disk):
    """By the kernel's calls: each change, and refusals."""
    one, two = paths
    steps.send("register", one, write(0, 0, 0, 0xA1), disk)
    steps.send("register the other", two, write(0, 6, 0, 0xB2), disk)
    steps.send("reserve", one, write(0, 1, 0xA1, kind=5), disk)
    steps.send("reserve by the other", two, write(0, 1, 0xB2, kind=5), disk)
    steps.send("wrong key", one, write(0, 2, 0xBAD, kind=5), disk)
    steps.send("release", one, write(0, 2, 0xA1, kind=5), disk)
    steps.send("reserve again", one, write(0, 1, 0xA1, kind=8), disk)
    steps.send("release again", one, write(0, 2, 0xA1, kind=8), disk)
    steps.send("reserve for one", one, write(0, 1, 0xA1, kind=1), disk)
    # The releases have left a unit attention on this path, whose sense data the kernel has.
    steps.send("unit attention", two, write(0, 4, 0xB2, 0xA1, kind=3), disk)
    steps.send("preempt", two, write(0, 4, 0xB2, 0xA1, kind=3), disk)
    steps.send("unregistered", one, write(0, 1, 0xA1, kind=3), disk)
    steps.send("register anew", one, write(0, 0, 0, 0xC3), disk)
    steps.send("unregister", one, write(0, 0, 0xC3, 0), disk)
    steps.send("clear", two, write(0, 3, 0xB2), disk)
    steps.send("capabilities", one, read(0, 2), disk)
    steps.send("read keys", one, read(0, 0), disk)
    steps.send("full status", one, read(0, 3), disk)
    steps.send("move", one, write(0, 7, 0xA1, 0xB2), disk)


def main():
    """All of it."""
    emulated, passed, called, mapped = Disk(1, 1), Disk(2, 1), Disk(3, 2), Disk(4, 1)
    disk = mapped.paths[0]
    name, over = linear(disk, "map"), linear(emulated.paths[0], "over")
    configure(emulated.paths[0], [wwid(called.paths[0]), "LVM-map", "LVM-over"])
    with open("/run/chosen.log", "wb") as log:
        daemon = subprocess.Popen([*FLOCKPR, "serve", "--config", CONFIG], stdout=log, stderr=log)
    until(lambda: all(map(os.path.exists, SOCKETS.values())), "the daemon")
    found = {}
    with (
        HelperClient(SOCKETS["auto"], timeout=600) as client,
        HelperClient(SOCKETS["sgio"], timeout=600) as other,
    ):
        with open(f"/proc/{daemon.pid}/status", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        found["held"] = {key: int(lines[key], 16) for key in ("CapEff", "CapPrm", "CapBnd")}
        steps = Steps(client)
        for path, what in ((emulated.paths[0], "emulated"), (passed.paths[0], "passed")):
            steps.send(f"{what}: register", path, write(0, 6, 0, 0xA1), path)
            steps.send(f"{what}: reserve", path, write(0, 1, 0xA1, kind=5), path)
            steps.send(f"{what}: read", path, read(0, 0), path)
        steps.send("emulated: by a map", over, write(0, 6, 0, 0xA1), emulated.paths[0])
        steps.client = other
        steps.send(
            "emulated: passed on", emulated.paths[0], write(0, 6, 0, 0xA1), emulated.paths[0]
        )
        steps.send("passed: passed on", passed.paths[0], read(0, 0), passed.paths[0])
        found["chosen"] = steps.done
        steps = Steps(client)
        changes(steps, called.paths, called.paths[0])
        found["called"] = steps.done
        steps = Steps(client)
        steps.send("register", name, write(0, 0, 0, 0xA1), disk)
        steps.send("reserve", name, write(0, 1, 0xA1, kind=5), disk)
        steps.send("clear", name, write(0, 3, 0xA1), disk)
        found["mapped"] = steps.done
    descriptor = os.open(emulated.paths[0], os.O_RDWR)
    command = write(0, 6, 0, 0xD4)
    DIRECT.run(descriptor, command.cdb, command.data_out)
    os.close(descriptor)
    doctor = [*FLOCKPR, "doctor", "--config", CONFIG, "--json"]
    found["doctor"] = json.loads(subprocess.run(doctor, capture_output=True, check=True).stdout)
    daemon.terminate()
    found["code"] = daemon.wait()
    with open("/run/chosen.log", encoding="utf-8") as file:
        found["log"] = file.read()
    print(json.dumps(found))


main()
