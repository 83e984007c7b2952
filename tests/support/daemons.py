"""Real `flockpr serve` processes that can be killed, and guests that send them commands.

A guest's answer is compared with what the rules say: `decide` is the pure step, put into the
bytes that this door sends.
"""

from __future__ import annotations

import array
import contextlib
import functools
import itertools
import json
import os
import platform
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import attrs

import flockpr
from flockpr import LogicalUnit, create_lun
from flockpr.core.invariants import check as broken_invariants
from flockpr.core.machine import step
from flockpr.core.model import LogicalUnitState, Nexus, UnitConfig
from flockpr.prhelper.client import HelperClient
from flockpr.spc.cdb import parse_command
from flockpr.spc.codes import Status
from flockpr.store.document import Document, decode
from flockpr.store.kinds import LOCKDIR, SQLITE, store_of
from flockpr.store.layout import COMMIT_NAME, COMMITS, DATABASE
from tests.support.scsi import basic_list, in_cdb, nexus, out_cdb
from tests.support.strace import Strace

PATIENCE = 120.0
"""Seconds after which a busy machine is no excuse any more."""
SOON = 2.0
"""Seconds: a thread that waits for a command waits longer, one that is to publish does not."""
FUTEX = {"x86_64": "202", "aarch64": "98"}
FUTEX_CLOCK_REALTIME = 256
LUN = "disk"
READ_KEYS, READ_RESERVATION, REPORT_CAPABILITIES, READ_FULL_STATUS = range(4)


@attrs.frozen
class Sent:
    """One command, as bytes."""

    cdb: bytes
    data_out: bytes = b""


@attrs.frozen
class Answer:
    """One answer, as this door sends it: 96 bytes of sense data, zeros but with CHECK CONDITION."""

    status: int
    sense: bytes = bytes(96)
    data: bytes = b""

    @property
    def code(self) -> tuple[int, int, int]:
        """Sense key, ASC and ASCQ."""
        return self.sense[2], self.sense[12], self.sense[13]

    def __str__(self) -> str:
        code = "".join(f" {byte:02x}" for byte in self.code) if any(self.sense) else ""
        return f"{Status(self.status).name}{code} {self.data.hex()}".strip()


def out(action: int, own: int = 0, new: int = 0, *, type_: int = 0, aptpl: bool = False) -> Sent:
    """A PERSISTENT RESERVE OUT with the basic list."""
    return Sent(out_cdb(action, type_=type_), basic_list(own, new, aptpl=aptpl))


def read(action: int = READ_KEYS) -> Sent:
    """A PERSISTENT RESERVE IN."""
    return Sent(in_cdb(action))


def decide(state: LogicalUnitState, who: Nexus, sent: Sent) -> tuple[LogicalUnitState, Answer]:
    """What the rules make of a command that comes through the helper door."""
    command = parse_command(sent.cdb, sent.data_out, long_parameter_length=False)
    config = UnitConfig(target_ports=(1,))
    outcome = step(state, who, command, config=config, report_attentions=False)
    reply = outcome.reply
    sense = reply.sense.fixed() if reply.sense is not None else b""
    return outcome.state, Answer(int(reply.status), sense.ljust(96, b"\0"), reply.data)


class Guest:
    """A connection to a daemon, and whom it acts for.

    Args:
        path: The daemon's socket.
        who: The nexus that the daemon makes of it.
    """

    def __init__(self, path: str, who: Nexus) -> None:
        self.who = who
        self._device = os.open(os.path.dirname(path) + "/device", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._client = HelperClient(path, timeout=PATIENCE)
        except BaseException:
            os.close(self._device)
            raise

    def send(self, sent: Sent) -> Answer:
        """Send one command and wait for the answer.

        Raises:
            ProtocolViolation, OSError: The connection broke.
        """
        reply = self._client.execute(self._device, sent.cdb, sent.data_out)
        return Answer(reply.status, reply.sense, reply.data_in)

    def send_only(self, sent: Sent) -> None:
        """Send a command that has no parameter list, and wait for nothing."""
        rights = array.array("i", [self._device])
        with socket.socket(fileno=os.dup(self._client.fileno())) as connection:
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            connection.sendmsg([sent.cdb.ljust(16, b"\0")], control)

    def close(self) -> None:
        """Go away."""
        self._client.close()
        os.close(self._device)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@attrs.frozen
class Door:
    """A socket to be served.

    Attributes:
        guest: Short name of the initiator that every connection is.
        lun: The logical unit.
    """

    guest: str
    lun: str = LUN

    @property
    def nexus(self) -> Nexus:
        """The nexus of its connections."""
        return nexus(self.guest)


BY_THE_UNITS = ("--log-level", "debug")
"""Options with which reads are carried out, and answered, by the thread of the logical unit as all
commands are: each is to be in the log then. (What is answered at the desk instead, and every
call of that failing, is in `tests/faults`.)
"""


class Daemon:
    """One `flockpr serve`; a context manager that ends it.

    Args:
        directory: Where sockets and logs go, with the root below it; short.
        name: Of the host.
        doors: What it serves. One is told it by options, more by a configuration file.
        options: Further options.
    """

    def __init__(self, directory: str, name: str, doors: Sequence[Door], *options: str) -> None:
        self.directory = directory
        self.root = os.path.join(directory, "root")
        self.name = name
        self.doors = tuple(doors)
        self.log = os.path.join(directory, f"{name}.log")
        self._process: subprocess.Popen[bytes] | None = None
        command = [sys.executable, "-m", "flockpr", "serve", "--root", self.root, "--host", name]
        if len(self.doors) == 1:
            door = self.doors[0]
            command += ["--socket", self.path(door), "--lun", door.lun]
            command += ["--initiator", door.nexus.initiator_port.text]
        else:
            command += ["--config", self._configuration()]
        self.command = [*command, *options]

    def _configuration(self) -> str:
        path = os.path.join(self.directory, f"{self.name}.toml")
        with open(path, "w", encoding="utf-8") as file:
            for door in self.doors:
                initiator = door.nexus.initiator_port.text
                file.write(
                    f'[[socket]]\npath = "{self.path(door)}"\nlun = "{door.lun}"\n'
                    f'initiator = "{initiator}"\n'
                )
        return path

    def path(self, door: Door) -> str:
        """The socket of a door."""
        return os.path.join(self.directory, f"{self.name}-{door.guest}-{door.lun}")

    @property
    def pid(self) -> int:
        """Of the running daemon."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it; returns when all sockets accept."""
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(self.directory),
            )
        for door in self.doors:
            wait_for(functools.partial(self._accepts, self.path(door)), self.last_words)
        return self

    def _accepts(self, path: str) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"it ended: {self.last_words()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(path) == 0

    def guest(self, door: Door | None = None) -> Guest:
        """Connect to a door, the first if none is named."""
        door = door or self.doors[0]
        return Guest(self.path(door), door.nexus)

    def kill(self) -> int:
        """End it with SIGKILL, if it still runs; its exit status."""
        assert self._process is not None
        self._process.kill()
        return self._process.wait(PATIENCE)

    def wait(self) -> int:
        """Wait until it has ended; its exit status."""
        assert self._process is not None
        return self._process.wait(PATIENCE)

    def gone(self) -> bool:
        """Whether it has ended, but for a thread that something else holds."""
        with open(f"/proc/{self.pid}/status", encoding="utf-8") as status:
            return "State:\tZ" in status.read()

    def terminate(self) -> None:
        """Send SIGTERM."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """End it with SIGTERM; its exit status."""
        self.terminate()
        return self.wait()

    def last_words(self) -> str:
        """The end of its log."""
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()[-3000:]

    # ------------------------------------------------------------------ looking inside

    def threads(self) -> set[int]:
        """Ids of its threads."""
        return {int(name) for name in os.listdir(f"/proc/{self.pid}/task")}

    def descriptors(self) -> list[str]:
        """What it has open, without the few files of procfs by which it looks at others: which
        numbers these are for, and how many, is a matter of what came before.
        """
        place, found = f"/proc/{self.pid}/fd", []
        for name in os.listdir(place):
            with contextlib.suppress(OSError):
                found.append(os.readlink(f"{place}/{name}"))
        return sorted(name for name in found if not name.startswith(place))

    def resident(self) -> int:
        """Bytes of its memory that are resident."""
        with open(f"/proc/{self.pid}/status", encoding="utf-8") as status:
            match = re.search(r"VmRSS:\s+(\d+) kB", status.read())
        assert match is not None
        return int(match[1]) * 1024

    def workers(self, guest: Guest, *, lun: str = LUN) -> tuple[int, int]:
        """Threads that carry out and that answer the commands of a connection."""
        output = os.path.join(self.directory, "trace-workers")
        with Strace(self.pid, output, follow=True) as tracer:
            assert guest.send(read()).status == Status.GOOD
            tracer.detach()
            calls = tracer.so_far()
        commits = {os.path.join(self.root, lun, name) for name in (COMMITS, DATABASE)}
        working = {call.tid for call in calls if commits & set(call.paths)}
        answering = {call.tid for call in calls if call.name == "sendto"}
        (worker,), (answerer,) = working, answering
        return worker, answerer

    def believe_in_a_network(self, guest: Guest) -> None:
        """Open the logical unit of a connection as one on a file system of several hosts, where
        names and attributes have to be asked for anew. Before its first command.
        """
        output = os.path.join(self.directory, "trace-network")
        inject, table = ["openat:error=EACCES"], "/proc/self/mountinfo"
        with Strace(self.pid, output, follow=True, inject=inject, path=table) as tracer:
            assert guest.send(read()).status == Status.GOOD
        with Strace(self.pid, output, follow=True) as tracer:
            assert guest.send(read()).status == Status.GOOD
            tracer.detach()
            asked = [c for c in tracer.so_far() if c.name == "openat" and c.names == [COMMITS]]
        assert asked, "it still believes what it has in its cache"

    def settle(self, tid: int) -> None:
        """Wait until a thread waits for work again, as its count of waits shows, and has nothing
        left to do of its own accord: the view is published in a pause, not at once.
        """
        seen, since = -1, 0
        while since < 3:
            with open(f"/proc/{self.pid}/task/{tid}/status", encoding="utf-8") as file:
                status = file.read()
            match = re.search(r"\nvoluntary_ctxt_switches:\s+(\d+)", status)
            assert match is not None
            now = int(match[1])
            quiet = now == seen and "State:\tS" in status and not self._goes_on_soon(tid)
            since = since + 1 if quiet else 0
            seen = now
            time.sleep(0.005)

    def _goes_on_soon(self, tid: int) -> bool:
        """Whether a thread waits no longer than `SOON`, as the time of its futex call shows."""
        with open(f"/proc/{self.pid}/task/{tid}/syscall", encoding="ascii") as file:
            number, *arguments = file.read().split()
        if number == "running":
            return True
        if number != FUTEX.get(platform.machine()):
            return False
        operation, timeout = int(arguments[1], 16), int(arguments[3], 16)
        if timeout == 0:
            return False
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(timeout)
            found = memory.read(16)
        if len(found) < 16:
            return True  # it is ending
        seconds, nanoseconds = struct.unpack("qq", found)
        now = time.time() if operation & FUTEX_CLOCK_REALTIME else time.monotonic()
        return bool(seconds + nanoseconds / 1e9 < now + SOON)

    def settle_or_end(self, tid: int) -> None:
        """Wait until a thread waits for work again, or the daemon has died of what it did."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            self.settle(tid)

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()


def environment(home: str) -> dict[str, str]:
    """Our environment without what could configure flockpr from outside, and with this flockpr."""
    foreign = ("FLOCKPR_", "XDG_", "LISTEN_", "NOTIFY_", "WATCHDOG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    package = os.path.dirname(os.path.dirname(os.path.abspath(flockpr.__file__)))
    return kept | {"HOME": home, "PYTHONPATH": package}


def wait_for(condition: Callable[[], bool], why: Callable[[], str] = lambda: "") -> None:
    """Wait until a condition holds, for as long as a busy machine may need."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.01)


# ---------------------------------------------------------------------- the lock directory


def make_lun(directory: str, name: str = LUN, *, store: str = LOCKDIR) -> None:
    """Make a logical unit in the root below `directory`."""
    create_lun(os.path.join(directory, "root"), name, store=store)


def committed(directory: str, lun: str = LUN) -> LogicalUnitState:
    """The state as another daemon finds it."""
    with LogicalUnit.open(os.path.join(directory, "root", lun)) as unit:
        return unit.snapshot().state


def audit_trail(directory: str, lun: str = LUN) -> list[dict[str, object]]:
    """What `flockpr log --json` prints."""
    root = os.path.join(directory, "root")
    command = [sys.executable, "-m", "flockpr", "log", lun, "--root", root, "--json"]
    done = subprocess.run(
        command, env=environment(directory), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["begins"] == 1
    records: list[dict[str, object]] = printed["records"]
    return records


def chain(directory: str, lun: str = LUN) -> list[Document]:
    """All commits, after a look that they are whole, one chain, and keep the invariants."""
    path = os.path.join(directory, "root", lun)
    rows = store_of(path) == SQLITE
    documents = list(_rows(path) if rows else _documents(os.path.join(path, COMMITS)))
    assert documents, "no commits at all"
    for before, after in itertools.pairwise(documents):
        assert after.number == before.number + 1
        assert after.previous == before.txid, f"{after.number} does not follow from {before.number}"
    for document in documents:
        assert broken_invariants(document.snapshot.state) == []
    return documents


def _rows(path: str) -> Iterator[Document]:
    with contextlib.closing(sqlite3.connect(os.path.join(path, DATABASE))) as connection:
        rows = connection.execute("SELECT number, document FROM commits ORDER BY number").fetchall()
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for number, data in rows:
        document = decode(data)
        assert document.number == number
        yield document


def _documents(folder: str) -> Iterator[Document]:
    for name in sorted(os.listdir(folder)):
        if match := COMMIT_NAME.fullmatch(name):
            with open(os.path.join(folder, name), "rb") as file:
                document = decode(file.read())
            assert document.number == int(match[1])
            yield document
