"""Serves a disk of the kernel's target by one helper, to a QEMU outside of this machine.

Usage: serve_disk.py real|sgio|ioc-pr PORT

/run/serving says that it does; it ends, and the disk with it, when there is /run/stop.
"""

import os
import socket
import subprocess
import sys

sys.path.insert(0, os.path.dirname(__file__))

from lio_disk import Disk, until

from flockpr import create_lun

BRIDGE = os.path.join(os.path.dirname(__file__), "bridge.py")
SOCKET = "/run/disk.sock"
REAL = ("qemu-pr-helper", "-k", SOCKET)
OURS = (sys.executable, "-m", "flockpr", "serve", "--root", "/run/served", "--socket", SOCKET)


def listens(port):
    """Whether somebody accepts there."""
    try:
        socket.create_connection(("127.0.0.1", port), 60).close()
    except OSError:
        return False
    return True


def main():
    """Until it is told to stop."""
    name, port = sys.argv[1:]
    if not os.path.exists("/run/served"):
        create_lun("/run/served", "another")
    disk = Disk(7, 1)
    helper = subprocess.Popen(REAL if name == "real" else [*OURS, "--manager", name])
    until(lambda: os.path.exists(SOCKET), "the helper")
    bridge = subprocess.Popen([sys.executable, BRIDGE, port, SOCKET, disk.paths[0]])
    until(lambda: listens(int(port)), "the bridge")
    with open("/run/serving", "w", encoding="ascii"):
        pass
    until(lambda: os.path.exists("/run/stop"), "the end", 3600)
    for process in (bridge, helper):
        process.terminate()
        process.wait()
    disk.remove()
    os.unlink("/run/serving")
    os.unlink("/run/stop")


main()
