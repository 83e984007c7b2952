"""Chosen sequences: hypothesis drives the state machine and the second model side by side.

`test_second_model.py` sends many more commands; what this adds is that a disagreement comes
back as the shortest script that shows it, in words::

    state.unit(door='helper', entered={'a1': 1}, held=None, ...)
    state.preempt(key='own', kind='WE', victim=1, who='a1')
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType

import attrs
import pytest
from hypothesis import Phase

from flockpr.core import machine, preempt, spc2
from flockpr.core.model import LogicalUnitState, Nexus
from flockpr.core.outcome import Outcome
from flockpr.spc.codes import OutAction
from tests.support.chosen import counting, play
from tests.support.model2_rows import ROWS
from tests.support.twins import DisagreementError

SWEEP = int(os.environ.get("FLOCKPR_SWEEP_EXAMPLES", "1500"))


def test_state_machine_sequences_agree() -> None:
    """Whatever hypothesis draws: the twins agree, invariants hold, unchanged is identical."""
    side = counting()
    play(side, examples=200)
    # Sequences that only ever reach refusals would agree as well.
    assert len(side.rows) > len(ROWS) / 2, sorted(set(ROWS) - set(side.rows))


@pytest.mark.sweep
@pytest.mark.timeout(3600)
def test_state_machine_sweep_agrees() -> None:
    """The same with many more and longer sequences (FLOCKPR_SWEEP_EXAMPLES)."""
    side = counting()
    play(side, examples=SWEEP, steps=80)
    print(
        f"\n{len(side.rows)} of {len(ROWS)} rows; not taken: {sorted(set(ROWS) - set(side.rows))}"
    )


def _keep_victims(patch: pytest.MonkeyPatch) -> None:
    """PREEMPT tells its victims, and leaves them registered."""

    def withdraw(state: LogicalUnitState, _: frozenset[Nexus]) -> LogicalUnitState:
        return state

    _put(patch, preempt, "withdraw", withdraw)


def _count_reserve(patch: pytest.MonkeyPatch) -> None:
    """RESERVE counts PRGENERATION up."""
    _put(patch, machine, "_COUNTED", frozenset(OutAction) - {OutAction.RELEASE})


def _copy_unchanged(patch: pytest.MonkeyPatch) -> None:
    """A RELEASE of SPC-2 that changes nothing returns an equal state, not the same one."""
    release = spc2.release

    def copied(state: LogicalUnitState, nexus: Nexus) -> Outcome:
        outcome = release(state, nexus)
        return attrs.evolve(outcome, state=attrs.evolve(outcome.state))

    _put(patch, spc2, "release", copied)


def _put(patch: pytest.MonkeyPatch, module: ModuleType, name: str, value: object) -> None:
    patch.setattr(module, name, value)


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (_keep_victims, "registrations"),
        (_count_reserve, "PRGENERATION"),
        (_copy_unchanged, "identity of an unchanged state"),
    ],
)
def test_state_machine_broken_rule_found(
    fault: Callable[[pytest.MonkeyPatch], None], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in one function of the core does not get past the machine."""
    fault(monkeypatch)
    with pytest.raises(DisagreementError, match=f"^{what}: "):
        play(counting(), examples=150, phases=[Phase.generate])


def test_state_machine_broken_preempt_comes_back_as_short_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left of the script: a unit with a registration, and the PREEMPT."""
    _keep_victims(monkeypatch)
    with pytest.raises(DisagreementError) as caught:
        # Explaining which arguments matter would take several times as long.
        play(counting(), examples=150, steps=6, phases=[Phase.generate, Phase.shrink])
    told = [*capsys.readouterr().out.splitlines(), *_notes(caught.value)]
    script = [line.strip() for line in told if line.strip().startswith("state.")]
    assert script[0].startswith("state.unit(")
    assert script[-2].startswith("state.preempt")
    assert script[-1] == "state.teardown()"
    # One more where the shrinking gives up early.
    assert len(script) <= 4, script


def _notes(error: BaseException) -> list[str]:
    """Where hypothesis writes the script down, by the line."""
    return [line for note in getattr(error, "__notes__", ()) for line in note.splitlines()]
