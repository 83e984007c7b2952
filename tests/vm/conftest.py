"""Settings for the tests that boot machines."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for the names of unix sockets (108 bytes)."""
    folder = Path(tempfile.mkdtemp(prefix="fpr"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
