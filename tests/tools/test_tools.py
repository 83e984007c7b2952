"""The tools beside the real ones: which disk, as whom, JSON, mistakes; mpathpersist's lines."""

from __future__ import annotations

import json
import os
import pathlib

import pytest

from flockpr import create_lun
from flockpr.tools import mpathpersist, sg_persist, sg_turs
from flockpr.tools.numbers import parse_count, scan_hex

Capture = pytest.CaptureFixture[str]
ALICE, BOB = "iqn.2026-01.org.example:alice", "iqn.2026-01.org.example:bob"


@pytest.fixture
def root(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A root with a logical unit that has an image and one that has none; alice asks."""
    for name in list(os.environ):
        if name.startswith(("FLOCKPR_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLOCKPR_CONFIG", os.devnull)
    monkeypatch.setenv("FLOCKPR_ROOT", str(tmp_path))
    monkeypatch.setenv("FLOCKPR_INITIATOR", ALICE)
    create_lun(str(tmp_path), "disk", size=1 << 20)
    create_lun(str(tmp_path), "bare", wwids=["naa.60014051111222233334444555566667"])
    return tmp_path


def asked(capsys: Capture, *words: str) -> dict[str, object]:
    """The JSON document of a flockpr-sg-persist that must succeed."""
    assert sg_persist.main([*words, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_place_every_name_of_a_disk_leads_to_it(root: pathlib.Path, capsys: Capture) -> None:
    """Its name, its lock directory, its image, and a link to its image."""
    (root / "link").symlink_to(root / "images" / "disk.img")
    names = ["disk", f"{root}/disk", f"{root}/images/disk.img", f"{root}/link"]
    for name in names:
        assert asked(capsys, "-n", "-k", name)["lun"] == "disk"


def test_place_lock_directory_needs_no_root(
    root: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path says it already."""
    monkeypatch.delenv("FLOCKPR_ROOT")
    found = asked(capsys, "-n", "-k", f"{root}/disk")
    assert (found["root"], found["lun"]) == (str(root), "disk")


def test_place_any_path_is_the_configured_disk(
    root: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lun` of [serve] stands for every device, as at the helper door."""
    monkeypatch.setenv("FLOCKPR_LUN", "bare")
    assert asked(capsys, "-n", "-k", "/dev/null")["lun"] == "bare"
    assert asked(capsys, "-n", "-k", "/dev/not-there")["lun"] == "bare"
    assert asked(capsys, "-n", "-k", f"{root}/images/disk.img")["lun"] == "disk"


def test_place_target_port_is_that_of_the_door_that_serves_the_disk(
    root: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a node is the same I_T nexus with this tool and with its session."""
    assert asked(capsys, "-n", "-k", "disk")["target_port"] == 2
    assert asked(capsys, "-n", "-k", "bare")["target_port"] == 1
    monkeypatch.setenv("FLOCKPR_TARGET_PORT", "1")
    assert asked(capsys, "-n", "-k", "disk")["target_port"] == 1
    monkeypatch.setenv("FLOCKPR_TARGET_PORT", "7")
    assert sg_persist.main(["-n", "-k", "disk"]) == 50 + 22
    assert "it has 1, 2" in capsys.readouterr().err


def test_place_initiator_from_the_configuration(
    root: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The environment wins over it; without either the error says what to do."""
    monkeypatch.delenv("FLOCKPR_INITIATOR")
    assert sg_persist.main(["-n", "-k", "disk"]) == 50 + 22
    assert "remedy: set FLOCKPR_INITIATOR=" in capsys.readouterr().err
    config = tmp_path / "flockpr.toml"
    config.write_text(f'[serve]\ninitiator = "{BOB}"\n')
    monkeypatch.setenv("FLOCKPR_CONFIG", str(config))
    assert asked(capsys, "-n", "-k", "disk")["initiator"] == BOB
    monkeypatch.setenv("FLOCKPR_INITIATOR", ALICE)
    assert asked(capsys, "-n", "-k", "disk")["initiator"] == ALICE


@pytest.mark.parametrize("name", ["nope", "/nope/disk", "/dev/null"])
def test_place_unknown_disk_is_no_such_file(name: str, root: pathlib.Path, capsys: Capture) -> None:
    """The tool's own line and exit code, then what flockpr has to add."""
    assert sg_persist.main(["-n", "-k", name]) == 52
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"sg_persist: error opening file {name} (rw): No such file or directory"
    assert told[1].startswith("  flockpr: ")
    assert "flockpr lun list" in told[2]
    assert sg_turs.main([name]) == 52
    assert mpathpersist.main(["-i", "-k", name]) == 12


def test_sg_persist_json_has_the_command_and_the_answer(
    root: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a refusal, with the exit code of the text."""
    asked(capsys, "-n", "-o", "-G", "-S", "a1", "disk")
    asked(capsys, "-n", "-o", "-R", "-K", "a1", "-T", "5", "disk")
    found = asked(capsys, "-n", "-i", "-r", "disk")
    assert found["response"] == {
        "generation": 1,
        "reservation": {
            "key": "0x00000000000000a1",
            "type": 5,
            "type_name": "Write Exclusive, registrants only",
        },
    }
    monkeypatch.setenv("FLOCKPR_INITIATOR", BOB)
    assert sg_persist.main(["-n", "-o", "-R", "-T", "5", "-K", "b1", "disk", "--json"]) == 24
    refused = json.loads(capsys.readouterr().out)
    assert refused["status_name"] == "RESERVATION CONFLICT"
    assert (refused["exit_code"], refused["meaning"]) == (24, "Reservation conflict")
    assert refused["cdb"] == "5f010500000000001800"
    assert refused["data_out"] == "b1".rjust(16, "0") + "0" * 32


def test_sg_persist_json_says_why_it_could_not_be_opened(
    root: pathlib.Path, capsys: Capture
) -> None:
    """One document in any case."""
    assert sg_persist.main(["-n", "-k", "nope", "--json"]) == 52
    found = json.loads(capsys.readouterr().out)
    assert (found["exit_code"], found["error"]["exit_code"]) == (52, 52)


def test_sg_turs_json_says_what_was_answered(
    root: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit attention is told once."""
    asked(capsys, "-n", "-o", "-G", "-S", "a1", "disk")
    monkeypatch.setenv("FLOCKPR_INITIATOR", BOB)
    asked(capsys, "-n", "-o", "-G", "-S", "b1", "disk")
    asked(capsys, "-n", "-o", "-C", "-K", "b1", "disk")
    monkeypatch.setenv("FLOCKPR_INITIATOR", ALICE)
    assert sg_turs.main(["--json", "disk"]) == 6
    found = json.loads(capsys.readouterr().out)
    assert (found["exit_code"], found["errors"]) == (6, 1)
    assert sg_turs.main(["--json", "disk"]) == 0


@pytest.mark.parametrize(
    ("text", "number"),
    [("a1", 0xA1), ("0xA1z", 0xA1), (" 12", 0x12), ("-1", 2**64 - 1), ("zz", None), ("", None)],
)
def test_scan_hex_reads_as_liberally_as_scanf(text: str, number: int | None) -> None:
    """Keys are given with and without 0x."""
    assert scan_hex(text, 64) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("8", 8), ("8k", 8192), ("0x10", 16), ("10h", 16), ("1KB", 1000), ("-1", None), ("x", None)],
)
def test_parse_count_knows_multipliers(text: str, number: int | None) -> None:
    """As sg3_utils writes sizes."""
    assert parse_count(text) == number


# ------------------------------------------------------------------ mpathpersist


def mpath(capsys: Capture, line: str, code: int = 0) -> str:
    """What flockpr-mpathpersist prints on standard output."""
    assert mpathpersist.main(line.split()) == code
    return capsys.readouterr().out


def test_mpathpersist_prints_mpathpersists_lines(
    root: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of multipath-tools 0.9.4, blanks and tabs included; read in its source."""
    assert mpath(capsys, "-i -k disk") == "  PR generation=0x0, \t0 registered reservation key.\n"
    assert mpath(capsys, "-i -r disk") == "  PR generation=0x0, there is NO reservation held \n"
    assert mpath(capsys, "-o -G -S a1 -Z disk") == ""
    assert mpath(capsys, "-o -R -K a1 -T 5 disk") == ""
    one = "  PR generation=0x1, \t1 registered reservation key follows:\n    0xa1\n"
    assert mpath(capsys, "--in --read-keys -d disk") == one
    assert mpath(capsys, "-i -r disk") == (
        "  PR generation=0x1, Reservation follows:\n"
        "   Key = 0xa1\n"
        "  scope = LU_SCOPE, type = Write Exclusive, registrants only\n"
    )
    assert mpath(capsys, "-i -s disk") == (
        "  PR generation=0x1 \n"
        "   Key = 0xa1\n"
        "      All target ports bit clear\n"
        "      Relative port address: 0x2\n"
        "      << Reservation holder >>\n"
        "      scope: LU_SCOPE,  type: Write Exclusive, registrants only\n"
        f"   iSCSI name: {ALICE}\n"
    )
    monkeypatch.setenv("FLOCKPR_INITIATOR", BOB)
    assert mpath(capsys, "-o -R -K b1 -T 5 disk", 11) == (
        "persistent reserve out: scsi status: Reservation Conflict\nPR out: command failed\n"
    )


def test_mpathpersist_passes_over_a_unit_attention(
    root: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends the command again, so whoever was preempted reads on."""
    mpath(capsys, "-o -G -S a1 disk")
    monkeypatch.setenv("FLOCKPR_INITIATOR", BOB)
    mpath(capsys, "-o -I -S b1 disk")
    mpath(capsys, "-o -P -K b1 -S a1 -T 5 disk")
    monkeypatch.setenv("FLOCKPR_INITIATOR", ALICE)
    assert "    0xb1\n" in mpath(capsys, "-i -k disk")


def test_mpathpersist_batch_file_goes_on_after_a_mistake(
    root: pathlib.Path, capsys: Capture
) -> None:
    """Command by command; the exit code is that of the last one that failed."""
    batch = root / "batch"
    batch.write_text(
        "# three commands\nmpathpersist -o -G -S a1 disk\n-i -o disk # both\n\n-i -k disk\n"
    )
    assert mpathpersist.main(["-f", str(batch)]) == 1
    told = capsys.readouterr()
    assert "    0xa1\n" in told.out
    assert "syntax error on line 3 in batch file" in told.err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "No parameter used"),
        ("disk", "choose either '--in' or '--out'"),
        ("-i disk", "No service action given"),
        ("-i -k -r disk", "Too many service actions"),
        ("-i -G disk", "'--out' option must be given"),
        ("-o -k disk", "only one appropriate"),
        ("-i -k", "No device name given"),
        ("-K x -o -G disk", "bad argument to '--param-rk'"),
        ("-l 9000 -i -k disk", "exceeds maximum limit(8192)"),
        ("-i -k disk more", "Unexpected extra argument: more"),
        ("-i -k --nope disk", "unrecognized option '--nope'"),
    ],
)
def test_mpathpersist_mistake_is_a_syntax_error(
    line: str, told: str, root: pathlib.Path, capsys: Capture
) -> None:
    """Exit code 1, what is wrong, and how to use it."""
    assert mpathpersist.main(line.split()) == 1
    error = capsys.readouterr().err
    assert told in error
    assert "Usage: flockpr-mpathpersist" in error
