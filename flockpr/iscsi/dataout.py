"""Data-Out of one command: immediate, unsolicited and asked for by R2T.

With DataPDUInOrder and DataSequenceInOrder both Yes, data comes as sequences without holes:
at most one unsolicited sequence, then one for each R2T. DataSN counts the PDUs of a sequence
from 0 (RFC 7143 11.7.5). A number that is not the next one says that a PDU was lost, which
recovery level 0 cannot mend (7.9): the rest of what was asked for is dropped, and the command
ends with CHECK CONDITION when the last sequence has ended (7.8, 11.17.1).
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final

import attrs

from flockpr.iscsi.numbers import MASK
from flockpr.iscsi.pdu import NO_TAG


class Fault(Enum):
    """What ends a command whose data went wrong: sense of RFC 7143 11.4.7.2."""

    LOST_DATA = (0x0B, 0x47, 0x05)
    UNEXPECTED_UNSOLICITED = (0x0B, 0x0C, 0x0C)
    WRONG_AMOUNT = (0x0B, 0x0C, 0x0D)


@attrs.define(eq=False)
class Sequence:
    """Data PDUs that belong together.

    Attributes:
        tag: Target transfer tag; `NO_TAG` for the unsolicited one.
        offset: Where the next PDU must begin.
        end: Where the sequence must have ended.
        data_sn: DataSN of the next PDU.
    """

    tag: int
    offset: int
    end: int
    data_sn: int = 0

    def fits(self, offset: int, length: int, final: bool) -> bool:
        """Whether the next PDU may carry these bytes; what was asked for must come whole."""
        end = offset + length
        whole = end == self.end or not final or self.tag == NO_TAG
        return offset == self.offset and end <= self.end and whole


@attrs.frozen
class ReadyToTransfer:
    """An R2T that is to be sent."""

    tag: int
    offset: int
    length: int
    number: int


_NOWHERE: Final = (0, 0)


class Gathering:
    """The data of one command while it arrives.

    Args:
        length: Bytes that the initiator has (EDTL).
        immediate: Bytes that came with the command itself.
        final: The F bit of the command: no unsolicited sequence follows.
        first_burst: Most bytes of unsolicited data, immediate data among them.
    """

    __slots__ = ("_r2t_number", "_sequences", "fault", "filled", "length", "solicited", "wanted")

    def __init__(self, length: int, immediate: int, final: bool, first_burst: int) -> None:
        self.length = length
        self.wanted = 0
        self.filled = immediate
        self.fault: Fault | None = None
        self._sequences: deque[Sequence] = deque()
        self._r2t_number = 0
        limit = min(length, first_burst)
        if immediate > limit:
            self.fault = Fault.WRONG_AMOUNT
        # What may still come unsolicited is not asked for; the F bit closes that sequence.
        self.solicited = immediate
        if not final:
            self._sequences.append(Sequence(NO_TAG, immediate, limit))

    @property
    def open(self) -> bool:
        """A sequence has not ended yet."""
        return bool(self._sequences)

    @property
    def complete(self) -> bool:
        """All that is wanted has arrived, in order."""
        return not self._sequences and self.filled >= self.wanted and self.fault is None

    def fail(self, fault: Fault) -> None:
        """The data cannot be used; the first reason is the one that is told."""
        if self.fault is None:
            self.fault = fault

    def place(
        self, tag: int, data_sn: int, offset: int, length: int, final: bool
    ) -> tuple[int, int]:
        """Checks one Data-Out PDU.

        Args:
            tag: Its target transfer tag.
            data_sn: Its DataSN.
            offset: Its Buffer Offset.
            length: Of its data segment, bytes.
            final: Its F bit.

        Returns:
            Where its data goes, from and to; both the same when it is dropped.
        """
        sequence = self._find(tag)
        if sequence is None:
            self.fail(Fault.UNEXPECTED_UNSOLICITED if tag == NO_TAG else Fault.WRONG_AMOUNT)
            if final:
                # Nobody knows which sequence this was meant to end: none is waited for.
                self._sequences.clear()
            return _NOWHERE
        if data_sn != sequence.data_sn:
            self.fail(Fault.LOST_DATA)
        elif not sequence.fits(offset, length, final):
            self.fail(Fault.WRONG_AMOUNT)
        sequence.data_sn = sequence.data_sn + 1 & MASK
        sequence.offset = offset + length
        if final:
            self._sequences.remove(sequence)
        if self.fault is not None:
            return _NOWHERE
        self.filled += length
        if tag == NO_TAG:
            self.solicited = offset + length
        return offset, offset + length

    def _find(self, tag: int) -> Sequence | None:
        for sequence in self._sequences:
            if sequence.tag == tag:
                return sequence
        return None

    def solicit(self, max_burst: int, outstanding: int, tag: int) -> ReadyToTransfer | None:
        """The next R2T to be sent, if it is time for one.

        Args:
            max_burst: MaxBurstLength.
            outstanding: MaxOutstandingR2T.
            tag: The target transfer tag that it would get.
        """
        sequences = self._sequences
        if self.solicited >= self.wanted or self.fault is not None:
            return None
        if len(sequences) >= outstanding or (sequences and sequences[0].tag == NO_TAG):
            return None
        offset = self.solicited
        length = min(max_burst, self.wanted - offset)
        self.solicited = offset + length
        sequences.append(Sequence(tag, offset, offset + length))
        number = self._r2t_number
        self._r2t_number += 1
        return ReadyToTransfer(tag, offset, length, number)
