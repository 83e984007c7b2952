"""Requests of the full feature phase other than commands: ping, text, task management, logout.

(RFC 7143 11.18, 11.10, 11.5, 11.14.)
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

import attrs

from flockpr.iscsi import events
from flockpr.iscsi.command import Command
from flockpr.iscsi.commandset import CommandSet
from flockpr.iscsi.events import Event, Identification
from flockpr.iscsi.keys import MAX_TEXT_LENGTH
from flockpr.iscsi.numbers import precedes
from flockpr.iscsi.order import RequestOrder
from flockpr.iscsi.pdu import (
    IMMEDIATE,
    NO_TAG,
    OPCODE_MASK,
    LogoutReason,
    LogoutResponse,
    Opcode,
    RejectReason,
    TaskFunction,
    TaskResponse,
    lun_number,
)
from flockpr.iscsi.place import DROP, Allowance, Place, Tags
from flockpr.iscsi.replies import Sender
from flockpr.iscsi.text import TextExchange, TextReply

_REQUEST: Final = Struct(">xB6xQIII4xI12x")
"""Byte 1, LUN, ITT, bytes 20-23, CmdSN, RefCmdSN."""

_KNOWN_FUNCTIONS: Final = frozenset(TaskFunction) - {
    TaskFunction.CLEAR_ACA,
    TaskFunction.TASK_REASSIGN,
}


@attrs.frozen
class Request:
    """A request while it waits for its turn."""

    bhs: bytes
    data: bytes


class Requests:
    """See above.

    Args:
        sender: Where answers go.
        order: Whose turn it is.
        commands: For task management.
        identification: Whose session it is.
        allowance: Counts immediate requests.
        tags: Gives target transfer tags.
        found: Where events are put.
    """

    def __init__(
        self,
        sender: Sender,
        order: RequestOrder,
        commands: CommandSet,
        *,
        identification: Identification,
        allowance: Allowance,
        tags: Tags,
        found: list[Event],
    ) -> None:
        self._sender = sender
        self._order = order
        self._commands = commands
        self._who = identification
        self._allowance = allowance
        self._found = found
        self._data: bytearray | None = None
        self.text = TextExchange(
            identification,
            send_limit=lambda: sender.parameters.send_limit,
            declare=self._declare,
            tags=tags.take,
        )
        self._turns: dict[int, Callable[[Request], None]] = {
            Opcode.NOP_OUT: self._ping,
            Opcode.TEXT_REQUEST: self._text_request,
            Opcode.TASK_MANAGEMENT_REQUEST: self._task_management,
            Opcode.LOGOUT_REQUEST: self._logout,
        }

    def begin(self, bhs: bytes, length: int) -> Place:
        """A header was read; where its data goes."""
        opcode = bhs[0] & OPCODE_MASK
        immediate = bhs[0] & IMMEDIATE
        if not immediate and not self._order.expects(int.from_bytes(bhs[24:28], "big")):
            return DROP
        self._data = None
        if opcode == Opcode.TASK_MANAGEMENT_REQUEST:
            if immediate and not self._allowance.left:
                return RejectReason.IMMEDIATE_COMMAND_REJECT
            return None
        if opcode == Opcode.LOGOUT_REQUEST:
            return None
        if opcode == Opcode.TEXT_REQUEST:
            if length > MAX_TEXT_LENGTH:
                return RejectReason.OUT_OF_RESOURCES
        elif bhs[16:20] == b"\xff\xff\xff\xff":
            return None
        else:
            # What comes back in an answer is at most what the initiator takes.
            length = min(length, self._sender.parameters.send_limit)
        self._data = bytearray(length)
        return memoryview(self._data)

    def finish(self, bhs: bytes, intact: bool) -> None:
        """All of it has arrived."""
        if not intact:
            self._sender.reject(RejectReason.DATA_DIGEST_ERROR, bhs)
            return
        request = Request(bhs, bytes(self._data or b""))
        self._data = None
        number = int.from_bytes(bhs[24:28], "big")
        turn = self._turns[bhs[0] & OPCODE_MASK]
        self._order.arrive(bool(bhs[0] & IMMEDIATE), number, turn, request)

    def _ping(self, request: Request) -> None:
        _, lun, itt, _, _, _ = _REQUEST.unpack(request.bhs)
        if itt != NO_TAG:
            self._sender.plain(Opcode.NOP_IN, itt, lun=lun, tag=NO_TAG, data=request.data)

    def _declare(self, length: int) -> None:
        """The initiator takes longer or shorter data segments from now on."""
        parameters = attrs.evolve(self._sender.parameters, send_limit=length)
        self._sender.parameters = parameters

    def _text_request(self, request: Request) -> None:
        outcome = self.text.feed(request.bhs, request.data)
        if isinstance(outcome, RejectReason):
            self._sender.reject(outcome, request.bhs)
        elif isinstance(outcome, TextReply):
            self.send_text(outcome)
        else:
            self._found.append(outcome)

    def send_text(self, reply: TextReply) -> None:
        """Sends a Text Response."""
        self._sender.plain(
            Opcode.TEXT_RESPONSE, reply.itt, flags=reply.flags, tag=reply.tag, data=reply.text
        )

    def _task_management(self, request: Request) -> None:
        flags, lun, itt, referenced_itt, cmd_sn, reference = _REQUEST.unpack(request.bhs)
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
            referenced = self._commands.commands.get(referenced_itt)
            if referenced is None:
                unreceived = self._give_up(reference, cmd_sn)
            elif not referenced.announced:
                self._commands.withdraw(referenced)
                referenced, unreceived = None, True
        immediate = bool(request.bhs[0] & IMMEDIATE)
        self._allowance.left -= immediate
        event = events.TaskManagement(
            function, lun_number(lun), lun, itt, referenced_itt, referenced, unreceived,
            immediate, cmd_sn,
        )  # fmt: skip
        self._found.append(event)

    def _give_up(self, reference: int, cmd_sn: int) -> bool:
        """Takes a command that never came as if it had come (11.6.1, first note).

        Returns:
            Whether its number was still expected, before the one of the request.
        """
        if not self._order.expects(reference) or not precedes(reference, cmd_sn):
            return False
        self._order.give_up(reference)
        return True

    def task_management_response(self, request: events.TaskManagement, response: int) -> None:
        """Answers a task management request."""
        self._allowance.left += request.immediate
        self._sender.plain(Opcode.TASK_MANAGEMENT_RESPONSE, request.itt, byte2=response)

    def _logout(self, request: Request) -> None:
        flags, _, itt, word20, _, _ = _REQUEST.unpack(request.bhs)
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
        self._order.ended = True
        self._found.append(events.LogoutRequested(reason, cid, itt))
