"""Targets as processes of their own, sessions with them, and PERSISTENT RESERVE over a session."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import attrs

from flockpr import create_lun
from flockpr.store.kinds import LOCKDIR
from tests.support.daemon_process import environment
from tests.support.iscsi_client import Initiator, Reply, Task
from tests.support.iscsi_wire import Pdu
from tests.support.scsi import TEST_UNIT_READY, basic_list, in_cdb, keys_in, out_cdb

PATIENCE = 100.0
"""Seconds that something may take on a machine that does a lot beside."""
SIZE = 8 << 20
"""Bytes of the disks."""
BLOCK = 512
GOOD, CHECK_CONDITION, BUSY, CONFLICT, TASK_SET_FULL, TASK_ABORTED = 0, 2, 8, 0x18, 0x28, 0x40
SOLICITED = {"ImmediateData": "No", "InitialR2T": "Yes"}
"""Keys with which no data travels unasked."""
PREEMPTED, RELEASED, CLEARED = (6, 0x2A, 5), (6, 0x2A, 4), (6, 0x2A, 3)


def initiator_name(short: str) -> str:
    """The iSCSI name of the initiator with this short name, as `scsi.nexus` has it."""
    return f"iqn.2026-01.org.example:{short}"


def make_root(
    directory: pathlib.Path,
    *names: str,
    size: int = SIZE,
    ports: Sequence[int] = (2, 3),
    store: str = LOCKDIR,
) -> pathlib.Path:
    """A root with these logical units, `disk` if none is named."""
    root = directory / "root"
    root.mkdir()
    for name in names or ("disk",):
        create_lun(str(root), name, size=size, target_ports=ports, store=store)
    return root


def image_of(root: pathlib.Path, name: str = "disk") -> pathlib.Path:
    """The image that `make_root` made."""
    return root / "images" / f"{name}.img"


@attrs.frozen
class Url:
    """Where a logical unit is: a portal, the target's name and the LUN's number."""

    host: str
    port: int
    target: str
    lun: int

    @classmethod
    def parse(cls, text: str) -> Url:
        """From iscsi://HOST:PORT/NAME/LUN."""
        found = re.fullmatch(r"iscsi://(\S+):(\d+)/(\S+)/(\d+)", text)
        assert found is not None, text
        return cls(found[1], int(found[2]), found[3], int(found[4]))


class Target:
    """A `flockpr target` that runs; a context manager that kills it.

    Args:
        root: The lock directory.
        log: File for what it writes.
        portals: HOST:PORT,TAG of each portal.
        options: More of the command line.
        wrapper: A program that runs it, such as strace.
    """

    def __init__(
        self,
        root: pathlib.Path,
        log: pathlib.Path,
        *options: str,
        portals: Sequence[str] = ("127.0.0.1:0",),
        wrapper: Sequence[str] = (),
        command: Sequence[str] | None = None,
    ) -> None:
        self.root = root
        self.log = log
        asked = [part for portal in portals for part in ("--portal", portal)]
        own = [sys.executable, "-m", "flockpr", "target", "--root", str(root), *asked, *options]
        self.command = [*wrapper, *(own if command is None else command)]
        self.urls: list[Url] = []
        self._process: subprocess.Popen[str] | None = None
        self._sessions: list[Session] = []

    def start(self) -> Self:
        """Start it and wait until it is ready."""
        with self.log.open("a") as errors:
            process = subprocess.Popen(
                self.command,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._process = process
        assert process.stdout is not None
        self.urls = []
        for line in process.stdout:
            if line.startswith("iscsi://"):
                self.urls.append(Url.parse(line.strip()))
            if line.strip() == "ready":
                return self
        process.stdout.close()
        raise AssertionError(f"it ended with {process.wait(PATIENCE)}: {self.log.read_text()}")

    @property
    def process(self) -> subprocess.Popen[str]:
        """It; must be started."""
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        """End it as an operator does; its exit code."""
        self.signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self.process.poll() is None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            if self.running:
                self.kill()
            assert self._process.stdout is not None
            self._process.stdout.close()
        for session in self._sessions:
            session.close()

    def url(self, lun: str = "disk", portal: int = 0) -> Url:
        """Where a logical unit is."""
        found = [url for url in self.urls if f":{lun}." in url.target]
        return found[portal]

    def log_in(
        self,
        short: str,
        lun: str = "disk",
        *,
        portal: int = 0,
        settled: bool = True,
        **options: Any,
    ) -> Session:
        """A session of the initiator with this short name.

        Args:
            short: Its name.
            lun: Logical unit.
            portal: Index of the portal.
            settled: Take the unit attentions of a new nexus first.
            options: For `Initiator`.
        """
        url = self.url(lun, portal)
        initiator = Initiator(
            (url.host, url.port), target=url.target, name=initiator_name(short), **options
        )
        session = Session(initiator, url.lun)
        self._sessions.append(session)
        if settled:
            session.settle()
        return session

    # Looking inside.

    def status(self, name: str) -> int:
        """The number in a line of its /proc/PID/status."""
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
        assert found is not None
        return int(found[1])

    @property
    def memory(self) -> int:
        """Resident bytes that are its own."""
        return self.status("RssAnon") << 10

    @property
    def threads(self) -> int:
        """How many threads it has."""
        return self.status("Threads")

    @property
    def descriptors(self) -> int:
        """How many files it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


class Session:
    """One session with one logical unit, and what tests do with it."""

    def __init__(self, initiator: Initiator, lun: int) -> None:
        self.initiator = initiator
        self.lun = lun

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.initiator.__exit__(type(error) if error else None, error, None)

    def close(self) -> None:
        """Break off."""
        self.initiator.close()

    def logout(self) -> None:
        """Log out and close."""
        assert self.initiator.logout() == 0
        self.initiator.close()

    def command(self, cdb: bytes, data_out: bytes = b"", read: int = 0, **options: Any) -> Reply:
        """Carry out a command."""
        return self.initiator.command(self.lun, cdb, data_out, read, **options)

    def ready(self) -> Reply:
        """TEST UNIT READY."""
        return self.command(TEST_UNIT_READY)

    def settle(self) -> list[tuple[int, int, int] | None]:
        """Take all unit attentions; their codes."""
        codes: list[tuple[int, int, int] | None] = []
        for _ in range(20):
            reply = self.ready()
            if reply.status != CHECK_CONDITION or (reply.code or (0,))[0] != 6:
                return codes
            codes.append(reply.code)
        raise AssertionError(f"no end of unit attentions: {codes}")

    def told(self) -> list[tuple[int, int, int] | None]:
        """The unit attentions about reservations that are pending; they are taken."""
        return [code for code in self.settle() if code is not None and code[1] == 0x2A]

    def withhold(self, cdb: bytes, data: bytes) -> tuple[Task, list[Pdu]]:
        """A WRITE whose data the target has asked for and does not get: the task and that data.

        The session must have been negotiated without immediate and unsolicited data.
        """
        held: list[Pdu] = []

        def hold(out: Pdu) -> list[Pdu]:
            held.append(out)
            return []

        def asked() -> bool:
            self.initiator.poll(0.01)
            return bool(held)

        before, self.initiator.data_hook = self.initiator.data_hook, hold
        try:
            task = self.initiator.submit(self.lun, cdb, data)
            eventually(asked, "an R2T")
        finally:
            self.initiator.data_hook = before
        return task, held

    # PERSISTENT RESERVE.

    def out(
        self,
        action: int,
        key: int = 0,
        sark: int = 0,
        *,
        type_: int = 0,
        patient: bool = True,
        **bits: Any,
    ) -> Reply:
        """PERSISTENT RESERVE OUT with the basic list.

        Args:
            action: Service action.
            key: RESERVATION KEY.
            sark: SERVICE ACTION RESERVATION KEY.
            type_: TYPE.
            patient: Send it again while the answer is BUSY, for a minute: nothing was done.
            bits: For `basic_list`.
        """
        data = basic_list(key, sark, **bits)
        return self.raw_out(out_cdb(action, len(data), type_=type_), data, patient=patient)

    def raw_out(self, cdb: bytes, data: bytes, *, patient: bool = True) -> Reply:
        """PERSISTENT RESERVE OUT with any list."""
        deadline = time.monotonic() + PATIENCE
        while True:
            reply = self.command(cdb, data)
            if reply.status != BUSY or not patient or time.monotonic() > deadline:
                return reply
            time.sleep(0.05)

    def must(self, action: int, key: int = 0, sark: int = 0, **more: Any) -> None:
        """PERSISTENT RESERVE OUT that must be GOOD."""
        reply = self.out(action, key, sark, **more)
        assert reply.good, reply

    def keys(self) -> list[int]:
        """READ KEYS."""
        return keys_in(self._in(0))

    def _in(self, action: int) -> bytes:
        reply = self.command(in_cdb(action), read=8192)
        assert reply.good, reply
        return reply.data

    def generation(self) -> int:
        """PRGENERATION."""
        return int.from_bytes(self._in(0)[:4], "big")

    def reservation(self) -> tuple[int, int] | None:
        """READ RESERVATION: type and key."""
        data = self._in(1)
        return (data[21] & 15, int.from_bytes(data[8:16], "big")) if len(data) > 8 else None

    def full_status(self) -> list[FullStatus]:
        """READ FULL STATUS."""
        data, found, at = self._in(3), [], 8
        while at < len(data):
            length = int.from_bytes(data[at + 20 : at + 24], "big")
            found.append(FullStatus.parse(data[at : at + 24 + length]))
            at += 24 + length
        return found


@attrs.frozen(order=True)
class FullStatus:
    """A descriptor of READ FULL STATUS."""

    initiator: str
    port: int
    key: int
    holder: bool
    type: int
    all_ports: bool

    @classmethod
    def parse(cls, data: bytes) -> FullStatus:
        """From its bytes (SPC-4 6.15.5)."""
        assert data[24] in (0x05, 0x45)
        return cls(
            data[28:].rstrip(b"\0").decode(),
            int.from_bytes(data[18:20], "big"),
            int.from_bytes(data[:8], "big"),
            bool(data[12] & 1),
            data[13] & 15,
            bool(data[12] & 2),
        )


def eventually(condition: Callable[[], Any], what: str = "it") -> Any:
    """Wait until the condition holds; its value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen in {PATIENCE} s"
        time.sleep(0.02)
    return value


@contextlib.contextmanager
def sessions(*opened: Session) -> Iterator[tuple[Session, ...]]:
    """Sessions that are closed together."""
    try:
        yield opened
    finally:
        for session in opened:
            session.close()
