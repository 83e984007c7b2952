"""What killed daemons leave is removed after a while, and nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flockpr.store import litter as module
from flockpr.store.litter import AGE, LOOK, Litter
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from flockpr.store.syscalls import Syscalls
from tests.support.lun_tools import append, tree

PLACES = ("", "audit/", "commits/")


@pytest.fixture
def lun(tmp_path: Path) -> Path:
    """A lock directory."""
    create_lun(str(tmp_path), "disk")
    return tmp_path / "disk"


def leave(lun: Path, name: str = ".aside-dead-1") -> None:
    """As after kill -9: written in part."""
    for place in PLACES:
        (lun / f"{place}{name}").write_bytes(b'{"half":')


def left(lun: Path) -> list[str]:
    """What is there of it."""
    return sorted(name for name in tree(str(lun)) if ".aside-" in name)


def test_litter_goes_when_it_was_seen_for_long(lun: Path) -> None:
    """From all three places, by a daemon that was there all the time; time stamps count for
    nothing, since the clocks of hosts differ.
    """
    clean = tree(str(lun))
    leave(lun)
    for place in PLACES:
        os.utime(lun / f"{place}.aside-dead-1", (0, 0))
    fd = os.open(lun, os.O_RDONLY)
    litter = Litter(Syscalls(), fd)

    for now in range(0, int(LOOK + AGE), 60):
        litter.sweep(1000.0 + now)
        assert len(left(lun)) == 3
    leave(lun, ".aside-live-7")
    litter.sweep(1000.0 + LOOK + AGE)

    assert [name.rpartition("/")[2] for name in left(lun)] == [".aside-live-7"] * 3
    for place in PLACES:
        os.unlink(lun / f"{place}.aside-live-7")
    assert tree(str(lun)) == clean
    os.close(fd)


def test_litter_that_is_replaced_meanwhile_is_as_young_as_its_name(lun: Path) -> None:
    """What vanished and came back was not there all the time."""
    fd = os.open(lun, os.O_RDONLY)
    litter = Litter(Syscalls(), fd)
    now = 1000.0
    litter.sweep(now)
    while now < 1000.0 + 2 * AGE:
        leave(lun)
        litter.sweep(now := now + LOOK)
        assert len(left(lun)) == 3
        for place in PLACES:
            os.unlink(lun / f"{place}.aside-dead-1")
        litter.sweep(now := now + LOOK)
    os.close(fd)


def test_store_sweeps_as_part_of_its_upkeep(lun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on working."""
    monkeypatch.setattr(module, "LOOK", 0.0)
    monkeypatch.setattr(module, "AGE", 0.0)
    leave(lun)
    store = LockDirectory(str(lun))
    append(store)

    store.tidy()

    assert left(lun) == []
    append(store)
    store.close()
