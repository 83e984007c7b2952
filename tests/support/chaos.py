"""Everything at once: hosts stall, die and come back, calls fail, replies get lost, requests
land late, the power fails; three daemons go on as if nothing were the matter.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random

import attrs

from flockpr.errors import StoreError
from flockpr.store import layout
from tests.support.scenes import random_script
from tests.support.simfs import Call, Client, FileNode, Killed
from tests.support.simworld import COMMITS, Daemon, World
from tests.support.stalls import aside_of, is_commit, land

DAEMONS = 3
TROUBLES = ("stall",) * 4 + ("fail", "late", "late", "land", "land", "die", "cut")
ERRNOS = (errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EMFILE, errno.ETIMEDOUT)


@attrs.define(eq=False)
class Chaos:
    """One run.

    Attributes:
        world: The world.
        rng: Decides everything.
        trouble: How often, per call, something goes wrong.
        late: Requests on their way, with the daemon that sent them.
    """

    world: World
    rng: random.Random
    trouble: float
    late: list[tuple[Daemon, FileNode, str]] = attrs.Factory(list)
    daemons: list[Daemon] = attrs.Factory(list)
    busy: list[Daemon] = attrs.Factory(list)
    seen: dict[str, int] = attrs.Factory(dict)

    def run(self, commands: int) -> None:
        """So many commands; then all trouble ends, and everything must be in order."""
        with self.world.clock.installed():
            for _ in range(DAEMONS):
                self.start()
            for _, play in random_script(self.rng, commands):
                self.perform(self.rng.choice(self.daemons), play)
            self.end()

    def start(self) -> Daemon:
        """A daemon on a host of its own."""
        patience = self.rng.choice((0.2, 1e6))
        daemon = self.world.daemon(order=False, keep=2, settle=0, patience=patience)
        daemon.client.before = lambda client, call: self.before(daemon, client, call)
        daemon.client.after = lambda client, call: self.after(daemon, client, call)
        self.daemons.append(daemon)
        return daemon

    def perform(self, daemon: Daemon, play: tuple[object, ...]) -> None:
        """One command, whatever becomes of it."""
        self.busy.append(daemon)
        try:
            with contextlib.suppress(StoreError):
                daemon.play(play)
        except Killed:
            self.daemons.remove(daemon)
            self.start()
        finally:
            self.busy.remove(daemon)
        self.world.clock.now += self.rng.choice((0.0, 2.0, 70.0))

    def count(self, what: str) -> None:
        """Something happened."""
        self.seen[what] = self.seen.get(what, 0) + 1

    def before(self, daemon: Daemon, client: Client, call: Call) -> None:
        """Trouble in the place of a call."""
        if self.rng.random() >= self.trouble * (3 if is_commit(call) else 1):
            return
        idle = [other for other in self.daemons if other not in self.busy]
        match self.rng.choice(TROUBLES):
            case "stall" if idle:
                self.count("stall")
                for _, play in random_script(self.rng, self.rng.choice((1, 2, 6))):
                    if idle[0] in self.daemons:
                        self.perform(idle[0], play)
            case "fail":
                self.count("fail")
                self.fail()
            case "late" if is_commit(call) and (node := aside_of(daemon)) is not None:
                self.count("late")
                self.late.append((daemon, node, call.what))
                self.fail((errno.EIO, errno.ETIMEDOUT))  # the client gave up, not the server
            case "land" if self.late:
                self.count("land")
                with contextlib.suppress(OSError):
                    land(*self.late.pop(0))
            case "die":
                self.count("die")
                client.die()
                raise Killed
            case "cut":
                self.count("cut")
                self.world.judge_recovery(self.world.disk.cut(self.rng.randrange))

    def after(self, _: Daemon, __: Client, call: Call) -> None:
        """A reply that gets lost."""
        if call.name in ("link", "unlink", "rename") and self.rng.random() < self.trouble * 2:
            self.count("lost reply")
            self.fail()

    def fail(self, numbers: tuple[int, ...] = ERRNOS) -> None:
        """Any error."""
        number = self.rng.choice(numbers)
        raise OSError(number, os.strerror(number))

    def end(self) -> None:
        """All that is late lands; then each daemon works, and agrees with a new one."""
        for late in self.late:
            with contextlib.suppress(OSError):
                land(*late)
        for daemon in self.daemons:
            daemon.client.before = daemon.client.after = None
        self.world.clock.now += 100.0
        for daemon in self.daemons:
            daemon.power_cycle()
        stranger = self.world.daemon()
        keys = stranger.keys()
        for daemon in self.daemons:
            assert daemon.keys() == keys
            daemon.tidy()
        self.world.judge()
        self.world.judge_recovery(self.world.disk.cut(lambda _: 0))
        for daemon in (*self.daemons, stranger):
            daemon.unit.close()
            assert not daemon.client.fds, "a descriptor leaked"
        newest = layout.commit_name(self.world.newest)
        assert max(n for n in self.world.disk.directory(COMMITS).names if n[0] != ".") == newest


def chaos(seed: int, commands: int) -> dict[str, int]:
    """One run with this seed; what went wrong in it, and how often."""
    rng = random.Random(seed)
    world = World(segment=2, forgetful=rng.random() < 0.5)
    run = Chaos(world, rng, rng.choice((0.005, 0.02, 0.05)))
    run.run(commands)
    return run.seen
