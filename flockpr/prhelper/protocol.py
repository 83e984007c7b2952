"""The framing of QEMU's pr-manager-helper protocol, without input or output.

A connection is a greeting of four bytes each way and then requests and responses in
turn. `Conversation` is the helper's side of reading: it says how many bytes may be read
next and whether a descriptor may come with them, is given what was read, and returns
each request that is complete. The reader must never ask for more than `wanted`: the
kernel hands a descriptor over with the first byte of a read that reaches the message it
was sent with, so a longer read would take the next request's descriptor for this one's.
"""

from __future__ import annotations

import enum
import struct

import attrs

from flockpr.errors import ProtocolViolation
from flockpr.spc import sense as senses
from flockpr.spc.codes import Opcode, Status

FEATURES = 0
"""What is offered. QEMU reads this word in its own byte order, so only zero is safe."""

CLEANUP_FEATURE = 1 << 0
"""A client may ask for it all the same: newer ones send `CLEANUP` without negotiation."""

CLEANUP = 0xFF
"""Pseudo operation code "forget this disk"; here it does nothing, see `flockpr.prhelper.door`."""

FEATURE_WORD = struct.Struct(">I")
CDB_LENGTH = 16
MAX_TRANSFER = 8192
"""Largest data-out or data-in buffer in bytes; one more closes the connection."""

SENSE_LENGTH = 96
RESPONSE_HEADER = struct.Struct(f">ii{SENSE_LENGTH}s")

GREETING = FEATURE_WORD.pack(FEATURES)

MAX_KNOWN = 4
"""Requests without data-out that are kept: a guest sends the same few again and again."""

_LENGTH_FIELD = struct.Struct(">H")
_ACCEPTED = frozenset({Opcode.PERSISTENT_RESERVE_IN, Opcode.PERSISTENT_RESERVE_OUT, CLEANUP})


@attrs.frozen
class Request:
    """One request, read completely.

    Attributes:
        cdb: 16 bytes, as sent; the guest's CDB is padded with zeros on the right.
        data_out: Parameter list, `length` bytes for PERSISTENT RESERVE OUT, else empty.
        descriptor_lost: The client sent a descriptor, but this process could not take it
            (its table was full): the command cannot be executed now.
    """

    cdb: bytes
    data_out: bytes = b""
    descriptor_lost: bool = False

    @property
    def opcode(self) -> int:
        """The operation code: 5Eh, 5Fh or FFh."""
        return self.cdb[0]

    @property
    def service_action(self) -> int:
        """Service action, 5 bits. QEMU passes on what a guest puts into the bits above."""
        return self.cdb[1] & 0x1F

    @property
    def length(self) -> int:
        """Allocation or parameter list length in bytes: bytes 7-8, for IN and OUT alike."""
        return transfer_length(self.cdb)


class _Phase(enum.Enum):
    FEATURES = enum.auto()
    CDB = enum.auto()
    DATA_OUT = enum.auto()


# By their own names, because to look one up in its enumeration takes nine times as long.
_FEATURES, _CDB, _DATA_OUT = _Phase


class Conversation:
    """The helper's side of reading one connection.

    Attributes:
        wanted: How many bytes may be read next, at least 1, never more than that.
    """

    def __init__(self) -> None:
        self._phase = _FEATURES
        self.wanted = FEATURE_WORD.size
        self._buffer = bytearray()
        self._cdb = b""
        self._known: dict[bytes, Request] = {}
        self._descriptors = 0
        self._lost = False

    @property
    def greeted(self) -> bool:
        """Whether the client has answered the greeting."""
        return self._phase is not _FEATURES

    @property
    def takes_descriptors(self) -> bool:
        """Whether a descriptor may come with the next bytes.

        Only with those of a CDB. One that comes with the feature word or with data-out is
        to be dropped, which the kernel does when it is given no room for it.
        """
        return self._phase is _CDB

    @property
    def idle(self) -> bool:
        """Whether the client is between two requests, where it may stay for days."""
        return self._phase is _CDB and not self._buffer

    def receive(self, data: bytes, descriptors: int = 0, *, lost: bool = False) -> Request | None:
        """Take what was read.

        Args:
            data: 1 to `wanted` bytes.
            descriptors: How many descriptors came with them.
            lost: One came with them that this process could not take.

        Returns:
            A request if it is complete now; the conversation then expects the next one.

        Raises:
            ProtocolViolation: The stream is broken; close the connection.
        """
        if descriptors == 1 and not lost and self.idle:
            known = self._known.get(data)
            if known is not None:
                return known
        if not 1 <= len(data) <= self.wanted:
            raise ValueError(f"{len(data)} bytes given where 1 to {self.wanted} are wanted")
        self._descriptors += descriptors
        self._lost = self._lost or lost
        if self._descriptors > 1:
            raise ProtocolViolation("more than one file descriptor with a request")
        part = self._whole(data)
        if not part:
            return None
        match self._phase:
            case _Phase.FEATURES:
                self._check_features(part)
                self._expect_cdb()
                return None
            case _Phase.CDB:
                return self._take_cdb(part)
            case _Phase.DATA_OUT:
                return self._complete(part)

    def end(self) -> str:
        """Say what the end of the stream interrupts; "" if nothing."""
        if self._phase is _FEATURES:
            return "" if not self._buffer else "the feature word"
        if self._phase is _DATA_OUT:
            return "data-out"
        return "a CDB" if self._buffer else ""

    def _whole(self, data: bytes) -> bytes:
        """What is complete with these bytes, which mostly are all of it; empty if nothing is."""
        self.wanted -= len(data)
        if not self._buffer and not self.wanted:
            return data
        self._buffer += data
        if self.wanted:
            return b""
        part = bytes(self._buffer)
        self._buffer.clear()
        return part

    def _check_features(self, part: bytes) -> None:
        (requested,) = FEATURE_WORD.unpack(part)
        if requested & ~(FEATURES | CLEANUP_FEATURE):
            raise ProtocolViolation(f"features {requested:#010x} were not offered")

    def _expect_cdb(self) -> None:
        self._phase = _CDB
        self.wanted = CDB_LENGTH
        self._descriptors = 0
        self._lost = False

    def _take_cdb(self, cdb: bytes) -> Request | None:
        if not self._descriptors and not self._lost:
            raise ProtocolViolation("no file descriptor with a CDB")
        if cdb[0] not in _ACCEPTED:
            # It may or may not have data-out, so where the next request starts is unknown.
            raise ProtocolViolation(f"operation code {cdb[0]:#04x} is none of this protocol")
        length = transfer_length(cdb)
        if length > MAX_TRANSFER:
            raise ProtocolViolation(f"transfer length {length} is above {MAX_TRANSFER}")
        self._cdb = cdb
        if cdb[0] == Opcode.PERSISTENT_RESERVE_OUT and length:
            # Data-out is read before anything is refused, or the stream is out of step.
            self._phase = _DATA_OUT
            self.wanted = length
            return None
        return self._complete(b"")

    def _complete(self, data_out: bytes) -> Request:
        request = Request(self._cdb, data_out, self._lost)
        if not data_out and not self._lost:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[self._cdb] = request
        self._expect_cdb()
        return request


def transfer_length(cdb: bytes) -> int:
    """Return bytes 7-8 of a CDB, the only length that QEMU and its helper look at.

    The standard has four bytes for PERSISTENT RESERVE OUT. A guest that fills bytes 5-6
    is followed by as much data-out as bytes 7-8 say, so reading them would lose the step.
    """
    (length,) = _LENGTH_FIELD.unpack_from(cdb, 7)
    return int(length)


def encode_response(request: Request, status: int, sense: bytes, data_in: bytes) -> bytes:
    """Return the response to a request: 104 bytes and, for IN with GOOD, the payload.

    This is the one place that decides the payload's size. A payload longer than the
    allocation length, or any payload where none is due, makes QEMU abort, which kills the
    guest.

    Args:
        request: What is answered.
        status: SCSI status, 8 bits.
        sense: Sense data, meant only for CHECK CONDITION; cut to 96 bytes.
        data_in: Data for the initiator; cut to the allocation length.
    """
    payload = b""
    if request.opcode == Opcode.PERSISTENT_RESERVE_IN and status == Status.GOOD:
        payload = data_in[: request.length]
    if status != Status.CHECK_CONDITION:
        sense = b""
    elif not sense:
        # Zeros would reach the guest as "no sense", which means that nothing is wrong.
        sense = senses.INTERNAL_TARGET_FAILURE.fixed()
    header = RESPONSE_HEADER.pack(status, len(payload), sense[:SENSE_LENGTH])
    return header + payload
