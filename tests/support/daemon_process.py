"""Daemons as processes of their own: started, waited for, looked into, ended."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Self

import attrs

from flockpr.prhelper.client import HelperClient, HelperReply

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 100.0
"""Seconds that something may take on a machine that does a lot beside."""

PR_HELPER = (sys.executable, "-m", "flockpr.daemon.pr_helper")
SERVE = (sys.executable, "-m", "flockpr", "serve")

READ_KEYS = bytes((0x5E, 0x00, 0, 0, 0, 0, 0, 0x10, 0x00, 0))
REGISTER_AND_IGNORE = bytes((0x5F, 0x06, 0, 0, 0, 0, 0, 0, 24, 0))


def environment(**variables: str) -> dict[str, str]:
    """Our environment without what could configure a daemon, and with these variables."""
    prefixes = ("FLOCKPR_", "XDG_", "LISTEN_", "NOTIFY_", "WATCHDOG_")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(prefixes)}
    home = {"HOME": "/nonexistent", "PYTHONPATH": str(REPOSITORY)}
    # A configuration of this machine must not reach a test either.
    return kept | home | {"FLOCKPR_CONFIG": os.devnull} | variables


@contextlib.contextmanager
def short_directory() -> Iterator[pathlib.Path]:
    """A new directory whose name leaves room for a socket's; others may pass through it."""
    directory = tempfile.mkdtemp(prefix="fpr-")
    os.chmod(directory, 0o755)
    try:
        yield pathlib.Path(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def eventually(condition: Callable[[], Any], what: str = "it") -> Any:
    """Wait until the condition holds; its value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen in {PATIENCE} s"
        time.sleep(0.01)
    return value


def accepts(path: str | pathlib.Path) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def greets(path: str | pathlib.Path) -> bool:
    """Whether somebody listens there and speaks first, as a helper does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PATIENCE)
        return probe.connect_ex(str(path)) == 0 and probe.recv(4) == bytes(4)


def register(path: str | pathlib.Path, key: int) -> HelperReply:
    """Register a key at a helper's socket, ignoring an older one."""
    with HelperClient(str(path), timeout=PATIENCE) as client, open("/dev/null", "r+b") as disk:
        parameters = bytes(8) + key.to_bytes(8) + bytes(8)
        return client.execute(disk.fileno(), REGISTER_AND_IGNORE, parameters)


def keys(path: str | pathlib.Path) -> list[int]:
    """The registered keys."""
    with HelperClient(str(path), timeout=PATIENCE) as client, open("/dev/null", "r+b") as disk:
        reply = client.execute(disk.fileno(), READ_KEYS)
    assert reply.status == 0
    data = reply.data_in[8:]
    return [int.from_bytes(data[place : place + 8]) for place in range(0, len(data), 8)]


@attrs.define
class Running:
    """A process that was started; ended with SIGKILL when the context is left.

    Attributes:
        process: It.
        log: File with its standard error.
    """

    process: subprocess.Popen[str]
    log: pathlib.Path

    @property
    def text(self) -> str:
        """What it has written to standard error so far."""
        return self.log.read_text()

    def ready(self, path: str | pathlib.Path) -> Self:
        """Wait until it serves that socket."""
        eventually(lambda: self.process.poll() is not None or accepts(path), "the start")
        assert self.process.poll() is None, self.text
        try:
            assert greets(path), self.text
        except OSError as error:  # it has ended in the meantime
            raise AssertionError(f"{error}: {self.text}") from error
        return self

    def end(self, number: int = signal.SIGTERM, *, insist: bool = False) -> int:
        """Send a signal and wait for the end; the exit code.

        Args:
            number: The signal.
            insist: Send it again after a while. The real helper misses one that comes between
                its look at the flag and its poll (seen on a busy machine).
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            self.process.send_signal(number)
            try:
                return self.process.wait(2.0 if insist else PATIENCE)
            except subprocess.TimeoutExpired:
                if not insist or time.monotonic() > deadline:
                    raise

    def status(self, name: str) -> str:
        """A line of its /proc/PID/status."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        found = [line for line in text.splitlines() if line.startswith(f"{name}:")]
        return found[0].partition(":")[2].strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def start(
    command: Sequence[str],
    log: pathlib.Path,
    *,
    environ: Mapping[str, str] | None = None,
    stdout: IO[str] | int | None = None,
    **options: Any,
) -> Running:
    """Start a daemon.

    Args:
        command: Program and arguments.
        log: Where its standard error goes.
        environ: Its environment, `environment()` by default.
        stdout: As for subprocess.
        options: More for subprocess.
    """
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            env=dict(environment() if environ is None else environ),
            stdin=subprocess.DEVNULL,
            stdout=errors if stdout is None else stdout,
            stderr=errors,
            text=True,
            **options,
        )
    return Running(process, log)


def run(
    command: Sequence[str], *, environ: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a daemon that is expected to end by itself."""
    return subprocess.run(
        command,
        env=dict(environment() if environ is None else environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        **options,
    )
