"""What happens to the commands of one connection that take long, or whose data does not come."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from flockpr.iscsi.commands import CommandTask
from flockpr.iscsi.door import Door
from flockpr.iscsi.housekeeper import Timer
from flockpr.iscsi.tasks import Phase
from flockpr.iscsi.wire import Wire

log = logging.getLogger(__name__)

_PATIENCE = 10
"""How many times longer a command may wait for its data while that of others comes."""
_SLOW = 1.0
"""Seconds after which a command no longer counts in its session's window."""


class Late:
    """Looks for them now and then, while there may be some.

    Args:
        door: What connections share.
        tasks: Those of the connection; copied before it is gone through.

    Attributes:
        wire: What is to be told, or broken; set before the first command.
    """

    def __init__(self, door: Door, tasks: Mapping[CommandTask, None]) -> None:
        self.wire: Wire
        self._door = door
        self._tasks = tasks
        self._crowd = max(1, door.limits.window // 2)
        self._widening = False
        self._watching = False
        self._timers: dict[str, Timer] = {}

    def arrived(self) -> None:
        """There is one command more."""
        if len(self._tasks) >= self._crowd and not self._widening:
            self._widening = True
            self._later(_SLOW, self._widen)

    def waits_for_data(self) -> None:
        """A command's data has not come yet."""
        if not self._watching:
            self._watching = True
            self._later(self._door.limits.stalled / 4, self._watch)

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
                for task in list(self._tasks)
            )
            again = len(self._tasks) >= self._crowd
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
                for task in list(self._tasks)
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

    def close(self) -> None:
        """The connection is closed.

        Until it is due a timer keeps all of the connection in memory, and clients that come and
        go can make thousands in that time.
        """
        with self.wire.lock:
            timers = list(self._timers.values())
        for timer in timers:
            self._door.housekeeper.cancel(timer)
