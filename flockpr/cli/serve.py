"""`flockpr serve`: the daemon, in the foreground."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from flockpr.cli.common import add_json_line, add_promises, add_root, emit_json_line

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs

# Key of [serve], metavar, help. Values go to the configuration as text and are checked there,
# so that a flag, a variable and a line of a file are refused in the same words.
_OPTIONS = (
    ("socket", "PATH", "serve this Unix socket"),
    (
        "manager",
        "KIND",
        "who answers: file-lock (lock directories), sgio, ioc-pr or mpath (the device), or auto",
    ),
    ("lun", "NAME", "every descriptor is this logical unit (default: by the device's wwid)"),
    ("initiator", "NAME", "every connection is this initiator port (default: told by its process)"),
    ("host", "NAME", "this host, in identities and in the log (default: the kernel's name)"),
    ("timeout", "SECONDS", "answer a command by then, whatever the storage does"),
    ("drain", "SECONDS", "on SIGTERM, wait this long for commands in execution"),
    ("user", "USER", "become this user before touching a lock directory"),
    ("group", "GROUP", "become this group, likewise"),
    ("socket-mode", "MODE", "mode of the socket, in octal digits"),
    ("socket-owner", "USER", "owner of the socket"),
    ("socket-group", "GROUP", "group of the socket"),
    ("pidfile", "FILE", "write the process id here and keep the file locked"),
    ("metrics", "HOST:PORT", "answer GET /metrics there with the daemon's own numbers; loopback"),
    ("log-level", "LEVEL", "debug, info, warning or error"),
    ("log-format", "FORMAT", "text or json"),
)
_PLAIN = ("root", "config", "unit_attentions", "allow_unproven")


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "serve",
        help="answer QEMU's pr-manager-helper on a Unix socket",
        description="Runs in the foreground and logs to standard error. Ready when the socket "
        "accepts. SIGTERM finishes the commands in execution and exits with 0. Every option "
        "can also be set as FLOCKPR_NAME in the environment or as a key of [serve] in the "
        "configuration.",
    )
    add_root(parser)
    for key, metavar, text in _OPTIONS:
        parser.add_argument(f"--{key}", metavar=metavar, help=text)
    parser.add_argument(
        "--unit-attentions",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="report pending unit attentions on this door (default: off, since it sees nothing "
        "but reservation commands)",
    )
    add_promises(parser)
    add_json_line(parser)
    parser.set_defaults(run=run)


def flags(args: argparse.Namespace) -> dict[str, object]:
    """What was given on the command line, by key of [serve]; the rest is left out."""
    keys = [*_PLAIN, *(key.replace("-", "_") for key, _, _ in _OPTIONS)]
    return {key: value for key in keys if (value := getattr(args, key)) is not None}


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    from flockpr.daemon.config import load_settings
    from flockpr.daemon.main import serve

    settings = load_settings(flags(args), fencing=args.fencing)
    return serve(settings, emit_json_line if args.json else None)
