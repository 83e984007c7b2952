"""Where a trace is replayed: a logical unit, an iSCSI target, or a device of this host."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, Self

import attrs

from flockpr.errors import ConfigError, FlockprError
from flockpr.spc.sense import UNIT_ATTENTION, parse_sense
from flockpr.spc.transport_id import InitiatorPort

if TYPE_CHECKING:
    from flockpr.iscsi.initiator import Account

HARMLESS = frozenset(
    (0x00, 0x03, 0x12, 0x16, 0x17, 0x1A, 0x25, 0x56, 0x57, 0x5A, 0x5E, 0x5F, 0x9E, 0xA0)
)
"""What is sent to a device or target without --all-commands: reservations, and what only asks."""
_SERVICE_ACTION_IN = 0x9E
_LENGTHS = {
    # Where the allocation length is: first byte, and the one after the last (SPC-4, SBC-3).
    0x03: (4, 5),
    0x12: (3, 5),
    0x1A: (4, 5),
    0x5A: (7, 9),
    0x5E: (7, 9),
    0xA0: (6, 10),
    _SERVICE_ACTION_IN: (10, 14),
}
_MOST = 1 << 20
_TRIES = 16
"""Unit attentions that a new session may find."""
_URL = re.compile(r"iscsi://(\[[^]/]+\]|[^/:\[\]@%]+)(?::(\d{1,5}))?/([^/]+)/(\d{1,5})")
TEST_UNIT_READY = bytes(6)


class Answer(Protocol):
    """What a command is answered with."""

    @property
    def status(self) -> int:
        """SCSI status byte."""

    @property
    def sense(self) -> bytes:
        """Sense data; empty without."""

    @property
    def data_in(self) -> bytes:
        """What was read."""


@attrs.frozen
class Answered:
    """An `Answer`."""

    status: int
    sense: bytes
    data_in: bytes


Send = Callable[[bytes, bytes, int], Answer]
"""Sends a CDB with its data, and says how much may be read at the most."""


def is_remote(against: str) -> bool:
    """Whether this is a target or a device, and no logical unit of the root."""
    return "/" in against


def expected_length(cdb: bytes, recorded: int) -> int:
    """Bytes that a command may read.

    Args:
        cdb: The command.
        recorded: Bytes of data that the trace has, for commands whose length is not known here.
    """
    if cdb[0] == 0x25:
        return 8
    first, end = _LENGTHS.get(cdb[0], (0, 0))
    length = int.from_bytes(cdb[first:end], "big") if end else recorded
    return min(length, _MOST)


class Remote:
    """A target or a device, with a session for each initiator of a trace.

    Use as a context manager. Unit attentions that a session finds at its beginning, of power or of
    its login, are taken out before the first command: a trace does not have them.

    Args:
        against: ``iscsi://HOST[:PORT]/TARGET/LUN``, or the path of a device.
        ports: The initiators.
        chap: File of secrets.
        timeout: Seconds that a login and each command may take.

    Raises:
        ConfigError: It cannot be told apart who sends what, or the address is none.
        FlockprError: It cannot be reached.
    """

    def __init__(
        self,
        against: str,
        ports: Iterable[InitiatorPort],
        chap: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._stack = contextlib.ExitStack()
        self._sends: dict[InitiatorPort, Send] = {}
        with contextlib.ExitStack() as opening:
            unique = list(dict.fromkeys(ports))
            for port, send in _open(against, unique, chap, timeout, opening):
                self._sends[port] = send
            for send in self._sends.values():
                _clear(send)
            self._stack = opening.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def send(self, port: InitiatorPort, cdb: bytes, data_out: bytes, recorded: int) -> Answer:
        """Send a command in the name of an initiator.

        Raises:
            FlockprError: There is no answer.
        """
        read = 0 if data_out else expected_length(cdb, recorded)
        return self._sends[port](cdb, data_out, read)


def _open(
    against: str,
    ports: Sequence[InitiatorPort],
    chap: str | None,
    timeout: float,
    stack: contextlib.ExitStack,
) -> Iterable[tuple[InitiatorPort, Send]]:
    if against.startswith("iscsi:"):
        return [(port, _session(against, port, chap, timeout, stack)) for port in ports]
    if len(ports) > 1:
        names = ", ".join(port.text for port in ports)
        raise ConfigError(
            f"{against}: a device is one initiator, and the trace has {names}",
            "replay one of them with --only NAME",
        )
    return [(port, _device(against, timeout, stack)) for port in ports]


def _session(
    against: str,
    port: InitiatorPort,
    chap: str | None,
    timeout: float,
    stack: contextlib.ExitStack,
) -> Send:
    from flockpr.iscsi.initiator import Initiator

    found = _URL.fullmatch(against)
    if found is None or int(found[2] or 3260) > 65535 or int(found[4]) > 0x3FFF:
        raise ConfigError(f"{against}: not of the form iscsi://HOST[:PORT]/TARGET/LUN")
    host, number, lun = found[1].strip("[]"), int(found[2] or 3260), int(found[4])
    account = None if chap is None else _account(chap, port.name)
    initiator = stack.enter_context(
        Initiator(
            host, number, found[3], port.name, isid=port.isid, account=account, timeout=timeout
        )
    )
    return lambda cdb, data, read: initiator.command(lun, cdb, data, read)


def _account(path: str, name: str) -> Account:
    from flockpr.daemon.chap_file import read_secrets
    from flockpr.iscsi.initiator import Account

    for one in read_secrets(path).initiators:
        if one.initiator in (None, name):
            return Account(one.user, one.secret)
    raise ConfigError(f"{path}: no secret for {name}")


def _device(path: str, timeout: float, stack: contextlib.ExitStack) -> Send:
    from flockpr.cli.replay_sg import command

    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FlockprError(f"{path}: {error.strerror}") from None
    stack.callback(os.close, descriptor)
    return lambda cdb, data, read: command(path, descriptor, cdb, data, read, timeout=timeout)


def _clear(send: Send) -> None:
    """Take out the unit attentions that a new session finds."""
    for _ in range(_TRIES):
        sense = parse_sense(send(TEST_UNIT_READY, b"", 0).sense)
        if sense is None or sense.key != UNIT_ATTENTION:
            return
