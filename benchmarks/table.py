"""What was measured, as a table, as JSON, as a plot."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import Row

HEADING = f"{'':44}{'median':>10} {'unit':4}{'p50 us':>9}{'p99 us':>9}  beside (ratio, least-most)"


def heading(about: Mapping[str, Any]) -> str:
    """The lines above a table."""
    fsync = "" if about["fsync"] is None else f", fsync {about['fsync']:g} ms and no disk"
    return (
        f"{about['platform']}, Python {about['python']}, {about['cores']} cores,\n"
        f"load {about['load']}, {about['rounds']} rounds of {about['seconds']} s,"
        f" file systems: {', '.join(about['file systems'])}{fsync}; medians of the rounds,\n"
        "ratios are ours to theirs in the same round"
    )


def line(row: Row) -> str:
    """A row of the table."""
    cells = [f"{row.name:44}{_number(statistics.median(row.ours)):>10} {row.unit:4}"]
    cells.append("".join("" if time is None else f"{time:9.0f}" for time in (row.median, row.tail)))
    if row.median is None:
        cells.append(" " * 18)
    for name, values in row.theirs.items():
        ratios = row.ratios(name)
        if ratios:
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            cells.append(f"  {name} {_number(statistics.median(values))}: {spread}")
    for name, value in row.more.items():
        cells.append(f"  {name} {_number(value)}")
    if row.note:
        cells.append(f"  [{row.note}]")
    return "".join(cells)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def document(row: Row) -> dict[str, Any]:
    """A row for JSON."""
    against = {
        name: {**_summary(values), "ratio": _summary(row.ratios(name))}
        for name, values in row.theirs.items()
    }
    return {
        "name": row.name,
        "unit": row.unit,
        **_summary(row.ours),
        "p50_us": row.median,
        "p99_us": row.tail,
        "beside": against,
        "more": dict(row.more),
        "note": row.note,
    }


def _summary(values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {"median": None, "least": None, "most": None, "rounds": []}
    return {
        "median": statistics.median(values),
        "least": min(values),
        "most": max(values),
        "rounds": list(values),
    }


def plot(found: Mapping[str, Sequence[Row]], path: str) -> str:
    """Draw the ratios; the ending of the path says the format.

    Returns:
        "" or, in a few words, why there is no plot.
    """
    try:
        pyplot: Any = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        return "no plot: matplotlib is not installed"
    bars = [
        (f"{bench}: {row.name} / {name}", ratios)
        for bench, rows in found.items()
        for row in rows
        for name in row.theirs
        if (ratios := row.ratios(name))
    ]
    if not bars:
        return "no plot: there are no ratios"
    bars.reverse()
    middles = [statistics.median(ratios) for _, ratios in bars]
    below = [middle - min(ratios) for middle, (_, ratios) in zip(middles, bars, strict=True)]
    above = [max(ratios) - middle for middle, (_, ratios) in zip(middles, bars, strict=True)]
    figure, axes = pyplot.subplots(figsize=(11, 1.5 + 0.25 * len(bars)))
    axes.barh([name for name, _ in bars], middles, xerr=[below, above], capsize=2)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("ours / theirs: median of the rounds, least and most")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
    return ""
