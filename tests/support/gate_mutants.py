"""Gates that were broken on purpose, each in one place, and the scene that must notice."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import random
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import attrs

from flockpr import LogicalUnit, OutAction, Status, create_lun
from flockpr.core.access import allowed
from flockpr.gate import Doorbell, Permit, image, places, stake
from flockpr.gate.image import ImageFile
from flockpr.gate.narrowing import Held
from flockpr.gate.places import Range
from flockpr.gate.rounds import Rounds
from flockpr.gate.stake import Stake
from flockpr.logical_unit.administration import Administration
from flockpr.logical_unit.decisions import Decisions
from flockpr.store.syscalls import Syscalls
from tests.support.gate_world import play, walking
from tests.support.gates import LONG, Aside, Failing, Rig, eventually, only_one_take, soon, usable
from tests.support.luns import out
from tests.support.scsi import WRITE_10, A, B, basic_list, out_cdb
from tests.support.store_mutants import Mutant

CUTS = [("", 0), *((who, at) for at in range(1, 20) for who in ("command", "target"))]
TYPE = 5


def schedules() -> None:
    """Schedules by chance, with every cut."""
    for cut in CUTS:
        for seed in range(30):
            play(walking(random.Random(seed)), cut=cut)


@contextlib.contextmanager
def _lun() -> Iterator[tuple[LogicalUnit, Permit]]:
    """A LUN that A has reserved and B is registered with, and a write under way."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        identity = create_lun(root, "disk", image="disk.img", size=1 << 20)
        with LogicalUnit.open(f"{root}/disk") as unit:
            for nexus, key in ((A, 1), (B, 2)):
                assert out(unit, nexus, OutAction.REGISTER, new=key) is Status.GOOD
            assert out(unit, A, OutAction.RESERVE, own=1, type_=TYPE) is Status.GOOD
            target = Permit(root, identity.lun, "disk.img", on_open=lambda _: None)
            assert target.enter(soon())
            try:
                yield unit, target
            finally:
                target.close()


class _Counting(Syscalls):
    """Counts how often somebody was refused permits that another one has."""

    refused = 0

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        try:
            super().set_lock(fd, kind, start, length)
        except BlockingIOError:
            first, many = places.ALL_PERMITS
            self.refused += first <= start < first + many
            raise


def _preempt(unit: LogicalUnit) -> Status:
    cdb = out_cdb(OutAction.PREEMPT, type_=TYPE)
    return unit.execute(B, cdb, basic_list(2, 1), timeout=LONG).status


def waits_for_writes() -> None:
    """PREEMPT is not committed while a write is under way."""
    with _lun() as (unit, target):
        server = _Counting()
        assert unit._gate is not None
        unit._gate.syscalls = server
        answer = Aside(lambda: _preempt(unit))
        eventually(lambda: answer.done or server.refused > 2, "nothing happens")
        still = allowed(unit.snapshot().state, A, WRITE_10)
        assert still, "committed while a write is under way"
        target.leave()
        assert answer.result() is Status.GOOD


def decides_again() -> None:
    """The key of the sender was changed while it waited: RESERVATION CONFLICT."""
    with _lun() as (unit, target), silent_log():
        real, lost = unit._store.commit, []

        def commit(*given: Any, **named: Any) -> Any:
            after = real(*given, **named)
            lost.extend([True] * (after is None))
            assert len(lost) < 5, "decided on a state that is not the newest"
            return after

        unit._store.commit = commit  # type: ignore[method-assign]
        answer = Aside(lambda: _preempt(unit))
        eventually(lambda: not usable(target), "it does not take the gate")
        with LogicalUnit.open(unit._store.path) as other:
            assert out(other, B, OutAction.REGISTER, own=2, new=9) is Status.GOOD
        target.leave()
        assert answer.result() is Status.RESERVATION_CONFLICT


def proves_first() -> None:
    """The permit is lost and cannot be had again: not GOOD."""
    with _lun() as (unit, target), silent_log():
        target.leave()
        server = Failing()
        assert unit._gate is not None
        unit._gate.syscalls = server
        server.errors["pread_into"] = errno.EIO
        with only_one_take():
            status = _preempt(unit)
        assert status is not Status.GOOD, "GOOD without a proof"
        assert status is Status.CHECK_CONDITION


def stays_away_while_somebody_knocks() -> None:
    """A permit is not taken while a command waits for another one's."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root,
        mock.patch("flockpr.gate.local.permits_of", return_value=[]),
    ):
        rig = Rig.at(Path(root))
        busy, other = rig.permit("busy"), rig.permit("other")
        assert busy.enter(soon())
        waiting = Aside(lambda: _narrow(rig))
        eventually(rig.rung, "nobody rings")
        asked: list[str] = []
        real = Doorbell.wanted

        def wanted(*given: Any) -> bool:
            asked.append(threading.current_thread().name)
            return real(*given)

        with mock.patch.object(Doorbell, "wanted", wanted):
            entering = Aside(lambda: other.enter(soon()))
            eventually(
                lambda: entering.done or asked.count("permit") > 1,
                "it does not ask whether it is wanted",
            )
            entered = entering.done
            if entered:
                other.leave()
            busy.leave()
            waiting.result()
            assert entering.result()
        if not entered:
            other.leave()
        rig.close()
        assert not entered, "a permit is taken while somebody knocks"


def closes_what_was_lost() -> None:
    """Nothing but closing it makes the server forget that a description has lost a lock."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root, silent_log():
        rig, server = Rig.at(Path(root)), Failing()
        target = rig.permit(syscalls=server)
        assert target.enter(soon())
        server.poisoned.add(target.fd)
        assert target.lost()
        target.leave()
        assert target.enter(soon())
        poisoned = target.fd in server.poisoned
        target.leave()
        rig.close()
        assert not poisoned, "a description that lost its lock is used again"


def _narrow(rig: Rig) -> None:
    with rig.gate().narrow(soon()) as held:
        assert held.prove()


@contextlib.contextmanager
def silent_log() -> Iterator[None]:
    """What is logged is expected."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@attrs.define(eq=False)
class _Elsewhere(ImageFile):
    """An image whose permit is on another description than the reads and writes."""

    other: int = -1

    def lock(self, place: Range) -> bool:
        if self.other < 0:
            self.other = self._sys.open(self.path, 2)
        return image.lock_bytes(self._sys, self.other, fcntl.F_WRLCK, place, self.path)

    def unlock(self, place: Range) -> None:
        self._sys.set_lock(self.other, fcntl.F_UNLCK, *place)

    def close(self) -> None:
        if self.other >= 0:
            self._sys.close(self.other)
        super().close()


class PermitElsewhere:
    """The permit is on another description: a lost one stops nobody."""

    name = "permit on another description"
    scenes = (schedules,)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Of the targets."""
        real = image.open_image

        def opened(path: str, syscalls: Syscalls) -> Any:
            found = real(path, syscalls)
            return _Elsewhere(found.path, found.fd, found.direct, found.key, syscalls)

        with mock.patch.object(stake, "open_image", opened):
            yield


MUTANTS: tuple[Mutant | PermitElsewhere, ...] = (
    Mutant(
        "no drain",
        Permit,
        "_begin_release",
        "if self._inside or not unwanted:",
        "if not unwanted:",
        (schedules, waits_for_writes),
    ),
    Mutant(
        "state not read again",
        Permit,
        "_take",
        "self._on_open(deadline)",
        "turn > 1 or self._on_open(deadline)",
        (schedules,),
    ),
    Mutant(
        "lost descriptor used again",
        Permit,
        "_settle",
        "self._lost or self._ending",
        "self._ending",
        (closes_what_was_lost,),
    ),
    Mutant(
        "permit taken while somebody knocks",
        Stake,
        "_try",
        "if bell.wanted(self._number, self._host, ears_of(self._root, self._sys).deaf):",
        "if False:",
        (stays_away_while_somebody_knocks,),
    ),
    PermitElsewhere(),
    Mutant(
        "permit not waited for",
        Rounds,
        "_take",
        "if not pending:",
        "if True:",
        (schedules,),
    ),
    Mutant(
        "permit believed",
        Held,
        "prove",
        "while not self._proven():",
        "while False:",
        (schedules, proves_first),
    ),
    Mutant(
        "lost description believed",
        Held,
        "_proven",
        "self.image.honoured()",
        "True",
        (proves_first,),
    ),
    Mutant(
        "answered before the proof",
        Administration,
        "_through_gate",
        "if not held.prove():",
        "if False:",
        (proves_first,),
    ),
    Mutant(
        "not decided again",
        Decisions,
        "_decide_some",
        "base = guess or self._store.head()",
        "base = self.stale = self.stale if held is not None else self._store.head()",
        (decides_again,),
    ),
    Mutant(
        "committed without the gate",
        Decisions,
        "_check_gate",
        "if not self._gated:",
        "if True:",
        (waits_for_writes,),
    ),
)
