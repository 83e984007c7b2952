"""A Python that stays in a machine, so that descriptors and locks outlive a step of a test."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from tests.vm.machine import COMMAND_SECONDS, Completed, Machine, Running

_PROGRAM = Path(__file__).parent / "guest" / "worker.py"


class Refused(OSError):
    """A call failed in the machine; `errno` says why."""


def _value(done: Completed) -> Any:
    result = json.loads(done.output)
    if "errno" not in result:
        return result["value"]
    assert result["errno"], result["text"]  # a mistake in the test's own code
    raise Refused(result["errno"], result["text"])


@frozen
class Step:
    """Code that was sent to a worker."""

    running: Running

    @property
    def finished(self) -> bool:
        """Whether it has ended; one that waits for a lock has not."""
        return self.running.finished

    def wait(self, seconds: float = COMMAND_SECONDS) -> Any:
        """The value of the expression.

        Raises:
            Refused: It ended with an OSError.
        """
        return _value(self.running.wait(seconds))


@define
class Worker:
    """Runs code of ``guest/worker.py``'s namespace in a machine.

    Args:
        machine: Whose root is this host's own.
        name: Of the worker, unique in the machine.
    """

    machine: Machine
    name: str
    _running: Running = field(init=False)
    _count: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.machine.check(f"mkfifo /run/{self.name}.in")
        program = f"echo $$ > /run/{self.name}.pid; exec {sys.executable} {_PROGRAM} {self.name}"
        self._running = self.machine.start(program)

    def start(self, code: str) -> Step:
        """Send code and do not wait for it."""
        self._count += 1
        answer = f"/run/{self.name}.{self._count}"
        line = json.dumps({"code": code, "answer": answer})
        return Step(
            self.machine.start(
                f"mkfifo {answer}; printf '%s\\n' {shlex.quote(line)} > /run/{self.name}.in; "
                f"cat {answer}; rm {answer}"
            )
        )

    def __call__(self, code: str, seconds: float = COMMAND_SECONDS) -> Any:
        """The value of an expression, or None of statements.

        Raises:
            Refused: It ended with an OSError.
        """
        return self.start(code).wait(seconds)

    def refused(self, code: str) -> int | None:
        """The errno that the code fails with; None when it succeeds."""
        try:
            self(code)
        except Refused as error:
            return error.errno
        return None

    def kill(self) -> None:
        """End it with SIGKILL; what it had open is closed."""
        self.machine.check(f"kill -9 $(cat /run/{self.name}.pid)")
        self._running.wait()
