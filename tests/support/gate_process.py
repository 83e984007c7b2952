"""A process of its own with one end of the gate: a target that writes, or a command.

Run as ``python -m tests.support.gate_process ROLE ROOT NAME[@HOST]``; it says on its output, a line
each, what it has come to, and a target what it wrote from when to when (CLOCK_MONOTONIC, which
is the same for all processes of a host).
"""

from __future__ import annotations

import mmap
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import attrs

from flockpr import LogicalUnit, OutAction, Status
from flockpr.core.access import allowed
from flockpr.core.model import LogicalUnitState, Nexus
from flockpr.gate import Gate, Held, Permit
from flockpr.units import Units
from tests.support.gates import LONG, eventually, soon
from tests.support.luns import out
from tests.support.scsi import WRITE_10, A, B

THREADS = 4
TYPE = 5
KEYS = {A: 0xA1, B: 0xB2}
NEXUSES = {"a": A, "b": B}


class Target:
    """Writes for one nexus, as a target does: by the state that it has read, under its permit."""

    def __init__(self, root: str, name: str) -> None:
        self.units = Units(root, timeout=LONG)
        nexus, _, host = name.partition("@")
        self.nexus = NEXUSES[nexus]
        self.state = LogicalUnitState()
        identity = LogicalUnit.open(f"{root}/disk").identity
        assert identity.image is not None
        self.permit = Permit(
            root, identity.lun, identity.image, on_open=self.read, host=host or None
        )
        self.permit.attend()

    def read(self, deadline: float) -> None:
        """Read the state again."""
        left = deadline - time.monotonic()
        self.state = self.units.state("disk", "iscsi").result(left).state

    def write(self, number: int) -> None:
        """Write, again and again, whenever it is allowed."""
        block = mmap.mmap(-1, 4096)
        dice = random.Random(number)
        while True:
            if not self.permit.enter(soon()):
                say("fault", self.permit.fault)
                return
            begun = time.monotonic()
            may = allowed(self.state, self.nexus, WRITE_10)
            if may:
                block[:16] = os.urandom(16)
                os.pwrite(self.permit.fd, block, number * 4096)
                time.sleep(dice.uniform(0, 0.004))  # a slow disk
            ended = time.monotonic()
            self.permit.leave()
            say("wrote" if may else "refused", begun, ended)
            time.sleep(0.0005 if may else 0.005)


def say(*words: object) -> None:
    """One line, at once."""
    os.write(1, (" ".join(str(word) for word in words) + "\n").encode())


def serve(root: str, name: str) -> None:
    """A target with several writers."""
    target = Target(root, name)
    writers = [threading.Thread(target=target.write, args=(n,)) for n in range(THREADS)]
    for writer in writers:
        writer.start()


def stall(root: str, name: str) -> None:
    """A target with a write that does not end."""
    target = Target(root, name)
    assert target.permit.enter(soon())
    say("inside")
    time.sleep(LONG)


def hold(root: str, _: str) -> None:
    """A command that has the permit, and does not go on."""
    identity = LogicalUnit.open(f"{root}/disk").identity
    assert identity.image is not None
    with Gate(root, identity.lun, identity.image).narrow(soon()):
        say("held")
        time.sleep(LONG)


def commit(root: str, name: str) -> None:
    """A command that has committed, and does not go on to prove and answer."""

    def prove(_: Held) -> bool:
        say("committed", time.monotonic())
        time.sleep(LONG)
        return True

    with mock.patch.object(Held, "prove", prove), LogicalUnit.open(f"{root}/disk") as unit:
        preempt(unit, NEXUSES[name])


ROLES: dict[str, Callable[[str, str], None]] = {
    "serve": serve,
    "stall": stall,
    "hold": hold,
    "commit": commit,
}


def preempt(unit: LogicalUnit, nexus: Nexus) -> None:
    """Register if need be, and take the reservation from the other."""
    other = A if nexus is B else B
    ignore, take = OutAction.REGISTER_AND_IGNORE_EXISTING_KEY, OutAction.PREEMPT
    while out(unit, nexus, ignore, new=KEYS[nexus]) is not Status.GOOD:
        pass  # a unit attention waited
    while (
        answer := out(unit, nexus, take, own=KEYS[nexus], new=KEYS[other], type_=TYPE)
    ) is not Status.GOOD:
        assert answer is Status.CHECK_CONDITION


@attrs.define(eq=False)
class Process:
    """One of these, from outside.

    Attributes:
        lines: What it has said so far.
    """

    role: str
    root: str
    name: str = "a"
    lines: list[list[str]] = attrs.Factory(list)
    _popen: subprocess.Popen[str] = attrs.field(init=False)
    _reader: threading.Thread = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        argv = [sys.executable, "-m", __name__, self.role, self.root, self.name]
        top = Path(__file__).parents[2]
        self._popen = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=top)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self.lines.append(line.split())

    def wait_for(self, word: str, times: int = 1) -> None:
        """Until it has said this so often more."""
        before = self.count(word)
        eventually(lambda: self.count(word) >= before + times, f"no {word!r}: {self.lines[-3:]}")

    def said(self, word: str) -> None:
        """Until it has said this at all."""
        eventually(lambda: self.count(word) > 0, f"no {word!r}: {self.lines[-3:]}")

    def count(self, word: str) -> int:
        """How often it has said this."""
        return sum(line[0] == word for line in list(self.lines))

    def writes(self) -> list[tuple[float, float]]:
        """From when to when it wrote."""
        return [(float(b), float(e)) for word, b, e in list(self.lines) if word == "wrote"]

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and read the rest of what it said."""
        self._popen.kill()
        self._popen.wait(LONG)
        self._reader.join(LONG)
        assert self._popen.stdout is not None
        self._popen.stdout.close()


if __name__ == "__main__":
    ROLES[sys.argv[1]](sys.argv[2], sys.argv[3])
