"""The rows of the matrix that only NFS has: what can befall its server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tests.vm.matrix import Row, Scene


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
        """Leave no room on its disk."""

    def drain(self) -> None:
        """Give the room back."""


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
        with scene.fault() as window:
            server.fill()
            scene.wait(8)
            server.drain()
            window.over()
            for winner in (0, 1):
                scene.duel.round(winner)

    rows = [
        Row("server restart", 60, after(server.restart_server), short=True),
        Row("server power cut", 90, after(server.power_cycle_server)),
        Row("disk full on the server", 30, no_room),
    ]
    if not server.leased:
        silent = after(lambda: server.restart_server(notify=False))
        rows.append(Row("server restart without sm-notify", 60, silent))
    return rows
