"""What a command, a start, a connection and a logical unit cost when there are many.

The counterpart of each row is the smallest case in the same round, for the start the bare
interpreter. Measured where the disk costs least, so that what grows is ours.
"""

from __future__ import annotations

import functools
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import flockpr
from benchmarks.common import Plan, Remark, Row, Sample, interleave, row_of
from benchmarks.daemons import (
    LOOKED_UP,
    LUN,
    Door,
    Load,
    Usage,
    bare_interpreter,
    initiator_name,
    newest_document,
)
from benchmarks.daemons import flockpr as daemon
from flockpr import InitiatorPort, LogicalUnit, Nexus, OutAction
from flockpr.prhelper.client import HelperClient
from tests.support.daemon_process import READ_KEYS

ABOUT = "many registrations, LUNs and connections; start, memory, idle CPU"
REGISTRATIONS = (1, 64, 1024)
LUNS = (1, 100, 1000)
CONNECTIONS = (1, 64, 512)
PATIENCE = 60.0


def measure(plan: Plan) -> Iterator[Row | Remark]:
    """All of it."""
    yield from registrations(plan, (1, 16) if plan.quick else REGISTRATIONS)
    yield from luns(plan, (1, 10) if plan.quick else LUNS)
    yield from connections(plan, (1, 16) if plan.quick else CONNECTIONS)


def fill(path: pathlib.Path, count: int) -> None:
    """Register so many initiators."""
    cdb = flockpr.encode_persistent_reserve_out(OutAction.REGISTER_AND_IGNORE_EXISTING_KEY)
    with LogicalUnit.open(str(path)) as unit:
        for number in range(count):
            nexus = Nexus(InitiatorPort(initiator_name(number)))
            parameters = flockpr.encode_basic_list(0, number + 1)
            result = unit.execute(nexus, cdb, parameters)
            if result.status:
                raise SystemExit(f"registration {number} was not GOOD: {result}")


def registrations(plan: Plan, counts: Sequence[int]) -> Iterator[Row | Remark]:
    """READ KEYS and REGISTER of one guest, when many have registered."""
    root = plan.new("registrations", plan.best) / "root"
    names = [f"{count} reg." for count in counts]
    doors = [Door(f"disk{count}") for count in counts]
    for count in counts:
        flockpr.create_lun(str(root), f"disk{count}")
        fill(root / f"disk{count}", count)
    device = root / "device"
    device.write_bytes(b"")
    load = Load.prepare(plan, device)
    with daemon(root, plan.new("ours"), doors) as (_, sockets):
        for title, operation in {"READ KEYS": "keys", "REGISTER": "register"}.items():
            loads: dict[str, Callable[[], Sample]] = {}
            for name, path in zip(names, sockets, strict=True):
                load.warm(operation, 1, [path])
                loads[name] = functools.partial(load, operation, 1, [path])
            found = interleave(plan.rounds, loads)
            for name, count in zip(names, counts, strict=True):
                size = newest_document(root, f"disk{count}")
                least = {} if name == names[0] else {names[0]: found[names[0]]}
                both = {name: found[name], **least}
                yield row_of(f"{title}, {name}", name, both, more={"document bytes": size})


def luns(plan: Plan, counts: Sequence[int]) -> Iterator[Row | Remark]:
    """The start until the first answer, memory, and a look-up, with many logical units."""
    roots = {}
    for count in counts:
        root = roots[count] = plan.new("luns", plan.best) / "root"
        for number in range(count):
            flockpr.create_lun(str(root), f"disk{number}", image=f"disk{number}.img")
            root.joinpath(f"disk{number}.img").write_bytes(b"")
    starts: dict[str, Callable[[], float]] = {"interpreter": bare_interpreter}
    for count, root in roots.items():
        starts[str(count)] = functools.partial(first_answer, plan, root)
    found = interleave(plan.rounds, starts)
    for count in counts:
        beside = {"interpreter": found["interpreter"]}
        yield Row(f"start to first answer, {count} LUNs", "ms", found[str(count)], beside)
    for count, root in roots.items():
        images = [root / f"disk{number}.img" for number in range(count)]
        with daemon(root, plan.new("ours"), [Door(LOOKED_UP)]) as (process, (path,)):
            answer(path, images[:1])
            before = Usage.of(process)
            answer(path, images)
            after = Usage.of(process)
            sample = Load.prepare(plan, images[-1])("keys", 1, [path])
        more = {
            "KiB a LUN": (after.memory - before.memory) / max(1, count - 1),
            "threads": after.threads,
            "files": after.descriptors,
            "READ KEYS by image 1/s": sample.rate,
        }
        yield Row(f"memory, {count} LUNs in use", "KiB", [after.memory], more=more)


def first_answer(plan: Plan, root: pathlib.Path) -> float:
    """Milliseconds from the start of a daemon until it has answered a command."""
    begun = time.perf_counter()
    with daemon(root, plan.new("ours"), [Door("disk0")]) as (_, (path,)):
        answer(path, [root / "disk0.img"])
        return (time.perf_counter() - begun) * 1000


def answer(path: str, images: Sequence[pathlib.Path]) -> None:
    """One READ KEYS for each image."""
    with HelperClient(path, timeout=PATIENCE) as client:
        for image in images:
            descriptor = os.open(image, os.O_RDWR | os.O_CLOEXEC)
            try:
                reply = client.execute(descriptor, READ_KEYS)
            finally:
                os.close(descriptor)
            if reply.status:
                raise SystemExit(f"{image}: not GOOD: {reply.sense_code}")


def connections(plan: Plan, counts: Sequence[int]) -> Iterator[Row | Remark]:
    """Commands a second, memory and idle cost with many connections in one daemon."""
    root = plan.new("connections", plan.best) / "root"
    flockpr.create_lun(str(root), LUN, image="disk.img")
    device = root / "disk.img"
    device.write_bytes(b"")
    load = Load.prepare(plan, device)
    with daemon(root, plan.new("ours"), [Door()]) as (_, sockets):
        names = [f"{count} conn." for count in counts]
        for title, operation in {"READ KEYS": "keys", "REGISTER": "register"}.items():
            load.warm(operation, counts[-1], sockets)
            loads: dict[str, Callable[[], Sample]] = {
                name: functools.partial(load, operation, count, sockets)
                for name, count in zip(names, counts, strict=True)
            }
            found = interleave(plan.rounds, loads)
            for name in names[1:]:
                both = {name: found[name], names[0]: found[names[0]]}
                yield row_of(f"{title}, {name} in one daemon", name, both)
    for count in counts:
        yield idle(plan, root, count)


def idle(plan: Plan, root: pathlib.Path, count: int) -> Row:
    """Memory of connections that have sent a command, and what it costs to keep them."""
    with ExitStack() as stack:
        process, (path,) = stack.enter_context(daemon(root, plan.new("ours"), [Door()]))
        image = stack.enter_context(root.joinpath("disk.img").open("r+b"))
        answer(path, [root / "disk.img"])
        before = Usage.of(process)
        for _ in range(count):
            client = stack.enter_context(HelperClient(path, timeout=PATIENCE))
            if client.execute(image.fileno(), READ_KEYS).status:
                raise SystemExit("READ KEYS was not GOOD")
        after = Usage.of(process)
        # The clock of /proc has 100 ticks a second: shorter than this nothing is seen.
        duration = 1.0 if plan.quick else 20.0
        begun = time.monotonic()
        time.sleep(duration)
        cpu = (Usage.of(process).processor - after.processor) / (time.monotonic() - begun)
    more = {
        "KiB a connection": (after.memory - before.memory) / count,
        "threads": after.threads,
        "files": after.descriptors,
    }
    return Row(f"idle CPU, {count} conn.", "%", [cpu * 100], more=more, note=_ticks(duration))


def _ticks(duration: float) -> str:
    step = 100 / os.sysconf("SC_CLK_TCK") / duration
    return f"over {duration:.0f} s, in steps of {step:.2g}"
