"""One iSCSI connection of the target, which is also a whole session (MaxConnections is 1).

Theory of operation. Bytes go in, events come out; the owner answers events, bytes come out.
There is no clock, no thread and no socket here, so one stream of bytes always has the same
events, however it is cut. Four machines work together:

- `stream` finds the PDUs,
- `login` decides about Login Requests until the full feature phase,
- `fullphase` then puts requests into their order and gathers the data of commands,
- `replies` numbers, makes and queues all that leaves.

No byte of a peer raises. What breaks the rules is answered as RFC 7143 wants it (a login
status, Reject, CHECK CONDITION, silence), and where nothing of the stream can be trusted any
more the connection closes: error recovery level 0 has no other way to begin again.

The object has no lock. All calls but the receiving itself belong under one lock of the owner.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

import attrs

from flockpr.iscsi import chap, digests, events, keys
from flockpr.iscsi.command import Command
from flockpr.iscsi.commandset import Allocate, AtOnce
from flockpr.iscsi.events import Event
from flockpr.iscsi.fullphase import FullFeature
from flockpr.iscsi.login import Admission, Login, LoginOutcome, LoginReply, LoginStatus
from flockpr.iscsi.numbers import CommandWindow
from flockpr.iscsi.pdu import OPCODE_MASK, AsyncEvent, Opcode
from flockpr.iscsi.replies import Sender
from flockpr.iscsi.stream import PduStream

__all__ = ["Admission", "LoginStatus", "Phase", "ProtocolConfig", "TargetConnection"]

LOGIN_BUFFER: Final = 4096
"""Bytes: clients that only knock do not get more."""
BUFFER: Final = 65536
"""Bytes in the full feature phase: some hundred commands, or fifteen writes of 4 KiB."""
LOGIN_DATA: Final = 8192
"""Longest data segment during login (RFC 7143 13.12)."""


@attrs.frozen
class ProtocolConfig:
    """What the target wants of its sessions.

    Attributes:
        max_recv_data_segment_length: Longest data segment that it takes, bytes.
        max_burst_length: Longest solicited sequence, bytes.
        first_burst_length: Most unsolicited data of a command, bytes.
        max_outstanding_r2t: R2Ts of one command at a time.
        immediate_data: Data in the command PDU is welcome.
        initial_r2t: Unsolicited Data-Out is refused.
        header_digests: Acceptable ones, of `CRC32C` and `None`.
        data_digests: Likewise.
        window: Commands that a session may have outstanding.
        immediate_limit: Immediate requests beside them.
        initial_stat_sn: The first StatSN.
        chap_algorithms: Acceptable ones.
    """

    max_recv_data_segment_length: int = 262144
    max_burst_length: int = 1 << 20
    first_burst_length: int = 262144
    max_outstanding_r2t: int = 4
    immediate_data: bool = True
    initial_r2t: bool = False
    header_digests: tuple[str, ...] = ("CRC32C", "None")
    data_digests: tuple[str, ...] = ("CRC32C", "None")
    window: int = 64
    immediate_limit: int = 16
    initial_stat_sn: int = 1
    chap_algorithms: tuple[int, ...] = chap.DEFAULT_ALGORITHMS

    def offer(self) -> keys.Offer:
        """What of it is negotiated."""
        return keys.Offer(
            max_recv_data_segment_length=self.max_recv_data_segment_length,
            max_burst_length=self.max_burst_length,
            first_burst_length=self.first_burst_length,
            max_outstanding_r2t=self.max_outstanding_r2t,
            immediate_data=self.immediate_data,
            initial_r2t=self.initial_r2t,
            header_digests=self.header_digests,
            data_digests=self.data_digests,
        )


def never_at_once(_lun: int, _cdb: bytes) -> bytes:
    """Every command is an event."""
    return b""


class Phase(Enum):
    """Where a connection is."""

    LOGIN = "login"
    FULL_FEATURE = "full feature"
    CLOSED = "closed"


class TargetConnection:
    """The target's end of one connection.

    Args:
        config: What the target wants.
        allocate: Called inside `received` when the header of a command with Data-Out was
            read: gives a writable view of bytes for as much as the command wants, or None
            when there is no memory now (`supply` then follows). It must not block.
        at_once: Called inside `received` for a command that only reads, while no other is under
            way, with its LUN (-1: none of ours) and CDB: gives what it reads, if it is to be
            answered GOOD with that there and then, and nothing if it is to be an event. It must
            not block.
        random: Gives unpredictable bytes.

    Attributes:
        closing: What is queued is to be sent, then the connection is to be closed.
        violation: Why the peer was dropped, if it was.
        parameters: What was agreed on.
    """

    def __init__(
        self,
        config: ProtocolConfig,
        *,
        allocate: Allocate,
        at_once: AtOnce = never_at_once,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._config = config
        self._allocate = allocate
        self._at_once = at_once
        self._events: list[Event] = []
        self._login = Login(config.offer(), random, config.chap_algorithms)
        self._sender = Sender(config.initial_stat_sn, CommandWindow(0, config.window))
        self._stream = PduStream(self, LOGIN_BUFFER, LOGIN_DATA)
        self._full: FullFeature | None = None
        self._request = b""  # header of the login request that is being answered
        self._text: bytearray | None = None
        self._asked: events.LoginStarted | events.SessionRequested | None = None
        self.phase = Phase.LOGIN
        self.closing = False
        self.violation = ""
        self.parameters = keys.Parameters()

    # ------------------------------------------------------------------ bytes

    def get_buffers(self) -> list[memoryview]:
        """One or two views to receive into, in this order (`socket.recvmsg_into`).

        Raises:
            RuntimeError: An event waits for its answer and there is no room left.
        """
        return self._stream.get_buffers()

    def get_buffer(self) -> memoryview:
        """The first of `get_buffers`, for those who can only use one."""
        return self._stream.get_buffers()[0]

    def received(self, count: int) -> list[Event]:
        """Takes what was received into the buffers.

        Args:
            count: How many bytes, in the order of the buffers.

        Returns:
            What has happened.
        """
        if self.phase is Phase.CLOSED:
            return []
        self._stream.received(count)
        return self._take_events()

    def data_to_send(self) -> list[bytes | memoryview]:
        """What is to be sent, in order; handed over once."""
        return self._sender.drain()

    def _take_events(self) -> list[Event]:
        found, self._events = self._events, []
        full = self._full
        if full is not None:
            found += full.events
            full.events.clear()
        return found

    # ------------------------------------------------------------------ PDUs during login

    def begin(self, bhs: bytes, ahs: bytes, length: int) -> memoryview | None:
        """A header was read (see `stream.Receiver`)."""
        del ahs
        opcode = bhs[0] & OPCODE_MASK
        if opcode != Opcode.LOGIN_REQUEST:
            if self._request:
                # 11.12: anything else during login ends it, with a status where that helps.
                self._send_login(self._login.refused(LoginStatus.INVALID_DURING_LOGIN))
            self.broken(f"opcode {opcode:#04x} before login")
            return None
        if not self._request:
            first = int.from_bytes(bhs[24:28], "big")
            self._sender.window = CommandWindow(first, self._config.window)
        self._request = bhs
        self._text = bytearray(length)
        return memoryview(self._text)

    def finish(self, intact: bool) -> bool:
        """The text of a login request has arrived."""
        del intact
        text = bytes(self._text or b"")
        self._text = None
        self._follow(self._login.feed(self._request, text))
        return self._asked is None and not self.closing

    def broken(self, reason: str) -> None:
        """The stream cannot be followed any more."""
        self.violation = reason
        self._shut()
        if self._full is not None:
            # In the order in which it happened.
            self._full.events.append(events.Violation(reason))
        else:
            self._events.append(events.Violation(reason))

    def _shut(self) -> None:
        self.phase = Phase.CLOSED
        self.closing = True
        self._stream.discard()

    def _follow(self, outcome: LoginOutcome) -> None:
        if isinstance(outcome, LoginReply):
            self._send_login(outcome)
            if self.closing:
                self._events.append(events.Violation(self.violation))
        else:
            self._asked = outcome
            self._stream.stopped = True
            self._events.append(outcome)

    def _send_login(self, reply: LoginReply) -> None:
        self._sender.login(self._request, reply)
        if reply.status is not LoginStatus.SUCCESS:
            self.violation = self.violation or reply.status.name.replace("_", " ").lower()
            self._shut()

    # ------------------------------------------------------------------ login

    def admit(self, admission: Admission) -> list[Event]:
        """Answers `LoginStarted`: go on."""
        self._answered(events.LoginStarted)
        self._follow(self._login.admit(admission))
        return self._resume()

    def establish(self, tsih: int) -> list[Event]:
        """Answers `SessionRequested`: the session begins.

        Args:
            tsih: Its handle, 1 to 65535.
        """
        asked = self._answered(events.SessionRequested)
        self._send_login(self._login.establish(tsih))
        parameters = self.parameters = self._sender.parameters = self._login.parameters
        checksum = None
        if parameters.header_digest or parameters.data_digest:
            checksum = digests.load()
        for side in (self._stream, self._sender):
            side.use_digests(checksum, header=parameters.header_digest, data=parameters.data_digest)
        self._stream.max_data = parameters.receive_limit
        self._stream.resize(BUFFER)
        self._full = FullFeature(
            self._stream,
            self._sender,
            asked.identification,
            allocate=self._allocate,
            at_once=self._at_once,
            immediate_limit=self._config.immediate_limit,
            broken=self.broken,
        )
        self._stream.receiver = self._full
        self.phase = Phase.FULL_FEATURE
        self._events.append(events.Established())
        return self._resume()

    def refuse(self, status: LoginStatus) -> None:
        """Answers either event: no. The connection closes after that."""
        self._answered(events.LoginStarted, events.SessionRequested)
        self._send_login(self._login.refused(status))

    def _answered(self, *kinds: type) -> events.LoginStarted | events.SessionRequested:
        asked = self._asked
        if asked is None or not isinstance(asked, kinds):
            raise RuntimeError("that was not asked")
        self._asked = None
        return asked

    def _resume(self) -> list[Event]:
        if self._asked is None and not self.closing:
            self._stream.stopped = False
            self._stream.parse()
        return self._take_events()

    # ------------------------------------------------------------------ full feature phase

    @property
    def commands(self) -> tuple[Command, ...]:
        """Commands that are not answered, in order of arrival."""
        return tuple(self._full.commands.commands.values()) if self._full is not None else ()

    @property
    def passed(self) -> int:
        """How many commands were answered at once."""
        return self._full.commands.passed if self._full is not None else 0

    def supply(self, command: Command, view: memoryview) -> list[Event]:
        """Says, later than `allocate`, where the Data-Out of a command goes."""
        if self._full is None or self.closing:
            return []
        self._full.commands.supply(command, view)
        return self._take_events()

    def respond(
        self,
        command: Command,
        status: int,
        sense: bytes = b"",
        data: Sequence[bytes | memoryview] = (),
        *,
        length: int | None = None,
    ) -> bool:
        """Answers a command; nothing happens for one that is gone.

        Args:
            command: Which.
            status: SCSI status.
            sense: Sense data.
            data: Data-In, queued as it is; what the initiator does not take is cut off.
            length: Bytes that the command transfers by its CDB, for the residual.

        Returns:
            Whether its view is free now. If not, bytes of Data-Out are still to come, the
            answer waits for them, and the event `Released` follows.
        """
        if self._full is None or self.closing:
            return True
        return self._full.commands.respond(command, status, sense, data, length)

    def forget(self, command: Command) -> bool:
        """Drops a command that was aborted: it is not answered.

        Returns:
            Whether its view is free now; the event `Released` follows if not.
        """
        return self._full.commands.forget(command) if self._full is not None else True

    def abandon(self) -> list[Command]:
        """Drops everything, because the connection is lost or closes.

        Returns:
            All commands that were not answered, also one of which only a part has come.
        """
        self._shut()
        return self._full.commands.abandon() if self._full is not None else []

    def task_management_response(self, request: events.TaskManagement, response: int) -> None:
        """Answers a task management request with one of `pdu.TaskResponse`."""
        if self._full is not None and not self.closing:
            self._full.requests.task_management_response(request, response)

    def logout_response(self, request: events.LogoutRequested, response: int = 0) -> None:
        """Answers a logout; the connection closes after that."""
        if self.closing:
            return
        # Time2Wait and Time2Retain: 0, nothing is kept (11.15.3, 11.15.4).
        self._sender.plain(Opcode.LOGOUT_RESPONSE, request.itt, byte2=response)
        self._shut()

    def send_targets(
        self,
        request: events.TargetsRequested,
        targets: Sequence[tuple[str, Sequence[str]]],
    ) -> None:
        """Answers SendTargets.

        Args:
            request: What was asked.
            targets: Names, each with its addresses as `host:port,tag`.
        """
        if self._full is None or self.closing:
            return
        reply = self._full.requests.text.targets(request, targets)
        if reply is not None:
            self._full.requests.send_text(reply)

    def nop_in(self) -> None:
        """Asks whether the initiator lives. Any bytes of it are an answer."""
        if self._full is not None and not self.closing:
            self._sender.ping(self._full.tags.take())

    def async_message(
        self, event: AsyncEvent, parameter1: int = 0, parameter2: int = 0, parameter3: int = 0
    ) -> None:
        """Tells the initiator something (RFC 7143 11.9)."""
        if self._full is not None and not self.closing:
            self._sender.asynchronous(event, parameter1, parameter2, parameter3)

    # ------------------------------------------------------------------ facts

    @property
    def claimed_user(self) -> str:
        """The CHAP name that the initiator gave, proven or not; for the log."""
        return self._login.claimed

    @property
    def window(self) -> int:
        """How many commands may be outstanding; takes effect with what is sent next."""
        return self._sender.window.size

    @window.setter
    def window(self, size: int) -> None:
        self._sender.window.size = size

    @property
    def exp_cmd_sn(self) -> int:
        """ExpCmdSN."""
        return self._sender.window.expected

    @property
    def max_cmd_sn(self) -> int:
        """MaxCmdSN, as it was last sent."""
        return self._sender.window.maximum

    @property
    def stat_sn(self) -> int:
        """StatSN of the next response."""
        return self._sender.stat_sn
