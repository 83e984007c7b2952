"""The life of a daemon: what `flockpr serve` and `flockpr-pr-helper` have in common.

Order matters. The sockets are bound while the process is still who started it, so that they
lie where only that user may put them; then it becomes who may touch the lock directories; only
then is anything of the root opened, and a thread started. Clients may connect from the first
moment on: they wait in the backlog, greeted as soon as the threads run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import attrs

from flockpr._version import __version__
from flockpr.daemon import logs
from flockpr.daemon.activation import Notifier, take_sockets
from flockpr.daemon.pidfile import Pidfile
from flockpr.daemon.privileges import find_account, reduce_privileges
from flockpr.daemon.root import check_root
from flockpr.daemon.settings import Settings
from flockpr.daemon.sockets import Door, close_doors, open_doors
from flockpr.errors import ConfigError

if TYPE_CHECKING:
    from flockpr.prhelper.server import HelperServer
    from flockpr.units import Units

_log = logging.getLogger("flockpr.daemon")

ENDING = frozenset({signal.SIGTERM, signal.SIGINT})
CHECK_INTERVAL = 5.0
"""Seconds between two looks at the accepting threads, if no watchdog wants more."""
DESCRIPTORS = 1 << 20
"""As many open files as one daemon could ever use."""


@attrs.frozen
class Style:
    """In what `flockpr serve` and `flockpr-pr-helper` differ.

    Attributes:
        hangup_ends: SIGHUP ends the daemon, instead of being noted.
        announces: Without any option it prints what to give QEMU.
        single_socket: More than one passed socket is an error.
        background: Called between binding and threads; returns in the child, with a function
            to call when it is ready.
    """

    hangup_ends: bool = False
    announces: bool = False
    single_socket: bool = False
    background: Callable[[], Callable[[], None]] | None = None


def serve(settings: Settings) -> int:
    """Serve in the foreground until SIGTERM or SIGINT.

    Args:
        settings: What to serve.

    Returns:
        0 after an orderly end, 1 if the daemon had to give up.

    Raises:
        FlockprError: It could not start; no socket is left behind.
    """
    return leave(run(settings, Style(announces=True)))


def run(settings: Settings, style: Style) -> int:
    """The same in the given style, and without leaving the process."""
    secure_standard_descriptors()
    logs.configure(settings.serve.log_level, settings.serve.log_format)
    notifier = Notifier.from_environ(os.environ)
    passed = take_sockets(os.environ)
    if style.single_socket and len(passed) > 1:
        raise ConfigError(f"LISTEN_FDS: {len(passed)} sockets were passed; only one is served here")
    account = find_account(settings.serve.user, settings.serve.group)
    with contextlib.ExitStack() as stack:
        # From here on an ending signal waits until the sockets can be taken away again.
        stack.enter_context(_signals_held())
        pidfile = None
        if settings.serve.pidfile is not None:
            pidfile = stack.enter_context(Pidfile(settings.serve.pidfile))
        if account is None:
            check_root(settings)
        doors = open_doors(settings, passed)
        stack.callback(close_doors, doors)
        ready = style.background() if style.background else None
        if pidfile is not None:
            pidfile.write()
        reduce_privileges(account)
        if account is not None:
            check_root(settings)
        _raise_descriptor_limit()
        return _serve_doors(settings, doors, notifier, style, ready)


def leave(code: int) -> int:
    """The last act of the process: return `code`, or end here and now.

    A thread that hangs in a system call on a dead file server never returns, and the
    interpreter would wait for it for ever.
    """
    if any(thread is not threading.current_thread() for thread in threading.enumerate()):
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return code


def secure_standard_descriptors() -> None:
    """Make sure that 0 to 2 are open.

    A daemon started without them would get them for its lock files, and write its log there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _serve_doors(
    settings: Settings,
    doors: Sequence[Door],
    notifier: Notifier,
    style: Style,
    ready: Callable[[], None] | None,
) -> int:
    from flockpr.units import Units

    units = Units(settings.root, timeout=settings.serve.timeout, host=settings.serve.host)
    servers = [_server(door, units, settings) for door in doors]
    for server in servers:
        server.start()
    if ready is not None:
        ready()
    _log.info(
        "ready",
        extra={
            "version": __version__,
            "root": settings.root,
            "pid": os.getpid(),
            "config": ",".join(settings.files) or "none",
        },
    )
    notifier.ready(f"serving {settings.root}")
    if settings.all_defaults and style.announces:
        _announce(settings)
    code = _wait(servers, notifier, style)
    notifier.stopping()
    _drain(servers, units, settings.serve.drain)
    _log.info("ended", extra={"code": code})
    return code


def _server(door: Door, units: Units, settings: Settings) -> HelperServer:
    from flockpr.manager.file_lock import FileLockManager
    from flockpr.prhelper.connection import Limits
    from flockpr.prhelper.identity import Identifier, port_from, rules_from
    from flockpr.prhelper.server import HelperServer

    served = door.served
    manager = FileLockManager(
        served.path or served.name or "passed",
        units=units,
        lun=served.lun,
        wwids={name: lun.wwids for name, lun in settings.luns.items()},
        door="helper",
        report_attentions=served.unit_attentions,
        long_parameter_length=False,
        timeout=settings.serve.timeout,
    )
    identifier = Identifier(
        explicit=None if served.initiator is None else port_from(served.initiator),
        rules=rules_from(settings.initiators),
        host=settings.serve.host,
    )
    # The units answer within their timeout; the door's own bound is for what they do not see.
    limits = Limits(command=settings.serve.timeout + 5.0)
    return HelperServer(door.listener, manager, identifier, limits=limits)


def _wait(servers: Sequence[HelperServer], notifier: Notifier, style: Style) -> int:
    """Until a signal ends it (0) or an accepting thread has died (1)."""
    interval = min(CHECK_INTERVAL, (notifier.watchdog or CHECK_INTERVAL) / 3)
    while True:
        for server in servers:
            if not server.alive:
                # Nobody would be served any more: end, so that the service manager restarts.
                _log.error("%s does not accept any more; giving up", server.path)
                return 1
        if notifier.watchdog is not None:
            notifier.alive()
        received = signal.sigtimedwait({*ENDING, signal.SIGHUP}, interval)
        if received is None:
            continue
        name = signal.Signals(received.si_signo).name
        if received.si_signo in ENDING or style.hangup_ends:
            _log.info("%s: ending", name, extra={"sender": received.si_pid})
            return 0
        _log.info("%s: there is nothing to reload; restart to change the configuration", name)


def _drain(servers: Sequence[HelperServer], units: Units, seconds: float) -> None:
    """Let commands in execution end, within `seconds` for all of them together."""
    deadline = time.monotonic() + seconds
    for server in servers:  # first all of them: no door stays open while another drains
        server.stop_accepting()
    for server in servers:
        server.stop(max(0.0, deadline - time.monotonic()))
    if not units.close(max(0.0, deadline - time.monotonic())):
        _log.warning("a logical unit still waits for its storage; ending without it")


def _announce(settings: Settings) -> None:
    from flockpr.daemon.qemu_options import announcement

    with contextlib.suppress(OSError, ValueError):  # nobody has to listen
        sys.stdout.write(announcement(settings))
        sys.stdout.flush()


def _raise_descriptor_limit() -> None:
    """Every connection costs descriptors, and the default limit is meant for select(2)."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Keep the signals that `_wait` waits for: blocked in this and every later thread."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*ENDING, signal.SIGHUP})
    # A client that goes away in the middle of a reply is an error of that write, no more. The
    # interpreter ignores it already; a parent may have asked for the default.
    pipe = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGPIPE, pipe)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
