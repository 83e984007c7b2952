"""What a test suite pays for a logical unit with a daemon, up to the first registration.

Beside it: the bare interpreter.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import flockpr
from benchmarks.common import Plan, Remark, Row, interleave
from benchmarks.daemons import LUN, bare_interpreter, first_greeting
from flockpr.manager import FileLockManager
from flockpr.prhelper.identity import Identifier
from flockpr.prhelper.listener import Listener
from flockpr.prhelper.server import HelperServer
from tests.support.daemon_process import register, start

ABOUT = "LUN, daemon and first registration, in one process and as a subprocess"


def measure(plan: Plan) -> Iterator[Row | Remark]:
    """Both ways, on each file system."""
    for kind, folder in plan.file_systems().items():
        ways: dict[str, Callable[[], float]] = {
            "in one process": functools.partial(in_process, plan, folder),
            "as a subprocess": functools.partial(as_subprocess, plan, folder),
            "interpreter": bare_interpreter,
        }
        for way in ways.values():
            way()
        found = interleave(plan.rounds * (1 if plan.quick else 4), ways)
        beside = {"interpreter": found.pop("interpreter")}
        for name, times in found.items():
            yield Row(f"fixture {name}, {kind}", "ms", times, beside)


def in_process(plan: Plan, folder: Path) -> float:
    """Milliseconds in this process, its modules loaded; the end is not counted."""
    root = str(plan.new("fixture", folder) / "root")
    path = str(plan.new("ours") / "s")
    begun = time.perf_counter()
    flockpr.create_lun(root, LUN)
    manager = FileLockManager(
        "fixture", root=root, lun=LUN, door="helper", long_parameter_length=False
    )
    server = HelperServer(Listener.bind(path), manager, Identifier())
    server.start()
    try:
        good = register(path, 0xA1).status == 0
        elapsed = time.perf_counter() - begun
    finally:
        server.stop()
        manager.close()
    if not good:
        raise SystemExit("the registration was not GOOD")
    return elapsed * 1000


def as_subprocess(plan: Plan, folder: Path) -> float:
    """Milliseconds with `flockpr serve`; the logical unit is made by this process."""
    root = str(plan.new("fixture", folder) / "root")
    place = plan.new("ours")
    path = str(place / "s")
    command = [sys.executable, "-m", "flockpr", "serve", "--lun", LUN]
    command += ["--root", root, "--socket", path, "--log-level", "warning"]
    begun = time.perf_counter()
    flockpr.create_lun(root, LUN)
    with start(command, place / "log") as process:
        first_greeting(process, path)
        good = register(path, 0xA1).status == 0
        elapsed = time.perf_counter() - begun
    if not good:
        raise SystemExit("the registration was not GOOD")
    return elapsed * 1000
