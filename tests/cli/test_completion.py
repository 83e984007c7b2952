"""`flockpr completion`: what a shell offers is what the command line takes."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

from flockpr import create_lun
from flockpr.cli import build_parser, main
from flockpr.cli.grammar import Command, describe
from tests.support.daemon_process import PATIENCE
from tests.support.peers import find

COMMANDS = list(describe(build_parser()).walk())
FEW = ("flockpr", "flockpr lun", "flockpr lun create", "flockpr serve")
SHELLS = ("bash", "zsh", "fish")

_BASH = """\
source "$1"
shift
while [ $# -gt 0 ]; do
  read -ra COMP_WORDS <<<"$1"
  [[ $1 == *" " ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  _flockpr
  printf '%s\\n' "${COMPREPLY[@]}" .
  shift
done
"""
_FISH = """\
source $argv[1]
for line in $argv[2..-1]
    complete -C $line
    echo .
end
"""
# Completion runs in zsh's line editor only, so zsh is started on a terminal of its own, and
# prints what it hands over to its line editor.
_ZSH = """\
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "stty -echo; PROMPT=; autoload -Uz compinit; compinit -u -D; source ${(q)1}"
zpty -w shell 'compadd() {
  local -a hits
  builtin compadd -A hits "$@"
  for hit in $hits; do print -r -- "HIT:$hit"; done
  builtin compadd "$@"
}
end-of-hits() { print -r -- "HIT:." }
zle -N end-of-hits
bindkey "^I" complete-word
bindkey "^T" end-of-hits
bindkey "^U" kill-whole-line
print READY-"NOW"'
zpty -r shell text '*READY-NOW*'
for line in "${@[2,-1]}"; do
  zpty -w -n shell $'\\x15'"$line"$'\\t\\x14'
  zpty -r shell text '*HIT:.*'
  print -r -- "$text"
done
zpty -d shell
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """Each shell's script, as the command line prints it."""
    home = tmp_path_factory.mktemp("completion")
    found = {}
    for shell in SHELLS:
        found[shell] = home / shell
        with found[shell].open("w") as file:
            command = [sys.executable, "-m", "flockpr", "completion", shell]
            subprocess.run(command, stdout=file, check=True, timeout=PATIENCE)
    return found


def _printed(command: list[str], **environ: str) -> str:
    path = os.pathsep.join((str(pathlib.Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={"PATH": path, "TERM": "dumb", "LC_ALL": "C", **environ},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def offered(
    shell: str, script: pathlib.Path, lines: list[str], home: pathlib.Path, **environ: str
) -> list[set[str]]:
    """What the shell offers at the end of each line."""
    program = find(shell) or shell
    driver = home / "driver"
    driver.write_text({"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell])
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    text = _printed(
        [program, *options, str(driver), str(script), *lines], HOME=str(home), **environ
    )
    if shell == "zsh":
        text = "".join(f"{hit}\n" for hit in re.findall(r"HIT:(\S+)", text))
    sets = text.split(".\n")[:-1]
    return [{line.split("\t")[0] for line in words.splitlines() if line} for words in sets]


def flags(command: Command) -> set[str]:
    """Its long options."""
    return {flag for option in command.options for flag in option.flags if flag.startswith("--")}


@pytest.mark.peer("zsh", "fish")
@pytest.mark.parametrize("shell", SHELLS)
def test_every_option_and_every_verb_is_offered(
    shell: str, scripts: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """And nothing else, behind every word of the grammar; of the slow shells behind a few."""
    looked_at = [one for one in COMMANDS if shell == "bash" or one.name in FEW]
    above = [command for command in looked_at if command.commands]
    lines = [f"{command.name} --" for command in looked_at]
    lines += [f"{command.name} " for command in above]

    found = offered(shell, scripts[shell], lines, tmp_path)

    assert len(found) == len(lines)
    for command, words in zip(looked_at, found, strict=False):
        assert {word for word in words if word.startswith("--")} == flags(command), command.name
    for command, words in zip(above, found[len(looked_at) :], strict=True):
        verbs = {one.path[-1] for one in command.commands}
        assert {word for word in words if not word.startswith("-")} == verbs, command.name


@pytest.mark.peer("zsh", "fish")
@pytest.mark.parametrize("shell", SHELLS)
def test_values_are_completed(
    shell: str, scripts: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """Lists, names of logical units that are there, files; nothing for a name that is new."""
    root = tmp_path / "root"
    create_lun(str(root), "alpha")
    create_lun(str(root), "beta")
    lines = [
        "flockpr completion ",
        "flockpr status ",
        "flockpr --version status al",
        "flockpr lun delete --force ",
        "flockpr replay --against ",
        "flockpr upgrade alpha b",
        "flockpr lun create ",
        "flockpr probe --tier ",
    ]

    found = offered(shell, scripts[shell], lines, tmp_path, FLOCKPR_ROOT=str(root))

    luns = {"alpha", "beta"}
    expected = [set(SHELLS), luns, {"alpha"}, luns, luns, {"beta"}, set()]
    assert found[:-2] == expected[:-1]
    assert not found[-2] & luns  # files, perhaps: zsh has nothing else to say
    assert found[-1] == {"advisory", "gated"}


def test_bash_completes_a_value_behind_an_equals_sign(
    scripts: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """Bash takes `--tier=ga` apart into three words."""
    found = offered("bash", scripts["bash"], ["flockpr probe --tier = ga"], tmp_path)
    assert found == [{"gated"}]


def test_files_and_directories_are_completed_by_bash(
    scripts: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """A trace is a file, a root a directory."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    lines = [f"flockpr replay {tmp_path}/", f"flockpr status --root {tmp_path}/d"]
    files, directories = offered("bash", scripts["bash"], lines, tmp_path)
    assert {f"{tmp_path}/dir", f"{tmp_path}/file"} <= files
    assert directories == {f"{tmp_path}/dir"} | {f"{tmp_path}/driver"} & directories


def test_unknown_shell_is_a_wrong_option(capsys: pytest.CaptureFixture[str]) -> None:
    """The message names those that there are."""
    assert main(["completion", "csh"]) == 2
    assert "bash" in capsys.readouterr().err


def test_script_is_of_the_shell_s_syntax(scripts: dict[str, pathlib.Path]) -> None:
    """Texts of the grammar with quotes, brackets and colons do no harm to a shell's syntax."""
    for shell, script in scripts.items():
        program = find(shell)
        if program is not None:
            _printed([program, "-n", str(script)], HOME=str(script.parent))
        assert "power-cycle" in script.read_text()
