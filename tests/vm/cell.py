"""The daemons of a lab: on each of two hosts one `flockpr serve` with both doors.

Two logical units: `DUEL`, where two initiators take the disk from each other, and `FREE`, where
everybody sends what comes to mind. A socket of the helper door leads to each of them.
"""

from __future__ import annotations

import base64
import json
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attrs import define, field

from flockpr.errors import ProtocolViolation
from flockpr.prhelper.client import HelperClient
from tests.support.iscsi_client import Initiator, LoginRefused
from tests.support.target_rig import Url, initiator_name
from tests.vm import tunnel
from tests.vm.lab import DOORS, Lab, Node
from tests.vm.machine import Machine, Running

DUEL, FREE = "duel", "free"
OF_DOOR = {"helper": FREE, "observer": DUEL}
"""The logical unit behind each socket of the helper door."""
SIZE = 1 << 20
_TIMEOUT, _USUAL_SECONDS = 10.0, 8.0
"""Seconds in which a daemon answers, and in which two machines that have two processors for
themselves make two logical units. Slower machines get more time to answer.
"""
PATIENCE = 300.0
"""Seconds that an emulated machine may need for anything on a host that does a lot beside."""

_GUEST = Path(__file__).parent / "guest"
_TOP = Path(__file__).parents[2]
_PYTHON = f"env PYTHONPATH={_TOP} {sys.executable}"
_RUN = f"{_PYTHON} {_GUEST / 'stalled.py'}"
_BRIDGE = f"{sys.executable} {_GUEST / 'bridge.py'}"


def guest_name(door: str, number: int) -> str:
    """Short name of the initiator behind a socket of the helper door."""
    return f"{door}{number}"


@define
class Stall:
    """A thread of a daemon that stops at a point; see guest/stalled.py."""

    node: Node
    point: str

    def reached(self) -> None:
        """Wait until a thread has stopped there."""
        self.node.machine.check(
            f"for i in $(seq 3000); do test -e /run/stall/{self.point}.here && exit; sleep 0.1; "
            f"done; ls /run/stall; exit 1",
            PATIENCE + 60,
        )

    def let_go(self) -> None:
        """Let it go on, if it is still there."""
        stalled = f"/run/stall/{self.point}"
        self.node.machine.check(f"! test -e {stalled}.here || touch {stalled}.go")

    def forget(self) -> None:
        """Disarm it, and let go who stands there."""
        folder = f"/run/stall/{self.point}"
        self.node.machine.check(f"rm -f {folder}; ! test -e {folder}.here || touch {folder}.go")


@define
class HostDaemon:
    """The daemon of one host.

    Args:
        lab: The lab.
        number: Of the host.
        stack: Ends what is started here.
        folder: Where the sockets go; short.
    """

    lab: Lab
    number: int
    stack: ExitStack
    folder: Path
    timeout: float = field(default=0.0, init=False)
    _running: Running | None = field(default=None, init=False)
    _tunnels: dict[str, tunnel.Tunnel] = field(factory=dict, init=False)
    _machine: Machine | None = field(default=None, init=False)

    @property
    def node(self) -> Node:
        """The host."""
        return self.lab.nodes[self.number]

    def start(self) -> None:
        """Start it; returns when both doors answer."""
        machine = self.node.machine
        if self._machine is not machine:
            self._machine = machine
            self._bridge()
        text = base64.b64encode(self._configuration().encode()).decode()
        machine.check(f"mkdir -p /run/stall; echo {text} | base64 -d > /run/flockpr.toml")
        self._running = machine.start(
            "echo $$ > /run/daemon.pid; "
            f"exec {_RUN} serve --config /run/flockpr.toml >> /run/daemon.log 2>&1"
        )
        self._wait(self._answers, "the daemon to answer")

    def _bridge(self) -> None:
        machine = self.node.machine
        for door in OF_DOOR:
            machine.start(f"{_BRIDGE} {DOORS[door]} /run/{door}.sock /run/{door}.img")
            if door not in self._tunnels:
                path = self.folder / f"{door}{self.number}"
                made = tunnel.Tunnel(path, self.node.ports[door])
                self._tunnels[door] = made
                self.stack.callback(made.close)

    def _configuration(self) -> str:
        sockets = "".join(
            f'[[socket]]\npath = "/run/{door}.sock"\nlun = "{lun}"\n'
            f'initiator = "{initiator_name(guest_name(door, self.number))}"\n'
            for door, lun in OF_DOOR.items()
        )
        return (
            f'[serve]\nroot = "{self.lab.root}"\nhost = "{self.node.name}"\n'
            f"timeout = {self.timeout:.0f}\n{sockets}"
            f'[target]\nluns = ["{DUEL}", "{FREE}"]\nallow_unauthenticated = true\n'
            f"{self.lab.target_options}"
            f'[[portal]]\nportal = "{tunnel.BRIDGE_ADDRESS}:{DOORS["iscsi"]}"\n'
        )

    def _answers(self) -> bool:
        try:
            for door in OF_DOOR:
                HelperClient(str(self.helper(door))).close()
            with Initiator(("127.0.0.1", self.node.ports["iscsi"])) as discovery:
                return bool(discovery.targets())
        except (OSError, ProtocolViolation, LoginRefused):
            return False

    def _wait(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self._running is not None
            if self._running.finished or time.monotonic() > deadline:
                raise self.node.machine.failure(f"waited in vain for {what}: {self.log()}")
            time.sleep(0.2)

    def revive(self) -> None:
        """Start it, if its machine was booted since it was started."""
        if self._machine is not self.node.machine:
            self.start()

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._running is not None
        self.node.machine.check("kill -9 $(cat /run/daemon.pid)")
        # A thread that waits for a file server which is away ends when that is back.

    def gone(self) -> None:
        """Wait until nothing of a killed one is left."""
        assert self._running is not None
        self._running.wait(PATIENCE)

    def helper(self, door: str = "helper") -> Path:
        """The socket on this host that leads to a socket of the helper door."""
        return self._tunnels[door].path

    def stall(self, point: str, what: str = "") -> Stall:
        """Stop the next thread that comes to a point, and has to do with this object."""
        self.node.machine.check(
            f"echo '{what}' > /run/stall/new; mv /run/stall/new /run/stall/{point}"
        )
        return Stall(self.node, point)

    def log(self) -> str:
        """The end of what it printed."""
        return self.node.machine.run("tail -n 60 /run/daemon.log").output

    def keep_log(self, path: Path) -> None:
        """Write what it printed, since the last time, into a file of this host."""
        path.write_text(self.node.machine.run("cat /run/daemon.log; : > /run/daemon.log").output)


@define
class Cell:
    """A lab with its logical units and daemons.

    Args:
        lab: The lab.
        folder: Where sockets go; short.
    """

    lab: Lab
    folder: Path
    stack: ExitStack = field(factory=ExitStack, init=False)
    timeout: float = field(default=0.0, init=False)
    daemons: list[HostDaemon] = field(init=False)
    urls: dict[str, Url] = field(factory=dict, init=False)
    _preloaded: dict[int, Machine] = field(factory=dict, init=False)
    _commands: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.daemons = [
            HostDaemon(self.lab, number, self.stack, self.folder)
            for number in range(len(self.lab.nodes))
        ]

    def open(self) -> None:
        """Make the logical units, and start the daemons."""
        first = self.lab.nodes[0].machine
        first.check(f"mkdir -p -m 700 {self.lab.root}")
        begun = time.monotonic()
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._make, (DUEL, FREE), range(len(self.daemons))))
        self.timeout = _TIMEOUT * max(1.0, (time.monotonic() - begun) / _USUAL_SECONDS)
        print(f"   commands are answered within {self.timeout:.0f} s", flush=True)
        for daemon in self.daemons:
            daemon.timeout = self.timeout
        with ThreadPoolExecutor() as pool:
            list(pool.map(HostDaemon.start, self.daemons))

    def _make(self, lun: str, number: int) -> None:
        made = self.flockpr(number, f"lun create {lun} --size {SIZE} --json")
        self.urls[lun] = _url(json.loads(made))

    def close(self) -> None:
        """Close what leads into the machines; the daemons end with these."""
        self.stack.close()

    def flockpr(self, number: int, arguments: str) -> str:
        """Output of a command line of flockpr on a host, which must succeed."""
        machine = self.lab.nodes[number].machine
        if self._preloaded.get(number) is not machine:
            self._preloaded[number] = machine
            machine.start(f"exec {_PYTHON} {_GUEST / 'preloaded.py'} > /run/flockpr.log 2>&1")
        self._commands += 1
        own = f"/run/flockpr.{self._commands}"
        request = {
            "arguments": [*shlex.split(arguments), "--root", self.lab.root],
            "output": f"{own}.out",
            "errors": f"{own}.err",
            "answer": own,
        }
        line = shlex.quote(json.dumps(request))
        return machine.check(
            f"for i in $(seq 3000); do test -p /run/flockpr.in && break; sleep 0.1; done; "
            f"mkfifo {own}; printf '%s\\n' {line} > /run/flockpr.in; read status < {own}; "
            f"test $status = 0 || cat {own}.err; cat {own}.out; rm {own} {own}.*; exit $status"
        )

    def trail(self, lun: str, number: int = 0) -> list[dict[str, object]]:
        """The audit trail of a logical unit, as one of the hosts tells it."""
        printed = json.loads(self.flockpr(number, f"log {lun} --json"))
        assert printed["begins"] == 1
        records: list[dict[str, object]] = printed["records"]
        return records

    def status(self, lun: str, number: int) -> dict[str, Any]:
        """`flockpr status` of a logical unit on a host."""
        (status,) = json.loads(self.flockpr(number, f"status {lun} --json"))["luns"]
        found: dict[str, Any] = status
        return found

    def log_in(self, short: str, lun: str, number: int, *, session: int = 0) -> Initiator:
        """A session of an initiator with a logical unit through a host.

        Args:
            short: Short name of the initiator.
            lun: Name of the logical unit.
            number: Of the host.
            session: Which of its sessions there, which are all one nexus.

        Raises:
            OSError: The host's portal does not answer, or not as it should.
        """
        port = self.lab.nodes[number].ports["iscsi"]
        url, name = self.urls[lun], initiator_name(short)
        isid = 0x800000000001 + session
        address = ("127.0.0.1", port)
        return Initiator(address, target=url.target, name=name, isid=isid, timeout=PATIENCE)


def _url(shown: dict[str, Any]) -> Url:
    return Url("127.0.0.1", 0, str(shown["lun"]["iqn"]), int(shown["lun"]["lun"]))
