"""Helper processes, and what every maker of requests has in common.

A helper is asked, and given up when it does not answer in time: it may be in a call to a file
server that is gone, where not even SIGKILL reaches it, so nobody waits for its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from flockpr.errors import FlockprError


class NoAnswer(FlockprError):
    """A helper did not answer in time, or is gone."""


class Actor(Protocol):
    """Somebody who does operations: a process of this host, or another host."""

    def start(self, what: str, **arguments: Any) -> None:
        """Ask for an operation; its answer is fetched by `finish`."""

    def finish(self) -> Any:
        """The answer.

        Raises:
            NoAnswer: There was none in time.
            OSError: The operation failed.
        """


def ask(actor: Actor, what: str, **arguments: Any) -> Any:
    """Have an operation done, and wait for it."""
    actor.start(what, **arguments)
    return actor.finish()


def value_of(answer: Mapping[str, Any]) -> Any:
    """The value in an answer.

    Raises:
        OSError: The answer is an error.
    """
    if "errno" in answer:
        raise OSError(answer["errno"], answer["text"])
    return answer["value"]


class Helper:
    """A helper process.

    Args:
        command: What to run; it speaks as `worker` does.
        patience: Seconds to wait for an answer.
    """

    def __init__(self, command: Sequence[str], patience: float) -> None:
        self._patience = patience
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # an interrupt is for the probe, which then tidies up
        )
        self._rest = b""

    def start(self, what: str, **arguments: Any) -> None:
        """Ask for an operation."""
        line = json.dumps({"do": what, "with": arguments}) + "\n"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
        except OSError as error:
            raise NoAnswer("a helper process has ended") from error

    def finish(self) -> Any:
        """Wait for the answer to what was asked."""
        deadline = time.monotonic() + self._patience
        while b"\n" not in self._rest:
            self._rest += self._receive(deadline)
        line, _, self._rest = self._rest.partition(b"\n")
        return value_of(json.loads(line))

    def _receive(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise NoAnswer(f"no answer within {self._patience:g} s")
        data = self._process.stdout.read(65536)
        if not data:
            raise NoAnswer("a helper process has ended")
        return data

    def kill(self) -> None:
        """End it, or leave it behind; never waits for long."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def command_for(path: str) -> list[str]:
    """How the helper of a directory is run."""
    return [sys.executable, "-m", "flockpr.probe.worker", path]
