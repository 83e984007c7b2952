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

from flockpr.block import ScsiReply, answer_without_unit, report_luns
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
from flockpr.iscsi.housekeeper import Timer
from flockpr.iscsi.output import Loan, Release
from flockpr.iscsi.sessions import Attachment, Session
from flockpr.iscsi.tasks import Drain, Ending, Phase, Task
from flockpr.iscsi.wire import Wire
from flockpr.spc.codes import Status
from flockpr.spc.sense import INTERNAL_TARGET_FAILURE

log = logging.getLogger(__name__)

_PATIENCE = 10
"""How many times longer a command may wait for its data while that of others comes."""
_SLOW = 1.0
"""Seconds after which a command no longer counts in its session's window."""
_PREEMPTED = 5.0
"""Seconds that PREEMPT AND ABORT waits for the commands that it ends. It took the gate, so reads
and writes that were let in before it was committed have ended by then; what is waited for are
answers, and what the new state has let in since."""


class Execution:
    """The SCSI commands of one connection.

    Args:
        door: What connections share.
        going_on: Carries out events that come of memory that was found.

    Attributes:
        channels: The LUNs of the session, by number; replaced when they change.
        tasks: What is in the task sets, in order of arrival. Changed without a lock, so to be
            copied before it is gone through.
    """

    def __init__(self, door: Door, going_on: Callable[[Sequence[events.Event]], None]) -> None:
        self._door = door
        self._going_on = going_on
        self._wire: Wire | None = None
        self.channels: dict[int, Channel] = {}
        self.tasks: dict[CommandTask, None] = {}
        self._without_memory: dict[CommandTask, None] = {}
        self._granted: dict[CommandTask, None] = {}
        self._crowd = max(1, door.limits.window // 2)
        self._draining = False
        self._widening = False
        self._watching = False
        self._timers: dict[str, Timer] = {}

    @property
    def wire(self) -> Wire:
        """Given by `attach_wire`, because its protocol object asks for memory here."""
        assert self._wire is not None
        return self._wire

    def attach_wire(self, wire: Wire) -> None:
        """What the answers go through."""
        self._wire = wire

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
        task = CommandTask(
            owner=self,
            order=command.attribute,
            command=command,
            channel=channel,
            line=channel.line,
            transfer=channel.lun.disk.transfer(command.cdb),
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
            if len(self.tasks) >= self._crowd and not self._widening:
                self._widening = True
                self._later(_SLOW, self._widen)
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
        if not self._watching:
            self._watching = True
            self._later(self._door.limits.stalled / 4, self._watch)
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
        if not task.channel.lun.tasks.ready(task):
            self._too_many(task)
            self._over(task)

    # ------------------------------------------------------------------ execution, answer

    def execute(self, task: CommandTask) -> None:
        """Execute a command and answer it; in a thread of its LUN."""
        command = task.command
        reply = self._result(task)
        self._release_grant(task)
        ending = task.ending  # whoever ends it from here on waits for this answer
        if ending is Ending.SILENT:
            self.wire.say(self.wire.protocol.forget, command)
            self._taken(task, reply)
        elif ending is Ending.TASK_ABORTED and reply.status is not Status.GOOD:
            reply.release()
            self._respond(command, ScsiReply(Status.TASK_ABORTED), task)
        else:
            self._respond(command, reply, task)
        self._over(task)

    def _result(self, task: CommandTask) -> ScsiReply:
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
            self._returned(task)

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
        self._returned(task)

    def _returned(self, task: CommandTask | None) -> None:
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

    # ------------------------------------------------------------------ the window

    def _widen(self) -> None:
        """Commands that take long do not count in the window; called by the housekeeper.

        CmdSN is one sequence for all LUNs of a session: commands that wait for one that hangs
        would use up the window (RFC 7143 4.2.2.1) and keep away those for the others. How many
        a LUN takes is bounded by its task set.
        """
        limits = self._door.limits
        now = time.monotonic()
        with self.wire.lock:
            if self.wire.closed:
                return
            slow = sum(
                now - task.since > _SLOW and task.phase is not Phase.GATHERING
                for task in list(self.tasks)
            )
            again = len(self.tasks) >= self._crowd
            self._widening = again
            window = limits.window + min(slow, limits.queue_each)
            wider = window > self.wire.protocol.window
            self.wire.protocol.window = window
        if wider:
            self.wire.say(self.wire.protocol.nop_in)  # it carries MaxCmdSN
        if again:
            self._later(_SLOW, self._widen)

    def _watch(self) -> None:
        """Drop a client that was asked for data and sends none; called by the housekeeper.

        What it was given memory for is memory that others wait for.
        """
        stalled = self._door.limits.stalled
        now = time.monotonic()
        with self.wire.lock:
            if self.wire.closed:
                return
            waiting = [
                task
                for task in list(self.tasks)
                if task.phase is Phase.GATHERING and not task.command.complete
            ]
            progress = False
            for task in waiting:
                filled = task.command.filled
                if filled != task.arrived or task.grant is None:
                    task.arrived, task.looked = filled, now
                    progress = True
            oldest = min((task.looked for task in waiting), default=now)
            # With progress elsewhere a command may wait its turn behind others for long.
            patience = _PATIENCE * stalled if progress else stalled
            self._watching = bool(waiting)
        if now - oldest >= patience:
            who = self.wire.output.who
            log.warning("%s: dropped: sends nothing of the data that it was asked for", who)
            self.wire.abandon()
        elif waiting:
            self._later(stalled / 4, self._watch)

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._timers[call.__name__] = self._door.housekeeper.later(seconds, call)

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
            timers = list(self._timers.values())
        for task in unused:
            self._release_grant(task)
        for timer in timers:
            # Until it is due a timer keeps all of the connection in memory, and clients that come
            # and go can make thousands in that time.
            self._door.housekeeper.cancel(timer)
