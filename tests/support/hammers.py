"""Writers that never stop: every block they write says by whom, and the how manieth write it was.

A hammer keeps several writes in flight, each in a slot of its own, so that the last one that
was answered GOOD is exactly what a slot has to hold: what was refused was not performed.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import attrs

from tests.support import sbc_cdbs as sbc
from tests.support.iscsi_client import ConnectionLost, Task
from tests.support.scsi import REGISTER_IGNORE
from tests.support.target_rig import BLOCK, BUSY, CHECK_CONDITION, CONFLICT, GOOD, PATIENCE, Session

DEPTH = 4
"""Writes in flight, and slots, of a hammer."""


def stamp(author: int, number: int) -> bytes:
    """The contents of a block: author and number, all over it; zeroes before the first write."""
    if not number:
        return bytes(BLOCK)
    return (author.to_bytes(8, "big") + number.to_bytes(8, "big")) * (BLOCK // 16)


@attrs.define
class Write:
    """One write: when it was sent, when it was answered and how."""

    slot: int
    number: int
    sent: float
    status: int = -1
    answered: float = 0.0


class Hammer(threading.Thread):
    """A writer with a session of its own, in a thread of its own.

    Args:
        session: Logged in and settled; used by the thread alone from now on.
        author: Its number, in every block.
        first: First block of its area.
        blocks: How many blocks one write has.
        key: Registered before the first write and whenever `register` is asked for.

    Attributes:
        log: Every write that was answered.
        good: Per slot, the last write that was answered GOOD.
    """

    def __init__(
        self, session: Session, author: int, first: int, blocks: int, key: int | None
    ) -> None:
        super().__init__(name=f"hammer {author}", daemon=True)
        self.session = session
        self.author = author
        self.first = first
        self.blocks = blocks
        self.key = key
        self.log: list[Write] = []
        self.failure: BaseException | None = None
        self.good = [0] * DEPTH
        self._number = 0
        self._tasks: list[tuple[Task | None, Write]] = []
        self._end = threading.Event()
        self._register = threading.Event()
        self._registered = threading.Event()

    @property
    def last(self) -> int:
        """The block after its area."""
        return self.first + DEPTH * self.blocks

    def begin(self) -> Self:
        """Start, and wait until it has registered and written."""
        self._register.set()
        self.start()
        self.wait(lambda: any(self.good))
        return self

    def run(self) -> None:
        """Write until told to end."""
        tasks = self._tasks
        try:
            while not self._end.is_set():
                if self._register.is_set():
                    while tasks:
                        self._finish()
                    self._do_register()
                if len(tasks) == DEPTH:
                    self._finish()
                self._send()
            while tasks:
                self._finish()
        except ConnectionLost as error:
            self.failure = error
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self.session.close()

    @property
    def flying(self) -> list[Write]:
        """What is on its way."""
        return [write for _, write in self._tasks]

    def _send(self) -> None:
        slot = self._number % DEPTH
        self._number += 1
        write = Write(slot, self._number, time.monotonic())
        cdb = sbc.write(self.first + slot * self.blocks, self.blocks, 16)
        data = stamp(self.author, self._number) * self.blocks
        self._tasks.append((None, write))
        self._tasks[-1] = self.session.initiator.submit(self.session.lun, cdb, data), write

    def _finish(self) -> None:
        task, write = self._tasks[0]
        assert task is not None
        write.status = self.session.initiator.wait(task, PATIENCE).status
        write.answered = time.monotonic()
        if write.status == GOOD:
            self.good[write.slot] = write.number
        self.log.append(write)
        del self._tasks[0]

    def _do_register(self) -> None:
        if self.key is not None:
            deadline = time.monotonic() + PATIENCE
            while True:
                reply = self.session.out(REGISTER_IGNORE, 0, self.key)
                if reply.good:
                    break
                assert reply.status == CHECK_CONDITION, reply
                assert time.monotonic() < deadline
        self._register.clear()
        self._registered.set()

    # For the thread that judges.

    def register(self) -> None:
        """Register again, and go on once writes succeed."""
        self._registered.clear()
        self._register.set()
        self.wait(self._registered.is_set)
        before = sum(self.good)
        self.wait(lambda: sum(self.good) > before)

    def end(self) -> None:
        """Stop, having waited for what is in flight."""
        self._end.set()
        self.join(PATIENCE)
        assert not self.is_alive()

    def wait(self, condition: Callable[[], Any]) -> None:
        """Wait until it holds; fails at once when the hammer has failed."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.failure is None, f"hammer {self.author}: {self.failure!r}"
            assert time.monotonic() < deadline, f"hammer {self.author} does not get on"
            time.sleep(0.002)

    def fenced(self, since: float) -> None:
        """Wait until all that was in flight then was answered, and some more that was sent later.

        Raises:
            AssertionError: A write that was sent after `since` succeeded.
        """
        self.wait(lambda: self.log and self.log[-1].sent > since + 0.02)
        late = [write for write in self.log if write.sent > since]
        assert late
        for write in late:
            assert write.status in (CONFLICT, CHECK_CONDITION), write

    def stamps(self) -> bytes:
        """What its area has to hold: the last write of each slot that succeeded, and no other."""
        return b"".join(stamp(self.author, number) * self.blocks for number in self.good)

    def untroubled(self) -> None:
        """None of its writes was refused."""
        assert {write.status for write in self.log} <= {GOOD, BUSY}
        assert self.failure is None


def area(of: Session, hammer: Hammer) -> bytes:
    """What is in a hammer's area now."""
    count = hammer.last - hammer.first
    reply = of.command(sbc.read(hammer.first, count, 16), read=count * BLOCK)
    assert reply.good, reply
    return reply.data


def difference(found: bytes, expected: bytes) -> str:
    """The first block that is not as expected, in words; empty if all are."""
    for at in range(0, len(expected), BLOCK):
        if found[at : at + BLOCK] != expected[at : at + BLOCK]:
            seen, wanted = found[at : at + 16].hex(" ", 8), expected[at : at + 16].hex(" ", 8)
            torn = found[at : at + 16] * (BLOCK // 16) != found[at : at + BLOCK]
            return f"block {at // BLOCK}: {seen}{' (torn)' * torn} where {wanted} belongs"
    return "" if len(found) == len(expected) else "another length"


@contextlib.contextmanager
def ended(*hammers: Hammer) -> Iterator[tuple[Hammer, ...]]:
    """End them all, whatever happens."""
    try:
        yield hammers
    finally:
        for hammer in hammers:
            hammer._end.set()
        for hammer in hammers:
            if hammer.ident is not None:
                hammer.join(PATIENCE)
