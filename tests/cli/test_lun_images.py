"""`flockpr lun` and images: create with a size, show, grow, clone, delete."""

from __future__ import annotations

import json
import os
import pathlib

import pytest

from flockpr import list_luns, read_identity
from flockpr.cli import main
from flockpr.store.identity import target_name
from tests.support.luns import contested_lun

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def root(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A root, known from the environment."""
    monkeypatch.setenv("FLOCKPR_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / "root").mkdir(0o700)
    return str(tmp_path / "root")


def run(capsys: Capture, *argv: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `flockpr lun ...`."""
    capsys.readouterr()
    code = main(["lun", *argv])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def shown(capsys: Capture, name: str = "disk") -> dict[str, object]:
    """The document of `lun show`."""
    code, text, _ = run(capsys, "show", name, "--json")
    assert code == 0
    document: dict[str, object] = json.loads(text)["lun"]
    return document


def test_create_with_a_size_is_all_that_a_disk_needs(root: str, capsys: Capture) -> None:
    """One command; what it prints names the target, and show says the same to programs."""
    code, text, err = run(capsys, "create", "disk", "--size", "10G")
    identity = read_identity(root, "disk")
    document = shown(capsys)

    assert (code, err) == (0, "")
    assert target_name(identity) in text
    assert "10 GiB" in text
    assert document["iqn"] == target_name(identity)
    assert (document["lun"], document["size"]) == (0, 10 << 30)
    assert document["target_ports"] == [1, 2]
    assert os.path.getsize(f"{root}/images/disk.img") == 10 << 30


@pytest.mark.parametrize("size", ["0", "-1", "10X", "", "1.5G", "1000", "99999E", "G"])
def test_create_with_a_wrong_size_is_a_usage_error(root: str, capsys: Capture, size: str) -> None:
    """And makes nothing."""
    code, _, err = run(capsys, "create", "disk", f"--size={size}")
    assert code == 2
    assert "size" in err
    assert os.listdir(root) == []


def test_create_where_a_file_is_says_how_to_use_it(root: str, capsys: Capture) -> None:
    """The image of a deleted logical unit, taken up again by its name."""
    assert run(capsys, "create", "disk", "--size", "1M")[0] == 0
    code, text, _ = run(capsys, "delete", "disk")
    assert (code, text) == (0, "deleted disk\nits image is still there: images/disk.img\n")

    code, _, err = run(capsys, "create", "disk", "--size", "1M")
    assert code == 1
    assert "--image images/disk.img" in err
    assert run(capsys, "create", "disk", "--image", "images/disk.img")[0] == 0
    assert shown(capsys)["size"] == 1 << 20


def test_create_with_an_image_that_is_no_image_is_refused(root: str, capsys: Capture) -> None:
    """Missing, of half a block, or none at all."""
    pathlib.Path(root, "odd.img").write_bytes(b"x" * 100)
    for image, code in (("none.img", 1), ("odd.img", 2), ("../up.img", 2), ("images", 1)):
        assert run(capsys, "create", "disk", "--image", image)[0] == code, image
    assert list_luns(root) == []


@pytest.mark.parametrize("port", ["0", "65536", "-3", "x"])
def test_create_with_a_wrong_target_port_is_a_usage_error(capsys: Capture, port: str) -> None:
    """Relative target port identifiers are 1 to 65535."""
    assert run(capsys, "create", "disk", f"--target-port={port}")[0] == 2


def test_show_names_the_configured_target(
    root: str, tmp_path: pathlib.Path, capsys: Capture
) -> None:
    """Where [target] gives one name to all; a broken file is told and does not stand in the way."""
    assert run(capsys, "create", "disk", "--size", "1M")[0] == 0
    config = tmp_path / "c.toml"
    config.write_text('[target]\nname = "iqn.2026-11.org.example:all"\n')
    code, text, err = run(capsys, "show", "disk", "--config", str(config), "--json")
    assert (code, err) == (0, "")
    assert json.loads(text)["lun"]["iqn"] == "iqn.2026-11.org.example:all"

    config.write_text("[target\n")
    code, text, err = run(capsys, "show", "disk", "--config", str(config), "--json")
    assert code == 0
    assert json.loads(text)["lun"]["iqn"] == target_name(read_identity(root, "disk"))
    assert "not valid TOML" in err


def test_show_of_an_image_that_is_missing_says_so(root: str, capsys: Capture) -> None:
    """The rest is shown; the size is not known."""
    assert run(capsys, "create", "disk", "--size", "1M")[0] == 0
    os.unlink(f"{root}/images/disk.img")

    code, text, err = run(capsys, "show", "disk")

    assert code == 0
    assert "size:         unknown" in text
    assert "the image is missing" in err


def test_show_of_a_lock_directory_alone_has_no_target_in_its_text(capsys: Capture) -> None:
    """There is nothing that a target could serve."""
    assert run(capsys, "create", "disk")[0] == 0
    text = run(capsys, "show", "disk")[1]
    assert "IQN" not in text
    assert "size" not in text
    assert shown(capsys)["size"] is None


def test_grow_says_what_it_was(root: str, capsys: Capture) -> None:
    """Only ever larger; once more changes nothing."""
    assert run(capsys, "create", "disk", "--size", "1M")[0] == 0

    assert run(capsys, "grow", "disk", "--size", "3M")[:2] == (0, "disk: 3 MiB, was 1 MiB\n")
    assert run(capsys, "grow", "disk", "--size", "3M")[:2] == (0, "disk: 3 MiB\n")
    code, _, err = run(capsys, "grow", "disk", "--size", "2M")

    assert code == 2
    assert "never shrinks" in err
    assert os.path.getsize(f"{root}/images/disk.img") == 3 << 20
    assert run(capsys, "grow", "none", "--size", "2M")[0] == 13
    assert run(capsys, "grow", "disk")[0] == 2


def test_clone_makes_a_disk_of_its_own(root: str, capsys: Capture) -> None:
    """Its document is that of create."""
    assert run(capsys, "create", "disk", "--size", "1M")[0] == 0
    pathlib.Path(root, "images/disk.img").write_bytes(os.urandom(1 << 20))

    code, text, _ = run(capsys, "clone", "disk", "copy", "--image", "c.img", "--json")

    assert code == 0
    document = json.loads(text)["lun"]
    assert document == shown(capsys, "copy")
    assert (document["image"], document["size"]) == ("c.img", 1 << 20)
    assert document["naa"] != shown(capsys)["naa"]
    same = (
        pathlib.Path(root, "c.img").read_bytes()
        == pathlib.Path(root, "images/disk.img").read_bytes()
    )
    assert same
    assert run(capsys, "clone", "disk", "copy")[0] == 1
    assert run(capsys, "clone", "none", "new")[0] == 13


def test_delete_with_image_removes_both(root: str, capsys: Capture) -> None:
    """Only when it is asked for; a registration stands in the way of both."""
    assert run(capsys, "create", "disk", "--size", "1M")[0] == 0
    assert run(capsys, "delete", "disk", "--image")[:2] == (0, "deleted disk\n")
    assert os.listdir(f"{root}/images") == []

    contested_lun(root, "used")
    code, _, err = run(capsys, "delete", "used", "--image")
    assert code == 1
    assert "2 registered" in err
    assert [listing.name for listing in list_luns(root)] == ["used"]


def test_list_has_a_column_for_sizes(root: str, capsys: Capture) -> None:
    """Empty for a logical unit without an image."""
    assert run(capsys, "create", "disk", "--size", "1536K")[0] == 0
    assert run(capsys, "create", "bare")[0] == 0
    lines = run(capsys, "list")[1].splitlines()
    assert lines[0].split() == ["LUN", "NAME", "NAA", "SIZE", "IMAGE"]
    assert lines[1].split()[:2] == ["1", "bare"]
    assert lines[2].split()[-3:] == ["1536", "KiB", "images/disk.img"]
