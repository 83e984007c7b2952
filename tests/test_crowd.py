"""Commands that are likely to come are waited for a moment, and nobody for long or in vain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from flockpr.logical_unit import LogicalUnit, Result
from flockpr.spc.codes import OutAction, Status
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from flockpr.units import Units, crowd
from flockpr.units import worker as module
from flockpr.units.crowd import MAX_PAUSE, MOST, SHARE, Crowd
from tests.support.hanging import LONG, Hanging
from tests.support.scsi import A, B, basic_list, nexus, out_cdb

GOOD = Result(Status.GOOD)


def test_nobody_is_waited_for_at_first() -> None:
    """Nothing is known yet."""
    assert Crowd().patience(1) == 0.0


def test_one_command_after_the_other_is_never_kept_waiting() -> None:
    """There is nobody to wait for."""
    lonely = Crowd()
    for _ in range(3):
        lonely.answered(1, 0, 0.002)
        assert lonely.patience(1) == 0.0


def test_those_that_were_answered_together_are_expected_again() -> None:
    """And those that came meanwhile; not longer than for a share of what it took."""
    some = Crowd()
    some.answered(5, 3, 0.002)
    assert some.expected == 8
    assert some.patience(3) == pytest.approx(0.002 * SHARE)
    assert some.patience(8) == some.patience(0) == 0.0


def test_slow_disk_is_no_reason_to_wait_long() -> None:
    """The disk is waited for already."""
    some = Crowd()
    some.answered(2, 0, 60.0)
    assert some.patience(1) == MOST


def occasions(some: Crowd) -> int:
    """How many go by until the next is taken."""
    for number in range(2 * MAX_PAUSE):
        some.answered(4, 0, 0.002)
        if some.patience(1):
            return number
    return 2 * MAX_PAUSE


def test_in_vain_again_and_again_is_seldom_tried() -> None:
    """Who is expected and does not come costs the others less and less."""
    some, found = Crowd(), []
    for _ in range(9):
        found.append(occasions(some))
        some.waited(1, 2)
    assert found == [0, 1, 3, 7, 15, 31, 63, 64, 64]


def test_those_that_come_are_waited_for_at_once_again() -> None:
    """Half of them is enough."""
    some = Crowd()
    for _ in range(4):
        occasions(some)
        some.waited(1, 1)
    occasions(some)
    some.waited(1, 3)
    assert occasions(some) == 0


# --------------------------------------------------------------------------- at a LUN


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """The file server of the LUN; and all the time in the world to wait for who is expected."""
    hanging = Hanging()

    def opened(path: str, **options: Any) -> LockDirectory:
        return LockDirectory(path, syscalls=hanging, **options)

    monkeypatch.setattr(module, "open_store", opened)
    monkeypatch.setattr(crowd, "SHARE", 1e12)
    monkeypatch.setattr(crowd, "MOST", LONG)
    yield hanging
    hanging.release()


@pytest.fixture
def units(tmp_path: Path, server: Hanging) -> Iterator[Units]:
    """A daemon with one LUN, where three commands have just been answered together."""
    create_lun(str(tmp_path), "disk")
    units = Units(str(tmp_path), timeout=4 * LONG)
    assert enter(units, 9, 9).result(LONG) == GOOD
    server.hang_in("link")
    first = enter(units, 9, 10)
    assert server.stuck.wait(LONG)
    behind = [enter(units, number, 1) for number in range(3)]
    server.release()
    assert [future.result(LONG) for future in (first, *behind)] == [GOOD] * 4
    yield units
    server.release()
    units.close()


def enter(units: Units, number: int, key: int) -> Future[Result]:
    """REGISTER AND IGNORE EXISTING KEY of one of the guests."""
    cdb = out_cdb(OutAction.REGISTER_AND_IGNORE_EXISTING_KEY)
    data = basic_list(0, key)
    return units.submit("disk", nexus(f"n{number}"), cdb, data, report_attentions=False)


def carried(root: Path) -> list[int]:
    """How many commands each transaction has, the newest last."""
    commits = sorted((root / "disk" / "commits").glob("[0-9]*.json"))
    return [len(json.loads(commit.read_text())["commands"]) for commit in commits]


def test_commit_carries_those_that_were_expected(tmp_path: Path, units: Units) -> None:
    """They come one after the other, and the first of them waits for the others."""
    again = [enter(units, number, 2) for number in range(3)]
    assert [future.result(LONG) for future in again] == [GOOD] * 3
    assert carried(tmp_path)[-2:] == [3, 3]


def test_what_is_no_command_does_not_wait_for_the_crowd(units: Units) -> None:
    """A target asks for the state before it lets a command through."""
    alone = enter(units, 0, 2)
    assert units.state("disk").result(LONG).number > 0
    assert alone.result(LONG) == GOOD


def test_who_comes_or_goes_does_not_wait_for_the_crowd(tmp_path: Path, units: Units) -> None:
    """And so the command does not either."""
    alone = enter(units, 0, 2)
    units.attend("disk", A)
    assert alone.result(LONG) == GOOD
    alone = enter(units, 0, 3)
    units.leave("disk", B)
    assert alone.result(LONG) == GOOD
    with LogicalUnit.open(f"{tmp_path}/disk") as other:
        assert 3 in [registration.key for registration in other.snapshot().state.registrations]


def test_end_does_not_wait_for_the_crowd(units: Units) -> None:
    """What is queued is carried out at once."""
    alone = enter(units, 0, 2)
    assert units.close(LONG)
    assert alone.result(0) == GOOD
