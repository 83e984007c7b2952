"""`flockpr lun`, over a real root."""

from __future__ import annotations

import json
import os
import pathlib

import pytest

from flockpr import LogicalUnit, OutAction, Status, list_luns, read_identity
from flockpr.cli import main
from flockpr.daemon import settings
from flockpr.errors import Busy
from flockpr.store import provision
from flockpr.store.kinds import LOCKDIR, SQLITE, STORES, store_of
from tests.support.luns import ALICE, ALICE_KEY, broken_lun, contested_lun, out, spc2_lun

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def root(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A root that does not exist yet, known from the environment."""
    monkeypatch.setenv("FLOCKPR_ROOT", str(tmp_path / "root"))
    return str(tmp_path / "root")


def test_lun_create_makes_what_the_options_say(root: str, capsys: Capture) -> None:
    """Image, identifiers and serial are kept; the rest is generated."""
    os.mkdir(root)
    argv = ["lun", "create", "disk", "--image", "a/b.raw", "--size", "1M", "--serial", "S1"]

    assert main([*argv, "--wwid", "naa.6001", "--wwid", "t10.x", "--target-port", "7"]) == 0

    identity = read_identity(root, "disk")
    assert (identity.image, identity.serial) == ("a/b.raw", "S1")
    assert identity.wwids == ("naa.6001", "t10.x")
    assert identity.target_ports == (1, 2, 7)
    assert os.path.getsize(os.path.join(root, "a/b.raw")) == 1 << 20
    printed = capsys.readouterr()
    assert printed.out.startswith(f"created disk in {root}\n")
    assert identity.naa in printed.out
    assert printed.err == ""


def test_lun_create_says_so_when_it_makes_the_root(root: str, capsys: Capture) -> None:
    """It may be a mount point whose share is not there yet."""
    for name, expected in (("one", True), ("two", False)):
        assert main(["lun", "create", name]) == 0
        printed = capsys.readouterr()
        assert (f"lun create: {root} did not exist and was made" in printed.err) is expected
        assert printed.out.startswith(f"created {name} in {root}\n")


def test_lun_create_json_is_the_identity(root: str, capsys: Capture) -> None:
    """A script that makes a logical unit learns its NAA identifier."""
    assert main(["lun", "create", "disk", "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document["format"] == 1
    assert document["root"] == root
    assert document["lun"]["naa"] == read_identity(root, "disk").naa


def test_lun_create_passed_marks_a_disk_and_promises_nothing(root: str, capsys: Capture) -> None:
    """A device's own reservations are its own; a database would have nothing to keep."""
    argv = ["lun", "create", "san", "--passed", "--wwid", "naa.6001"]

    assert main([*argv, "--store", "sqlite"]) == 2
    assert "no transactions to keep" in capsys.readouterr().err
    assert main(["lun", "create", "san", "--passed"]) == 2  # of which disk?
    assert main(argv) == 0
    created = capsys.readouterr().out
    assert "passed:       on to the device, on every host\n" in created
    assert "promise" not in created
    assert main(["lun", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("  passed on")
    assert main(["lun", "show", "san"]) == 0
    assert "passed:       on to the device" in capsys.readouterr().out
    assert main(["status", "san"]) != 0
    assert "remedy: serve it with manager = auto or sgio" in capsys.readouterr().err
    for verb in (["status"], ["gate", "show"]):
        assert main(verb) == 0
        assert "no logical units" in (said := capsys.readouterr().out)
        assert "of 1 that are passed on" in said
    assert main(["lun", "delete", "san"]) == 0


def test_lun_create_taken_name_fails_with_remedy(root: str, capsys: Capture) -> None:
    """Nothing is overwritten."""
    assert main(["lun", "create", "disk"]) == 0
    before = read_identity(root, "disk")

    assert main(["lun", "create", "disk"]) == 1

    assert "remedy:" in capsys.readouterr().err
    assert read_identity(root, "disk") == before


@pytest.mark.parametrize("name", ["../up", ".hidden", "a/b", "a" * 65, "a\nb"])
def test_lun_create_wrong_name_is_a_usage_error(name: str, root: str, capsys: Capture) -> None:
    """A name is a directory's name and nothing else."""
    assert main(["lun", "create", name]) == 2

    assert capsys.readouterr().err
    assert not os.path.exists(root)


def test_lun_root_flag_wins_over_environment(root: str, tmp_path: pathlib.Path) -> None:
    """--root before FLOCKPR_ROOT."""
    other = str(tmp_path / "other")

    assert main(["lun", "create", "disk", "--root", other]) == 0

    assert [listing.name for listing in list_luns(other)] == ["disk"]
    assert not os.path.exists(root)


def test_lun_root_comes_from_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Without flag and environment the file named by --config says where."""
    monkeypatch.delenv("FLOCKPR_ROOT")
    config = tmp_path / "flockpr.toml"
    config.write_text(f'[serve]\nroot = "{tmp_path}/configured"\n')

    assert main(["lun", "create", "disk", "--config", str(config)]) == 0

    assert [listing.name for listing in list_luns(f"{tmp_path}/configured")] == ["disk"]


def test_lun_create_makes_the_store_that_is_configured(
    root: str, tmp_path: pathlib.Path, capsys: Capture
) -> None:
    """An option beats it; a disk that is passed through has none; a broken file is told."""
    config = tmp_path / "flockpr.toml"
    config.write_text('[create]\nstore = "sqlite"\n')
    create = ["lun", "create", "--config", str(config)]

    assert main([*create, "one"]) == 0
    assert main([*create, "two", "--store", "lockdir"]) == 0
    assert main([*create, "san", "--passed", "--wwid", "naa.6001"]) == 0
    assert main(["lun", "create", "three"]) == 0
    capsys.readouterr()
    config.write_text("[create\n")
    assert main([*create, "four"]) == 0

    assert "not valid TOML" in capsys.readouterr().err
    names = ("one", "two", "san", "three", "four")
    found = [store_of(os.path.join(root, name)) for name in names]
    assert found == [SQLITE, LOCKDIR, LOCKDIR, LOCKDIR, LOCKDIR]
    assert settings.STORES == STORES


def test_lun_list_shows_all_and_reports_the_broken_one(root: str, capsys: Capture) -> None:
    """One damaged directory hides no other, and the exit code tells."""
    contested_lun(root, "disk")
    broken_lun(root, "wreck")

    assert main(["lun", "list"]) == 12

    printed = capsys.readouterr()
    assert [line.split()[:2] for line in printed.out.splitlines()] == [
        ["LUN", "NAME"],
        ["0", "disk"],
    ]
    assert "wreck" in printed.err
    assert "remedy:" in printed.err


def test_lun_list_json_holds_the_error(root: str, capsys: Capture) -> None:
    """A program sees which one is broken, and why."""
    contested_lun(root, "disk")
    broken_lun(root, "wreck")

    assert main(["lun", "list", "--json"]) == 12

    good, bad = json.loads(capsys.readouterr().out)["luns"]
    assert (good["name"], good["error"]) == ("disk", None)
    assert (bad["name"], bad["error"]["exit_code"]) == ("wreck", 12)
    assert os.path.join(root, "wreck") in bad["error"]["path"]


def test_lun_list_empty_root_says_so(root: str, capsys: Capture) -> None:
    """Nothing is an answer; a root that is missing is not."""
    os.mkdir(root)
    assert main(["lun", "list"]) == 0
    assert "no logical units" in capsys.readouterr().out

    os.rmdir(root)
    assert main(["lun", "list"]) == 13
    assert "remedy:" in capsys.readouterr().err


def test_lun_show_prints_every_property(root: str, capsys: Capture) -> None:
    """What identifies it, for people and for programs."""
    identity = contested_lun(root)

    assert main(["lun", "show", "disk"]) == 0
    text = capsys.readouterr().out
    assert main(["lun", "show", "disk", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)

    for value in (identity.naa, identity.serial, identity.incarnation, "images/disk.raw"):
        assert value in text
    assert document["lun"]["incarnation"] == identity.incarnation


@pytest.mark.parametrize(
    "argv",
    [["lun", "show"], ["lun", "delete"], ["lun", "power-cycle"], ["status"], ["log"], ["upgrade"]],
    ids=" ".join,
)
def test_verb_on_unknown_lun_returns_13(argv: list[str], root: str, capsys: Capture) -> None:
    """Every verb that names a logical unit says that there is none."""
    contested_lun(root)

    assert main([*argv, "none"]) == 13

    printed = capsys.readouterr()
    assert printed.out == ""
    assert "remedy:" in printed.err


def test_lun_delete_in_use_is_refused(root: str, capsys: Capture) -> None:
    """A cluster that counts on its keys would lose them."""
    contested_lun(root, "disk")
    spc2_lun(root, "old")

    assert main(["lun", "delete", "disk"]) == 1
    assert "2 registered" in capsys.readouterr().err
    assert len(list_luns(root)) == 2


def test_lun_delete_with_force_removes_it(root: str, capsys: Capture) -> None:
    """--force is the operator's word."""
    contested_lun(root)

    assert main(["lun", "delete", "disk", "--force"]) == 0

    assert capsys.readouterr().out.startswith("deleted disk\n")
    assert list_luns(root) == []


def test_lun_delete_unused_needs_no_force(root: str) -> None:
    """Nobody is registered, nobody loses anything."""
    assert main(["lun", "create", "disk"]) == 0

    assert main(["lun", "delete", "disk"]) == 0
    assert list_luns(root) == []


def test_lun_power_cycle_drops_registrations_while_served(root: str, capsys: Capture) -> None:
    """SPC-4 5.13.5: what was registered with APTPL=0 is gone, also for whoever serves it."""
    assert main(["lun", "create", "disk"]) == 0
    with LogicalUnit.open(os.path.join(root, "disk")) as unit:
        assert out(unit, ALICE, OutAction.REGISTER, new=ALICE_KEY) == Status.GOOD

        assert main(["lun", "power-cycle", "disk"]) == 0

        status = unit.status().to_json()
    assert (status["registrations"], status["generation"]) == ([], 0)
    assert "0 registrations were kept" in capsys.readouterr().out


def test_lun_power_cycle_keeps_what_persists(root: str, capsys: Capture) -> None:
    """SPC-4 5.13.5: with APTPL=1 registrations survive."""
    assert main(["lun", "create", "disk"]) == 0
    with LogicalUnit.open(os.path.join(root, "disk")) as unit:
        assert out(unit, ALICE, OutAction.REGISTER, new=ALICE_KEY, aptpl=True) == Status.GOOD

    assert main(["lun", "power-cycle", "disk"]) == 0

    assert "1 registrations were kept" in capsys.readouterr().out


def test_upgrade_newest_format_changes_nothing(root: str, capsys: Capture) -> None:
    """There has been one format so far."""
    contested_lun(root)
    before = sorted(os.listdir(os.path.join(root, "disk", "commits")))

    assert main(["upgrade"]) == 0

    assert capsys.readouterr().out == "disk: format 1 is the newest, nothing to do\n"
    assert sorted(os.listdir(os.path.join(root, "disk", "commits"))) == before


def test_upgrade_older_format_says_what_it_did(
    root: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the format that was, to the one that is."""
    contested_lun(root)
    monkeypatch.setattr(provision, "upgrade_lun", lambda _root, _name: (1, 2))

    assert main(["upgrade", "disk"]) == 0

    assert capsys.readouterr().out == "disk: format 2 instead of 1 from now\n"


def test_upgrade_old_daemon_alive_returns_11(
    root: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is done while somebody could not read the result; the others are upgraded."""
    contested_lun(root, "a")
    contested_lun(root, "b")

    def upgrade(_root: str, name: str) -> tuple[int, int]:
        if name == "a":
            raise Busy("an old daemon serves it", name, "restart it")
        return 1, 2

    monkeypatch.setattr(provision, "upgrade_lun", upgrade)

    assert main(["upgrade"]) == 11

    printed = capsys.readouterr()
    assert printed.out == "b: format 2 instead of 1 from now\n"
    assert "remedy: restart it" in printed.err
