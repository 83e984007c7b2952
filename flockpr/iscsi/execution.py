"""From a SCSI command's arrival on one connection to its answer.

A command enters the task set of its LUN when it arrives. It is queued there when its Data-Out is
complete and its Data-In, if it has any, finds room among what the client has not taken yet; a
thread of the LUN executes it and sends the answer. Whatever of this has to wait, holds up no
other LUN of the connection and no other connection.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from flockpr.block import Direction, ScsiReply, answer_without_unit, report_luns
from flockpr.block.pool import MAX_BUFFER
from flockpr.core.model import Nexus
from flockpr.iscsi import events
from flockpr.iscsi.command import Command
from flockpr.iscsi.commands import (
    NO_DATA,
    Channel,
    CommandTask,
    forget_changes,
    is_report_luns,
    length_for_residuals,
)
from flockpr.iscsi.door import Door
from flockpr.iscsi.inline import Done, Inline, Sent
from flockpr.iscsi.late import Late
from flockpr.iscsi.output import Loan, Release
from flockpr.iscsi.session import TargetConnection
from flockpr.iscsi.sessions import Attachment, Session
from flockpr.iscsi.tasks import Drain, Ending, Phase, Task
from flockpr.iscsi.wire import Wire
from flockpr.spc.codes import Opcode, Status
from flockpr.spc.sense import INTERNAL_TARGET_FAILURE

log = logging.getLogger(__name__)

_IN = Direction.IN
_PR_IN = int(Opcode.PERSISTENT_RESERVE_IN)
_GOOD, _TASK_ABORTED = Status.GOOD, Status.TASK_ABORTED

_LITTLE = 8192
"""Bytes of Data-In that are not worth counting."""
_PREEMPTED = 5.0
"""Seconds that PREEMPT AND ABORT waits for the commands that it ends. It took the gate, so reads
and writes that were let in before it was committed have ended by then; what is waited for are
answers, and what the new state has let in since."""


class Execution:
    """The SCSI commands of one connection.

    Args:
        door: What connections share.
        going_on: Carries out events that come of memory that was found.
        client: Descriptor of the connection.
        start: Starts another thread that reads from the connection.
        readable: Whether something waits to be read.

    Attributes:
        inline: The commands that the thread that reads executes itself.
        channels: The LUNs of the session, by number; replaced when they change.
        tasks: What is in the task sets, in order of arrival. Changed without a lock, so to be
            copied before it is gone through.
    """

    def __init__(
        self,
        door: Door,
        going_on: Callable[[Sequence[events.Event]], None],
        *,
        client: int,
        start: Callable[[], None],
        readable: Callable[[], bool],
    ) -> None:
        self._door = door
        self._going_on = going_on
        self.inline = Inline(
            door.relief,
            client=client,
            execute=self.execute,
            answer=self._answer,
            hand_over=self._hand_over,
            start=start,
            readable=readable,
        )
        self._wire: Wire | None = None
        self.channels: dict[int, Channel] = {}
        self.tasks: dict[CommandTask, None] = {}
        self._without_memory: dict[CommandTask, None] = {}
        self._granted: dict[CommandTask, None] = {}
        self._draining = False
        self._late = Late(door, self.tasks)

    @property
    def wire(self) -> Wire:
        """Given by `attach_wire`, because its protocol object asks for memory here."""
        assert self._wire is not None
        return self._wire

    def attach_wire(self, wire: Wire) -> None:
        """What the answers go through."""
        self._wire = self._late.wire = wire

    def begin(self, session: Session) -> None:
        """The session is open: its LUNs are these, and later perhaps others."""
        session.observe(self._use)

    def _use(self, attachments: Mapping[int, Attachment]) -> None:
        """These are the LUNs now. A command whose LUN is gone goes its way all the same."""
        channels: dict[int, Channel] = {}
        for number, attachment in attachments.items():
            channel = self.channels.get(number)
            if channel is None or channel.attachment is not attachment:
                share = self._door.memory.share(attachment.lun.memory)
                channel = Channel(attachment, share)
            channels[number] = channel
        self.channels = channels  # in one step, because others go through it

    # ------------------------------------------------------------------ Data-Out

    def allocate(self, command: Command) -> memoryview | None:
        """Memory for Data-Out; asked for under the lock when a header was read."""
        task = self._task(command)
        return NO_DATA if task is None else self._grant(task)

    def _task(self, command: Command) -> CommandTask | None:
        """The task of a command, or None where the target answers itself."""
        channel = self.channels.get(command.lun)
        if channel is None or is_report_luns(command.cdb):
            return None
        attachment = channel.attachment
        transfer = attachment.lun.disk.transfer(command.cdb)
        task = CommandTask(
            owner=self,
            order=command.attribute,
            command=command,
            channel=channel,
            line=attachment.line,
            transfer=transfer,
            wanted=min(command.read_length, transfer.length) if transfer.direction is _IN else 0,
            since=time.monotonic(),
        )
        command.state = task
        return task

    def _grant(self, task: CommandTask) -> memoryview | None:
        size = min(task.solicited, MAX_BUFFER)
        if not size:
            return NO_DATA
        task.grant = self._door.memory.take(task.channel.share, size, self._memory_came_free)
        if task.grant is None:
            return None
        self._granted[task] = None
        return task.grant.view

    def _memory_came_free(self) -> None:
        """Try again for those that wait; called by the housekeeper."""
        found: list[events.Event] = []
        with self.wire.lock:
            if self.wire.closed:
                return
            for task in list(self._without_memory):
                if task.phase is Phase.OVER:
                    del self._without_memory[task]
                    continue
                view = self._grant(task)
                if view is None:
                    continue  # the next one may be for another LUN
                del self._without_memory[task]
                found.extend(self.wire.protocol.supply(task.command, view))
            done = self.wire.send()
        for release in done:
            release()
        self._going_on(found)

    def _release_grant(self, task: CommandTask) -> None:
        if task.grant is not None:
            self._granted.pop(task, None)
            task.grant.release()

    # ------------------------------------------------------------------ arrival

    def at_once(self, number: int, cdb: bytes) -> bytes:
        """What a PERSISTENT RESERVE IN reads, where that is known; asked for under the lock when a
        header was read. Empty: it goes the way of all commands.
        """
        if cdb[0] != _PR_IN or self.wire.output.pending:
            return b""
        channel = self.channels.get(number)
        if channel is None:
            return b""
        attachment = channel.attachment
        if not attachment.lun.tasks.passes(attachment.line):
            return b""
        data = attachment.lun.disk.read_at_once(attachment.disk_nexus, cdb)
        # More is counted, so that a client takes it before it gets more.
        return data if len(data) <= _LITTLE else b""

    def arrived(self, command: Command) -> None:
        """A command came, in the order that CmdSN gives."""
        task: CommandTask | None = command.state or self._task(command)
        if task is None:
            self._respond(command, self._without_task(command.cdb))
            return
        self.tasks[task] = None  # before somebody can end it
        if not task.channel.lun.tasks.enter(task):
            self.tasks.pop(task, None)
            self._too_many(task)
        else:
            self._late.arrived()
            if command.complete:
                self._proceed(task)
            else:
                self._wait_for_data(task)

    def _without_task(self, cdb: bytes) -> ScsiReply:
        """Answer REPORT LUNS, or a command to a LUN that there is not."""
        if not is_report_luns(cdb):
            return answer_without_unit(cdb, self.channels)
        # Before the LUNs are looked at: of one that comes in between, the attention must stay.
        forget_changes(cdb, self.channels.values())
        return report_luns(cdb, self.channels)

    def _wait_for_data(self, task: CommandTask) -> None:
        self._late.waits_for_data()
        if task.grant is None and task.solicited:
            # Only from here on: its data must not be complete before it has arrived. And some
            # memory may have come free meanwhile.
            self._without_memory[task] = None
            self._memory_came_free()

    def _too_many(self, task: CommandTask) -> None:
        if self._respond(task.command, ScsiReply(Status.TASK_SET_FULL), task):
            self._give_up(task)

    def data_complete(self, event: events.DataComplete) -> None:
        """All the Data-Out of a command that came before is there."""
        task: CommandTask | None = event.command.state
        if task is not None:
            self._proceed(task)

    def data_refused(self, event: events.DataRefused) -> None:
        """The Data-Out of a command was wrong; it has been answered."""
        task: CommandTask | None = event.command.state
        if task is not None:
            self._give_up(task)
            task.channel.lun.tasks.finish(task)
            self._over(task)

    def released(self, event: events.Released) -> None:
        """The Data-Out of a command that is gone goes nowhere any more."""
        task: CommandTask | None = event.command.state
        if task is not None:
            self._give_up(task)

    def _give_up(self, task: CommandTask) -> None:
        self._release_grant(task)
        with self.wire.lock:
            self._without_memory.pop(task, None)

    def _proceed(self, task: CommandTask) -> None:
        """All of its data is there: let it be executed, unless too much waits to be taken."""
        if not task.wanted or task.channel.reserve(task, self._door.limits.output):
            self._queue(task)

    def _queue(self, task: CommandTask) -> None:
        if not self.inline.take(task):
            self._hand_over(task)

    def _hand_over(self, task: CommandTask) -> None:
        task.reply = None  # when its turn comes there may be another one
        if not task.channel.lun.tasks.ready(task):
            self._too_many(task)
            self._over(task)

    # ------------------------------------------------------------------ execution, answer

    def execute(self, task: CommandTask) -> None:
        """Execute a command and answer it; in a thread of its LUN, or in the one that reads."""
        reply = self._result(task)
        if not self.inline.keep(task, reply):
            self._answer(((task, reply),))

    def _answer(self, done: Sequence[Done]) -> None:
        """Answer commands that were executed: what they have to say leaves together."""
        for task, _ in done:
            if task.grant is not None:
                self._release_grant(task)
        sent = Sent(done, self.returned)
        wire = self.wire
        left: Sequence[Release] = sent.releases
        try:
            with wire.lock:
                if not wire.closed:
                    for task, reply in done:
                        self._say(wire.protocol, task, reply)
                    left = wire.send(*sent.releases)
        finally:  # whoever waits for the end of a command must not wait for ever
            for release in left:
                release()
            for task, _ in done:
                task.channel.lun.tasks.finish(task)
                self._over(task)

    @staticmethod
    def _say(protocol: TargetConnection, task: CommandTask, reply: ScsiReply) -> None:
        """One answer; whoever ends the command from here on waits for it to have been given."""
        command, ending = task.command, task.ending
        if ending is None or (ending is Ending.TASK_ABORTED and reply.status is _GOOD):
            length = length_for_residuals(task.transfer)
            protocol.respond(command, reply.status, reply.sense, reply.data, length=length)
        elif ending is Ending.TASK_ABORTED:
            protocol.respond(command, _TASK_ABORTED)
        else:
            protocol.forget(command)

    def _result(self, task: CommandTask) -> ScsiReply:
        if task.reply is not None:
            return task.reply
        command = task.command
        attachment = task.channel.attachment
        try:
            reply = attachment.lun.disk.execute(
                attachment.disk_nexus,
                command.cdb,
                task.data_out,
                expected_in=command.read_length,
                expected_out=command.write_length if command.write else None,
                cancelled=task.cancelled,
            )
            if reply.aborted:
                self._preempted(task, reply.aborted)
            return reply
        except Exception:
            # An initiator that is never answered waits for a minute and then resets the LUN.
            log.exception("%s: internal error", attachment.lun.identity.name)
            return ScsiReply(Status.CHECK_CONDITION, INTERNAL_TARGET_FAILURE.fixed())

    def _preempted(self, by: CommandTask, nexuses: frozenset[Nexus]) -> None:
        """PREEMPT AND ABORT: end the commands of those that were preempted (SPC-4 5.13.11.2)."""
        ended = threading.Event()
        drain = Drain(lambda _all: ended.set())

        def ending_of(task: Task) -> Ending | None:
            if task is by or not isinstance(task, CommandTask):
                return None
            preempted = task.channel.attachment.nexus in nexuses
            return Ending.TASK_ABORTED if preempted else None

        by.channel.lun.tasks.abort(ending_of, drain)
        drain.one_ended()
        if not ended.wait(_PREEMPTED):
            name = by.channel.lun.identity.name
            log.warning("%s: commands that PREEMPT AND ABORT ended are still under way", name)

    def _respond(self, command: Command, reply: ScsiReply, task: CommandTask | None = None) -> bool:
        """Answer a command, and take its data back when that has been sent.

        Returns:
            Whether its memory for Data-Out is free; if not, the event `Released` says when.
        """

        def taken() -> None:
            self.returned(task)

        memory: Release = Loan(reply.release) if reply.data else reply.release
        done: Sequence[Release] = (memory, taken)
        free = True
        with self.wire.lock:
            if not self.wire.closed:
                length = None if task is None else length_for_residuals(task.transfer)
                free = self.wire.protocol.respond(
                    command, int(reply.status), reply.sense, reply.data, length=length
                )
                done = self.wire.send(memory, taken)
        for release in done:
            release()
        return free

    def _taken(self, task: CommandTask | None, reply: ScsiReply) -> None:
        """An answer never will be sent."""
        reply.release()
        self.returned(task)

    def returned(self, task: CommandTask | None) -> None:
        """What a command read has been taken. Not before: what is copied takes memory, too."""
        if task is not None and task.reserved:
            for other in task.channel.returned(task, self._door.limits.output):
                self._queue(other)

    def ended(self, task: CommandTask, ending: Ending) -> None:
        """A task of this connection was ended before it was executed."""
        done: Sequence[Release] = ()
        task.channel.hold_no_more(task)
        with self.wire.lock:
            self._without_memory.pop(task, None)
            free = True
            if not self.wire.closed:
                if ending is Ending.SILENT:
                    free = self.wire.protocol.forget(task.command)
                else:
                    # Data that is on its way still comes, and goes where it was to go.
                    free = self.wire.protocol.respond(task.command, int(Status.TASK_ABORTED))
                done = self.wire.send()
        for release in done:
            release()
        if free:
            self._release_grant(task)
        self._taken(task, ScsiReply())
        self._over(task)

    def _over(self, task: CommandTask) -> None:
        self.tasks.pop(task, None)
        if self._draining and not self.tasks:
            with self.wire.lock:
                self.wire.changed.notify_all()

    # ------------------------------------------------------------------ the end

    def drop_incomplete(self) -> None:
        """Nothing is read any more: what still waits for Data-Out never gets it.

        From here on the wire's `changed` is notified when no task is left.
        """
        self._draining = True
        for channel in self.channels.values():
            channel.lun.tasks.abort(
                lambda task: (
                    Ending.SILENT if task.owner is self and task.phase is Phase.GATHERING else None
                )
            )

    def close(self) -> None:
        """The connection is closed: memory that nothing executes with is free."""
        with self.wire.lock:
            unused = [task for task in list(self._granted) if task.phase is not Phase.RUNNING]
            self._without_memory.clear()
        for task in unused:
            self._release_grant(task)
        self._late.close()
