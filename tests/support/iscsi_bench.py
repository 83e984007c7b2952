"""The target's protocol without sockets: bytes go in, PDUs and events come out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flockpr.iscsi import events
from flockpr.iscsi.command import Command
from flockpr.iscsi.commandset import AtOnce
from flockpr.iscsi.events import Event
from flockpr.iscsi.login import Admission
from flockpr.iscsi.session import Phase, ProtocolConfig, TargetConnection, never_at_once
from tests.support.iscsi_wire import COMMAND, DATA_OUT, LOGIN, Pdu, PduReader, encode_text, pdu

INITIATOR = "iqn.2026-01.org.example:initiator"
TARGET = "iqn.2026-01.org.example:target"
ISID = 0x800012345678
NAMES = {"InitiatorName": INITIATOR, "TargetName": TARGET, "SessionType": "Normal"}

SECURITY_TO_OPERATIONAL = 0x81
OPERATIONAL_TO_FULL = 0x87
FIRST_CMD_SN = 100


def counting(length: int) -> bytes:
    """Bytes that are easy to predict, for what should be unpredictable."""
    return bytes(range(1, length + 1))


def login_pdu(
    keys: Mapping[str, str | None] | Iterable[tuple[str, str]],
    flags: int = OPERATIONAL_TO_FULL,
    *,
    cmd_sn: int = FIRST_CMD_SN,
    tsih: int = 0,
    cid: int = 1,
    itt: int = 1,
) -> Pdu:
    """A Login Request."""
    request = pdu(
        LOGIN, flags, immediate=True, data=encode_text(keys), cmd_sn=cmd_sn, itt=itt, ttt=cid << 16
    )
    request.header[8:16] = (ISID << 16 | tsih).to_bytes(8, "big")
    return request


class Bench:
    """A target's connection with a door that says yes.

    Args:
        config: Of the protocol.
        admission: What the door answers to a login.
        allocate: Where Data-Out goes; by default a new buffer of all that the initiator has.
        at_once: What is known of commands that read; by default nothing.
        piece: Bytes are fed in pieces of this many; 0 feeds all at once.

    Attributes:
        connection: What is under test.
        events: All that have come and were not taken, questions of the login among them.
        buffers: What the default allocate gave, by initiator task tag.
    """

    def __init__(
        self,
        config: ProtocolConfig | None = None,
        *,
        admission: Admission | None = None,
        allocate: Callable[[Command], memoryview | None] | None = None,
        at_once: AtOnce = never_at_once,
        piece: int = 0,
    ) -> None:
        self.connection = TargetConnection(
            config or ProtocolConfig(),
            allocate=allocate or self._allocate,
            at_once=at_once,
            random=counting,
        )
        self.events: list[Event] = []
        self.buffers: dict[int, bytearray] = {}
        self.admission = admission or Admission(portal_group_tag=2)
        self.reader = PduReader()
        self.piece = piece
        self.header_digest = self.data_digest = False

    def _allocate(self, command: Command) -> memoryview:
        buffer = self.buffers[command.itt] = bytearray(command.write_length)
        return memoryview(buffer)

    def feed_bytes(self, data: bytes, cuts: Sequence[int] = ()) -> list[Event]:
        """Receives bytes as a socket would; gives the events of this time only."""
        before = len(self.events)
        rest = memoryview(data)
        cuts = list(cuts)
        while rest and not self.connection.closing:
            size = cuts.pop(0) if cuts else self.piece
            part = rest[: size or len(rest)]
            rest = rest[len(part) :]
            while len(part) and not self.connection.closing:
                taken = 0
                for buffer in self.connection.get_buffers():
                    count = min(len(buffer), len(part) - taken)
                    buffer[:count] = part[taken : taken + count]
                    taken += count
                part = part[taken:]
                self._handle(self.connection.received(taken))
        return self.events[before:]

    def feed(self, *pdus: Pdu) -> list[Event]:
        """Receives PDUs, with digests when they were agreed on."""
        digests = {"header_digest": self.header_digest, "data_digest": self.data_digest}
        return self.feed_bytes(b"".join(one.encode(**digests) for one in pdus))

    def _handle(self, found: list[Event]) -> None:
        for event in found:
            self.events.append(event)
            if isinstance(event, events.LoginStarted):
                self._handle(self.connection.admit(self.admission))
            elif isinstance(event, events.SessionRequested):
                # The digests begin after the last Login Response.
                self._handle(self.connection.establish(7))

    def sent(self) -> list[Pdu]:
        """The PDUs that were sent since the last time."""
        before = self.connection.parameters
        self.reader.feed(b"".join(bytes(part) for part in self.connection.data_to_send()))
        found = []
        for one in self.reader:
            found.append(one)
            if one.opcode == 0x23 and one.flags & 0x83 == 0x83:
                self.reader.header_digest = self.header_digest = before.header_digest
                self.reader.data_digest = self.data_digest = before.data_digest
        assert not self.reader.pending
        return found

    def answer(self) -> Pdu:
        """The one PDU that was sent."""
        (one,) = self.sent()
        return one

    def login(self, **keys: str | None) -> Bench:
        """Logs in to a normal session with these keys; takes all events and PDUs."""
        defaults: dict[str, str | None] = {
            "InitialR2T": "No",
            "ImmediateData": "Yes",
            "MaxRecvDataSegmentLength": "65536",
        }
        self.feed(login_pdu({**NAMES, **defaults, **keys}))
        self.sent()
        assert self.connection.phase is Phase.FULL_FEATURE, self.connection.violation
        self.events.clear()
        return self

    def take(self, kind: type) -> Any:
        """The one event that has come, which must be of this kind."""
        (event,) = self.events
        self.events.clear()
        assert isinstance(event, kind), event
        return event


def command(
    itt: int,
    *,
    cmd_sn: int = FIRST_CMD_SN,
    read: int | None = None,
    write: int | None = None,
    data: bytes = b"",
    final: bool = True,
    cdb: bytes = b"",
    immediate: bool = False,
    ahs: bytes = b"",
    lun: int = 0,
) -> Pdu:
    """A SCSI Command with simple task attribute."""
    flags = 0x80 * final | 0x40 * (read is not None) | 0x20 * (write is not None) | 1
    made = pdu(
        COMMAND, flags, immediate=immediate, lun=lun, data=data, ahs=ahs, itt=itt, cmd_sn=cmd_sn
    )
    made.expected_length = write if write is not None else read or 0
    made.header[32:48] = cdb.ljust(16, b"\0")
    return made


def data_out(
    itt: int,
    data: bytes,
    *,
    ttt: int = 0xFFFFFFFF,
    data_sn: int = 0,
    offset: int = 0,
    final: bool = True,
) -> Pdu:
    """A Data-Out."""
    return pdu(
        DATA_OUT,
        0x80 * final,
        data=data,
        itt=itt,
        ttt=ttt,
        data_sn=data_sn,
        buffer_offset=offset,
    )
