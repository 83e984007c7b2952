"""The rows of the matrix that only a cluster with fencing has."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Protocol

from tests.support import sbc_cdbs as sbc
from tests.support.iscsi_client import Initiator
from tests.vm.cell import DUEL, PATIENCE, Stall
from tests.vm.duel import Duelist
from tests.vm.faults import LATE, Aside
from tests.vm.matrix import Row, Scene
from tests.vm.stamps import BLOCK, SECTORS
from tests.vm.writer import BLOCKS

_UNFENCED_SECONDS = 45.0
"""How long the fencing does not come: longer than a command waits for it."""
_SPARE = 2 * BLOCKS * SECTORS
"""First sector that none of the two writes."""
_WITHDRAWN_SECONDS = 20.0


class Fenceable(Protocol):
    """What the rows do to the cluster."""

    @property
    def device_works(self) -> threading.Event:
        """Set while the fence device is in order."""

    def hurry(self) -> None:
        """From now on a node that is killed is taken for dead soon."""

    def wait_asked(self, survivor: int) -> None:
        """Return when a node has asked its fence device to act."""

    def withdraw(self, number: int) -> None:
        """A node's kernel finds the file system damaged, and lets go of it."""

    def fill(self) -> None:
        """Leave no room on the shared disk."""

    def drain(self) -> None:
        """Give the room back."""


def _in_turn(scene: Scene, *tries: Aside) -> None:
    """Two have tried to take the disk, and nobody knows who had it first. Each gets it: who lost it
    is admitted again, and his own try goes on.
    """
    left = list(tries)
    deadline = time.monotonic() + LATE
    while left:
        if not (over := [one for one in left if one.over]):
            assert time.monotonic() < deadline, "nobody gets the disk"
            scene.wait(0.5)
            continue
        fenced = over[0].result()
        scene.say(f"{fenced.winner.ledger.author} has the disk")
        scene.duel.sealed(fenced)
        scene.duel.readmit(fenced)
        left.remove(over[0])


def _unmapping(scene: Scene, number: int) -> tuple[Stall, Initiator]:
    """An UNMAP of a host's duelist has been admitted, and is not carried out yet; its session."""
    one, lun = scene.duel.duelists[number], scene.cell.urls[DUEL].lun
    _fill_spare(one, b"o")
    session = scene.cell.log_in(one.ledger.author, DUEL, number, session=2)
    deadline = time.monotonic() + PATIENCE
    while not session.command(lun, sbc.read(_SPARE, 1), read=512).good:  # attentions of a new one
        assert time.monotonic() < deadline, "it may not read"
    stall = scene.stall(number, "punch")
    session.submit(lun, *sbc.unmap((_SPARE, SECTORS)))
    stall.reached()
    return stall, session


def _fill_spare(one: Duelist, byte: bytes) -> None:
    cdb, data = sbc.write(_SPARE, SECTORS), byte * BLOCK
    one.medium(lambda session, lun: session.command(lun, cdb, data), time.monotonic() + PATIENCE)


def _spare(one: Duelist) -> bytes:
    cdb = sbc.read(_SPARE, SECTORS)
    deadline = time.monotonic() + PATIENCE
    return one.medium(lambda session, lun: session.command(lun, cdb, read=BLOCK), deadline).data


def gfs2_rows(cluster: Fenceable) -> Sequence[Row]:
    """The rows of a cluster."""

    def unfenced(scene: Scene) -> None:
        """A node's power is cut, and the fence device does not answer: nobody takes the disk."""
        victim = 0
        with scene.fault() as window:
            cluster.hurry()
            cluster.device_works.clear()
            scene.lab.kill(victim)
            taking = Aside(lambda: scene.duel.preempt(1 - victim))
            cluster.wait_asked(1 - victim)
            scene.wait(_UNFENCED_SECONDS)
            assert not taking.over, "the disk was taken from a host that may still write"
            cluster.device_works.set()
            begun = time.monotonic()
            fenced = taking.result()
            scene.remarks.append(f"taken {time.monotonic() - begun:.0f} s after the fence")
            scene.boot(victim)
            window.over()
            scene.duel.readmit(fenced)

    def cut_unfenced(scene: Scene, point: str = "") -> None:
        """A node is cut off, while it writes or while its own PREEMPT is at a point, and goes on
        with it. It is not fenced for a while, and as long nobody else takes the disk.
        """
        victim = 0
        with scene.fault() as window:
            tries = []
            if point:
                stall = scene.stall(victim, point)
                tries.append(Aside(lambda: scene.duel.preempt(victim, LATE)))
                stall.reached()
            cluster.hurry()
            cluster.device_works.clear()
            scene.cut(victim)
            taking = Aside(lambda: scene.duel.preempt(1 - victim))
            cluster.wait_asked(1 - victim)
            if point:
                stall.let_go()
            scene.wait(_UNFENCED_SECONDS)
            assert not taking.over, "the disk was taken from a host that may still write"
            cluster.device_works.set()
            begun = time.monotonic()
            if not point:
                fenced = taking.result()
                scene.alone(window, fenced, begun)
            scene.mend(victim)
            window.over()
            _in_turn(scene, taking, *tries)

    def unmap_unfenced(scene: Scene) -> None:
        """A node is cut off with an UNMAP that it has admitted, and then goes on with it."""
        victim = 0
        with scene.fault() as window:
            stall, session = _unmapping(scene, victim)
            cluster.hurry()
            cluster.device_works.clear()
            scene.cut(victim)
            taking = Aside(lambda: scene.duel.preempt(1 - victim))
            cluster.wait_asked(1 - victim)
            stall.let_go()
            scene.wait(_UNFENCED_SECONDS)
            assert not taking.over, "the disk was taken from a host that may still write"
            cluster.device_works.set()
            begun = time.monotonic()
            fenced = taking.result()
            scene.alone(window, fenced, begun)
            _fill_spare(fenced.winner, b"n")
            scene.mend(victim)
            session.close()
            window.over()
            assert _spare(fenced.winner) == b"n" * BLOCK, "an UNMAP was carried out after GOOD"
            scene.duel.sealed(fenced)
            scene.duel.readmit(fenced)

    def withdrawn(scene: Scene) -> None:
        """A node's kernel lets go of the file system, which can neither be read nor written there
        any more. That makes it safe that the disk may be taken at once: the daemon gives its permit
        back when what it had under way has failed. Else it is taken when the node has no power.
        """
        victim = 0
        with scene.fault() as window:
            cluster.withdraw(victim)
            taking = Aside(lambda: scene.duel.preempt(1 - victim))
            scene.wait(_WITHDRAWN_SECONDS)
            scene.remarks.append("taken at once" if taking.over else "taken after the power cut")
            cluster.hurry()
            scene.lab.kill(victim)
            begun = time.monotonic()
            fenced = taking.result()
            scene.alone(window, fenced, min(begun, fenced.good))
            scene.boot(victim)
            window.over()
            scene.duel.readmit(fenced)

    def no_room(scene: Scene) -> None:
        """The shared disk is full until each node has refused a command for it."""
        with scene.fault() as window:
            cluster.fill()
            scene.turned_away(time.monotonic())
            cluster.drain()
            window.over()
            for winner in (0, 1):
                scene.duel.round(winner)

    never = "fencing does not come"
    return [
        Row(f"host SIGKILL, {never}", 60, unfenced),
        Row(f"link cut, in I/O, {never}", 60, cut_unfenced),
        Row(f"link cut, in a knock, {never}", 60, lambda s: cut_unfenced(s, "knock")),
        Row(f"link cut, in a commit, {never}", 60, lambda s: cut_unfenced(s, "commit")),
        Row(f"link cut, in an UNMAP, {never}", 60, unmap_unfenced),
        Row("withdraw", 60, withdrawn),
        Row("disk full", 30, no_room),
    ]
