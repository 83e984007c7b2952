"""Commands that only read, answered without waiting for anybody.

What a PERSISTENT RESERVE IN answers hangs on the state alone. So the answers to one state are
kept with it, and as long as its transaction is the newest and durable, they are right.
"""

from __future__ import annotations

from flockpr.core.machine import step
from flockpr.core.model import Nexus, UnitConfig
from flockpr.logical_unit.results import Result
from flockpr.spc.cdb import PersistentReserveIn, parse_command
from flockpr.spc.codes import Status
from flockpr.store.base import Snapshot

MAX_ANSWERS = 64
"""Answers that are kept: a command differs from another one by its allocation length too."""


class Glance:
    """The answers to one state. Called with the logical unit's lock held.

    Args:
        config: The limits of the logical unit.
    """

    def __init__(self, config: UnitConfig) -> None:
        self._config = config
        self._head: Snapshot | None = None
        self._answers: dict[bytes, Result] = {}
        self._settled: set[Nexus] = set()

    def settle(self, nexus: Nexus, head: Snapshot) -> None:
        """A nexus is stood for as this transaction wants it: it may be answered by a glance."""
        if head is not self._head:
            self._forget(head)
        self._settled.add(nexus)

    def forget(self, nexus: Nexus) -> None:
        """It left, or its byte range is no longer known to be ours."""
        self._settled.discard(nexus)

    def answer(self, nexus: Nexus, cdb: bytes, head: Snapshot) -> Result | None:
        """The answer to a command that reads and is GOOD; None for all others, and for a nexus
        whose byte range has to be seen to.

        Args:
            nexus: Who sends it; no attention is reported to it.
            cdb: The command.
            head: The newest transaction, durable.
        """
        if head is not self._head:
            self._forget(head)
        if nexus not in self._settled:
            return None
        found = self._answers.get(cdb)
        if found is None:
            found = self._decided(nexus, cdb, head)
            if found is not None and len(self._answers) < MAX_ANSWERS:
                self._answers[cdb] = found
        return found

    def known(self, nexus: Nexus, cdb: bytes, head: Snapshot) -> Result | None:
        """As `answer`, of what it has answered before: takes no time, however long the answer."""
        if head is not self._head or nexus not in self._settled:
            return None
        return self._answers.get(cdb)

    def _decided(self, nexus: Nexus, cdb: bytes, head: Snapshot) -> Result | None:
        command = parse_command(cdb, b"")
        if not isinstance(command, PersistentReserveIn):
            return None
        outcome = step(head.state, nexus, command, config=self._config, report_attentions=False)
        if outcome.state is not head.state or outcome.reply.status is not Status.GOOD:
            return None  # a refusal goes to the journal
        return Result.of(outcome.reply)

    def _forget(self, head: Snapshot) -> None:
        self._head = head
        self._answers.clear()
        self._settled.clear()
