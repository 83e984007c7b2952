"""`flockpr target` and tgt side by side: reads, writes and reservations, commands a second.

Every round gives the same load to each target in turn, so that what else the machine does
falls on all of them; a ratio is taken within a round. tgt runs as it comes, through the page
cache, and once more with O_DIRECT, which is how flockpr reads and writes. tgt keeps
reservations in memory, flockpr answers when they are on stable storage.
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from attrs import frozen

from benchmarks import runner
from benchmarks.common import (
    Plan,
    Remark,
    Row,
    Sample,
    Unavailable,
    compile_program,
    interleave,
    row_of,
    run_program,
)
from tests.support.peers import find
from tests.support.targets import FlockprTarget, Tgt, Url, create_lun

ABOUT = "reads, writes and PR commands at `flockpr target` beside tgt"
OURS = "flockpr"
DISK_BYTES = 128 << 20
KIB = 1024


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


def run(program: pathlib.Path, url: Url, case: Case, seconds: float) -> Sample:
    """Load one target."""
    return run_program([program, url, case.operation, case.size, case.depth, seconds], seconds)


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


def measure(plan: Plan) -> Iterator[Row | Remark]:
    """Every kind of load at each target, warmed up."""
    missing = [name for name in ("tgtd", "tgtadm") if find(name) is None]
    if missing:
        raise Unavailable(f"not installed: {', '.join(missing)} (tgt)")
    program = compile_program(plan, "iscsi_load", "-liscsi")  # Debian's libiscsi-dev
    folder = plan.new("target", plan.folder)
    with ExitStack() as stack:
        urls = start(folder, stack)
        fill(folder)
        for case in CASES:
            for url in urls.values():
                run(program, url, case, plan.seconds / 10)
            loads = {
                name: functools.partial(run, program, url, case, plan.seconds)
                for name, url in urls.items()
            }
            yield row_of(case.name, OURS, interleave(plan.rounds, loads))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    runner.add_options(parser)
    chosen = parser.parse_args(arguments)
    with runner.planned(chosen) as plan:
        runner.run_all(plan, {"target": measure})


if __name__ == "__main__":
    main()
