"""Clients at both doors of both hosts that send reservation commands as they come to mind."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from attrs import define, field

from tests.support.scsi import REGISTER, REGISTER_IGNORE, nexus
from tests.support.trail import by_chance
from tests.vm.cell import FREE, PATIENCE, Cell, guest_name
from tests.vm.history import (
    HELPER_PORT,
    ISCSI_PORT,
    Broken,
    Guest,
    HelperGuest,
    History,
    IscsiGuest,
    close_quietly,
)

_PAUSE = 0.2
"""Seconds between two commands: the hosts are emulated, and their processors shared."""
_AGAIN = 0.5
"""Seconds after which a client knocks again at a host that is away."""


@define(eq=False)
class Client(threading.Thread):
    """One client, a command at a time.

    Args:
        label: What it is called in the record.
        host: Number of the host that it talks to.
        connect: Opens its connection.
        history: Where it takes notes.
        seed: Of what comes to its mind.
    """

    label: str
    host: int
    connect: Callable[[], Guest]
    history: History
    seed: int
    failure: BaseException | None = field(default=None, init=False)
    _key: int = field(default=0, init=False)
    _ending: threading.Event = field(factory=threading.Event, init=False)
    _random: random.Random = field(init=False)

    def __attrs_post_init__(self) -> None:
        super().__init__(name=self.label, daemon=True)
        self._random = random.Random(self.seed)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        """Send until told to stop."""
        try:
            while not self._ending.is_set():
                self._visit()
        except BaseException as error:
            self.failure = error

    def _visit(self) -> None:
        guest: Guest | None = None
        try:
            guest = self.connect()
            while not self._ending.wait(_PAUSE):
                sent = by_chance(self._random, self._key)
                answer = self.history.send(self.label, self.host, guest, sent)
                if answer.good and sent.cdb[1] in (REGISTER, REGISTER_IGNORE) and sent.data_out:
                    self._key = int.from_bytes(sent.data_out[8:16], "big")
        except Broken:
            self._ending.wait(_AGAIN)
        finally:
            close_quietly(guest)

    def stop(self) -> None:
        """Finish the command that was sent, and no more."""
        self._ending.set()


def clients(cell: Cell, history: History, seed: int) -> list[Client]:
    """A client for each door of each host, for the logical unit that everybody may have."""
    made: list[Client] = []
    for number in range(len(cell.lab.nodes)):
        for make in (_at_helper, _at_target):
            label, connect = make(cell, number)
            made.append(Client(label, number, connect, history, seed + len(made)))
    return made


def _at_helper(cell: Cell, number: int) -> tuple[str, Callable[[], Guest]]:
    name = guest_name("helper", number)
    path = cell.daemons[number].helper("helper")
    return name, lambda: HelperGuest(path, nexus(name, HELPER_PORT), PATIENCE)


def _at_target(cell: Cell, number: int) -> tuple[str, Callable[[], Guest]]:
    name = f"iscsi{number}"

    def connect() -> Guest:
        session = cell.log_in(name, FREE, number)
        return IscsiGuest(session, cell.urls[FREE].lun, nexus(name, ISCSI_PORT))

    return name, connect


@contextmanager
def at_work(crowd: list[Client]) -> Iterator[None]:
    """The clients send while the context lasts; after it nothing of theirs is under way."""
    for client in crowd:
        client.start()
    try:
        yield
    finally:
        for client in crowd:
            client.stop()
        deadline = time.monotonic() + PATIENCE
        for client in crowd:
            client.join(max(0.0, deadline - time.monotonic()))
    for client in crowd:
        if client.failure is not None:
            raise client.failure
        assert not client.is_alive(), f"{client.label} still waits for an answer"
