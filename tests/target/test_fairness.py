"""What one guest does to a shared disk must not stop another one's commands on the same disk."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Iterator

import pytest

from tests.support import sbc_cdbs as sbc
from tests.support.hostile import GENEROUS, MEGABYTE
from tests.support.iscsi_client import HEAD_OF_QUEUE, ORDERED
from tests.support.target_rig import BLOCK, SOLICITED, Target, make_root


@pytest.fixture
def target(tmp_path: pathlib.Path) -> Iterator[Target]:
    """A target with one logical unit."""
    root = make_root(tmp_path, size=64 * MEGABYTE)
    with Target(root, tmp_path / "log") as process:
        yield process
        assert process.running
        assert "Traceback" not in process.log.read_text()


def test_data_withheld_leaves_room_on_the_same_unit(target: Target) -> None:
    """Two guests that withhold their data do not stop a third one's writes [limits; fairness]"""
    with contextlib.ExitStack() as stack:
        victim = stack.enter_context(target.log_in("victim", keys=SOLICITED))
        assert victim.command(sbc.write(0, 256), b"\x55" * (256 * BLOCK)).good
        for number in range(6):
            session = target.log_in(f"peer{number}", keys=SOLICITED)
            stack.callback(session.close)
            session.initiator.data_hook = lambda out: []
            for _ in range(32):
                if session.initiator.window_open:
                    session.initiator.submit(session.lun, sbc.write(0, 2048, 16), bytes(MEGABYTE))
            session.initiator.poll(0.1)
        for _ in range(5):
            write = sbc.write(0, 256), b"\x66" * (256 * BLOCK)
            assert victim.command(*write, timeout=GENEROUS).good


def test_queue_filled_by_one_leaves_room_for_others(target: Target) -> None:
    """As many commands as the window ever takes, that wait for data: others go on [fairness]"""
    with target.log_in("victim") as victim, target.log_in("greedy", keys=SOLICITED) as greedy:
        initiator = greedy.initiator
        initiator.data_hook = lambda out: []
        deadline = time.monotonic() + 8.0
        while time.monotonic() < deadline and len(initiator.tasks) < 2000:
            while initiator.window_open and len(initiator.tasks) < 2000:
                initiator.submit(greedy.lun, sbc.write(0, 1), bytes(BLOCK))
            initiator.poll(0.1)
            assert victim.command(sbc.write(0, 8), b"\x66" * 4096).good
            assert victim.command(sbc.read(0, 8), read=4096).good
        greedy.close()


@pytest.mark.parametrize("attribute", [ORDERED, HEAD_OF_QUEUE])
def test_ordered_write_that_waits_for_data_holds_up_nobody_else(
    target: Target, attribute: int
) -> None:
    """An ORDERED command whose data never comes is its own initiator's problem [fairness]"""
    with target.log_in("victim") as victim, target.log_in("odd", keys=SOLICITED) as odd:
        odd.initiator.data_hook = lambda out: []
        odd.initiator.submit(odd.lun, sbc.write(0, 8), bytes(4096), attribute=attribute)
        odd.initiator.poll(0.2)
        for _ in range(3):
            assert victim.command(sbc.write(0, 8), b"\x66" * 4096, timeout=GENEROUS).good
            assert victim.command(sbc.read(0, 8), read=4096, timeout=GENEROUS).good
        odd.close()
