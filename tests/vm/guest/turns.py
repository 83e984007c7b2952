"""Commits for a while, as somebody who has always something to commit, and prints how that went.

Usage: turns.py ROOT LUN SECONDS NAME

As JSON: how many commits it made, how many commands were BUSY, and how long it waited for the first
one, the median and the longest, in milliseconds.
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

REGISTER = bytes((0x5F, 6, 0, 0, 0, 0, 0, 0, 24, 0))


def main(root, lun, seconds, name):
    """Commit."""
    guest = Nexus(InitiatorPort(f"iqn.2026-01.test:{name}"), 1)
    took, busy = [], 0
    store = LockDirectory(os.path.join(root, lun), serves=True)
    with LogicalUnit(store, door="helper", keep_tidy=False) as unit:
        end = time.monotonic() + float(seconds)
        number = 0
        while time.monotonic() < end:
            number += 1
            data = bytes(8) + number.to_bytes(8, "big") + bytes(8)
            begun = time.monotonic()
            if unit.execute(guest, REGISTER, data, report_attentions=False).status == 0:
                took.append((time.monotonic() - begun) * 1000)
            else:
                busy += 1
    found = {
        "commits": len(took),
        "busy": busy,
        "first": took[0] if took else None,
        "median": statistics.median(took) if took else None,
        "longest": max(took, default=None),
    }
    print(json.dumps(found))


main(*sys.argv[1:])
