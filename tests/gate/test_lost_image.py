"""An image that goes and comes back is two events, however often somebody tries."""

from __future__ import annotations

import os
from pathlib import Path

from flockpr import events
from flockpr.events import Kind
from tests.support.gates import Rig, eventually, soon, usable


def test_image_that_goes_and_comes_back_is_two_events(tmp_path: Path) -> None:
    """Nobody gets in meanwhile."""
    rig = Rig.at(tmp_path)
    os.rename(rig.image, f"{rig.image}.away")
    permit = rig.permit()
    try:
        for _ in range(3):
            assert not permit.enter(soon())
        assert events.counts()[Kind.LOST_MOUNT, rig.image] == 1
        assert (Kind.MOUNT_BACK, rig.image) not in events.counts()

        os.rename(f"{rig.image}.away", rig.image)
        eventually(lambda: usable(permit), "it is not served again")
        assert events.counts()[Kind.LOST_MOUNT, rig.image] == 1
        assert events.counts()[Kind.MOUNT_BACK, rig.image] == 1
    finally:
        rig.close()
