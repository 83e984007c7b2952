"""The table of explored schedules is what the searches have counted, of what there is to search."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from tests.support.explore import counts
from tests.support.explore.counts import Count
from tests.support.explore.scenarios import SCENARIOS, kinds_of

KEPT = counts.kept()
ONE = Count(
    scene="both register",
    changes=1,
    faults=0,
    kind="",
    schedules=1234,
    states=5678,
    full=False,
    steps=9,
    seconds=60.0,
    revision="abc1234",
    date="2026-01-31",
)
FAULTY = [
    attrs.evolve(ONE, faults=1, kind=kind, schedules=1000)
    for kind in kinds_of(SCENARIOS[ONE.scene])
]


def row(*found: Count) -> list[str]:
    """What the table says of that scene."""
    (line,) = (one for one in counts.table(found).splitlines() if one.startswith("| both register"))
    return line.strip("| ").split(" | ")


def test_table_is_generated_from_the_figures() -> None:
    """``python -m tests.support.explore.counts`` would change nothing."""
    page = counts.PAGE.read_text(encoding="utf-8")
    assert counts.current(page) == counts.section(KEPT)


def test_figures_are_of_searches_that_there_are() -> None:
    """A scene that was renamed, or a kind of faults that is gone, is not told of."""
    assert KEPT
    for one in KEPT:
        kinds = ("", *kinds_of(SCENARIOS[one.scene]))
        assert one.kind in kinds
        assert (one.changes, one.faults) in counts.COLUMNS.values()
        assert one.schedules > 0 < one.states


@pytest.mark.parametrize("column", ["one change", "one fault of any kind"])
def test_figures_are_of_all_scenes(column: str) -> None:
    """At least with one departure."""
    changes, faults = counts.COLUMNS[column]
    there = {one.scene for one in KEPT if (one.changes, one.faults) == (changes, faults)}
    assert there == set(SCENARIOS)


def test_row_has_what_was_counted() -> None:
    """What was not is not a nought; kinds of faults are added up."""
    assert row() == ["both register", *"--------"]
    assert row(ONE)[1:4] == ["1,234", "5,678", "-"]
    kinds = len(FAULTY)
    assert row(*FAULTY)[-2:] == [f"{kinds * 1000:,}", f"{kinds * 5678:,}"]
    assert row(*FAULTY[1:])[-2] == f"{(kinds - 1) * 1000:,} ({kinds - 1} of {kinds} kinds)"
    assert row(attrs.evolve(ONE, full=True))[2] == "over 5,678"


def test_figures_are_kept_beside_the_others_and_replaced(tmp_path: Path) -> None:
    """In the order of the table, whatever order they came in."""
    path = tmp_path / counts.FILE
    for found in (*reversed(FAULTY), ONE, attrs.evolve(ONE, schedules=1)):
        counts.keep(path, found)
    kept = counts.parse(path.read_text())
    assert kept[0] == attrs.evolve(ONE, schedules=1)
    assert sorted(kept[1:], key=str) == sorted(FAULTY, key=str)
