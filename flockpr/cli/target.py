"""`flockpr target`: images as iSCSI disks whose reservations are enforced, in the foreground."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from flockpr.cli.common import add_json_line, add_promises, add_root, emit_json_line

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs

# Keys of [serve] that mean something without the helper door; see `flockpr.cli.serve`.
_OPTIONS = (
    ("host", "NAME", "this host, in the log (default: the kernel's name)"),
    ("timeout", "SECONDS", "answer a command by then, whatever the storage does"),
    ("drain", "SECONDS", "on SIGTERM, wait this long for commands in execution"),
    ("user", "USER", "become this user before touching a lock directory or an image"),
    ("group", "GROUP", "become this group, likewise"),
    ("pidfile", "FILE", "write the process id here and keep the file locked"),
    ("metrics", "HOST:PORT", "answer GET /metrics there with the daemon's own numbers; loopback"),
    ("log-level", "LEVEL", "debug, info, warning or error"),
    ("log-format", "FORMAT", "text or json"),
)


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "target",
        help="serve images as iSCSI disks whose reservations are enforced",
        description="Runs in the foreground, logs to standard error, and prints on standard "
        "output where it listens, a URL for each logical unit, and `ready`. SIGTERM finishes the "
        "commands in execution and exits with 0.",
    )
    add_root(parser)
    parser.add_argument(
        "--portal",
        action="append",
        metavar="HOST:PORT[,TAG]",
        help="listen here (default: 127.0.0.1:3260); port 0 is any free one; may be repeated",
    )
    parser.add_argument(
        "--lun",
        action="append",
        metavar="NAME",
        help="serve this logical unit (default: all that have an image); may be repeated",
    )
    parser.add_argument(
        "--name", metavar="IQN", help="one target of this name (default: one for each)"
    )
    parser.add_argument(
        "--chap", metavar="FILE", help="initiators prove who they are by the secrets in this file"
    )
    parser.add_argument(
        "--allow-unauthenticated",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="listen where other hosts can connect, although initiators prove nothing",
    )
    for key, metavar, text in _OPTIONS:
        parser.add_argument(f"--{key}", metavar=metavar, help=text)
    add_promises(parser)
    add_json_line(parser)
    parser.set_defaults(run=run)


def flags(args: argparse.Namespace) -> dict[str, object]:
    """What was given on the command line for [serve], by key."""
    keys = ["root", "config", "allow_unproven", *(key.replace("-", "_") for key, _, _ in _OPTIONS)]
    return {key: value for key in keys if (value := getattr(args, key)) is not None}


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    from flockpr.daemon.config import load_settings
    from flockpr.daemon.main import serve_target

    target = {
        "portals": args.portal,
        "luns": args.lun,
        "name": args.name,
        "chap": args.chap,
        "allow_unauthenticated": args.allow_unauthenticated,
        "fencing": args.fencing,
    }
    settings = load_settings(flags(args), target=target)
    return serve_target(settings, emit_json_line if args.json else None)
