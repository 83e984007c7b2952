"""What a verb of the command line costs on top of the bare interpreter.

Cluster scripts call the command line often, so a verb should have started, that is parsed its
options and found its module, within 100 ms of the interpreter; what the store costs to load
comes on top for the verbs that need it.
"""

from __future__ import annotations

import functools
import os
import resource
import sys
from collections.abc import Iterator, Sequence

import flockpr
from benchmarks.common import Plan, Remark, Row, interleave
from benchmarks.daemons import milliseconds
from tests.support.daemon_process import environment

ABOUT = "what a verb of the command line costs on top of the interpreter"
BARE = "interpreter"
CASES = {
    BARE: ["-c", "pass"],
    "import flockpr": ["-c", "import flockpr"],
    "flockpr --help": ["-m", "flockpr", "--help"],
    "flockpr lun list": ["-m", "flockpr", "lun", "list"],
    "flockpr status": ["-m", "flockpr", "status"],
}


def once(arguments: Sequence[str], root: str) -> tuple[float, float]:
    """Milliseconds by the clock and of the processor that one run took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    elapsed = milliseconds([sys.executable, *arguments], environment(FLOCKPR_ROOT=root))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return elapsed, used * 1000


def measure(plan: Plan) -> Iterator[Row | Remark]:
    """Each verb, after one run to warm up."""
    root = os.path.join(plan.new("startup", plan.folder), "root")
    flockpr.create_lun(root, "disk")
    runs = {name: functools.partial(once, arguments, root) for name, arguments in CASES.items()}
    for run in runs.values():
        run()
    found = interleave(plan.rounds * (1 if plan.quick else 6), runs)
    bare = [elapsed for elapsed, _ in found[BARE]]
    for name, times in found.items():
        more = {"processor at least ms": min(used for _, used in times)}
        beside = {} if name == BARE else {BARE: bare}
        yield Row(name, "ms", [elapsed for elapsed, _ in times], beside, more=more)
