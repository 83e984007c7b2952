"""An image on a storage device with a volatile cache, whose power can be cut.

The file is there, and is as long as it says; what is written lies in memory. A write is
volatile until a flush, or from the beginning durable where that was asked for. What a power
cut leaves of volatile writes is the test's choice, block by block.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from flockpr.block.calls import ImageCalls
from tests.support.disks import BLOCK


class PowerCalls(ImageCalls):
    """System calls on such an image.

    Attributes:
        stable: What a power cut leaves in any case.
        volatile: By block, what was written and not made stable, oldest first.
    """

    def __init__(self, blocks: int) -> None:
        self.stable = bytearray(blocks * BLOCK)
        self.volatile: dict[int, list[bytes]] = {}

    def ring(self, room: int) -> None:
        """None: whatever is done is done by the calls below."""

    def preadv(self, fd: int, buffers: Any, offset: int) -> int:
        """What was written last, stable or not."""
        (view,) = buffers
        for at in range(0, len(view), BLOCK):
            view[at : at + BLOCK] = self._block((offset + at) // BLOCK)
        return len(view)

    def pwritev(
        self,
        fd: int,
        buffers: Sequence[memoryview | bytes],
        offset: int,
        *,
        durable: bool = False,
    ) -> int:
        """Into the cache, or through it."""
        (view,) = buffers
        for at in range(0, len(view), BLOCK):
            self._put((offset + at) // BLOCK, bytes(view[at : at + BLOCK]), durable)
        return len(view)

    def punch(self, fd: int, offset: int, length: int) -> None:
        """Zeros, in the cache."""
        for at in range(offset, offset + length, BLOCK):
            self._put(at // BLOCK, bytes(BLOCK), durable=False)

    def fdatasync(self, fd: int) -> None:
        """Everything in the cache is stable."""
        for number, versions in self.volatile.items():
            self._settle(number, versions[-1])
        self.volatile.clear()

    def cut(self, chance: random.Random) -> None:
        """Cut the power: of each block some version survives, any that was not made stable."""
        for number, versions in self.volatile.items():
            kept = chance.randrange(len(versions) + 1)
            if kept:
                self._settle(number, versions[kept - 1])
        self.volatile.clear()

    def _block(self, number: int) -> bytes:
        versions = self.volatile.get(number)
        return versions[-1] if versions else bytes(self.stable[number * BLOCK :][:BLOCK])

    def _put(self, number: int, data: bytes, durable: bool) -> None:
        if durable:
            self.volatile.pop(number, None)
            self._settle(number, data)
        else:
            self.volatile.setdefault(number, []).append(data)

    def _settle(self, number: int, data: bytes) -> None:
        self.stable[number * BLOCK : (number + 1) * BLOCK] = data
