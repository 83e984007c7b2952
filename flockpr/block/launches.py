"""Reads and writes that the kernel carries out while its caller goes on (see `ring`).

The rule of admission is that of `disk`: the permit is entered, then the served state is asked,
and the permit is left when the kernel has said that it is over. Who launches has others under way
already, for which somebody may wait who narrows access. So nothing is waited for here: what
cannot be launched at once, for whatever reason, is for `Disk.execute`, which finds out why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flockpr.block.device import Device
from flockpr.block.medium import Medium
from flockpr.block.nexus import DiskNexus
from flockpr.block.pool import MAX_BUFFER, Buffer, Pool
from flockpr.block.reply import GOOD, ScsiReply
from flockpr.block.rows import Row
from flockpr.block.served import Served
from flockpr.spc.codes import Status

MOST: Final = 64
"""Commands of one disk, of all connections, that are under way before others wait: a disk is no
quicker with more, and a command that takes access away waits for all of them.
"""


class Launch:
    """One of them: `Disk.land` has to be called for it, once.

    Attributes:
        fd: Descriptor of the image, open until then.
        view: The memory to read into or to write from, likewise.
        offset: Of the first byte on the image.
        writes: Whether it is a write.
    """

    __slots__ = ("buffer", "fd", "nexus", "offset", "row", "ticket", "view", "writes")

    def __init__(
        self,
        row: Row,
        nexus: DiskNexus,
        *,
        fd: int,
        view: memoryview,
        offset: int,
        buffer: Buffer | None,
        ticket: int | None,
    ) -> None:
        self.row = row
        self.nexus = nexus
        self.fd = fd
        self.view = view
        self.offset = offset
        self.writes = row.writes
        self.buffer = buffer
        self.ticket = ticket


class Launches:
    """Those of one disk. Thread-safe.

    Args:
        device: The disk without its reservations.
        served: The state to decide by.
        pool: Memory for what is read.
        failed: The reply to a system call that failed; asked under the permit.
    """

    def __init__(
        self,
        device: Device,
        served: Served,
        pool: Pool,
        failed: Callable[[Row, DiskNexus, OSError], ScsiReply],
    ) -> None:
        self._device = device
        self._medium: Medium = device.medium
        self._served = served
        self._pool = pool
        self._failed = failed
        self._under_way: set[Launch] = set()

    @property
    def crowded(self) -> bool:
        """Whether so many are under way that others had better wait."""
        return len(self._under_way) >= MOST

    def begin(self, row: Row, nexus: DiskNexus, cdb: bytes, data: memoryview) -> Launch | None:
        """Admit a command that is one call on the image.

        Args:
            row: Its row, which has a span; the CDB is as long as it says.
            nexus: Who sends it.
            cdb: Its CDB.
            data: What has come of its data-out.
        """
        device = self._device
        assert row.span is not None
        span = row.span(device, cdb)
        if span is None or (row.writes and len(data) != span[1]):
            return None
        permit = self._medium.permit
        # Without O_DIRECT a failure may be about what others wrote: see `stability`.
        if not permit.direct or not permit.enter_at_once():
            return None
        launch = None
        try:
            state = self._served.current()
            if (
                state is not None
                and nexus.admitted(state, row.access, cdb)
                and device.loaded
                and not (row.writes and device.protected())
            ):
                launch = self._take(row, nexus, span, data)
        finally:
            if launch is None:
                permit.leave()
        return launch

    def _take(
        self, row: Row, nexus: DiskNexus, span: tuple[int, int], data: memoryview
    ) -> Launch | None:
        """Get what it needs, if it is to be had at once: memory, or the range."""
        offset, size = span
        buffer = ticket = None
        if row.writes:
            ticket = self._medium.claim(offset, offset + size)
            if ticket is None:
                return None
        else:
            buffer = self._pool.acquire(size) if size <= MAX_BUFFER else None
            if buffer is None:
                return None
            data = buffer.view
        fd = self._medium.permit.fd
        launch = Launch(row, nexus, fd=fd, view=data, offset=offset, buffer=buffer, ticket=ticket)
        self._under_way.add(launch)
        return launch

    def end(self, launch: Launch, result: int) -> ScsiReply:
        """Answer one that is over.

        Args:
            launch: It.
            result: Bytes that were moved, or minus an errno.
        """
        medium, buffer = self._medium, launch.buffer
        try:
            if buffer is None:
                medium.write_ended(launch.view, launch.offset, result)
                return GOOD
            medium.read_ended(launch.view, launch.offset, result)
            launch.buffer = None
            return ScsiReply(Status.GOOD, b"", (launch.view,), buffer.release)
        except OSError as error:
            return self._failed(launch.row, launch.nexus, error)
        finally:
            if launch.ticket is not None:
                medium.ranges.leave(launch.ticket)
            self._under_way.discard(launch)
            medium.permit.leave()
            if launch.buffer is not None:
                launch.buffer.release()
