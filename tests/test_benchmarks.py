"""The benchmarks still run; their figures are for people.

That of the target has a test of its own, in `tests/target/`.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping

import pytest

from benchmarks import table
from benchmarks.common import Row, Sample, interleave
from tests.support.daemon_process import REPOSITORY

_ALL = {"door", "commit", "contention", "scale", "fixture", "startup"}


def _run(
    *options: str, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *options],
        cwd=REPOSITORY,
        env=environ,
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.mark.peer("qemu-pr-helper", "cc")
@pytest.mark.timeout(600)
def test_benchmarks_shortened_give_every_figure(tmp_path: pathlib.Path) -> None:
    """Each gives rows with ratios, in the table and as JSON, and leaves no files behind."""
    folder = tmp_path / "disk"
    folder.mkdir()
    figures, plot = tmp_path / "figures.json", tmp_path / "plot.svg"
    where = ["--folder", str(folder), "--json", str(figures), "--plot", str(plot)]

    done = _run("--quick", *where)

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())
    rows = found["rows"]
    assert {row["benchmark"] for row in rows} == _ALL
    assert {row["benchmark"] for row in rows if row["beside"]} == _ALL
    door = [row for row in rows if row["benchmark"] == "door"]
    assert [set(row["beside"]) for row in door] == [{"echo", "qemu"}] * 12
    assert all(row["p50_us"] <= row["p99_us"] and row["median"] > 0 for row in door)
    printed = done.stdout.splitlines()
    assert all(any(line.startswith(row["name"]) for line in printed) for row in rows)
    assert "left out of a shortened run: target" in done.stdout
    assert plot.exists() or "no plot: matplotlib is not installed" in done.stdout
    assert list(folder.iterdir()) == []


@pytest.mark.peer("cc")
def test_benchmarks_with_a_disk_of_their_own_wait_for_it(tmp_path: pathlib.Path) -> None:
    """Both sides, at least twice in a commit; and it is said."""
    figures = tmp_path / "figures.json"

    done = _run(
        *("--quick", "--fsync", "20", "--folder", str(tmp_path), "--json", str(figures), "commit")
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "fsync 20 ms and no disk" in done.stdout
    rows = json.loads(figures.read_text())["rows"]
    one = [row for row in rows if row["name"].startswith("REGISTER, 1 conn.")]
    assert one
    for row in one:
        assert 0 < row["most"] <= 25
        assert all(0 < other["most"] <= 25 for other in row["beside"].values())


def test_benchmarks_without_a_compiler_say_so(tmp_path: pathlib.Path) -> None:
    """What needs C programs is left out, with a word; that is no failure."""
    environ = os.environ | {"PATH": str(tmp_path)}

    done = _run("--quick", "--folder", str(tmp_path), "door", environ=environ)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "-- door: left out: there is no C compiler (cc)" in done.stdout


def test_benchmarks_list_names_each(tmp_path: pathlib.Path) -> None:
    """One line each; a name that is none is a mistake."""
    listed = _run("--list")

    assert listed.returncode == 0, listed.stderr
    assert {line.split()[0] for line in listed.stdout.splitlines()} == _ALL | {"target"}
    assert _run("dor", "--folder", str(tmp_path)).returncode == 2


def test_sample_of_each_program_is_read() -> None:
    """With what the client used and each connection's count, and without."""
    full = Sample.parse("300 1.5 10.5 20.25 0.25 2\n100 200 \n")
    short = Sample.parse("300 1.5 10 20\n")

    assert full == Sample(200.0, 10.5, 20.25, 0.25, 2, (100, 200), 300)
    assert short == Sample(200.0, 10.0, 20.0, count=300)


def test_interleave_each_round_begins_with_another() -> None:
    """Everything is measured once in a round, in turn."""
    order: list[str] = []

    def load(name: str) -> int:
        order.append(name)
        return len(order)

    found = interleave(3, {name: functools.partial(load, name) for name in "ab"})

    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_row_ratios_are_of_the_same_round() -> None:
    """Median, least and most of ours by theirs, in the table and for JSON."""
    row = Row("READ", "1/s", [10.0, 30.0, 20.0], {"peer": [20.0, 20.0, 20.0]}, 5.0, 9.0)

    ratio = table.document(row)["beside"]["peer"]["ratio"]

    assert ratio == {"median": 1.0, "least": 0.5, "most": 1.5, "rounds": [0.5, 1.5, 1.0]}
    assert "peer 20: 1.00 (0.50-1.50)" in table.line(row)
