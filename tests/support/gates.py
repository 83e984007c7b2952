"""Images with permits and gates, in one process that can pass for several."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import attrs

from flockpr.gate import Doorbell, Gate, Held, Permit, places
from flockpr.store.syscalls import Syscalls

LONG = 60.0
"""Seconds after which something hangs, on a busy machine too."""
NUMBER = 7
IMAGE = "disk.img"
SIZE = 1 << 20


def soon() -> float:
    """A deadline that is not reached."""
    return time.monotonic() + LONG


def eventually(what: Callable[[], bool], why: str) -> None:
    """Wait until something is so."""
    deadline = soon()
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.002)


def usable(permit: Permit) -> bool:
    """Whether one more read or write could be done now, or in a moment: it may be taken first."""
    entered = permit.enter(time.monotonic() + 0.2)
    if entered:
        permit.leave()
    return entered


@contextlib.contextmanager
def only_one_take() -> Iterator[None]:
    """The time of each command ends when it has the permits: what is lost afterwards is not taken
    again, and it was not too late before, however slow the machine is.
    """
    real = Held.take

    def take(held: Held) -> None:
        real(held)
        held._deadline = time.monotonic()

    with mock.patch.object(Held, "take", take):
        yield


class Failing(Syscalls):
    """A file server that fails calls of some kind, by descriptor if asked.

    Attributes:
        errors: By name of the call, what it fails with.
        poisoned: Descriptors whose lock was lost: reading through them is EIO until they are
            closed, as NFSv4 has it.
        calls: Names of the calls so far.
        refused: So often somebody else had what was to be locked.
    """

    def __init__(self) -> None:
        self.refused = 0
        self.errors: dict[str, int] = {}
        self.poisoned: set[int] = set()
        self.calls: list[str] = []

    def _pass(self, name: str) -> None:
        self.calls.append(name)
        if name in self.errors:
            raise OSError(self.errors[name], os.strerror(self.errors[name]))

    def open(self, path: str, flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        self._pass("open")
        if flags & os.O_DIRECT:
            self._pass("direct")
        return super().open(path, flags, mode, dir_fd=dir_fd)

    def close(self, fd: int) -> None:
        self._pass("close")
        self.poisoned.discard(fd)
        super().close(fd)

    def pread_into(self, fd: int, buffer: mmap.mmap, offset: int) -> int:
        self._pass("pread_into")
        if fd in self.poisoned:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().pread_into(fd, buffer, offset)

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        self._pass("unlock" if kind == fcntl.F_UNLCK else "set_lock")
        try:
            super().set_lock(fd, kind, start, length)
        except BlockingIOError:
            self.refused += 1
            raise

    def get_lock(self, fd: int, kind: int, start: int, length: int) -> int:
        self._pass("get_lock")
        return super().get_lock(fd, kind, start, length)

    def find_lock(self, fd: int, kind: int, start: int, length: int) -> tuple[int, int, int]:
        self._pass("find_lock")
        return super().find_lock(fd, kind, start, length)


@attrs.define(eq=False)
class Rig:
    """A root with one image, and who uses it.

    Attributes:
        root: The root directory.
        read: How often each permit's state was read, by name of the permit.
    """

    root: str
    permits: list[Permit] = attrs.Factory(list)
    read: dict[str, int] = attrs.Factory(dict)
    meanwhile: Callable[[], None] = lambda: None

    @classmethod
    def at(cls, path: Path) -> Rig:
        """A new one."""
        with open(path / IMAGE, "wb") as image:
            image.truncate(SIZE)
        return cls(str(path))

    @property
    def image(self) -> str:
        """Path of the image."""
        return os.path.join(self.root, IMAGE)

    def permit(
        self,
        name: str = "one",
        *,
        syscalls: Syscalls | None = None,
        on_descriptor: Callable[[int], None] | None = None,
        host: str | None = None,
    ) -> Permit:
        """A target's; what it does when its state is read again is `meanwhile`."""
        self.read[name] = 0

        def read(_: float) -> None:
            self.read[name] += 1
            self.meanwhile()

        permit = Permit(
            self.root,
            NUMBER,
            IMAGE,
            on_open=read,
            on_descriptor=on_descriptor,
            host=host,
            syscalls=syscalls,
        )
        self.permits.append(permit)
        return permit

    def gate(self, syscalls: Syscalls | None = None, host: str | None = None) -> Gate:
        """A command's."""
        return Gate(self.root, NUMBER, IMAGE, host=host, syscalls=syscalls)

    def free(self) -> bool:
        """Whether all permits could be had, by somebody else."""
        fd = os.open(self.image, os.O_RDWR)
        try:
            Syscalls().set_lock(fd, fcntl.F_WRLCK, *places.ALL_PERMITS)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True

    def rung(self) -> bool:
        """Whether somebody rings for the image."""
        with Doorbell(self.root, Syscalls()) as bell:
            return bell.heard(NUMBER)

    def close(self) -> None:
        """Let go of everything."""
        for permit in self.permits:
            permit.close()


@attrs.define(eq=False)
class Aside:
    """Something that is done on another thread; its result, or its error, by `result`."""

    work: Callable[[], object]
    _thread: threading.Thread = attrs.field(init=False)
    _value: object = None
    _error: BaseException | None = None

    def __attrs_post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self.work()
        except BaseException as error:
            self._error = error

    def waits(self, server: Failing) -> None:
        """See that it tries again and again to lock what somebody else has, and does not go on.

        Args:
            server: Through which it does so, and nobody else.
        """
        before = server.refused
        eventually(lambda: self.done or server.refused > before + 2, "it does not try")
        assert not self.done, "it does not wait"

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def result(self) -> object:
        """What came of it."""
        self._thread.join(LONG)
        assert self.done, "it hangs"
        if self._error is not None:
            raise self._error
        return self._value
