"""An emulated machine (QEMU, TCG: no KVM needed) and the way to run commands in it.

The agent of the machine (``guest/agent.sh``) talks over a virtio-serial port, whose other end
is a unix socket on which this side listens, so that the connection is there before the guest
boots. Emulation on a loaded machine is slow: every wait has a deadline of minutes.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from attrs import define, field, frozen

from tests.vm.kernel import Kernel

BOOT_SECONDS = 600
COMMAND_SECONDS = 300

KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off no_timer_check cryptomgr.notests "
    "rcupdate.rcu_expedited=1 random.trust_cpu=on 8250.nr_uarts=1 audit=0 clocksource=acpi_pm "
    "tsc=unstable"
)
"""Mostly to boot faster. The clock is for the leases and timeouts under test: on a busy host the
guest now and then calibrates its TSC wrongly, and its seconds were seen to last 0.2 s then. The
last one keeps such a TSC from the scheduler as well, whose seconds were seen to last 0.03 s."""


INCOMING = ("-incoming", "defer")
"""QEMU's arguments for `Machine.take_over`."""


class MachineError(AssertionError):
    """The machine did not boot, died, or did not answer in time."""


def spawn(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program that ends with this process, even when this process is killed.

    Args:
        command: The program and its arguments.
        log: File that its output is appended to.
        environment: The program's environment; ours when None.
    """
    with_parent = shutil.which("setpriv")
    prefix = [with_parent, "--pdeathsig", "KILL", "--"] if with_parent else []
    with log.open("ab") as output:
        return subprocess.Popen(
            [*prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill our own child, at once, and wait until it is gone."""
    if process.poll() is None:
        process.kill()
    process.wait()


@frozen
class Completed:
    """What a command in a machine gave.

    Args:
        status: The shell's exit status.
        output: Standard output and standard error.
    """

    status: int
    output: str


@define
class Running:
    """A command that was sent to a machine."""

    machine: Machine
    command: str
    _parts: list[str] = field(factory=list, init=False)
    _status: int | None = field(default=None, init=False)
    _done: threading.Event = field(factory=threading.Event, init=False)

    def add(self, kind: str, text: str) -> None:
        """Take one line of the agent's answer."""
        if kind == "+":
            self._parts.append(text)
            return
        self._status = int(text)
        self._done.set()

    def abandon(self) -> None:
        """The machine is gone: let nobody wait for it."""
        self._done.set()

    @property
    def finished(self) -> bool:
        """Whether the answer is here."""
        return self._done.is_set()

    def wait(self, seconds: float = COMMAND_SECONDS) -> Completed:
        """The command's result.

        Raises:
            MachineError: It did not come, or the machine died.
        """
        if not self._done.wait(seconds):
            raise self.machine.failure(f"no answer in {seconds} s to: {self.command}")
        if self._status is None:
            raise self.machine.failure(f"died before it answered: {self.command}")
        output = b"".join(base64.b64decode(part) for part in self._parts)
        return Completed(self._status, output.decode("utf-8", "replace"))


class Machine:
    """A machine under QEMU. Boots when created; a context manager that kills it.

    Args:
        name: Its name; also that of its folder.
        folder: Where its sockets and logs go; the path must be short (sockets).
        kernel: What it boots.
        initrd: File with its initial RAM file system.
        memory: MiB.
        arguments: Further arguments of QEMU.
        append: Further arguments of the guest's kernel.
        environment: Further variables for QEMU.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        kernel: Kernel,
        initrd: Path,
        *,
        memory: int = 256,
        arguments: Sequence[str] = (),
        append: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.boot_seconds = 0.0
        self._pending: dict[str, Running] = {"0": Running(self, "boot")}
        self._last = 0
        self._lock = threading.Lock()
        self._agent: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.folder / "agent"))
        self._listener.listen(1)
        self._born = time.monotonic()
        command = self._command(kernel, initrd, memory, append)
        self._process = spawn(
            [*command, *arguments],
            self.folder / "qemu.log",
            dict(os.environ, **(environment or {})),
        )
        self._boot = self._pending["0"]
        self._reader = threading.Thread(target=self._read, name=f"agent-{name}", daemon=True)
        self._reader.start()

    def _command(self, kernel: Kernel, initrd: Path, memory: int, append: str) -> list[str]:
        # fmt: off
        return [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot",
            "-machine", "pc,hpet=off,usb=off", "-accel", "tcg,thread=multi", "-cpu", "max",
            "-m", str(memory), "-display", "none", "-vga", "none",
            "-kernel", str(kernel.image), "-initrd", str(initrd),
            "-append", f"{KERNEL_ARGUMENTS} {append}",
            "-serial", f"file:{self.folder}/console",
            "-qmp", f"unix:{self.folder}/qmp,server=on,wait=off",
            "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=agent,path={self.folder}/agent",
            "-device", "virtserialport,chardev=agent,name=agent",
        ]
        # fmt: on

    # --- life -------------------------------------------------------------------------------

    def wait_booted(self, seconds: float = BOOT_SECONDS) -> None:
        """Return when the agent answers.

        Raises:
            MachineError: It does not; the message has the end of the console.
        """
        self._boot.wait(seconds)

    def take_over(self, source: Machine) -> None:
        """Have the machine that runs in another QEMU go on in this one; the other is killed.

        This QEMU has been started with `INCOMING` and with the same hardware as the other's.

        Args:
            source: The other one, booted.
        """
        self._until((self.folder / "qmp").exists, "to start")
        self.qmp("migrate-incoming", uri=f"unix:{self.folder}/incoming")
        source.qmp("migrate", uri=f"unix:{self.folder}/incoming")

        def sent() -> bool:
            status = source.qmp("query-migrate").get("status")
            assert status not in ("failed", "cancelled"), self.failure(str(status))
            return bool(status == "completed")

        self._until(sent, "the machine")
        self._until(lambda: bool(self.qmp("query-status")["running"]), "to run it")
        source.kill()
        # The agent is up already: it will not say so again.
        self._take(["0", "=", "0"])

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        while not condition():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise self.failure(f"waited in vain for {what}")
            time.sleep(0.05)

    def failure(self, what: str) -> MachineError:
        """An error that shows the machine's last words."""
        tails = []
        for name in ("qemu.log", "console"):
            with contextlib.suppress(OSError):
                text = (self.folder / name).read_text(errors="replace")
                tails.append(f"--- {name}\n{text[-2000:]}")
        return MachineError("\n".join([f"{self.name}: {what}", *tails]))

    @property
    def alive(self) -> bool:
        """Whether it has power."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Power cut."""
        end(self._process)
        self._listener.close()
        self._reader.join(60)
        for running in self._pending.values():
            running.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    # --- commands -----------------------------------------------------------------------------

    def start(self, command: str) -> Running:
        """Send a shell command to the booted machine."""
        self.wait_booted()
        running = Running(self, command)
        with self._lock:
            self._last += 1
            number = str(self._last)
            self._pending[number] = running
            text = base64.b64encode(command.encode()).decode()
            assert self._agent is not None  # it has booted, so its agent has called
            self._agent.sendall(f"{number} {text}\n".encode())
        return running

    def run(self, command: str, seconds: float = COMMAND_SECONDS) -> Completed:
        """Run a shell command to its end."""
        return self.start(command).wait(seconds)

    def check(self, command: str, seconds: float = COMMAND_SECONDS) -> str:
        """Output of a shell command that must succeed."""
        done = self.run(command, seconds)
        assert done.status == 0, f"{self.name}: {command}: {done.status}\n{done.output}"
        return done.output

    def _read(self) -> None:
        while True:  # QEMU calls at once; if it dies first, nobody ever will
            self._listener.settimeout(1)
            try:
                self._agent, _ = self._listener.accept()
                break
            except TimeoutError:
                if self._process.poll() is not None:
                    self._boot.abandon()
                    return
            except OSError:
                return
        self._agent.settimeout(None)
        with contextlib.suppress(OSError), self._agent.makefile("r", encoding="ascii") as lines:
            for line in lines:
                self._take(line.split())
        self._agent.close()
        for running in list(self._pending.values()):
            running.abandon()

    def _take(self, words: list[str]) -> None:
        number, kind, *rest = words
        if number == "0":
            self.boot_seconds = time.monotonic() - self._born
        running = self._pending[number]
        running.add(kind, rest[0] if rest else "")
        if running.finished:
            del self._pending[number]

    # --- QEMU itself ----------------------------------------------------------------------------

    def qmp(self, execute: str, **arguments: object) -> Any:
        """Result of a QMP command.

        Raises:
            MachineError: QEMU refused it.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(COMMAND_SECONDS)
            connection.connect(str(self.folder / "qmp"))
            with connection.makefile("rw", encoding="utf-8") as stream:
                stream.readline()  # the greeting
                for name, values in (("qmp_capabilities", {}), (execute, arguments)):
                    print(
                        json.dumps({"execute": name, "arguments": values}), file=stream, flush=True
                    )
                    reply: dict[str, Any] = {}
                    while not {"return", "error"} & reply.keys():  # events come in between
                        reply = json.loads(stream.readline())
        if "error" in reply:
            raise self.failure(f"{execute}: {reply['error']}")
        return reply["return"]
