"""The target door: LUNs with an image, served to iSCSI initiators.

::

    portal (a thread that accepts)
      connection (a thread that reads, or the desk of those that only reserve)
        -- sans-I/O protocol -->  task set of a LUN, its threads: Disk.execute
      output, sent by whoever has it; what a client does not take: the housekeeper
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from flockpr.block import Disk, Pool
from flockpr.desk import Desk
from flockpr.errors import ConfigError
from flockpr.filesystems import Gated, Guard, Promise, Terms
from flockpr.filesystems.guard import Snapshot, snapshot
from flockpr.iscsi.backlog import Backlog
from flockpr.iscsi.connection import Connection
from flockpr.iscsi.door import Door
from flockpr.iscsi.housekeeper import Housekeeper
from flockpr.iscsi.inventory import DOOR, Inventory, Watch
from flockpr.iscsi.memory import Memory
from flockpr.iscsi.portals import PortalListener, affordable_connections, bound_to
from flockpr.iscsi.reading import Reading
from flockpr.iscsi.relief import Relief
from flockpr.iscsi.session import ProtocolConfig
from flockpr.iscsi.sessions import SessionRegistry
from flockpr.iscsi.settings import (
    Address,
    ChapAccount,
    Limits,
    LunSettings,
    Portal,
    check_open_to_others,
)
from flockpr.iscsi.targets import Lun, Target, TargetMap
from flockpr.iscsi.tasks import TaskSet
from flockpr.store.identity import LunIdentity
from flockpr.units import Units

log = logging.getLogger(__name__)

_LEAST = 0.5
"""Seconds that the end of what was abandoned, and of a disk, gets however late it is."""

OpenDisk = Callable[[LunIdentity, LunSettings], Disk]


class TargetServer:
    """Serves the LUNs of one root through some portals.

    Args:
        root: The root directory.
        portals: Where to listen.
        luns: Names of the LUNs to serve, all of which must be there; None: every LUN of the
            root that has an image, and those that cannot be served are logged. LUNs that are
            added, or can be served later, are found within a few seconds.
        settings: What differs per LUN, by name.
        target_name: iSCSI name of one target that carries all LUNs; None: each LUN has a
            target of its own (`store.identity.target_name`).
        chap: Accounts of which an initiator must prove one; none: it need not.
        mutual: What the target proves, to initiators that ask it to.
        allow_unauthenticated: Serve without CHAP where other hosts can connect.
        terms: Under which promises about the file system it serves; see `flockpr.filesystems`.
        limits: Bounds of what peers may cost.
        units: The root's logical units, if another door shares them; not closed here.
        open_disk: Opens a disk; for tests that put something else there.

    Raises:
        ConfigError: A name cannot be; or other hosts can connect, need not prove anything, and
            that was not asked for.

    Use as a context manager, or call `start` and `stop`.
    """

    def __init__(
        self,
        root: str,
        *,
        portals: Sequence[Portal] = (Portal(),),
        luns: Sequence[str] | None = None,
        settings: Mapping[str, LunSettings] | None = None,
        target_name: str | None = None,
        chap: Sequence[ChapAccount] = (),
        mutual: ChapAccount | None = None,
        allow_unauthenticated: bool = False,
        terms: Terms | None = None,
        limits: Limits | None = None,
        units: Units | None = None,
        open_disk: OpenDisk | None = None,
    ) -> None:
        if not portals:
            raise ConfigError("a target needs a portal")
        check_open_to_others(
            map(bound_to, portals), authenticated=bool(chap), allowed=allow_unauthenticated
        )
        self.root = root
        self._portals = tuple(portals)
        self._limits = limits or Limits()
        self._terms = terms or Terms()
        self._looked: tuple[Snapshot, frozenset[str]] | None = None
        self._shared_units = units
        self._units: Units | None = None
        self._open_disk = open_disk or self._opened
        self._targets = TargetMap(target_name)
        self._registry = SessionRegistry(self._targets, self._limits)
        self._housekeeper = Housekeeper()
        self._pool = Pool(self._limits.data_in)
        self._desk = Desk(serve=Reading.keep, alone=Reading.alone, ended=Reading.alone)
        self._door = Door(
            targets=self._targets,
            registry=self._registry,
            housekeeper=self._housekeeper,
            relief=Relief(self._housekeeper),
            desk=self._desk,
            looks_hang=self._looks_hang,
            limits=self._limits,
            memory=Memory(self._limits.data_out_all, self._limits.data_out, self._housekeeper.soon),
            backlog=Backlog(self._limits.output_all, lambda: self._pool.crowded),
            protocol=ProtocolConfig(window=self._limits.window),
            chap=tuple(chap),
            mutual=mutual,
            portals=self._named_portals,
        )
        self._listeners: tuple[PortalListener, ...] = ()
        self._inventory = Inventory(
            root,
            names=None if luns is None else tuple(luns),
            tags={portal.tag for portal in self._portals},
            settings=dict(settings or {}),
            targets=self._targets,
            registry=self._registry,
            make=self._made,
            patience=self._limits.task_management,
        )
        self._watch = Watch(self._limits.rescan, self.rescan)
        self._mounts = Watch(self._limits.mounts, self.look_at_promises, "iscsi-mounts")
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._most = self._limits.connections or 0
        self._accepted = 0
        self._stopping = False
        self._started = False
        self._stopped = False
        self._in_time = True

    # ------------------------------------------------------------------ what there is

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where the portals listen, once they are bound."""
        return tuple(listener.address for listener in self._listeners)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets and their LUNs."""
        return tuple(self._targets)

    @property
    def alive(self) -> bool:
        """Whether clients are being accepted and deadlines are kept; for a watchdog."""
        return self._housekeeper.alive and all(listener.alive for listener in self._listeners)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        with self._lock:
            return len(self._connections)

    @property
    def sessions(self) -> int:
        """How many sessions there are, discovery sessions not counted."""
        return len(self._registry)

    def url(self, lun: str, portal: int = 0) -> str:
        """The URL of a LUN as libiscsi and QEMU take it.

        Args:
            lun: Name of the LUN.
            portal: Index of the portal.

        Raises:
            ConfigError: The LUN is not served.
        """
        target = self._targets.carrier(lun)
        if target is None:
            raise ConfigError(f"{lun} is not served here")
        number = next(n for n, each in target.luns.items() if each.identity.name == lun)
        return f"iscsi://{self.addresses[portal].text}/{target.name}/{number}"

    # ------------------------------------------------------------------ start

    def bind(self) -> tuple[Address, ...]:
        """Bind and listen; clients wait in the backlog until `start`. Idempotent.

        Raises:
            ConfigError: An address cannot be.
            OSError: The system refused.
        """
        if not self._listeners:
            listeners: list[PortalListener] = []
            try:
                listeners.extend(PortalListener(portal, self._take) for portal in self._portals)
            finally:
                if len(listeners) < len(self._portals):
                    for listener in listeners:
                        listener.close()
            self._listeners = tuple(listeners)
        return self.addresses

    def start(self) -> tuple[Address, ...]:
        """Open the disks, bind if that was not done, and accept.

        Raises:
            ConfigError: See `bind`; or no portal offers a LUN that was named.
            StoreError: The root, or a LUN that was named, cannot be served.
            OSError: The system refused. Nothing stays open, whatever is raised.
        """
        try:
            self.bind()
            self._units = self._shared_units or Units(self.root)
            self._inventory.load()
            if not self._targets.luns:
                log.warning("%s: there is no LUN with an image to serve", self.root)
            self._most = self._room()
            self._housekeeper.start()
            for listener in self._listeners:
                listener.start()
            self._started = True
            self._watch.start()
            self._mounts.start()
        except BaseException:
            self.stop(0.0)
            raise
        return self.addresses

    def rescan(self) -> None:
        """Serve LUNs that were added to the root and let go of those that were deleted; sessions
        are told. Called every now and then by itself.

        Raises:
            StoreError: The root cannot be read.
        """
        if self._started and self._units is not None:
            self._inventory.rescan(self._units)
            self._most = self._room()

    def _looks_hang(self) -> None:
        if self._units is not None:
            self._units.looks_hang()

    def look_at_promises(self) -> None:
        """See whether the file systems are still what they were when it began to serve. Called
        every now and then by itself; touches none of them, so it never hangs with one.
        """
        luns = list(self._targets.luns)
        now = snapshot(self._terms.sources), frozenset(lun.identity.name for lun in luns)
        if now != self._looked:
            for lun in luns:
                lun.disk.look_at_promise()
            self._looked = now

    def _room(self) -> int:
        """How many clients may be connected."""
        return self._limits.connections or affordable_connections(
            len(self._targets.luns), doors=1 if self._shared_units is None else 2
        )

    def _made(self, identity: LunIdentity, settings: LunSettings) -> Lun:
        """A LUN whose disk is open."""
        disk = self._open_disk(identity, settings)
        _tell(identity.name, disk.promise)
        tasks = TaskSet(
            identity.name,
            workers=self._limits.workers,
            most=self._limits.queue,
            most_each=self._limits.queue_each,
            later=self._housekeeper.later,
        )
        return Lun(identity, settings, disk, tasks, self._door.memory.lun())

    def _opened(self, identity: LunIdentity, settings: LunSettings) -> Disk:
        assert self._units is not None
        assert identity.image is not None
        image = os.path.join(self.root, identity.image)
        return Disk(
            self.root,
            identity,
            self._units,
            door=DOOR,
            pool=self._pool,
            read_only=settings.read_only,
            removable=settings.removable,
            physical_block_size=settings.physical_block_size,
            timeout=self._units.timeout,
            guard=Guard(self._terms, self.root, image),
            patience=self._limits.claim,
        )

    # ------------------------------------------------------------------ connections

    def _named_portals(self, connection: socket.socket) -> list[tuple[str, int]]:
        """Every portal as SendTargets names it, and its tag."""
        return [(listener.advertised(connection), listener.tag) for listener in self._listeners]

    def _take(self, sock: socket.socket, listener: PortalListener) -> None:
        """Give a client a thread; the listener closes the socket if this raises."""
        if self.connections >= self._most:
            listener.complain("more than %d connections; a client was turned away", self._most)
            sock.close()
            return
        sock.setblocking(True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._accepted += 1
        connection = Connection(
            sock, door=self._door, tag=listener.tag, number=self._accepted, ended=self._forget
        )
        with self._lock:
            if self._stopping:
                connection.discard()
                return
            self._connections.add(connection)
        try:
            connection.start()
        except RuntimeError:
            self._forget(connection)
            connection.discard()
            listener.complain("no thread for a client; it was turned away")

    def _forget(self, connection: Connection) -> None:
        with self._lock:
            self._connections.discard(connection)

    # ------------------------------------------------------------------ stop

    def stop_accepting(self) -> None:
        """Close the listening sockets; sessions go on. Idempotent."""
        for listener in self._listeners:
            listener.close()

    def stop(self, timeout: float = 8.0) -> bool:
        """Accept nobody, answer what is in execution, end. Idempotent.

        Args:
            timeout: Seconds that commands in execution get.

        Returns:
            Whether every one of them was answered.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            self._stopping = True
            connections = list(self._connections)
        self._inventory.close()
        self.stop_accepting()
        for connection in connections:
            connection.end_input()
        late = [each for each in connections if not each.join(deadline - time.monotonic())]
        for connection in late:
            connection.abandon()
        end = time.monotonic() + _LEAST
        for connection in connections:
            connection.join(end - time.monotonic())
        if late:
            log.warning("%d connections had commands in execution after %g s", len(late), timeout)
        self._desk.stop()
        closed = self._close_disks(deadline)
        self._in_time = self._in_time and closed and not late
        return self._in_time

    def _close_disks(self, deadline: float) -> bool:
        if self._stopped:
            return True
        self._stopped = True
        # In time unless the root hangs, and then it serves nothing more.
        self._watch.stop(_LEAST)
        self._mounts.stop(_LEAST)
        # In threads of their own: to close a file of a server that hangs may hang.
        threads = [
            threading.Thread(target=_close, args=(lun,), name="iscsi-close", daemon=True)
            for lun in self._targets.luns
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(_LEAST, deadline - time.monotonic()))
        closed = not any(thread.is_alive() for thread in threads)
        self._housekeeper.close()
        if self._units is not None and self._shared_units is None:
            closed = self._units.close(max(_LEAST, deadline - time.monotonic())) and closed
        return closed

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _tell(name: str, promise: Promise | None) -> None:
    """Log what is promised for a LUN that is about to be served."""
    if promise is None:
        return
    if promise.gated is Gated.NO:
        log.error("%s is served WITHOUT A PROMISE, as was allowed: %s", name, promise.line())
        return
    log.info("%s: %s", name, promise.line())
    for condition in promise.conditions:
        log.info("%s: only if: %s", name, condition)


def _close(lun: Lun) -> None:
    lun.tasks.close()
    try:
        lun.disk.close()
    except Exception:
        log.exception("%s: cannot be closed", lun.identity.name)
