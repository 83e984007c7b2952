"""Whoever waits for a lock asks often at first, and then so seldom that it disturbs nobody."""

from __future__ import annotations

import types

import pytest

from flockpr.gate import pauses
from flockpr.gate.pauses import LONGEST, SHORTEST, Pauses


class Clock:
    """Time that passes by sleeping only, and chance that is always the same.

    Attributes:
        slept: How long, each time.
        luck: Which part of what is possible chance chooses.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.luck = 0.5
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.slept.append(seconds)
        self.now += seconds

    def wait(self, seconds: float, tries: float = 0.0) -> int:
        """Wait for so long, with tries that take that; how many there were."""
        waiting, until = Pauses(self.now + seconds), self.now + seconds
        count = 0
        while self.now < until:
            self.now += tries
            count += 1
            waiting.pause()
        return count


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The only one that pauses know."""
    clock = Clock()
    fake = types.SimpleNamespace(monotonic=lambda: clock.now, sleep=clock.sleep)
    monkeypatch.setattr(pauses, "time", fake)
    dice = types.SimpleNamespace(uniform=lambda low, high: low + clock.luck * (high - low))
    monkeypatch.setattr(pauses, "random", dice)
    return clock


def test_pauses_are_short_at_first_and_end_where_they_are_long(clock: Clock) -> None:
    """None is shorter than the one before it."""
    clock.wait(1.0)
    lengths = clock.slept[:-1]  # the last one is cut short
    assert lengths[0] == pytest.approx(SHORTEST)
    assert lengths[-1] == pytest.approx(LONGEST)
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("luck", [0.0, 0.5, 1.0])
def test_wait_takes_hardly_longer_than_what_it_is_for(clock: Clock, luck: float) -> None:
    """Whenever that comes: by a part of it, and by a few milliseconds."""
    clock.luck = luck
    clock.wait(2.0)
    waited = 0.0
    for length in clock.slept:
        assert length <= max(1.5 * waited / 8, 1.5 * SHORTEST) + 1e-9
        waited += length
    assert max(clock.slept) <= 1.5 * LONGEST


def test_a_long_wait_asks_seldom(clock: Clock) -> None:
    """A tenth as often as with pauses that stay short."""
    assert clock.wait(10.0) < 10.0 / SHORTEST / 7
    assert clock.wait(10.0) < 1.1 * 10.0 / LONGEST


def test_slow_tries_leave_as_much_time_to_others(clock: Clock) -> None:
    """From the first one on."""
    clock.wait(0.2, tries=0.01)
    assert all(length >= 0.01 - 1e-9 for length in clock.slept[:-1])


def test_no_pause_goes_beyond_the_wait(clock: Clock) -> None:
    """So the last try is at its end; and a pause after it takes no time."""
    for seconds in (0.0, 0.001, 0.1, 1.0):
        until = clock.now + seconds
        waiting = Pauses(until)
        for _ in range(1000):
            waiting.pause()
        assert clock.now == pytest.approx(until)
        assert clock.slept[-1] == 0.0
