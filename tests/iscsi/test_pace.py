"""When the thread that reads executes a command, and when it rather hands it over."""

from __future__ import annotations

import itertools

from flockpr.iscsi.pace import LONG, LONGEST_REST, REST, Pace

SHORT, SLOW = LONG / 10, LONG * 10


class Clock:
    """Time as a test wants it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def took(pace: Pace, seconds: float, *, waiting: bool, times: int = 100) -> None:
    """So many commands of one length."""
    for _ in range(times):
        pace.took(seconds, lambda: waiting)


def test_pace_of_a_quick_disk_keeps_the_thread() -> None:
    """However many wait: to hand over costs more."""
    pace = Pace()
    took(pace, SHORT, waiting=True)
    assert pace.quick()


def test_pace_of_a_slow_disk_keeps_nobody_waiting_and_is_tried_again() -> None:
    """Where others wait, they are executed beside each other, for a while."""
    clock = Clock()
    pace = Pace(clock)
    took(pace, SLOW, waiting=True)
    assert not pace.quick()
    clock.now += REST
    assert pace.quick()
    took(pace, SLOW, waiting=True)
    assert not pace.quick()


def test_pace_of_a_disk_that_stays_slow_is_tried_less_often() -> None:
    """Down to once in a while; one that was quick again begins anew."""
    clock = Clock()
    pace = Pace(clock)
    took(pace, SLOW, waiting=True)
    rests = []
    for _ in range(10):
        begun = clock.now
        while not pace.quick():
            clock.now += REST
        rests.append(clock.now - begun)
        took(pace, SLOW, waiting=True)
    assert rests == sorted(rests)
    assert (rests[0], rests[-1]) == (REST, LONGEST_REST)
    clock.now += LONGEST_REST
    took(pace, SHORT / 10, waiting=True)
    took(pace, SLOW, waiting=True)
    assert not pace.quick()
    clock.now += REST
    assert pace.quick()


def test_pace_of_a_slow_disk_with_one_command_at_a_time_keeps_the_thread() -> None:
    """Nobody could be served meanwhile."""
    pace = Pace()
    took(pace, SLOW, waiting=False)
    assert pace.quick()


def test_pace_is_not_misled_by_one_that_takes_long_now_and_then() -> None:
    """A thread of a busy machine waits its turn; the disk is quick all the same."""
    pace = Pace()
    for seconds in itertools.islice(itertools.cycle([SHORT, SHORT, SHORT, 1.0]), 400):
        pace.took(seconds, lambda: True)
        assert pace.quick()


def test_pace_of_a_disk_that_hangs_takes_no_other_thread() -> None:
    """Until what hangs has ended, whoever ends first."""
    pace = Pace()
    first, second = object(), object()
    pace.stuck(first)
    pace.stuck(second)
    pace.loose(first)
    assert not pace.quick()
    pace.loose(second)
    assert pace.quick()
