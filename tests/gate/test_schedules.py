"""All schedules of two targets, a command and a lost lease: nothing of the old state after GOOD."""

from __future__ import annotations

import random

import pytest

from tests.support import gate_scenes
from tests.support.gate_host_mutants import SEEDS
from tests.support.gate_mutants import CUTS
from tests.support.gate_world import changing, play, schedules, walking

TASKS = 5


def test_every_schedule_with_one_change_keeps_the_promise() -> None:
    """Two targets that write and listen, and a command: whoever goes on at any point."""
    points = play(changing({})).points
    worlds = [play(changing(turns)) for turns in schedules(points, TASKS)]

    assert len(worlds) > 200
    assert all(world.writes and world.refused for world in worlds)


@pytest.mark.parametrize("who", ["command", "target"])
def test_host_cut_off_at_every_call_keeps_the_promise(who: str) -> None:
    """Its locks are lost, and it goes on as though nothing had happened; schedules by chance."""
    failed = refused = 0
    for cut in CUTS:
        if cut[0] != who:
            continue
        for seed in range(30):
            world = play(walking(random.Random(seed)), cut=cut)
            failed += world.failed
            refused += world.refused
    assert refused
    assert bool(failed) is (who == "target")


def test_schedules_by_chance_keep_the_promise() -> None:
    """Up to three targets."""
    for seed in range(150):
        play(walking(random.Random(seed)), targets=1 + seed % 3)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scene", gate_scenes.SCENES, ids=lambda scene: scene.__name__)
def test_host_that_does_not_answer_keeps_the_promise_and_holds_up_nobody_for_long(
    scene: gate_scenes.Scene,
) -> None:
    """It hangs, is dead, was declared fenced, is slow, or is where the command comes to."""
    for seed in range(SEEDS):
        scene(seed)


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scene", gate_scenes.SCENES, ids=lambda scene: scene.__name__)
def test_host_that_does_not_answer_keeps_the_promise_in_many_schedules(
    scene: gate_scenes.Scene,
) -> None:
    """The same, far more often."""
    for seed in range(SEEDS, 400):
        scene(seed)


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: f"{cut[0]}{cut[1]}")
def test_every_schedule_with_one_change_and_every_cut_keeps_the_promise(
    cut: tuple[str, int],
) -> None:
    """The whole product."""
    points = play(changing({}), cut=cut).points
    for turns in schedules(points, TASKS):
        play(changing(turns), cut=cut)
    for seed in range(1000):
        play(walking(random.Random(seed)), cut=cut)
