"""`flockpr watch`: the status, shown again whenever it changes."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from flockpr.cli.common import FORMAT, add_json, add_root, emit, find_root, report
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.promise_view import configured_terms
from flockpr.cli.style import PLAIN, style_for
from flockpr.cli.text import parse_seconds
from flockpr.errors import StoreError

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs
    from flockpr.cli.status_documents import Collected
    from flockpr.filesystems import Terms

_ENTER, _LEAVE = "\033[?1049h\033[?25l\033[?7l", "\033[?7h\033[?25h\033[?1049l"
"""Another screen without a cursor, on which a long line is cut; and back."""
_HOME, _REST_OF_LINE, _REST = "\033[H", "\033[K", "\033[J"
_MOVING = frozenset({"age_s", "last_contact", "published"})
"""Keys that change although nothing happens, or a moment after what has happened."""


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser("watch", help="the status, live")
    parser.add_argument("lun", nargs="?", metavar="LUN", help="one logical unit (default: all)")
    parser.add_argument(
        "--interval", type=parse_seconds, default=1.0, metavar="SECONDS", help="between looks (1)"
    )
    parser.add_argument(
        "--count", type=int, default=0, metavar="N", help="end after N looks (default: never)"
    )
    add_root(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look again and again. On a terminal the screen is kept current; elsewhere, and with
    `--json`, what has changed is printed: one document a line.
    """
    from flockpr.cli.status_documents import names_of

    root = find_root(args)
    terms = configured_terms("watch", args.config)
    names_of(root, args.lun)  # a name that is not there is an error, not something to wait for
    live = style_for() is not PLAIN and not args.json
    show = _screen() if live else _Lines(args.json)
    with show:
        looks = 0
        try:
            while True:
                show.show(*_look(root, args.lun, terms, quiet=live))
                looks += 1
                if args.count and looks >= args.count:
                    return ExitCode.GOOD
                time.sleep(args.interval)
        except KeyboardInterrupt:
            return ExitCode.GOOD


def _look(root: str, lun: str | None, terms: Terms, *, quiet: bool) -> tuple[Collected, list[str]]:
    """What there is, and what went wrong: lines for the screen, else said on standard error."""
    from flockpr.cli.status_documents import Collected, collect, names_of

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors) if quiet else contextlib.nullcontext():
        try:
            collected = collect("watch", root, names_of(root, lun), terms)
        except StoreError as error:  # a share that is gone for a moment
            collected = Collected([], [], report("watch", error))
    return collected, errors.getvalue().splitlines()


class _Show(Protocol):
    """Where looks are shown; a context manager."""

    def __enter__(self) -> object: ...
    def __exit__(self, *_: object) -> None: ...

    def show(self, collected: Collected, errors: Sequence[str]) -> None:
        """Show what was found, and what went wrong."""


def _screen() -> _Show:
    """The terminal: by rich where it is installed."""
    try:
        from flockpr.cli.watch_rich import RichScreen
    except ImportError:
        return _Screen()
    return RichScreen()


class _Lines:
    """For files and pipes: only what changed."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._last = ""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, *_: object) -> None:
        """Nothing to restore."""

    def show(self, collected: Collected, _: Sequence[str]) -> None:
        """Print it unless it is what was printed last."""
        from flockpr.cli.status_view import screen

        document = {"hosts": collected.hosts, "luns": collected.luns}
        still = json.dumps(_still(document))
        if still == self._last:
            return
        self._last = still
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._json:
            sys.stdout.write(json.dumps({"format": FORMAT, "time": at, **document}) + "\n")
        else:
            emit([f"-- {at}", *screen(collected)])
        sys.stdout.flush()


class _Screen:
    """For a terminal without rich: one screen, kept current."""

    def __enter__(self) -> None:
        sys.stdout.write(_ENTER)

    def __exit__(self, *_: object) -> None:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()

    def show(self, collected: Collected, errors: Sequence[str]) -> None:
        """Draw over what is there, without a flicker."""
        import shutil

        from flockpr.cli.status_view import screen

        style = style_for()
        lines = [head_line(), WITHOUT_RICH, "", *(style.bad(line) for line in errors)]
        lines = fit([*lines, *screen(collected, style)], shutil.get_terminal_size().lines)
        text = "\n".join(f"{line}{_REST_OF_LINE}" for line in lines)
        sys.stdout.write(f"{_HOME}{text}{_REST}")
        sys.stdout.flush()


WITHOUT_RICH = (
    "(a table that fits the window: pip install 'flockpr[watch]', or Debian's python3-rich)"
)


def head_line() -> str:
    """The first line of a screen."""
    return f"flockpr watch, {time.strftime('%H:%M:%S')}; end with Ctrl-C"


def fit(lines: Sequence[str], room: int) -> list[str]:
    """As many lines as there is room for; the last one then says how many are missing."""
    if len(lines) <= room:
        return list(lines)
    left = max(0, room - 1)
    return [*lines[:left], missing_line(len(lines) - left)]


def missing_line(count: int) -> str:
    """The last line of a screen that is too small."""
    return f"... {count} more lines: make the window larger, or name one logical unit"


def _still(value: Any) -> Any:
    """A document without what moves by itself."""
    if isinstance(value, dict):
        return {key: _still(below) for key, below in value.items() if key not in _MOVING}
    return [_still(one) for one in value] if isinstance(value, list) else value
