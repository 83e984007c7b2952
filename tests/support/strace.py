"""strace, attached to a running daemon: what it does, in which order, and what fails in it.

A system call of one thread that strace shows as ended before one of another thread has begun
had really ended by then: the second thread stands still at its entry until strace lets it go.
So the order of the lines is proof, also between threads.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from typing import Self

import attrs

from tests.support.peers import require, unavailable

FILE_CALLS = (
    *("openat", "newfstatat", "fstat", "read", "pread64", "write", "fchmod", "fsync", "fdatasync"),
    *("close", "link", "linkat", "unlink", "unlinkat", "rename", "renameat", "renameat2"),
    *("fcntl", "getdents64", "lseek", "pwrite64", "ftruncate"),
)
"""The system calls by which a daemon touches a lock directory."""
SOCKET_CALLS = ("recvfrom", "recvmsg", "sendto", "sendmsg")

_LINE = re.compile(r"(?:(?P<tid>\d+)\s+)?(?P<rest>.*)")
_RESUMED = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<text>.*)")
_CALL = re.compile(r"(?P<name>\w+)\((?P<text>.*)")
_RESULT = re.compile(r"(?P<arguments>.*)\)\s+= (?P<result>.*)")
_FILE = re.compile(r"\d+<(/[^>]*)>")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_UNFINISHED = re.compile(r"\s*<(?:unfinished|detached) \.\.\.>$")


@attrs.define
class Call:
    """One system call.

    Attributes:
        tid: The thread; 0 where only one was traced.
        name: Of the system call.
        arguments: As strace writes them, with the paths of descriptors.
        entered: Line at which it began.
        left: Line at which it had ended; None if it never did.
        result: What came back, as text, such as "0" or "-1 EIO (Input/output error) (INJECTED)".
    """

    tid: int
    name: str
    arguments: str
    entered: int
    left: int | None = None
    result: str = ""

    @property
    def done(self) -> bool:
        """It ended, and well."""
        return self.left is not None and not self.result.startswith(("-", "?"))

    @property
    def injected(self) -> bool:
        """Tampered with by strace."""
        return any(word in self.result for word in ("(INJECTED", "(DELAYED"))

    @property
    def paths(self) -> list[str]:
        """Paths of the descriptors of files among the arguments, in order."""
        return _FILE.findall(self.arguments)

    @property
    def names(self) -> list[str]:
        """Strings among the arguments, in order."""
        return _STRING.findall(self.arguments)

    def on(self, path: str) -> bool:
        """Whether a descriptor of exactly this file is among the arguments."""
        return path in self.paths


def parse(lines: Sequence[str]) -> list[Call]:
    """The system calls of a trace in the order in which they began."""
    calls: list[Call] = []
    open_calls: dict[int, Call] = {}
    for number, line in enumerate(lines):
        match = _LINE.fullmatch(line.rstrip("\n"))
        assert match is not None
        tid, rest = int(match["tid"] or 0), match["rest"]
        if resumed := _RESUMED.fullmatch(rest):
            call = open_calls.pop(tid, None)
            if call is not None:
                _finish(call, call.arguments + resumed["text"], number)
        elif begun := _CALL.fullmatch(rest):
            call = Call(tid, begun["name"], begun["text"], number)
            calls.append(call)
            if not _finish(call, begun["text"], number):
                call.arguments = _UNFINISHED.sub("", call.arguments)
                open_calls[tid] = call
    return calls


def _finish(call: Call, text: str, number: int) -> bool:
    match = _RESULT.fullmatch(text)
    if match is None or _UNFINISHED.search(text):
        return False
    call.arguments, call.result, call.left = match["arguments"], match["result"], number
    return True


class Strace:
    """strace on one thread, or on a process with all its threads.

    Args:
        target: Id of a thread, or of a process.
        output: File for the trace.
        follow: The whole process, with every thread that it has or makes.
        trace: The system calls to show; everything if empty.
        inject: What to do to which, as after `strace -e inject=`; counts are per thread.
        path: Only system calls on this path.

    Leaves the target running when the context ends, or earlier with `detach`.
    """

    def __init__(
        self,
        target: int,
        output: str,
        *,
        follow: bool = False,
        trace: Sequence[str] = (*FILE_CALLS, *SOCKET_CALLS),
        inject: Sequence[str] = (),
        path: str | None = None,
    ) -> None:
        self._output = output
        command = [require("strace")["strace"], "-yy", "-s", "16", "-o", output, "-p", str(target)]
        command += ["-f"] if follow else []
        command += ["-e", "trace=" + ",".join(trace)] if trace else []
        command += ["-P", path] if path else []
        for one in inject:
            command += ["-e", f"inject={one}"]
        self._process: subprocess.Popen[str] | None = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._await_attached()

    def _await_attached(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        said = ""
        for line in self._process.stderr:
            said += line
            if " attached" in line:
                return
        self.detach()
        if "not permitted" in said:
            unavailable(f"strace may not trace here: {said.strip()}")
        raise AssertionError(f"strace: {said}")

    def detach(self) -> None:
        """Let the target go, at once, also from a delay. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()

    def so_far(self) -> list[Call]:
        """What has been written of the trace; all of it after `detach`."""
        with open(self._output, encoding="utf-8", errors="replace") as file:
            return parse(file.readlines())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()


@contextlib.contextmanager
def traced(
    target: int, directory: str, *, follow: bool = False, inject: Sequence[str] = ()
) -> Iterator[list[Call]]:
    """Trace for the time of a block; the list is filled when it has ended."""
    calls: list[Call] = []
    output = os.path.join(directory, f"trace-{target}")
    tracer = Strace(target, output, follow=follow, inject=inject)
    try:
        yield calls
    finally:
        tracer.detach()
        calls += tracer.so_far()
