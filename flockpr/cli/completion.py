"""`flockpr completion`: what a shell has to know to complete the command line."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from flockpr.cli.common import add_json, emit_json
from flockpr.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs

SHELLS = ("bash", "zsh", "fish")


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "completion",
        help="print the completion of this command line for a shell",
        description="Prints a script that completes verbs, options, values and the names of "
        "logical units. "
        "bash: put it into ~/.local/share/bash-completion/completions/flockpr. "
        "zsh: put it into a directory of $fpath, as _flockpr. "
        "fish: put it into ~/.config/fish/completions/flockpr.fish.",
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    from flockpr.cli import build_parser
    from flockpr.cli.completion_scripts import script
    from flockpr.cli.grammar import describe

    text = script(args.shell, describe(build_parser()))
    if args.json:
        emit_json({"shell": args.shell, "script": text})
    else:
        sys.stdout.write(text)
    return ExitCode.GOOD
