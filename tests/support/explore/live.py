"""Hosts that are told what to do while they run, and a schedule that is made step by step."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable

import attrs

from tests.support.explore.installed import fresh
from tests.support.explore.run import Run
from tests.support.explore.scenario import Play, Scenario, demand
from tests.support.explore.tasks import Schedule, Stuck, Task
from tests.support.explore.world import Process, Share

MOST = 20_000
"""Points beyond which nobody gets anywhere."""


class _Patient(Schedule):
    """A schedule that pauses when all wait for something to do."""

    def pass_time(self) -> None:
        """See `Schedule.pass_time`."""
        try:
            super().pass_time()
        except Stuck:
            self.pausing = True


@attrs.define(eq=False)
class _Worker:
    """A task of a host, and what it still has to do."""

    process: Process
    todo: deque[Play] = attrs.Factory(deque)
    task: Task | None = None
    busy: bool = False
    closed: bool = False

    def run(self, share: Share) -> None:
        """Do what there is to do, until closed."""
        permit = self.process.permit
        if permit is not None:
            permit.attend()
        while self.todo or not self.closed:
            if self.todo:
                self.busy = True
                share.perform(self.process, self.todo.popleft())
                self.busy = False
            else:
                share.schedule.block(None)
        if permit is not None:
            permit.rest()


@attrs.define(eq=False)
class Live(Run):
    """One run whose schedule is not known beforehand.

    Attributes:
        workers: By name of the task.
    """

    workers: dict[str, _Worker] = attrs.Factory(dict)
    _steps: int = 0
    _first: str = ""

    @classmethod
    def of(cls, scenario: Scenario, names: Iterable[str]) -> Live:
        """Hosts with these tasks, "A", "A2", "B", that have nothing to do yet."""
        live = cls(attrs.evolve(scenario, tasks=dict.fromkeys(names, ())), {})
        live._last = sys.maxsize  # nobody asks what else could have happened
        fresh()
        live.schedule = _Patient(live._decide)
        live.share = Share(live.scenario, live.schedule)
        live.share.vanish = lambda process: live._vanish(process, scenario.lease)
        live.schedule.begin()
        for name in live.scenario.tasks:
            worker = _Worker(live.share.processes[name[0]])
            live.workers[name] = worker
            worker.task = live.schedule.add(name, name[0], lambda w=worker: w.run(live.share))  # type: ignore[misc]
        return live

    # ------------------------------------------------------------------ while it runs

    def tell(self, name: str, play: Play) -> None:
        """Give a task something to do."""
        worker = self.workers[name]
        worker.todo.append(play)
        self._wake(worker)

    def tasks_of(self, host: str) -> list[str]:
        """Its tasks that are told what to do."""
        return [name for name in self.workers if name[0] == host]

    def _wake(self, worker: _Worker) -> None:
        assert worker.task is not None
        if not worker.busy and worker.task.wake is None:
            self.schedule.awake(worker.task)

    def step(self, name: str, steps: int) -> None:
        """Let so many points pass; this task goes on first, if it can."""
        self._first, self._steps = name, steps
        self.schedule.proceed()

    def wrong(self, kind: str, whose: str) -> None:
        """Something goes wrong, now: see `run.Choice`."""
        if kind == "land" and not self.share.processes[whose].client.late:
            return
        self._goes_wrong(kind, whose, (0, ""), (kind, whose), self.schedule.tasks[0])

    def trouble(self, host: str, how: str) -> None:
        """Something goes wrong with the next request of a host that makes or changes a name."""
        self.share.processes[host].client.trouble = how

    def alive(self) -> list[str]:
        """Hosts that live."""
        return [name for name, process in self.share.processes.items() if not process.dead]

    # ------------------------------------------------------------------ the end

    def finish(self) -> None:
        """All do what they still have to do, and are judged."""
        self._steps = 1_000_000
        self._first = ""
        self.schedule.finale = self._begin_finale
        for worker in self.workers.values():
            worker.closed = True
            self._wake(worker)
        demand(self.schedule.proceed(), "somebody waits for ever")
        self.share.judge_all()

    def end(self) -> None:
        """Whatever has happened: let go of all tasks."""
        self.schedule.end()

    def _decide(self, schedule: Schedule, before: Task | None) -> Task | None:
        if not self._steps:
            schedule.pausing = True
            return None
        self._steps -= 1
        demand(len(self.events) < MOST, "nobody gets anywhere")
        first = next((t for t in schedule.tasks if t.name == self._first and t.can), None)
        self._first = ""
        usual = first or before or self._next(schedule)
        return self._goes(usual, (0, ""), None, usual)
