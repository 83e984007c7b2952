"""The cluster's own lock of an image, for file systems that give byte ranges away too early.

GFS2 gives the byte ranges of a lost node to others as soon as the cluster has a new membership,
some ten seconds before that node is fenced (seen). Until then it may still write. What does
wait for the fence is the lock of the inode: whoever gets that exclusively after the byte range
knows that the lost node is out. A change of metadata needs it.

That call hangs for as long as the fencing takes, perhaps for ever, and nothing ends it. So it is
made in a helper process: started with the first call, one request at a time, kept for the next
one. A helper that hangs keeps the file that it hangs with and nobody but the callers for that
file, each up to its deadline; the next call waits for the same one. Then it asks again: a lock
that was had before the byte range was given says nothing of what came in between.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import attrs

log = logging.getLogger(__name__)

MOST = 16
"""Helper processes; where so many hang, the next file is refused."""
_WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cluster_lock_worker.py")

Key = tuple[int, int]
"""Device and inode of the file that is meant; (0, 0) for whatever the path leads to."""


def force(path: str, deadline: float, key: Key = (0, 0)) -> bool:
    """Have the cluster's lock of a file, exclusively, for a moment that begins after the call.

    Args:
        path: The file.
        deadline: When to give up, by `time.monotonic`.
        key: Device and inode that it must have.

    Returns:
        False if that was not possible in time, or at all; the latter is logged.
    """
    return _helpers.force(os.path.abspath(path), deadline, key)


def prepare() -> None:
    """Start a helper ahead, so that the first command need not wait for it. Never raises."""
    with contextlib.suppress(OSError, RuntimeError):
        _helpers.prepare()


@attrs.define(eq=False)
class _Helper:
    """A helper process.

    Attributes:
        process: It.
        sent: Requests that it was sent.
        answered: Requests that it answered.
        errno: Of the last answer.
        gone: It ended.
    """

    process: subprocess.Popen[bytes]
    sent: int = 0
    answered: int = 0
    errno: int = 0
    gone: bool = False

    @property
    def busy(self) -> bool:
        """Whether it has not answered yet."""
        return not self.gone and self.answered < self.sent


class Helpers:
    """The helper processes of this process; thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._idle: list[_Helper] = []
        self._hanging: dict[str, _Helper] = {}
        self._using: set[str] = set()
        self._all: list[_Helper] = []

    def force(self, path: str, deadline: float, key: Key) -> bool:
        """See the function."""
        with self._changed:
            if not self._wait(lambda: path not in self._using, deadline):
                return False
            self._using.add(path)
        try:
            return self._force(path, deadline, key)
        except OSError as error:
            log.error("%s: the helper for the cluster's lock cannot be used: %s", path, error)
            return False
        except RuntimeError as error:  # no more threads
            log.error("%s: the helper for the cluster's lock cannot be started: %s", path, error)
            return False
        finally:
            with self._changed:
                self._using.discard(path)
                self._changed.notify_all()

    def prepare(self) -> None:
        """See the function."""
        with self._changed:
            wanted = not self._all
        if wanted:
            helper = self._start()
            with self._changed:
                self._idle.append(helper)

    def pids(self) -> list[int]:
        """Process ids of the helpers that there are."""
        with self._changed:
            return sorted(helper.process.pid for helper in self._all)

    def close(self) -> None:
        """Let the helpers end. One that hangs does when it can."""
        with self._changed:
            helpers = list(self._all)
        for helper in helpers:
            assert helper.process.stdin is not None
            with contextlib.suppress(OSError):
                helper.process.stdin.close()

    def _force(self, path: str, deadline: float, key: Key) -> bool:
        helper = self._hanging.pop(path, None) or self._helper()
        if helper is None:
            log.error("%s: %d helpers for the cluster's lock hang", path, MOST)
            return False
        if helper.busy:  # with a request of an earlier call
            if not self._answered(helper, path, deadline):
                return False
            log.warning("%s: the cluster's lock that was waited for is there", path)
        if helper.gone and (helper := self._helper()) is None:
            return False
        self._send(helper, path, key)
        if not self._answered(helper, path, deadline):
            log.error("%s: the cluster's lock was not had in time: is a node being fenced?", path)
            return False
        with self._changed:
            gone, number = helper.gone, helper.errno
            if not gone:
                self._idle.append(helper)
        if gone or number:
            why = "the helper ended" if gone else os.strerror(number)
            log.error("%s: the cluster's lock cannot be had: %s", path, why)
        return not gone and not number

    def _answered(self, helper: _Helper, path: str, deadline: float) -> bool:
        """Wait for its answer; at the deadline it is left to the next call for this file."""
        with self._changed:
            if self._wait(lambda: not helper.busy, deadline):
                return True
            self._hanging[path] = helper
            return False

    def _helper(self) -> _Helper | None:
        """One that has nothing to do, a new one if need be; None where there are too many."""
        with self._changed:
            while self._idle:
                helper = self._idle.pop()
                if not helper.gone:
                    return helper
            if len(self._all) >= MOST:
                return None
        return self._start()

    def _start(self) -> _Helper:
        # A process of its own from the start: a fork would have copies of all locks of files
        # and threads. In a session of its own, because a signal from a terminal means the parent.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # perhaps a pipe that nobody reads
            start_new_session=True,
            cwd="/",
        )
        helper = _Helper(process)
        try:
            name = f"cluster-lock-{process.pid}"
            threading.Thread(target=self._listen, args=(helper,), name=name, daemon=True).start()
        except RuntimeError:
            _end(process)
            raise
        with self._changed:
            self._all.append(helper)
        return helper

    def _send(self, helper: _Helper, path: str, key: Key) -> None:
        request = json.dumps({"path": path, "device": key[0], "inode": key[1]}) + "\n"
        with self._changed:
            helper.sent += 1
        assert helper.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # the listening thread tells that it is gone
            helper.process.stdin.write(request.encode())
            helper.process.stdin.flush()

    def _listen(self, helper: _Helper) -> None:
        """Take its answers until it ends, and its exit status, so that no zombie stays."""
        assert helper.process.stdout is not None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            for line in helper.process.stdout:
                number = int(json.loads(line)["errno"])
                with self._changed:
                    helper.answered += 1
                    helper.errno = number
                    self._changed.notify_all()
        with self._changed:
            helper.gone = True
            self._all.remove(helper)
            if helper in self._idle:
                self._idle.remove(helper)
            self._changed.notify_all()
        _end(helper.process)

    def _wait(self, so: Callable[[], bool], deadline: float) -> bool:
        """Wait, with the lock held, until something is so; False at the deadline."""
        while not so():
            left = deadline - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return so()
        return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Take what is left of a helper; one that answers nonsense is killed."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    with contextlib.suppress(OSError):
        process.kill()
    process.wait()


_helpers = Helpers()
atexit.register(_helpers.close)
