"""What the verbs share: the root option, JSON on standard output, and error reports."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from flockpr.cli.exit_codes import ExitCode, code_of, remedy_of, text_of
from flockpr.cli.text import printable
from flockpr.errors import ConfigError

if TYPE_CHECKING:
    Verbs: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

FORMAT = 1
"""Number of every `--json` document; it moves only when a key changes its meaning."""


def add_root(parser: argparse.ArgumentParser) -> None:
    """Give a verb the options that say where the lock directories are."""
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="the directory that holds the lock directories (default: FLOCKPR_ROOT, then the "
        "configuration, then a directory of the user)",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="configuration file (default: the user's, then /etc/flockpr.toml)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Give a verb `--json`; the document is described in docs/cli.md."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document instead of text"
    )


def add_json_line(parser: argparse.ArgumentParser) -> None:
    """Give a verb that serves `--json`: see `emit_json_line`."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="once it accepts, print one line of JSON on what is served",
    )


def add_promises(parser: argparse.ArgumentParser) -> None:
    """Give a verb that serves what an operator may declare about fencing and file systems."""
    parser.add_argument(
        "--fencing",
        metavar="WHAT",
        help="`external`: every host that is cut off is fenced from outside before another one "
        "takes over; what a target on NFS 3 cannot do without (default: none)",
    )
    parser.add_argument(
        "--allow-unproven",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="serve although nothing can be promised on the file system, on one host at a time",
    )


def find_root(args: argparse.Namespace) -> str:
    """The root: flag, then FLOCKPR_ROOT, then the configuration, then the user's default.

    The flag and the environment are looked at first, so that a broken configuration file does
    not stand in the way of somebody who said where the root is.

    Raises:
        ConfigError: The configuration cannot be used, or what it names is no directory.
    """
    stated: str | None = args.root or os.environ.get("FLOCKPR_ROOT")
    if stated:
        return _directory(os.path.abspath(stated))
    from flockpr.daemon.config import load_settings

    return _directory(load_settings({"config": args.config}).root)


def _directory(root: str) -> str:
    """The root, unless something else is there."""
    if os.path.exists(root) and not os.path.isdir(root):
        raise ConfigError(
            f"{root}: not a directory",
            "the root is the directory that holds the lock directories of the logical units",
        )
    return root


def may_be_configured(config: str | None) -> bool:
    """Whether a configuration file was named or is in one of its places; cheap, unlike the loader.

    Args:
        config: The value of --config.
    """
    if config or os.environ.get("FLOCKPR_CONFIG"):
        return True
    own = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return any(
        os.path.lexists(path) for path in ("/etc/flockpr.toml", os.path.join(own, "flockpr.toml"))
    )


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Say to what it happened, before a mistake that does not say so itself.

    Args:
        where: The logical unit, or the root.
    """
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}", error.remedy) from error


def emit_json(document: Mapping[str, object]) -> None:
    """Print a document with its format number, keys in the order given."""
    json.dump({"format": FORMAT, **document}, sys.stdout, indent=2)
    sys.stdout.write("\n")


def emit_json_line(document: Mapping[str, object]) -> None:
    """Print a document in one line at once, for who waits for it; nobody has to."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(json.dumps({"format": FORMAT, **document}) + "\n")
        sys.stdout.flush()


def emit(lines: Sequence[str]) -> None:
    """Print lines for people."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def emit_nothing(root: str) -> None:
    """Say to people that a root has no logical units, and what it has instead."""
    from flockpr.store.listing import list_luns

    count = len(list_luns(root, passed=True))
    where = f"no logical units in {printable(root)}"
    if count:
        emit([f"{where}; of {count} that are passed on, ask their devices: `flockpr lun list`"])
    else:
        emit([f"{where}; `flockpr lun create NAME` makes one"])


def report(verb: str, error: BaseException) -> ExitCode:
    """Say on standard error what went wrong and what to do; return the code to leave with."""
    print(f"flockpr {verb}: {printable(text_of(error))}", file=sys.stderr)
    remedy = remedy_of(error)
    if remedy:
        print(f"  remedy: {printable(remedy)}", file=sys.stderr)
    return code_of(error)


def note(verb: str, error: BaseException, effect: str) -> None:
    """Say in one line on standard error what is wrong while the verb itself succeeds."""
    line = f"{text_of(error)}; {effect} (remedy: {remedy_of(error)})"
    print(f"flockpr {verb}: {printable(line)}", file=sys.stderr)


def error_document(error: BaseException) -> dict[str, object]:
    """An error as it stands inside a JSON document."""
    return {
        "kind": type(error).__name__,
        "what": str(getattr(error, "what", "") or text_of(error)),
        "path": str(getattr(error, "path", "") or getattr(error, "filename", None) or ""),
        "remedy": remedy_of(error),
        "exit_code": int(code_of(error)),
    }
