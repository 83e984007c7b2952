"""One LUN as a target process serves it: admission, execution, sessions.

The rule of admission (the gate's half is in `flockpr.gate`)::

    permit.enter()                     # nobody can narrow access until leave()
      served state admits?  -> the I/O, on the permit's descriptor
    permit.leave()
      else, and only now: ask the logical unit, which re-reads the state, reports and clears
      unit attentions durably, or answers RESERVATION CONFLICT; when it says GOOD, read the
      state again and begin anew.

Never is the logical unit waited for inside the permit: a narrowing command, which the unit
may be working on, waits for all who are inside.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Literal

import attrs

from flockpr.block import senses
from flockpr.block.absent import report_luns
from flockpr.block.administration import no_medium
from flockpr.block.attached import Attached
from flockpr.block.calls import ImageCalls
from flockpr.block.device import Device, Task
from flockpr.block.footing import Footing
from flockpr.block.inquiry import Face, inquiry
from flockpr.block.launches import Launch, Launches
from flockpr.block.medium import Cancelled, FlushFailed, Medium, PermitLike
from flockpr.block.nexus import DiskNexus
from flockpr.block.pool import MAX_BUFFER, Pool
from flockpr.block.quiet import QuietLog
from flockpr.block.reply import BUSY, TASK_ABORTED, ScsiReply, Transfer
from flockpr.block.ring import Ring
from flockpr.block.rows import Route, Row
from flockpr.block.served import Refresher, Served, UnitsLike
from flockpr.block.shared import Shared
from flockpr.block.table import find, transfer_of
from flockpr.core.access import AccessClass
from flockpr.core.model import Nexus
from flockpr.errors import ConfigError, StoreError
from flockpr.filesystems import Guard, Promise
from flockpr.gate import Permit
from flockpr.logical_unit import Result, failure
from flockpr.spc.sense import INTERNAL_TARGET_FAILURE, LUN_NOT_SUPPORTED, Sense
from flockpr.store.identity import LunIdentity
from flockpr.store.images import BLOCK

log = logging.getLogger(__name__)

_MEDIUM = Route.MEDIUM

TRIES: Final = 8
"""How often a command that others overtake is begun again before it is BUSY."""
BUFFER_PATIENCE: Final = 1.0
"""Seconds that a READ waits for memory that others hold, before it is BUSY: a worker that waits
longer is one fewer for those who need none.
"""

CLAIM_PATIENCE: Final = 2.0
"""Seconds that the targets of two hosts that begin at once get to find out which one serves."""


def never() -> bool:
    """Say that nobody cancels it."""
    return False


class Disk:
    """One LUN, opened by a target process. Thread-safe.

    Args:
        root: The root directory.
        identity: What its `lun.json` says; it names an image.
        units: The logical units of the root.
        door: Name of the door, for the record.
        read_only: Refuse every write with 07/27/00.
        removable: The medium can be ejected (of this process's sessions).
        physical_block_size: 512 or 4096, as READ CAPACITY(16) tells it.
        pool: Memory for READ data, if several disks share it.
        timeout: Seconds within which every command is answered, but for the I/O itself.
        calls: System calls on the image.
        permit: Makes the permit; a test's may be another one.
        guard: What is promised on the file system, and whether it still holds; None: a test's.
        claim: Leave this host's mark, and keep other hosts' targets away where `guard` demands.
        patience: Seconds to wait for another host's target that is only looking.

    Raises:
        ConfigError: The LUN has no image, or an argument cannot be.
        ServedElsewhere: Another host's target serves the LUN, and that one or this one has to
            be alone.
        StoreError: The image cannot be used, or a QEMU uses it.
    """

    def __init__(
        self,
        root: str,
        identity: LunIdentity,
        units: UnitsLike,
        *,
        door: str = "iscsi",
        read_only: bool = False,
        removable: bool = False,
        physical_block_size: int = 4096,
        pool: Pool | None = None,
        timeout: float = 10.0,
        calls: ImageCalls | None = None,
        permit: Callable[[Callable[[float], None], Callable[[int], None]], PermitLike]
        | None = None,
        guard: Guard | None = None,
        claim: bool = True,
        patience: float = CLAIM_PATIENCE,
    ) -> None:
        if identity.image is None:
            raise ConfigError(f"the LUN {identity.name} has no image to serve")
        if physical_block_size not in (512, 4096):
            raise ConfigError(f"{physical_block_size} is no physical block size: 512 or 4096")
        self.identity = identity
        self.block_size = BLOCK
        self._timeout = timeout
        self._log = QuietLog(log)
        self._pool = pool or Pool()
        exponent = (physical_block_size // BLOCK).bit_length() - 1
        self._face = Face(identity, removable, exponent)
        calls = calls or ImageCalls()
        path = os.path.join(root, identity.image)
        self._medium = Medium(path, calls, self._grown)
        self._device = Device(self._face, self._medium, read_only=read_only)
        self._served = Served(units, identity.name, door)
        self._launches = Launches(self._device, self._served, self._pool, self._failed)
        self._refresher = Refresher(self._served, self._medium.look_again, identity.name)
        self._lock = threading.Lock()
        self._shared = Shared(self._served, self._refresher, self._device, identity.target_ports)
        self._attached = Attached(units, identity.name, door)
        self._device.on_change = self._attached.tell
        self._closed = False
        self._calls = calls
        self._footing = Footing(path, guard, calls)
        make = permit or functools.partial(_permit, root, identity, calls)
        self._permit = self._medium.permit = make(self._shared.reopened, self._on_descriptor)
        self._open(os.path.join(root, identity.name) if claim else None, patience)

    def _open(self, claimed: str | None, patience: float) -> None:
        footing = self._footing
        try:
            alone = claimed is not None and footing.claim(claimed, patience)
            self._permit.open()
            if claimed is not None and footing.alone and not alone:
                # Its locks turned out to be none worth the name, and that was allowed.
                footing.release()
                footing.claim(claimed, patience)
            if not self._medium.blocks:
                raise ConfigError(f"{self._medium.path} has not a single block")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the image, and let other hosts serve the LUN; commands fail from now on."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for session in self._attached.close():
            self.detach(session)
        # Not before: another host's target would read and write beside those who are inside.
        self._permit.close(self._footing.release)

    @property
    def closed(self) -> bool:
        """Whether it serves nobody any more."""
        return self._closed

    def deleted(self) -> bool:
        """Whether the LUN is known to be deleted; one that is merely missing is not."""
        return self._footing.deleted()

    @property
    def promise(self) -> Promise | None:
        """What is promised on its file system; None for a test's disk."""
        return self._footing.promise

    def look_at_promise(self) -> None:
        """See whether what was promised at the start still holds (see `Footing.look`)."""
        self._footing.look(self._permit)

    def _on_descriptor(self, fd: int) -> None:
        """The image was opened: is it where it was, and does QEMU stay away?"""
        self._footing.opened(fd)
        self._medium.opened(fd)

    @property
    def blocks(self) -> int:
        """Capacity in blocks."""
        return self._medium.blocks

    # ------------------------------------------------------------------ sessions

    def attach(self, nexus: Nexus, *, target_name: str = "") -> DiskNexus:
        """A session begins to use the LUN; returns at once.

        Args:
            nexus: Its I_T nexus; several sessions may have the same.
            target_name: iSCSI name of the target that it logged in to.
        """
        face = attrs.evolve(self._face, target_name=target_name, target_port=nexus.target_port)
        session = DiskNexus(nexus, face)
        if self._attached.add(session):
            self._medium.stability.begin(session)
            self._permit.attend()
            self._refresher.attend()
        return session

    def detach(self, session: DiskNexus) -> None:
        """A session has ended; more than once is no error. The last one of a nexus is its loss."""
        if self._attached.remove(session):
            self._medium.stability.end(session)
            self._device.prevent(session, False)
            self._refresher.rest()
            self._permit.rest()

    def _grown(self) -> None:
        self._attached.tell(senses.CAPACITY_CHANGED, None)

    # ------------------------------------------------------------------ commands

    def transfer(self, cdb: bytes) -> Transfer:
        """What a CDB itself moves; any bytes."""
        return transfer_of(cdb)

    def execute(
        self,
        session: DiskNexus,
        cdb: bytes,
        data_out: memoryview | bytes = b"",
        *,
        expected_in: int = 0,  # noqa: ARG002 - for whoever wants to read less than is asked for
        expected_out: int | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> ScsiReply:
        """Carry out one command; never raises.

        Args:
            session: Who sends it.
            cdb: Its CDB; any bytes.
            data_out: What has come of its data.
            expected_in: Bytes that the transport can take.
            expected_out: Bytes that the transport was to bring; None if it did not say.
            cancelled: Asked now and then; True ends the command with TASK ABORTED.
        """
        try:
            if self._left(session):
                return TASK_ABORTED
            row = find(cdb)
            if isinstance(row, Sense):
                return self._device.check(row)
            refusal = row.refusal(cdb)
            if refusal is not None:
                return self._device.check(refusal)
            data = data_out if isinstance(data_out, memoryview) else memoryview(data_out)
            deadline = time.monotonic() + self._timeout
            task = Task(
                session,
                cdb,
                data,
                expected_out=expected_out,
                cancelled=cancelled,
                deadline=deadline,
            )
            if row.route is _MEDIUM:
                return self._on_medium(row, task)
            return self._elsewhere(row, task)
        except StoreError as error:
            self._log.error(str(error), "%s: %s", self.identity.name, error)
            return self._shared.result(failure(error))
        except Exception:
            log.exception("%s: internal error", self.identity.name)
            return self._device.check(INTERNAL_TARGET_FAILURE)

    def ring(self, room: int) -> Ring[Any] | None:
        """For reads and writes of this disk that the kernel carries out meanwhile, so many at the
        most; None where each has to be waited for.

        Only on file systems of one host. A process that is killed with such calls under way ends
        when they do, which on a network is when the file server answers, however long that takes.
        """
        return self._calls.ring(room) if self._footing.local and self._permit.direct else None

    @property
    def crowded(self) -> bool:
        """Whether so many reads and writes are launched that another one had better wait."""
        return self._launches.crowded

    def launch(
        self,
        session: DiskNexus,
        cdb: bytes,
        data_out: memoryview,
        *,
        cancelled: Callable[[], bool] = never,
    ) -> Launch | None:
        """Admit a read or write that the kernel is to carry out; never waits, never raises.

        Args:
            session: Who sends it.
            cdb: Its CDB; any bytes.
            data_out: What has come of its data; not to be changed before `land`.
            cancelled: Whether the transport no longer wants it.

        Returns:
            What `land` is to be called with when the kernel has done it. None: nothing was done,
            `execute` has the answer.
        """
        try:
            row = find(cdb)
            if isinstance(row, Sense) or row.span is None or row.refusal(cdb) is not None:
                return None
            if self._footing.withheld is not None or cancelled() or self._left(session):
                return None
            return self._launches.begin(row, session, cdb, data_out)
        except Exception:
            log.exception("%s: internal error", self.identity.name)
            return None

    def land(self, launch: Launch, result: int) -> ScsiReply:
        """Answer a command that was launched; never raises.

        Args:
            launch: It.
            result: The bytes that the kernel moved, or minus an errno.
        """
        try:
            return self._launches.end(launch, result)
        except Exception:
            log.exception("%s: internal error", self.identity.name)
            return self._device.check(INTERNAL_TARGET_FAILURE)

    def glance(self, session: DiskNexus, cdb: bytes) -> ScsiReply | None:
        """Answer a command that reads reservations by a look at the newest transaction.

        Args:
            session: Who sends it.
            cdb: Its CDB; any bytes.

        Returns:
            What `execute` would reply; None where that takes more, or there is something else to
            be told: use `execute`.
        """
        try:
            result = self._glance(session, cdb, looks=True)
        except Exception:
            log.exception("%s: internal error", self.identity.name)
            return None
        return None if result is None else self._shared.result(result)

    def read_at_once(self, session: DiskNexus, cdb: bytes) -> bytes:
        """The data of a command that reads reservations and is GOOD, as `glance` has given it
        before, where no file system has to be asked: never waits for anything nor takes long, so
        locks may be held.

        Args:
            session: Who sends it.
            cdb: Its CDB; any bytes.

        Returns:
            The data; empty where that takes more: use `glance`, or `execute`.
        """
        try:
            result = self._glance(session, cdb, looks=False)
        except Exception:  # noqa: BLE001, `glance` meets it as well, and may log
            return b""
        return b"" if result is None else result.data_in

    def _glance(self, session: DiskNexus, cdb: bytes, *, looks: bool) -> Result | None:
        row = find(cdb)
        if isinstance(row, Sense) or not row.reads_state or row.refusal(cdb) is not None:
            return None
        if self._left(session) or self._closed or session.waiting:
            return None
        return self._served.glance(session.nexus, cdb, looks=looks)

    def _left(self, session: DiskNexus) -> bool:
        """Whether a session was detached: another may have begun in its place, and nothing of
        the old one must land on what that one writes. Who detaches sees to it; this is the last
        line. A disk that is closed says so itself.
        """
        return not (session.attached or self._closed)

    def _on_medium(self, row: Row, task: Task) -> ScsiReply:
        if row.buffered and not self._take_buffer(row, task):
            return BUSY
        try:
            for _ in range(TRIES):
                if task.cancelled() or self._left(task.nexus):
                    return TASK_ABORTED
                if self._footing.withheld is not None or not self._permit.enter(task.deadline):
                    return self._kept_out()
                try:
                    state = self._served.current()
                    if state is not None and task.nexus.admitted(state, row.access, task.cdb):
                        return self._perform(row, task)
                finally:
                    self._permit.leave()
                reply = self._shared.ask(task)
                if reply is not None:
                    return reply
            return BUSY
        finally:
            if task.buffer is not None:
                task.buffer.release()

    def _take_buffer(self, row: Row, task: Task) -> bool:
        """Get memory before the permit: nothing is waited for inside it."""
        size = row.amount(task.cdb)
        if not 0 < size <= MAX_BUFFER:
            return True
        task.buffer = self._pool.acquire(size) or self._pool.acquire(size, BUFFER_PATIENCE)
        return task.buffer is not None

    def _perform(self, row: Row, task: Task) -> ScsiReply:
        device = self._device
        try:
            if row.medium and not device.loaded:
                return device.check(no_medium(device) or INTERNAL_TARGET_FAILURE)
            protected = device.protected() if row.writes else None
            if protected is not None:
                return device.check(protected)
            assert row.handler is not None
            answer = row.handler(device, task)
            return answer if isinstance(answer, ScsiReply) else device.check(answer)
        except Cancelled:
            return TASK_ABORTED
        except OSError as error:
            return self._failed(row, task.nexus, error)

    def _failed(self, row: Row, nexus: DiskNexus, error: OSError) -> ScsiReply:
        if isinstance(error, FlushFailed):
            self._medium.stability.told(nexus)
        reading = row.access in (AccessClass.READ, AccessClass.ALWAYS)
        sense = self._medium.failure(error, writing=not reading)
        return BUSY if sense is None else self._device.check(sense)

    def _kept_out(self) -> ScsiReply:
        if self._closed:
            return self._device.check(LUN_NOT_SUPPORTED)
        fault = self._footing.withheld or self._permit.fault
        if fault is None:
            return BUSY
        self._log.error(str(fault), "%s: %s", self.identity.name, fault)
        return self._shared.result(failure(fault))

    # ------------------------------------------------------------------ other routes

    def _elsewhere(self, row: Row, task: Task) -> ScsiReply:
        match row.route:
            case Route.INQUIRY:
                answer = inquiry(task.cdb, task.nexus.face)
                return answer if isinstance(answer, ScsiReply) else self._device.check(answer)
            case Route.REPORT_LUNS:
                return report_luns(task.cdb, (self.identity.lun,))
            case Route.REQUEST_SENSE:
                return self._shared.request_sense(task)
        return self._shared.reservation(row, task)

    # ------------------------------------------------------------------ resets

    def reset(self, kind: Literal["lun", "target"] = "lun") -> bool:
        """LOGICAL UNIT RESET, or this LUN's part of a target reset (SAM-5 6.3).

        Every attached nexus finds 29/03, or 29/02 after a target's reset when nobody but this
        process knows of it.

        Returns:
            False when it was not done in time, or the state could not be written.
        """
        deadline = time.monotonic() + self._timeout
        try:
            self._shared.reset(kind, self._attached.all, deadline)
        except StoreError as error:
            log.error("%s: reset: %s", self.identity.name, error)
            return False
        return True


def _permit(
    root: str,
    identity: LunIdentity,
    calls: ImageCalls,
    on_open: Callable[[float], None],
    on_descriptor: Callable[[int], None],
) -> PermitLike:
    assert identity.image is not None
    return Permit(
        root,
        identity.lun,
        identity.image,
        on_open=on_open,
        on_descriptor=on_descriptor,
        syscalls=calls,
    )
