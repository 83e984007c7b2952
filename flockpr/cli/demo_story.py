"""The story that `flockpr demo` plays: its hosts, its guests, its steps and what they prove.

A host is a `flockpr serve` process with a socket of its own; a guest is a connection to such a
socket that sends what QEMU would send. Both hosts work on one lock directory, as two machines
do that mount one share.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import flockpr
from flockpr.cli.common import emit
from flockpr.cli.exit_codes import ExitCode
from flockpr.errors import FlockprError
from flockpr.prhelper.client import HelperClient, HelperReply
from flockpr.spc import pr_in
from flockpr.spc.cdb import encode_persistent_reserve_in, encode_persistent_reserve_out
from flockpr.spc.codes import InAction, OutAction, ReservationType, Status
from flockpr.spc.prout_list import encode_basic_list
from flockpr.store.provision import create_lun

LUN = "disk"
ALICE, BOB = "iqn.2026-01.demo:alice", "iqn.2026-01.demo:bob"
ALICE_KEY, BOB_KEY = 0xA11CE, 0xB0B
TYPE = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY

_PATIENCE = 60.0
"""Seconds for a daemon to start or to answer: generous, for a machine that is busy."""


class DemoError(FlockprError):
    """The demo could not be played to its end."""


class Host:
    """One host: a daemon process over the shared root, and a connection to it.

    Args:
        name: Name of the host; its socket and its log are called after it.
        guest: Initiator port of the guest that runs on it.
        root: The shared root.
    """

    def __init__(self, name: str, guest: str, root: str) -> None:
        self.name = name
        self._socket = os.path.join(root, f"{name}.sock")
        self._log = os.path.join(root, f"{name}.log")
        self._command = [sys.executable, "-m", "flockpr", "serve"]
        self._command += ["--root", os.path.join(root, "root"), "--socket", self._socket]
        self._command += ["--lun", LUN, "--initiator", guest, "--host", name]
        self._process: subprocess.Popen[bytes] | None = None
        self._client: HelperClient | None = None

    def start(self) -> None:
        """Start the daemon and connect the guest to it, as QEMU does."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("FLOCKPR_")
        }
        package = os.path.dirname(os.path.dirname(os.path.abspath(flockpr.__file__)))
        inherited = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = package + (os.pathsep + inherited if inherited else "")
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment,
            )
        deadline = time.monotonic() + _PATIENCE
        while self._client is None:
            try:
                self._client = HelperClient(self._socket, timeout=_PATIENCE)
            except (FlockprError, OSError) as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise DemoError(f"{self.name} does not serve: {self._last_words()}") from error
                time.sleep(0.02)

    def kill(self) -> None:
        """End the daemon as a crash does: it gets no chance to tidy up."""
        self._disconnect()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End the daemon the civil way."""
        self._disconnect()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()

    def send(self, descriptor: int, cdb: bytes, data_out: bytes = b"") -> HelperReply:
        """Send one command; BUSY is sent again, as every initiator does."""
        if self._client is None:
            raise DemoError(f"{self.name} is not running")
        deadline = time.monotonic() + _PATIENCE
        while True:
            reply = self._client.execute(descriptor, cdb, data_out)
            if reply.status != Status.BUSY or time.monotonic() > deadline:
                return reply
            time.sleep(0.05)

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _last_words(self) -> str:
        with open(self._log, encoding="utf-8", errors="replace") as log:
            lines = log.read().split("\n")
        return " / ".join(line for line in lines if line)[-500:] or "it said nothing"


class Story:
    """The two hosts and the steps; a context manager that leaves no process behind.

    Args:
        root: An empty directory of the caller's, short enough to hold Unix sockets.
        quiet: Print nothing; see `document`.
    """

    def __init__(self, root: str, *, quiet: bool = False) -> None:
        self._root = root
        self._quiet = quiet
        self._steps: list[dict[str, object]] = []
        self._wrong = 0
        self._descriptor = os.open(
            os.path.join(root, "disk.img"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        self._one = Host("host1", ALICE, root)
        self._two = Host("host2", BOB, root)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._one.stop()
        self._two.stop()
        os.close(self._descriptor)

    def play(self) -> int:
        """Tell the story.

        Returns:
            0 if every step was answered as it must be, else 1.

        Raises:
            DemoError: A daemon does not start.
            ProtocolViolation: A daemon broke a connection off.
        """
        lun_root = os.path.join(self._root, "root")
        create_lun(lun_root, LUN)
        self._one.start()
        self._two.start()
        self._tell(
            "Two hosts serve one disk out of one lock directory; a guest runs on each.",
            f"  alice  on host1, key {ALICE_KEY:#x}        bob  on host2, key {BOB_KEY:#x}",
            "",
        )
        self._contest()
        self._crash()
        good, count = self._wrong == 0, len(self._steps)
        verdict = f"All {count} steps" if good else f"{count - self._wrong} of "
        verdict += "" if good else f"{count} steps"
        self._tell(
            "",
            f"{verdict} were answered as they must be. Reads and writes were not looked",
            "at: this door sees reservation commands only, and enforces nothing.",
        )
        return ExitCode.GOOD if good else ExitCode.FAILED

    def document(self) -> dict[str, object]:
        """What was played: `good`, and `steps` with who did what, the answer, what it must be."""
        return {"good": self._wrong == 0, "steps": self._steps}

    def _contest(self) -> None:
        """Register, reserve, conflict, preempt: what a cluster does with a shared disk."""
        self._out("alice registers", self._one, OutAction.REGISTER, new=ALICE_KEY)
        self._out("bob registers", self._two, OutAction.REGISTER, new=BOB_KEY)
        self._out("alice reserves", self._one, OutAction.RESERVE, own=ALICE_KEY)
        conflict = Status.RESERVATION_CONFLICT
        self._out("bob reserves too", self._two, OutAction.RESERVE, own=BOB_KEY, expect=conflict)
        self._holder("bob asks who holds it", self._two, ALICE_KEY)

    def _crash(self) -> None:
        """Nothing that was answered is lost with a daemon, and nobody waits for a dead one."""
        self._one.kill()
        self._tell("  -- kill -9 of host1's daemon")
        self._holder("bob: alice still holds it", self._two, ALICE_KEY)
        self._out("bob preempts alice", self._two, OutAction.PREEMPT, own=BOB_KEY, new=ALICE_KEY)
        self._one.start()
        self._tell("  -- host1's daemon is started again")
        self._keys("alice reads the keys", self._one, {BOB_KEY})
        conflict = Status.RESERVATION_CONFLICT
        self._out("alice reserves", self._one, OutAction.RESERVE, own=ALICE_KEY, expect=conflict)
        self._two.kill()
        self._two.start()
        self._tell("  -- kill -9 of host2's daemon, started again")
        self._out("bob releases", self._two, OutAction.RELEASE, own=BOB_KEY)
        self._out("alice registers anew", self._one, OutAction.REGISTER, new=ALICE_KEY)
        self._keys("both are registered", self._two, {ALICE_KEY, BOB_KEY})

    def _out(
        self,
        what: str,
        host: Host,
        action: OutAction,
        *,
        own: int = 0,
        new: int = 0,
        expect: Status = Status.GOOD,
    ) -> None:
        """One PERSISTENT RESERVE OUT."""
        registering = action is OutAction.REGISTER
        cdb = encode_persistent_reserve_out(action, type_=0 if registering else TYPE)
        reply = host.send(self._descriptor, cdb, encode_basic_list(own, new))
        self._check(what, host, _name(action), _status(reply), expect.name.replace("_", " "))

    def _holder(self, what: str, host: Host, key: int) -> None:
        """READ RESERVATION must show this key."""

        def read(data: bytes) -> str:
            report = pr_in.parse_reservation(data)
            held = report.held if report else None
            return f"key {held.key:#x}" if held else "none"

        self._in(what, host, InAction.READ_RESERVATION, read, f"key {key:#x}")

    def _keys(self, what: str, host: Host, keys: set[int]) -> None:
        """READ KEYS must show these keys, in any order."""

        def read(data: bytes) -> str:
            report = pr_in.parse_keys(data)
            return _listed(set(report.keys)) if report else "unreadable"

        self._in(what, host, InAction.READ_KEYS, read, _listed(keys))

    def _in(
        self, what: str, host: Host, action: InAction, read: Callable[[bytes], str], expect: str
    ) -> None:
        reply = host.send(self._descriptor, encode_persistent_reserve_in(action))
        answer = read(reply.data_in) if reply.status == Status.GOOD else _status(reply)
        self._check(what, host, _name(action), answer, expect)

    def _tell(self, *lines: str) -> None:
        if not self._quiet:
            emit(lines)
            sys.stdout.flush()

    def _check(self, what: str, host: Host, command: str, answer: str, expect: str) -> None:
        step = {"what": what, "host": host.name, "command": command}
        self._steps.append({**step, "answer": answer, "expected": expect})
        line = f"{len(self._steps):4d} {what:26} {host.name}  {command:17} {answer}"
        if answer != expect:
            self._wrong += 1
            line += f"   WRONG, expected {expect}"
        self._tell(line)


def _name(action: OutAction | InAction) -> str:
    return action.name.replace("_", " ")


def _listed(keys: set[int]) -> str:
    return "keys " + " ".join(f"{key:#x}" for key in sorted(keys)) if keys else "no keys"


def _status(reply: HelperReply) -> str:
    try:
        name = Status(reply.status).name.replace("_", " ")
    except ValueError:
        return f"status {reply.status:#x}"
    if reply.status != Status.CHECK_CONDITION:
        return name
    return name + " {:02x}/{:02x}/{:02x}".format(*reply.sense_code)
