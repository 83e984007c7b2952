"""A disk, and units that answer reads of it at once."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.desks import Readers
from tests.support.helper import DEADLINE


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take long to look at a file."""
    monkeypatch.setattr("flockpr.prhelper.connection.A_MOMENT", DEADLINE)


@pytest.fixture
def disk(tmp_path: object) -> Iterator[int]:
    """A descriptor open for reading and writing."""
    path = os.path.join(str(tmp_path), "disk.img")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def units() -> Iterator[Readers]:
    """Units that answer reads at once."""
    units = Readers()
    yield units
    units.gate.close()
