"""Three daemons while everything goes wrong at once, by chance."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.chaos import chaos

TROUBLES = {"stall", "die", "cut", "fail", "lost reply", "late", "land"}


@pytest.mark.parametrize("first", range(0, 200, 40))
def test_replies_and_chain_are_consistent_whatever_goes_wrong(first: int) -> None:
    """Stalls, deaths, failures, lost replies, late requests and power cuts in one run."""
    seen: Counter[str] = Counter()
    for seed in range(first, first + 40):
        seen.update(chaos(seed, 12))
    assert set(seen) >= TROUBLES - {"land"}


@pytest.mark.sweep
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("first", range(1_000_000, 1_010_000, 1000))
def test_replies_and_chain_are_consistent_in_ten_thousand_runs(first: int) -> None:
    """The same with other seeds and longer scripts."""
    seen: Counter[str] = Counter()
    for seed in range(first, first + 1000):
        seen.update(chaos(seed, 8 + seed % 20))
    assert set(seen) >= TROUBLES
