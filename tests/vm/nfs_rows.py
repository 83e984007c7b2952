"""The rows of the matrix that only NFS has: what can befall its server."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from tests.vm.faults import Aside
from tests.vm.matrix import Row, Scene

_LONGER_THAN_A_LEASE = 15.0


class Server(Protocol):
    """What the rows do to it."""

    @property
    def leased(self) -> bool:
        """Whether locks end with a lease."""

    def restart_server(self, *, notify: bool = True) -> None:
        """Stop and start the file service."""

    def power_cycle_server(self) -> None:
        """Cut its power, and boot it again."""

    def fill(self) -> None:
        """Leave no room on its disk, and take what is given back, until `drain`."""

    def drain(self) -> None:
        """Give the room back."""


def _stopped(scene: Scene, point: str) -> Aside | None:
    """A PREEMPT of the first host that has come to a point; None without one."""
    if not point:
        return None
    stall = scene.stall(0, point)
    late = Aside(lambda: scene.duel.preempt(0))
    stall.reached()
    return late


def nfs_rows(server: Server) -> Sequence[Row]:
    """The rows of a server."""

    def after(disturb: Callable[[], None]) -> Callable[[Scene], None]:
        def play(scene: Scene) -> None:
            with scene.fault() as window:
                disturb()
                window.over()
                for winner in (0, 1):
                    scene.duel.round(winner)

        return play

    def no_room(scene: Scene) -> None:
        """The server's disk is full until each host has refused a command for it."""
        with scene.fault() as window:
            server.fill()
            scene.turned_away(time.monotonic())
            server.drain()
            window.over()
            for winner in (0, 1):
                scene.duel.round(winner)

    def until_rebooted(scene: Scene, point: str = "") -> None:
        """A dead host's locks are freed by what statd tells when it has booted again, also those
        of a PREEMPT of its own.
        """
        with scene.fault() as window:
            late = _stopped(scene, point)
            scene.lab.kill(0)
            taking = Aside(lambda: scene.duel.preempt(1))
            scene.wait(_LONGER_THAN_A_LEASE)
            assert not taking.over, "the disk was taken from a host that nobody has fenced"
            scene.boot(0)
            window.over()
            fenced = taking.result()
            scene.duel.sealed(fenced)
            scene.duel.readmit(fenced)
            if late is not None:
                scene.duel.readmit(late.result())

    def until_forced(scene: Scene, point: str = "") -> None:
        """A host is gone for good, at rest or with a PREEMPT of its own at a point, and an
        operator answers for it.
        """
        with scene.fault() as window:
            late = _stopped(scene, point)
            scene.lab.kill(0)
            taking = Aside(lambda: scene.duel.preempt(1))
            scene.wait(_LONGER_THAN_A_LEASE)
            assert not taking.over, "the disk was taken from a host that nobody has fenced"
            name, proof = scene.lab.nodes[0].name, "its power was cut by the test"
            force = f"gate force --all --host {name} --proof '{proof}' --yes --yes-it-is-fenced"
            scene.say(scene.cell.flockpr(1, force).strip())
            since = time.monotonic()
            fenced = taking.result()
            scene.alone(window, fenced, since)
            scene.boot(0)
            window.over()
            scene.duel.sealed(fenced)
            scene.duel.readmit(fenced)
            if late is not None:
                scene.duel.readmit(late.result())

    rows = [
        Row("server restart", 60, after(server.restart_server), short=True),
        Row("server power cut", 90, after(server.power_cycle_server)),
        Row("disk full on the server", 30, no_room),
    ]
    if not server.leased:
        silent = after(lambda: server.restart_server(notify=False))
        rows += [
            Row("server restart without sm-notify", 60, silent),
            Row("host SIGKILL, and boot", 60, until_rebooted),
            Row("host SIGKILL, `gate force`", 60, until_forced),
            Row("host SIGKILL, in a knock, `gate force`", 60, lambda s: until_forced(s, "knock")),
            Row("host SIGKILL, in a commit, and boot", 60, lambda s: until_rebooted(s, "commit")),
        ]
    return rows
