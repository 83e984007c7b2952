"""A map of two paths under multipathd, and daemons that pass on to it; the third path is that of
another host.

Prints a JSON object: by step, what was answered and what the disk itself has then.
"""

import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(__file__))

from asking import Steps, asked, itself
from lio_disk import Disk, put, until
from multipath import by_other, daemon, mapped

from flockpr import create_lun
from flockpr.prhelper.client import HelperClient
from tests.support.pr_sequences import Sent, read, write

SHORT = Sent(0, bytes((0x5F, 1, 5, 0, 0, 0, 0, 0, 23, 0)), bytes(23))


def state(path, text):
    """Take a path away, or give it back; multipathd knows."""
    name = os.path.basename(path)
    put(f"/sys/block/{name}/device/state", f"{text}\n")  # not without the newline
    wanted = "failed" if text == "offline" else "active"

    def known():
        show = ["multipathd", "show", "paths", "format", "%d %t"]
        told = subprocess.run(show, capture_output=True, check=True, text=True).stdout
        return any(line.split() == [name, wanted] for line in told.splitlines())

    until(known, f"{name} {wanted}")


def changes(steps, path, disk, found):
    """Each change on all paths; refusals; with one path."""
    other = disk.paths[2]
    steps.send("keys of nobody", path, read(0, 0), other)
    steps.send("register", path, write(0, 0, 0, 0xA1), other)
    found["other registers"] = by_other(disk, write(0, 6, 0, 0xC3))
    steps.send("reserve", path, write(0, 1, 0xA1, kind=5), other)
    found["other reserves"] = by_other(disk, write(0, 1, 0xC3, kind=5))
    steps.send("wrong key", path, write(0, 1, 0xBAD, kind=5), other)
    steps.send("release of another type", path, write(0, 2, 0xA1, kind=1), other)
    for action, what in ((0, "keys"), (1, "reservation"), (2, "capabilities")):
        steps.send(what, path, read(0, action), other)
    steps.send("cut", path, read(0, 0, 12), other)
    steps.send("full status", path, read(0, 3), other)
    steps.send("move", path, write(0, 7, 0xA1, 0xB2), other)
    steps.send("a list that is too short", path, SHORT, other)
    steps.send("ports named", path, write(0, 6, 0, 0xA1, flags=8), other)
    for one in disk.paths[:2]:
        state(one, "offline")
        steps.send("release with one path", path, write(0, 2, 0xA1, kind=5), other)
        state(one, "running")
        steps.send("reserve again", path, write(0, 1, 0xA1, kind=5), other)
    state(disk.paths[0], "offline")
    steps.send("keys by one path", path, read(0, 0), other)
    steps.send("preempt by one path", path, write(0, 4, 0xA1, 0xC3, kind=5), other)
    state(disk.paths[0], "running")
    steps.send("release", path, write(0, 2, 0xA1, kind=5), other)
    steps.send("another key", path, write(0, 0, 0xA1, 0xD4), other)
    steps.send("unregister", path, write(0, 0, 0xD4, 0), other)
    steps.send("register to last", path, write(0, 6, 0, 0xE5, flags=1), other)
    steps.send("clear", path, write(0, 3, 0xE5), other)
    for one in disk.paths[:2]:
        state(one, "offline")
    steps.send("keys without a path", path, read(0, 0), other)
    steps.send("register without a path", path, write(0, 6, 0, 0xF6), other)
    steps.send("no map", other, read(0, 0), other)


def called(steps, path, disk):
    """By the kernel's calls, which go to the paths as the kernel chooses."""

    def settled():
        for one in disk.paths:
            itself(one)  # and no unit attention of the path is left

    other = disk.paths[2]
    settled()
    steps.send("register", path, write(0, 6, 0, 0xA1), other)
    registered = by_other(disk, write(0, 6, 0, 0xC3))
    steps.send("reserve", path, write(0, 1, 0xA1, kind=1), other)
    reserved = by_other(disk, write(0, 1, 0xC3, kind=1))
    steps.send("wrong key", path, write(0, 1, 0xBAD, kind=1), other)
    steps.send("release", path, write(0, 2, 0xA1, kind=1), other)
    settled()
    steps.send("reserve for registrants", path, write(0, 1, 0xA1, kind=5), other)
    steps.send("release for registrants", path, write(0, 2, 0xA1, kind=5), other)
    settled()
    steps.send("preempt", path, write(0, 4, 0xA1, 0xC3, kind=5), other)
    steps.send("clear", path, write(0, 3, 0xA1), other)
    steps.send("read keys", path, read(0, 0), other)
    settled()
    return registered, reserved


def main():
    """All of it."""
    disk = Disk(1, 3)
    multipathd, path = mapped(disk)
    create_lun("/run/root", "another")
    found = {}
    process, socket = daemon("ioc-pr")
    with HelperClient(socket, timeout=600) as client:
        steps = Steps(client)
        found["other and calls"] = called(steps, path, disk)
        found["called"] = steps.done
    process.terminate()
    process.wait()
    process, socket = daemon("mpath")
    with HelperClient(socket, timeout=600) as client:
        with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        found["held"] = {name: int(lines[name], 16) for name in ("CapEff", "CapInh", "CapBnd")}
        steps = Steps(client)
        changes(steps, path, disk, found)
    descriptor = os.open(disk.paths[2], os.O_RDWR)
    found["capabilities"] = asked(descriptor, 2).hex()
    os.close(descriptor)
    found["steps"] = steps.done
    process.terminate()
    found["code"] = process.wait()
    multipathd.terminate()
    multipathd.wait()
    with open("/run/mpath.log", encoding="utf-8") as file:
        found["log"] = file.read()
    print(json.dumps(found))


main()
