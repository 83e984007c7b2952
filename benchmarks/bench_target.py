"""`flockpr target` and tgt side by side: reads, writes and reservations, commands a second.

Every round gives the same load to each target in turn, so that what else the machine does
falls on all of them; a ratio is taken within a round. tgt runs as it comes, through the page
cache, and once more with O_DIRECT, which is how flockpr reads and writes. tgt keeps
reservations in memory, flockpr answers when they are on stable storage.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from attrs import frozen

from tests.support.targets import FlockprTarget, Tgt, Url, create_lun

OURS = "flockpr"
DISK_BYTES = 128 << 20
KIB = 1024

_SOURCE = pathlib.Path(__file__).with_name("iscsi_load.c")


@frozen
class Case:
    """One kind of load.

    Args:
        name: For the table.
        operation: Of iscsi_load.
        size: Bytes of each command.
        depth: Commands under way at once.
    """

    name: str
    operation: str
    size: int
    depth: int


CASES = [
    *(
        Case(f"{operation} {size // KIB} KiB, depth {depth}", operation, size, depth)
        for operation in ("read", "write")
        for size in (4 * KIB, 256 * KIB)
        for depth in (1, 32)
    ),
    Case("PR IN, READ KEYS", "keys", 4 * KIB, 1),
    Case("PR OUT, REGISTER", "register", 4 * KIB, 1),
]


@frozen
class Sample:
    """What one run of the load gave.

    Args:
        rate: Commands a second.
        median: Time of a command, in microseconds.
        tail: The 99th percentile of these times, in microseconds.
    """

    rate: float
    median: int
    tail: int


def compile_load(folder: pathlib.Path) -> pathlib.Path:
    """The load client, compiled into a folder; needs Debian's libiscsi-dev."""
    program = folder / "iscsi_load"
    subprocess.run(["cc", "-O2", "-o", str(program), str(_SOURCE), "-liscsi"], check=True)
    return program


def run(program: pathlib.Path, url: Url, case: Case, seconds: float) -> Sample:
    """Load one target."""
    # fmt: off
    command = [
        str(program), str(url), case.operation, str(case.size), str(case.depth), str(seconds),
    ]
    # fmt: on
    patience = 120 + 10 * seconds
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
    if done.returncode:
        raise SystemExit(f"{case.name} at {url}: {done.stderr}")
    count, elapsed, median, tail = done.stdout.split()
    return Sample(int(count) / float(elapsed), int(median), int(tail))


def start(folder: pathlib.Path, stack: ExitStack) -> Mapping[str, Url]:
    """The targets, each with a disk of its own on the same file system, all written once."""
    urls = {}
    create_lun(folder / "root", "disk", DISK_BYTES)
    ours = stack.enter_context(FlockprTarget(folder / "root", folder / "target"))
    urls[OURS] = ours.url()
    for number, (name, options) in enumerate({"tgt": [], "tgt direct": ["-f", "direct"]}.items()):
        image = folder / f"tgt{number}.img"
        with image.open("wb") as stream:
            stream.truncate(DISK_BYTES)
        tgt = stack.enter_context(Tgt(image, folder, options, number))
        urls[name] = tgt.urls[0]
    return urls


def fill(folder: pathlib.Path) -> None:
    """Give every disk blocks of its own: to read a hole costs nothing."""
    for image in (*folder.glob("*.img"), *folder.glob("root/images/*.img")):
        with image.open("r+b") as stream:
            for _ in range(DISK_BYTES >> 20):
                stream.write(os.urandom(1 << 20))
            os.fsync(stream.fileno())


def measure(
    program: pathlib.Path, urls: Mapping[str, Url], case: Case, rounds: int, seconds: float
) -> Mapping[str, Sequence[Sample]]:
    """Load each target in every round, another one first each time."""
    samples: dict[str, list[Sample]] = {name: [] for name in urls}
    names = list(urls)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(run(program, urls[name], case, seconds))
    return samples


def line(case: Case, samples: Mapping[str, Sequence[Sample]]) -> str:
    """A row of the table."""
    ours = samples[OURS]
    rate = statistics.median(sample.rate for sample in ours)
    median = statistics.median(sample.median for sample in ours)
    tail = statistics.median(sample.tail for sample in ours)
    cells = [f"{case.name:26}{rate:9.0f}{median:8.0f}{tail:8.0f}"]
    for name, theirs in samples.items():
        if name == OURS:
            continue
        ratios = [own.rate / other.rate for own, other in zip(ours, theirs, strict=True)]
        rate = statistics.median(sample.rate for sample in theirs)
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        cells.append(f"{rate:12.0f}  {spread:18}")
    return "".join(cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--folder", help="where the disks go, not a RAM disk (default: TMPDIR)")
    chosen = parser.parse_args(arguments)
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores,")
    print(f"load {os.getloadavg()[0]:.1f}, {chosen.rounds} rounds of {chosen.seconds} s; medians,")
    print("ratios flockpr / tgt (least-most of the rounds)")
    print(f"{'':26}{'flockpr/s':>9}{'us':>8}{'p99 us':>8}{'tgt/s':>12}  {'ratio':18}", end="")
    print(f"{'direct/s':>12}  ratio")
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name, ExitStack() as stack:
        folder = pathlib.Path(name)
        program = compile_load(folder)
        urls = start(folder, stack)
        fill(folder)
        for case in CASES:
            for url in urls.values():
                run(program, url, case, chosen.seconds / 10)  # to warm up
            print(line(case, measure(program, urls, case, chosen.rounds, chosen.seconds)))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
