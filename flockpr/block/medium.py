"""The medium: an image file, read and written in blocks.

Every call here happens between `enter` and `leave` of the permit and on the permit's own
descriptor: a second descriptor would not be fenced. What goes wrong is an `OSError`, and
`Medium.failure` says which sense that is.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from flockpr.block import senses
from flockpr.block.calls import ImageCalls
from flockpr.block.image import claim_from_qemu
from flockpr.block.pool import Buffer, Pool
from flockpr.block.quiet import QuietLog
from flockpr.block.ranges import Contended, Ranges, alone_among_processes
from flockpr.block.stability import Stability
from flockpr.errors import StoreError, StoreUnavailable
from flockpr.spc.sense import INTERNAL_TARGET_FAILURE, OUTCOME_UNKNOWN, Sense
from flockpr.store import files
from flockpr.store.images import BLOCK

log = logging.getLogger(__name__)

CHUNK: Final = 256 << 10
"""Bytes of scratch memory that a command works with at a time."""
SCRATCH_LIMIT: Final = 16 << 20
PUNCH_STEP: Final = 1 << 30
"""Bytes deallocated by one system call."""
COMPARE_PATIENCE: Final = 2.0
"""Seconds that COMPARE AND WRITE waits for others: it holds up a narrowing command meanwhile."""
WRITE_PATIENCE: Final = 5.0
"""Seconds that a write waits for a COMPARE AND WRITE of the same blocks."""

_LOST: Final = frozenset({errno.EIO, errno.ESTALE, errno.ENOLCK, errno.EBADF, errno.ETIMEDOUT})
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_PROTECTED: Final = frozenset({errno.EROFS, errno.EPERM, errno.EACCES})
_PASSING: Final = frozenset({errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ENOBUFS})
_CANNOT_PUNCH: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EINVAL})


class ShortImage(OSError):
    """The file ends before the medium does: somebody has shrunk it."""


class FlushFailed(OSError):
    """What was written before may not be on stable storage."""


class Cancelled(Exception):
    """The transport no longer wants the command."""


class PermitLike(Protocol):
    """What the data path needs of `flockpr.gate.Permit`."""

    @property
    def fd(self) -> int:
        """The image's descriptor, between enter and leave."""

    @property
    def direct(self) -> bool:
        """Whether it passes the page cache by."""

    @property
    def fault(self) -> StoreError | None:
        """Why `enter` failed, if not for a narrowing command under way."""

    def open(self) -> None:
        """Open the descriptor, without the permit."""

    def enter(self, deadline: float) -> bool:
        """An I/O begins; False: not in time."""

    def enter_at_once(self) -> bool:
        """An I/O begins, unless something would have to be waited for."""

    def leave(self) -> None:
        """An I/O has ended."""

    def lost(self) -> bool:
        """Tell whether an I/O error means that the permit is gone."""

    def bar(self, who: object) -> None:
        """Let nobody enter until `admit(who)`."""

    def admit(self, who: object) -> None:
        """`who` needs it no more."""

    def renew(self) -> None:
        """Close the descriptor when all have left; the next to enter takes the permit anew."""

    def attend(self) -> None:
        """A session is attached."""

    def rest(self) -> None:
        """A session is detached."""

    def close(self, then: Callable[[], None]) -> None:
        """Let go of the image when the last has left, and call `then`."""


class Medium:
    """One image as a row of blocks. Thread-safe.

    Args:
        path: The image's path.
        calls: System calls.
        on_size: Told when the size has become another one.
    """

    def __init__(self, path: str, calls: ImageCalls, on_size: Callable[[], None]) -> None:
        self.permit: PermitLike
        self.path = path
        self.blocks = 0
        self.ranges = Ranges()
        self.stability = Stability()
        self._calls = calls
        self._on_size = on_size
        self._scratch = Pool(SCRATCH_LIMIT)
        self._end = 0
        self._punches = True
        self._durable_writes = True
        self._zero = memoryview(bytes(BLOCK))
        self._log = QuietLog(log)
        self._looking = threading.Lock()

    # ------------------------------------------------------------------ the file

    def opened(self, fd: int) -> None:
        """A descriptor of the image was opened: keep QEMU away, and look at the image.

        Raises:
            StoreError: It cannot be served.
        """
        claim_from_qemu(self._calls, fd, self.path)
        self._check_unit(fd)
        self.look(self._calls.size(fd))

    def _check_unit(self, fd: int) -> None:
        """Refuse an image whose file system wants more than a block at a time.

        A block would have to be written together with its neighbours, which another host
        may be writing at the same time.
        """
        if self._calls.size(fd) < 2 * BLOCK:
            return
        with self.scratch() as buffer:
            try:
                self._calls.preadv(fd, (buffer.view[:BLOCK],), BLOCK)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise files.unavailable(error, "cannot be read", self.path) from error
                raise StoreUnavailable(
                    f"the file system has no direct input and output in units of {BLOCK} bytes",
                    self.path,
                    "put the image on a file system whose disks have 512-byte sectors",
                ) from None

    def look(self, size: int) -> None:
        """Take note of the file's size."""
        if size == self._end and size // BLOCK <= self.blocks:
            return
        with self._looking:
            before, self._end = self._end, size
            blocks = size // BLOCK
            if blocks < self.blocks:
                if size < before:
                    log.error(
                        "%s: was shrunk to %d bytes while it is served: what was behind is lost",
                        self.path,
                        size,
                    )
                return
            if blocks == self.blocks:
                return
            if size % BLOCK:
                log.warning("%s: its last %d bytes are no block", self.path, size % BLOCK)
            if self.blocks:
                log.warning("%s: has grown from %d to %d blocks", self.path, self.blocks, blocks)
                # Before anybody can use the new blocks: the attention is not to be overtaken.
                self._on_size()
            self.blocks = blocks

    def look_again(self) -> None:
        """Ask for the file's size by its name; no permit needed.

        Raises:
            OSError: It could not be asked for.
        """
        self.look(self._calls.size_of(self.path))

    def look_now(self) -> None:
        """Ask for the file's size, under the permit."""
        self.look(self._calls.size(self.permit.fd))

    # ------------------------------------------------------------------ reads and writes

    def read(self, view: memoryview, offset: int) -> None:
        """Fill `view`, aligned, from byte `offset` on."""
        done = self._calls.preadv(self.permit.fd, (view,), offset)
        if done != len(view):
            self._read_rest(view, offset, done)

    def _read_rest(self, view: memoryview, offset: int, done: int) -> None:
        while done < len(view):
            some = self._calls.preadv(self.permit.fd, (view[done:],), offset + done)
            if not some:
                self.look_now()
                raise ShortImage(errno.EIO, f"the image ends before byte {offset + len(view)}")
            done += some

    def write(self, view: memoryview, offset: int, *, durable: bool = False) -> None:
        """Write `view` from byte `offset` on; with `durable` it is on disk on return."""
        end = offset + len(view)
        if end > self._end:
            # It would make the file longer, around a hole where lost data was.
            raise ShortImage(errno.EIO, f"the image ends before byte {end}")
        ticket = self.ranges.enter(offset, end, time.monotonic() + WRITE_PATIENCE)
        try:
            self.write_alone(view, offset, durable=durable)
        finally:
            self.ranges.leave(ticket)

    def write_alone(self, view: memoryview, offset: int, *, durable: bool = False) -> None:
        """As `write`, by whoever has the range already."""
        put = self._put_stably if durable or not self.permit.direct else self._put
        try:
            put(view, offset, durable)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Direct I/O wants aligned memory; this came in a network buffer.
            with self.scratch() as buffer:
                for start, size in pieces(len(view)):
                    aligned = buffer.view[:size]
                    aligned[:] = view[start : start + size]
                    put(aligned, offset + start, durable)
        if durable and not self._durable_writes:
            self.sync()

    def claim(self, start: int, end: int) -> int | None:
        """A write of these bytes begins that the kernel is to carry out; `ranges.leave` ends it.
        None where it has to wait, or would make the file longer.
        """
        return None if end > self._end else self.ranges.enter_at_once(start, end)

    def read_ended(self, view: memoryview, offset: int, result: int) -> None:
        """The kernel has carried out a read: make it whole.

        Args:
            view: Where it was to read to.
            offset: From where on.
            result: Bytes that it read, or minus an errno.

        Raises:
            OSError: As `read`.
        """
        if result != len(view):
            self._read_rest(view, offset, _moved(result))

    def write_ended(self, view: memoryview, offset: int, result: int) -> None:
        """As `read_ended`, of a write; who calls it has the range still."""
        if result == len(view):
            return
        # Where it says EINVAL, memory was not aligned as the disk wants it, and nothing was done.
        done = 0 if result == -errno.EINVAL else _moved(result)
        self.write_alone(view[done:], offset + done)

    def _put_stably(self, view: memoryview, offset: int, durable: bool) -> None:
        """As `_put`, where the kernel may tell of what others wrote as well."""
        with self.stability.attempt(self._unstable):
            self._put(view, offset, durable)

    def _unstable(self, error: OSError) -> bool:
        """Whether a write that waits for the disk failed in a way that concerns others."""
        number = error.errno
        if number in _PASSING or number in _PROTECTED or number == errno.EINVAL:
            return False
        if not self.permit.direct:
            return True
        # That of a write alone: there was no room for it, or its permit was taken away.
        return number not in _NO_ROOM and not (number in _LOST and self.permit.lost())

    def _put(self, view: memoryview, offset: int, durable: bool) -> None:
        write, fd = self._calls.pwritev, self.permit.fd
        durable = durable and self._durable_writes
        done = 0
        while done < len(view):
            try:
                some = write(fd, (view[done:] if done else view,), offset + done, durable=durable)
            except OSError as error:
                if not durable or error.errno != errno.EOPNOTSUPP:
                    raise
                self._durable_writes = durable = False  # no RWF_DSYNC here: `sync` after it
                continue
            if not some:
                raise OSError(errno.EIO, "nothing was written")
            done += some

    def sync(self) -> None:
        """Return when everything that was written is on stable storage; see `stability`.

        Raises:
            FlushFailed: It may not be, and nobody would be told so again.
        """
        try:
            with self.stability.attempt(lambda _: True):
                self._calls.fdatasync(self.permit.fd)
        except OSError as error:
            self._log.error(
                ("flush", error.errno),
                "%s: a flush failed, what was written may be lost; every session is told: %s",
                self.path,
                error,
            )
            raise FlushFailed(error.errno, error.strerror) from error

    @contextmanager
    def scratch(self) -> Iterator[Buffer]:
        """Aligned memory of `CHUNK` bytes.

        Raises:
            OSError: There is none.
        """
        buffer = self._scratch.acquire(CHUNK, 1.0)
        if buffer is None:
            raise OSError(errno.ENOMEM, "no memory")
        try:
            yield buffer
        finally:
            buffer.release()

    @contextmanager
    def alone(self, offset: int, length: int) -> Iterator[None]:
        """Read and write these bytes as one act (see `ranges`)."""
        deadline = time.monotonic() + COMPARE_PATIENCE
        end = offset + length
        if end > self._end:
            raise ShortImage(errno.EIO, f"the image ends before byte {end}")
        with (
            self.ranges.alone(offset, end, deadline),
            alone_among_processes(self._calls, self.permit.fd, offset, end, deadline),
        ):
            yield

    # ------------------------------------------------------------------ holes

    def zero(self, offset: int, length: int, cancelled: Callable[[], bool]) -> None:
        """Deallocate bytes; where the file system cannot, write zeros."""
        with self._writing(offset, length):
            if not self._punch(offset, length, cancelled):
                self._fill(self._zero, offset, length, cancelled)

    def punch_range(self, offset: int, length: int, cancelled: Callable[[], bool]) -> bool:
        """Deallocate bytes; False where the file system cannot."""
        with self._writing(offset, length):
            return self._punch(offset, length, cancelled)

    def fill_range(
        self, pattern: memoryview, offset: int, length: int, cancelled: Callable[[], bool]
    ) -> None:
        """Write `pattern`, a block, again and again."""
        with self._writing(offset, length):
            self._fill(pattern, offset, length, cancelled)

    @contextmanager
    def _writing(self, offset: int, length: int) -> Iterator[None]:
        end = offset + length
        if end > self._end:
            raise ShortImage(errno.EIO, f"the image ends before byte {end}")
        ticket = self.ranges.enter(offset, end, time.monotonic() + WRITE_PATIENCE)
        try:
            yield
        finally:
            self.ranges.leave(ticket)

    def _punch(self, offset: int, length: int, cancelled: Callable[[], bool]) -> bool:
        if not self._punches:
            return False
        for start in range(offset, offset + length, PUNCH_STEP):
            _check(cancelled)
            try:
                step = min(PUNCH_STEP, offset + length - start)
                self._calls.punch(self.permit.fd, start, step)
            except OSError as error:
                if error.errno not in _CANNOT_PUNCH:
                    raise
                log.warning("%s: no holes on this file system: zeros are written", self.path)
                self._punches = False
                return False
        return True

    def _fill(
        self, pattern: memoryview, offset: int, length: int, cancelled: Callable[[], bool]
    ) -> None:
        with self.scratch() as buffer:
            view = buffer.view
            size = len(pattern)
            view[:size] = pattern
            while size < CHUNK:  # doubling: 10 copies instead of 512
                view[size : 2 * size] = view[:size]
                size *= 2
            for start in range(offset, offset + length, CHUNK):
                _check(cancelled)
                self.write_alone(view[: min(CHUNK, offset + length - start)], start)

    def extents(self, offset: int, most: int) -> Iterator[tuple[int, int, bool]]:
        """Runs of data and of holes from byte `offset` on.

        Args:
            offset: First byte.
            most: How many runs at the most.

        Yields:
            First byte, the byte after the last, whether there is data.
        """
        fd, end = self.permit.fd, min(self._end, self.blocks * BLOCK)
        for _ in range(most):
            if offset >= end:
                return
            try:
                data = min(self._calls.seek_data(fd, offset), end)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                data = end
            if data > offset:
                yield offset, data, False
                offset = data
                continue
            hole = min(max(self._calls.seek_hole(fd, offset), offset + 1), end)
            yield offset, hole, True
            offset = hole

    # ------------------------------------------------------------------ failures

    def failure(self, error: OSError, *, writing: bool) -> Sense | None:
        """What an initiator is told of a failed system call; ask it under the permit.

        Args:
            error: What it raised.
            writing: Whether the command writes.

        Returns:
            The sense, or None for BUSY: nothing was done that a repetition would not mend.
        """
        flush = isinstance(error, FlushFailed)
        if isinstance(error, Contended) or (error.errno in _PASSING and not flush):
            return None
        self._log.error(error.errno, "%s: input or output failed: %s", self.path, error)
        short = isinstance(error, ShortImage)
        lost = not short and error.errno in _LOST and self.permit.lost()
        if lost and not flush:  # repeated, a flush would be GOOD: it is told that it failed
            # What was on its way may have been written or not.
            return OUTCOME_UNKNOWN if writing else None
        if error.errno in _NO_ROOM:
            return senses.SPACE_ALLOCATION_FAILED
        if error.errno in _PROTECTED:
            return senses.WRITE_PROTECTED
        if error.errno == errno.EINVAL and not flush:
            return INTERNAL_TARGET_FAILURE
        return senses.WRITE_ERROR if writing or flush else senses.READ_ERROR


def _moved(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def pieces(length: int) -> Iterator[tuple[int, int]]:
    """Cut `length` bytes into `CHUNK`s: offset and size of each."""
    for start in range(0, length, CHUNK):
        yield start, min(CHUNK, length - start)


def _check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled
