"""Task management functions (RFC 7143 11.5, SAM-5 clause 7).

A function is answered when it has taken effect: nothing that it ends is being executed any more.
If that takes too long, because a file system hangs, it is answered "rejected", and the initiator
goes on to the next harder one; it is told "complete" of nothing that may still write.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from flockpr.iscsi.commands import CommandTask
from flockpr.iscsi.door import Door
from flockpr.iscsi.events import TaskManagement
from flockpr.iscsi.execution import Execution
from flockpr.iscsi.sessions import Session
from flockpr.iscsi.targets import Lun
from flockpr.iscsi.tasks import Drain, Ending, Task
from flockpr.iscsi.wire import Wire

log = logging.getLogger(__name__)

ABORT_TASK = 1
ABORT_TASK_SET = 2
CLEAR_TASK_SET = 4
LOGICAL_UNIT_RESET = 5
TARGET_WARM_RESET = 6
TARGET_COLD_RESET = 7

COMPLETE = 0
TASK_DOES_NOT_EXIST = 1
LUN_DOES_NOT_EXIST = 2
NOT_SUPPORTED = 5
REJECTED = 255

LAST_WORDS = 0.1
"""Seconds from the end of a cold reset until the connections are closed: its answer leaves."""
MOST_AT_ONCE = 16
"""Functions of one connection that may be under way; each may need a thread."""


class Management:
    """The task management functions of one connection.

    Args:
        door: What connections share.
        wire: Where the answers go.
        execution: The connection's commands.
        number: For the names of threads.
    """

    def __init__(self, door: Door, wire: Wire, execution: Execution, number: int) -> None:
        self._door = door
        self._wire = wire
        self._execution = execution
        self._number = number
        self._lock = threading.Lock()
        self._under_way = 0
        self.session: Session | None = None

    def request(self, event: TaskManagement) -> None:
        """Carry out a function; returns at once."""
        with self._lock:
            refused = self._under_way >= MOST_AT_ONCE
            self._under_way += not refused
        if refused or self.session is None:
            self._wire.say(self._wire.protocol.task_management_response, event, REJECTED)
            return
        match event.function:
            case int(function) if function == ABORT_TASK:
                self._abort_task(event)
            case int(function) if function in (TARGET_WARM_RESET, TARGET_COLD_RESET):
                self._reset_target(event, self.session)
            case _:
                self._of_one_lun(event)

    def _answer(self, event: TaskManagement, response: int) -> None:
        with self._lock:
            self._under_way -= 1
        self._wire.say(self._wire.protocol.task_management_response, event, response)

    # ------------------------------------------------------------------ tasks

    def _abort_task(self, event: TaskManagement) -> None:
        task = None if event.referenced is None else event.referenced.state
        if not isinstance(task, CommandTask):
            self._answer(event, COMPLETE if event.unreceived else TASK_DOES_NOT_EXIST)
            return
        self._end(
            event,
            (task.channel.lun,),
            lambda each: Ending.SILENT if each is task else None,
        )

    def _of_one_lun(self, event: TaskManagement) -> None:
        channel = self._execution.channels.get(event.lun)
        if channel is None:
            self._answer(event, LUN_DOES_NOT_EXIST)
        elif event.function in (ABORT_TASK_SET, CLEAR_TASK_SET):
            # With TST=001b the task set that is cleared is that of the nexus (SAM-5 7.5).
            self._end(event, (channel.lun,), self._own)
        elif event.function == LOGICAL_UNIT_RESET:
            lun = channel.lun
            self._end(event, (lun,), self._everybodys, lambda: lun.disk.reset("lun"))
        else:
            self._answer(event, NOT_SUPPORTED)

    def _own(self, task: Task) -> Ending | None:
        return Ending.SILENT if task.owner is self._execution else None

    def _everybodys(self, task: Task) -> Ending:
        """Others are told, because TAS is one (SAM-5 5.6.3); this nexus knows."""
        return self._own(task) or Ending.TASK_ABORTED

    def _end(
        self,
        event: TaskManagement,
        luns: Iterable[Lun],
        ending_of: Callable[[Task], Ending | None],
        then: Callable[[], bool] | None = None,
    ) -> None:
        """End tasks, wait for those in execution, do what is to follow, and answer."""

        def ended(all_of_them: bool) -> None:
            if not all_of_them:
                log.warning(
                    "%s: task management function %d, LUN %d: commands are still in execution",
                    self.session,
                    event.function,
                    event.lun,
                )
                self._answer(event, REJECTED)
            elif then is None:
                self._answer(event, COMPLETE)
            else:
                self._in_thread(event, then)

        drain = Drain(ended)
        for lun in luns:
            lun.tasks.abort(ending_of, drain)
        drain.one_ended()
        if not drain.over:
            self._door.housekeeper.later(self._door.limits.task_management, drain.expire)

    def _in_thread(self, event: TaskManagement, work: Callable[[], bool]) -> None:
        """A reset is committed to the shared state, which may take its time."""

        def run() -> None:
            done = False
            try:
                done = work()
            except Exception:
                log.exception("%s: a reset failed, LUN %d", self.session, event.lun)
            self._answer(event, COMPLETE if done else REJECTED)

        thread = threading.Thread(target=run, name=f"iscsi-{self._number}-reset", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._answer(event, REJECTED)

    # ------------------------------------------------------------------ resets of the target

    def _reset_target(self, event: TaskManagement, session: Session) -> None:
        """Reset every LUN that this initiator sees: what it may not touch stays as it is."""
        luns = [channel.lun for channel in self._execution.channels.values()]

        def reset() -> bool:
            done = [lun.disk.reset("target") for lun in luns]  # every one, whatever the others say
            return all(done)

        def cold() -> bool:
            done = reset()
            # Every session with the target ends (RFC 7143 11.5.1), after the answer. Those that
            # there are now: who logs in until then comes after the reset.
            ended = self._sharing(session)
            self._door.housekeeper.later(LAST_WORDS, lambda: self._drop(ended))
            return done

        self._end(
            event,
            luns,
            self._everybodys,
            cold if event.function == TARGET_COLD_RESET else reset,
        )

    def _sharing(self, session: Session) -> list[Session]:
        """The sessions with the same target that see a LUN of this one."""
        mine = set(session.attachments)
        return [
            other
            for other in self._door.registry.all
            if other.target.name == session.target.name and mine & set(other.attachments)
        ]

    def _drop(self, sessions: Iterable[Session]) -> None:
        for each in sessions:
            log.info("%s ends: target cold reset", each)
            each.carrier.dropped()
            self._door.registry.end(each)
