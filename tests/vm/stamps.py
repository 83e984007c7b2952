"""Blocks that say who wrote them, and what may be found on a disk that two hosts write.

Every sector carries its author, the number of the write and its place, and is filled with it, so
that a torn sector shows. The ledger knows of each write when it was sent and how it ended.
"""

from __future__ import annotations

import enum
import struct
import threading
from collections.abc import Mapping, Sequence

from attrs import define, field, frozen

SECTOR = 512
SECTORS = 8
"""Of a block, which is written at once."""
BLOCK = SECTOR * SECTORS
_STAMP = struct.Struct(">8s16sQII24x")
_MAGIC = b"fpr-duel"


class Violation(AssertionError):
    """Something is on the disk that may not be, or was carried out that may not be."""


@frozen
class Stamp:
    """What a sector says of its write.

    Attributes:
        author: Short name of the initiator.
        number: Of the write, counted by its author.
        block: For which block it was.
    """

    author: str
    number: int
    block: int


def block_of(stamp: Stamp) -> bytes:
    """The bytes of a whole block."""
    sectors = [
        _STAMP.pack(_MAGIC, stamp.author.encode(), stamp.number, stamp.block, sector)
        for sector in range(SECTORS)
    ]
    return b"".join(one * (SECTOR // _STAMP.size) for one in sectors)


def stamps_in(data: bytes) -> list[Stamp | None]:
    """The stamp of each sector; None where nothing was ever written.

    Raises:
        Violation: A sector is none that anybody has written.
    """
    found: list[Stamp | None] = []
    for at in range(0, len(data), SECTOR):
        sector = data[at : at + SECTOR]
        if not any(sector):
            found.append(None)
            continue
        magic, author, number, block, place = _STAMP.unpack_from(sector)
        whole = sector == sector[: _STAMP.size] * (SECTOR // _STAMP.size)
        if magic != _MAGIC or not whole or place != at // SECTOR % SECTORS:
            raise Violation(f"a torn or misplaced sector at {at}: {sector[:64]!r}")
        found.append(Stamp(author.rstrip(b"\0").decode(), number, block))
    return found


class Outcome(enum.Enum):
    """How a write ended."""

    FLYING = "sent, and not answered"
    GOOD = "acknowledged"
    REFUSED = "answered: nothing was done"
    UNKNOWN = "nobody knows"


@define
class Write:
    """One write of an author."""

    stamp: Stamp
    issued: float
    ended: float = 0.0
    outcome: Outcome = Outcome.FLYING


@define
class Ledger:
    """All writes of one author; thread-safe.

    Args:
        author: Short name of the initiator.
    """

    author: str
    writes: dict[int, Write] = field(factory=dict)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def issue(self, block: int, now: float) -> Stamp:
        """A write is about to be sent."""
        with self._lock:
            stamp = Stamp(self.author, len(self.writes) + 1, block)
            self.writes[stamp.number] = Write(stamp, now)
            return stamp

    def end(self, stamp: Stamp, outcome: Outcome, now: float) -> None:
        """It was answered, or never will be."""
        with self._lock:
            write = self.writes[stamp.number]
            write.ended, write.outcome = now, outcome

    def count(self, outcome: Outcome) -> int:
        """How many ended so."""
        with self._lock:
            return sum(write.outcome is outcome for write in self.writes.values())

    def since(self, number: int) -> list[Write]:
        """The writes after a number, in order."""
        with self._lock:
            return [write for n, write in sorted(self.writes.items()) if n > number]

    @property
    def last(self) -> int:
        """Number of the newest write."""
        with self._lock:
            return len(self.writes)


def judge_open(
    ledger: Ledger,
    after: int,
    before: Mapping[int, Stamp | None],
    found: Mapping[int, Sequence[Stamp | None]],
) -> None:
    """What may be in the blocks of an author who could write since his write number `after`.

    Args:
        ledger: His.
        after: Number of his newest write from before he could.
        before: What was in each block when he began.
        found: What is in the sectors of each block now; no write of his can be under way.

    Raises:
        Violation: An acknowledged write is not there, or something is that should not.
    """
    newest: dict[int, int] = {}
    for write in ledger.since(after):
        if write.outcome is Outcome.GOOD:
            newest[write.stamp.block] = write.stamp.number
    for block, sectors in found.items():
        for stamp in sectors:
            if stamp == before[block] and block not in newest:
                continue
            if stamp is None or stamp.author != ledger.author or stamp.block != block:
                raise Violation(f"block {block} has {stamp}, its author wrote {newest.get(block)}")
            if stamp.number < newest.get(block, after + 1):
                raise Violation(f"block {block} has {stamp}, acknowledged was {newest.get(block)}")
            if ledger.writes[stamp.number].outcome is Outcome.REFUSED:
                raise Violation(f"{ledger.writes[stamp.number]} was refused, and carried out")


def judge_sealed(seals: Mapping[int, Stamp], found: Mapping[int, Sequence[Stamp | None]]) -> None:
    """Nothing but the seals may be there.

    Args:
        seals: What the survivor wrote over each block after GOOD.
        found: What is in the sectors of each block now.

    Raises:
        Violation: A write of whoever was fenced landed after it.
    """
    for block, sectors in found.items():
        for stamp in sectors:
            if stamp != seals[block]:
                raise Violation(f"after GOOD: block {block} has {stamp} over {seals[block]}")


def judge_fenced(ledger: Ledger, good: float) -> None:
    """Nothing that was sent after GOOD may have been carried out.

    Args:
        ledger: Of whoever was fenced and still is.
        good: When the GOOD had arrived.

    Raises:
        Violation: A write was.
    """
    for write in ledger.since(0):
        if write.issued > good and write.outcome is Outcome.GOOD:
            raise Violation(f"sent {write.issued - good:.3f} s after GOOD and done: {write}")
