"""The reads and writes that the kernel carries out for one connection while its thread reads on.

Two rings for each disk: to tell the kernel of a command may hang where that disk does, and what
flies to the others must not wait for it; nor may a read wait for a write, which hangs where a file
system is frozen for a snapshot.
"""

from __future__ import annotations

import errno
import select
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from flockpr.block import Direction, Disk, Launch, Ring
from flockpr.gate import aside
from flockpr.iscsi.commands import CommandTask

ROOM: Final = 64
"""Commands of one ring that are under way."""
AGAIN: Final = 5.0
"""Seconds after which a ring is asked for again where there was none."""

Flight: TypeAlias = tuple[CommandTask, Launch]
FlightRing: TypeAlias = Ring[Flight]
Place: TypeAlias = tuple[Disk, bool]
"""A disk, and whether it is written to."""
Landed: TypeAlias = Callable[[Flight, int], None]
"""Called with what is over, and what the kernel says of it (see `Ring.reap`)."""


class Flights:
    """Belongs to the thread that reads, until that is relieved (see `inline`).

    Args:
        client: Descriptor of the connection.
    """

    def __init__(self, client: int) -> None:
        self._client = client
        self._poll: select.poll | None = None
        self._rings: dict[Place, FlightRing] = {}
        self._none: dict[Place, float] = {}
        self._open: dict[int, FlightRing] = {}

    def ring_of(self, task: CommandTask) -> FlightRing | None:
        """What may carry a command out; None where it has to be waited for."""
        if not _is_plain(task):
            return None
        place = (task.channel.lun.disk, task.transfer.direction is Direction.OUT)
        if self._none and time.monotonic() < self._none.get(place, 0.0):
            return None
        return self._rings.get(place) or self._ring_for(place)

    def crowded(self, task: CommandTask) -> bool:
        """Whether a command could be launched, but for how many others of its LUN are."""
        return _is_plain(task) and task.channel.lun.disk.crowded

    def _ring_for(self, place: Place) -> FlightRing | None:
        self._forget_closed()
        ring = place[0].ring(ROOM)
        if ring is None:
            self._none[place] = time.monotonic() + AGAIN
            return None
        self._rings[place] = self._open[ring.fd] = ring
        self._poll = None
        return ring

    def launch(self, task: CommandTask) -> FlightRing | None:
        """Let a command take off, as soon as its ring is submitted.

        Returns:
            Its ring. None: nothing was done, and it may be that somebody has to be waited for.
        """
        ring = self.ring_of(task)
        lun = task.channel.lun
        if ring is None or ring.full or not lun.tasks.may_begin(task):
            return None
        nexus, cdb, data = task.channel.attachment.disk_nexus, task.command.cdb, task.data_out
        launch = lun.disk.launch(nexus, cdb, data, cancelled=task.cancelled)
        if launch is None:
            return None
        if not lun.tasks.begin(task):  # ended or overtaken just now
            lun.disk.land(launch, -errno.EINTR)
            return None
        add = ring.write if launch.writes else ring.read
        add((task, launch), launch.fd, launch.view, launch.offset)
        return ring

    def _forget_closed(self) -> None:
        """A session's LUNs come and go."""
        for place in [place for place in self._none if place[0].closed]:
            del self._none[place]
        for place, ring in list(self._rings.items()):
            if place[0].closed and not ring.held:
                del self._rings[place], self._open[ring.fd]
                self._poll = None
                aside.begin(ring.close)

    @property
    def count(self) -> int:
        """How many are under way, or about to be."""
        count = 0
        for ring in list(self._open.values()):  # who was relieved may ask, too
            count += ring.held
        return count

    @property
    def queues(self) -> Sequence[FlightRing]:
        """Where the kernel has to be told of some."""
        return [ring for ring in list(self._open.values()) if ring.queued]

    def tasks(self) -> Sequence[CommandTask]:
        """Those that are under way."""
        return [task for ring in list(self._open.values()) for task, _ in ring.commands()]

    def wait(self) -> tuple[bool, list[FlightRing]]:
        """Wait for the client or for a disk.

        Returns:
            Whether the client has sent something, and where some are over.
        """
        poll = self._poll
        if poll is None:
            poll = self._poll = self._poll_of(self._client, *self._open)
        found = [fd for fd, _ in poll.poll()]
        return self._client in found, [self._open[fd] for fd in found if fd != self._client]

    def wait_for_disks(self) -> list[FlightRing]:
        """Wait until some are over; returns where."""
        return [self._open[fd] for fd, _ in self._poll_of(*self._open).poll()]

    @staticmethod
    def _poll_of(*descriptors: int) -> select.poll:
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        return poll

    def ground(self, ring: FlightRing, seconds: float) -> None:
        """Let nothing take off there for a while; what is under way goes on."""
        for place, other in self._rings.items():
            if other is ring:
                self._none[place] = time.monotonic() + seconds

    def leave_out(self, ring: FlightRing) -> None:
        """Forget a ring that another thread has to see to; a new one may take its place."""
        self._open.pop(ring.fd, None)
        self._poll = None
        for place, other in list(self._rings.items()):
            if other is ring:
                del self._rings[place]

    def finish(self, rings: Sequence[FlightRing], landed: Landed) -> None:
        """See to all that flies, some of it over in these rings, and end."""
        while self.count:
            for ring in rings:
                for flight, result in ring.reap():
                    landed(flight, result)
            rings = self.wait_for_disks() if self.count else ()
        self.close()

    def close(self) -> None:
        """Nothing is under way any more, and nothing is launched."""
        rings = list(self._open.values())
        self._open.clear()
        self._rings.clear()
        self._poll = None
        for ring in rings:
            ring.close()


def _is_plain(task: CommandTask) -> bool:
    """Whether a command is one read or write of the image."""
    transfer = task.transfer
    return transfer.quick and transfer.length > 0


def finish(ring: FlightRing, landed: Landed) -> None:
    """See to all that flies in one ring, and close it."""
    while ring.held:
        for flight, result in ring.reap(wait=True):
            landed(flight, result)
    ring.close()
