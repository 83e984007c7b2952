"""The full feature phase: requests in the order of CmdSN, and the data of commands.

Non-immediate requests are handed over in the order of their CmdSN; one that comes too early
waits, one outside the window is dropped without a word (RFC 7143 4.2.2.1). Immediate ones are
handed over as they come. Data-Out belongs to a command by its tag, whatever the order.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

import attrs

from flockpr.iscsi import events
from flockpr.iscsi.command import Answer, Command
from flockpr.iscsi.dataout import Fault, Gathering
from flockpr.iscsi.events import Event, Identification
from flockpr.iscsi.keys import MAX_TEXT_LENGTH
from flockpr.iscsi.numbers import CommandWindow, precedes
from flockpr.iscsi.pdu import (
    ATTRIBUTE_MASK,
    BIDIRECTIONAL_LENGTH,
    EXTENDED_CDB,
    FINAL,
    IMMEDIATE,
    NO_TAG,
    OPCODE_MASK,
    READ,
    WRITE,
    LogoutReason,
    LogoutResponse,
    Opcode,
    RejectReason,
    TaskFunction,
    TaskResponse,
    lun_number,
    parse_segments,
)
from flockpr.iscsi.replies import CHECK_CONDITION, TASK_SET_FULL, Sender
from flockpr.iscsi.stream import PduStream
from flockpr.iscsi.text import TextExchange, TextReply
from flockpr.spc.sense import Sense

_COMMAND: Final = Struct(">BB6xQIII4x16s")
"""Bytes 0 and 1, LUN, ITT, EDTL, CmdSN, CDB (11.3)."""
_DATA_OUT: Final = Struct(">BB14xII12xII4x")
"""Bytes 0 and 1, ITT, TTT, DataSN, Buffer Offset (11.7)."""
_OTHER: Final = Struct(">BB6xQIII4xI12x")
"""Bytes 0 and 1, LUN, ITT, bytes 20-23, CmdSN, RefCmdSN (11.5, 11.10, 11.14, 11.18)."""

_KNOWN_FUNCTIONS: Final = frozenset(TaskFunction) - {
    TaskFunction.CLEAR_ACA,
    TaskFunction.TASK_REASSIGN,
}
_IN_DISCOVERY: Final = frozenset({Opcode.NOP_OUT, Opcode.TEXT_REQUEST, Opcode.LOGOUT_REQUEST})
"""What a discovery session takes (RFC 7143 4.3); a ping does no harm there."""

MAX_PENDING: Final = 1 << 20
"""Bytes of Data-Out that came unasked and for which the door has no memory yet."""
_TAGS: Final = 0x7FFFFFFF
"""Target transfer tags start again after this one."""

Allocate = Callable[[Command], memoryview | None]


@attrs.frozen
class _Request:
    """A request other than a command, as it waits for its turn."""

    bhs: bytes
    data: bytes


class FullFeature:
    """The requests of one session.

    Args:
        stream: Where its PDUs come from.
        sender: Where answers go.
        identification: Whose session it is.
        allocate: Gives the place for the Data-Out of a command.
        immediate_limit: Immediate requests that may be unanswered.
        broken: Called when the stream cannot be followed any more.

    Attributes:
        events: What happened since they were last taken.
        commands: Those that are not answered, by initiator task tag, in order of arrival.
        leaving: A logout was handed over; nothing more is.
    """

    def __init__(
        self,
        stream: PduStream,
        sender: Sender,
        identification: Identification,
        *,
        allocate: Allocate,
        immediate_limit: int,
        broken: Callable[[str], None],
    ) -> None:
        self.broken = broken
        self.events: list[Event] = []
        self.commands: dict[int, Command] = {}
        self.leaving = False
        self._stream = stream
        self._sender = sender
        self._window: CommandWindow = sender.window
        self._parameters = sender.parameters
        self._who = identification
        self._allocate = allocate
        self._immediate_limit = immediate_limit
        self._immediate = 0  # commands and task management requests
        self._held: dict[int, Command | _Request | None] = {}
        self._next_tag = 1
        self._pending = 0  # bytes in `Command.pending`
        self._text = TextExchange(
            identification,
            send_limit=lambda: sender.parameters.send_limit,
            declare=self._declare,
            tags=self.next_tag,
        )
        # The PDU whose data is being received.
        self._bhs = b""
        self._data: bytearray | None = None
        self._current: Command | None = None
        self._reason = RejectReason.PROTOCOL_ERROR
        self._finish: Callable[[bool], None] = self._finish_ignored
        self._begins: dict[int, Callable[[bytes, bytes, int], memoryview | None]] = {
            Opcode.SCSI_COMMAND: self._begin_command,
            Opcode.DATA_OUT: self._begin_data_out,
            Opcode.NOP_OUT: self._begin_request,
            Opcode.TEXT_REQUEST: self._begin_request,
            Opcode.TASK_MANAGEMENT_REQUEST: self._begin_request,
            Opcode.LOGOUT_REQUEST: self._begin_request,
        }
        self._turns: dict[int, Callable[[_Request], None]] = {
            Opcode.NOP_OUT: self._ping,
            Opcode.TEXT_REQUEST: self._text_request,
            Opcode.TASK_MANAGEMENT_REQUEST: self._task_management,
            Opcode.LOGOUT_REQUEST: self._logout,
        }

    # ------------------------------------------------------------------ PDUs

    def begin(self, bhs: bytes, ahs: bytes, length: int) -> memoryview | None:
        """A header was read (see `stream.Receiver`)."""
        opcode = bhs[0] & OPCODE_MASK
        self._bhs = bhs
        if self._who.discovery and opcode not in _IN_DISCOVERY:
            return self._refuse(RejectReason.PROTOCOL_ERROR)
        begin = self._begins.get(opcode)
        if begin is not None:
            return begin(bhs, ahs, length)
        if opcode == Opcode.SNACK:
            return self._refuse(RejectReason.SNACK_REJECT)
        if opcode == Opcode.LOGIN_REQUEST:
            return self._refuse(RejectReason.PROTOCOL_ERROR)
        return self._refuse(RejectReason.COMMAND_NOT_SUPPORTED)

    def finish(self, intact: bool) -> bool:
        """Its data has arrived."""
        self._finish(intact)
        self._current = None
        return not self.leaving

    def _refuse(self, reason: RejectReason) -> None:
        """The PDU is answered with Reject as soon as all of it is here."""
        self._reason = reason
        self._finish = self._finish_refused

    def _finish_refused(self, intact: bool) -> None:
        del intact
        bhs = self._bhs
        self._sender.reject(self._reason, bhs)
        numbered = bhs[0] & OPCODE_MASK in self._turns or bhs[0] & OPCODE_MASK == 1
        if numbered and not bhs[0] & IMMEDIATE:
            # Its number is spent, or all that follows would wait for it for ever.
            number = int.from_bytes(bhs[24:28], "big")
            if self._expects(number):
                self._arrive(False, number, None)

    def _finish_ignored(self, intact: bool) -> None:
        pass

    def _ignore(self) -> None:
        self._finish = self._finish_ignored

    # ------------------------------------------------------------------ order

    def _expects(self, number: int) -> bool:
        return self._window.contains(number) and number not in self._held

    def _arrive(self, immediate: bool, number: int, item: Command | _Request | None) -> None:
        """Hands a request over when its turn has come, and those that waited for it."""
        if immediate:
            self._hand_over(item)
            return
        window = self._window
        if number != window.expected:
            self._held[number] = item
            return
        window.advance()
        self._hand_over(item)
        while window.expected in self._held and not self.leaving:
            item = self._held.pop(window.expected)
            window.advance()
            self._hand_over(item)

    def _hand_over(self, item: Command | _Request | None) -> None:
        if type(item) is Command:
            self._deliver(item)
        elif type(item) is _Request:
            self._turns[item.bhs[0] & OPCODE_MASK](item)

    # ------------------------------------------------------------------ commands

    def _begin_command(self, bhs: bytes, ahs: bytes, length: int) -> memoryview | None:
        byte0, flags, lun_field, itt, edtl, cmd_sn, cdb = _COMMAND.unpack(bhs)
        immediate = bool(byte0 & IMMEDIATE)
        if immediate:
            if self._immediate >= self._immediate_limit:
                return self._refuse(RejectReason.IMMEDIATE_COMMAND_REJECT)
        elif not self._expects(cmd_sn):
            return self._ignore()
        if itt == NO_TAG:
            return self._refuse(RejectReason.INVALID_PDU_FIELD)
        if itt in self.commands:
            return self._refuse(RejectReason.TASK_IN_PROGRESS)
        read, write = bool(flags & READ), bool(flags & WRITE)
        read_length = edtl if read and not write else 0
        if ahs:
            segments = parse_segments(ahs)
            if segments is None:
                return self._refuse(RejectReason.INVALID_PDU_FIELD)
            for segment in segments:
                if segment.kind == EXTENDED_CDB:
                    cdb += segment.data[1:]
                elif segment.kind == BIDIRECTIONAL_LENGTH and read and write:
                    read_length = int.from_bytes(segment.data[1:5], "big")
        command = Command(
            itt, lun_number(lun_field), lun_field, cdb, flags & ATTRIBUTE_MASK, read, write,
            edtl, read_length, edtl if write else 0, immediate, cmd_sn,
        )  # fmt: skip
        self._finish = self._finish_command
        self._current = command
        if not length and not (write and edtl):
            return None
        return self._begin_gathering(command, length, bool(flags & FINAL))

    def _begin_gathering(self, command: Command, length: int, final: bool) -> memoryview | None:
        """Looks at what the command brings itself, and finds the place for its data."""
        parameters = self._parameters
        unsolicited = command.write and not parameters.initial_r2t
        command.complete = False
        command.gathering = gathering = Gathering(
            command.write_length, length, final or not unsolicited, parameters.first_burst_length
        )
        allowed = command.write and parameters.immediate_data
        if (length and not allowed) or not (final or unsolicited):
            gathering.fail(Fault.UNEXPECTED_UNSOLICITED)
        if gathering.fault is not None:
            return None
        view = self._allocate(command)
        if view is None:
            return self._keep_pending(command, length)
        command.view = view
        gathering.wanted = min(len(view), command.write_length)
        return view[:length]

    def _keep_pending(self, command: Command, length: int) -> memoryview | None:
        """Makes room for what comes unasked while the door has none."""
        assert command.gathering is not None
        limit = min(command.write_length, self._parameters.first_burst_length)
        if self._pending + limit > MAX_PENDING:
            command.gathering.fail(Fault.LOST_DATA)
            command.deferred = Answer(TASK_SET_FULL, b"", (), None)
            return None
        self._pending += limit
        command.pending = bytearray(limit)
        return memoryview(command.pending)[:length]

    def _move_pending(self, command: Command) -> None:
        """Brings what came early to where it belongs."""
        pending, view, gathering = command.pending, command.view, command.gathering
        if pending is None or view is None or gathering is None:
            return
        kept = min(gathering.filled, len(view), len(pending))
        view[:kept] = memoryview(pending)[:kept]
        self._drop_pending(command)

    def _drop_pending(self, command: Command) -> None:
        if command.pending is not None:
            self._pending -= len(command.pending)
            command.pending = None

    def _finish_command(self, intact: bool) -> None:
        command = self._current
        assert command is not None
        if not intact:
            # 7.8: as if it had never come; the initiator may send it again.
            self._sender.reject(RejectReason.DATA_DIGEST_ERROR, self._bhs)
            command.gone = True
            self._drop_pending(command)
            if command.gathering is not None:
                self.events.append(events.Released(command))
            return
        self._move_pending(command)
        self._current = None
        self.commands[command.itt] = command
        self._sender.outstanding += 1
        self._immediate += command.immediate
        self._arrive(command.immediate, command.cmd_sn, command)

    def _deliver(self, command: Command) -> None:
        if command.gone:
            return
        command.delivered = True
        gathering = command.gathering
        if gathering is None:
            command.announced = True
            self.events.append(command)
        elif gathering.fault is not None:
            if not gathering.open:
                self._fail(command)
        else:
            command.announced = True
            # Without a view it is not known what is wanted.
            if gathering.complete and command.view is not None:
                command.complete = True
            self.events.append(command)
            if not command.complete:
                self._solicit(command)

    # ------------------------------------------------------------------ Data-Out

    def _begin_data_out(self, bhs: bytes, ahs: bytes, length: int) -> memoryview | None:
        del ahs
        _byte0, flags, itt, tag, data_sn, offset = _DATA_OUT.unpack(bhs)
        command = self.commands.get(itt)
        if command is None:
            # Of a command that was answered or aborted in the meantime.
            return self._ignore()
        gathering = command.gathering
        if gathering is None or command.complete:
            return self._refuse(RejectReason.INVALID_PDU_FIELD)
        self._finish = self._finish_data_out
        self._current = command
        start, stop = gathering.place(tag, data_sn, offset, length, bool(flags & FINAL))
        if start == stop:
            return None
        if command.view is not None:
            return command.view[start:stop]
        assert command.pending is not None
        return memoryview(command.pending)[start:stop]

    def _finish_data_out(self, intact: bool) -> None:
        command = self._current
        assert command is not None
        assert command.gathering is not None
        self._current = None
        self._move_pending(command)
        if not intact:
            command.gathering.fail(Fault.LOST_DATA)
            self._sender.reject(RejectReason.DATA_DIGEST_ERROR, self._bhs)
        if command.gone:
            self.events.append(events.Released(command))
        else:
            self._progress(command)

    def _progress(self, command: Command) -> None:
        """Something about the data of a command has changed."""
        gathering = command.gathering
        assert gathering is not None
        if not command.delivered:
            return
        if gathering.fault is not None:
            if not gathering.open:
                self._fail(command)
        elif command.view is None:
            return
        elif gathering.complete:
            command.complete = True
            self.events.append(events.DataComplete(command))
        else:
            self._solicit(command)

    def _solicit(self, command: Command) -> None:
        gathering = command.gathering
        if command.view is None or gathering is None:
            return
        parameters = self._parameters
        while True:
            r2t = gathering.solicit(
                parameters.max_burst_length, parameters.max_outstanding_r2t, self._next_tag
            )
            if r2t is None:
                return
            self.next_tag()
            self._sender.ready_to_transfer(command, r2t)

    def _fail(self, command: Command) -> None:
        """The data went wrong and no more of it will come: the command ends."""
        assert command.gathering is not None
        assert command.gathering.fault is not None
        answer = command.deferred
        if answer is None:
            sense = Sense(*command.gathering.fault.value).fixed()
            answer = Answer(CHECK_CONDITION, sense, (), None)
        refused = command.announced and command.deferred is None
        self._end(command)
        self._sender.answer(command, answer.status, answer.sense, answer.data, answer.length)
        self.events.append(events.DataRefused(command) if refused else events.Released(command))

    def supply(self, command: Command, view: memoryview) -> None:
        """Says later than `allocate` where the Data-Out goes."""
        gathering = command.gathering
        if command.gone or gathering is None or command.view is not None:
            return
        command.view = view
        gathering.wanted = min(len(view), command.write_length)
        if self._current is not command:
            # Otherwise bytes for the old place may be arriving just now: moved when they have.
            self._move_pending(command)
            self._progress(command)

    # ------------------------------------------------------------------ the ends of commands

    def respond(self, command: Command, answer: Answer) -> bool:
        """Answers a command, at once or when its last Data-Out has come.

        11.17.1 has the target wait for the F bit of all sequences before it answers.

        Returns:
            Whether the view is free now; `Released` follows otherwise.
        """
        if command.gone:
            return True
        if command.deferred is not None:
            return False
        gathering = command.gathering
        expecting = gathering is not None and not command.complete
        if expecting and gathering is not None and (gathering.open or self._receiving(command)):
            command.deferred = answer
            gathering.fail(Fault.LOST_DATA)
            return False
        self._end(command)
        self._sender.answer(command, answer.status, answer.sense, answer.data, answer.length)
        return True

    def forget(self, command: Command) -> bool:
        """Drops a command without an answer; what still comes for it is dropped as well.

        Returns:
            Whether the view is free now; `Released` follows otherwise.
        """
        if command.gone:
            return not self._receiving(command)
        self._end(command)
        return not self._receiving(command)

    def abandon(self) -> list[Command]:
        """Drops all commands, also the one that is just being received."""
        commands = list(self.commands.values())
        current = self._current
        if current is not None and current.itt not in self.commands and not current.gone:
            commands.append(current)
        for command in commands:
            command.gone = True
            self._drop_pending(command)
        self.commands.clear()
        self._held.clear()
        return commands

    def _receiving(self, command: Command) -> bool:
        return self._current is command and self._stream.receiving

    def _end(self, command: Command) -> None:
        command.gone = True
        self._drop_pending(command)
        del self.commands[command.itt]
        self._sender.outstanding -= 1
        self._immediate -= command.immediate

    # ------------------------------------------------------------------ other requests

    def next_tag(self) -> int:
        """A target transfer tag that was not given for a long time."""
        tag = self._next_tag
        self._next_tag = tag % _TAGS + 1
        return tag

    def _begin_request(self, bhs: bytes, ahs: bytes, length: int) -> memoryview | None:
        del ahs
        _byte0, _flags, _lun, itt, _tag, cmd_sn, _reference = _OTHER.unpack(bhs)
        opcode = bhs[0] & OPCODE_MASK
        if not bhs[0] & IMMEDIATE and not self._expects(cmd_sn):
            return self._ignore()
        self._finish = self._finish_request
        counted = opcode == Opcode.TASK_MANAGEMENT_REQUEST and bhs[0] & IMMEDIATE
        if counted and self._immediate >= self._immediate_limit:
            return self._refuse(RejectReason.IMMEDIATE_COMMAND_REJECT)
        if opcode == Opcode.TEXT_REQUEST and length > MAX_TEXT_LENGTH:
            return self._refuse(RejectReason.OUT_OF_RESOURCES)
        if opcode == Opcode.TEXT_REQUEST or (opcode == Opcode.NOP_OUT and itt != NO_TAG):
            # What comes back in an answer is at most what the initiator takes.
            if opcode == Opcode.NOP_OUT:
                length = min(length, self._sender.parameters.send_limit)
            self._data = bytearray(length)
            return memoryview(self._data)
        self._data = None
        return None

    def _finish_request(self, intact: bool) -> None:
        bhs = self._bhs
        if not intact:
            self._sender.reject(RejectReason.DATA_DIGEST_ERROR, bhs)
            return
        data = bytes(self._data) if self._data else b""
        self._data = None
        number = int.from_bytes(bhs[24:28], "big")
        self._arrive(bool(bhs[0] & IMMEDIATE), number, _Request(bhs, data))

    def _ping(self, request: _Request) -> None:
        _, _, lun, itt, _, _, _ = _OTHER.unpack(request.bhs)
        if itt != NO_TAG:
            self._sender.plain(Opcode.NOP_IN, itt, lun=lun, tag=NO_TAG, data=request.data)

    def _declare(self, length: int) -> None:
        """The initiator takes longer or shorter data segments from now on."""
        parameters = attrs.evolve(self._sender.parameters, send_limit=length)
        self._sender.parameters = self._parameters = parameters

    def _text_request(self, request: _Request) -> None:
        outcome = self._text.feed(request.bhs, request.data)
        if isinstance(outcome, RejectReason):
            self._sender.reject(outcome, request.bhs)
        elif isinstance(outcome, TextReply):
            self.send_text(outcome)
        else:
            self.events.append(outcome)

    def send_text(self, reply: TextReply) -> None:
        """Sends a Text Response."""
        self._sender.plain(
            Opcode.TEXT_RESPONSE, reply.itt, flags=reply.flags, tag=reply.tag, data=reply.text
        )

    @property
    def text(self) -> TextExchange:
        """The text exchange."""
        return self._text

    def _task_management(self, request: _Request) -> None:
        byte0, flags, lun, itt, referenced_itt, cmd_sn, reference = _OTHER.unpack(request.bhs)
        function = flags & 0x7F
        if function not in _KNOWN_FUNCTIONS:
            reassign = function == TaskFunction.TASK_REASSIGN
            self._sender.plain(
                Opcode.TASK_MANAGEMENT_RESPONSE,
                itt,
                byte2=TaskResponse.REASSIGN_NOT_SUPPORTED
                if reassign
                else TaskResponse.NOT_SUPPORTED,
            )
            return
        referenced: Command | None = None
        unreceived = False
        if function == TaskFunction.ABORT_TASK:
            referenced = self.commands.get(referenced_itt)
            if referenced is None:
                unreceived = self._give_up(reference, cmd_sn)
            elif not referenced.announced:
                self._withdraw(referenced)
                referenced, unreceived = None, True
        immediate = bool(byte0 & IMMEDIATE)
        self._immediate += immediate
        event = events.TaskManagement(
            function, lun_number(lun), lun, itt, referenced_itt, referenced, unreceived,
            immediate, cmd_sn,
        )  # fmt: skip
        self.events.append(event)

    def _give_up(self, reference: int, cmd_sn: int) -> bool:
        """Takes a command that never came as if it had come (11.6.1, first note).

        Returns:
            Whether its number was still expected, before the one of the request.
        """
        if not self._expects(reference) or not precedes(reference, cmd_sn):
            return False
        self._arrive(False, reference, None)
        return True

    def _withdraw(self, command: Command) -> None:
        """Aborts a command of which the door does not know yet."""
        self._end(command)
        if command.gathering is not None and not self._receiving(command):
            self.events.append(events.Released(command))

    def task_management_response(self, request: events.TaskManagement, response: int) -> None:
        """Answers a task management request."""
        self._immediate -= request.immediate
        self._sender.plain(Opcode.TASK_MANAGEMENT_RESPONSE, request.itt, byte2=response)

    def _logout(self, request: _Request) -> None:
        _, flags, _, itt, word20, _, _ = _OTHER.unpack(request.bhs)
        reason, cid = flags & 0x7F, word20 >> 16
        response = None
        if reason == LogoutReason.CLOSE_CONNECTION and cid != self._who.cid:
            response = LogoutResponse.CID_NOT_FOUND
        elif reason == LogoutReason.REMOVE_FOR_RECOVERY:
            response = LogoutResponse.RECOVERY_NOT_SUPPORTED
        elif reason > LogoutReason.REMOVE_FOR_RECOVERY:
            self._sender.reject(RejectReason.INVALID_PDU_FIELD, request.bhs)
            return
        if response is not None:
            self._sender.plain(Opcode.LOGOUT_RESPONSE, itt, byte2=response)
            return
        self.leaving = True
        self.events.append(events.LogoutRequested(reason, cid, itt))
