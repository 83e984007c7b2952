"""Whose directory it is, and whether its maker is gone."""

from __future__ import annotations

import attrs
import pytest

from flockpr.probe.place import ABANDONED, NAME, Owner, abandoned, myself, new_name

ME = myself()


@pytest.mark.parametrize(
    ("owner", "age", "gone"),
    [
        (ME, 0.0, False),
        (ME, ABANDONED, True),
        (None, 0.0, False),
        (None, ABANDONED, True),
        (attrs.evolve(ME, started="0"), 0.0, True),
        (attrs.evolve(ME, pid=2**22 + 1), 0.0, True),
        (attrs.evolve(ME, boot="other"), 0.0, True),
        (attrs.evolve(ME, boot=""), 0.0, False),
        (attrs.evolve(ME, namespace="pid:[1]", started="0"), 0.0, False),
        (attrs.evolve(ME, host="other", started="0", boot="other"), 0.0, False),
    ],
)
def test_abandoned_by_process_boot_and_age(owner: Owner | None, age: float, gone: bool) -> None:
    """A process is looked up where its number counts; elsewhere only age tells."""
    assert abandoned(owner, ME, age) is gone


def test_new_names_differ_and_are_recognised() -> None:
    """Two probes never share a directory."""
    assert new_name() != new_name()
    assert NAME.fullmatch(new_name())
