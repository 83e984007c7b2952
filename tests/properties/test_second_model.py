"""Random commands: the state machine against the second model."""

from __future__ import annotations

import os

import pytest

from flockpr.core.events import occur
from flockpr.core.invariants import check
from flockpr.core.machine import step
from tests.support.model2_rows import ROWS
from tests.support.traffic import Traffic
from tests.support.twins import Machine

MACHINE = Machine(step, occur, check)
SWEEP = int(os.environ.get("FLOCKPR_SWEEP_COMMANDS", "100000"))


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_second_model_short_run_agrees(seed: int) -> None:
    """5,000 random commands: same status, sense, data, state and attentions."""
    traffic = Traffic(MACHINE, seed)
    traffic.run(1250)
    assert traffic.commands >= 1250


@pytest.mark.sweep
@pytest.mark.timeout(1800)
def test_second_model_sweep_agrees_and_takes_every_row() -> None:
    """100,000 random commands agree, every row of the decision tables is taken 50 times."""
    traffic = Traffic(MACHINE, seed=20260701)
    traffic.run(SWEEP)
    assert set(traffic.rows) == set(ROWS)
    counts = sorted((traffic.rows[row], row) for row in ROWS)
    print(f"\n{traffic.commands} commands, {len(ROWS)} rows, rarest: {counts[:5]}")
    rare = [entry for entry in counts if entry[0] < 50]
    assert not rare
