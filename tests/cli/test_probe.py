"""`flockpr probe`."""

from __future__ import annotations

import json
import os
import pathlib

import attrs
import pytest

from flockpr.cli import build_parser, main
from flockpr.cli.probe import describe
from flockpr.filesystems.mount_rules import Facts
from flockpr.filesystems.mounts import Mount
from flockpr.probe.conduct import Probe
from flockpr.probe.findings import Finding, Outcome
from flockpr.probe.mounts import Host
from flockpr.probe.report import Report

SERVER = Mount("nfs4", "srv:/e", "/mnt", ("rw", "vers=4.2", "rw", "soft"))
MIXED = Report(
    "/mnt",
    (Host("h1", "b", Facts(SERVER, "N")), Host("h\x1b2", "c", Facts(None))),
    (Finding("lock-hosts", Outcome.BAD, "both have it"), Finding("link", Outcome.GOOD, "fine")),
    removed=(".flockpr-probe-0",),
    left=(".flockpr-probe-1",),
)


def test_probe_of_a_directory_prints_verdict_and_steps(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For people: each door, then what was found; progress is on standard error."""
    assert main(["probe", str(tmp_path), "--tier", "advisory"]) == 0

    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path}\n  {os.uname().nodename}: ")
    assert "\nadvisory (the helper door): only with\n  only if: " in out
    assert "locks of two processes" in out
    assert "flockpr probe: link\n" in err
    assert [name.partition("-probed-")[0] for name in os.listdir(tmp_path)] == [".flockpr"]


def test_probe_keeps_what_it_found_until_it_is_to_forget_it(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the directory, for this host's daemons and its status."""
    (tmp_path / "root").mkdir()
    root = str(tmp_path / "root")
    assert main(["probe", str(tmp_path), "--tier", "advisory"]) == 0
    capsys.readouterr()

    assert main(["status", "--root", root, "--json"]) == 0
    (probe,) = json.loads(capsys.readouterr().out)["probes"]
    assert probe["hosts"] == [os.uname().nodename]
    assert (probe["current"], probe["advisory"]) == (True, "only with")
    assert main(["status", "--root", root]) == 0
    assert f"probed on {os.uname().nodename} at {probe['time']}: " in capsys.readouterr().out

    assert main(["probe", str(tmp_path), "--forget", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["forgotten"] is True
    assert main(["probe", str(tmp_path), "--forget"]) == 0
    assert "nothing is kept there" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["root"]


def test_probe_in_a_directory_that_cannot_be_written_has_its_verdict(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who may look and not write is told so."""
    report = attrs.evolve(MIXED, directory=str(tmp_path / "none"))
    monkeypatch.setattr(Probe, "run", lambda *_, **__: report)

    assert main(["probe", str(tmp_path), "--tier", "advisory"]) == 0
    assert "cannot be kept for the daemons: No such file or directory" in capsys.readouterr().err


def test_probe_of_a_missing_directory_fails(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says which, and what to do."""
    assert main(["probe", str(tmp_path / "none")]) == 1
    assert f"flockpr probe: {tmp_path}/none: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code"), [([], 1), (["--tier", "advisory"], 0), (["--tier", "gated"], 1)]
)
def test_probe_exit_code_is_that_of_the_doors_asked_for(
    options: list[str], code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Whoever needs the helper door alone is not stopped by the other."""
    report = attrs.evolve(MIXED, directory=str(tmp_path))
    monkeypatch.setattr(Probe, "run", lambda *_, **__: report)

    assert main(["probe", str(tmp_path), "--json", *options]) == code


def test_describe_says_why_and_what_to_do_without_control_characters() -> None:
    """A host's name comes from another machine."""
    lines = describe(MIXED)

    assert lines[1] == "  h1: nfs4, srv:/e on /mnt, rw,vers=4.2,soft"
    assert lines[2] == "  h\\x1b2: unknown mount"
    assert "advisory (the helper door): only with" in lines
    assert "gated (the target door): no" in lines
    assert "  because: locks of two hosts: both have it" in lines
    assert "  remedy: mount hard: a write that failed may land later" in lines
    assert lines[-2:] == [
        "removed, of a probe that crashed: .flockpr-probe-0",
        "could not be removed: .flockpr-probe-1",
    ]
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("seconds", ["0", "-1", "3001", "x", "nan"])
def test_probe_seconds_out_of_bounds_are_refused(seconds: str) -> None:
    """A probe that takes an hour would be taken for a crashed one."""
    for option in ("--wait", "--patience"):
        with pytest.raises(SystemExit):
            build_parser().parse_args(["probe", "/d", option, seconds])


def test_probe_json_is_one_document(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each finding says what it does to each door."""
    main(["probe", str(tmp_path), "--json"])

    document = json.loads(capsys.readouterr().out)
    assert document["format"] == 1
    assert document["directory"] == str(tmp_path)
    assert {one["gated"] for one in document["findings"]} <= {"nothing", "condition", "refuse"}
