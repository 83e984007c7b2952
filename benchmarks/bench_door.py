"""PERSISTENT RESERVE IN through the helper door, round trips a second.

Beside it: a C server that does no more than the system calls, and the real qemu-pr-helper, which
answers that a file is no SCSI device. The same C client loads all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import flockpr
from benchmarks.common import Plan, Remark, Row, Sample, Unavailable, interleave, row_of
from benchmarks.daemons import LOOKED_UP, LUN, OURS, Door, Load, echo, qemu
from benchmarks.daemons import flockpr as daemon
from tests.support.daemon_process import register

ABOUT = "PR IN at the helper door beside a C echo server and qemu-pr-helper"
CONNECTIONS = (1, 4, 16)
OPERATIONS = {"READ KEYS": "keys", "READ RESERVATION": "reservation"}


def measure(plan: Plan) -> Iterator[Row | Remark]:
    """Both commands, with a LUN that is fixed and with one looked up by the image."""
    root = plan.new("door", plan.best) / "root"
    flockpr.create_lun(str(root), LUN, image="disk.img")
    image = root / "disk.img"
    image.write_bytes(bytes(4096))
    load = Load.prepare(plan, image)
    doors = (Door(), Door(LOOKED_UP))
    with ExitStack() as stack:
        _, (fixed, looked_up) = stack.enter_context(daemon(root, plan.new("ours"), doors))
        register(fixed, 0xA1)
        sockets = {"echo": stack.enter_context(echo(plan, plan.new("echo")))}
        try:
            sockets["qemu"] = stack.enter_context(qemu(plan.new("qemu")))
        except Unavailable as error:
            yield Remark(f"without qemu-pr-helper: {error}")
        for how, own in {"fixed LUN": fixed, "LUN by image": looked_up}.items():
            for name, operation in OPERATIONS.items():
                for connections in CONNECTIONS:
                    sides = {OURS: own, **sockets}
                    yield _row(plan, load, sides, (name, operation, how, connections))


def _row(plan: Plan, load: Load, sides: dict[str, str], case: tuple[str, str, str, int]) -> Row:
    name, operation, how, connections = case
    loads: dict[str, Callable[[], Sample]] = {}
    for who, path in sides.items():
        load.warm(operation, connections, [path])
        # The real helper refuses: a file is no SCSI device.
        loads[who] = functools.partial(load, operation, connections, [path], good=who != "qemu")
    found = interleave(plan.rounds, loads)
    return row_of(f"{name}, {how}, {connections} conn.", OURS, found)
