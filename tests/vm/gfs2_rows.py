"""The rows of the matrix that only a cluster with fencing has."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Protocol

from tests.vm.faults import Aside
from tests.vm.matrix import Row, Scene

_UNFENCED_SECONDS = 45.0
"""How long the fencing does not come: longer than a command waits for it."""


class Fenceable(Protocol):
    """What the rows do to the cluster."""

    @property
    def device_works(self) -> threading.Event:
        """Set while the fence device is in order."""

    def hurry(self) -> None:
        """From now on a node that is killed is taken for dead soon."""

    def wait_asked(self, survivor: int) -> None:
        """Return when a node has asked its fence device to act."""


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

    return [Row("host SIGKILL, fencing does not come", 60, unfenced)]
