"""`flockpr status`, for people."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from flockpr import LogicalUnit, OutAction, ReservationType, Status, create_lun
from flockpr.cli import main
from flockpr.unit_status import view_lags
from tests.support import gate_story
from tests.support.luns import (
    ALICE,
    ALICE_KEY,
    broken_lun,
    contested_lun,
    out,
    preempted_lun,
    spc2_lun,
)

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: pathlib.Path) -> str:
    """An empty root."""
    return str(tmp_path)


def test_status_contested_lun_shows_all_of_it(root: str, capsys: Capture) -> None:
    """Generation, APTPL, age, type in words, holder, keys in hex, who is alive."""
    contested_lun(root)

    assert main(["status", "--root", root]) == 0

    head, reservation, headings, alice, bob, promised = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"disk: generation 2, APTPL off, transaction 4, changed \d+ s ago", head)
    assert reservation == (
        "  reservation: Write Exclusive, registrants only, "
        "held by iqn.2026-01.example:alice (port 1), key 0x00000000000000a1"
    )
    assert headings.split()[:4] == ["INITIATOR", "PORT", "KEY", "LIVENESS"]
    assert alice.split()[:4] == ["iqn.2026-01.example:alice", "1", "0x00000000000000a1", "gone"]
    assert alice.endswith("holder")
    assert not bob.endswith("holder")
    assert headings.index("KEY") == alice.index("0x") == bob.index("0x")
    assert promised.startswith("  enforced for the targets of ")


def test_status_registrant_that_is_served_is_alive(root: str, capsys: Capture) -> None:
    """Its byte range is held as long as its daemon lives."""
    create_lun(root, "disk")
    with LogicalUnit.open(os.path.join(root, "disk")) as unit:
        assert out(unit, ALICE, OutAction.REGISTER, new=ALICE_KEY) == Status.GOOD
        unit.attend(ALICE)

        assert main(["status", "disk", "--root", root]) == 0

    assert " alive " in capsys.readouterr().out


def test_status_several_luns_broken_one_hides_no_other(root: str, capsys: Capture) -> None:
    """The others are shown; the exit code and standard error tell of the broken one."""
    contested_lun(root, "a")
    broken_lun(root, "b")
    spc2_lun(root, "c")

    assert main(["status", "--root", root]) == 12

    printed = capsys.readouterr()
    assert re.findall(r"^(\w+): generation", printed.out, re.MULTILINE) == ["a", "c"]
    assert "reservation: SPC-2 RESERVE, held by iqn.2026-01.example:alice (port 1)" in printed.out
    assert "no registrations" in printed.out
    assert "remedy:" in printed.err


def test_status_waiting_attentions_are_counted(root: str, capsys: Capture) -> None:
    """Somebody was preempted and has not been told."""
    preempted_lun(root)

    assert main(["status", "--root", root]) == 0

    assert "unit attentions wait for 1 initiator\n" in capsys.readouterr().out


def test_status_all_registrants_has_no_single_holder(root: str, capsys: Capture) -> None:
    """SPC-4 5.13.10: every registrant holds it."""
    create_lun(root, "disk")
    type_ = ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS
    with LogicalUnit.open(os.path.join(root, "disk")) as unit:
        assert out(unit, ALICE, OutAction.REGISTER, new=ALICE_KEY) == Status.GOOD
        assert out(unit, ALICE, OutAction.RESERVE, own=ALICE_KEY, type_=type_) == Status.GOOD

    assert main(["status", "--root", root]) == 0

    text = capsys.readouterr().out
    assert "Exclusive Access, all registrants, held by every registrant" in text
    assert text.rstrip().endswith("holder")


def test_status_publication_behind_is_told(root: str, capsys: Capture) -> None:
    """Whoever reads registry.json learns that it is not the newest."""
    contested_lun(root)
    os.unlink(os.path.join(root, "disk", "registry.json"))

    assert main(["status", "--root", root]) == 0

    assert "registry.json lags behind" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("published", "age", "expected"),
    [(7, 0.0, False), (6, 0.0, False), (6, 60.0, True), (6, None, True), (None, 0.0, True)],
)
def test_view_lags_when_it_is_behind_for_longer_than_a_daemon_takes(
    published: int | None, age: float | None, expected: bool
) -> None:
    """One that is published in the next pause is nothing to tell."""
    assert view_lags({"number": 7, "published": published, "age_s": age}) is expected


def test_status_without_a_lock_file_says_why_liveness_is_unknown(
    root: str, capsys: Capture
) -> None:
    """One line with the file and the remedy; the reservations are known all the same."""
    contested_lun(root)
    locks = os.path.join(root, "disk", "locks")
    os.unlink(locks)

    assert main(["status", "--root", root]) == 0
    printed = capsys.readouterr()
    assert printed.out.count(" unknown ") == 2
    (line,) = printed.err.splitlines()
    assert line.startswith(f"flockpr status: {locks}: cannot be opened: No such file or directory")
    assert "liveness is unknown (remedy: copy the one of another LUN here" in line

    os.mkdir(locks)
    assert main(["status", "--json", "--root", root]) == 0
    printed = capsys.readouterr()
    (unit,) = json.loads(printed.out)["luns"]
    assert {one["liveness"] for one in unit["registrations"]} == {"unknown"}
    assert unit["error"] is None
    assert len(printed.err.splitlines()) == 1
    assert "something else stands in its place" in printed.err


def test_power_cycle_without_a_lock_file_says_so(root: str) -> None:
    """It succeeds, and its one line on standard error names the file and the remedy."""
    contested_lun(root)
    locks = os.path.join(root, "disk", "locks")
    os.unlink(locks)

    # A process of its own: where nothing handles log messages, they go to standard error.
    done = subprocess.run(
        [sys.executable, "-m", "flockpr", "lun", "power-cycle", "disk", "--root", root],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        timeout=100,
    )

    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"flockpr lun power-cycle: {locks}: cannot be opened: ")
    assert "done all the same (remedy: copy the one of another LUN here" in line


def test_status_empty_root_says_so(root: str, capsys: Capture) -> None:
    """And says how to go on."""
    assert main(["status", "--root", root]) == 0
    assert "flockpr lun create" in capsys.readouterr().out


def test_status_of_a_gate_names_hosts_permits_and_knocks(root: str, capsys: Capture) -> None:
    """Who has permits, who knocks, who waits for whom, and when they were heard of last."""
    disk = contested_lun(root)
    with gate_story.everything(root, disk.lun, os.path.join(root, str(disk.image))):
        assert main(["status", "--root", root]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert "  permits: node1, node2 (silent), node3 (silent)" in lines
    assert "  knocks: node1, for all" in lines
    assert any(line.startswith("  waits: node1 (pid 4711) for node2") for line in lines)
    headings = next(n for n, line in enumerate(lines) if line.startswith("HOST"))
    hosts = {line.split()[0]: line for line in lines[headings + 1 : headings + 4]}
    assert set(hosts) == {"node1", "node2", "node3"}
    assert " iscsi " in hosts["node1"]
    assert hosts["node2"].rstrip().endswith(" d ago")
    assert hosts["node3"].endswith("declared fenced")


def test_status_of_hosts_that_are_long_gone_is_quiet(root: str, capsys: Capture) -> None:
    """They are in `gate show` and in `--json`."""
    create_lun(root, "disk", size=1 << 20)
    gate_story.say(root, gate_story.SILENT, "node2", contact=gate_story.LONG_AGO)

    assert main(["status", "--root", root]) == 0
    assert "node2" not in capsys.readouterr().out
    assert main(["status", "--root", root, "--json"]) == 0
    assert [one["host"] for one in json.loads(capsys.readouterr().out)["hosts"]] == ["node2"]


def test_status_without_the_image_says_that_permits_are_unknown(root: str, capsys: Capture) -> None:
    """The reservations are known all the same."""
    disk = contested_lun(root)
    os.unlink(os.path.join(root, str(disk.image)))
    capsys.readouterr()

    assert main(["status", "--root", root, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["luns"][0]["gate"] is None
    assert "who has permits is unknown" in printed.err
