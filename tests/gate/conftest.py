"""A root with an image, and processes that pass for several."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flockpr.gate import local
from tests.support.gates import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """An image, its permits and its gate."""
    rig = Rig.at(tmp_path)
    yield rig
    rig.close()


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Permits and gates of this process know each other as little as those of two."""
    monkeypatch.setattr(local, "permits_of", lambda _: [])
