"""Nothing that was preempted lands after GOOD: writers that never stop, and their judge.

Every block names its author and the number of the write. After a command that takes the
right to write from a nexus was answered GOOD, what is on the disk does not change any more:
not by what the victim sends later, not by what it had in flight, through whichever target.
"""

from __future__ import annotations

import functools
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from flockpr import LogicalUnit
from tests.support import sbc_cdbs as sbc
from tests.support.hammers import Hammer, area, difference, ended
from tests.support.scsi import (
    EA,
    PREEMPT,
    PREEMPT_ABORT,
    REGISTER,
    REGISTER_IGNORE,
    RELEASE,
    RESERVE,
    WE,
    WERO,
    basic_list,
    nexus,
    out_cdb,
)
from tests.support.target_rig import BUSY, GOOD, Session, Target, eventually, make_root

JUDGE, VICTIM, BYSTANDER = 0x11, 0x22, 0x33


@pytest.fixture
def pair(tmp_path: pathlib.Path) -> Iterator[tuple[Target, Target]]:
    """Two target processes that serve one image."""
    root = make_root(tmp_path)
    with Target(root, tmp_path / "1.log") as first, Target(root, tmp_path / "2.log") as second:
        yield first, second


def judge_on(target: Target) -> Session:
    """The session that fences: registered, and holding."""
    session = target.log_in("judge")
    session.must(REGISTER, 0, JUDGE)
    session.must(RESERVE, JUDGE, type_=WERO)
    return session


def hammers_on(pair: tuple[Target, Target]) -> tuple[Hammer, Hammer, Hammer]:
    """A victim on each target, under one key, and somebody whom nobody preempts."""
    return (
        Hammer(pair[0].log_in("victim0"), 1, 0, 8, VICTIM),
        Hammer(pair[1].log_in("victim1"), 2, 1000, 200, VICTIM),
        Hammer(pair[1].log_in("bystander"), 3, 5000, 16, BYSTANDER),
    )


def by_preempt(judge: Session) -> None:
    """PREEMPT through the judge's own session."""
    judge.must(PREEMPT, JUDGE, VICTIM, type_=WERO)


def by_preempt_and_abort(judge: Session) -> None:
    """PREEMPT AND ABORT."""
    judge.must(PREEMPT_ABORT, JUDGE, VICTIM, type_=WERO)


def by_api(judge: Session, unit: LogicalUnit) -> None:
    """A third process's command: ours, through the library."""
    command = out_cdb(PREEMPT, type_=WERO), basic_list(JUDGE, VICTIM)
    assert unit.execute(nexus("judge", 2), *command).status == GOOD


def fence(judge: Session, victims: tuple[Hammer, ...], act: Callable[[], None]) -> None:
    """Take the victims' right to write, and hold every block to it."""
    act()
    moment = time.monotonic()
    first = [area(judge, victim) for victim in victims]
    for victim in victims:
        victim.fenced(moment)
    for victim, seen in zip(victims, first, strict=True):
        assert not difference(area(judge, victim), seen), "a write landed after GOOD"
        assert not difference(seen, victim.stamps())


def battle(pair: tuple[Target, Target], rounds: int) -> None:
    """Preempt, judge, let register again; through both targets and the library in turn."""
    judges = [judge_on(pair[0]), pair[1].log_in("judge")]
    first, second, bystander = hammers_on(pair)
    with (
        LogicalUnit.open(str(pair[0].root / "disk")) as unit,
        ended(first, second, bystander),
    ):
        for hammer in (first, second, bystander):
            hammer.begin()
        for number in range(rounds):
            judge = judges[number % 2]
            act: Callable[[], None] = (
                lambda judge=judge: by_preempt(judge),
                lambda judge=judge: by_preempt_and_abort(judge),
                lambda judge=judge: by_api(judge, unit),
            )[number % 3]
            fence(judge, (first, second), act)
            for victim in (first, second):
                victim.register()
        for hammer in (first, second, bystander):
            hammer.end()
        bystander.untroubled()
        for hammer in (first, second, bystander):
            assert not difference(area(judges[0], hammer), hammer.stamps())


def test_fencing_no_write_lands_after_good(pair: tuple[Target, Target]) -> None:
    """Victims on two targets, fenced again and again in full flight [SPC-4 5.13.11.2.4]"""
    battle(pair, 24)


@pytest.mark.sweep
@pytest.mark.timeout(1800)
def test_fencing_no_write_lands_after_good_in_many_rounds(pair: tuple[Target, Target]) -> None:
    """The same, for long [SPC-4 5.13.11.2.4]"""
    battle(pair, 1000)


def test_fencing_write_exclusive_stops_registrants_in_flight(pair: tuple[Target, Target]) -> None:
    """RESERVE narrows as well: a registrant's writes end with GOOD to it [SPC-4 5.13.9]"""
    judge = judge_on(pair[0])
    first, second, _ = hammers_on(pair)

    def narrow() -> None:
        judge.must(RELEASE, JUDGE, type_=WERO)
        judge.must(RESERVE, JUDGE, type_=WE)

    with ended(first, second):
        for hammer in (first, second):
            hammer.begin()
        for _round in range(6):
            fence(judge, (first, second), narrow)
            judge.must(RELEASE, JUDGE, type_=WE)
            judge.must(RESERVE, JUDGE, type_=WERO)
            for victim in (first, second):
                victim.register()


def test_fencing_killed_target_cannot_write_any_more(pair: tuple[Target, Target]) -> None:
    """The victim's target is killed while it writes and is preempted [SPC-4 5.13.11; crash]"""
    judge = judge_on(pair[0])
    _, victim, _ = hammers_on(pair)
    with ended(victim):
        victim.begin()
        killer = threading.Timer(0.02, pair[1].kill)
        killer.start()
        judge.must(PREEMPT, JUDGE, VICTIM, type_=WERO)
        seen = area(judge, victim)
        killer.join()
        eventually(lambda: victim.failure is not None, "the end of the victim's connection")
        assert area(judge, victim) == seen
        assert judge.keys() == [JUDGE]


def test_fencing_stopped_target_is_waited_for_and_nothing_promised(
    pair: tuple[Target, Target],
) -> None:
    """A target that does not give way: BUSY, nothing done; GOOD once it lives on [gate]"""
    judge = judge_on(pair[0])
    _, victim, _ = hammers_on(pair)
    with ended(victim):
        victim.begin()
        pair[1].signal(signal.SIGSTOP)
        try:
            keys = judge.keys()
            reply = judge.out(PREEMPT, JUDGE, VICTIM, type_=WERO, patient=False)
            assert reply.status == BUSY, reply
            assert judge.keys() == keys
            # Commands that take nothing from anybody go on meanwhile.
            judge.must(REGISTER_IGNORE, 0, JUDGE)
            assert judge.ready().good
        finally:
            pair[1].signal(signal.SIGCONT)
        fence(judge, (victim,), lambda: by_preempt(judge))


def test_fencing_victims_reads_end_as_well(pair: tuple[Target, Target]) -> None:
    """Exclusive Access: what a stranger reads after GOOD it does not get [SPC-4 5.13.9; EA]"""
    judge, reader = pair[0].log_in("judge"), pair[1].log_in("reader")
    judge.must(REGISTER, 0, JUDGE)
    log: list[tuple[float, int]] = []
    end = threading.Event()

    def keep_reading() -> None:
        while not end.is_set():
            sent = time.monotonic()
            log.append((sent, reader.command(sbc.read(0, 8), read=4096).status))

    def sent_after(moment: float) -> bool:
        return log[-1][0] > moment

    thread = threading.Thread(target=keep_reading)
    thread.start()
    try:
        for _ in range(20):
            eventually(lambda: log and log[-1][1] == GOOD, "a read that succeeds")
            judge.must(RESERVE, JUDGE, type_=EA)
            moment = time.monotonic()
            eventually(functools.partial(sent_after, moment), "a later read")
            assert all(status != GOOD for sent, status in log if sent > moment)
            judge.must(RELEASE, JUDGE, type_=EA)
    finally:
        end.set()
        thread.join()
        reader.close()


def test_fencing_image_that_another_process_holds_is_not_forgotten(
    pair: tuple[Target, Target],
) -> None:
    """A stray open of the image by others takes no part in the gate and stops nobody [gate]"""
    descriptor = os.open(pair[0].root / "images" / "disk.img", os.O_RDWR)
    try:
        judge = judge_on(pair[0])
        stranger = pair[1].log_in("stranger")
        judge.must(REGISTER_IGNORE, 0, JUDGE)
        judge.must(RELEASE, JUDGE, type_=WERO)
        judge.must(RESERVE, JUDGE, type_=WE)
        assert stranger.keys() == [JUDGE]
    finally:
        os.close(descriptor)
