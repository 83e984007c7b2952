"""Every command that a page shows is run by a test, or the page says beside it why not.

Above each block of commands stands a comment that a reader does not see:

* `<!-- command: NAME -->`, and the like with `example`, `lio`, `tutorial`: a test runs this block;
* `<!-- run by: FILE -->`: that file does the same with what is its own, such as ports;
* `<!-- not run: REASON -->`: nothing does; then at least its options are there.
"""

from __future__ import annotations

import functools
import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping

import attrs
import pytest

from flockpr import create_lun
from flockpr.cli import build_parser
from flockpr.cli.grammar import Command, describe
from tests.support.daemon_process import PATIENCE, environment
from tests.support.docs import ROOT, block_after, pages, prose, read
from tests.support.luns import contested_lun

_SHELL = ("sh", "console", "bash", "shell")
_MARKER = re.compile(
    r"<!-- (?:(tutorial)|(command|example|lio): ([\w-]+)|(run by|not run): (.*)) -->"
)
_FILE = re.compile(r"(?:tests/[\w/]+\.py|\.ci/run)")
_FLAG = re.compile(r"--?[a-z][a-z-]*")
_END = re.compile(r"[|;&].*|\d?>.*")


@attrs.frozen
class Block:
    """Commands on a page.

    Attributes:
        page: Its path in the repository.
        line: Where it begins.
        marker: What stands above it.
        text: The commands.
    """

    page: str
    line: int
    marker: re.Match[str] | None
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> Iterator[Block]:
    """All blocks of commands of all pages."""
    for path in pages():
        name = str(path.relative_to(ROOT))
        lines = path.read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines):
            word = line.strip().removeprefix("```")
            if line.strip().startswith("```") and word in _SHELL:
                end = next(n for n in range(number + 1, len(lines)) if lines[n].strip() == "```")
                marker = _MARKER.fullmatch(lines[number - 1].strip())
                yield Block(name, number + 1, marker, "\n".join(lines[number + 1 : end]))


BLOCKS = list(blocks())
PARSER = build_parser()


@functools.cache
def _tests() -> Mapping[str, str]:
    """The text of all tests, and of what CI runs besides; but for this file."""
    files = [*(ROOT / "tests").rglob("*.py"), ROOT / ".ci" / "run"]
    own = pathlib.Path(__file__).resolve()
    return {
        str(file.relative_to(ROOT)): file.read_text(encoding="utf-8")
        for file in files
        if file.resolve() != own
    }


def test_pages_have_commands_at_all() -> None:
    """What is looked for is found, or the other tests would pass over nothing."""
    assert len(BLOCKS) > 40
    assert {"README.md", "docs/cli.md", "docs/tutorial.md"} <= {block.page for block in BLOCKS}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block_is_run_or_says_why_not(block: Block) -> None:
    """And whoever is said to run it is there, and speaks of this page."""
    assert block.marker is not None, f"{block}: nothing above it says which test runs it"
    tutorial, kind, name, said, rest = block.marker.groups()
    if said == "not run":
        assert len(rest) > 10
    elif said == "run by":
        assert _FILE.fullmatch(rest), rest
    if said:
        for file in _FILE.findall(rest):
            assert (ROOT / file).is_file(), file
        return
    page = os.path.basename(block.page)
    before = {(one, each.split()[1]) for (one, _), more in HERE.items() for each in more}
    if (block.page, name) in {*HERE, *before}:
        return
    word = tutorial or name
    looking = re.compile(rf"[\"'( :]{re.escape(word)}[\"') ]|{re.escape(word)} -->")
    found = [file for file, text in _tests().items() if page in text and looking.search(text)]
    assert found, f"{block}: no test runs the block {kind or ''} {word}"


# ------------------------------------------------------------------ run here


HERE = {
    ("docs/cli.md", "completion"): (),
    ("docs/formats.md", "formats"): (),
    ("docs/probe.md", "probe"): (),
    ("docs/lio.md", "unit"): ("lio: once",),
    ("docs/proxmox.md", "proxmox"): (),
    ("docs/configuration.md", "units"): (),
    ("docs/install.md", "onefile-link"): ("command: onefile",),
}
"""Blocks that this file runs, and what is run before them."""
_LEAVES = {
    ("docs/cli.md", "completion"): "home/.local/share/bash-completion/completions/flockpr",
    ("docs/formats.md", "formats"): "home/aptpl",
    ("docs/lio.md", "unit"): "shared/flockpr/disk3/lun.json",
    ("docs/proxmox.md", "proxmox"): "pve/flockpr/images/disk1.img",
    ("docs/configuration.md", "units"): "units/flockpr@.service",
    ("docs/install.md", "onefile-link"): "home/flockpr-pr-helper",
}
"""What is there afterwards."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("page", "name"), HERE, ids=[f"{p}-{n}" for p, n in HERE])
def test_block_runs(page: str, name: str, tmp_path: pathlib.Path) -> None:
    """As it stands, but for the places: in directories of the test's own."""
    kind = "lio" if page == "docs/lio.md" else "command"
    markers = [*HERE[page, name], f"{kind}: {name}"]
    script = "\n".join(block_after(read(page), f"<!-- {marker} -->") for marker in markers)
    places = {
        "/mnt/pve/shared": tmp_path / "pve",
        "/mnt/shared": tmp_path / "shared",
        "/etc/systemd/system": tmp_path / "units",
    }
    for shown, place in places.items():
        place.mkdir()
        script = script.replace(shown, str(place))
    (tmp_path / "shared" / "images").mkdir()
    (tmp_path / "home").mkdir()
    contested_lun(str(tmp_path / "root"), "disk1")
    create_lun(str(tmp_path / "root"), "disk2", size=1 << 20)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace(".venv/bin/python", "python3")],
        cwd=tmp_path / "home",
        env=environment(
            PATH=f"{_programs(tmp_path)}:{os.environ['PATH']}",
            PYTHONPATH=str(ROOT),
            HOME=str(tmp_path / "home"),
            TMPDIR=str(tmp_path),
            FLOCKPR_ROOT=str(tmp_path / "root"),
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if left := _LEAVES.get((page, name)):
        assert (tmp_path / left).exists()


def _programs(folder: pathlib.Path) -> pathlib.Path:
    """A directory with `flockpr` and `python3`, of this very interpreter."""
    programs = folder / "bin"
    programs.mkdir()
    for name, words in {"flockpr": "-m flockpr ", "python3": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words}"$@"\n')
        (programs / name).chmod(0o755)
    return programs


# ------------------------------------------------------------------ what is not run


def _lines(text: str) -> Iterator[list[str]]:
    """The command lines of `flockpr`, each as its words up to a pipe or the like."""
    for line in text.replace("\\\n", " ").split("\n"):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # part of something longer in quotes
            continue
        while words and "=" in words[0] and not words[0].startswith("-"):
            words = words[1:]
        if words[:1] == ["flockpr"]:
            ends = [place for place, word in enumerate(words) if _END.fullmatch(word)]
            yield words[1 : min(ends, default=len(words))]


LINES = [(str(block), words) for block in BLOCKS for words in _lines(block.text)]


@pytest.mark.parametrize(("where", "words"), LINES, ids=[one[0] for one in LINES])
def test_command_line_is_one_that_the_parser_takes(
    where: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of those that are not run."""
    if words == ["--version"]:
        return
    try:
        args = PARSER.parse_args([word for word in words if word != "..."])
    except SystemExit:
        pytest.fail(f"{where}: {capsys.readouterr().err}")
    assert callable(args.run)


COMMANDS = {command.name: command for command in describe(PARSER).walk()}


def _mentioned(text: str) -> Iterator[tuple[Command, list[str]]]:
    """What a page's prose calls `flockpr ...`: the command and the options that it is given."""
    for span in re.findall(r"`(flockpr [^`]+)`", prose(text)):
        words = span.split()
        name = max(
            (" ".join(words[:length]) for length in (1, 2, 3)),
            key=lambda one: len(one) if one in COMMANDS else -1,
        )
        yield COMMANDS[name], words[len(name.split()) :]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_verbs_and_options_in_prose_are_there(page: pathlib.Path) -> None:
    """A verb that was renamed, or an option that is gone, is not spoken of any more."""
    for command, words in _mentioned(page.read_text(encoding="utf-8")):
        known = {flag for option in command.options for flag in option.flags}
        for below in command.commands:  # `flockpr serve|target --metrics`, `flockpr lun ...`
            known |= {flag for option in below.options for flag in option.flags}
        if command.commands and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
            pytest.fail(f"{page.name}: {command.name} has no {words[0]}")
        unknown = [word for word in words if _FLAG.fullmatch(word) and word not in known]
        assert not unknown, f"{page.name}: {command.name} {unknown}"
