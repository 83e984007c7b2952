"""Each step of the gate is there for a reason: without it something is noticed."""

from __future__ import annotations

import pytest

from tests.support.gate_host_mutants import HOST_MUTANTS
from tests.support.gate_mutants import MUTANTS, PermitElsewhere
from tests.support.store_mutants import Mutant

pytestmark = pytest.mark.timeout(600)

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


LATE_WRITE = r"^written .* after GOOD"
NO_END = r"^never GOOD"
STANDSTILL = r"stands? still|kept away"

NOTICED: dict[str, str] = {
    "no drain": f"{LATE_WRITE}|^committed while a write is under way",
    "state not read again": LATE_WRITE,
    "lost descriptor used again": "a description that lost its lock is used again",
    "permit taken while somebody knocks": "a permit is taken while somebody knocks",
    "permit on another description": LATE_WRITE,
    "permit not waited for": NO_END,  # the proof after the commit refuses what it has not got
    "permit believed": f"{LATE_WRITE}|GOOD without a proof",
    "lost description believed": "GOOD without a proof",
    "answered before the proof": "GOOD without a proof",
    "not decided again": "decided on a state that is not the newest",
    "committed without the gate": "^committed while a write is under way",
    "rings for everybody while it waits for one": STANDSTILL,
    "bars its own process while it waits for another host": STANDSTILL,
    "keeps permits while it waits for fencing": STANDSTILL,
    "silent hosts are not called": NO_END,
    "late ones are kept away for those who are silent": f"{STANDSTILL}|{NO_END}",
    "a target that is called alone does not listen": NO_END,
    "silent hosts are not remembered": STANDSTILL,
    "nobody knocks in the background": "nobody has knocked meanwhile",
    "fenced hosts are waited for": NO_END,
    "permits behind a fenced host are not taken": NO_END,
    "permits are taken in any order": "each waits for what the other has",
    "a fenced host serves": "a fenced host has a permit",
    "the ring of a fenced host counts": "a target is kept out for good",
    "a ring is heeded for ever": STANDSTILL,
    "a host leaves out its own permits": "it goes past a write of its own",
    "nobody looks whether a ringer lives": STANDSTILL,
    "the cluster's lock is not waited for": LATE_WRITE,
    "the cluster's lock is had before the permits": LATE_WRITE,
    "permits are not asked for again": LATE_WRITE,
    "all targets of a host have one byte": "two targets have one byte",
}
"""What breaks without a step, in the words of the scene: anything else proves nothing about it."""


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_broken_gate_is_noticed(mutant: Mutant | PermitElsewhere) -> None:
    """By each of its scenes, which says what it is that broke."""
    for scene in mutant.scenes:
        with mutant.applied(), pytest.raises(AssertionError, match=NOTICED[mutant.name]):
            scene()
