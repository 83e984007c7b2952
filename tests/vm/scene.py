"""A row of the fault matrix, and what it has to play with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from attrs import define, field, frozen

from tests.vm.cell import DUEL, PATIENCE, Cell, Stall
from tests.vm.crowd import Client
from tests.vm.duel import Duel, Fenced
from tests.vm.history import History, Record
from tests.vm.lab import Lab

_YARDSTICK = 16
"""So many commands tell how fast the machines are."""
_USUAL_SECONDS = 0.5
"""What a command of the crowd takes on machines that have a host of two processors for them."""
_NEEDS_A_PERSON = (2, 4, 3)
"""NOT READY, manual intervention required: a commit has found no room, say."""
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
        resumed: When everybody had been served again.
        closed: When the row was done with it.
        alone: Seconds that those took who were not hit, while the fault lasted.
    """

    begun: float
    ended: float = 0.0
    resumed: float = 0.0
    closed: float = 0.0
    alone: float = 0.0

    def over(self) -> None:
        """The fault is over, or will never be: from here on the bound counts."""
        self.ended = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the service took to resume."""
        return max(self.alone, self.resumed - self.ended)


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

    def stall(self, number: int, point: str) -> Stall:
        """Stop the next thread of a host's daemon that comes to a point for the duel."""
        what = str(self.cell.urls[DUEL].lun) if point == "knock" else f"/{DUEL}"
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

    def alone(self, window: Window, fenced: Fenced, since: float) -> None:
        """Whoever was not hit by the fault has the disk, while it lasts.

        Args:
            window: Of the fault.
            fenced: What he came to.
            since: From when on the bound counts for him.
        """
        window.alone = max(0.0, fenced.good - since)  # he may have been quicker than who looks
        self.say(f"the disk was taken {window.alone:.1f} s after")
        self.remarks.append(f"taken {window.alone:.0f} s after")
        assert window.alone <= self.bound * self.slack, window

    def turned_away(self, since: float) -> None:
        """Return when each host has refused a command until a person does something about it."""
        hosts = {client.host for client in self.crowd}
        deadline = time.monotonic() + PATIENCE
        while missing := hosts - {
            one.host
            for one in self.history.since(since)
            if one.answer is not None and one.answer.code == _NEEDS_A_PERSON
        }:
            assert time.monotonic() < deadline, f"hosts {missing} still commit"
            self.wait(0.5)

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
        window.resumed = self._served(window, without)
        window.closed = time.monotonic()
        self.say(f"all are served, {window.seconds:.1f} s after")
        assert window.seconds <= self.bound * self.slack, window
        self.windows.append(window)
        self.duel.go()

    def _served(self, window: Window, without: Sequence[int]) -> float:
        """Wait until everybody who lives has been served again since the end of the fault; when
        that was.
        """
        clients = [client.label for client in self.crowd if client.host not in without]
        deadline = window.ended + self.bound * self.slack
        while True:
            self.duel.check()
            since = self.history.since(window.ended)
            moments = {label: _served_at(since, label) for label in clients}
            if None not in moments.values():
                taken = [good for good in self.duel.goods if good >= window.ended]
                return max([*filter(None, moments.values()), *taken[:1]])
            if time.monotonic() > deadline:
                late = sorted(label for label, moment in moments.items() if moment is None)
                within = f"within {self.bound} s, times {self.slack:.1f}"
                self._say_what_became_of(late, window)
                raise AssertionError(f"{late} were not served {within}: {since[-5:]}")
            time.sleep(0.1)

    def _say_what_became_of(self, late: Sequence[str], window: Window) -> None:
        """All that those sent who were not served, since the fault began."""
        for one in self.history.since(window.begun):
            if one.client in late:
                begun, ended = (when - window.ended for when in (one.invoked, one.ended))
                self.say(f"{one.client}, {begun:.1f} to {ended:.1f} s: {one.command}: {one.answer}")


def _served_at(records: Sequence[Record], label: str) -> float | None:
    """When a client had enough commands acknowledged, one among them that can change something."""
    mine = [one for one in records if one.client == label and one.acknowledged]
    changing = [one.ended for one in mine if not one.command.reads]
    if len(mine) < _SERVED or not changing:
        return None
    return max(sorted(one.ended for one in mine)[_SERVED - 1], min(changing))
