"""The fault matrix: rows of faults, played on a file system while its hosts are at work.

A row is played like this: the crowd sends at all doors, the duelists take the disk from each
other; then the fault, in a window that is closed when everybody who lives has been served again;
then some quiet time; then all of it is judged.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from attrs import define, field, frozen

from tests.vm.cell import DUEL, FREE, Cell
from tests.vm.crowd import at_work, clients
from tests.vm.duel import Duel
from tests.vm.history import History, acknowledged_share
from tests.vm.lab import Lab
from tests.vm.scene import Row, Scene
from tests.vm.stamps import Outcome
from tests.vm.writer import Served

__all__ = ["Figures", "Match", "Row", "Scene", "match", "play_all", "write_json"]

ENOUGH = 0.95
"""Share of the commands outside of fault windows that have to be acknowledged."""
_QUIET_SECONDS = 4.0


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
        transfers: Reads and writes of the duelists outside of windows.
        transferred: Of these, acknowledged.
        rounds: How often the disk was taken.
        writes: Acknowledged writes of the duelists.
        checked: Blocks of losers that were looked at after GOOD.
        remarks: What else was seen.
        revision: Of flockpr.
    """

    row: str
    outcome: str
    bound: float
    slack: float = 1.0
    recovery: float = 0.0
    commands: int = 0
    outside: int = 0
    acknowledged: int = 0
    transfers: int = 0
    transferred: int = 0
    rounds: int = 0
    writes: int = 0
    checked: int = 0
    remarks: tuple[str, ...] = ()
    revision: str = ""

    @property
    def share(self) -> float:
        """Of the commands outside of windows, how many were acknowledged: the smaller of the
        shares of reservation commands and of reads and writes.
        """
        commands = self.acknowledged / self.outside if self.outside else 1.0
        transfers = self.transferred / self.transfers if self.transfers else 1.0
        return min(commands, transfers)


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
            AssertionError: The hosts do not see the same.
        """
        with self.duel.at_rest():  # who reads a trail in an emulated machine needs its processor
            trails = self._trails()
            self._hosts_see_the_same()
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
        transfers, transferred = acknowledged_share(self._served(scene.begun), windows)
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
            transfers=transfers,
            transferred=transferred,
            writes=writes - before[0],
            rounds=rounds - before[1],
            checked=checked - before[2],
            remarks=tuple(scene.remarks),
            revision=revision(),
        )

    def _served(self, begun: float) -> list[Served]:
        """The reads and writes of a row."""
        writers = [one.writer for one in self.duel.duelists]
        return [one for writer in writers for one in list(writer.served) if one.invoked >= begun]

    def _trails(self) -> list[list[dict[str, object]]]:
        """The audit trails of both logical units, each as another host tells it."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self.cell.trail, (FREE, DUEL), (0, 1)))

    def _hosts_see_the_same(self) -> None:
        """Nobody sends anything now, so each host tells of the same registrations."""
        for lun in (FREE, DUEL):
            with ThreadPoolExecutor() as pool:
                told = list(pool.map(self.cell.status, (lun, lun), (0, 1)))
            assert seen(told[0]) == seen(told[1]), told

    def _tally(self) -> tuple[int, int, int]:
        writes = sum(one.ledger.count(Outcome.GOOD) for one in self.duel.duelists)
        return writes, self.duel.rounds, self.duel.checked


def seen(status: Mapping[str, Any]) -> dict[str, Any]:
    """What `flockpr status` of a logical unit says on any host alike: who is registered with which
    key, and who has reserved it. Who lives is another matter, which takes its time to be seen.
    """
    entries = [
        tuple(entry[name] for name in ("initiator", "target_port", "key", "holder"))
        for entry in status["registrations"]
    ]
    return {"registrations": entries} | {
        name: status[name] for name in ("error", "generation", "reservation", "spc2", "txid")
    }


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
    """Keep the figures of rows, for the table; those of other rows in the file stay.

    Args:
        path: Of the file.
        column: The file system.
        found: Of the rows that were played.
        facts: What it was run on, for people.
    """
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    rows = {row["row"]: row for row in before}
    rows |= {one.row: attrs.asdict(one) for one in found}
    document = {"format": 1, "column": column, "on": facts, "rows": list(rows.values())}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def revision() -> str:
    """The commit that is tested, for the record."""
    if told := os.environ.get("FLOCKPR_REVISION"):
        return told
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
