"""Sends the same commands to a disk through one helper, and to the same disk, new, through another.

Usage: passing.py SEED COUNT

Prints a JSON object: by helper, `answers`, for each command its status, sense data and data, in
hexadecimal; `held`, its capabilities; `devices`, the paths; and what sg_persist says on the way.
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


def held_by(process):
    """Its capabilities."""
    with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return {
        name: int(lines[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")
    }


def through(name, sequence):
    """What a helper makes of a sequence, with a disk that was never reserved."""
    disk = Disk()
    with open(f"/run/{name}.log", "wb") as log:
        process = subprocess.Popen(COMMANDS[name], stdout=log, stderr=log)
    until(lambda: os.path.exists(f"/run/{name}.sock"), "the helper")
    descriptors = [os.open(path, os.O_RDWR) for path in disk.paths]
    answers = []
    with HelperClient(f"/run/{name}.sock", timeout=40) as client:
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
        reply = client.execute(descriptor, bytes((0x5E, 0, 0, 0, 0, 0, 0, 0, 24, 0)))
        found.append((reply.status, reply.sense.hex(), reply.data_in.hex()))
        os.close(descriptor)
    return found


def main():
    """Both helpers, one after the other."""
    seed, count = map(int, sys.argv[1:])
    create_lun("/run/root", "another")
    sequence = [*scripted(), *random_walk(seed, count)]
    print(json.dumps({name: through(name, sequence) for name in COMMANDS}))


main()
