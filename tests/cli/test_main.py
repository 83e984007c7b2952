"""`main`: it finds the verb, reports errors, and starts quickly."""

from __future__ import annotations

import argparse
import io
import json
import pathlib
import subprocess
import sys

import pytest

from flockpr import create_lun, errors
from flockpr._version import __version__
from flockpr.cli import build_parser, main, status, upgrade
from tests.support.daemon_process import PATIENCE, environment
from tests.support.docs import read

VERBS = [
    ["serve"],
    ["target"],
    ["lun", "create", "disk"],
    ["lun", "list"],
    ["lun", "show", "disk"],
    ["lun", "delete", "disk"],
    ["lun", "power-cycle", "disk"],
    ["lun", "grow", "disk", "--size", "2G"],
    ["lun", "clone", "disk", "copy"],
    ["status"],
    ["status", "disk"],
    ["log", "disk"],
    ["upgrade"],
    ["demo"],
    ["probe", "/d"],
]
READ_VERBS = [["lun", "list"], ["lun", "show", "disk"], ["status"], ["log", "disk"]]


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of what stands in the next place, by its name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _helps(parser: argparse.ArgumentParser) -> list[str]:
    """The help of a verb and of all below it."""
    return [
        parser.format_help(),
        *(text for below in _actions(parser).values() for text in _helps(below)),
    ]


@pytest.mark.parametrize("argv", VERBS, ids=" ".join)
def test_parser_verb_has_something_to_run(argv: list[str]) -> None:
    """Each verb of the contract is there."""
    assert callable(build_parser().parse_args(argv).run)


@pytest.mark.parametrize(
    "argv", [verb for verb in VERBS if verb[0] not in ("demo", "probe")], ids=" ".join
)
def test_parser_verb_takes_root_and_config(argv: list[str]) -> None:
    """The root may be said the same way everywhere."""
    args = build_parser().parse_args([*argv, "--root", "/r", "--config", "/c"])

    assert (args.root, args.config) == ("/r", "/c")


@pytest.mark.parametrize("argv", READ_VERBS, ids=" ".join)
def test_parser_read_verb_takes_json(argv: list[str]) -> None:
    """Whatever reads can be read by a program."""
    assert build_parser().parse_args([*argv, "--json"]).json


@pytest.mark.parametrize(
    "argv", [[], ["nothing"], ["status", "--nothing"], ["lun"], ["status", "--js"]]
)
def test_main_wrong_usage_returns_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake, an abbreviation included, is told on standard error."""
    assert main(argv) == 2
    out, err = capsys.readouterr()

    assert out == ""
    assert "usage:" in err


def test_main_version_returns_0(capsys: pytest.CaptureFixture[str]) -> None:
    """`flockpr --version`."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"flockpr {__version__}\n"


def test_main_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """A script's author need not look for the page."""
    assert main(["--help"]) == 0
    assert "12  state that cannot be trusted" in capsys.readouterr().out


def test_main_error_is_reported_with_remedy_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What and where, what to do, nothing on standard output, no traceback."""

    def fail(_args: object) -> int:
        raise errors.StateUnreadable("is \x1b[1mtruncated", "/r/disk/lun.json", "restore it")

    monkeypatch.setattr(status, "run", fail)

    assert main(["status"]) == 12
    out, err = capsys.readouterr()
    assert out == ""
    assert err == ("flockpr status: /r/disk/lun.json: is \\x1b[1mtruncated\n  remedy: restore it\n")


def test_main_error_names_the_whole_verb_and_no_wrong_page(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that is wrong is no matter of the configuration."""
    assert main(["lun", "create", "a b", "--root", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("flockpr lun create: 'a b' is no name for a LUN: 1 to 64 letters")
    assert "remedy" not in err


@pytest.mark.parametrize("argv", [["status"], ["lun", "list"], ["serve"]], ids=" ".join)
def test_main_wrong_configuration_points_to_its_page(
    argv: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The page that describes the keys is there and is the one that is named."""
    monkeypatch.delenv("FLOCKPR_ROOT", raising=False)
    (tmp_path / "f.toml").write_text("[serve]\nrot = '/r'\n")
    assert main([*argv, "--config", str(tmp_path / "f.toml")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"flockpr {' '.join(argv)}: {tmp_path}/f.toml: ")
    assert "\n  remedy: docs/configuration.md " in err
    assert "[serve]" in read("docs/configuration.md")


def test_main_interrupted_returns_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control-C is no traceback."""

    def interrupt(_args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(upgrade, "run", interrupt)

    assert main(["upgrade"]) == 130


def test_main_reader_gone_fails_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`flockpr log disk | head` ends without a word."""

    def overflow(_args: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(upgrade, "run", overflow)
    monkeypatch.setattr(sys, "stdout", io.StringIO())

    assert main(["upgrade"]) == 1
    assert capsys.readouterr().err == ""


def test_main_narrow_character_set_still_reports() -> None:
    """A terminal that lacks a character shows its number; nothing fails."""
    code = (
        "from flockpr.cli import main; from flockpr.cli.common import emit;"
        "main(['-V']); emit(['\\u65e5'])"
    )

    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={"PYTHONIOENCODING": "latin-1", "PYTHONPATH": ":".join(sys.path)},
        check=True,
    )

    assert ran.stdout.endswith(b"\\u65e5\n")


@pytest.mark.parametrize("argv", [["--help"], ["status", "--nothing"]], ids=" ".join)
def test_main_before_the_verb_runs_loads_little(argv: list[str]) -> None:
    """attrs, portalocker, sockets and the store are paid for by verbs that use them only."""
    code = (
        "import json, sys; from flockpr.cli import main; main(json.loads(sys.argv[1]));"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )

    ran = subprocess.run(
        [sys.executable, "-c", code, json.dumps(argv)], capture_output=True, text=True, check=True
    )

    loaded = set(json.loads(ran.stderr.splitlines()[-1]))
    heavy = {"attr", "portalocker", "socket", "subprocess", "threading", "logging", "tomllib"}
    heavy |= {"shutil"}
    names = ("store", "core", "spc", "daemon", "prhelper", "gate", "block", "iscsi", "probe")
    rooms = {f"flockpr.{room}" for room in names}
    assert not loaded & (heavy | rooms)


@pytest.mark.parametrize(
    ("argv", "rooms"),
    [
        (["lun", "create", "disk", "--size", "1M"], ("gate", "block", "iscsi", "daemon")),
        (["lun", "show", "none"], ("gate", "block", "iscsi", "daemon")),
        (["lun", "grow", "none", "--size", "1M"], ("block.disk", "iscsi", "daemon", "units")),
        (["target", "--portal", "here"], ("gate", "block", "iscsi", "units", "store.provision")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_main_verb_loads_no_room_that_it_does_not_use(
    argv: list[str], rooms: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    """Cluster scripts call the command line often: a verb starts as fast as it can."""
    code = (
        "import json, sys; from flockpr.cli import main; main(json.loads(sys.argv[1]));"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    command = [*argv, "--root", str(tmp_path / "root")]

    ran = subprocess.run(
        [sys.executable, "-c", code, json.dumps(command)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "HOME": "/nonexistent"},
    )

    loaded = set(json.loads(ran.stderr.splitlines()[-1]))
    assert not loaded & {f"flockpr.{room}" for room in rooms}


@pytest.mark.parametrize(
    ("argv", "rooms"),
    [
        (["lun", "list"], ("core", "store.lockdir", "store.document", "gate")),
        (["lun", "show", "disk"], ("core", "store.lockdir", "store.document", "gate")),
        (["status"], ("core.machine", "logical_unit", "gate.narrowing", "store.provision")),
        (["log", "disk"], ("core.machine", "logical_unit", "gate", "store.provision")),
    ],
    ids=lambda value: " ".join(value) if value[0] in ("lun", "status", "log") else "",
)
def test_main_verb_that_looks_loads_no_rules(
    argv: list[str], rooms: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    """Nor what makes logical units, nor what takes access away."""
    create_lun(str(tmp_path / "root"), "disk")
    code = (
        "import json, sys; from flockpr.cli import main; code = main(json.loads(sys.argv[1]));"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, json.dumps([*argv, "--root", str(tmp_path / "root")])],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)},
    )

    loaded = set(json.loads(ran.stderr.splitlines()[-1]))
    assert not loaded & {f"flockpr.{room}" for room in rooms}


@pytest.mark.parametrize(("called", "told"), [("main", "False False"), ("program", "True True")])
def test_program_alone_changes_when_cycles_are_looked_for(called: str, told: str) -> None:
    """Who calls `main` for a verb goes on afterwards."""
    code = (
        f"import gc, sys; from flockpr.cli import {called}; before = gc.get_threshold();"
        f"{called}(); print(gc.get_threshold() != before, gc.get_freeze_count() > 0)"
    )

    ran = subprocess.run(
        [sys.executable, "-c", code, "-V"], capture_output=True, text=True, check=True
    )

    assert ran.stdout.splitlines()[-1] == told


@pytest.mark.parametrize("columns", [None, "", "0", "-1", "words", "30", "200"])
def test_help_is_as_wide_as_the_standard_library_has_it(
    columns: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The width is found without what finds it there, which takes long to load."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    told = argparse.HelpFormatter("flockpr")

    made = build_parser("status").formatter_class(prog="flockpr")

    assert vars(made)["_width"] == vars(told)["_width"]


def test_module_is_the_program() -> None:
    """`python -m flockpr` is `flockpr`."""
    ran = subprocess.run(
        [sys.executable, "-m", "flockpr", "-V"], capture_output=True, text=True, check=True
    )

    assert ran.stdout == f"flockpr {__version__}\n"


@pytest.mark.parametrize("verb", sorted(_actions(build_parser())))
def test_parser_of_one_verb_is_that_of_all_verbs(verb: str) -> None:
    """What is loaded for a verb alone takes the same words, and says the same about them."""
    alone, among_all = _actions(build_parser(verb)), _actions(build_parser())
    assert list(alone) == [verb]
    assert _helps(alone[verb]) == _helps(among_all[verb])


def test_main_verb_that_is_none_names_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    """All of them, though only one would be loaded."""
    assert main(["stats"]) == 2
    err = capsys.readouterr().err
    assert all(f"'{verb}'" in err for verb in _actions(build_parser()))


@pytest.mark.parametrize(
    ("words", "told", "remedy"),
    [
        (["status", "--root", __file__], f"{__file__}: not a directory", "the root is the"),
        (["doctor", "disk", "--evict", "iqn.x"], "disk: iqn.x is not registered", "registered:"),
        (["gate", "force", "disk", "--host", "h", "--proof", "p"], "disk: no host h", "gate show"),
        (["gate", "forget", "--host", "h"], "root: no host h is declared", "gate show"),
        (["serve", "--socket", "/nowhere/s"], "cannot listen on /nowhere/s", "its directory"),
        (
            ["target", "--portal", "localhost.invalid:1"],
            "cannot listen on localhost",
            "of this host",
        ),
    ],
)
def test_error_says_to_what_it_happened_and_what_to_do(
    words: list[str], told: str, remedy: str, tmp_path: pathlib.Path
) -> None:
    """In processes of their own: what serves changes its process."""
    root = str(tmp_path / "root")
    create_lun(root, "disk", size=1 << 20)
    done = subprocess.run(
        [sys.executable, "-m", "flockpr", *words],
        env=environment(FLOCKPR_ROOT=root),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert remedy in done.stderr.partition("remedy: ")[2]
