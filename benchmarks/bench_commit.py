"""Durable PERSISTENT RESERVE OUT, commands a second, on one logical unit.

Beside it: a C loop that does the system calls of one commit, one after the other, on the same
file system, with documents of the same size. Of a logical unit with a database: the lock directory.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterator

import flockpr
from benchmarks.common import (
    Plan,
    Remark,
    Row,
    Sample,
    compile_program,
    interleave,
    row_of,
    run_program,
)
from benchmarks.daemons import LUN, OURS, Door, Load, newest_document
from benchmarks.daemons import flockpr as daemon
from flockpr.store.kinds import SQLITE

ABOUT = "durable PR OUT beside a C loop of commits on the same file system; with a database, too"
MANY = 16
DATABASE = "database"
"""The logical unit that has one."""
CASES = (
    ("REGISTER, 1 conn.", "register", 1),
    ("RESERVE/RELEASE, 1 conn.", "reserve", 1),
    (f"REGISTER, {MANY} conn.", "register", MANY),
)


def measure(plan: Plan) -> Iterator[Row | Remark]:
    """One guest, and many on one logical unit, on each file system."""
    if plan.memory is None:
        yield Remark("no RAM disk (/dev/shm): one file system only")
    for kind, folder in plan.file_systems().items():
        place = plan.new("commit", folder)
        root = place / "root"
        flockpr.create_lun(str(root), LUN)
        flockpr.create_lun(str(root), DATABASE, store=SQLITE)
        device = place / "device"
        device.write_bytes(b"")
        load = Load.prepare(plan, device)
        doors = [Door(lun, number) for lun in (LUN, DATABASE) for number in range(MANY)]
        with daemon(root, plan.new("ours"), doors) as (_, both):
            sockets, database = both[:MANY], both[MANY:]
            for name, operation, connections in CASES:
                load.warm(operation, connections, sockets)
                loads: dict[str, Callable[[], Sample]] = {
                    OURS: functools.partial(load, operation, connections, sockets),
                    "C loop": functools.partial(
                        commits, plan, plan.new("loop", folder), newest_document(root)
                    ),
                }
                found = interleave(plan.rounds, loads)
                more = {"document bytes": newest_document(root)}
                yield row_of(f"{name}, {kind}", OURS, found, more=more)
            for name, operation, connections in CASES:
                load.warm(operation, connections, database)
                loads = {
                    OURS: functools.partial(load, operation, connections, database),
                    "lockdir": functools.partial(load, operation, connections, sockets),
                }
                found = interleave(plan.rounds, loads)
                yield row_of(f"{name}, database, {kind}", OURS, found)


def commits(plan: Plan, folder: pathlib.Path, size: int) -> Sample:
    """The C loop, for a while."""
    program = compile_program(plan, "commit_loop")
    sample = run_program([program, folder, size, plan.seconds], plan.seconds)
    return Sample(sample.rate, sample.median, sample.tail)  # it is no load client
