"""`flockpr export` and `flockpr import`: nothing is overwritten, nothing is lost in silence."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import pytest

from flockpr import LogicalUnit, create_lun
from flockpr.cli import main
from tests.cli.test_json import documented, flatten
from tests.support.docs import read
from tests.support.luns import ALICE, BOB, contested_lun, preempted_lun, spc2_lun

Capture = pytest.CaptureFixture[str]
EXAMPLES = pathlib.Path(__file__).with_name("foreign")


@pytest.fixture
def root(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """One where Alice holds `disk`, and nobody is registered on `other`."""
    path = str(tmp_path / "root")
    contested_lun(path, "disk")
    create_lun(path, "other", size=1 << 20)
    monkeypatch.setenv("FLOCKPR_ROOT", path)
    return path


def document(capsys: Capture, *words: str, code: int = 0) -> dict[str, Any]:
    """What a verb prints with --json."""
    assert main([*words, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def state(root: str, name: str) -> tuple[int, int]:
    """Transaction and number of registrations of a logical unit."""
    with LogicalUnit.open(os.path.join(root, name)) as unit:
        snapshot = unit.snapshot()
    return snapshot.number, len(snapshot.state.registrations)


@pytest.mark.parametrize("name", ["lio", "scst", "scst-file", "sg_persist"])
def test_import_of_an_export_is_the_same(
    name: str, root: str, tmp_path: pathlib.Path, capsys: Capture
) -> None:
    """A cluster moves from one logical unit to another, in one transaction."""
    file = str(tmp_path / "file")
    assert main(["export", "disk", "--format", name, "-o", file]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("flockpr export: not in the file: ")
    shown = document(capsys, "import", "other", file)
    assert (shown["done"], shown["number"], shown["format_name"]) == (False, None, name)
    assert state(root, "other") == (1, 0)
    done = document(capsys, "import", "other", file, "--yes")
    assert {**shown, "done": True, "number": 2} == done
    for lun in ("disk", "other"):
        with LogicalUnit.open(os.path.join(root, lun)) as unit:
            found = unit.snapshot().state
        assert {one.nexus: one.key for one in found.registrations} == {ALICE: 0xA1, BOB: 0xB2}
        assert found.reservation is not None
        assert found.reservation.holder == ALICE


def test_import_is_in_the_audit_trail(root: str, tmp_path: pathlib.Path, capsys: Capture) -> None:
    """One transaction, a line for each registration, and blame knows where a key came from."""
    file = str(tmp_path / "file")
    main(["export", "disk", "--format", "scst", "-o", file])
    main(["import", "other", file, "--yes"])
    capsys.readouterr()
    records = document(capsys, "log", "other")["records"][1:]
    assert [(one["number"], one["action"], one["door"]) for one in records] == [
        (2, "IMPORT", "cli"),
        (2, "IMPORT", "cli"),
    ]
    assert [one["type"] for one in records] == [5, None]
    assert {one["service_action_key"] for one in records} == {f"0x{key:016x}" for key in (161, 178)}
    (entry,) = document(capsys, "blame", "b2", "other")["entries"]
    assert (entry["what"], entry["initiator"]) == (
        "was imported with it",
        BOB.initiator_port.text,
    )


@pytest.mark.parametrize("yes", [[], ["--yes"]])
def test_import_overwrites_nothing(
    yes: list[str], root: str, tmp_path: pathlib.Path, capsys: Capture
) -> None:
    """Also what is only shown is refused: it could not be done."""
    file = str(tmp_path / "file")
    main(["export", "disk", "--format", "scst", "-o", file])
    before = state(root, "disk")
    assert main(["import", "disk", file, *yes]) == 1
    assert "in use: 2 registered; nothing is overwritten" in capsys.readouterr().err
    spc2_lun(root, "old")
    assert main(["import", "old", file, *yes]) == 1
    assert "in use: reserved" in capsys.readouterr().err
    assert state(root, "disk") == before


def test_registration_that_came_meanwhile_wins(
    root: str, tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the transaction; the transaction decides."""
    from flockpr.cli import importing

    file = str(tmp_path / "file")
    main(["export", "disk", "--format", "scst", "-o", file])
    monkeypatch.setattr(importing, "_check_free", lambda state, path: None)
    assert main(["import", "disk", file, "--yes"]) == 1
    assert "IMPORT: somebody is registered" in capsys.readouterr().err
    assert state(root, "disk")[1] == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["other", "lio", "--target-port", "3"], "--target-port 3: other has 1, 2"),
        (["other", "scst-file"], "of another transport than iSCSI"),
        (["other", "scst", "--rename", "iqn.x:a=iqn.x:b"], "no initiator of that name"),
        (["other", "scst", "--format", "lio"], "(lio): line 1: outside of a registration"),
        (["other", "../test_exchange.py"], "none of the formats"),
        (
            ["other", "scst-file", "--rename", "fcp:0x21000024ff4b5a10=a b"],
            "must not hold spaces",
        ),
        (
            # Two initiators become one, and their keys differ.
            [
                *("other", "lio", "--rename", "iqn.1991-05.com.microsoft:node1=iqn.x:a"),
                *("--rename", "iqn.1991-05.com.microsoft:node2=iqn.x:a"),
            ],
            "two registrations fall together",
        ),
        (["helper", "scst"], "registered at relative target port 2: helper has 1"),
    ],
)
def test_import_says_what_does_not_exist_here(
    words: list[str], told: str, root: str, capsys: Capture
) -> None:
    """Nothing is guessed, and nothing is done."""
    create_lun(root, "helper")
    name, file, *rest = words
    assert main(["import", name, str(EXAMPLES / file), *rest, "--yes"]) == 2
    assert told in capsys.readouterr().err
    assert state(root, name) == (1, 0)


def test_import_renames_and_moves(root: str, capsys: Capture) -> None:
    """An initiator of another transport gets a name, and all of them one target port."""
    words = ("--rename", "fcp:0x21000024ff4b5a10=iqn.2026-01.example:fc", "--target-port", "2")
    found = document(capsys, "import", "other", str(EXAMPLES / "scst-file"), *words, "--yes")
    assert [(one["initiator"], one["target_port"]) for one in found["registrations"]] == [
        ("iqn.1991-05.com.microsoft:node1,i,0x400001370000", 2),
        ("iqn.2026-01.example:fc", 2),
    ]
    assert found["registrations"][1]["holder"]


def test_import_puts_all_target_ports_at_each_of_them(root: str, capsys: Capture) -> None:
    """ALL_TG_PT without a port means all that the logical unit has."""
    words = ("--rename", "sas-address:-0x500605b000000002=iqn.2026-01.example:sas")
    found = document(capsys, "import", "other", str(EXAMPLES / "sg_persist"), *words)
    third = [one for one in found["registrations"] if one["initiator"].endswith("redhat:node3")]
    assert [(one["target_port"], one["all_target_ports"]) for one in third] == [
        (1, True),
        (2, True),
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--format", "spdk"], "SPDK wants the UUID of its bdev"),
        (["--format", "spdk", "--uuid", "x"], "--uuid: 'x' is no UUID"),
        (
            ["--format", "spdk", "--uuid", "5c0b7a4e-2f5f-4d0e-9f0b-3f6b1f0a7c11"],
            "not known which NVMe host",
        ),
        (["--format", "lio", "--tag", "70000"], "--tag 70000: not from 0 to 65535"),
        (["--format", "spdk", "--host", "iqn.x:c=1"], "--host iqn.x:c: not registered on disk"),
    ],
)
def test_export_says_what_it_does_not_know(
    words: list[str], told: str, root: str, capsys: Capture, tmp_path: pathlib.Path
) -> None:
    """It makes nothing up, and leaves no file."""
    if words[-1] == "x":
        hosts = [f"--host={one.initiator_port.text}={n:032x}" for n, one in enumerate((ALICE, BOB))]
        words = [*words, *hosts]
    target = tmp_path / "out"
    assert main(["export", "disk", *words, "-o", str(target)]) == 2
    assert told in capsys.readouterr().err
    assert not target.exists()


def test_export_tells_what_no_format_has(root: str, capsys: Capture) -> None:
    """Unit attentions that wait, and a SPC-2 reservation."""
    preempted_lun(root, "taken")
    spc2_lun(root, "old")
    losses = document(capsys, "export", "taken", "--format", "lio")["losses"]
    assert f"the unit attentions that wait for {ALICE.initiator_port.text}" in losses
    losses = document(capsys, "export", "old", "--format", "scst")["losses"]
    assert losses[0] == f"the SPC-2 reservation of {ALICE.initiator_port.text}"


def test_spdk_takes_hosts_by_name(root: str, capsys: Capture) -> None:
    """NVMe knows hosts by UUID, which only the operator can tell."""
    hosts = {ALICE: "0" * 31 + "1", BOB: "0" * 31 + "2"}
    words = [f"--host={who.initiator_port.text}={each}" for who, each in hosts.items()]
    uuid = "5c0b7a4e-2f5f-4d0e-9f0b-3f6b1f0a7c11"
    found = document(capsys, "export", "disk", "--format", "spdk", "--uuid", uuid, *words)
    content = json.loads(found["content"])
    assert (content["rtype"], content["crkey"]) == (3, 0xA1)
    assert content["holder_uuid"] == content["registrants"][0]["host_uuid"]


def test_binary_and_text_of_standard_output_are_the_file(
    root: str, tmp_path: pathlib.Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Byte for byte what -o writes and --json shows."""
    for name in ("scst-file", "lio"):
        file = tmp_path / name
        assert main(["export", "disk", "--format", name, "-o", str(file)]) == 0
        capfdbinary.readouterr()
        assert main(["export", "disk", "--format", name]) == 0
        assert capfdbinary.readouterr().out == file.read_bytes()
        assert main(["export", "disk", "--format", name, "--json"]) == 0
        found = json.loads(capfdbinary.readouterr().out)
        content = found["content"]
        data = bytes.fromhex(content) if found["encoding"] == "hex" else content.encode()
        assert data == file.read_bytes()


def test_json_keys_are_the_documented_ones(
    root: str, tmp_path: pathlib.Path, capsys: Capture
) -> None:
    """The page describes every key that is printed, and none that never is."""
    file = str(tmp_path / "file")
    main(["export", "disk", "--format", "sg_persist", "-o", file])
    capsys.readouterr()
    assert set(flatten(document(capsys, "export", "disk", "--format", "lio"))) == set(
        documented("export")
    )
    found = document(capsys, "import", "other", file, "--yes")
    assert set(flatten(found)) == set(documented("import"))


def test_page_names_every_format() -> None:
    """With what it cannot say, and the version that it was checked against."""
    from flockpr.cli.formats import NAMES

    page = read("docs/formats.md")
    for name in NAMES:
        assert f"\n### {name}\n" in page
