"""Runs benchmarks: makes the folders, prints rows as they come, keeps them."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping

from attrs import frozen

from benchmarks import table
from benchmarks.common import Plan, Remark, Row, Unavailable, compile_program, machine

Measure = Callable[[Plan], Iterator[Row | Remark]]
MEMORY = "/dev/shm"


@frozen
class Found:
    """What a run gave.

    Attributes:
        rows: Of each benchmark.
        remarks: What was left out of each, and why.
    """

    rows: Mapping[str, list[Row]]
    remarks: Mapping[str, list[str]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say how long and where."""
    parser.add_argument("--rounds", type=int, help="default: 5")
    parser.add_argument("--seconds", type=float, help="of each run of a load (default: 1)")
    parser.add_argument("--folder", help="on the file system to measure (default: /var/tmp)")
    parser.add_argument("--fsync", type=float, metavar="MS", help="instead of the disk's")
    parser.add_argument("--quick", action="store_true", help="one short round of fewer cases")


@contextlib.contextmanager
def planned(chosen: argparse.Namespace) -> Iterator[Plan]:
    """The plan that the options make, with folders that are removed at the end."""
    rounds, seconds = (1, 0.05) if chosen.quick else (5, 1.0)
    with contextlib.ExitStack() as stack:

        def folder(under: str | None) -> pathlib.Path:
            made = tempfile.TemporaryDirectory(prefix="fpr-", dir=under)
            return pathlib.Path(stack.enter_context(made))

        plan = Plan(
            scratch=folder(None),  # sockets need a short name
            folder=folder(chosen.folder or "/var/tmp"),
            memory=folder(MEMORY) if os.access(MEMORY, os.W_OK) else None,
            rounds=chosen.rounds or rounds,
            seconds=chosen.seconds or seconds,
            quick=chosen.quick,
            fsync=chosen.fsync,
        )
        if plan.fsync is not None:
            stack.enter_context(_slow_fsync(plan, plan.fsync))
        yield plan


@contextlib.contextmanager
def _slow_fsync(plan: Plan, milliseconds: float) -> Iterator[None]:
    """Have each fsync of the programs that are started take that long, and no disk."""
    flags = ("-shared", "-fPIC", f"-DMICROSECONDS={round(milliseconds * 1000)}L")
    try:
        library = compile_program(plan, "slow_fsync", *flags)
    except Unavailable as error:
        raise SystemExit(f"--fsync: {error}") from None
    before = os.environ.get("LD_PRELOAD")
    os.environ["LD_PRELOAD"] = f"{library}:{before}" if before else str(library)
    try:
        yield
    finally:
        if before is None:
            del os.environ["LD_PRELOAD"]
        else:
            os.environ["LD_PRELOAD"] = before


def run_all(plan: Plan, benchmarks: Mapping[str, Measure]) -> Found:
    """Run them one after the other and print what they find."""
    found = Found({name: [] for name in benchmarks}, {name: [] for name in benchmarks})
    print(table.heading(machine(plan)))
    for name, measure in benchmarks.items():
        print(f"\n{table.HEADING}\n{name}", flush=True)
        try:
            for what in measure(plan):
                if isinstance(what, Row):
                    found.rows[name].append(what)
                    print(table.line(what), flush=True)
                else:
                    _remark(found, name, what.text)
        except Unavailable as error:
            _remark(found, name, f"left out: {error}")
    return found


def _remark(found: Found, name: str, text: str) -> None:
    found.remarks[name].append(text)
    print(f"-- {name}: {text}", flush=True)
