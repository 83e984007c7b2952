"""A map of two paths under multipathd, a daemon that passes on to it, and another host.

To be imported by what runs in a machine.
"""

import os
import subprocess
import sys

from asking import DIRECT
from lio_disk import put, until

CONFIGURATION = """
defaults {{
  find_multipaths no
  no_path_retry fail
  polling_interval 1
  max_polling_interval 2
  reservation_key file
  user_friendly_names no
}}
blacklist {{
  devnode "^{other}$"
}}
"""
# A program that is run for each command takes its time in an emulated machine.
DAEMON = """
[serve]
root = "/run/root"
manager = "{kind}"
timeout = 120
[[socket]]
path = "/run/{kind}.sock"
"""


def mapped(disk):
    """The map of the first two paths of a disk, with udevd and multipathd, which looks there."""
    for folder in ("/run/udev", "/run/lock", "/etc/multipath"):
        os.makedirs(folder, exist_ok=True)
    put("/etc/multipath.conf", CONFIGURATION.format(other=os.path.basename(disk.paths[2])))
    for command in (
        ["/lib/systemd/systemd-udevd", "--daemon"],
        ["udevadm", "trigger"],
        ["udevadm", "settle"],
    ):
        subprocess.run(command, check=True, stdout=sys.stderr)
    with open("/run/multipathd.log", "wb") as log:
        multipathd = subprocess.Popen(["multipathd", "-d", "-v2"], stdout=log, stderr=log)

    def found():
        names = set(os.listdir("/dev/mapper")) - {"control"}
        return f"/dev/mapper/{names.pop()}" if names else None

    path = until(found, "the map")
    slaves = f"/sys/block/{os.path.basename(os.path.realpath(path))}/slaves"
    until(lambda: len(os.listdir(slaves)) == 2, "its paths")
    return multipathd, path


def daemon(kind):
    """A daemon of that manager; the path of its socket. The root is there."""
    put(f"/run/{kind}.toml", DAEMON.format(kind=kind))
    command = [sys.executable, "-m", "flockpr", "serve", "--config", f"/run/{kind}.toml"]
    with open(f"/run/{kind}.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    socket = f"/run/{kind}.sock"
    until(lambda: os.path.exists(socket), "the daemon")
    return process, socket


def by_other(disk, command):
    """The status of a command by the path of the other host; not a unit attention."""
    descriptor = os.open(disk.paths[2], os.O_RDWR)
    try:
        for _ in range(3):
            status = DIRECT.run(descriptor, command.cdb, command.data_out).status
            if status != 2:
                break
        return status
    finally:
        os.close(descriptor)
