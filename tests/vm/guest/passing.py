"""Sends the same commands to a disk through one helper, and to the same disk, new, through another.

Usage: passing.py SEED COUNT

Prints a JSON object: by helper, `answers`, for each command its status, sense data and data, in
hexadecimal; `held`, what /proc says of the privileges of its threads; `gone`, what is answered when
the disk is taken away; `code`, how it ended; `as_nobody`, what one that becomes another user has.
And `others`: what daemons of the other managers have, and what a command is answered.
"""

import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(__file__))

from lio_disk import Disk, until

from flockpr import create_lun
from flockpr.prhelper.client import HelperClient
from tests.support.pr_sequences import random_walk, scripted

# A root without any logical unit could be a share that is not mounted: nothing would be passed on.
COMMANDS = {
    "real": ["qemu-pr-helper", "-k", "/run/real.sock"],
    "ours": [
        *(sys.executable, "-m", "flockpr", "serve", "--manager", "sgio", "--root", "/run/root"),
        *("--socket", "/run/ours.sock"),
    ],
}


AS_NOBODY = {
    "real": ["-u", "nobody", "-g", "nogroup"],
    "ours": ["--user", "nobody", "--group", "nogroup"],
}
READ_KEYS = bytes((0x5E, 0, 0, 0, 0, 0, 0, 0, 24, 0))
REPORT_CAPABILITIES = bytes((0x5E, 2, 0, 0, 0, 0, 0, 0, 8, 0))
# Of two managers the last one counts. Each has a command that takes what its daemon keeps.
OTHERS = {
    "ioc-pr": (["--manager", "ioc-pr"], REPORT_CAPABILITIES),
    "ioc-pr-nobody": (["--manager", "ioc-pr", *AS_NOBODY["ours"]], REPORT_CAPABILITIES),
    "mpath": (["--manager", "mpath"], READ_KEYS),
}


def held_by(process):
    """Its users and groups, and its capabilities, of each thread."""
    found = []
    for thread in os.listdir(f"/proc/{process.pid}/task"):
        try:
            with open(f"/proc/{process.pid}/task/{thread}/status", encoding="ascii") as file:
                lines = dict(line.split(":", 1) for line in file)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        ids = {name: sorted({*map(int, lines[name].split())}) for name in ("Uid", "Gid", "Groups")}
        names = ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")
        found.append({**ids, **{name: int(lines[name], 16) for name in names}})
    return found


def kept(title, name, more, cdb):
    """What a helper that is told more has once it serves, and that a disk answers it."""
    disk, socket = Disk(), f"/run/{title}.sock"
    command = [*COMMANDS[name][:-1], socket, *more]
    with open(f"/run/{title}.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    until(lambda: os.path.exists(socket), "the helper")
    descriptor = os.open(disk.paths[0], os.O_RDWR)
    with HelperClient(socket, timeout=600) as client:
        reply = client.execute(descriptor, cdb)
        held = held_by(process)
    os.close(descriptor)
    process.terminate()
    process.wait()
    disk.remove()
    return {"held": held, "answer": (reply.status, reply.sense.hex(), reply.data_in.hex())}


def through(name, sequence):
    """What a helper makes of a sequence, with a disk that was never reserved."""
    disk = Disk()
    with open(f"/run/{name}.log", "wb") as log:
        process = subprocess.Popen(COMMANDS[name], stdout=log, stderr=log)
    until(lambda: os.path.exists(f"/run/{name}.sock"), "the helper")
    descriptors = [os.open(path, os.O_RDWR) for path in disk.paths]
    answers = []
    with HelperClient(f"/run/{name}.sock", timeout=600) as client:
        for sent in sequence:
            try:
                reply = client.execute(descriptors[sent.path], sent.cdb, sent.data_out)
            except OSError as error:
                raise SystemExit(f"{name}: {error}: command {len(answers)}, {sent}") from None
            answers.append((reply.status, reply.sense.hex(), reply.data_in.hex()))
        held = held_by(process)
        disk_gone = after_the_end(client, disk, descriptors)
    process.terminate()
    return {"answers": answers, "held": held, "gone": disk_gone, "code": process.wait()}


def after_the_end(client, disk, descriptors):
    """What is answered for a disk that was taken away under its descriptors."""
    disk.remove()
    found = []
    for descriptor in descriptors:
        reply = client.execute(descriptor, READ_KEYS)
        found.append((reply.status, reply.sense.hex(), reply.data_in.hex()))
        os.close(descriptor)
    return found


def main():
    """Both helpers, one after the other."""
    seed, count = map(int, sys.argv[1:])
    create_lun("/run/root", "another", group="nogroup")
    sequence = [*scripted(), *random_walk(seed, count)]
    found = {name: through(name, sequence) for name in COMMANDS}
    for name, rest in found.items():
        rest["as_nobody"] = kept(f"{name}-nobody", name, AS_NOBODY[name], READ_KEYS)
    found["others"] = {title: kept(title, "ours", *how) for title, how in OTHERS.items()}
    print(json.dumps(found))


main()
