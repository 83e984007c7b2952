"""How many schedules the searches went through: kept as figures, and made a table of in
docs/verification.md, which says how.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import attrs

from tests.support.explore.run import Run
from tests.support.explore.scenarios import SCENARIOS, kinds_of
from tests.support.explore.search import Bounds, Search

DOCS: Final = Path(__file__).parents[3] / "docs"
PAGE: Final = DOCS / "verification.md"
FILE: Final = "schedules.json"
BEGIN, END = "<!-- schedules -->", "<!-- end of schedules -->"
COLUMNS: Final = {
    "one change": (1, 0),
    "one fault of any kind": (0, 1),
    "two changes": (2, 0),
    "one change and one fault": (1, 1),
}
"""Changes and faults."""
_NOTHING = "-"


@attrs.frozen
class Count:
    """What one search came to.

    Attributes:
        scene: Name of the scenario.
        changes: Of the bounds.
        faults: Of the bounds.
        kind: Of the faults; empty for all.
        schedules: That were played, without those that have fewer faults where `kind` is given:
            these are the same for each kind.
        states: Different states that they came to.
        full: There was no room to remember all states.
        steps: Of all schedules.
        seconds: Of a processor.
        revision: The commit that was tested.
        date: When.
    """

    scene: str
    changes: int
    faults: int
    kind: str
    schedules: int
    states: int
    full: bool
    steps: int
    seconds: float
    revision: str
    date: str

    @property
    def key(self) -> tuple[str, int, int, str]:
        """Which search it is."""
        return self.scene, self.changes, self.faults, self.kind


def count(scene: str, bounds: Bounds, kind: str = "") -> int:
    """Search, and keep the figures where that was asked for.

    Args:
        scene: Name of the scenario.
        bounds: How far.
        kind: The one kind of faults that the bounds allow, if it is one of many searches.

    Returns:
        How many schedules were played, as `Count` has it.

    Raises:
        Failed: With the first schedule that breaks something.
    """
    faulty = 0

    def note(run: Run) -> None:
        nonlocal faulty
        faulty += any(choice[0] not in ("go", "stall", "land") for choice in run.script.values())

    begun = time.process_time()
    search = Search(SCENARIOS[scene], bounds, each=note).go()
    assert search.complete
    schedules = faulty if kind else search.runs
    if folder := os.environ.get("FLOCKPR_EVIDENCE"):
        from tests.vm.matrix import revision  # which loads far more of the package

        found = Count(
            scene=scene,
            changes=bounds.changes,
            faults=bounds.faults,
            kind=kind,
            schedules=schedules,
            states=search.states,
            full=search.states >= search.memory,
            steps=search.points,
            seconds=round(time.process_time() - begun, 1),
            revision=revision(),
            date=dt.datetime.now(dt.UTC).date().isoformat(),
        )
        keep(Path(folder) / FILE, found)
    return schedules


def keep(path: Path, found: Count) -> None:
    """Put it in the place of what was kept of the same search; several processes may do so."""
    with open(path, "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        kept = {one.key: one for one in parse(text)} if text else {}
        kept[found.key] = found
        order = list(SCENARIOS)
        counts = [one for one in kept.values() if one.scene in SCENARIOS]
        counts.sort(key=lambda one: (order.index(one.scene), *one.key[1:]))
        document = {"format": 1, "searches": [attrs.asdict(one) for one in counts]}
        file.truncate(0)
        file.write(json.dumps(document, indent=1) + "\n")


def parse(text: str) -> list[Count]:
    """The figures of a file."""
    return [Count(**one) for one in json.loads(text)["searches"]]


def kept() -> list[Count]:
    """The figures that the page is made from."""
    return parse((DOCS / "evidence" / FILE).read_text(encoding="utf-8"))


# --------------------------------------------------------------------------- the page


def table(counts: Iterable[Count]) -> str:
    """The table in Markdown."""
    found = {one.key: one for one in counts}
    head = " | ".join(f"{name} | states" for name in COLUMNS)
    lines = [f"| what the hosts do | {head} |", "|---" * (2 * len(COLUMNS) + 1) + "|"]
    all_of: dict[str, list[Count]] = {name: [] for name in COLUMNS}
    for scene in SCENARIOS:
        cells = []
        for name, (changes, faults) in COLUMNS.items():
            kinds = kinds_of(SCENARIOS[scene]) if changes and faults else ("",)
            searches = [
                found[key] for kind in kinds if (key := (scene, changes, faults, kind)) in found
            ]
            all_of[name] += searches
            cells.append(_cell(searches, len(kinds)))
        lines.append(f"| {scene} | " + " | ".join(cells) + " |")
    sums = [f"{sum(one.schedules for one in of):,} |" for of in all_of.values()]
    lines.append("| in all | " + " | ".join(sums) + " |")
    return "\n".join(lines)


def _cell(searches: list[Count], kinds: int) -> str:
    """Schedules and states; where searches are missing, that they are."""
    if not searches:
        return f"{_NOTHING} | {_NOTHING}"
    part = "" if len(searches) == kinds else f" ({len(searches)} of {kinds} kinds)"
    over = "over " if any(one.full for one in searches) else ""
    schedules, states = (
        sum(getattr(one, of) for one in searches) for of in ("schedules", "states")
    )
    return f"{schedules:,}{part} | {over}{states:,}"


def section(counts: list[Count]) -> str:
    """Everything between the two marks."""
    dates = sorted({one.date for one in counts})
    tested = ", ".join(sorted({one.revision for one in counts}))
    minutes = sum(one.seconds for one in counts) / 60
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    note = (
        f"Counted {when}, flockpr {tested}: {sum(one.steps for one in counts):,} steps, "
        f"{minutes:.0f} minutes of a processor."
    )
    return f"{BEGIN}\n\n{table(counts)}\n\n{note}\n\n{END}"


def current(page: str) -> str:
    """What stands between the marks now, with them."""
    return page[page.index(BEGIN) : page.index(END) + len(END)]


def main() -> None:
    """Write the section anew."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page.replace(current(page), section(kept())), encoding="utf-8")


if __name__ == "__main__":
    main()
