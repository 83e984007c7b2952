"""Nobody declares fenced what runs beside him, whatever it is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from flockpr import LunIdentity, create_lun
from flockpr.cli import main
from flockpr.errors import ConfigError
from flockpr.gate import fenced, forcing, forgetting, roster
from flockpr.gate.hosts import host_number
from flockpr.gate.overview import LunGate, Overview, look
from tests.support.gate_story import LONG_AGO, SILENT, permit, say

BEFORE = host_number("the-name-before")
"""This host, as what runs since before its name was changed knows it."""


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A root."""
    return str(tmp_path)


@pytest.fixture
def disk(root: str) -> LunIdentity:
    """A logical unit with an image."""
    return create_lun(root, "disk", size=1 << 20)


def gates(root: str, disk: LunIdentity) -> list[LunGate]:
    """What can be seen of it."""
    gate = look(root, disk)
    assert gate is not None
    return [gate]


@pytest.mark.parametrize("options", [(), ("--yes",), ("--yes-it-is-fenced",)])
def test_target_of_this_boot_by_another_host_name_is_not_declared(
    root: str,
    disk: LunIdentity,
    options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It runs here, however silent it is: commands of this host would go past its writes."""
    monkeypatch.setattr(forcing, "CALL", 0.05)
    say(root, BEFORE, "the-name-before", contact=LONG_AGO, boot_id=roster.boot_id())
    command = ["gate", "force", "disk", "--root", root, "--host", "the-name-before"]
    with permit(f"{root}/{disk.image}", BEFORE):
        assert main([*command, "--proof", "said so", *options]) == 2
    told = capsys.readouterr().err
    assert "the-name-before is this very host, or runs since the same boot" in told
    assert "stop its target" in told
    assert fenced.numbers(root) == frozenset()


def test_declaration_of_this_boot_by_another_host_name_is_not_forgotten(root: str) -> None:
    """That boot is not over."""
    say(root, BEFORE, "the-name-before", contact=LONG_AGO, boot_id=roster.boot_id())
    fenced.declare(root, BEFORE, proof="said on another host", host="the-name-before")
    with pytest.raises(ConfigError, match="this very boot"):
        forgetting.check(Overview.of(root), [], BEFORE)


def test_host_of_another_boot_is_another_one(root: str, disk: LunIdentity) -> None:
    """Also one of which nothing is known but its permit."""
    say(root, SILENT, "node2", contact=LONG_AGO)
    with permit(f"{root}/{disk.image}", SILENT, SILENT + 1):
        overview, seen = Overview.of(root), gates(root, disk)
    for number in (SILENT, SILENT + 1):
        assert not overview.here(number)
        assert forcing.plan(overview, seen, number).number == number
    assert overview.here(host_number())


def test_boots_that_nobody_knows_are_not_the_same(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel does not say, all of them have an empty id."""
    monkeypatch.setattr(roster, "boot_id", lambda: "")
    say(root, SILENT, "node2", contact=LONG_AGO, boot_id="")
    overview = Overview.of(root)
    assert overview.hosts[SILENT].boot_id == ""
    assert not overview.here(SILENT)
