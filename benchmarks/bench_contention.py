"""Several daemons on one logical unit, as on several hosts: who gets how much.

Beside it: one daemon alone in the same round. Each daemon has one guest that registers again
and again. Fairness is the least over the greatest number of commands that a daemon got.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import flockpr
from benchmarks.common import Plan, Remark, Row, Sample, interleave, row_of
from benchmarks.daemons import LUN, Door, Load
from benchmarks.daemons import flockpr as daemon

ABOUT = "2, 4, 8 daemons on one LUN beside one daemon"
DAEMONS = (1, 2, 4, 8)
ALONE = "1 daemon"


def measure(plan: Plan) -> Iterator[Row | Remark]:
    """Every number of daemons, on each file system."""
    numbers = DAEMONS[:2] if plan.quick else DAEMONS
    for kind, folder in plan.file_systems().items():
        place = plan.new("contention", folder)
        root = place / "root"
        flockpr.create_lun(str(root), LUN)
        device = place / "device"
        device.write_bytes(b"")
        load = Load.prepare(plan, device)
        with ExitStack() as stack:
            sockets: list[str] = []
            for number in range(max(numbers)):
                door = Door(initiator=number)
                _, paths = stack.enter_context(daemon(root, plan.new("ours"), [door]))
                sockets += paths
            loads: dict[str, Callable[[], Sample]] = {}
            for number in numbers:
                load.warm("register", number, sockets[:number])
                name = ALONE if number == 1 else f"{number} daemons"
                loads[name] = functools.partial(load, "register", number, sockets[:number])
            found = interleave(plan.rounds, loads)
        for name, samples in found.items():
            if name != ALONE:
                fair = statistics.median(min(got.each) / max(got.each) for got in samples)
                both = {name: samples, ALONE: found[ALONE]}
                yield row_of(f"{name}, {kind}", name, both, more={"fairness": fair})
