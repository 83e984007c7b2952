"""A disk for each test."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tests.support.disks import Rig, rigs


@pytest.fixture
def rig(tmp_path: pathlib.Path) -> Iterator[Rig]:
    """A disk of 1 MiB with the permit and the reservations of a test."""
    yield from rigs(tmp_path)
