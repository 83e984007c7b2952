"""The fault tests can fail: each of these broken stores is noticed by its scene."""

from __future__ import annotations

import pytest

from flockpr.store import files
from tests.support.store_mutants import MUTANTS, Mutant, Scene

_CASES = [(mutant, scene) for mutant in MUTANTS for scene in mutant.scenes]


@pytest.mark.parametrize(("mutant", "scene"), _CASES, ids=[mutant.name for mutant, _ in _CASES])
def test_broken_store_is_noticed(mutant: Mutant, scene: Scene) -> None:
    """The scene passes with the store as it is (see the fault tests) and fails with this one."""
    with mutant.applied(), pytest.raises(AssertionError):
        scene()


def test_mutant_is_gone_afterwards() -> None:
    """A mutant that stayed would break what runs next."""
    before = files.write_new
    with MUTANTS[0].applied():
        assert files.write_new is not before
    assert files.write_new is before
