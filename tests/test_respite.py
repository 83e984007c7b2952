"""How long something that has hung is left alone."""

from __future__ import annotations

import types

import pytest

from flockpr.units import respite as module
from flockpr.units.respite import LONGEST, SHORTEST, Respite


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, for this module alone."""
    now = [1000.0]
    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return now


def lasting(respite: Respite, clock: list[float]) -> float:
    """How long it lasts from now on, in seconds; and let it pass."""
    begun = clock[0]
    while respite.lasts:
        clock[0] += 0.25
    return clock[0] - begun


def test_there_is_none_at_first(clock: list[float]) -> None:
    """Not even at the beginning of time."""
    clock[0] = 0.0
    assert not Respite().lasts


def test_each_is_twice_as_long_up_to_a_bound(clock: list[float]) -> None:
    """Whoever hangs again and again costs others less and less."""
    respite = Respite()
    found = []
    for _ in range(12):
        respite.begin()
        found.append(lasting(respite, clock))
    assert found[:4] == [SHORTEST, 2 * SHORTEST, 4 * SHORTEST, 8 * SHORTEST]
    assert found[-3:] == [LONGEST] * 3


def test_after_a_long_time_it_begins_anew(clock: list[float]) -> None:
    """An accident of last year counts no more."""
    respite = Respite()
    for _ in range(3):
        respite.begin()
        lasting(respite, clock)
    clock[0] += LONGEST
    respite.begin()
    assert lasting(respite, clock) == SHORTEST
