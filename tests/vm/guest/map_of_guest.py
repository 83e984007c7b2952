"""A guest whose disk is a map of two paths under multipathd, and another host, which is here.

Usage: map_of_guest.py FILE, a shell script that runs QEMU; /run/map is its disk, /run/mpath.sock
the socket of its helper. The guest's part is in nested.sh.

Prints a JSON object: what the guest says, and what the other host sees and is answered.
"""

import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))

from asking import itself
from lio_disk import Disk
from multipath import by_other, daemon, mapped

from flockpr import create_lun
from tests.support.pr_sequences import write

CONSOLE = "/run/guest.console"


class Guest:
    """QEMU, and the disk that its guest has."""

    def __init__(self, script, disk):
        self.other = disk.paths[2]
        with open(CONSOLE, "wb") as console:
            self.qemu = subprocess.Popen(
                ["sh", script], stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )

    def until(self, look, what):
        """Wait for what the guest does to the disk: its keys and its reservation."""
        while not look(*itself(self.other)):
            if self.qemu.poll() is not None:
                raise SystemExit(f"the guest has ended before {what}:\n{said()}")
            time.sleep(1)


def said():
    """What the guest has printed."""
    with open(CONSOLE, encoding="utf-8", errors="replace") as file:
        return file.read()


def contest(guest, disk):
    """The part of the other host, which takes the disk from the guest."""
    found = {}
    guest.until(lambda _, reserved: len(reserved) > 16, "its reservation")
    found["reserved"] = itself(disk.paths[2])
    found["register"] = by_other(disk, write(0, 6, 0, 0xD4))
    found["reserve"] = by_other(disk, write(0, 1, 0xD4, kind=5))
    found["another key"] = by_other(disk, write(0, 0, 0xD4, 0xC3))  # the guest waits for it
    guest.until(lambda _, reserved: len(reserved) == 16, "its release")
    found["released"] = itself(disk.paths[2])
    found["preempt"] = by_other(disk, write(0, 4, 0xC3, 0xA1, kind=5))
    found["preempted"] = itself(disk.paths[2])
    found["reserve now"] = by_other(disk, write(0, 1, 0xC3, kind=5))  # for this as well
    return found


def main():
    """Until the guest ends."""
    disk = Disk(1, 3)
    multipathd, path = mapped(disk)
    os.symlink(path, "/run/map")
    create_lun("/run/root", "another")
    process, _ = daemon("mpath")
    guest = Guest(sys.argv[1], disk)
    found = contest(guest, disk)
    found["code"] = guest.qemu.wait()
    found["said"] = said()
    found["left"] = itself(disk.paths[2])
    for one in (process, multipathd):
        one.terminate()
        one.wait()
    with open("/run/mpath.log", encoding="utf-8") as file:
        found["log"] = file.read()
    print(json.dumps(found))


main()
