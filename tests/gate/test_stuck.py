"""A host that died with all permits: it is named, and nobody is told that a declaration helps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flockpr import LunIdentity, create_lun
from flockpr.cli import main
from flockpr.gate import Doorbell, Gate, Permit, fenced, open_image, places, stuck
from flockpr.gate.hosts import host_number
from flockpr.gate.overview import LunGate, Overview, look
from flockpr.store.syscalls import Syscalls
from tests.support.gate_story import LONG_AGO, SILENT, permit, say
from tests.support.gates import LONG, eventually, soon, usable

Capture = pytest.CaptureFixture[str]
SYSCALLS = Syscalls()
NAME = f"{SILENT:010x}"


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A root."""
    return str(tmp_path)


@pytest.fixture
def disk(root: str) -> LunIdentity:
    """A logical unit with an image."""
    return create_lun(root, "disk", size=1 << 20)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is waited for."""
    monkeypatch.setattr(stuck, "PATIENCE", 0.1)


@contextlib.contextmanager
def all_permits(root: str, disk: LunIdentity, host: int = SILENT) -> Iterator[None]:
    """A command of a host that has them, and does nothing more: NFS 3 keeps what a dead one had."""
    with (
        Doorbell(root, SYSCALLS, host) as bell,
        contextlib.closing(open_image(f"{root}/{disk.image}", SYSCALLS)) as image,
    ):
        assert bell.ring(disk.lun)
        assert image.lock(places.ALL_PERMITS)
        yield


def gate_of(root: str, disk: LunIdentity) -> LunGate:
    """What can be seen of it."""
    gate = look(root, disk)
    assert gate is not None
    return gate


def force(root: str, *argv: str) -> int:
    """Answer for the host."""
    return main(
        ["gate", "force", "disk", "--root", root, "--host", NAME, "--proof", "it burned", *argv]
    )


def test_host_with_all_permits_is_named(root: str, disk: LunIdentity, capsys: Capture) -> None:
    """Its lock says nothing, but it rings for everybody; and it is silent."""
    say(root, SILENT, "node2", contact=LONG_AGO)
    with all_permits(root, disk):
        assert gate_of(root, disk).narrowers == (SILENT,)
        assert main(["gate", "show", "--root", root]) == 0
    shown = capsys.readouterr().out
    assert "a command of node2 (silent) that takes access away has those of all others" in shown
    assert "  knocks: node2 (silent), for all" in shown


def test_host_with_all_permits_is_not_declared_fenced(
    root: str, disk: LunIdentity, capsys: Capture
) -> None:
    """It would not help; what does is said for each file system, also where it only looks."""
    with all_permits(root, disk):
        for options in ((), ("--yes",), ("--yes-it-is-fenced",)):
            assert force(root, *options) == 11
            told = capsys.readouterr().err
            assert f"a command of host {NAME} has the permits of all" in told
            for word in ("one host", "NFS 4", "GFS2", "NFS 3", "docs/when-it-breaks.md"):
                assert word in told
    assert fenced.numbers(root) == frozenset()


def test_host_with_all_permits_of_one_unit_may_be_declared_for_its_permit_of_another(
    root: str, disk: LunIdentity, capsys: Capture
) -> None:
    """That helps there; where it does not is said."""
    other = create_lun(root, "other", size=1 << 20)
    with all_permits(root, disk), permit(f"{root}/{other.image}", SILENT):
        command = ["gate", "force", "--all", "--root", root, "--host", NAME, "--proof", "it burned"]
        assert main([*command, "--yes"]) == 0
    assert "that does not help where it has all permits: disk" in capsys.readouterr().out
    assert fenced.numbers(root) == {SILENT}


def test_declaration_does_not_help_against_all_permits(root: str, disk: LunIdentity) -> None:
    """What the page says of it is so: neither a target nor a command passes, until it is gone."""
    target = Permit(root, disk.lun, str(disk.image), on_open=lambda _: None)
    fenced.declare(root, SILENT, proof="even so")
    with all_permits(root, disk):
        assert not target.enter(time.monotonic() + 0.2)
    eventually(lambda: usable(target), "it does not serve")
    target.close()


def test_command_that_lives_is_not_taken_for_one_that_does_not_end(
    root: str, disk: LunIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lets go of the permits, within a patience."""
    monkeypatch.setattr(stuck, "PATIENCE", LONG)
    number = host_number("node9")
    gate = Gate(root, disk.lun, str(disk.image), host="node9")
    with gate.narrow(soon()):
        seen = gate_of(root, disk)
        assert seen.narrowers == (number,)
    assert stuck.gates_of(Overview.of(root), [seen], number) == []
    assert stuck.gates_of(Overview.of(root), [seen], SILENT) == []


def test_host_that_only_rings_has_no_permits(root: str, disk: LunIdentity) -> None:
    """While nobody has them all."""
    with Doorbell(root, SYSCALLS, SILENT) as bell:
        assert bell.ring(disk.lun)
        assert gate_of(root, disk).narrowers == ()
