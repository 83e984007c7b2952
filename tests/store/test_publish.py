"""`registry.json`: a view that catches up, never goes back, and decides nothing."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flockpr.errors import StoreError
from flockpr.logical_unit import LogicalUnit, Result
from flockpr.spc.codes import Status
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from flockpr.store.publish import state_to_json
from flockpr.store.syscalls import Syscalls
from tests.support.lun_tools import append, register, tidy_now
from tests.support.scsi import (
    PREEMPT,
    REGISTER,
    RELEASE,
    RESERVE,
    TEST_UNIT_READY,
    A,
    B,
    basic_list,
    in_cdb,
    out_cdb,
)


@pytest.fixture
def lun(tmp_path: Path) -> str:
    """A lock directory."""
    create_lun(str(tmp_path), "disk")
    return str(tmp_path / "disk")


@pytest.fixture
def opened(lun: str) -> Iterator[Callable[..., LockDirectory]]:
    """Opens it, as several daemons would."""
    made: list[LockDirectory] = []

    def make(syscalls: Syscalls | None = None) -> LockDirectory:
        made.append(LockDirectory(lun, syscalls=syscalls))
        return made[-1]

    yield make
    for store in made:
        store.close()


def view(lun: str) -> dict[str, Any]:
    """What people see."""
    value: dict[str, Any] = json.loads(Path(lun, "registry.json").read_text())
    return value


def test_view_shows_the_newest_transaction(lun: str) -> None:
    """State, number and author, after each command."""
    with LogicalUnit.open(lun) as unit:
        for key in range(1, 4):
            register(unit, A, key, own=key - 1)
            snapshot = unit.snapshot()
            shown = view(lun)
            assert shown["number"] == snapshot.number == key + 1
            assert shown["txid"] == snapshot.txid
            assert shown["state"] == state_to_json(snapshot.state)
            assert [line["action"] for line in shown["commands"]] == ["REGISTER"]
            assert unit.status().to_json()["published"] == snapshot.number
    assert not [name for name in os.listdir(lun) if name.startswith(".aside-")]


def test_view_is_no_hard_link_of_a_commit(lun: str) -> None:
    """An editor that writes in place, or a chmod, must not reach the truth."""
    with LogicalUnit.open(lun) as unit:
        register(unit, A, 1)
    inodes = {os.stat(f"{lun}/commits/{name}").st_ino for name in os.listdir(f"{lun}/commits")}

    assert os.stat(f"{lun}/registry.json").st_ino not in inodes
    assert os.stat(f"{lun}/registry.json").st_nlink == 1
    assert {os.stat(f"{lun}/commits/{n}").st_nlink for n in os.listdir(f"{lun}/commits")} == {1}


def test_view_that_is_behind_is_published_again(
    lun: str, opened: Callable[..., LockDirectory]
) -> None:
    """A late rename of another host put an older one back: whoever does upkeep mends it."""
    store = opened()
    shutil.copy(f"{lun}/registry.json", f"{lun}/older")
    append(store, 2)
    tidy_now(store)
    assert store.published() == 3
    os.replace(f"{lun}/older", f"{lun}/registry.json")
    assert store.published() == 1

    tidy_now(store)
    assert store.published() == 3
    os.unlink(f"{lun}/registry.json")
    newcomer = opened()
    assert newcomer.published() is None
    newcomer.head()
    tidy_now(newcomer)
    assert newcomer.published() == 3


def test_view_ahead_of_the_newest_commit_is_kept_and_reported(
    lun: str, opened: Callable[..., LockDirectory], caplog: pytest.LogCaptureFixture
) -> None:
    """It may be all that is left of commits that were lost: a person is told, once."""
    store = opened()
    view = Path(lun, "registry.json")
    shown = json.loads(view.read_text())
    view.write_text(json.dumps({**shown, "number": 999}))
    store.head()
    with caplog.at_level(logging.ERROR):
        tidy_now(store)
        tidy_now(store)

    assert store.published() == 999
    assert caplog.text.count("shows transaction 999, but the newest commit is 1") == 1


def test_view_never_goes_back_by_a_slow_daemon(
    lun: str, opened: Callable[..., LockDirectory]
) -> None:
    """It publishes what it committed only if nothing newer is there."""
    slow, quick = opened(), opened()
    append(slow)
    append(quick, 5)
    quick.tidy()
    inode = os.stat(f"{lun}/registry.json").st_ino

    slow.tidy()
    tidy_now(slow)

    assert view(lun)["number"] == 7
    assert os.stat(f"{lun}/registry.json").st_ino == inode


FOREIGN = json.dumps({"incarnation": "00" * 16, "number": 10**9})
DAMAGE = {
    "empty": "",
    "no JSON": "{",
    "no object": "[]",
    "no number": '{"incarnation": "x"}',
    "text": '{"incarnation": "x", "number": "7"}',
    "foreign": FOREIGN,
    "binary": "\x00\x01",
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_view_that_cannot_be_read_is_published_again(
    lun: str, opened: Callable[..., LockDirectory], damage: str
) -> None:
    """Also one of another incarnation, whose numbers say nothing about ours."""
    store = opened()
    append(store)
    Path(lun, "registry.json").write_text(DAMAGE[damage])
    assert store.published() is None

    tidy_now(store)

    assert store.published() == 2
    assert view(lun)["incarnation"] == store.identity.incarnation


def _story(lun: str, spoil: Callable[[], object]) -> list[Result]:
    """A reservation changes hands, each command after something was done to the view."""
    steps = [
        (A, out_cdb(REGISTER), basic_list(0, 1, aptpl=True)),
        (B, out_cdb(REGISTER), basic_list(0, 2)),
        (A, out_cdb(RESERVE, type_=3), basic_list(1)),
        (B, TEST_UNIT_READY, b""),
        (B, out_cdb(RESERVE, type_=3), basic_list(2)),
        (B, out_cdb(PREEMPT, type_=1), basic_list(2, 1)),
        (A, in_cdb(0), b""),
        (A, in_cdb(0), b""),
        (B, in_cdb(1), b""),
        (B, in_cdb(3), b""),
        (B, out_cdb(RELEASE, type_=1), basic_list(2)),
        (B, in_cdb(1), b""),
    ]
    results = []
    for of, cdb, data in steps:
        spoil()
        with LogicalUnit.open(lun) as unit:  # anew each time: nothing is remembered
            results.append(unit.execute(of, cdb, data))
    return results


@pytest.mark.parametrize("damage", [*DAMAGE, "missing", "lies"])
def test_view_decides_nothing(tmp_path: Path, damage: str) -> None:
    """Damaged, gone or a lie before every command: each reply is what it is without that."""
    create_lun(str(tmp_path), "disk")
    create_lun(str(tmp_path), "clean")
    expected = _story(str(tmp_path / "clean"), lambda: None)
    path = tmp_path / "disk" / "registry.json"

    def spoil() -> None:
        if damage == "missing":
            path.unlink(missing_ok=True)
        elif damage == "lies":
            shown = json.loads(path.read_text())
            shown["number"] = 10**9
            shown["state"]["registrations"] = []
            shown["state"]["reservation"] = None
            path.write_text(json.dumps(shown))
        else:
            path.write_text(DAMAGE[damage])

    assert _story(str(path.parent), spoil) == expected
    assert Status.RESERVATION_CONFLICT in {result.status for result in expected}


def test_view_that_cannot_be_published_fails_no_command(
    lun: str, opened: Callable[..., LockDirectory], caplog: pytest.LogCaptureFixture
) -> None:
    """A warning, no litter, and it is there once it can be."""

    class NoRename(Syscalls):
        broken = True

        def rename(self, source: str, target: str, *, source_fd: int, target_fd: int) -> None:
            if self.broken and target == "registry.json":
                raise OSError(5, "broken")
            super().rename(source, target, source_fd=source_fd, target_fd=target_fd)

    syscalls = NoRename()
    store = opened(syscalls)
    unit = LogicalUnit(store)
    with caplog.at_level(logging.WARNING):
        assert register(unit, A, 1).status == Status.GOOD
    assert "upkeep" in caplog.text
    assert view(lun)["number"] == 1
    assert not [name for name in os.listdir(lun) if name.startswith(".aside-")]

    syscalls.broken = False
    tidy_now(store)
    assert view(lun)["number"] == 2


def test_view_of_a_deleted_lun_says_so(lun: str, opened: Callable[..., LockDirectory]) -> None:
    """Until the directory is removed."""
    store = opened()
    base = store.head()
    store.commit(base, base.state, [], served={}, deleted=True)
    store.tidy()

    assert view(lun)["deleted"] is True
    with pytest.raises(StoreError, match="was deleted"):
        store.head()
