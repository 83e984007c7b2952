"""A helper server over units in memory, and the raw client side of its protocol."""

from __future__ import annotations

import array
import contextlib
import os
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Self

import attrs

from flockpr.core.machine import step
from flockpr.core.model import LogicalUnitState, Nexus
from flockpr.desk import Desk
from flockpr.logical_unit import Result
from flockpr.manager import FileLockManager
from flockpr.prhelper.connection import Connection, Limits
from flockpr.prhelper.identity import Identifier
from flockpr.prhelper.listener import Listener
from flockpr.prhelper.server import HelperServer
from flockpr.spc.cdb import parse_command
from flockpr.spc.codes import Status
from flockpr.spc.transport_id import InitiatorPort
from flockpr.units import Hush

DEADLINE = 60.0
"""Seconds after which a busy machine is no excuse any more."""

PORT = InitiatorPort("iqn.2026-11.org.flockpr:test")


@attrs.frozen
class Call:
    """One command as the units got it."""

    lun: str
    nexus: Nexus
    cdb: bytes
    data_out: bytes
    door: str
    report_attentions: bool
    long_parameter_length: bool


class MemoryUnits:
    """Units without a store: the real rules over state in memory.

    Attributes:
        calls: Every command.
        presence: Every attend (True) and leave (False), in order.
        names: What `find_by_wwid` knows.
        hung: Logical units that never answer.
        canned: Overrides the rules.
        failure: Raised by `find_by_wwid` and `submit`.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.presence: list[tuple[bool, str, Nexus, str]] = []
        self.names: dict[str, str] = {}
        self.hung: set[str] = set()
        self.canned: Result | None = None
        self.failure: Exception | None = None
        self.pending: list[Future[Result]] = []
        self._states: dict[str, LogicalUnitState] = {}
        self._lock = threading.Lock()

    def submit(
        self,
        lun: str,
        nexus: Nexus,
        cdb: bytes,
        data_out: bytes,
        *,
        door: str,
        report_attentions: bool,
        long_parameter_length: bool,
    ) -> Future[Result]:
        """Decide a command at once, or never."""
        future: Future[Result] = Future()
        with self._lock:
            self.calls.append(
                Call(lun, nexus, cdb, data_out, door, report_attentions, long_parameter_length)
            )
            if self.failure is not None:
                raise self.failure
            if lun in self.hung:
                self.pending.append(future)
                return future
            if self.canned is not None:
                future.set_result(self.canned)
                return future
            command = parse_command(cdb, data_out, long_parameter_length=long_parameter_length)
            state = self._states.get(lun, LogicalUnitState())
            outcome = step(state, nexus, command, report_attentions=report_attentions)
            self._states[lun] = outcome.state
            future.set_result(Result.of(outcome.reply))
        return future

    def submit_to(
        self,
        *command: Any,
        answered: Callable[[Result], object],
        hush: Hush | None,
        **options: Any,
    ) -> None:
        """As `submit`, for whoever wants to be called."""
        del hush
        future = self.submit(*command, **options)
        future.add_done_callback(lambda done: answered(done.result()))

    def attend(self, lun: str, nexus: Nexus, door: str) -> None:
        """Note it."""
        self.presence.append((True, lun, nexus, door))

    def leave(self, lun: str, nexus: Nexus, door: str) -> None:
        """Note it."""
        self.presence.append((False, lun, nexus, door))

    def find_by_wwid(self, wwids: Iterable[str]) -> str | None:
        """Look it up."""
        if self.failure is not None:
            raise self.failure
        return next((self.names[wwid] for wwid in wwids if wwid in self.names), None)


@attrs.frozen
class Served:
    """A running server, and what it runs on."""

    server: HelperServer
    units: MemoryUnits
    manager: FileLockManager
    path: str


@contextlib.contextmanager
def short_directory() -> Iterator[str]:
    """A directory whose path leaves room for a socket's name."""
    path = tempfile.mkdtemp(prefix="fpr")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def serving(
    *,
    lun: str | None = "disk",
    identifier: Identifier | None = None,
    limits: Limits | None = None,
    manager: Callable[[MemoryUnits], FileLockManager] | None = None,
    report_attentions: bool = False,
    desk: Desk[Connection] | None = None,
) -> Iterator[Served]:
    """Run a helper server for the time of a test; `desk`: one that is shared with others."""
    units = MemoryUnits()
    made = (
        manager(units)
        if manager
        else FileLockManager(
            "helper",
            units=units,
            lun=lun,
            door="helper",
            long_parameter_length=False,
            report_attentions=report_attentions,
        )
    )
    with short_directory() as directory:
        path = os.path.join(directory, "s")
        server = HelperServer(
            Listener.bind(path),
            made,
            identifier or Identifier(explicit=PORT),
            limits=limits,
            desk=desk,
        )
        server.start()
        try:
            yield Served(server, units, made, path)
        finally:
            for future in units.pending:
                if not future.done():
                    future.set_result(Result(Status.BUSY))
            server.stop(DEADLINE)
            made.close()


class RawClient:
    """A client that sends exactly the bytes and descriptors it is told to."""

    def __init__(self, path: str, *, handshake: bool = True) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(path)
        if handshake:
            assert self.receive(4) == bytes(4)
            self.sock.sendall(bytes(4))

    def send(self, data: bytes, *descriptors: int) -> None:
        """Send bytes in one message, descriptors with it."""
        control = []
        if descriptors:
            rights = array.array("i", descriptors)
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        assert self.sock.sendmsg([data], control) == len(data)

    def receive(self, size: int) -> bytes:
        """Receive exactly `size` bytes, or less at the end of the stream."""
        received = bytearray()
        while len(received) < size:
            part = self.sock.recv(size - len(received))
            if not part:
                break
            received += part
        return bytes(received)

    def reply(self) -> tuple[int, bytes, bytes]:
        """Receive a response: status, sense, payload."""
        header = self.receive(104)
        assert len(header) == 104, f"closed after {len(header)} bytes of a response"
        status, size, sense = struct.unpack(">ii96s", header)
        return status, sense, self.receive(size)

    def run(self, descriptor: int, cdb: bytes, data_out: bytes = b"") -> tuple[int, bytes, bytes]:
        """Send one request as QEMU does and receive its response."""
        self.send(cdb.ljust(16, b"\0"), descriptor)
        if data_out:
            self.send(data_out)
        return self.reply()

    def closed(self) -> bool:
        """Wait for the other side to say something: True if it closed without a byte."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sense_code(sense: bytes) -> tuple[int, int, int]:
    """Sense key, ASC and ASCQ of fixed format sense data."""
    assert sense[0] == 0x70
    return sense[2], sense[12], sense[13]


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)
