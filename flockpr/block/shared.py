"""What a disk asks the logical unit: reservations, unit attentions, resets.

Nothing of this happens inside the permit: a narrowing command, which the unit may be working on,
waits for all who are inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal

from flockpr.block import senses
from flockpr.block.administration import no_medium
from flockpr.block.device import Device, Task
from flockpr.block.nexus import DiskNexus
from flockpr.block.reply import BUSY, ScsiReply, good
from flockpr.block.rows import Row
from flockpr.block.served import Refresher, Served
from flockpr.core.machine import step
from flockpr.core.model import Nexus, UnitConfig
from flockpr.logical_unit import Result
from flockpr.spc.cdb import parse_command
from flockpr.spc.codes import Attention, Opcode, Status
from flockpr.spc.sense import Sense

_UNKNOWN: Final = Sense(0x0B, 0x08, 0x01)


class Shared:
    """The shared state of one LUN as its disk's commands see it. Thread-safe.

    Args:
        served: The copy of the state.
        refresher: Keeps it young.
        device: The disk without reservations.
        target_ports: Relative target port identifiers of the logical unit.
    """

    def __init__(
        self, served: Served, refresher: Refresher, device: Device, target_ports: tuple[int, ...]
    ) -> None:
        self._served = served
        self._refresher = refresher
        self._device = device
        self._config = UnitConfig(target_ports=target_ports)

    def reopened(self, deadline: float) -> None:
        """The permit was taken again: what was read before it is worth nothing.

        Raises:
            StoreError: The state cannot be read now.
        """
        self._served.drop()
        self._served.read(deadline)

    def ask(self, task: Task) -> ScsiReply | None:
        """Ask the logical unit about a command that the served state does not admit.

        Returns:
            The reply, or None: nothing stands in its way by now, begin anew.
        """
        self._refresher.ensure()
        session = task.nexus
        local = session.take(reset_only=True)
        if local is not None:
            return self._device.check(local)
        before = self._served.current() or self._served.read(task.deadline)
        result = self._served.submit(
            session.nexus, task.cdb, b"", task.deadline, late=session.missed
        )
        if result is None or result.status is not Status.GOOD:
            return BUSY if result is None else self.result(result)
        local = session.take()
        if local is not None:
            return self._device.check(local)
        after = self._served.read(task.deadline)
        if after.attention_epoch == before.attention_epoch:
            session.shown(after.attention_epoch)
        return None

    def result(self, result: Result) -> ScsiReply:
        """A result of the logical unit as a reply."""
        return ScsiReply(
            result.status,
            self._device.formatted(result.sense),
            (result.data_in,) if result.data_in else (),
            aborted=result.aborted,
        )

    def request_sense(self, task: Task) -> ScsiReply:
        """GOOD always; the sense is data, in the format that DESC asks for (SPC-4 6.39)."""
        session, cdb = task.nexus, task.cdb
        length = cdb[4]
        local = session.take() if length else None
        if local is None:
            result = self._served.submit(
                session.nexus,
                cdb,
                b"",
                task.deadline,
                late=lambda late: session.missed(late, late.data_in),
            )
            if result is not None and result.status is Status.GOOD and result.data_in:
                return self.result(result)
            if result is not None and result.status is not Status.GOOD:
                return self.result(result)
        sense = local or no_medium(self._device) or senses.NO_SENSE
        return good(sense.descriptor() if cdb[1] & 1 else sense.fixed(), length)

    def reservation(self, row: Row, task: Task) -> ScsiReply:
        """PERSISTENT RESERVE IN and OUT, RESERVE, RELEASE."""
        session = task.nexus
        data = bytes(task.data)
        local = session.take(reset_only=not session.waiting or self._conflicts(task, data))
        if local is not None:
            return self._device.check(local)
        result = self._served.submit(
            session.nexus, task.cdb, data, task.deadline, late=session.missed
        )
        if result is None:
            return self.result(Result.check(_UNKNOWN))
        if row.opcode != Opcode.PERSISTENT_RESERVE_IN and result.status is Status.GOOD:
            # What it changed is seen by every session of this process with its next command.
            self._served.drop()
        return self.result(result)

    def _conflicts(self, task: Task, data: bytes) -> bool:
        """Whether a command of reservations would conflict: that outranks 2A/xx attentions,
        of which the logical unit does not know the local ones (SAM-5 5.3.3).
        """
        state = self._served.current() or self._served.read(task.deadline)
        command = parse_command(task.cdb, data)
        outcome = step(
            state, task.nexus.nexus, command, config=self._config, report_attentions=False
        )
        return outcome.reply.status is Status.RESERVATION_CONFLICT

    def reset(
        self,
        kind: Literal["lun", "target"],
        sessions: Callable[[], Iterable[DiskNexus]],
        deadline: float,
    ) -> None:
        """Commit a reset, undo what it undoes, and tell every session; see `Disk.reset`.

        Raises:
            StoreError: It was not done.
        """
        self._served.reset(deadline)
        state = self._served.read(deadline)
        self._device.reset()
        sense = senses.LOGICAL_UNIT_RESET if kind == "lun" else senses.BUS_RESET
        told: set[Nexus] = set()
        for session in sessions():
            shared = Attention.LOGICAL_UNIT_RESET in state.pending.get(session.nexus, ())
            # The shared one is reported once to a nexus, whichever of its sessions asks first.
            if not shared or session.nexus in told:
                session.tell(sense)
            told.add(session.nexus)
