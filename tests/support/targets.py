"""iSCSI targets as processes: `flockpr target`, and tgt beside it for comparisons."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Protocol, Self

import attrs

from tests.support.daemon_process import PATIENCE, environment, eventually
from tests.support.peers import require

FLOCKPR = (sys.executable, "-m", "flockpr")


@attrs.frozen
class Url:
    """Where an initiator finds a logical unit.

    Attributes:
        host: Address of the portal.
        port: TCP port of the portal.
        target: iSCSI name of the target.
        lun: Number of the logical unit in the target.
    """

    host: str
    port: int
    target: str
    lun: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take ``iscsi://HOST:PORT/TARGET/LUN`` apart."""
        found = re.fullmatch(r"iscsi://(.+):(\d+)/([^/]+)/(\d+)", text)
        assert found is not None, text
        return cls(found[1], int(found[2]), found[3], int(found[4]))

    def __str__(self) -> str:
        return f"iscsi://{self.host}:{self.port}/{self.target}/{self.lun}"


class Target(Protocol):
    """A running target."""

    @property
    def urls(self) -> Sequence[Url]:
        """Every logical unit through every portal, in the order of both."""

    def kill(self) -> None:
        """SIGKILL; it gets no chance to tidy up."""


def create_lun(root: pathlib.Path, name: str, size: int, *options: str) -> None:
    """Make a logical unit with an image, as a user does.

    Args:
        root: The lock directories; made when it is not there.
        name: Of the logical unit.
        size: Of its image, in bytes.
        options: More for `flockpr lun create`.
    """
    command = [*FLOCKPR, "lun", "create", name, "--root", str(root), "--size", str(size), *options]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr


@attrs.define
class FlockprTarget:
    """`flockpr target` as a process; a context manager that kills it.

    Attributes:
        root: The lock directories that it serves.
        folder: Where its configuration and its output go.
        portals: ``HOST:PORT[,TAG]`` of each portal. Port 0 is a free one, the same when the
            target is started again.
        config: Text of the configuration file.
        options: More for the command line.
    """

    root: pathlib.Path
    folder: pathlib.Path
    portals: Sequence[str] = ("127.0.0.1:0",)
    config: str = ""
    options: Sequence[str] = ()
    urls: Sequence[Url] = attrs.field(factory=tuple, init=False)
    _process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)

    @property
    def log(self) -> pathlib.Path:
        """What it wrote to standard error, over all its starts."""
        return self.folder / "target.log"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Start it; returns when it accepts connections."""
        self.folder.mkdir(exist_ok=True)
        config = self.folder / "flockpr.toml"
        config.write_text(self.config)
        config.chmod(0o600)
        ready = self.folder / "target.out"
        command = [*FLOCKPR, "target", "--root", str(self.root), *self.options]
        for portal in self.portals:
            command += ["--portal", portal]
        with self.log.open("ab") as errors, ready.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=environment(FLOCKPR_CONFIG=str(config)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
            )
        eventually(lambda: self._ended() or "\nready\n" in ready.read_text(), "the start")
        assert not self._ended(), self.log.read_text()[-4000:]
        lines = ready.read_text().split()
        self.urls = [Url.parse(line) for line in lines if line.startswith("iscsi://")]
        # So that an initiator finds it again where it was.
        bound = [line for line in lines if re.fullmatch(r"\S+:\d+,\d+", line)]
        assert len(bound) == len(self.portals), lines
        self.portals = bound

    def url(self, number: int = 0) -> Url:
        """The logical unit through the portal of this number, when there is only one unit."""
        assert len(self.urls) == len(self.portals), self.urls
        return self.urls[number]

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """SIGKILL; it gets no chance to tidy up."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _ended(self) -> bool:
        return self.process.poll() is not None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@attrs.define
class Tgt:
    """tgt's target as a process, one logical unit over a plain file.

    Attributes:
        image: The file.
        folder: Where its output goes.
        options: More for tgtadm when it makes the logical unit.
        number: Tells apart those of one process.
    """

    image: pathlib.Path
    folder: pathlib.Path
    options: Sequence[str] = ()
    number: int = 0
    urls: Sequence[Url] = attrs.field(factory=tuple, init=False)
    _process: subprocess.Popen[bytes] = attrs.field(init=False)
    _control: str = attrs.field(init=False)

    def __enter__(self) -> Self:
        programs = require("tgtd", "tgtadm")
        # Its control socket is named by a number and has a fixed place in /run.
        self._control = str(2000 + (10 * os.getpid() + self.number) % 30000)
        for attempt in range(5):
            port = _free_port()
            with (self.folder / f"tgt{self.number}-{attempt}.log").open("wb") as output:
                portal = f"portal=127.0.0.1:{port}"
                self._process = subprocess.Popen(
                    [programs["tgtd"], "-f", "-C", self._control, "--iscsi", portal],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            if self._answers():
                break
            self.kill()
        name = "iqn.2026-01.test:tgt"
        self._admin("--op new --mode target --tid 1", "-T", name)
        unit = "--op new --mode logicalunit --tid 1 --lun 1"
        self._admin(unit, "-b", str(self.image), *self.options)
        self._admin("--op bind --mode target --tid 1 -I ALL")
        self.urls = [Url("127.0.0.1", port, name, 1)]
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL: it ignores the other ones while a target is configured."""
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Its process; it must be started."""
        return self._process.pid

    def _answers(self) -> bool:
        """Whether it lives and can be configured: its port may have been taken meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < deadline:
            if self._ask("--mode sys --op show").returncode == 0:
                return True
            time.sleep(0.05)
        return False

    def _ask(self, options: str, *more: str) -> subprocess.CompletedProcess[str]:
        program = require("tgtadm")["tgtadm"]
        command = [program, "-C", self._control, "--lld", "iscsi", *options.split(), *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)

    def _admin(self, options: str, *more: str) -> None:
        done = self._ask(options, *more)
        assert done.returncode == 0, f"{options} {more}: {done.stderr}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
