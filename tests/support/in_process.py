"""A `TargetServer` in the test's own process, with disks whose file system can hang."""

from __future__ import annotations

import contextlib
import fcntl
import pathlib
import threading
from collections.abc import Sequence
from typing import Any, Self

from flockpr.block import Disk
from flockpr.block.calls import ImageCalls
from flockpr.iscsi.server import TargetServer
from flockpr.iscsi.settings import Limits, LunSettings, Portal
from flockpr.store.identity import LunIdentity
from flockpr.units import Units
from tests.support.iscsi_client import Initiator
from tests.support.rings import ThreadRing
from tests.support.target_rig import Session, Url, initiator_name

PATIENCE = 100.0
"""Seconds that something may take on a machine that does a lot beside."""


class HangingCalls(ImageCalls):
    """Reads and writes of one image, which can be made to hang, and its locks."""

    def __init__(self) -> None:
        self._free = threading.Event()
        self._free.set()
        self._locks_hang = False
        self._changed = threading.Condition()
        self.waiting = 0
        self.reads = 0

    def hang(self) -> None:
        """From now on they hang."""
        self._free.clear()

    def hang_in_locks(self) -> None:
        """From now on whoever takes a lock hangs, as where a cluster gets over a lost node."""
        self._locks_hang = True
        self.hang()

    def go_on(self) -> None:
        """They go on."""
        self._locks_hang = False
        self._free.set()

    def until_waiting(self, count: int) -> None:
        """Wait until so many hang."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.waiting >= count, PATIENCE)

    def _pass(self) -> None:
        if self._free.is_set():
            return
        with self._changed:
            self.waiting += 1
            self._changed.notify_all()
        assert self._free.wait(PATIENCE)
        with self._changed:
            self.waiting -= 1

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        """The system call fcntl, when it may."""
        if self._locks_hang and kind != fcntl.F_UNLCK:
            self._pass()
        super().set_lock(fd, kind, start, length)

    def ring(self, room: int) -> ThreadRing:
        """What is launched is done by the calls below, and may hang as well."""
        return ThreadRing(room, self.preadv, self.pwritev)

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        """The system call preadv, when it may."""
        with self._changed:
            self.reads += 1
        self._pass()
        return super().preadv(fd, buffers, offset)

    def pwritev(
        self, fd: int, buffers: Sequence[memoryview | bytes], offset: int, *, durable: bool = False
    ) -> int:
        """The system call pwritev2, when it may."""
        self._pass()
        return super().pwritev(fd, buffers, offset, durable=durable)


class Rig:
    """A server over one root, and sessions with it; a context manager.

    Args:
        root: The root, with its LUNs.
        tags: Of the portals.
        settings: Per LUN.
        limits: Bounds; tests that wait for deadlines make them short.
        options: More for `TargetServer`.
    """

    def __init__(
        self,
        root: pathlib.Path,
        *,
        tags: Sequence[int] = (2,),
        settings: dict[str, LunSettings] | None = None,
        limits: Limits | None = None,
        **options: Any,
    ) -> None:
        self.calls: dict[str, HangingCalls] = {}
        self.disks: dict[str, Disk] = {}
        self.units = Units(str(root))
        self.root = root
        self.server = TargetServer(
            str(root),
            portals=[Portal(port=0, tag=tag) for tag in tags],
            settings=settings,
            limits=limits,
            units=self.units,
            open_disk=self._open,
            **options,
        )
        self._opened = contextlib.ExitStack()
        self.opened: list[Initiator] = []

    def _open(self, identity: LunIdentity, settings: LunSettings) -> Disk:
        calls = self.calls[identity.name] = HangingCalls()
        disk = self.disks[identity.name] = Disk(
            str(self.root),
            identity,
            self.units,
            calls=calls,
            read_only=settings.read_only,
        )
        return disk

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        for calls in self.calls.values():
            calls.go_on()
        self._opened.close()
        self.server.stop()
        self.units.close()

    def url(self, lun: str = "disk", portal: int = 0) -> Url:
        """Where a LUN is."""
        return Url.parse(self.server.url(lun, portal))

    def initiator(
        self, short: str = "a", lun: str = "disk", *, portal: int = 0, **options: Any
    ) -> Initiator:
        """A connection of the initiator with this short name."""
        url = self.url(lun, portal)
        options = {"target": url.target, "name": initiator_name(short), **options}
        made = Initiator((url.host, url.port), **options)
        self._opened.callback(made.close)
        self.opened.append(made)
        return made

    def session(
        self, short: str = "a", lun: str = "disk", *, portal: int = 0, **options: Any
    ) -> Session:
        """A session that has taken the unit attentions of its beginning."""
        initiator = self.initiator(short, lun, portal=portal, **options)
        session = Session(initiator, self.url(lun, portal).lun)
        session.settle()
        return session


def iscsi_threads() -> list[str]:
    """The names of the target door's threads in this process."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("iscsi-")]
