"""Guests that send random commands to daemons that die, and the record of what they saw."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

import attrs

from flockpr.core.model import LogicalUnitState, Nexus
from flockpr.errors import ProtocolViolation
from flockpr.spc.codes import Status
from tests.support.daemons import Answer, Daemon, Door, Guest, Sent, decide
from tests.support.linearizability import Operation
from tests.support.scsi import REGISTER, REGISTER_IGNORE
from tests.support.trail import ACTIONS, by_chance, tells_of

PERSISTENT_RESERVE_IN = 0x5E
UNKNOWN = (0x0B, 0x08, 0x01)
NOT_READY = 0x02
LINGER = 0.2
"""Seconds after a restart in which a command still counts as inside the fault window."""


@attrs.frozen
class Command:
    """One command and whose it is."""

    who: Nexus
    sent: Sent

    def __str__(self) -> str:
        action = self.sent.cdb[1]
        if reads(self):
            return f"{self.who.initiator_port} reads {action}"
        own, new = (int.from_bytes(self.sent.data_out[at : at + 8], "big") for at in (0, 8))
        return f"{self.who.initiator_port} {ACTIONS[action]} {own} {new} type {self.sent.cdb[2]}"


@attrs.frozen
class Recorded:
    """What one client saw of one command.

    Attributes:
        operation: The command and its times; its answer if that is known.
        answered: The answer as it came, None if the connection broke.
    """

    operation: Operation[Command, Answer]
    answered: Answer | None

    @property
    def refused(self) -> bool:
        """Nothing was done, says the answer: BUSY, or the storage failed."""
        answer = self.answered
        if answer is None:
            return False
        return answer.status in (Status.BUSY, Status.TASK_SET_FULL) or answer.code[0] == NOT_READY

    @property
    def acknowledged(self) -> bool:
        """The rules decided it, and its client knows how."""
        return self.operation.answer is not None and not self.refused


class Host:
    """A daemon that is killed and started again, and when that was.

    Args:
        daemon: Not started yet.
        network: It takes the root for a network file system.
    """

    def __init__(self, daemon: Daemon, *, network: bool = False) -> None:
        self.daemon = daemon
        self.windows: list[tuple[float, float]] = []
        self._network = network
        self._up = threading.Event()

    def start(self) -> None:
        """Start the daemon, and let the clients connect."""
        self.daemon.start()
        if self._network:
            with self.daemon.guest() as guest:
                self.daemon.believe_in_a_network(guest)
        self._up.set()

    def crash(self) -> None:
        """SIGKILL, and a new start."""
        begun = time.monotonic()
        self._up.clear()
        self.daemon.kill()
        self.start()
        time.sleep(LINGER)
        self.windows.append((begun, time.monotonic()))

    def connect(self, door: Door, stop: threading.Event) -> Guest | None:
        """Connect when the daemon runs; None when there is no more to do."""
        while not stop.is_set():
            if self._up.wait(0.1):
                try:
                    return self.daemon.guest(door)
                except (ProtocolViolation, OSError):
                    time.sleep(0.01)
        return None


class Client(threading.Thread):
    """One client: a command at a time, for as long as it is not told to stop.

    Attributes:
        records: What it saw.
        failure: What ended it before its time.
    """

    def __init__(self, name: str, host: Host, door: Door, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.records: list[Recorded] = []
        self.failure: BaseException | None = None
        self.stop = threading.Event()
        self._host = host
        self._door = door
        self._random = random.Random(seed)
        self._key = 0

    def run(self) -> None:
        """Send until told to stop."""
        try:
            while (guest := self._host.connect(self._door, self.stop)) is not None:
                with guest:
                    self._talk(guest)
        except BaseException as error:
            self.failure = error

    def _talk(self, guest: Guest) -> None:
        while not self.stop.is_set():
            command = Command(guest.who, by_chance(self._random, self._key))
            invoked = time.monotonic()
            try:
                answer = guest.send(command.sent)
            except (ProtocolViolation, ConnectionError):
                # The sockets of a killed process close when its last thread is gone: what it
                # has not done by now it never will.
                ended = time.monotonic()
                operation = Operation[Command, Answer](self.name, command, invoked, ended)
                self.records.append(Recorded(operation, None))
                return
            ended = time.monotonic()
            if answer.code == UNKNOWN:
                operation = Operation[Command, Answer](self.name, command, invoked)
            else:
                operation = Operation(self.name, command, invoked, ended, answer)
            self.records.append(Recorded(operation, answer))
            if answer.status == Status.GOOD and command.sent.cdb[1] in (REGISTER, REGISTER_IGNORE):
                self._key = int.from_bytes(command.sent.data_out[8:16], "big")


def play(
    hosts: Sequence[Host],
    clients: Sequence[Client],
    *,
    commands: int,
    crashes: int,
    choose: random.Random,
) -> list[Recorded]:
    """Let clients and daemons run until there were this many crashes, and this many commands
    beside those that were sent while a daemon was away.

    Returns:
        All records, the order of each client kept.
    """
    for host in hosts:
        host.start()
    for client in clients:
        client.start()
    share = commands // (crashes + 1)
    try:
        for left in range(crashes, -1, -1):
            begun = _count(clients)
            while _count(clients) < begun + share:
                for client in clients:
                    if client.failure is not None:
                        raise client.failure
                time.sleep(0.01)
            if left:
                time.sleep(choose.random() * 0.02)
                choose.choice(hosts).crash()
    finally:
        for client in clients:
            client.stop.set()
        for client in clients:
            client.join()
    return [record for client in clients for record in client.records]


def _count(clients: Sequence[Client]) -> int:
    return sum(len(client.records) for client in clients)


def outside_windows(records: Sequence[Recorded], hosts: Sequence[Host]) -> list[Recorded]:
    """The commands that no crash overlapped."""
    windows = [window for host in hosts for window in host.windows]

    def clear(record: Recorded) -> bool:
        begun, ended = record.operation.invoked, record.operation.ended
        return all(
            begun > window[1] or (ended is not None and ended < window[0]) for window in windows
        )

    return [record for record in records if clear(record)]


def model(state: LogicalUnitState, command: Command) -> tuple[LogicalUnitState, Answer]:
    """The rules, as a specification for the checker."""
    return decide(state, command.who, command.sent)


def reads(command: Command) -> bool:
    """Whether it is a PERSISTENT RESERVE IN, which changes nothing in any state."""
    return command.sent.cdb[0] == PERSISTENT_RESERVE_IN


Followed = tuple[LogicalUnitState, int]


def following(
    trail: Sequence[dict[str, object]],
) -> Callable[[Followed, Command], tuple[Followed, Answer] | None]:
    """The rules and the audit trail together: a command that changes the state must be the next
    record, and one that changes nothing is none.
    """

    def apply(at: Followed, command: Command) -> tuple[Followed, Answer] | None:
        state, position = at
        after, answer = decide(state, command.who, command.sent)
        if after is state:
            return at, answer
        record: dict[str, object] = trail[position] if position < len(trail) else {"door": None}
        told = command.who, command.sent, (state, after), answer.status
        if record["door"] != "helper" or not tells_of(record, *told):
            return None
        return (after, position + 1), answer

    return apply
