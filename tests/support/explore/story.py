"""A schedule as a story for people, and the smallest one that still goes wrong."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator

import attrs

from flockpr.spc.codes import OutAction
from flockpr.store import layout
from tests.support.explore.run import Event, Run
from tests.support.explore.scenario import Play, Scenario
from tests.support.explore.search import Bounds, Failed, Search

_WRONG = {
    "stall": "what {} asks for takes long",
    "lease": "host {} loses its lease: its locks are gone, and it does not know",
    "cut": "host {} is cut off, its locks are given to others; it comes back later",
    "hang": "host {} hangs, with its locks, and comes back later",
    "die": "the process of host {} is killed",
    "gone": "host {} dies; the server keeps its locks until the lease is over",
    "caches": "what host {} believes of names expires",
    "land": "a request of host {}, whose sender was told that it had failed, arrives",
}
_HOW = {
    "lost reply": "takes effect, but its sender is told that it failed",
    "repeated": "takes effect, its answer is lost, and the client asks again",
    "late": "is on its way for long; its sender is told that it failed",
    "late for good": "is on its way for long; it and all others fail for a while",
    "twice": "takes effect, and a copy of it is still on its way",
    "refused": "is refused for want of space",
}
_KINDS = {fcntl.F_RDLCK: "takes shared", fcntl.F_WRLCK: "takes", fcntl.F_UNLCK: "gives back"}


def tell(run: Run) -> str:
    """What happened, a line for each request, and what is wrong with it."""
    scenario = run.scenario
    lines = [f"{scenario.name}: before it, {_plays(scenario.before) or 'nothing'}"]
    lines += [f"  {name} does {_plays(plays)}" for name, plays in scenario.tasks.items()]
    lines += list(_events(run.events))
    lines.append(f"broken: {run.error}" if run.error else "all is well")
    script = ", ".join(f"{number}: {choice}" for number, choice in run.script.items())
    lines.append(f"script: {{{script}}}")
    return "\n".join(lines)


def _plays(plays: tuple[Play, ...]) -> str:
    return "; ".join(_play(play) for play in plays)


def _play(play: Play) -> str:
    if not isinstance(play[0], int):
        return " ".join(str(part) for part in play)
    action, name, key, other, *rest = play
    type_ = f" type {rest[0] if rest else 5}" if action in (1, 2, 4, 5) else ""
    return f"{OutAction(action).name} by {name} ({key:#x}, {other:#x}){type_}"


def _events(events: list[Event]) -> Iterator[str]:
    before = ""
    for number, event in enumerate(events):
        mark = ">" if event.choice is not None else " "
        if not event.task:
            text = _WRONG[event.request.name].format(event.request.what)
            yield f"{number:4} {event.at:8.2f} > {text}"
            continue
        text = _request(event)
        if event.choice is not None and event.choice[0] == "request":
            text += f": it {_HOW[event.choice[1]]}"
        who = event.task if event.task != before else ""
        before = event.task
        yield f"{number:4} {event.at:8.2f} {mark} {who:24} {text}"


def _request(event: Event) -> str:
    name, what = event.request.name, event.request.what
    match name:
        case "lock" | "getlk":
            touched = event.accesses[0]
            what = (
                f"{_range(touched[0], touched[1], touched[2])} of {touched[0].rpartition('/')[2]}"
            )
            kind = _KINDS[int(event.request.what.split()[0])] if name == "lock" else "asks who has"
            return f"{kind} {what}"
        case "close":
            return f"closes {what.rpartition('/')[2]}, and its locks go"
        case "link":
            return f"links transaction {int(what[:16])}" if what[:16].isdigit() else f"links {what}"
        case "open" | "stat":
            short = what.rpartition("/")[2]
            shown = f"transaction {int(short[:16])}" if short[:16].isdigit() else short
            return f"{'opens' if name == 'open' else 'looks for'} {shown}"
        case "listdir":
            return "lists the transactions"
        case "pread_into":
            return "proves by a read that no lock was lost"
        case "pwrite" | "pread":
            return f"{name[1:]}s block {int(what or 0) // 4096} of the image"
        case "resume":
            return "goes on"
        case "start":
            return "begins"
        case "send":
            return f"is asked: {what}"
        case "answer":
            return f"answers {what}"
    return f"{name} {what}"


def _range(where: str, start: int, end: int) -> str:
    """A range of bytes by what it is for."""
    if where.endswith(layout.LOCKS):
        if start >= layout.HOST:
            return "its mark"
        if start >= layout.SLOT:
            return f"the slot {start - layout.SLOT}"
        if start >= layout.READS_FORMAT:
            return "its format"
        return {layout.ORDER: "the order", layout.TIDY: "the upkeep"}.get(start, f"byte {start:#x}")
    if where.endswith(layout.DOORBELL):
        return "the bell" if end == start + 1 else "any bell"
    return "the permit" if end == start + 1 else "all permits"


# ---------------------------------------------------------------------- the smallest


def shrink(failed: Failed, bounds: Bounds, most: int = 300) -> Failed:
    """A smaller scenario, with fewer departures, that goes wrong as well.

    Args:
        failed: What was found.
        bounds: Those it was found with.
        most: Schedules that are tried of each smaller one.
    """
    best = failed
    while True:
        smaller = _smaller(best, bounds, most)
        if smaller is None:
            return best
        best = smaller


def _smaller(best: Failed, bounds: Bounds, most: int) -> Failed | None:
    run = best.run
    choices = list(run.script.values())
    changes = sum(choice[0] in ("go", "stall") for choice in choices)
    faults = sum(choice[0] not in ("go", "stall", "land") for choice in choices)
    tighter = [
        attrs.evolve(bounds, changes=fewer, faults=less)
        for fewer in range(changes + 1)
        for less in range(faults + 1)
        if fewer + less < changes + faults
    ]
    same = attrs.evolve(bounds, changes=changes, faults=faults)
    candidates = [(run.scenario, bound) for bound in tighter]
    candidates += [(scenario, same) for scenario in _fewer(run.scenario)]
    for scenario, bound in candidates:
        try:
            Search(scenario, bound, most=most).go()
        except Failed as found:
            return found
    return None


def _fewer(scenario: Scenario) -> Iterator[Scenario]:
    """Scenarios with one thing less to do."""
    for name, plays in scenario.tasks.items():
        for number in range(len(plays)):
            left = plays[:number] + plays[number + 1 :]
            tasks = {**scenario.tasks, name: left}
            if not left:
                del tasks[name]
            if tasks:
                yield attrs.evolve(scenario, tasks=tasks)
