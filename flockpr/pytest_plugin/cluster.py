"""A cluster in a test: nodes on hosts of their own, which share one logical unit and can fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import overload

from flockpr.errors import ConfigError
from flockpr.logical_unit import LogicalUnit, Result
from flockpr.pytest_plugin.faults import (
    Fault,
    HostCalls,
    HostDiedError,
    Point,
    UnreachableError,
    failing,
)
from flockpr.pytest_plugin.lun import Lun
from flockpr.pytest_plugin.nexus import Answer, Nexus
from flockpr.pytest_plugin.timeline import DOOR
from flockpr.store.kinds import LOCKDIR
from flockpr.store.lockdir import LockDirectory

LEASE = 90.0
"""Seconds after which a server takes the locks of a host that it does not hear of."""


class Node(Nexus):
    """A node: an initiator on a host of its own.

    Args:
        lun: The logical unit.
        name: Of the node, its host and its initiator.
    """

    def __init__(self, lun: Lun, name: str) -> None:
        super().__init__(name, self._send, lun.target_port)
        self._lun = lun
        self._calls = HostCalls()
        self._unit: LogicalUnit | None = None
        self._apart_since: float | None = None
        self.start()

    @property
    def alive(self) -> bool:
        """Whether its daemon runs."""
        return self._unit is not None

    @property
    def unit(self) -> LogicalUnit:
        """Its daemon's logical unit."""
        assert self._unit is not None, f"{self.name} is dead"
        return self._unit

    def start(self) -> None:
        """Start its daemon, again if it died; what it had registered is its own still."""
        assert self._unit is None, f"{self.name} is alive"
        self._calls = HostCalls()
        store = LockDirectory(self._lun.path, syscalls=self._calls, host=self.name)
        self._unit = LogicalUnit(store, door=DOOR)
        self._unit.attend(self.id)
        self._lun.note(self.name, "* its daemon starts")

    def kill(self) -> None:
        """What kill -9 does to its daemon."""
        self._die("* killed")

    def _die(self, what: str) -> None:
        if self._unit is not None:
            self._calls.die()
            self._unit = None
            self._lun.note(self.name, what)

    def close(self) -> None:
        """End it in good order, wherever it was."""
        if self._unit is not None:
            self._calls.faults.clear()
            self._calls.reachable = True
            self._unit.close()
            self._unit = None

    def _send(self, _: Nexus, what: str, cdb: bytes, data_out: bytes) -> Result | None:
        result: Result | None = None
        died = False
        try:
            if self._calls.reachable:
                self.unit.attend(self.id)
            result = self.unit.execute(self.id, cdb, data_out)
            self.unit.attend(self.id)
            if cdb[0] == 0x5F:
                self._calls.at("before-reply")
        except UnreachableError:
            result = None
        except HostDiedError:
            result, died = None, True
        self._lun.note(self.name, what, str(Answer.of("", result)))
        if died:
            self._die("* died")
        return result

    # ------------------------------------------------------------------ faults

    @contextlib.contextmanager
    def dies(self, at: Point) -> Iterator[None]:
        """Within this, its daemon dies at this point; outside nothing is left of the fault."""

        def strike() -> None:
            self._calls.dead = True
            raise HostDiedError

        with self._fault(Fault(at, strike), f"* will die {at.replace('-', ' ')}"):
            yield

    @contextlib.contextmanager
    def fails(
        self, error: str, at: Point | None = None, times: int | None = None
    ) -> Iterator[None]:
        """Within this, its calls into the shared directory fail.

        Args:
            error: Name of the error: ``ENOSPC``, ``ESTALE``, ``EIO`` ...
            at: Only at this point; None: every call.
            times: How often; None: always.
        """
        where = "" if at is None else f" {at.replace('-', ' ')}"
        with self._fault(Fault(at, failing(error), times), f"* has {error}{where}"):
            yield

    @contextlib.contextmanager
    def slow(self, seconds: float, at: Point | None = None) -> Iterator[None]:
        """Within this, its calls take so long, on the virtual clock; see `flockpr_clock`.

        Args:
            seconds: Of each call.
            at: Only at this point.
        """
        clock = self._lun.clock
        assert clock is not None, "a slow share needs the fixture flockpr_clock"

        def strike() -> None:
            clock.advance(seconds)

        with self._fault(Fault(at, strike, None), f"* has a slow share, {seconds:g} s a call"):
            yield

    @contextlib.contextmanager
    def _fault(self, fault: Fault, what: str) -> Iterator[None]:
        calls = self._calls
        calls.faults.append(fault)
        self._lun.note(self.name, what)
        try:
            yield
        finally:
            if fault in calls.faults:
                calls.faults.remove(fault)

    def partition(self) -> None:
        """Cut it off from the share: its commands get no answer. With a virtual clock its locks
        are gone after `LEASE` seconds, else after `lose_locks`.
        """
        self._calls.reachable = False
        if self._lun.clock is not None:
            self._apart_since = self._lun.clock.seconds
        self._lun.note(self.name, "* cut off from the share")

    def heal(self) -> None:
        """Let it reach the share again."""
        self._calls.reachable = True
        self._apart_since = None
        self._lun.note(self.name, "* reaches the share again")

    def lose_locks(self) -> None:
        """The server takes its locks away, as at the end of a lease."""
        self._apart_since = None
        self._calls.lose_locks()
        self._lun.note(self.name, "* its locks are gone")

    def look_at_lease(self, seconds: float) -> None:
        """Time has passed."""
        if self._apart_since is not None and seconds - self._apart_since >= LEASE:
            self.lose_locks()


class Cluster(Sequence[Node]):
    """Nodes `node1`, `node2` ... of one logical unit.

    Args:
        lun: It.
        count: How many.

    Raises:
        ConfigError: It has a database, which hosts cannot share.
    """

    def __init__(self, lun: Lun, count: int) -> None:
        if lun.store != LOCKDIR:
            raise ConfigError(
                f"{lun.name}: a database is for one host, and a cluster has several",
                "leave flockpr_store as it is",
            )
        self.lun = lun
        self._nodes = [Node(lun, f"node{number}") for number in range(1, count + 1)]
        if lun.clock is not None:
            lun.clock.watch(self._time_passed)

    def _time_passed(self) -> None:
        assert self.lun.clock is not None
        for node in self._nodes:
            node.look_at_lease(self.lun.clock.seconds)

    @overload
    def __getitem__(self, index: int) -> Node: ...
    @overload
    def __getitem__(self, index: slice) -> list[Node]: ...
    def __getitem__(self, index: int | slice) -> Node | list[Node]:
        return self._nodes[index]

    def __len__(self) -> int:
        return len(self._nodes)

    def close(self) -> None:
        """End all nodes."""
        for node in self._nodes:
            node.close()
