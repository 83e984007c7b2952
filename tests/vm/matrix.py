"""The fault matrix: rows of faults, played on a file system while its hosts are at work.

A row is played like this: the crowd sends at all doors, the duelists take the disk from each
other; then the fault, in a window that is closed when everybody who lives has been served again;
then some quiet time; then all of it is judged.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from attrs import define, field, frozen

from tests.vm.cell import DUEL, FREE, PATIENCE, Cell, Stall
from tests.vm.crowd import Client, at_work, clients
from tests.vm.duel import Duel
from tests.vm.history import History, Record, acknowledged_share
from tests.vm.lab import Lab
from tests.vm.stamps import Outcome

ENOUGH = 0.95
"""Share of the commands outside of fault windows that have to be acknowledged."""
_QUIET_SECONDS = 4.0
_YARDSTICK = 16
"""So many commands tell how fast the machines are."""
_USUAL_SECONDS = 0.5
"""What a command of the crowd takes on machines that have a host of two processors for them."""
_SERVED = 3
"""So many commands of each client have to be acknowledged before it counts as served."""


@frozen
class Row:
    """One fault.

    Attributes:
        name: What the table calls it.
        bound: Seconds from the end of the fault until everybody is served again.
        play: Makes it, and undoes it.
        short: Played in the short run, too.
    """

    name: str
    bound: float
    play: Callable[[Scene], None]
    short: bool = False


@define
class Window:
    """The time of a fault.

    Attributes:
        begun: When it began.
        ended: When the fault was over, and the service free to resume.
        closed: When everybody was served again.
    """

    begun: float
    ended: float = 0.0
    closed: float = 0.0

    def over(self) -> None:
        """The fault is over, or will never be: from here on the bound counts."""
        self.ended = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the service took to resume."""
        return self.closed - self.ended


@define
class Scene:
    """What a row has to play with.

    Attributes:
        cell: The daemons.
        duel: The duelists.
        bound: Seconds until everybody is served again.
        history: What the crowd sends.
        crowd: Who sends it.
        slack: How much longer than on a quiet machine things take.
        windows: Of the faults so far.
        remarks: What else was seen, for the table.
        begun: When the row began.
    """

    cell: Cell
    duel: Duel
    bound: float
    history: History
    crowd: Sequence[Client]
    slack: float = 1.0
    windows: list[Window] = field(factory=list)
    remarks: list[str] = field(factory=list)
    begun: float = field(factory=time.monotonic)

    def say(self, what: str) -> None:
        """A line for whoever watches the run (`pytest -s`)."""
        print(f"   {time.monotonic() - self.begun:6.1f} {what}", flush=True)

    @property
    def lab(self) -> Lab:
        """The hosts, and what can befall them."""
        return self.cell.lab

    def stall(self, number: int, point: str, what: str = "") -> Stall:
        """Stop the next thread of a host's daemon that comes to a point."""
        return self.cell.daemons[number].stall(point, what)

    def wait(self, seconds: float) -> None:
        """Let time pass, while all go on."""
        time.sleep(seconds)
        self.duel.check()

    def cut(self, number: int) -> None:
        """Take from a host all that it shares with others."""
        self.lab.cut(number)

    def mend(self, number: int) -> None:
        """End a cut; where the host was fenced meanwhile it has booted again, and serves."""
        self.lab.mend(number)
        self.cell.daemons[number].revive()

    def boot(self, number: int) -> None:
        """Boot a killed host, and have it serve."""
        self.lab.boot(number)
        self.cell.daemons[number].revive()

    def calm(self) -> None:
        """Some quiet time, which tells how fast the machines are today."""
        begun = time.monotonic()
        while len(records := self.history.since(begun)) < _YARDSTICK:
            self.wait(0.5)
            if time.monotonic() > begun + PATIENCE:
                raise AssertionError(f"the crowd is not served: {records}")
        seconds = statistics.median(one.ended - one.invoked for one in records)
        self.slack = max(1.0, seconds / _USUAL_SECONDS)
        self.say(f"a command takes {seconds:.2f} s, {self.duel.rounds} rounds so far")

    @contextmanager
    def fault(self, *, without: Sequence[int] = ()) -> Iterator[Window]:
        """The time of a fault. The duel rests; the row plays its rounds.

        Args:
            without: Hosts that are gone for good, and that nobody expects to serve.
        """
        self.duel.hold()
        window = Window(time.monotonic())
        self.say("the fault begins")
        yield window
        if not window.ended:
            window.over()
        self.say(f"the fault is over since {time.monotonic() - window.ended:.1f} s")
        self._served(window, without)
        window.closed = time.monotonic()
        self.say(f"all are served, {window.seconds:.1f} s after")
        self.windows.append(window)
        self.duel.go()

    def _served(self, window: Window, without: Sequence[int]) -> None:
        """Wait until everybody who lives has been served again, from the end of the fault."""
        waiting = {client.label for client in self.crowd if client.host not in without}
        deadline = window.ended + self.bound * self.slack
        while True:
            self.duel.check()
            since = self.history.since(window.ended)
            done = {label for label in waiting if _count(since, label) >= _SERVED}
            if done == waiting:
                return
            if time.monotonic() > deadline:
                late = sorted(waiting - done)
                within = f"within {self.bound} s, times {self.slack:.1f}"
                raise AssertionError(f"{late} were not served {within}: {since[-5:]}")
            time.sleep(0.1)


def _count(records: Sequence[Record], label: str) -> int:
    """Acknowledged commands of a client, if one of them could change something."""
    mine = [one for one in records if one.client == label and one.acknowledged]
    return len(mine) if any(not one.command.reads for one in mine) else 0


@frozen
class Figures:
    """What came of a row.

    Attributes:
        row: Its name.
        outcome: ``held``, or what was found.
        bound: Seconds.
        slack: What the bound was multiplied by, because the machine had more to do.
        recovery: Seconds, the longest of its windows.
        commands: Reservation commands in all.
        outside: Of these, outside of windows.
        acknowledged: Of these, acknowledged.
        rounds: How often the disk was taken.
        writes: Acknowledged writes of the duelists.
        checked: Blocks of losers that were looked at after GOOD.
        remarks: What else was seen.
    """

    row: str
    outcome: str
    bound: float
    slack: float = 1.0
    recovery: float = 0.0
    commands: int = 0
    outside: int = 0
    acknowledged: int = 0
    rounds: int = 0
    writes: int = 0
    checked: int = 0
    remarks: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Of the commands outside of windows, how many were acknowledged."""
        return self.acknowledged / self.outside if self.outside else 1.0


@define
class Match:
    """A file system's cell, on which rows are played one after the other.

    Attributes:
        cell: The daemons, started.
        seed: Of what comes to the crowd's mind.
    """

    cell: Cell
    seed: int = 1
    duel: Duel = field(init=False)
    free: History = field(factory=lambda: History(FREE), init=False)
    duels: History = field(factory=lambda: History(DUEL), init=False)

    def __attrs_post_init__(self) -> None:
        self.duel = Duel(self.cell, self.duels)

    def play(self, row: Row, *, settle: bool = True) -> Figures:
        """Play a row, and judge it.

        Args:
            row: It.
            settle: Judge the order of the commands now; else `settle` has to follow some time.

        Raises:
            AssertionError: Something was lost, or done that may not be, or too slow.
        """
        self.seed += 10
        crowd = clients(self.cell, self.free, self.seed)
        scene = Scene(self.cell, self.duel, row.bound, self.free, crowd)
        before = self._tally()
        with at_work(crowd):
            self.duel.go()
            try:
                scene.calm()
                row.play(scene)
                scene.wait(_QUIET_SECONDS)
            finally:
                self.duel.hold()
        scene.say("all are silent")
        figures = self._figures(row, scene, before)
        if settle:
            self.settle()
            scene.say("the order of the commands is explained")
        assert figures.share >= ENOUGH, figures
        return figures

    def settle(self) -> None:
        """Explain all commands since the last time, by the rules and the audit trails.

        Raises:
            NotLinearizable: There is no explanation.
        """
        trails = self._trails()
        self.free.settle(trails[0])
        self.duels.settle(trails[1])

    def _figures(self, row: Row, scene: Scene, before: tuple[int, int, int]) -> Figures:
        windows = [(window.begun, window.closed) for window in scene.windows]
        records = [*self.free.since(scene.begun), *self.duels.since(scene.begun)]
        outside, acknowledged = acknowledged_share(records, windows)
        for record in records:
            if not record.acknowledged and acknowledged_share([record], windows)[0]:
                taken = record.ended - record.invoked
                scene.say(f"not acknowledged, {taken:.1f} s: {record.command}: {record.answer}")
        writes, rounds, checked = self._tally()
        return Figures(
            row=row.name,
            outcome="held",
            bound=row.bound,
            slack=round(scene.slack, 1),
            recovery=round(max((window.seconds for window in scene.windows), default=0.0), 1),
            commands=len(records),
            outside=outside,
            acknowledged=acknowledged,
            writes=writes - before[0],
            rounds=rounds - before[1],
            checked=checked - before[2],
            remarks=tuple(scene.remarks),
        )

    def _trails(self) -> list[list[dict[str, object]]]:
        """The audit trails of both logical units, each as another host tells it."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self.cell.trail, (FREE, DUEL), (0, 1)))

    def _tally(self) -> tuple[int, int, int]:
        writes = sum(one.ledger.count(Outcome.GOOD) for one in self.duel.duelists)
        return writes, self.duel.rounds, self.duel.checked


@contextmanager
def match(lab: Lab, folder: Path) -> Iterator[Match]:
    """Daemons on a lab, the duelists registered and writing; all of it ends with the context."""
    cell = Cell(lab, folder)
    try:
        cell.open()
        playing = Match(cell)
        playing.duel.open()
        try:
            yield playing
        finally:
            playing.duel.close()
    finally:
        cell.close()


def play_all(playing: Match, rows: Sequence[Row], *, each: bool = True) -> list[Figures]:
    """Play rows; the first that fails ends it, because what comes after says nothing.

    Args:
        playing: Where.
        rows: They.
        each: Judge the order of the commands after each row, and not only after the last.
    """
    found = []
    for row in rows:
        print(f"\n== {playing.cell.lab.column}: {row.name}", flush=True)
        begun = time.monotonic()
        try:
            figures = playing.play(row, settle=each or row is rows[-1])
        except Exception:
            for daemon in playing.cell.daemons:
                _print_log(daemon)
            raise
        print(f"   {time.monotonic() - begun:.0f} s: {figures}", flush=True)
        _keep_logs(playing.cell, row)
        found.append(figures)
    return found


def _keep_logs(cell: Cell, row: Row) -> None:
    """What the daemons printed, for whoever wants to look at a run that held."""
    if folder := os.environ.get("FLOCKPR_LOGS"):
        name = re.sub(r"[^A-Za-z0-9]+", "-", f"{cell.lab.column} {row.name}")
        for daemon in cell.daemons:
            daemon.keep_log(Path(folder) / f"{name}-{daemon.node.name}.log")


def _print_log(daemon: Any) -> None:
    try:
        print(f"--- {daemon.node.name}\n{daemon.log()}", flush=True)
    except Exception:
        traceback.print_exc()


def write_json(path: Path, column: str, found: Sequence[Figures], facts: dict[str, str]) -> None:
    """Keep the figures of a run, for the table.

    Args:
        path: Of the file.
        column: The file system.
        found: Of its rows.
        facts: What it was run on, for people.
    """
    document = {
        "format": 1,
        "column": column,
        "on": facts,
        "rows": [attrs.asdict(one) for one in found],
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
