"""What a verb of the command line costs on top of the bare interpreter.

Cluster scripts call the command line often, so a verb should have started, that is parsed its
options and found its module, within 100 ms of the interpreter; what the store costs to load
comes on top for the verbs that need it.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time

RUNS = 30

CASES = {
    "bare interpreter": ["-c", "pass"],
    "import flockpr": ["-c", "import flockpr"],
    "flockpr --help": ["-m", "flockpr", "--help"],
    "flockpr lun list": ["-m", "flockpr", "lun", "list"],
    "flockpr status": ["-m", "flockpr", "status"],
}


def once(argv: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Milliseconds by the clock and of the processor that one run took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    subprocess.run([sys.executable, *argv], env=environment, stdout=subprocess.DEVNULL, check=True)
    elapsed = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return elapsed * 1000, used * 1000


def main() -> None:
    """Measure and print."""
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores,")
    print(f"load {os.getloadavg()[0]:.1f}, {RUNS} runs after one to warm up, milliseconds")
    print(f"{'':20}{'median':>8}{'p95':>8}{'cpu min':>9}")
    with tempfile.TemporaryDirectory() as root:
        environment = {**os.environ, "FLOCKPR_ROOT": os.path.join(root, "root")}
        once(["-m", "flockpr", "lun", "create", "disk"], environment)
        for name, argv in CASES.items():
            once(argv, environment)
            runs = [once(argv, environment) for _ in range(RUNS)]
            clock = sorted(elapsed for elapsed, _ in runs)
            tail = clock[int(len(clock) * 0.95)]
            least = min(used for _, used in runs)
            print(f"{name:20}{statistics.median(clock):8.0f}{tail:8.0f}{least:9.0f}")


if __name__ == "__main__":
    main()
