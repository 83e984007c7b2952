"""The rows of the matrix that every shared file system has."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from attrs import define, field

from tests.support.target_rig import initiator_name
from tests.vm.cell import DUEL, FREE, PATIENCE
from tests.vm.duel import Fenced
from tests.vm.lab import Lab
from tests.vm.matrix import Row, Scene

_SHORT_CUT = 3.0
_LONG_CUT = 15.0
"""Seconds, where a silent host's locks are kept for ever."""
LATE = 3 * PATIENCE
"""Seconds that somebody tries to take the disk whose host is away for the time of the fault."""
_BEYOND = 1.5
"""How much longer than a file system remembers a silent host the long cuts are."""


@define
class Aside:
    """Something that takes a while, in a thread of its own."""

    work: Callable[[], Fenced]
    _found: list[Fenced] = field(factory=list, init=False)
    _failed: list[BaseException] = field(factory=list, init=False)
    _thread: threading.Thread = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="aside", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found.append(self.work())
        except BaseException as error:
            self._failed.append(error)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def result(self) -> Fenced:
        """What it came to."""
        self._thread.join(LATE)
        assert self.over, "it does not end"
        if self._failed:
            raise self._failed[0]
        return self._found[0]


def calm(scene: Scene) -> None:
    """No fault: what the others are compared with. Both hosts say who is registered, and lives."""
    scene.wait(10)
    scene.duel.hold()
    names = [initiator_name(one.ledger.author) for one in scene.duel.duelists]
    for number in (0, 1):
        assert _liveness(scene, DUEL, number) == dict.fromkeys(names, "alive")
    scene.duel.go()


def _liveness(scene: Scene, lun: str, number: int) -> dict[str, str]:
    """Who is registered, and whether he lives, as a host sees it."""
    entries = scene.cell.status(lun, number)["registrations"]
    return {str(entry["initiator"]): str(entry["liveness"]) for entry in entries}


def _wait_gone(scene: Scene, victim: int) -> None:
    """Wait until the other host sees nobody alive at a host that is dead."""
    names = [initiator_name(client.label) for client in scene.crowd if client.host == victim]
    deadline = time.monotonic() + PATIENCE
    while True:
        seen = _liveness(scene, FREE, 1 - victim)
        if all(seen.get(name) != "alive" for name in names):
            return
        assert time.monotonic() < deadline, seen
        time.sleep(1)


def daemon_killed(scene: Scene) -> None:
    """SIGKILL, and a new start."""
    daemon = scene.cell.daemons[0]
    with scene.fault() as window:
        daemon.kill()
        daemon.gone()
        daemon.start()
        window.over()


def daemon_killed_in_commit(scene: Scene) -> None:
    """SIGKILL with a PREEMPT decided and not committed: the other one takes over at once."""
    with scene.fault() as window:
        stall = scene.stall(0, "commit")
        late = Aside(lambda: scene.duel.preempt(0))
        stall.reached()
        daemon = scene.cell.daemons[0]
        daemon.kill()
        daemon.gone()
        daemon.start()
        window.over()
        scene.duel.readmit(late.result())


def host_killed(scene: Scene) -> None:
    """The power of a writing host is cut; the other takes the disk; the first one boots again."""
    lab, victim = scene.lab, 0
    with scene.fault() as window:
        lab.kill(victim)
        begun = time.monotonic()
        fenced = scene.duel.preempt(1 - victim)
        scene.alone(window, fenced, begun)
        _wait_gone(scene, victim)
        scene.boot(victim)
        window.over()
        scene.duel.readmit(fenced)


def host_killed_at(scene: Scene, point: str) -> None:
    """The power of a host is cut while its own PREEMPT is at a point: it rings, or has all the
    permits. The other one takes the disk; the first one boots again.
    """
    lab, victim = scene.lab, 0
    with scene.fault() as window:
        stall = scene.stall(victim, point)
        late = Aside(lambda: scene.duel.preempt(victim, LATE))
        stall.reached()
        lab.kill(victim)
        begun = time.monotonic()
        fenced = scene.duel.preempt(1 - victim)
        scene.alone(window, fenced, begun)
        scene.boot(victim)
        window.over()
        scene.duel.sealed(fenced)
        scene.duel.readmit(fenced)
        scene.duel.readmit(late.result())


def cut_in_io(scene: Scene, seconds: float) -> None:
    """A host that writes is cut off; the other one takes the disk meanwhile or after it."""
    victim = 0
    with scene.fault() as window:
        scene.cut(victim)
        begun = time.monotonic()
        taking = Aside(lambda: scene.duel.preempt(1 - victim))
        scene.wait(seconds)
        if scene.lab.forgets is not None and seconds > scene.lab.forgets:
            fenced = taking.result()  # while it is still cut off
            scene.alone(window, fenced, begun)
        scene.mend(victim)
        window.over()
        fenced = taking.result()
        scene.wait(2)  # whatever was on its way has arrived
        scene.duel.sealed(fenced)
        scene.duel.readmit(fenced)


def cut_at(scene: Scene, point: str, seconds: float) -> None:
    """A host is cut off while its PREEMPT is at a point, and then goes on with it."""
    cut = 0
    with scene.fault() as window:
        stall = scene.stall(cut, point)
        taking = Aside(lambda: scene.duel.preempt(cut, LATE))
        stall.reached()
        scene.cut(cut)
        stall.let_go()
        scene.wait(seconds)
        scene.mend(cut)
        window.over()
        fenced = taking.result()
        scene.duel.sealed(fenced)
        scene.duel.readmit(fenced)


def late_client(scene: Scene) -> None:
    """A host is cut off between its permit and its commit, for longer than locks live; the other
    one takes the disk; then the first one's commit goes out.
    """
    slow, quick = 0, 1
    with scene.fault() as window:
        stall = scene.stall(slow, "commit")
        late = Aside(lambda: scene.duel.preempt(slow, LATE))
        stall.reached()
        scene.cut(slow)
        fenced = scene.duel.preempt(quick)
        scene.mend(slow)
        stall.let_go()
        window.over()
        # The late one was preempted, so its command is refused; it registers again, and then
        # its next try is a command like any other.
        scene.wait(3)
        scene.duel.sealed(fenced)
        assert not late.over, "the command of a preempted host was carried out"
        scene.duel.readmit(fenced)
        scene.duel.readmit(late.result())


def late_client_that_keeps_its_locks(scene: Scene) -> None:
    """The same where a silent host keeps its locks: the other one has to wait for it."""
    slow, quick = 0, 1
    with scene.fault() as window:
        stall = scene.stall(slow, "commit")
        late = Aside(lambda: scene.duel.preempt(slow, LATE))
        stall.reached()
        scene.cut(slow)
        waiting = Aside(lambda: scene.duel.preempt(quick))
        scene.wait(_LONG_CUT)
        assert not waiting.over, "the disk was taken from a host that nobody has fenced"
        scene.mend(slow)
        stall.let_go()
        window.over()
        scene.duel.readmit(late.result())
        scene.duel.readmit(waiting.result())


def common_rows(lab: Lab) -> list[Row]:
    """The rows that every file system has."""
    forgets = lab.forgets
    long = _LONG_CUT if forgets is None else _BEYOND * forgets
    # Version 3 of NFS asks again after a minute.
    resumes = 90 if forgets is None else 45
    late = late_client_that_keeps_its_locks if forgets is None else late_client
    leased = forgets is not None
    # Where a silent host keeps its locks, a long cut shows no more than a short one.
    rows = [
        Row("nothing", 30, calm),
        Row("daemon SIGKILL", 30, daemon_killed, short=True),
        Row("daemon SIGKILL in a commit", 30, daemon_killed_in_commit),
        Row("link cut short, in I/O", 30, lambda s: cut_in_io(s, _SHORT_CUT), short=not leased),
        Row("link cut short, in a knock", 30, lambda s: cut_at(s, "knock", _SHORT_CUT)),
        Row("link cut short, in a commit", 30, lambda s: cut_at(s, "commit", _SHORT_CUT)),
        Row("link cut long, in I/O", resumes, lambda s: cut_in_io(s, long), short=leased),
        Row("link cut long, in a knock", resumes, lambda s: cut_at(s, "knock", long)),
        Row("link cut long, in a commit", resumes, lambda s: cut_at(s, "commit", long)),
        Row("late client", resumes, late),
    ]
    if leased:
        rows += [
            Row("host SIGKILL", 45, host_killed),
            Row("host SIGKILL, in a knock", 45, lambda s: host_killed_at(s, "knock")),
            Row("host SIGKILL, in a commit", 45, lambda s: host_killed_at(s, "commit")),
        ]
    return rows
