"""A directory that is short enough for sockets, with one logical unit in its root."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemons import make_lun
from tests.support.helper import short_directory


@pytest.fixture
def directory() -> Iterator[str]:
    """A short directory with a root and a logical unit."""
    with short_directory() as path:
        make_lun(path)
        yield path
