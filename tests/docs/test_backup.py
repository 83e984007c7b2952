"""docs/backup.md: its commands are run, and what it promises of a restore holds."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
import threading

import attrs
import pytest

from flockpr import (
    LogicalUnit,
    OutAction,
    Status,
    create_lun,
    delete_lun,
    list_luns,
    read_identity,
)
from flockpr.errors import StateUnreadable
from flockpr.store.kinds import SQLITE, STORES, store_of
from tests.support.daemon_process import eventually
from tests.support.docs import ROOT, read
from tests.support.luns import ALICE, ALICE_KEY, BOB, BOB_KEY, TYPE, out

PAGE = "docs/backup.md"
SIZE = 8 << 20


def command(name: str) -> str:
    """A block of the page, without the indentation that it has in a list."""
    lines = iter(read(PAGE).split("\n"))
    next(line for line in lines if line.strip() == f"<!-- command: {name} -->")
    next(line for line in lines if line.strip() == "```sh")
    block: list[str] = []
    for line in lines:
        if line.strip() == "```":
            return textwrap.dedent("\n".join(block))
        block.append(line)
    raise AssertionError(name)


@attrs.frozen
class Place:
    """A root with a logical unit that is in use, and a place for its backup."""

    root: pathlib.Path
    backup: pathlib.Path

    @property
    def image(self) -> pathlib.Path:
        """The image."""
        return self.root / "images" / "disk.img"

    def run(self, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a block of the page as somebody who pastes it."""
        environ = {
            "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "ROOT": str(self.root),
            "BACKUP": str(self.backup),
            "NAME": "disk",
        }
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command(name)],
            env=environ | variables,
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )

    def registered(self) -> dict[str, str]:
        """Who is registered, and with which key."""
        with LogicalUnit.open(str(self.root / "disk")) as unit:
            found = unit.status().to_json()["registrations"]
        return {each["initiator"]: each["key"] for each in found}


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Place:
    """Alice is registered for good and has reserved, Bob until the next power cycle."""
    made = Place(tmp_path / "root", tmp_path / "backup")
    made.backup.mkdir()
    create_lun(str(made.root), "disk", size=SIZE)
    with made.image.open("r+b") as file:
        file.seek(4 << 20)
        file.write(b"before" * 1000)
    with LogicalUnit.open(str(made.root / "disk")) as unit:
        assert out(unit, BOB, OutAction.REGISTER, new=BOB_KEY) == Status.GOOD
        assert out(unit, ALICE, OutAction.REGISTER, new=ALICE_KEY, aptpl=True) == Status.GOOD
        assert out(unit, ALICE, OutAction.RESERVE, own=ALICE_KEY, type_=TYPE) == Status.GOOD
    return made


def key(number: int) -> str:
    """A key as documents have it."""
    return f"0x{number:016x}"


def test_backup_restores_data_and_what_persists(place: Place) -> None:
    """What came after it is gone; what was registered with APTPL=0 does not survive either."""
    identity = read_identity(str(place.root), "disk")
    image = place.image.read_bytes()
    place.run("backup")
    with LogicalUnit.open(str(place.root / "disk")) as unit:
        assert out(unit, BOB, OutAction.PREEMPT, own=BOB_KEY, new=ALICE_KEY, type_=TYPE) == 0
    place.image.write_bytes(os.urandom(SIZE))

    place.run("restore")

    assert read_identity(str(place.root), "disk") == identity
    assert place.image.read_bytes() == image
    assert place.image.stat().st_blocks * 512 < SIZE // 2
    # APTPL is what the last REGISTER said; it holds for every registration.
    assert place.registered()[ALICE.initiator_port.name] == key(ALICE_KEY)
    shown = place.run("after-restore").stdout
    assert "registrations were kept" in shown
    assert ALICE.initiator_port.name in shown
    with LogicalUnit.open(str(place.root / "disk")) as unit:
        status = unit.status().to_json()
        assert status["generation"] == 0
        assert [record.applied.action for record in unit.history()][-1] == "POWER CYCLE"
    assert (place.backup / "disk.before").is_dir()


def test_restore_into_an_empty_root_gives_no_number_twice(place: Place) -> None:
    """A logical unit that is made afterwards gets another one."""
    place.run("backup")
    shutil.rmtree(place.root)
    place.root.mkdir(mode=0o700)

    place.run("restore")

    assert [listing.name for listing in list_luns(str(place.root))] == ["disk"]
    assert create_lun(str(place.root), "new", size=SIZE).lun == 1
    assert place.registered()


@pytest.mark.parametrize("store", STORES)
def test_locks_are_backed_up_while_commands_commit(place: Place, store: str) -> None:
    """The copy is a state that there was, and is accepted as it is."""
    if store == SQLITE:
        delete_lun(str(place.root), "disk", force=True)
        create_lun(str(place.root), "disk", image="images/disk.img", store=SQLITE)
        with LogicalUnit.open(str(place.root / "disk")) as unit:
            assert out(unit, ALICE, OutAction.REGISTER, new=ALICE_KEY) == Status.GOOD
    done = threading.Event()
    generations: list[int] = []

    def work() -> None:
        with LogicalUnit.open(str(place.root / "disk")) as unit:
            current = ALICE_KEY
            while not done.is_set() or len(generations) < 20:
                assert out(unit, ALICE, OutAction.REGISTER, own=current, new=current + 1) == 0
                current += 1
                generations.append(current)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        place.run("live-database" if store == SQLITE else "live-locks")
    finally:
        done.set()
        thread.join(100)
    shutil.move(place.root / "disk", place.backup / "disk.before")
    place.run("restore", NAME="disk", BACKUP=str(_renamed(place.backup)))

    assert store_of(str(place.root / "disk")) == store
    assert (place.root / "disk" / "lun.json").stat().st_mode & 0o777 == 0o600
    assert int(place.registered()[ALICE.initiator_port.name], 16) in [ALICE_KEY, *generations]


def _renamed(backup: pathlib.Path) -> pathlib.Path:
    """The copy of the locks alone, under the name that the restore looks for."""
    only = backup / "only"
    only.mkdir()
    (backup / "disk-locks.tar").rename(only / "disk.tar")
    return only


def test_daemon_that_lives_through_a_restore_refuses_everything(place: Place) -> None:
    """Why the page says to end them: their state went back."""
    place.run("backup")
    with LogicalUnit.open(str(place.root / "disk")) as unit:
        for turn in range(3):
            assert (
                out(unit, BOB, OutAction.REGISTER, own=BOB_KEY + turn, new=BOB_KEY + turn + 1) == 0
            )
        place.run("restore")
        # It looks once a second whether its directory is still the one of that name.
        eventually(
            lambda: out(unit, ALICE, OutAction.REGISTER) == Status.CHECK_CONDITION, "the refusal"
        )


def test_copy_of_a_lock_directory_under_another_name_is_refused(place: Place) -> None:
    """Two sets of reservations for one disk; the page names the verb to use instead."""
    shutil.copytree(place.root / "disk", place.root / "copy")
    with pytest.raises(StateUnreadable, match="belongs to the LUN disk"):
        read_identity(str(place.root), "copy")
    assert "flockpr lun clone" in read(PAGE)
