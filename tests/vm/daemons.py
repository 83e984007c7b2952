"""Daemons of flockpr on this host, as processes that can be killed and started again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from attrs import define, field

import flockpr
from tests.vm.machine import end, spawn

START_SECONDS = 120


def clean_environment(home: Path) -> dict[str, str]:
    """Our environment without what could configure flockpr from outside, and with this flockpr.

    Args:
        home: A folder without configuration.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLOCKPR_", "XDG_", "LISTEN_", "NOTIFY_"))
    }
    package = os.path.dirname(os.path.dirname(os.path.abspath(flockpr.__file__)))
    return kept | {"HOME": str(home), "PYTHONPATH": package}


@define
class Daemon:
    """A process that serves one socket; a context manager that ends it.

    Args:
        command: Program and arguments.
        socket: The socket that it makes; it is ready when that accepts.
        environment: Its environment.
    """

    command: Sequence[str]
    socket: Path
    environment: Mapping[str, str]
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def log(self) -> Path:
        """File with everything that it printed."""
        return self.socket.with_suffix(".log")

    def start(self) -> None:
        """Start it; returns when it is ready."""
        self._process = spawn(self.command, self.log, self.environment)
        deadline = time.monotonic() + START_SECONDS
        while not self._accepts():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                state = f"exit {self._process.returncode}" if ended else "not ready"
                raise AssertionError(f"{self.command}: {state}\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it with SIGKILL: it gets no chance to tidy up."""
        if self._process is not None:
            end(self._process)

    def terminate(self) -> int:
        """End it with SIGTERM; its exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(START_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(str(self.socket)) == 0


def serve(folder: Path, name: str, root: Path, lun: str, initiator: str) -> Daemon:
    """A daemon for one host of one root, not started yet.

    Args:
        folder: Where its socket and its log go; short.
        name: Of the host.
        root: The lock directories.
        lun: The logical unit of all its guests.
        initiator: The initiator port of all its guests.
    """
    path = folder / f"{name}.sock"
    # fmt: off
    command = [
        sys.executable, "-m", "flockpr", "serve", "--root", str(root), "--socket", str(path),
        "--lun", lun, "--initiator", initiator, "--host", name,
    ]
    # fmt: on
    return Daemon(command, path, clean_environment(folder))


def pr_helper(folder: Path, root: Path, lun: str, initiator: str) -> Daemon:
    """The executable that libvirt starts, with its command line, not started yet.

    What `-k PATH` cannot say comes from a configuration file, as it does there.
    """
    config = folder / "flockpr.toml"
    config.write_text(f'[serve]\nroot = "{root}"\nlun = "{lun}"\ninitiator = "{initiator}"\n')
    installed = shutil.which("flockpr-pr-helper", path=os.path.dirname(sys.executable))
    # Tests may run from a tree that is not installed; this is what the executable does then.
    code = "import sys; from flockpr.daemon.pr_helper import main; sys.exit(main())"
    program = [installed] if installed else [sys.executable, "-c", code]
    path = folder / "helper.sock"
    environment = clean_environment(folder) | {"FLOCKPR_CONFIG": str(config)}
    return Daemon([*program, "-k", str(path)], path, environment)


def create_lun(folder: Path, root: Path, name: str) -> None:
    """Make a logical unit with the command line, as a user does."""
    command = [sys.executable, "-m", "flockpr", "lun", "create", name, "--root", str(root)]
    done = subprocess.run(
        command, env=clean_environment(folder), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
