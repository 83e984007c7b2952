"""The commands of one session that are not answered, and their Data-Out.

What a command brings itself is looked at when its header was read, because its data may be
received straight into the door's memory. The door hears of the command in the order of
CmdSN; what it wants is asked for with R2Ts from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final

from flockpr.iscsi import events
from flockpr.iscsi.command import Answer, Command
from flockpr.iscsi.dataout import Fault, Gathering
from flockpr.iscsi.events import Event
from flockpr.iscsi.order import RequestOrder
from flockpr.iscsi.pdu import (
    ATTRIBUTE_MASK,
    BIDIRECTIONAL_LENGTH,
    EXTENDED_CDB,
    FINAL,
    IMMEDIATE,
    NO_TAG,
    READ,
    WRITE,
    Opcode,
    RejectReason,
    lun_number,
    parse_segments,
)
from flockpr.iscsi.place import DROP, Allowance, Place, Tags
from flockpr.iscsi.replies import CHECK_CONDITION, TASK_SET_FULL, Sender
from flockpr.iscsi.stream import PduStream
from flockpr.spc.sense import Sense

_COMMAND: Final = Struct(">BB6xQIII4x16s")
"""Bytes 0 and 1, LUN, ITT, EDTL, CmdSN, CDB (RFC 7143 11.3)."""
_DATA_OUT: Final = Struct(">xB14xII12xII4x")
"""Byte 1, ITT, TTT, DataSN, Buffer Offset (11.7)."""

_COMMAND_ALONE: Final = int(Opcode.SCSI_COMMAND)
_ONLY_READS: Final = frozenset((FINAL | READ, FINAL | READ | 1))
"""The flags of a command that reads, UNTAGGED or SIMPLE (11.3.1)."""

MOST_AT_ONCE: Final = 16
"""Answers of one reading that are given where commands are read; others of other clients wait."""

MAX_PENDING: Final = 1 << 20
"""Bytes of Data-Out that came unasked and for which the door has no memory yet."""

Allocate = Callable[[Command], memoryview | None]
AtOnce = Callable[[int, bytes], bytes]
"""What a command reads, by LUN and CDB, if it is to be answered GOOD at once; or nothing."""


class CommandSet:
    """See above.

    Args:
        stream: Where PDUs come from.
        sender: Where answers go.
        order: Whose turn it is.
        allowance: Counts immediate requests.
        tags: Gives target transfer tags.
        allocate: Gives the place for the Data-Out of a command.
        at_once: Answers a command that reads and that nothing is before.
        found: Where events are put.

    Attributes:
        commands: By initiator task tag, in order of arrival.
        passed: How many were answered at once.
    """

    def __init__(
        self,
        stream: PduStream,
        sender: Sender,
        order: RequestOrder,
        *,
        allowance: Allowance,
        tags: Tags,
        allocate: Allocate,
        at_once: AtOnce,
        found: list[Event],
    ) -> None:
        self.passed = 0
        self.commands: dict[int, Command] = {}
        self._stream = stream
        self._sender = sender
        self._order = order
        self._allowance = allowance
        self._tags = tags
        self._allocate = allocate
        self._at_once = at_once
        self._found = found
        self._pending = 0  # bytes in `Command.pending`
        self._current: Command | None = None  # whose data is being received

    # ------------------------------------------------------------------ commands

    def begin(self, bhs: bytes, ahs: bytes, length: int) -> Place:
        """The header of a SCSI Command was read: where its immediate data goes."""
        byte0, flags, lun_field, itt, edtl, cmd_sn, cdb = _COMMAND.unpack(bhs)
        immediate = bool(byte0 & IMMEDIATE)
        if immediate:
            if not self._allowance.left:
                return RejectReason.IMMEDIATE_COMMAND_REJECT
        elif not self._order.expects(cmd_sn):
            return DROP
        if itt == NO_TAG:
            return RejectReason.INVALID_PDU_FIELD
        if itt in self.commands:
            return RejectReason.TASK_IN_PROGRESS
        if (
            byte0 == _COMMAND_ALONE
            and flags in _ONLY_READS
            and edtl
            and not (length or ahs or self.commands or self._found)
            and len(self._sender.queue) < MOST_AT_ONCE
            and self._order.is_next(cmd_sn)
            and (data := self._at_once(lun_number(lun_field), cdb))
            and self._sender.holds(min(len(data), edtl))
        ):
            # Nothing else of the session is under way, so nothing has to know of it.
            self._order.spend()
            self._sender.answer_at_once(itt, edtl, data)
            self.passed += 1
            return DROP
        read, write = bool(flags & READ), bool(flags & WRITE)
        read_length = edtl if read and not write else 0
        if ahs:
            segments = parse_segments(ahs)
            if segments is None:
                return RejectReason.INVALID_PDU_FIELD
            for segment in segments:
                if segment.kind == EXTENDED_CDB:
                    cdb += segment.data[1:]
                elif segment.kind == BIDIRECTIONAL_LENGTH and read and write:
                    read_length = int.from_bytes(segment.data[1:5], "big")
        command = Command(
            itt, lun_number(lun_field), lun_field, cdb, flags & ATTRIBUTE_MASK, read, write,
            edtl, read_length, edtl if write else 0, immediate, cmd_sn,
        )  # fmt: skip
        self._current = command
        if not length and not (write and edtl):
            return None
        return self._begin_gathering(command, length, bool(flags & FINAL))

    def _begin_gathering(self, command: Command, length: int, final: bool) -> memoryview | None:
        """Looks at what the command brings itself, and finds the place for its data."""
        parameters = self._sender.parameters
        unsolicited = command.write and not parameters.initial_r2t
        command.complete = False
        command.gathering = gathering = Gathering(
            command.write_length, length, final or not unsolicited, parameters.first_burst_length
        )
        allowed = command.write and parameters.immediate_data
        if (length and not allowed) or not (final or unsolicited):
            gathering.fault = Fault.UNEXPECTED_UNSOLICITED
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
        limit = min(command.write_length, self._sender.parameters.first_burst_length)
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

    def finish(self, bhs: bytes, intact: bool) -> None:
        """All of it has arrived."""
        command = self._current
        assert command is not None
        self._current = None
        if not intact:
            # 7.8: as if it had never come; the initiator may send it again.
            self._sender.reject(RejectReason.DATA_DIGEST_ERROR, bhs)
            command.gone = True
            self._drop_pending(command)
            if command.gathering is not None:
                self._found.append(events.Released(command))
            return
        if command.pending is not None:
            self._move_pending(command)
        self.commands[command.itt] = command
        self._sender.outstanding += 1
        if command.immediate:
            self._allowance.left -= 1
        self._order.arrive(command.immediate, command.cmd_sn, self._deliver, command)

    def _deliver(self, command: Command) -> None:
        if command.gone:
            return
        command.delivered = True
        gathering = command.gathering
        if gathering is None:
            command.announced = True
            self._found.append(command)
        elif gathering.fault is not None:
            if not gathering.open:
                self._fail(command)
        else:
            command.announced = True
            # Without a view it is not known what is wanted.
            if gathering.complete and command.view is not None:
                command.complete = True
            self._found.append(command)
            if not command.complete:
                self._solicit(command)

    # ------------------------------------------------------------------ Data-Out

    def begin_data(self, bhs: bytes, length: int) -> Place:
        """The header of a Data-Out was read: where its data goes."""
        flags, itt, tag, data_sn, offset = _DATA_OUT.unpack(bhs)
        command = self.commands.get(itt)
        if command is None:
            # Of a command that was answered or aborted in the meantime.
            return DROP
        gathering = command.gathering
        if gathering is None or command.complete:
            return RejectReason.INVALID_PDU_FIELD
        self._current = command
        start, stop = gathering.place(tag, data_sn, offset, length, bool(flags & FINAL))
        if start == stop:
            return None
        if command.view is not None:
            return command.view[start:stop]
        assert command.pending is not None
        return memoryview(command.pending)[start:stop]

    def finish_data(self, bhs: bytes, intact: bool) -> None:
        """All of a Data-Out has arrived."""
        command = self._current
        assert command is not None
        assert command.gathering is not None
        self._current = None
        self._move_pending(command)
        if not intact:
            command.gathering.fail(Fault.LOST_DATA)
            self._sender.reject(RejectReason.DATA_DIGEST_ERROR, bhs)
        if command.gone:
            self._found.append(events.Released(command))
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
            self._found.append(events.DataComplete(command))
        else:
            self._solicit(command)

    def _solicit(self, command: Command) -> None:
        gathering = command.gathering
        if command.view is None or gathering is None:
            return
        parameters = self._sender.parameters
        while True:
            r2t = gathering.solicit(
                parameters.max_burst_length, parameters.max_outstanding_r2t, self._tags.next
            )
            if r2t is None:
                return
            self._tags.take()
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
        self._found.append(events.DataRefused(command) if refused else events.Released(command))

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

    def respond(
        self,
        command: Command,
        status: int,
        sense: bytes,
        data: Sequence[bytes | memoryview],
        length: int | None,
    ) -> bool:
        """Answers a command, at once or when its last Data-Out has come.

        11.17.1 has the target wait for the F bit of all sequences before it answers.

        Returns:
            Whether the view is free now; `Released` follows otherwise.
        """
        if command.gone:
            return True
        if not command.complete and self._expecting(command):
            if command.deferred is None:
                command.deferred = Answer(status, sense, data, length)
                assert command.gathering is not None
                command.gathering.fail(Fault.LOST_DATA)
            return False
        self._end(command)
        self._sender.answer(command, status, sense, data, length)
        return True

    def _expecting(self, command: Command) -> bool:
        gathering = command.gathering
        return gathering is not None and (gathering.open or self._receiving(command))

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
        return commands

    def _receiving(self, command: Command) -> bool:
        return self._current is command and self._stream.receiving

    def _end(self, command: Command) -> None:
        command.gone = True
        if command.pending is not None:
            self._drop_pending(command)
        del self.commands[command.itt]
        self._sender.outstanding -= 1
        if command.immediate:
            self._allowance.left += 1

    def withdraw(self, command: Command) -> None:
        """Aborts a command of which the door does not know yet."""
        self._end(command)
        if command.gathering is not None and not self._receiving(command):
            self._found.append(events.Released(command))
