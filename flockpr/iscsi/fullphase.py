"""The full feature phase: which request is whose, and what is refused at once.

Non-immediate requests are handed over in the order of their CmdSN; one that comes too early
waits, one outside the window is dropped without a word (RFC 7143 4.2.2.1). Immediate ones are
handed over as they come. Data-Out belongs to a command by its tag, whatever the order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flockpr.iscsi.commandset import Allocate, AtOnce, CommandSet
from flockpr.iscsi.events import Event, Identification
from flockpr.iscsi.order import RequestOrder
from flockpr.iscsi.pdu import IMMEDIATE, OPCODE_MASK, Opcode, RejectReason
from flockpr.iscsi.place import DROP, Allowance, Place, Tags
from flockpr.iscsi.replies import Sender
from flockpr.iscsi.requests import Requests
from flockpr.iscsi.stream import PduStream

_COMMAND: Final = int(Opcode.SCSI_COMMAND)
_DATA_OUT: Final = int(Opcode.DATA_OUT)
_OTHERS: Final = frozenset(
    {
        Opcode.NOP_OUT,
        Opcode.TEXT_REQUEST,
        Opcode.TASK_MANAGEMENT_REQUEST,
        Opcode.LOGOUT_REQUEST,
    }
)
_IN_DISCOVERY: Final = frozenset({Opcode.NOP_OUT, Opcode.TEXT_REQUEST, Opcode.LOGOUT_REQUEST})
"""What a discovery session takes (RFC 7143 4.3); a ping does no harm there."""


class FullFeature:
    """The requests of one session.

    Args:
        stream: Where its PDUs come from.
        sender: Where answers go.
        identification: Whose session it is.
        allocate: Gives the place for the Data-Out of a command.
        at_once: See `CommandSet`.
        immediate_limit: Immediate requests that may be unanswered.
        broken: Called when the stream cannot be followed any more.

    Attributes:
        events: What happened since they were last taken.
        tags: Target transfer tags.
        commands: SCSI commands.
        requests: All others.
    """

    def __init__(
        self,
        stream: PduStream,
        sender: Sender,
        identification: Identification,
        *,
        allocate: Allocate,
        at_once: AtOnce,
        immediate_limit: int,
        broken: Callable[[str], None],
    ) -> None:
        self.broken = broken
        self.events: list[Event] = []
        self.tags = Tags()
        self._stream = stream
        self._sender = sender
        self._discovery = identification.discovery
        self._order = RequestOrder(sender.window)
        allowance = Allowance(immediate_limit)
        self.commands = CommandSet(
            stream,
            sender,
            self._order,
            allowance=allowance,
            tags=self.tags,
            allocate=allocate,
            at_once=at_once,
            found=self.events,
        )
        self.requests = Requests(
            sender,
            self._order,
            self.commands,
            identification=identification,
            allowance=allowance,
            tags=self.tags,
            found=self.events,
        )
        # The PDU that is being received.
        self._bhs = b""
        self._reason = RejectReason.PROTOCOL_ERROR
        self._finish: Callable[[bytes, bool], None] = self._drop

    def begin(self, bhs: bytes, ahs: bytes, length: int) -> memoryview | None:
        """A header was read (see `stream.Receiver`)."""
        self._bhs = bhs
        place = self._place(bhs, ahs, length)
        if place is None or type(place) is memoryview:
            return place
        if place is DROP:
            self._finish = self._drop
        elif isinstance(place, RejectReason):
            self._reason = place
            self._finish = self._reject
        return None

    def _place(self, bhs: bytes, ahs: bytes, length: int) -> Place:
        opcode = bhs[0] & OPCODE_MASK
        if self._discovery and opcode not in _IN_DISCOVERY:
            return RejectReason.PROTOCOL_ERROR
        if opcode == _COMMAND:
            self._finish = self.commands.finish
            return self.commands.begin(bhs, ahs, length)
        if opcode == _DATA_OUT:
            self._finish = self.commands.finish_data
            return self.commands.begin_data(bhs, length)
        if opcode in _OTHERS:
            self._finish = self.requests.finish
            return self.requests.begin(bhs, length)
        if opcode == Opcode.SNACK:
            return RejectReason.SNACK_REJECT
        if opcode == Opcode.LOGIN_REQUEST:
            return RejectReason.PROTOCOL_ERROR
        return RejectReason.COMMAND_NOT_SUPPORTED

    def finish(self, intact: bool) -> bool:
        """Its data has arrived."""
        self._finish(self._bhs, intact)
        if self._order.ended:
            # Nothing may follow a logout (11.14).
            self._stream.discard()
            return False
        return True

    def _drop(self, bhs: bytes, intact: bool) -> None:
        pass

    def _reject(self, bhs: bytes, intact: bool) -> None:
        """Answers with Reject, once all of the PDU is here."""
        del intact
        self._sender.reject(self._reason, bhs)
        opcode = bhs[0] & OPCODE_MASK
        if (opcode == _COMMAND or opcode in _OTHERS) and not bhs[0] & IMMEDIATE:
            # Its number is spent, or all that follows would wait for it for ever.
            number = int.from_bytes(bhs[24:28], "big")
            if self._order.expects(number):
                self._order.give_up(number)
