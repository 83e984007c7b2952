"""`python -m benchmarks`: list the benchmarks, run one or all."""

from __future__ import annotations

import argparse
import importlib
import json
import pathlib
from collections.abc import Sequence

from benchmarks import runner, table
from benchmarks.common import Benchmark, Plan, machine

NAMES = ("door", "commit", "contention", "scale", "target", "fixture", "startup")
LONG = frozenset({"target"})
"""Left out of a shortened run of all: it fills disks."""


def load(name: str) -> Benchmark:
    """The module of a benchmark."""
    module: Benchmark = importlib.import_module(f"benchmarks.bench_{name}")
    return module


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Figures for people; nothing fails for being slow."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    parser.add_argument("--list", action="store_true", help="say which there are")
    runner.add_options(parser)
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--plot", metavar="FILE", help="draw the ratios there (.svg or .png)")
    chosen = parser.parse_args(arguments)
    unknown = sorted(set(chosen.names) - set(NAMES))
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)} (there are {', '.join(NAMES)})")
    if chosen.list:
        for name in NAMES:
            print(f"{name:12}{load(name).ABOUT}")
        return
    names = chosen.names or [name for name in NAMES if not (chosen.quick and name in LONG)]
    with runner.planned(chosen) as plan:
        before = machine(plan)
        found = runner.run_all(plan, {name: load(name).measure for name in names})
        _write(chosen, plan, before, found)


def _write(
    chosen: argparse.Namespace, plan: Plan, before: dict[str, object], found: runner.Found
) -> None:
    if not chosen.names and chosen.quick:
        print(f"\nleft out of a shortened run: {', '.join(sorted(LONG))}")
    if chosen.json:
        document = {
            "machine": {**before, "load at the end": machine(plan)["load"]},
            "rows": [
                {"benchmark": name, **table.document(row)}
                for name, rows in found.rows.items()
                for row in rows
            ],
            "remarks": found.remarks,
        }
        pathlib.Path(chosen.json).write_text(json.dumps(document, indent=1) + "\n")
    if chosen.plot and (reason := table.plot(found.rows, chosen.plot)):
        print(reason)


if __name__ == "__main__":
    main()
