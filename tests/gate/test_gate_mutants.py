"""Each step of the gate is there for a reason: without it something is noticed."""

from __future__ import annotations

import pytest

from tests.support.gate_host_mutants import HOST_MUTANTS
from tests.support.gate_mutants import MUTANTS, PermitElsewhere
from tests.support.store_mutants import Mutant

ALL = (*MUTANTS, *HOST_MUTANTS)
SCENES = list(
    dict.fromkeys(
        scene
        for mutant in ALL
        for scene in mutant.scenes
        if not hasattr(scene, "__wrapped__")  # those are played in test_schedules.py
    )
)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_sound_gate_passes_every_scene(scene: object) -> None:
    """Or a broken one would prove nothing by failing it."""
    assert callable(scene)
    scene()


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_broken_gate_is_noticed(mutant: Mutant | PermitElsewhere) -> None:
    """By each of its scenes."""
    for scene in mutant.scenes:
        with mutant.applied(), pytest.raises(AssertionError):
            scene()
