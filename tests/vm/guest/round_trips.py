"""Counts the calls that a mounted NFS share sends to its server, and prints them as JSON.

Usage: round_trips.py ROOT LUN

By what is done: how many calls one of it takes, by operation, out of the client's own count
(/proc/self/mountstats), and how long in milliseconds, the median. `raw` is what a commit cannot do
without: open, write, fsync, close, link, fsync of the folder, unlink.
"""

import json
import os
import statistics
import sys
import time

from flockpr.core.model import Nexus
from flockpr.logical_unit import LogicalUnit
from flockpr.spc.transport_id import InitiatorPort
from flockpr.store.lockdir import LockDirectory
from flockpr.units import Units

TIMES = 12
TURNS = 5
QUIET = 65.0
"""Seconds: longer than two looks of a daemon that has nothing to do."""
GUEST = Nexus(InitiatorPort("iqn.2026-01.test:guest"), 1)
READ_KEYS = bytes((0x5E, 0, 0, 0, 0, 0, 0, 0x20, 0, 0))
REGISTER = bytes((0x5F, 6, 0, 0, 0, 0, 0, 0, 24, 0))


def calls(root):
    """By operation, how many calls the share that a path is on has sent."""
    with open("/proc/self/mountstats") as file:
        devices = file.read().split("\ndevice ")
    place = max((text.split()[3] for text in devices if " fstype nfs" in text), key=len)
    assert root.startswith(place)
    (ours,) = (text for text in devices if f" mounted on {place} " in text)
    lines = ours.partition("per-op statistics\n")[2].splitlines()
    fields = (line.strip().partition(": ") for line in lines)
    return {name: int(numbers.split()[0]) for name, _, numbers in fields if numbers}


def counted(root, times, **works):
    """By name, the calls and the milliseconds that one of it takes, with those of the processor of
    this machine. In turns, so that what else the emulating machine does falls on all alike.
    """
    seen = {what: {"calls": {}, "took": [], "cpu": 0.0} for what in works}
    for turn in range(TURNS):
        for what, work in works.items():
            one = seen[what]
            first = turn * (times + 1)
            work(first)  # what is only done once
            before, cpu = calls(root), time.process_time()
            for number in range(first + 1, first + times + 1):
                begun = time.perf_counter()
                work(number)
                one["took"].append((time.perf_counter() - begun) * 1000)
            one["cpu"] += time.process_time() - cpu
            for name, count in more(before, calls(root), times * TURNS).items():
                one["calls"][name] = one["calls"].get(name, 0) + count
    return {
        what: {
            "calls": one["calls"],
            "ms": statistics.median(one["took"]),
            "cpu": one["cpu"] * 1000 / (times * TURNS),
        }
        for what, one in seen.items()
    }


def more(before, after, times):
    """How many calls there were, of those that there were."""
    return {
        name: (after[name] - before[name]) / times for name in after if after[name] > before[name]
    }


def raw_commits(folder):
    """A commit, by the calls that it cannot do without."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def work(number):
        file = os.open("aside", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=fd)
        os.write(file, b"{" * 1200)
        os.fsync(file)
        os.close(file)
        os.link("aside", f"{number:020}", src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
        os.fsync(fd)
        os.unlink("aside", dir_fd=fd)

    return work


def main(root, lun):
    """Count everything."""
    path = os.path.join(root, lun)
    found = {}
    with LogicalUnit(LockDirectory(path, serves=True), door="helper", keep_tidy=False) as unit:

        def register(number):
            data = bytes(8) + (number + 1).to_bytes(8, "big") + bytes(8)
            assert unit.execute(GUEST, REGISTER, data, report_attentions=False).status == 0

        def read(number):
            assert unit.execute(GUEST, READ_KEYS, report_attentions=False).status == 0

        def publish(number):
            register(number)
            unit.tidy()

        folder = os.path.join(root, "raw")
        os.mkdir(folder)
        found |= counted(root, TIMES, commit=register, raw=raw_commits(folder))
        found |= counted(root, TIMES, read=read)
        found |= counted(root, TIMES, **{"commit and publish": publish})
    found["idle minute"] = idle(root, lun)
    print(json.dumps(found))


def idle(root, lun):
    """The calls in a minute of a daemon that nobody asks anything."""
    units = Units(root)
    units.attend(lun, GUEST)
    assert units.submit(lun, GUEST, READ_KEYS, report_attentions=False).result().status == 0
    time.sleep(2)
    before = calls(root)
    time.sleep(QUIET)
    after = calls(root)
    units.close()
    return {"calls": more(before, after, QUIET / 60), "ms": 0.0, "cpu": 0.0}


main(*sys.argv[1:])
