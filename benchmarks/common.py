"""What the benchmarks share: how long and where, rounds in turn, a row of figures."""

from __future__ import annotations

import os
import pathlib
import platform
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import attrs

SOURCES = pathlib.Path(__file__).parent
LIMIT = 0.5
"""Share of a core above which the load client itself may be what limits a figure."""

T = TypeVar("T")


class Unavailable(Exception):
    """A benchmark cannot run here; the text says why."""


@attrs.frozen
class Remark:
    """Something to say beside the rows: what was left out, and why."""

    text: str


@attrs.frozen
class Sample:
    """What one run of a load gave.

    Attributes:
        rate: Commands a second.
        median: Time of a command, in microseconds.
        tail: The 99th percentile of these times, in microseconds.
        cpu: How much of one core the load client used.
        refused: How many answers were not GOOD.
        each: Commands of each connection.
        count: How many commands were answered.
    """

    rate: float
    median: float
    tail: float
    cpu: float = 0.0
    refused: int = 0
    each: tuple[int, ...] = ()
    count: int = 0

    @classmethod
    def parse(cls, text: str) -> Sample:
        """Read what the C programs print."""
        first, *more = text.splitlines()
        count, elapsed, median, tail, *rest = first.split()
        cpu, refused = (float(rest[0]), int(rest[1])) if rest else (0.0, 0)
        each = tuple(int(word) for line in more for word in line.split())
        rate = int(count) / float(elapsed)
        return cls(rate, float(median), float(tail), cpu, refused, each, int(count))


@attrs.frozen
class Row:
    """A figure of ours beside those of its counterparts.

    Attributes:
        name: What was measured.
        unit: Of the values: `1/s`, `ms` ...
        ours: A value for each round.
        theirs: Likewise for each counterpart, of the same rounds.
        median: Median time of a command, in microseconds.
        tail: The 99th percentile, in microseconds.
        more: Further figures by their names.
        note: For people.
    """

    name: str
    unit: str
    ours: Sequence[float]
    theirs: Mapping[str, Sequence[float]] = attrs.field(factory=dict)
    median: float | None = None
    tail: float | None = None
    more: Mapping[str, float] = attrs.field(factory=dict)
    note: str = ""

    def ratios(self, other: str) -> list[float]:
        """Ours divided by theirs, round by round."""
        pairs = zip(self.ours, self.theirs[other], strict=True)
        return [own / their for own, their in pairs if their]


@attrs.frozen
class Plan:
    """How long and where to measure.

    Attributes:
        scratch: A folder of this run.
        folder: A folder of this run on the file system to measure, not a RAM disk.
        memory: A folder of this run on a RAM disk, if there is one.
        rounds: How often everything is measured.
        seconds: Of each run of a load.
        quick: Fewer and smaller cases, to see that they still run.
        fsync: Milliseconds that each fsync takes instead of what the disk takes; None: the disk.
    """

    scratch: pathlib.Path
    folder: pathlib.Path
    memory: pathlib.Path | None
    rounds: int = 5
    seconds: float = 1.0
    quick: bool = False
    fsync: float | None = None

    @property
    def best(self) -> pathlib.Path:
        """Where the disk costs least: for figures of the processor."""
        return self.memory or self.folder

    def file_systems(self) -> dict[str, pathlib.Path]:
        """Where durable commands are measured, by the name of the file system."""
        folders = [self.folder] + ([self.memory] if self.memory else [])
        return {file_system(folder): folder for folder in folders}

    def new(self, name: str, under: pathlib.Path | None = None) -> pathlib.Path:
        """A folder that is not there yet."""
        parent = self.scratch if under is None else under
        number = 0
        while (path := parent / f"{name}{number}").exists():
            number += 1
        path.mkdir()
        return path


class Benchmark(Protocol):
    """A module with a benchmark."""

    ABOUT: str

    def measure(self, plan: Plan) -> Iterator[Row | Remark]:
        """Measure; a row as soon as it is known."""


def compile_program(plan: Plan, name: str, *libraries: str) -> pathlib.Path:
    """Compile one of the C programs beside this file, once in a run.

    Raises:
        Unavailable: There is no compiler.
    """
    program = plan.scratch / name
    if program.exists():
        return program
    if shutil.which("cc") is None:
        raise Unavailable("there is no C compiler (cc)")
    source = SOURCES / f"{name}.c"
    command = ["cc", "-O2", "-o", str(program), str(source), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{source.name} cannot be compiled:\n{done.stderr}")
    return program


def run_program(command: Sequence[object], seconds: float) -> Sample:
    """Run one of the C programs, which ends by itself after about so many seconds."""
    words = [str(word) for word in command]
    patience = 120 + 10 * seconds
    done = subprocess.run(words, capture_output=True, text=True, timeout=patience, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr}")
    return Sample.parse(done.stdout)


def interleave(rounds: int, loads: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Run everything once in every round, another one first each time.

    What else the machine does then falls on all of them, and a ratio is one of a round.
    """
    found: dict[str, list[T]] = {name: [] for name in loads}
    names = list(loads)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(loads[name]())
    return found


def row_of(name: str, ours: str, found: Mapping[str, Sequence[Sample]], **more: Any) -> Row:
    """A row of rates: one of the loads is ours, the others are counterparts."""
    own = found[ours]
    busy = {
        who: share
        for who, samples in found.items()
        if (share := statistics.median(sample.cpu for sample in samples)) > LIMIT
    }
    note = more.pop("note", "")
    if busy:
        shares = ", ".join(f"{who} {share:.2f}" for who, share in busy.items())
        note = f"{note}; " * bool(note) + f"load client above {LIMIT} of a core: {shares}"
    return Row(
        name,
        "1/s",
        [sample.rate for sample in own],
        {who: [sample.rate for sample in samples] for who, samples in found.items() if who != ours},
        statistics.median(sample.median for sample in own),
        statistics.median(sample.tail for sample in own),
        note=note,
        **more,
    )


def file_system(folder: pathlib.Path) -> str:
    """The name of the file system that a folder is on."""
    path = os.path.realpath(folder)
    best, kind = "", "unknown"
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            _, point, found, *_ = line.split()
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, found
    return kind


def machine(plan: Plan) -> dict[str, Any]:
    """Where and on what this was measured."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "quick": plan.quick,
        "fsync": plan.fsync,
        "file systems": list(plan.file_systems()),
    }
