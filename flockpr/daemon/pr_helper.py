"""`flockpr-pr-helper`: takes the place of qemu-pr-helper, with its command line.

libvirt's `pr_helper` setting and KubeVirt's image hook name a binary and run it with their own
arguments; what else there is to say comes from /etc/flockpr.toml or from the file that
FLOCKPR_CONFIG names. Never forks without -d and never closes a descriptor that it did not
open: libvirt watches the process number, and the process inherits a locked pidfile.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

import attrs

from flockpr._version import __version__

PROGRAM = "flockpr-pr-helper"
DEFAULT_SOCKET = "/var/run/qemu-pr-helper.sock"
DEFAULT_PIDFILE = "/var/run/qemu-pr-helper.pid"

_SHORT = "hVdf:k:T:u:g:vq"
_LONG = [
    *("help", "version", "daemon", "pidfile=", "socket=", "trace=", "user=", "group="),
    *("verbose", "quiet"),
]

_HELP = f"""\
Usage: {PROGRAM} [OPTION]...
Answers QEMU's pr-manager-helper from flockpr's lock directories, or hands commands on to disks
that are no logical unit of them; takes the options of qemu-pr-helper. Everything else is
configured in /etc/flockpr.toml, or in the file that the environment variable FLOCKPR_CONFIG names.

  -k, --socket=PATH    listen on this Unix socket
                       (default {DEFAULT_SOCKET})
  -f, --pidfile=PATH   write the process id here
                       (with -d, default {DEFAULT_PIDFILE})
  -d, --daemon         go to the background when the socket listens
  -u, --user=USER      become this user before a lock directory is touched
  -g, --group=GROUP    become this group, likewise
  -v, --verbose        log more
  -q, --quiet          log errors only
  -T, --trace=SPEC     accepted, and without effect
  -h, --help           print this and exit
  -V, --version        print the version and exit
"""

# Parsers look for qemu-pr-helper and a number on the first line.
_VERSION = f"""\
qemu-pr-helper {__version__} (flockpr)
SCSI-3 persistent reservations: where they are emulated, recorded and enforced by nobody.
"""


class UsageError(Exception):
    """The command line is wrong; the text says how."""


@attrs.frozen
class Options:
    """What the command line says.

    Attributes:
        socket: -k, or None.
        pidfile: -f, or None.
        daemon: -d.
        user: -u, or None.
        group: -g, or None.
        verbosity: 1 for each -v; -1 with -q.
        text: What to print instead of serving, for -h, -V and -T help.
    """

    socket: str | None = None
    pidfile: str | None = None
    daemon: bool = False
    user: str | None = None
    group: str | None = None
    verbosity: int = 0
    text: str | None = None


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line, from left to right as the real helper does.

    Args:
        arguments: Without the program's name. Words that are no options are ignored.

    Raises:
        UsageError: An option or its value is wrong.
        ConfigError: A user or group does not exist.
    """
    import getopt

    from flockpr.daemon.privileges import find_group, find_user

    try:
        given, _ = getopt.gnu_getopt(list(arguments), _SHORT, _LONG)
    except getopt.GetoptError as error:
        raise UsageError(f"{error}; try `{PROGRAM} --help'") from error
    options = Options()
    for name, value in given:
        match name:
            case "-h" | "--help":
                return attrs.evolve(options, text=_HELP)
            case "-V" | "--version":
                return attrs.evolve(options, text=_VERSION)
            case "-T" | "--trace":
                if value == "help":
                    return attrs.evolve(options, text="")  # no events to list
                print(f"{PROGRAM}: warning: -T {value}: there is no tracing", file=sys.stderr)
            case "-k" | "--socket":
                options = attrs.evolve(options, socket=_checked_socket(value))
            case "-f" | "--pidfile":
                options = attrs.evolve(options, pidfile=os.path.abspath(value))
            case "-d" | "--daemon":
                options = attrs.evolve(options, daemon=True)
            case "-u" | "--user":
                find_user(value)
                options = attrs.evolve(options, user=value)
            case "-g" | "--group":
                find_group(value)
                options = attrs.evolve(options, group=value)
            case "-v" | "--verbose":
                options = attrs.evolve(options, verbosity=max(0, options.verbosity) + 1)
            case _:
                options = attrs.evolve(options, verbosity=-1)
    return options


def _checked_socket(path: str) -> str:
    from flockpr.daemon.schema import check_socket_path

    try:
        check_socket_path(path)
    except ValueError as error:
        raise UsageError(f"socket path {error}") from error
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the helper.

    Args:
        argv: Arguments without the program's name; those of the process when None.

    Returns:
        0 for help, version and an orderly end; 1 for everything else.
    """
    from flockpr.errors import FlockprError

    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        if options.text is not None:
            sys.stdout.write(options.text)
            sys.stdout.flush()
            return 0
        return _serve(options)
    except (UsageError, FlockprError, OSError) as error:
        # Under libvirt this line becomes the reason why the machine did not start.
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1


def _serve(options: Options) -> int:
    from flockpr.daemon.activation import announced
    from flockpr.daemon.config import load_settings
    from flockpr.daemon.main import Style, leave, run
    from flockpr.daemon.settings import AUTO

    flags: dict[str, object] = {"user": options.user, "group": options.group}
    # Without -k the real default counts, whatever FLOCKPR_SOCKET and the file say about the
    # sockets of `flockpr serve`; a passed socket excludes -k only.
    if options.socket is not None or not announced(os.environ):
        flags["socket"] = options.socket or DEFAULT_SOCKET
    if options.verbosity:
        flags["log_level"] = "debug" if options.verbosity > 0 else "error"
    settings = load_settings(flags, user_file=False, manager=AUTO)
    pidfile = options.pidfile or (DEFAULT_PIDFILE if options.daemon else None)
    # A pidfile of [serve] is that of `flockpr serve`; there may be one of us for each guest.
    serve = attrs.evolve(settings.serve, pidfile=pidfile)
    if options.user is not None and options.group is None:
        serve = attrs.evolve(serve, group=None)  # the user's own, and not the one of the file
    settings = attrs.evolve(settings, serve=serve)
    style = Style(
        hangup_ends=True,
        single_socket=True,
        background=_to_background if options.daemon else None,
    )
    return leave(run(settings, style))


def _to_background() -> Callable[[], None]:
    """Fork; the parent ends when the child is ready, or with 1 if the child failed.

    The real helper's parent ends before the pidfile is written. Here it waits, so that
    whoever ran it finds everything in place; and what goes wrong until then is still said on
    the terminal.

    Returns:
        In the child: what to call when it is ready.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(writer)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a child that hangs can be left by ^C
        os._exit(0 if os.read(reader, 1) else 1)
    os.close(reader)
    os.setsid()
    os.chdir("/")

    def ready() -> None:
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in range(3):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
        os.write(writer, b"\n")
        os.close(writer)

    return ready


if __name__ == "__main__":
    sys.exit(main())
