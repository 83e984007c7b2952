"""The command line: `main` finds the verb, one module per verb does the rest.

A verb module has `add(verbs)`, which describes its options, and `run(args)`, which returns the
exit code. Cluster scripts call the command line often, so it is loaded only when it is the verb,
or when all are listed; and it imports what it works with inside `run`, since a wrong option must
not pay for loading the store.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from flockpr import _collector
from flockpr._version import __version__
from flockpr.cli.common import report
from flockpr.cli.exit_codes import ExitCode
from flockpr.errors import FlockprError

__all__ = ["ExitCode", "build_parser", "main", "program"]

_VERBS = (
    *("serve", "target", "lun"),
    *("status", "watch", "log", "blame", "diff", "timeline", "doctor"),
    *("metrics", "gate", "replay", "probe"),
    *("export", "import", "libvirt"),
    *("upgrade", "demo", "completion"),
)
"""In the order in which they are listed. Each has a module of its name here, but for these."""
_MODULES = {"export": "exporting", "import": "importing"}
_EPILOG = "exit codes:\n" + "\n".join(f"  {code:3d}  {code.meaning}" for code in ExitCode)


class _Parser(argparse.ArgumentParser):
    """Takes no abbreviated options: a script's `--js` would change its meaning with a new one."""

    def __init__(self, **settings: Any) -> None:
        chosen = settings.pop("formatter_class", argparse.HelpFormatter)
        # argparse makes a formatter for each option, and one that is not told the width asks
        # shutil for it, which loads what compresses files.
        formatter = functools.partial(chosen, width=_columns() - 2)
        super().__init__(**{"allow_abbrev": False, **settings, "formatter_class": formatter})


def _columns() -> int:
    """As `shutil.get_terminal_size` has them."""
    with contextlib.suppress(KeyError, ValueError):
        if (stated := int(os.environ["COLUMNS"])) > 0:
            return stated
    with contextlib.suppress(ValueError, OSError):  # closed, or no terminal
        if sys.__stdout__ is not None:
            return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80
    return 80


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of all verbs.

    Args:
        only: A verb: its options are all that is described.
    """
    parser = _Parser(
        prog="flockpr",
        description="SCSI-3 persistent reservations for disks that have no SAN behind them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=f"flockpr {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in _VERBS if only is None else (only,):
        importlib.import_module(f"flockpr.cli.{_MODULES.get(verb, verb)}").add(verbs)
    return parser


def program() -> int:
    """`main` as all that the process does, unlike in a program that calls it for a verb."""
    _collector.put_off()
    code = main()
    _collector.leave_all()
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Arguments without the program's name; those of the process when None.

    Returns:
        The exit code, see `ExitCode`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's character set lacks must not end a report.
            stream.reconfigure(errors="backslashreplace")
    try:
        words = sys.argv[1:] if argv is None else argv
        only = words[0] if words and words[0] in _VERBS else None
        args = build_parser(only).parse_args(words)
    except SystemExit as stop:
        # argparse has printed help or the mistake; callers of main() want a number.
        return stop.code if isinstance(stop.code, int) else ExitCode.USAGE
    verb = " ".join((args.verb, *filter(None, (getattr(args, "action", None),))))
    try:
        code = int(args.run(args))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone (`flockpr log disk | head`): nobody is left to be told. The
        # descriptor is pointed elsewhere because the interpreter flushes once more at exit.
        _abandon_stdout()
        return ExitCode.FAILED
    except (FlockprError, OSError, KeyboardInterrupt) as error:
        return report(verb, error)
    return code


def _abandon_stdout() -> None:
    """Send what is still buffered for standard output to nowhere."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
