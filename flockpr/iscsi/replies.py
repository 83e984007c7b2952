"""PDUs from the target: their numbers, their bytes, and the queue in which they leave.

StatSN, ExpCmdSN and MaxCmdSN are put into headers here and nowhere else. Data is queued as
the views that were given; headers are built beside them, so a read is not copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from flockpr.iscsi.command import Command
from flockpr.iscsi.dataout import ReadyToTransfer
from flockpr.iscsi.digests import Buffer, Checksum, to_bytes
from flockpr.iscsi.keys import Parameters
from flockpr.iscsi.login import LoginReply
from flockpr.iscsi.numbers import MASK, CommandWindow
from flockpr.iscsi.pdu import (
    BIDI_UNDERFLOW,
    FINAL,
    HAS_STATUS,
    NO_TAG,
    OVERFLOW,
    RESPONSE,
    UNDERFLOW,
    AsyncEvent,
    Opcode,
    RejectReason,
)

GOOD: Final = 0x00
CHECK_CONDITION: Final = 0x02
TASK_SET_FULL: Final = 0x28
_PADS: Final = (b"", b"\0\0\0", b"\0\0", b"\0")
"""By the length modulo 4."""
_JOINED: Final = 1024
"""Data up to this length is copied behind its header: one buffer costs less than three."""

_DATA_IN: Final = int(Opcode.DATA_IN)
_SCSI_RESPONSE: Final = int(Opcode.SCSI_RESPONSE)
_LAST_WITH_STATUS: Final = FINAL | HAS_STATUS

_pack = RESPONSE.pack


class Sender:
    """Makes the PDUs of one connection.

    Args:
        stat_sn: StatSN of the first response.
        window: ExpCmdSN and MaxCmdSN.

    Attributes:
        outstanding: Commands that were not answered, which hold the window back.
        parameters: What was agreed on.
    """

    __slots__ = (
        "_checksum",
        "_data_digest",
        "_header_digest",
        "outstanding",
        "parameters",
        "queue",
        "stat_sn",
        "window",
    )

    def __init__(self, stat_sn: int, window: CommandWindow) -> None:
        self.stat_sn = stat_sn & MASK
        self.window = window
        self.outstanding = 0
        self.parameters = Parameters()
        self.queue: list[bytes | memoryview] = []
        self._checksum: Checksum | None = None
        self._header_digest = False
        self._data_digest = False

    def use_digests(self, checksum: Checksum | None, *, header: bool, data: bool) -> None:
        """From the next PDU on."""
        self._checksum = checksum
        self._header_digest = header
        self._data_digest = data

    def drain(self) -> list[bytes | memoryview]:
        """What is to be sent, in order; it is the caller's from now on."""
        queue, self.queue = self.queue, []
        return queue

    def _emit(self, header: bytes, data: Sequence[Buffer] = (), length: int = 0) -> None:
        """Queues one PDU: header, data segment, padding and digests."""
        if self._header_digest:
            assert self._checksum is not None
            header += to_bytes(self._checksum(header, 0))
        if not length:
            self.queue.append(header)
            return
        tail = _PADS[length & 3]
        if self._data_digest:
            assert self._checksum is not None
            digest = 0
            for part in data:
                digest = self._checksum(part, digest)
            tail += to_bytes(self._checksum(tail, digest) if tail else digest)
        if length <= _JOINED:
            self.queue.append(b"".join((header, *data, tail)))
            return
        queue = self.queue
        queue.append(header)
        for part in data:
            queue.append(memoryview(part) if isinstance(part, bytearray) else part)
        if tail:
            queue.append(tail)

    def _next_stat_sn(self) -> int:
        number = self.stat_sn
        self.stat_sn = (number + 1) & MASK
        return number

    def _numbers(self) -> tuple[int, int]:
        window = self.window
        window.widen(self.outstanding)
        return window.expected, window.maximum

    def plain(
        self,
        opcode: int,
        itt: int,
        *,
        flags: int = FINAL,
        byte2: int = 0,
        lun: int = 0,
        tag: int = 0,
        word36: int = 0,
        word40: int = 0,
        data: bytes = b"",
    ) -> None:
        """A response that takes a StatSN and has nothing special about it."""
        stat_sn = self._next_stat_sn()
        header = _pack(
            opcode, flags, byte2, 0, len(data), lun, itt, tag, stat_sn, *self._numbers(),
            word36, word40, 0,
        )  # fmt: skip
        self._emit(header, (data,), len(data))

    def login(self, request: bytes, reply: LoginReply) -> None:
        """Login Response (RFC 7143 11.13) to a request with this header."""
        isid = int.from_bytes(request[8:14], "big")
        tsih = reply.tsih or int.from_bytes(request[14:16], "big")
        # 11.13.4: StatSN is only valid, and only spent, when the status class is 0.
        stat_sn = self._next_stat_sn() if not reply.status >> 8 else self.stat_sn
        expected, maximum = self._numbers()
        itt = int.from_bytes(request[16:20], "big")
        header = _pack(
            Opcode.LOGIN_RESPONSE, reply.flags, 0, 0, len(reply.text), isid << 16 | tsih, itt, 0,
            stat_sn, expected, maximum, reply.status << 16, 0, 0,
        )  # fmt: skip
        self._emit(header, (reply.text,), len(reply.text))

    def ready_to_transfer(self, command: Command, r2t: ReadyToTransfer) -> None:
        """R2T (11.8): carries the next StatSN without spending it."""
        command.sent_sequences += 1
        header = _pack(
            Opcode.R2T, FINAL, 0, 0, 0, command.lun_field, command.itt, r2t.tag, self.stat_sn,
            *self._numbers(), r2t.number, r2t.offset, r2t.length,
        )  # fmt: skip
        self._emit(header)

    def ping(self, tag: int) -> None:
        """NOP-In that wants an answer (11.19)."""
        header = _pack(
            Opcode.NOP_IN, FINAL, 0, 0, 0, 0, NO_TAG, tag, self.stat_sn, *self._numbers(), 0, 0, 0
        )
        self._emit(header)

    def reject(self, reason: RejectReason, request: bytes) -> None:
        """Reject (11.17) of the PDU with this header."""
        self.plain(Opcode.REJECT, NO_TAG, byte2=reason, data=request)

    def asynchronous(self, event: AsyncEvent, first: int, second: int, third: int) -> None:
        """Asynchronous Message (11.9)."""
        self.plain(
            Opcode.ASYNC_MESSAGE,
            NO_TAG,
            word36=event << 24 | first & 0xFFFF,
            word40=(second & 0xFFFF) << 16 | third & 0xFFFF,
        )

    def answer(
        self,
        command: Command,
        status: int,
        sense: bytes,
        data: Sequence[Buffer],
        length: int | None,
    ) -> None:
        """The end of a command: Data-In with status, or SCSI Response (11.4, 11.7)."""
        simple = len(data) == 1 and not status and length is None
        if simple and self._whole_read(command, data[0]):
            return
        given = sum(map(len, data)) if data else 0
        taken = min(given, command.read_length)
        flags, residual, bidi = _residuals(command, status, given, length)
        if taken and status == GOOD and not command.write:
            self._data_in(command, data, taken, flags | HAS_STATUS, residual)
            return
        if taken:
            self._data_in(command, data, taken, 0, 0)
        if sense:
            sense = len(sense).to_bytes(2, "big") + sense
        stat_sn = self._next_stat_sn()
        header = _pack(
            _SCSI_RESPONSE, FINAL | flags, 0, status, len(sense), 0, command.itt, 0, stat_sn,
            *self._numbers(), command.sent_sequences, bidi, residual,
        )  # fmt: skip
        self._emit(header, (sense,), len(sense))

    def _whole_read(self, command: Command, data: Buffer) -> bool:
        """Answers a read that fits one Data-In exactly, as most do; says whether it did."""
        length = len(data)
        if length != command.edtl or command.write or not command.read or not self.holds(length):
            return False
        self._in_one(command.itt, data, length, 0, 0)
        return True

    def answer_at_once(self, itt: int, edtl: int, data: bytes) -> None:
        """Answers a command that only reads with GOOD, in one Data-In, which `holds` the data.

        Args:
            itt: Its initiator task tag.
            edtl: Its Expected Data Transfer Length.
            data: What it reads; what the initiator does not take is cut off.
        """
        flags, residual = _difference(edtl, len(data))
        data = data[:edtl]
        self._in_one(itt, data, len(data), flags, residual)

    def holds(self, length: int) -> bool:
        """Whether one Data-In may hold so many bytes, and there are any."""
        parameters = self.parameters
        return 0 < length <= parameters.send_limit and length <= parameters.max_burst_length

    def _in_one(self, itt: int, data: Buffer, length: int, flags: int, residual: int) -> None:
        window = self.window
        window.widen(self.outstanding)
        stat_sn = self.stat_sn
        self.stat_sn = (stat_sn + 1) & MASK
        header = _pack(
            _DATA_IN, _LAST_WITH_STATUS | flags, 0, 0, length, 0, itt, NO_TAG, stat_sn,
            window.expected, window.maximum, 0, 0, residual,
        )  # fmt: skip
        self._emit(header, (data,), length)

    def _data_in(
        self, command: Command, data: Sequence[Buffer], length: int, last: int, residual: int
    ) -> None:
        """Data-In PDUs, of which the last may carry the status GOOD.

        A PDU is at most as long as the initiator's MaxRecvDataSegmentLength, and a sequence
        of them, which the F bit ends, at most MaxBurstLength (11.7.1, 13.13).
        """
        limit, burst = self.parameters.send_limit, self.parameters.max_burst_length
        expected, maximum = self._numbers()
        cutter = _Cutter(data)
        offset = 0
        itt = command.itt
        while offset < length:
            in_burst = burst - offset % burst
            size = min(limit, in_burst, length - offset)
            flags, stat_sn, rest = 0, 0, 0
            if offset + size == length:
                flags, rest = FINAL | last, residual
                stat_sn = self._next_stat_sn() if last & HAS_STATUS else 0
            elif size == in_burst:
                flags = FINAL
            header = _pack(
                _DATA_IN, flags, 0, 0, size, 0, itt, NO_TAG, stat_sn, expected, maximum,
                command.sent_sequences, offset, rest,
            )  # fmt: skip
            command.sent_sequences += 1
            self._emit(header, cutter.take(size), size)
            offset += size


class _Cutter:
    """Takes pieces of given lengths from a row of buffers."""

    __slots__ = ("_at", "_index", "_views")

    def __init__(self, data: Sequence[Buffer]) -> None:
        self._views = [memoryview(part) for part in data]
        self._index = 0
        self._at = 0

    def take(self, size: int) -> list[Buffer]:
        pieces: list[Buffer] = []
        while size:
            view = self._views[self._index]
            piece = view[self._at : self._at + size]
            if not len(piece):
                self._index += 1
                self._at = 0
                continue
            pieces.append(piece)
            self._at += len(piece)
            size -= len(piece)
        return pieces


def _residuals(
    command: Command, status: int, given: int, length: int | None
) -> tuple[int, int, int]:
    """Flags, residual count and bidirectional read residual count (11.4.5).

    Args:
        command: What the initiator expected.
        status: A command that fails moves no data of which the initiator should know.
        given: Bytes of Data-In that there are.
        length: Bytes that the command transfers by its CDB, where that is known.
    """
    if command.write:
        gathering = command.gathering
        wanted = gathering.wanted if gathering is not None else 0
        moved = length if length is not None else wanted
        if command.read and not given:
            # Only one direction is in use; the other one is a residual of its own.
            flags, residual = _difference(command.edtl, moved)
            bidi = command.read_length
            return flags | (BIDI_UNDERFLOW if bidi else 0), residual, bidi
        if status and length is None:
            return 0, 0, 0
        return *_difference(command.edtl, moved), 0
    moved = given
    if length is not None and given and given >= command.read_length and not status:
        # Only what the initiator takes was read; the command transfers more.
        moved = max(length, given)
    return *_difference(command.edtl, moved), 0


def _difference(expected: int, moved: int) -> tuple[int, int]:
    if moved > expected:
        return OVERFLOW, min(moved - expected, MASK)
    if moved < expected:
        return UNDERFLOW, expected - moved
    return 0, 0
