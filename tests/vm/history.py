"""The record of reservation commands at both doors of both hosts, and whether it can be true."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import attrs

from flockpr.core.machine import step
from flockpr.core.model import LogicalUnitState, Nexus, UnitConfig
from flockpr.errors import ProtocolViolation
from flockpr.prhelper.client import HelperClient
from flockpr.spc.cdb import parse_command
from flockpr.spc.codes import Status
from tests.support.daemons import Sent
from tests.support.iscsi_client import ConnectionLost, Initiator, LoginRefused, Rejected
from tests.support.linearizability import Operation, check
from tests.support.traffic_recorder import PERSISTENT_RESERVE_IN
from tests.support.trail import ACTIONS, tells_of

_TRAILED = frozenset(ACTIONS.values())
_CONFIG = UnitConfig(target_ports=(1, 2))
_ILLEGAL_REQUEST, _UNIT_ATTENTION = 5, 6
HELPER_PORT, ISCSI_PORT = 1, 2
"""Relative target port identifiers of the doors."""

Broken = (OSError, ProtocolViolation, Rejected, LoginRefused)
"""What a client sees when a daemon or a host dies, or does not answer."""


@attrs.frozen
class Answer:
    """What both doors tell alike.

    Attributes:
        status: SCSI status.
        code: Sense key, ASC and ASCQ; zeros without sense data.
        data: What was read.
    """

    status: int
    code: tuple[int, int, int] = (0, 0, 0)
    data: bytes = b""

    @property
    def good(self) -> bool:
        """GOOD."""
        return self.status == Status.GOOD

    @property
    def decided(self) -> bool:
        """The rules have decided the command, and this is what they came to."""
        if self.status == Status.CHECK_CONDITION:
            return self.code[0] == _ILLEGAL_REQUEST
        return self.status in (Status.GOOD, Status.RESERVATION_CONFLICT)

    @property
    def attention(self) -> bool:
        """A unit attention in place of the command, which was not carried out."""
        return self.status == Status.CHECK_CONDITION and self.code[0] == _UNIT_ATTENTION

    @property
    def refused(self) -> bool:
        """Nothing was done, and it may be sent again: BUSY, or NOT READY."""
        not_ready = self.status == Status.CHECK_CONDITION and self.code[0] == 2
        return not_ready or self.status in (Status.BUSY, Status.TASK_SET_FULL)


@attrs.frozen
class Command:
    """One command and whose it is.

    Attributes:
        certain: Its answer is known. Otherwise it counts only if it changed something.
    """

    who: Nexus
    sent: Sent
    certain: bool = True

    @property
    def reads(self) -> bool:
        """Whether it is PERSISTENT RESERVE IN."""
        return self.sent.cdb[0] == PERSISTENT_RESERVE_IN

    def __str__(self) -> str:
        action, who = self.sent.cdb[1], self.who.initiator_port.name.rpartition(":")[2]
        if self.reads:
            return f"{who} reads {action}"
        own, new = (int.from_bytes(self.sent.data_out[at : at + 8], "big") for at in (0, 8))
        return f"{who} {ACTIONS[action]} {own:x} {new:x} type {self.sent.cdb[2]}"


@attrs.frozen
class Record:
    """What a client saw of one command.

    Attributes:
        client: Its name.
        host: Number of the host that it was sent to.
        ended: When its answer came, or the connection broke.
        answer: None if none came.
    """

    client: str
    host: int
    command: Command
    invoked: float
    ended: float
    answer: Answer | None

    @property
    def acknowledged(self) -> bool:
        """The client knows what came of it."""
        return self.answer is not None and (self.answer.decided or self.answer.attention)


class Guest(Protocol):
    """A connection to a door."""

    who: Nexus

    def send(self, sent: Sent) -> Answer:
        """Send one command and wait for its answer; raises one of `Broken`."""

    def close(self) -> None:
        """Go away."""


class HelperGuest:
    """A connection to the helper door.

    Args:
        path: Of the socket.
        who: The nexus that the daemon makes of it.
        timeout: Seconds to wait for an answer.
    """

    def __init__(self, path: Path, who: Nexus, timeout: float) -> None:
        self.who = who
        self._client = HelperClient(str(path), timeout=timeout)
        self._device = os.open(os.devnull, os.O_RDWR)

    def send(self, sent: Sent) -> Answer:
        """Send one command."""
        reply = self._client.execute(self._device, sent.cdb, sent.data_out)
        sense = reply.sense
        return Answer(reply.status, (sense[2] & 15, sense[12], sense[13]), reply.data_in)

    def close(self) -> None:
        """Go away."""
        self._client.close()
        os.close(self._device)


class IscsiGuest:
    """A session of the target door.

    Args:
        initiator: Logged in.
        lun: Logical unit number.
        who: The nexus that it is.
    """

    def __init__(self, initiator: Initiator, lun: int, who: Nexus) -> None:
        self.who = who
        self.initiator = initiator
        self._lun = lun

    def send(self, sent: Sent) -> Answer:
        """Send one command."""
        reads = 8192 if sent.cdb[0] == PERSISTENT_RESERVE_IN else 0
        reply = self.initiator.command(self._lun, sent.cdb, sent.data_out, reads)
        if reply.response:
            raise ConnectionLost(f"iSCSI response {reply.response}")
        return Answer(reply.status, reply.code or (0, 0, 0), reply.data)

    def close(self) -> None:
        """Break off."""
        self.initiator.close()


class History:
    """The commands to one logical unit since a moment at which its state was known; thread-safe.

    Args:
        name: Of the logical unit.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.records: list[Record] = []
        self._lock = threading.Lock()
        self._state = LogicalUnitState()
        self._told = 0

    def send(self, client: str, host: int, guest: Guest, sent: Sent) -> Answer:
        """Send a command, and take note of what comes of it.

        Raises:
            Broken: No answer came.
        """
        invoked = time.monotonic()
        answer: Answer | None = None
        try:
            answer = guest.send(sent)
        finally:
            command = Command(guest.who, sent)
            self._add(Record(client, host, command, invoked, time.monotonic(), answer))
        return answer

    def _add(self, record: Record) -> None:
        with self._lock:
            self.records.append(record)

    def since(self, moment: float) -> list[Record]:
        """The commands that were sent after a moment, and have ended."""
        with self._lock:
            return [record for record in self.records if record.invoked >= moment]

    def settle(self, trail: Sequence[dict[str, object]]) -> int:
        """Check all that was sent since the last time; nothing may be under way.

        Args:
            trail: The audit trail of the logical unit, from its beginning.

        Returns:
            The number of commands.

        Raises:
            NotLinearizable: No order of the commands explains their answers and the trail.
        """
        with self._lock:
            records, self.records = self.records, []
        end = time.monotonic()
        new = [one for one in trail[self._told :] if one["action"] in _TRAILED]
        operations = [_operation(record, end) for record in records if _counts(record)]
        begin: Followed = (self._state, 0)
        verdict = check(
            operations,
            begin,
            following(new),
            reads=lambda command: command.reads,
            accept=lambda at: at[1] == len(new),
        )
        ((self._state, _),) = verdict.states
        self._told = len(trail)
        return len(records)


def _counts(record: Record) -> bool:
    """Whether it can have had an effect, or says something of the state."""
    answer = record.answer
    if answer is not None and (answer.refused or answer.attention):
        return False
    return record.acknowledged or not record.command.reads


def _operation(record: Record, end: float) -> Operation[Command, Answer]:
    """An answer that tells nothing leaves open whether, and until when, it takes effect."""
    if record.acknowledged:
        return Operation(record.client, record.command, record.invoked, record.ended, record.answer)
    command = attrs.evolve(record.command, certain=False)
    return Operation(record.client, command, record.invoked, end)


Followed = tuple[LogicalUnitState, int]


def following(
    trail: Sequence[dict[str, object]],
) -> Callable[[Followed, Command], tuple[Followed, Answer] | None]:
    """The rules and the audit trail together, as a specification for the checker: a command that
    changes the state must be the next record, and one that changes nothing is none.
    """

    def apply(at: Followed, command: Command) -> tuple[Followed, Answer] | None:
        state, position = at
        after, answer = decide(state, command)
        if after is state:
            return (at, answer) if command.certain else None
        told = command.who, command.sent, (state, after), answer.status
        if position == len(trail) or not tells_of(trail[position], *told):
            return None
        return (_bare(after), position + 1), answer

    return apply


def decide(state: LogicalUnitState, command: Command) -> tuple[LogicalUnitState, Answer]:
    """What the rules make of a command for which no unit attention waits."""
    sent, iscsi = command.sent, command.who.target_port == ISCSI_PORT
    parsed = parse_command(sent.cdb, sent.data_out, long_parameter_length=iscsi)
    outcome = step(state, command.who, parsed, config=_CONFIG, report_attentions=False)
    reply = outcome.reply
    sense = reply.sense.fixed() if reply.sense is not None else bytes(14)
    code = sense[2] & 15, sense[12], sense[13]
    return outcome.state, Answer(int(reply.status), code, reply.data)


def _bare(state: LogicalUnitState) -> LogicalUnitState:
    """Unit attentions left out: a door clears them by itself, and no answer here shows them."""
    return attrs.evolve(state, attentions=(), attention_epoch=0, overflowed=False)


class Timed(Protocol):
    """A command, as far as it matters when it was under way and whether it was answered."""

    @property
    def invoked(self) -> float: ...

    @property
    def ended(self) -> float: ...

    @property
    def acknowledged(self) -> bool: ...


def acknowledged_share(
    records: Iterable[Timed], windows: Sequence[tuple[float, float]]
) -> tuple[int, int]:
    """How many commands no window overlapped, and how many of these were acknowledged."""
    outside = [
        record
        for record in records
        if all(record.invoked > end or record.ended < begin for begin, end in windows)
    ]
    return len(outside), sum(record.acknowledged for record in outside)


def close_quietly(guest: Guest | None) -> None:
    """Close a connection that may be broken."""
    if guest is not None:
        with contextlib.suppress(*Broken):
            guest.close()
