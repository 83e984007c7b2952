"""Helpers to be measured, as processes, and the load that is put on them."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import attrs

from benchmarks.common import Plan, Sample, Unavailable, compile_program, run_program
from tests.support.daemon_process import Running, environment, start
from tests.support.peers import find

OURS = "flockpr"
LUN = "disk"
LOOKED_UP = None
PATIENCE = 60.0


@attrs.frozen
class Door:
    """One socket of a daemon.

    Attributes:
        lun: The logical unit of every descriptor, or `LOOKED_UP`: found by the device.
        initiator: Number of the guest that every connection is.
    """

    lun: str | None = LUN
    initiator: int = 0


def initiator_name(number: int) -> str:
    """The name of a guest."""
    return f"iqn.2026-01.test:guest{number}"


@contextlib.contextmanager
def flockpr(
    root: pathlib.Path, folder: pathlib.Path, doors: Sequence[Door]
) -> Iterator[tuple[Running, list[str]]]:
    """`flockpr serve`; its process and its sockets, in the order of the doors."""
    sockets = [str(folder / f"s{number}") for number in range(len(doors))]
    tables = []
    for path, door in zip(sockets, doors, strict=True):
        table = f'[[socket]]\npath = "{path}"\ninitiator = "{initiator_name(door.initiator)}"\n'
        tables.append(table + (f'lun = "{door.lun}"\n' if door.lun else ""))
    config = folder / "flockpr.toml"
    config.write_text("\n".join(tables))
    command = [sys.executable, "-m", "flockpr", "serve"]
    command += ["--root", str(root), "--config", str(config), "--log-level", "warning"]
    with start(command, folder / "log") as process:
        for path in sockets:
            first_greeting(process, path)
        yield process, sockets


def first_greeting(running: Running, path: str) -> None:
    """Wait until somebody greets; looks often, so that the time can be measured."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(PATIENCE)
            if probe.connect_ex(path) == 0 and len(probe.recv(4)) == 4:
                return
        ended = running.process.poll()
        if ended is not None or time.monotonic() > deadline:
            raise SystemExit(f"{path}: nobody serves it ({ended}): {running.text}")
        time.sleep(0.001)


@contextlib.contextmanager
def _other(command: Sequence[str], folder: pathlib.Path, path: str) -> Iterator[str]:
    with start(command, folder / "log") as process:
        first_greeting(process, path)
        yield path


def echo(plan: Plan, folder: pathlib.Path) -> contextlib.AbstractContextManager[str]:
    """The C echo server; its socket."""
    program = compile_program(plan, "helper_echo", "-pthread")
    path = str(folder / "s")
    return _other([str(program), path], folder, path)


def qemu(folder: pathlib.Path) -> contextlib.AbstractContextManager[str]:
    """The real qemu-pr-helper; its socket.

    Raises:
        Unavailable: It is not installed.
    """
    program = find("qemu-pr-helper")
    if program is None:
        raise Unavailable("not installed: qemu-pr-helper (qemu-system-common)")
    path = str(folder / "s")
    return _other([program, "-k", path, "-f", str(folder / "pid")], folder, path)


@attrs.frozen
class Load:
    """The C client.

    Attributes:
        program: Where it was compiled.
        device: What it passes with every command.
        seconds: How long each run takes.
    """

    program: pathlib.Path
    device: pathlib.Path
    seconds: float

    @classmethod
    def prepare(cls, plan: Plan, device: pathlib.Path) -> Load:
        """Compile it."""
        return cls(compile_program(plan, "helper_load"), device, plan.seconds)

    def __call__(
        self, operation: str, connections: int, sockets: Sequence[str], *, good: bool = True
    ) -> Sample:
        """Run it.

        Args:
            operation: Of helper_load.
            connections: How many.
            sockets: Where to; in turn.
            good: Whether every answer has to be GOOD.
        """
        command = [self.program, operation, connections, self.seconds, self.device, *sockets]
        sample = run_program(command, self.seconds)
        if good and sample.refused:
            raise SystemExit(f"{operation}: {sample.refused} answers were not GOOD")
        return sample

    def warm(self, operation: str, connections: int, sockets: Sequence[str]) -> None:
        """Run it for a moment."""
        attrs.evolve(self, seconds=self.seconds / 10)(operation, connections, sockets, good=False)


def newest_document(root: pathlib.Path, lun: str = LUN) -> int:
    """Bytes of a logical unit's newest commit."""
    return max((root / lun / "commits").glob("[0-9]*")).stat().st_size


@attrs.frozen
class Usage:
    """What a process uses.

    Attributes:
        memory: Resident, in KiB.
        processor: Seconds so far.
        descriptors: Open files.
        threads: How many.
    """

    memory: int
    processor: float
    descriptors: int
    threads: int

    @classmethod
    def of(cls, running: Running) -> Usage:
        """Look it up."""
        place = pathlib.Path(f"/proc/{running.process.pid}")
        return cls(
            int(running.status("VmRSS").split()[0]),
            processor_of(running.process.pid),
            len(os.listdir(place / "fd")),
            int(running.status("Threads")),
        )


def processor_of(pid: int) -> float:
    """Seconds of processor that a process has used, its threads that ended among them."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def milliseconds(command: Sequence[str], environ: Mapping[str, str] | None = None) -> float:
    """How long a command takes that ends by itself."""
    begun = time.perf_counter()
    subprocess.run(
        command, env=dict(environ or environment()), stdout=subprocess.DEVNULL, check=True
    )
    return (time.perf_counter() - begun) * 1000


def bare_interpreter() -> float:
    """How long the interpreter itself takes, in milliseconds."""
    return milliseconds([sys.executable, "-c", "pass"])
