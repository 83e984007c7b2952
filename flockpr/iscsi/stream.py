"""Where PDUs begin and end in a stream of bytes.

The owner of the socket asks for buffers, receives into them and says how much came. Small
PDUs are taken out of one buffer, many to a call. A data segment that is not all there is
received straight into its destination: the first of the two buffers is then the rest of that
destination and the second is the ordinary one, so that one recvmsg also brings what follows.

Nothing is allocated for a length that a header claims before that length was compared with a
limit: the buffer has one size, and destinations come from the receiver, who decided on them.
"""

from __future__ import annotations

from typing import Final, Protocol

from flockpr.iscsi.digests import DIGEST_LENGTH, Checksum, to_bytes
from flockpr.iscsi.pdu import BHS_LENGTH

_HEADER: Final = 0
_DATA: Final = 1
_TAIL: Final = 2


class Receiver(Protocol):
    """Who is told about the PDUs of a stream."""

    def begin(self, bhs: bytes, ahs: bytes, length: int) -> memoryview | None:
        """A header was read and `length` bytes of data follow.

        Returns:
            Where the data goes. What does not fit there is dropped; None drops all.
        """

    def finish(self, intact: bool) -> bool:
        """The data of that PDU has arrived, `intact` unless its digest says otherwise.

        Returns:
            Whether to go on with the next PDU.
        """

    def broken(self, reason: str) -> None:
        """The stream cannot be followed any more."""


class PduStream:
    """Finds the PDUs in what one peer sends, however it is cut to pieces.

    Args:
        receiver: Who is told.
        size: Bytes of the buffer; at least the longest header, 1072 bytes.
        max_data: The longest data segment that is followed (MaxRecvDataSegmentLength).
    """

    __slots__ = (
        "_at",
        "_buffer",
        "_checksum",
        "_digest",
        "_end",
        "_left",
        "_offered",
        "_sink",
        "_stage",
        "_tail",
        "_view",
        "data_digest",
        "ended",
        "header_digest",
        "max_data",
        "receiver",
        "stopped",
    )

    def __init__(self, receiver: Receiver, size: int, max_data: int) -> None:
        self.receiver = receiver
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)
        self._at = 0  # parsed up to here
        self._end = 0  # received up to here
        self._stage = _HEADER
        self._sink: memoryview | None = None  # what is left of the destination
        self._left = 0  # data bytes still to come
        self._tail = 0  # length of padding and data digest
        self._digest = 0  # of the data so far
        self._offered = 0  # bytes of the destination that were handed out to be received into
        self._checksum: Checksum | None = None
        self.max_data = max_data
        self.header_digest = False
        self.data_digest = False
        self.stopped = False
        self.ended = False

    def use_digests(self, checksum: Checksum | None, *, header: bool, data: bool) -> None:
        """From the next PDU on, digests follow headers and data segments or not."""
        self._checksum = checksum
        self.header_digest = header
        self.data_digest = data

    def resize(self, size: int) -> None:
        """Gives the buffer another size; what it holds stays."""
        kept = bytes(self._view[self._at : self._end])
        buffer = bytearray(max(size, len(kept)))
        buffer[: len(kept)] = kept
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._at, self._end = 0, len(kept)

    def get_buffers(self) -> list[memoryview]:
        """Where to receive next, in order.

        Raises:
            RuntimeError: Nothing more can be received before the receiver lets parsing go on.
        """
        if self._at == self._end:
            self._at = self._end = 0
        elif self._at and len(self._buffer) - self._end < len(self._buffer) >> 1:
            held = self._end - self._at
            self._view[:held] = self._view[self._at : self._end]
            self._at, self._end = 0, held
        sink = self._sink
        if self._stage == _DATA and sink is not None and len(sink) and not self.stopped:
            self._offered = len(sink)
            return [sink, self._view[self._end :]]
        self._offered = 0
        if self._end == len(self._buffer):
            raise RuntimeError("the buffer is full and parsing stands still")
        return [self._view[self._end :]]

    def received(self, count: int) -> None:
        """Follows `count` bytes that were received into the buffers, in their order."""
        if self.ended:
            return
        if self._offered:
            direct = min(count, self._offered)
            self._offered = 0
            self._take(direct)
            count -= direct
        self._end += count
        self.parse()

    def parse(self) -> None:
        """Goes on with what is in the buffer, until there is too little or it is stopped."""
        while not self.stopped:
            if self._stage == _HEADER:
                if not self._header():
                    return
            elif self._stage == _DATA:
                if not self._data():
                    return
            elif not self._trailer():
                return

    def discard(self) -> None:
        """Drops all that is held and all that comes from now on."""
        self.stopped = self.ended = True
        self._at = self._end = 0
        self._offered = 0
        self._sink = None

    @property
    def receiving(self) -> bool:
        """Whether a destination is in use: bytes for it may be arriving just now."""
        return self._stage != _HEADER and self._sink is not None

    def _header(self) -> bool:
        at = self._at
        available = self._end - at
        if available < BHS_LENGTH:
            return False
        buffer = self._buffer
        ahs_length = buffer[at + 4] << 2
        length = buffer[at + 5] << 16 | buffer[at + 6] << 8 | buffer[at + 7]
        if length > self.max_data:
            self.receiver.broken(f"a data segment of {length} bytes, {self.max_data} are allowed")
            return False
        need = BHS_LENGTH + ahs_length
        digest = DIGEST_LENGTH if self.header_digest else 0
        if available < need + digest:
            return False
        bhs = bytes(self._view[at : at + BHS_LENGTH])
        ahs = bytes(self._view[at + BHS_LENGTH : at + need]) if ahs_length else b""
        if digest and not self._matches(bhs + ahs if ahs else bhs, at + need):
            self.receiver.broken("header digest")
            return False
        self._at = at + need + digest
        sink = self.receiver.begin(bhs, ahs, length)
        if self.stopped:
            return False
        self._left = length
        if not length:
            self._sink = None
            self._stage = _HEADER
            self.stopped = not self.receiver.finish(True) or self.stopped
            return True
        self._sink = sink if sink is None or len(sink) <= length else sink[:length]
        self._digest = 0
        self._tail = (-length & 3) + (DIGEST_LENGTH if self.data_digest else 0)
        self._stage = _DATA
        return True

    def _matches(self, covered: bytes, at: int) -> bool:
        assert self._checksum is not None
        return self._view[at : at + DIGEST_LENGTH] == to_bytes(self._checksum(covered, 0))

    def _data(self) -> bool:
        """Moves on over the data segment in the buffer."""
        sink = self._sink
        at = self._at
        count = min(self._end - at, self._left)
        if sink is not None and count:
            count = min(count, len(sink)) or count
        if not count:
            return False
        if sink:
            sink[:count] = self._view[at : at + count]
            self._take(count)
        else:
            if self.data_digest:
                assert self._checksum is not None
                self._digest = self._checksum(self._view[at : at + count], self._digest)
            self._left -= count
            if not self._left:
                self._stage = _TAIL
        self._at = at + count
        return True

    def _take(self, count: int) -> None:
        """Counts bytes that are in the destination."""
        sink = self._sink
        assert sink is not None
        if self.data_digest:
            assert self._checksum is not None
            self._digest = self._checksum(sink[:count], self._digest)
        self._sink = sink[count:]
        self._left -= count
        if not self._left:
            self._stage = _TAIL

    def _trailer(self) -> bool:
        """Takes padding and digest, which the digest covers and does not cover (11.1)."""
        intact = True
        tail = self._tail
        if tail:
            at = self._at
            if self._end - at < tail:
                return False
            if self.data_digest:
                assert self._checksum is not None
                pad = tail - DIGEST_LENGTH
                digest = self._digest
                if pad:
                    digest = self._checksum(self._view[at : at + pad], digest)
                intact = self._view[at + pad : at + tail] == to_bytes(digest)
            self._at = at + tail
        self._sink = None
        self._stage = _HEADER
        self.stopped = not self.receiver.finish(intact) or self.stopped
        return True
