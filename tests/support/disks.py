"""Disks for tests: on a real file, with a permit and reservations that live in memory.

The doubles keep the promises of the gate and of the logical units, and nothing more, so that
a test can hold a permit closed, drop it, or let another host commit between two commands.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import attrs

from flockpr.block import Disk, DiskNexus
from flockpr.block.calls import ImageCalls
from flockpr.block.medium import PermitLike
from flockpr.core.events import LogicalUnitReset, occur
from flockpr.core.machine import step
from flockpr.core.model import LogicalUnitState, Nexus, UnitConfig
from flockpr.errors import StoreError
from flockpr.logical_unit import Result, ServedState, failure
from flockpr.spc.cdb import parse_command
from flockpr.spc.codes import Status
from flockpr.spc.sense import parse_sense
from flockpr.store.identity import LunIdentity
from tests.support.scsi import A

BLOCK = 512
LUN = "disk"


class MemoryUnits:
    """Logical units whose state is in memory and committed at once.

    Attributes:
        now: The state, which a test may replace as another host would.
        fault: Raised, or answered, instead of doing anything.
        asked: Operation codes that were submitted.
        present: Nexuses that are attended.
    """

    def __init__(self) -> None:
        self.now = LogicalUnitState()
        self.fault: StoreError | None = None
        self.asked: list[int] = []
        self.present: list[Nexus] = []
        self.reads = 0
        self.hook: Callable[[], None] | None = None
        self._epochs: dict[Nexus, int | None] = {}
        self._lock = threading.RLock()

    def read_at_once(
        self,
        lun: str,
        nexus: Nexus,
        cdb: bytes,
        door: str = "api",
        *,
        report_attentions: bool = False,
        looks: bool = True,
    ) -> Result | None:
        """Say nothing: whoever asks has to submit."""
        del lun, nexus, cdb, door, report_attentions, looks
        return None

    def submit(
        self,
        lun: str,
        nexus: Nexus,
        cdb: bytes,
        data_out: bytes = b"",
        *,
        door: str = "api",
        report_attentions: bool = True,
        long_parameter_length: bool = True,
    ) -> Future[Result]:
        """One command, decided at once."""
        with self._lock:
            self.asked.append(cdb[0])
            if self.fault is not None:
                return _done(failure(self.fault))
            command = parse_command(cdb, data_out, long_parameter_length=long_parameter_length)
            outcome = step(
                self.now,
                nexus,
                command,
                config=UnitConfig(target_ports=(1, 2, 3)),
                report_attentions=report_attentions,
                seen_epoch=self._epochs.get(nexus),
            )
            self._epochs[nexus] = outcome.seen_epoch
            self.now = outcome.state
            result = attrs.evolve(Result.of(outcome.reply), aborted=outcome.aborted)
        if self.hook is not None:
            self.hook()
        return _done(result)

    def state(self, lun: str, door: str = "api") -> Future[ServedState]:
        """The state as it is."""
        with self._lock:
            self.reads += 1
            future: Future[ServedState] = Future()
            if self.fault is not None:
                future.set_exception(self.fault)
            else:
                future.set_result(ServedState(self.now, 1))
            return future

    def reset(self, lun: str, door: str = "api") -> Future[None]:
        """A logical unit reset."""
        with self._lock:
            future: Future[None] = Future()
            if self.fault is not None:
                future.set_exception(self.fault)
                return future
            self.now = occur(self.now, LogicalUnitReset(), config=UnitConfig()).state
            future.set_result(None)
            return future

    def attend(self, lun: str, nexus: Nexus, door: str = "api") -> None:
        """It is connected."""
        self.present.append(nexus)

    def leave(self, lun: str, nexus: Nexus, door: str = "api") -> None:
        """It is gone."""
        self.present.remove(nexus)


class OpenPermit:
    """A permit that is had for the asking, until a test closes it.

    Attributes:
        closed: Nobody gets in.
        gone: What `lost` says.
        inside: How many are in.
    """

    def __init__(
        self,
        path: pathlib.Path,
        on_open: Callable[[float], None],
        on_descriptor: Callable[[int], None],
    ) -> None:
        self.fd = -1
        self.direct = True
        self.fault: StoreError | None = None
        self.closed = False
        self.gone = False
        self.inside = 0
        self.entered = 0
        self.attended = 0
        self.renewed = 0
        self._path = path
        self._on_open = on_open
        self._on_descriptor = on_descriptor
        self._opened = False
        self._lock = threading.Lock()

    def bar(self, who: object) -> None:
        """Let nobody in."""
        self.closed = True

    def admit(self, who: object) -> None:
        """Let them in again."""
        self.closed = False

    def renew(self) -> None:
        """Take it anew."""
        self.renewed += 1

    def open(self) -> None:
        """Open the image."""
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            self.fd = os.open(self._path, flags | os.O_DIRECT)
        except OSError:
            self.fd = os.open(self._path, flags | os.O_DSYNC)
            self.direct = False
        self._on_descriptor(self.fd)

    def enter(self, deadline: float) -> bool:
        """In, unless closed."""
        if self.closed or self.fault is not None:
            return False
        with self._lock:
            if not self._opened:
                self._on_open(deadline)
                self._opened = True
            self.inside += 1
            self.entered += 1
        return True

    def enter_at_once(self) -> bool:
        """In, if that was so for others."""
        with self._lock:
            if self.closed or self.fault is not None or not self._opened:
                return False
            self.inside += 1
            self.entered += 1
            return True

    def leave(self) -> None:
        """Out."""
        with self._lock:
            assert self.inside
            self.inside -= 1

    def retake(self) -> None:
        """Given away and taken again: the next one in reads the state."""
        with self._lock:
            assert not self.inside
            self._opened = False

    def lost(self) -> bool:
        """What the test says."""
        assert self.inside
        return self.gone

    def attend(self) -> None:
        """One session more."""
        self.attended += 1

    def rest(self) -> None:
        """One session fewer."""
        self.attended -= 1

    def close(self, then: Callable[[], None]) -> None:
        """Close the image."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self.closed = True
        then()


class FaultyCalls(ImageCalls):
    """System calls that fail on request.

    Attributes:
        errors: By name of the call, what it raises; for as long as it is there.
        log: The calls that were made on data, as (name, offset or None, length or None).
    """

    def __init__(self) -> None:
        self.errors: dict[str, OSError] = {}
        self.log: list[tuple[str, int | None, int | None]] = []
        self.most: int | None = None
        self.hook: Callable[[str], None] | None = None

    def ring(self, room: int) -> None:
        """None: whatever is done is done by the calls below."""

    def _note(self, name: str, offset: int | None = None, length: int | None = None) -> None:
        self.log.append((name, offset, length))
        if self.hook is not None:
            self.hook(name)
        if name in self.errors:
            raise self.errors[name]

    def preadv(self, fd: int, buffers: Any, offset: int) -> int:
        """Recorded; `most` cuts it short."""
        self._note("preadv", offset, len(buffers[0]))
        return super().preadv(fd, [buffers[0][: self.most]], offset)

    def pwritev(self, fd: int, buffers: Any, offset: int, *, durable: bool = False) -> int:
        """Recorded; `most` cuts it short."""
        self._note("pwritev" + "+dsync" * durable, offset, len(buffers[0]))
        return super().pwritev(fd, [buffers[0][: self.most]], offset, durable=durable)

    def fdatasync(self, fd: int) -> None:
        """Recorded."""
        self._note("fdatasync")
        super().fdatasync(fd)

    def punch(self, fd: int, offset: int, length: int) -> None:
        """Recorded."""
        self._note("punch", offset, length)
        super().punch(fd, offset, length)

    def names(self) -> list[str]:
        """The names of the recorded calls, and forget them."""
        found = [name for name, _, _ in self.log]
        self.log.clear()
        return found


def _done(result: Result) -> Future[Result]:
    future: Future[Result] = Future()
    future.set_result(result)
    return future


def aligned(data: bytes) -> memoryview:
    """The same bytes in memory as direct I/O wants it."""
    view = memoryview(mmap.mmap(-1, max(len(data), 1)))[: len(data)]
    view[:] = data
    return view


def identity(**changes: Any) -> LunIdentity:
    """A logical unit's lasting properties."""
    values: dict[str, Any] = {
        "name": LUN,
        "incarnation": "0" * 32,
        "naa": "naa.3123456789abcdef",
        "serial": "serial-1",
        "lun": 0,
        "created": "2026-11-22T00:00:00Z",
        "image": "disk.img",
        "target_ports": (1, 2, 3),
    }
    return LunIdentity(**{**values, **changes})


class Rig:
    """A disk, its doubles, and one session of nexus A.

    Args:
        directory: Where the image is made.
        blocks: Its size.
        options: As for `Disk`.
    """

    def __init__(self, directory: pathlib.Path, blocks: int = 2048, **options: Any) -> None:
        self.path = directory / "disk.img"
        with self.path.open("xb") as image:
            image.truncate(blocks * BLOCK)
        self.calls = FaultyCalls()
        self.units = MemoryUnits()
        self.permit: OpenPermit

        def permit(
            on_open: Callable[[float], None], on_descriptor: Callable[[int], None]
        ) -> PermitLike:
            self.permit = OpenPermit(self.path, on_open, on_descriptor)
            return self.permit

        settings = {"permit": permit, "claim": False, "calls": self.calls, **options}
        self.disk = Disk(str(directory), identity(), self.units, **settings)
        self.session = self.disk.attach(A, target_name="iqn.2026-11.org.flockpr:disk")
        self.calls.log.clear()

    def run(
        self, cdb: bytes, data: bytes = b"", *, of: DiskNexus | None = None, **more: Any
    ) -> Answer:
        """One command, answered with its data copied and its buffer given back."""
        reply = self.disk.execute(of or self.session, cdb, aligned(data), **more)
        answer = Answer(reply.status, reply.sense, b"".join(bytes(part) for part in reply.data))
        reply.release()
        return answer

    def good(self, cdb: bytes, data: bytes = b"", **more: Any) -> bytes:
        """One command that has to be GOOD; its data."""
        answer = self.run(cdb, data, **more)
        assert answer.status is Status.GOOD, answer
        return answer.data

    def code(self, cdb: bytes, data: bytes = b"", **more: Any) -> tuple[int, int, int]:
        """One command that has to end in CHECK CONDITION: key, ASC, ASCQ."""
        answer = self.run(cdb, data, **more)
        assert answer.status is Status.CHECK_CONDITION, answer
        return answer.code

    def content(self, lba: int, blocks: int) -> bytes:
        """Blocks as they are in the file."""
        with self.path.open("rb") as image:
            image.seek(lba * BLOCK)
            return image.read(blocks * BLOCK)

    def close(self) -> None:
        """Close the disk."""
        self.disk.close()


@attrs.frozen
class Answer:
    """A reply, copied."""

    status: Status
    sense: bytes = b""
    data: bytes = attrs.field(default=b"", repr=lambda data: repr(data[:64]))

    @property
    def code(self) -> tuple[int, int, int]:
        """Sense key, ASC, ASCQ."""
        sense = parse_sense(self.sense)
        assert sense is not None, self
        return sense.key, sense.asc, sense.ascq


def rigs(directory: pathlib.Path, **options: Any) -> Iterator[Rig]:
    """For a fixture: a rig that is closed."""
    rig = Rig(directory, **options)
    yield rig
    rig.close()
    assert rig.permit.inside == 0


def hold(path: pathlib.Path, start: int, length: int, kind: int = fcntl.F_WRLCK) -> int:
    """Lock bytes of a file as another open file description; close the descriptor returned."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    ImageCalls().set_lock(fd, kind, start, length)
    return fd


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
