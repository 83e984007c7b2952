"""One schedule: who goes on at each point, what goes wrong where, and what it comes to.

A schedule is given by where it departs from the usual one, in which whoever runs goes on until
he waits, and then the next in turn does. `Script` says by number of the point what happens
there instead: another task goes on, or something goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from flockpr.store import layout
from tests.support.explore.installed import fresh
from tests.support.explore.scenario import Scenario, demand
from tests.support.explore.tasks import Access, Request, Schedule, Task
from tests.support.explore.world import Process, Share

Choice = tuple[str, str]
"""What happens, and to whom: `("go", task)` before anybody else; `("stall", task)`: what it asks
for takes long; `("lease", host)` and the like; `("request", how)` to the request that is made
there; `("land", host)`: a request that was on its way arrives.
"""
Script = Mapping[int, Choice]

LEASE = 3.0
"""Seconds after which a host that was cut off comes back, without its locks."""
HANG = 15.0
"""Seconds for which a host hangs: longer than any command waits."""
STALL = 4.0
"""Seconds that a request takes that takes long: longer than anybody waits before others go on."""
HORIZON = 1.0
"""A sleeper who would wake within so many seconds may wake before anybody else goes on."""
MOST = 3000
"""Points beyond which nobody gets anywhere."""

ON_HOSTS = ("lease", "cut", "hang", "die", "gone", "caches")
ON_LINKS = ("lost reply", "repeated", "late", "late for good", "twice", "refused")
ON_RENAMES = ("lost reply", "late")
FAULTS = (*ON_HOSTS, *(f"link {how}" for how in ON_LINKS), *(f"rename {how}" for how in ON_RENAMES))
"""What can go wrong. With a host: it loses its lease and goes on; it is cut off, loses its lease
and comes back; it hangs and comes back; its process is killed; it dies with its locks; what it
believes of names expires. With a request that commits or publishes: it takes effect, and its
sender is told that it failed, or sends it again; it fails, and arrives later, once or with all
others failing for a while; it arrives twice; the server refuses it for want of space."""


@attrs.define(slots=True)
class Event:
    """One step of a schedule.

    Attributes:
        task: Who did it; "" for what goes wrong.
        request: What it asked of the server.
        accesses: What it touched.
        choices: What else could have happened there.
        state: Of everything, before it; equal numbers are equal states.
        key: `state`, and who would have gone on.
        choice: What the script said.
        at: The time.
    """

    task: str
    request: Request
    accesses: tuple[Access, ...]
    choices: tuple[Choice, ...]
    key: tuple[int, str]
    choice: Choice | None
    at: float


class Known(BaseException):
    """This state was seen before, and all that can follow."""


Seen = Callable[[tuple[int, str]], bool]


@attrs.define(eq=False)
class Run:
    """One schedule of a scenario.

    Args:
        scenario: What the hosts do.
        script: The schedule.
        faults: What may go wrong, among the choices that are noted.
        seen: Asked, after the last departure of the script, whether to go no further.

    Attributes:
        events: What happened.
        error: Which invariant does not hold, if one does not.
        known: It was given up, since the rest is known.
        ends: Number of the first point at which all were done.
    """

    scenario: Scenario
    script: Script
    faults: tuple[str, ...] = ()
    seen: Seen = lambda _: False
    watch: Callable[[Run], None] | None = None
    events: list[Event] = attrs.Factory(list)
    error: BaseException | None = None
    known: bool = False
    ends: int | None = None
    share: Share = attrs.field(init=False)
    schedule: Schedule = attrs.field(init=False)
    _last: int = -1
    _final: bool = False
    _turn: str = ""
    _versions: dict[str, int] = attrs.Factory(dict)
    _histories: dict[str, int] = attrs.Factory(dict)
    _state: int = 0

    def go(self) -> Run:
        """Play it, and judge."""
        fresh()
        self._last = max(self.script, default=-1)
        self.schedule = Schedule(self._decide)
        self.share = Share(self.scenario, self.schedule)
        self.schedule.finale = self._begin_finale
        self.share.vanish = lambda process: self._vanish(process, self.scenario.lease)
        self.share.start()
        try:
            self.schedule.run()
            self.share.judge_all()
        except Known:
            self.known = True
        except AssertionError as error:
            self.error = error
        return self

    def _begin_finale(self) -> None:
        for process in self.share.processes.values():
            process.client.failing, process.client.trouble = 0.0, ""
            while process.client.late:
                process.client.late.pop(0).land()
        self._final = True
        self.ends = len(self.events)
        self.share.finale()

    # ------------------------------------------------------------------ who goes on

    def _decide(self, schedule: Schedule, before: Task | None) -> Task | None:
        number = len(self.events)
        demand(number < MOST, "nobody gets anywhere")
        usual = before or self._next(schedule)
        choice = self.script.get(number)
        key = (self._state, usual.name)
        if number > self._last and not self._final and self.seen(key):
            raise Known
        if choice is None or self._final:
            return self._goes(usual, key, None, usual)
        kind, what = choice
        if kind == "go":
            task = next((task for task in schedule.tasks if task.name == what), None)
            if task is None or not self._may_go(task):
                return self._goes(usual, key, None, usual)  # of a script that was shrunk
            if not task.ready:
                schedule.rouse(task)
            return self._goes(task, key, choice, usual)
        if kind == "request":
            self.share.processes[usual.host].client.trouble = what
            return self._goes(usual, key, choice, usual)
        self._goes_wrong(kind, what, key, choice, usual)
        return None  # and who goes on is asked again

    @staticmethod
    def _may_go(task: Task) -> bool:
        return task.awaited and (task.ready or task.wake is not None)

    def _next(self, schedule: Schedule) -> Task:
        """The next in turn."""
        found = schedule.tasks
        at = next((n for n, task in enumerate(found) if task.name == self._turn), -1)
        order = found[at + 1 :] + found[: at + 1]
        return next(task for task in order if task.can)

    def _goes(self, task: Task, key: tuple[int, str], choice: Choice | None, usual: Task) -> Task:
        accesses = (*task.pending.accesses, (f"host {task.host}", 0, 1, True))
        choices = () if self._final or len(self.events) <= self._last else self._choices(usual)
        request = task.pending
        self.events.append(
            Event(task.name, request, accesses, choices, key, choice, self.schedule.now)
        )
        what = (
            request.name if choice is None or choice[0] == "go" else f"{request.name} {choice[1]}"
        )
        self._note(task.name, what, accesses)
        self._turn = task.name
        if self.watch is not None:
            self.watch(self)
        return task

    def _choices(self, usual: Task) -> tuple[Choice, ...]:
        schedule, found = self.schedule, [("stall", usual.name)]
        for task in schedule.tasks:
            if task is usual or not task.awaited:
                continue
            soon = task.wake is not None and (
                task.wake <= schedule.now + HORIZON or task.host == "server"
            )
            if task.ready or soon:
                found.append(("go", task.name))
        for name, process in self.share.processes.items():
            if process.client.late:
                found.append(("land", name))
            if not process.dead and not self._frozen(name):
                found += [(kind, name) for kind in self._on_host(process)]
        found += [("request", how) for how in self._on_request(usual)]
        return tuple(found)

    def _frozen(self, host: str) -> bool:
        return any(task.frozen for task in self.schedule.tasks if task.host == host)

    def _on_host(self, process: Process) -> list[str]:
        found = []
        for fault in self.faults:
            kind, _, only = fault.partition("@")
            if kind in ON_HOSTS and only in ("", process.name):
                found.append(kind)
        if "lease" in found and not process.client.held():
            found.remove("lease")
        return found

    def _on_request(self, task: Task) -> list[str]:
        request = task.pending
        if request.name not in ("link", "rename") or not request.accesses:
            return []
        if request.name == "link" and not layout.COMMIT_NAME.fullmatch(request.what):
            return []
        head = f"{request.name} "
        return [kind.removeprefix(head) for kind in self.faults if kind.startswith(head)]

    # ------------------------------------------------------------------ what goes wrong

    def _goes_wrong(
        self, kind: str, host: str, key: tuple[int, str], choice: Choice, usual: Task
    ) -> None:
        accesses = self.touched_by(kind, host)
        choices = () if self._final or len(self.events) <= self._last else self._choices(usual)
        self.events.append(
            Event("", Request(kind, host), accesses, choices, key, choice, self.schedule.now)
        )
        self._note(f"{kind} {host}", kind, accesses)
        if kind == "stall":
            self._stall(next(task for task in self.schedule.tasks if task.name == host))
            return
        process = self.share.processes[host]
        match kind:
            case "lease":
                process.client.lose_lease()
            case "cut":
                process.client.lose_lease()
                self._freeze(host, LEASE)
            case "hang":
                self._freeze(host, HANG)
            case "die":
                self._kill(process)
                process.client.die()
            case "gone":
                self._vanish(process, 2 * LEASE)
            case "caches":
                process.client.forget_names()
            case "land":
                process.client.late.pop(0).land()
            case _:
                raise AssertionError(kind)

    def touched_by(self, kind: str, host: str) -> tuple[Access, ...]:
        """What something that goes wrong touches."""
        if kind == "stall":
            return ()
        client = self.share.processes[host].client
        if kind == "land":
            return client.late[0].accesses if client.late else ()
        memory = (f"host {host}", 0, 1, True)
        lease = (f"lease {host}", 0, 1, True)
        match kind:
            case "lease":
                return (*client.held(), lease)
            case "cut" | "die":
                return (*client.held(), lease, memory)
        return (memory,)

    def _stall(self, task: Task) -> None:
        task.stalled = True

        def over() -> None:
            task.stalled = False

        self._later(f"server, answer to {task.name}", STALL, over)

    def _freeze(self, host: str, seconds: float) -> None:
        frozen = [task for task in self.schedule.tasks if task.host == host]
        for task in frozen:
            task.frozen = True

        def thaw() -> None:
            for task in self.schedule.tasks:
                task.frozen = task.frozen and task.host != host

        self._later(f"server, link to {host}", seconds, thaw)

    def _later(self, name: str, seconds: float, what: Callable[[], None]) -> None:
        schedule = self.schedule

        task = schedule.add(name, "server", what, helper=True)
        task.ready, task.wake = False, schedule.now + seconds

    def _vanish(self, process: Process, lease: float | None) -> None:
        self._kill(process)
        if lease is not None:
            self._later(f"server, locks of {process.name}", lease, process.client.lose_lease)

    def _kill(self, process: Process) -> None:
        process.dead = True
        for task in self.schedule.tasks:
            task.gone = task.gone or task.host == process.name

    # ------------------------------------------------------------------ states

    def _note(self, who: str, what: str, accesses: tuple[Access, ...]) -> None:
        """Bring the number of the state up to date: what each task did, and what it found."""
        versions = self._versions
        found = [versions.get(access[0], 0) for access in accesses]
        history = self._histories.get(who, 0)
        after = hash(f"{history} {what} {found}")
        self._histories[who] = after
        state = self._state - number_of(who, history) + number_of(who, after)
        for access in accesses:
            if access[3]:
                before = versions.get(access[0], 0)
                versions[access[0]] = after
                state += number_of(access[0], after) - number_of(access[0], before)
        self._state = state & 0xFFFF_FFFF_FFFF_FFFF


def number_of(name: str, value: int) -> int:
    """One that can be added to others: as text, since hashes of tuples are nearly linear in what
    the tuples have, and the sum for A and B is often that for B and A then.
    """
    return hash(f"{name} {value}")
