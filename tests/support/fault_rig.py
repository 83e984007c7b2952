"""A running daemon, the thread that commits in it, and faults at single system calls of that.

The rig knows what the rules make of each command, reads the state as another daemon would,
and holds every answer to its promise: GOOD has happened, anything else but "outcome unknown"
has not, and neither changes later.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Self

import attrs

from flockpr import LogicalUnit
from flockpr.core.model import LogicalUnitState
from flockpr.spc.codes import Status
from flockpr.store.courtesy import COMPANY
from tests.support.daemons import (
    BY_THE_UNITS,
    LUN,
    Answer,
    Daemon,
    Door,
    Guest,
    Sent,
    decide,
    out,
    wait_for,
)
from tests.support.scsi import REGISTER_IGNORE, nexus
from tests.support.strace import SOCKET_CALLS, Call, traced

ERRORS = ("ENOSPC", "EIO", "EROFS", "EDQUOT", "EMFILE", "ESTALE", "EACCES")
NEEDS_A_PERSON = ("ENOSPC", "EROFS", "EDQUOT", "EACCES")
"""Errors that do not pass by waiting: NOT READY says so (docs/decisions/0006)."""

BECOMING, INTERVENTION = (0x02, 0x04, 0x01), (0x02, 0x04, 0x03)
UNKNOWN, LOST = (0x0B, 0x08, 0x01), (0x07, 0x44, 0x01)


@attrs.frozen
class Point:
    """One system call of a command.

    Attributes:
        name: Of the system call.
        count: How often one of that name was made before in that command, plus one.
        shape: What tells it from others, in every command alike.
        same: How many of that shape were made before, plus one.
    """

    name: str
    count: int
    shape: str
    same: int

    def like(self, other: Point) -> bool:
        """Whether the other is this call of another command."""
        return (self.shape, self.same) == (other.shape, other.same)

    def __str__(self) -> str:
        return f"{self.shape} ({self.same})"


def points(calls: Iterable[Call]) -> list[Point]:
    """Each call of a trace as a point to make it fail at."""
    names: Counter[str] = Counter()
    shapes: Counter[str] = Counter()
    found = []
    for call in calls:
        names[call.name] += 1
        shapes[shape(call)] += 1
        found.append(Point(call.name, names[call.name], shape(call), shapes[shape(call)]))
    return found


def shape(call: Call) -> str:
    """A system call without what differs from command to command."""
    text = re.sub(r"\b\d+</", "</", call.arguments)
    text = re.sub(r"\.aside-[0-9a-f]{32}-\d+", ".aside", text)
    text = re.sub(r"\d{16}\.json", "COMMIT", text)
    text = re.sub(r"\{.*|0x[0-9a-f]+.*", "", text)
    if call.name in ("read", "write", "pread64", "pwrite64", "getdents64"):
        text = text.split(",")[0]
    return f"{call.name} {text}"


@attrs.frozen
class Trial:
    """What one command came to while something failed.

    Attributes:
        answer: What the client got.
        happened: Whether it took effect.
        calls: The trace of the committing thread.
    """

    answer: Answer
    happened: bool
    calls: list[Call]

    @property
    def hit(self) -> list[Call]:
        """The calls that were tampered with."""
        return [call for call in self.calls if call.injected]


class Rig:
    """A daemon with one client, and another daemon beside it (in this process).

    Args:
        directory: Where all of it is.
        network: The daemon takes the root for a network file system.
        behind: The other daemon commits before each command, so that ours has to catch up.

    Attributes:
        unclosed: How many files the daemon could not close because that was made to fail, by
            shots that missed as well: strace does not carry out what it has fail.
    """

    def __init__(self, directory: str, *, network: bool = False, behind: bool = False) -> None:
        self.directory = directory
        self._behind = behind
        self._key = 0
        self._others_key = 0
        self.unclosed = 0
        with contextlib.ExitStack() as stack:
            path = os.path.join(directory, "root", LUN)
            self.other = stack.enter_context(LogicalUnit.open(path, host="other"))
            self.daemon = stack.enter_context(Daemon(directory, "one", [Door("a")], *BY_THE_UNITS))
            self.guest: Guest = stack.enter_context(self.daemon.guest())
            if network:
                self.daemon.believe_in_a_network(self.guest)
            self.worker, self.answerer = self.daemon.workers(self.guest)
            self._stack = stack.pop_all()

    def state(self) -> LogicalUnitState:
        """The state as another daemon finds it."""
        return self.other.snapshot().state

    def open_files(self) -> int:
        """How many descriptors the daemon has, without those of the client's disk: they are
        closed when there is time for it.
        """
        disk = os.path.join(self.directory, "device")
        return len([name for name in self.daemon.descriptors() if name != disk])

    def fresh(self) -> Sent:
        """A command that changes the state, and can be told from every other."""
        self._key += 1
        return out(REGISTER_IGNORE, 0, self._key)

    def _foreign_commit(self) -> None:
        self._others_key += 1
        sent = out(REGISTER_IGNORE, 0, self._others_key)
        result = self.other.execute(
            nexus("other"), sent.cdb, sent.data_out, report_attentions=False
        )
        assert result.status == Status.GOOD

    def baseline(self) -> list[Point]:
        """The system calls of one command when nothing fails, its tidying up included. Not that
        of its reply, which the same thread sends: a socket that fails is a client that has gone.
        """
        self.attempt()  # after a success of its own, as whoever is aimed at next
        found = points(self.attempt().calls)
        return [point for point in found if point.name not in SOCKET_CALLS]

    def aim(self, point: Point, effect: str) -> Trial:
        """Send a command and have `effect` on its call of this shape.

        Now and then a command makes other calls as well (the path is looked at once a second, on
        a share one in five asks for the right to commit next), so a shot that missed is aimed
        again by what was seen. One that hit a lock instead has the daemon believe in company,
        and commit in another way, for a while.
        """
        shot = point
        for _ in range(8):
            trial = self.attempt(f"{shot.name}:{effect}:when={shot.count}")
            found = points(trial.calls)
            hit = [p for p, call in zip(found, trial.calls, strict=True) if call.injected]
            if any(point.like(other) for other in hit):
                return trial
            if any("/locks>" in other.shape for other in hit):
                time.sleep(COMPANY)
            shot = next(filter(point.like, self.baseline()), point)
        raise AssertionError(f"{point} was never hit")

    def attempt(self, *inject: str) -> Trial:
        """Send a fresh command while something fails, and judge the answer at once."""
        if self._behind:
            self._foreign_commit()
        self.daemon.settle(self.worker)
        before, sent = self.state(), self.fresh()
        expected, good = decide(before, self.guest.who, sent)
        assert expected != before
        with traced(self.worker, self.directory, inject=inject) as calls:
            answer = self.guest.send(sent)
            self.daemon.settle(self.worker)  # or the tidying up would be missed
        self.unclosed += len([call for call in calls if call.injected and call.name == "close"])
        after = self.state()
        assert after in (before, expected), f"half a command: {before} {after}"
        trial = Trial(answer, after == expected, calls)
        about = f"{inject}: {answer}, happened: {trial.happened}, hit: {trial.hit}"
        if answer == good:
            assert trial.happened, f"acknowledged and lost: {about}"
        elif answer.status == Status.BUSY:
            assert not trial.happened, f"BUSY and done: {about}"
        else:
            assert answer.status == Status.CHECK_CONDITION, about
            assert answer.code in (BECOMING, INTERVENTION, UNKNOWN, LOST), about
            assert answer.code == UNKNOWN or not trial.happened, f"refused and done: {about}"
        return trial

    @contextlib.contextmanager
    def failing(self, *inject: str) -> Iterator[None]:
        """Have something fail in the committing thread for the time of a block."""
        self.daemon.settle(self.worker)
        with traced(self.worker, self.directory, inject=inject):
            yield

    def recover(self) -> None:
        """Nothing fails any more: commands work again, and nothing happens late."""
        wait_for(self._works, self.daemon.last_words)

    def _works(self) -> bool:
        before, sent = self.state(), self.fresh()
        expected, good = decide(before, self.guest.who, sent)
        answer = self.guest.send(sent)
        assert self.state() == (expected if answer == good else before)
        return answer == good

    def close(self) -> None:
        """End all of it."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def not_ready(error: str) -> tuple[int, int, int]:
    """What NOT READY says of an error."""
    return INTERVENTION if error in NEEDS_A_PERSON else BECOMING
