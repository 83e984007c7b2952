"""`flockpr target` and tgt side by side: reads, writes and reservations, commands a second.

Every round gives the same load to each target in turn, so that what else the machine does
falls on all of them; a ratio is taken within a round. tgt runs as it comes, through the page
cache, and once more with O_DIRECT, which is how flockpr reads and writes. tgt keeps
reservations in memory, flockpr answers when they are on stable storage.

What each command is asked before it may touch the image is measured apart, in a process of its
own, and set beside what all of a command costs the processor.
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing

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
from benchmarks.daemons import processor_of
from flockpr.block.inquiry import Face
from flockpr.block.nexus import DiskNexus
from flockpr.block.served import Served
from flockpr.core.access import AccessClass
from flockpr.core.model import Nexus
from flockpr.gate import Permit
from flockpr.spc.transport_id import InitiatorPort
from flockpr.store import provision
from flockpr.store.identity import TARGET_PORT
from flockpr.units import Units
from tests.support.peers import find
from tests.support.targets import FlockprTarget, Tgt, Url, create_lun

ABOUT = "reads, writes and PR commands at `flockpr target` beside tgt"
OURS = "flockpr"
DISK_BYTES = 128 << 20
KIB = 1024
TIMES = 20_000
"""How often the way in is gone to be measured."""
PATIENCE = 60.0


@frozen
class Case:
    """One kind of load.

    Args:
        name: For the table.
        operation: Of iscsi_load.
        size: Bytes of each command.
        depth: Commands of each initiator that are under way at once.
        initiators: How many.
    """

    name: str
    operation: str
    size: int = 4 * KIB
    depth: int = 1
    initiators: int = 1


CASES = [
    *(
        Case(f"{operation} {size // KIB} KiB, depth {depth}", operation, size, depth)
        for operation in ("read", "write")
        for size in (4 * KIB, 256 * KIB)
        for depth in (1, 32)
    ),
    *(
        Case(f"{name}, {count} conn.", operation, initiators=count)
        for name, operation in (("PR IN, READ KEYS", "keys"), ("PR OUT, REGISTER", "register"))
        for count in (1, 4, 16)
    ),
]
BESIDE = CASES[1]
"""What the cost of enforcement is set beside: where commands are cheapest."""


@frozen
class Peer:
    """A target that runs.

    Args:
        url: Its logical unit.
        pid: Its process.
    """

    url: Url
    pid: int


@frozen
class Run:
    """What one run of a load gave.

    Args:
        sample: As the client saw it.
        processor: Microseconds of the target's processor time for each command.
    """

    sample: Sample
    processor: float


def run(program: pathlib.Path, peer: Peer, case: Case, seconds: float) -> Run:
    """Load one target."""
    before = processor_of(peer.pid)
    sample = run_program(
        [program, peer.url, case.operation, case.size, case.depth, seconds, case.initiators],
        seconds,
    )
    used = processor_of(peer.pid) - before
    return Run(sample, used * 1e6 / max(1, sample.count))


def start(folder: pathlib.Path, stack: ExitStack) -> Mapping[str, Peer]:
    """The targets, each with a disk of its own on the same file system, all written once."""
    peers = {}
    create_lun(folder / "root", "disk", DISK_BYTES)
    ours = stack.enter_context(FlockprTarget(folder / "root", folder / "target"))
    peers[OURS] = Peer(ours.url(), ours.process.pid)
    for number, (name, options) in enumerate({"tgt": [], "tgt direct": ["-f", "direct"]}.items()):
        image = folder / f"tgt{number}.img"
        with image.open("wb") as stream:
            stream.truncate(DISK_BYTES)
        tgt = stack.enter_context(Tgt(image, folder, options, number))
        peers[name] = Peer(tgt.urls[0], tgt.pid)
    return peers


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
        peers = start(folder, stack)
        fill(folder)
        whole: list[float] = []
        for case in CASES:
            for peer in peers.values():
                run(program, peer, case, plan.seconds / 10)
            loads = {
                name: functools.partial(run, program, peer, case, plan.seconds)
                for name, peer in peers.items()
            }
            found = interleave(plan.rounds, loads)
            samples = {name: [one.sample for one in runs] for name, runs in found.items()}
            more = {
                f"{name} CPU us": statistics.median(one.processor for one in runs)
                for name, runs in found.items()
            }
            if case is BESIDE:
                whole = [one.processor for one in found[OURS]]
            yield row_of(case.name, OURS, samples, more=more)
    yield enforcement(plan, whole)


def enforcement(plan: Plan, whole: Sequence[float]) -> Row:
    """What it takes to ask the gate and the reservations, in microseconds, beside a command."""
    root = plan.new("enforcement", plan.folder)
    identity = provision.create_lun(str(root), "disk", size=1 << 20)
    assert identity.image is not None
    with closing(Units(str(root))) as units:
        served = Served(units, identity.name, "bench")

        def read(deadline: float) -> None:
            served.read(deadline)

        permit = Permit(str(root), identity.lun, identity.image, on_open=read)
        nexus = Nexus(InitiatorPort("iqn.2026-01.test:load0"), TARGET_PORT)
        session = DiskNexus(nexus, Face(identity, False, 3))
        session.shown(served.read(time.monotonic() + PATIENCE).attention_epoch)
        ours = [_asked(permit, served, session) - _asked(None, served, session) for _ in whole]
        permit.close()
    name = "enforcement and gate"
    return Row(name, "us", ours, {"CPU of a command": whole}, note=BESIDE.name)


def _asked(permit: Permit | None, served: Served, session: DiskNexus) -> float:
    """Microseconds for each time that a write is let in and ends; None: of the loop alone."""
    cdb = b"\x2a".ljust(10, b"\0")
    deadline = time.monotonic() + PATIENCE
    served.read(deadline)
    begun = time.thread_time()
    for _ in range(TIMES):
        if permit is None:
            continue
        if not permit.enter(deadline):
            raise SystemExit(f"not let in: {permit.fault}")
        state = served.current() or served.read(deadline)
        if not session.admitted(state, AccessClass.WRITE, cdb):
            raise SystemExit("not admitted")
        permit.leave()
    return (time.thread_time() - begun) * 1e6 / TIMES


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    runner.add_options(parser)
    chosen = parser.parse_args(arguments)
    with runner.planned(chosen) as plan:
        runner.run_all(plan, {"target": measure})


if __name__ == "__main__":
    main()
