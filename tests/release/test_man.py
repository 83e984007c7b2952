"""Man pages: one for each verb and program, complete, and understood by who shows them."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

from flockpr.cli import build_parser
from flockpr.cli.grammar import Command, describe
from release import roff
from release.man import PROGRAMS, pages
from tests.support.daemon_process import PATIENCE
from tests.support.docs import ROOT, block_after, read
from tests.support.peers import find

COMMANDS = list(describe(build_parser()).walk())
PAGES = pages()


def _id(command: Command) -> str:
    return command.name


def shown(page: str) -> str:
    """Its text, without macros and with hyphens as they are typed."""
    return re.sub(r"\\f[BIR]", "", page).replace("\\-", "-").replace("\\e", "\\")


def test_there_is_a_page_for_every_verb_and_every_program() -> None:
    """Those of the parser, and those that pyproject.toml installs."""
    scripts = re.findall(r"^(flockpr[\w-]*) = ", read("pyproject.toml"), re.MULTILINE)
    expected = {"-".join(command.path) for command in COMMANDS} | set(scripts)
    assert set(PAGES) == expected


@pytest.mark.parametrize("command", COMMANDS, ids=_id)
def test_page_of_a_verb_has_all_that_its_help_has(command: Command) -> None:
    """Every option with its text, every operand, every action; and prose where there is some."""
    text = " ".join(shown(PAGES["-".join(command.path)]).split())
    for option in command.options:
        for flag in option.flags:
            assert flag in text
        plain = shown(roff.inline(option.help)).split()
        assert " ".join(plain) in text
    for word in command.operands:
        assert word.name in text
    for one in command.commands:
        assert one.path[-1] in text
    assert "DESCRIPTION" in text


@pytest.mark.parametrize("command", [one for one in COMMANDS if not one.commands], ids=_id)
def test_page_of_a_verb_has_an_example_and_the_exit_codes(command: Command) -> None:
    """The example is one of docs/cli.md, which tests run or parse."""
    page = PAGES["-".join(command.path)]
    example = page.partition(".SH EXAMPLES")[2]
    assert command.name in shown(example)
    assert ".SH EXIT STATUS" in page


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_page_of_a_program_is_its_help(name: str) -> None:
    """Line for line."""
    module = re.search(rf'^{name} = "([\w.]+):main"$', read("pyproject.toml"), re.MULTILINE)
    assert module is not None
    printed = subprocess.run(
        [sys.executable, "-m", module[1], "--help"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    # To standard error where the tool that it stands for does so.
    usage, _, rest = (printed.stdout + printed.stderr).partition("\n")
    assert usage.startswith(f"Usage: {name}")
    assert roff.escape(rest.rstrip("\n")) in PAGES[name]


def test_examples_that_are_not_run_are_accepted_by_the_parser() -> None:
    """Those of docs/cli.md that serve, wait or destroy."""
    import shlex

    for line in block_after(read("docs/cli.md"), "<!-- command: running -->").splitlines():
        program, *words = shlex.split(line)
        assert program == "flockpr"
        assert callable(build_parser().parse_args(words).run)


def test_build_step_writes_them(tmp_path: pathlib.Path) -> None:
    """`python -m release man DIR`."""
    done = subprocess.run(
        [sys.executable, "-m", "release", "man", str(tmp_path / "man")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={"PATH": "/usr/bin:/bin", "SOURCE_DATE_EPOCH": "0"},
    )
    assert done.returncode == 0, done.stderr
    files = {file.name: file.read_text() for file in (tmp_path / "man").iterdir()}
    assert set(files) == {f"{name}.8" for name in PAGES}
    assert ".TH FLOCKPR-LUN-CREATE 8 1970-01-01 " in files["flockpr-lun-create.8"]


@pytest.mark.peer("mandoc")
def test_pages_are_clean_for_mandoc(tmp_path: pathlib.Path) -> None:
    """No warning, no error."""
    files = []
    for name, text in PAGES.items():
        files.append(tmp_path / f"{name}.8")
        files[-1].write_text(text)
    done = subprocess.run(
        [find("mandoc") or "", "-T", "lint", "-W", "warning", *map(str, files)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("markdown", "lines"),
    [
        ("a `b-c` d", [".PP", "a \\fBb\\-c\\fR d"]),
        (".x\n'y", [".PP", "\\&.x", "\\(aqy"]),
        ("see [the *page*](x.md)", [".PP", "see the \\fIpage\\fR"]),
        ("- one\n  more\n- two", [".IP \\(bu 3", "one", "more", ".IP \\(bu 3", "two"]),
        ("```sh\n.a\\b\n```", [".RS 4", ".EX", "\\&.a\\eb", ".EE", ".RE"]),
        ("| a | b |\n|---|---|\n| `x` | y | z |", [".TP", "\\fBx\\fR", "y; z"]),
        ("# T\ntext\n<!-- note -->", ['.SS "T"', ".PP", "text", "<!\\-\\- note \\-\\->"][:3]),
    ],
)
def test_markdown_becomes_macros(markdown: str, lines: list[str]) -> None:
    """What the pages use; a comment is left out."""
    assert roff.convert(markdown)[: len(lines)] == lines
