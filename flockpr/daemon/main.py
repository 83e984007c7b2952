"""The life of a daemon: what `flockpr serve` and `flockpr-pr-helper` have in common.

Order matters. The sockets are bound while the process is still who started it, so that they
lie where only that user may put them; then it becomes who may touch the lock directories; only
then is anything of the root opened, and a thread started. Clients may connect from the first
moment on: they wait in the backlog, greeted as soon as the threads run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from flockpr.daemon import logs
from flockpr.daemon.activation import Notifier, PassedSocket, take_sockets
from flockpr.daemon.pidfile import Pidfile
from flockpr.daemon.privileges import find_account, reduce_privileges
from flockpr.daemon.root import check_root
from flockpr.daemon.settings import Settings
from flockpr.daemon.sockets import close_doors, open_doors
from flockpr.errors import ConfigError

HELD_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


Told = Callable[[Mapping[str, object]], None]
"""Takes a document of what is served; see `flockpr.daemon.service.Service.document`."""


@attrs.frozen
class Style:
    """In what `flockpr serve` and `flockpr-pr-helper` differ.

    Attributes:
        hangup_ends: SIGHUP ends the daemon, instead of being noted.
        announces: Without any option it prints what to give QEMU.
        told: Called with what is served, instead, once it accepts.
        single_socket: More than one passed socket is an error.
        helper: Serve the sockets of the helper door.
        target: Serve the target door, where the settings have one.
        metrics: Show its own numbers, where the settings say; not of helpers of a guest each, for
            which there is one port.
        background: Called between binding and threads; returns in the child, with a function
            to call when it is ready.
    """

    hangup_ends: bool = False
    announces: bool = False
    told: Told | None = None
    single_socket: bool = False
    helper: bool = True
    target: bool = False
    metrics: bool = False
    background: Callable[[], Callable[[], None]] | None = None


def serve(settings: Settings, told: Told | None = None) -> int:
    """Serve in the foreground until SIGTERM or SIGINT.

    Args:
        settings: What to serve.
        told: Called with what is served, once it accepts; else it is printed for people.

    Returns:
        0 after an orderly end, 1 if the daemon had to give up.

    Raises:
        FlockprError: It could not start; no socket is left behind, unless it lies where the
            service user must not remove it.
    """
    style = Style(announces=told is None, told=told, target=True, metrics=True)
    return leave(run(settings, style))


def serve_target(settings: Settings, told: Told | None = None) -> int:
    """Serve the target door alone, in the foreground until SIGTERM or SIGINT.

    Args:
        settings: What to serve; with a target.
        told: As for `serve`.

    Returns:
        As `serve`.

    Raises:
        FlockprError: It could not start.
    """
    style = Style(helper=False, announces=told is None, told=told, target=True, metrics=True)
    return leave(run(settings, style))


def run(settings: Settings, style: Style) -> int:
    """The same in the given style, and without leaving the process."""
    secure_standard_descriptors()
    logs.configure(settings.serve.log_level, settings.serve.log_format)
    notifier = Notifier.from_environ(os.environ)
    with_target = style.target and settings.target is not None
    passed, passed_portals = _passed(style, with_target=with_target)
    account = find_account(settings.serve.user, settings.serve.group)
    with contextlib.ExitStack() as stack:
        # From here on an ending signal waits until the sockets can be taken away again.
        stack.enter_context(_signals_held())
        pidfile = None
        if settings.serve.pidfile is not None:
            pidfile = stack.enter_context(Pidfile(settings.serve.pidfile))
        if account is None:
            check_root(settings, gated=with_target)
        doors = open_doors(settings, passed) if style.helper else []
        stack.callback(close_doors, doors)
        target = None
        if with_target:
            from flockpr.daemon.target_door import prepare_target

            target = prepare_target(settings, passed_portals)
            stack.callback(target.close)
        ready = style.background() if style.background else None
        if pidfile is not None:
            pidfile.write()
        # Now, because the socket listens, and because the interpreter's own files need not be
        # readable for the user that we are about to become.
        from flockpr.daemon.managers import check_account, kinds_of, needed_for
        from flockpr.daemon.service import Service, preload, preload_rest

        kinds = kinds_of(doors, settings)
        check_account(kinds, account)
        preload(with_target=with_target, managers=kinds)
        needed = needed_for(kinds, with_target=with_target)
        if account is not None or not needed.files:
            preload_rest()
        reduce_privileges(
            account, devices=needed.devices, files=needed.files, inherited=needed.inherited
        )
        if account is not None:
            check_root(settings, gated=with_target)
        service = Service(
            settings,
            doors,
            notifier,
            target,
            hangup_ends=style.hangup_ends,
            metrics=settings.serve.metrics if style.metrics else None,
        )
        if not service.start():
            return 0
        if ready is not None:
            ready()
        if style.told is not None:
            style.told(service.document())
        if style.announces:
            service.announce()
        return service.run()


def _passed(
    style: Style, *, with_target: bool
) -> tuple[Sequence[PassedSocket], Sequence[PassedSocket]]:
    """The sockets that somebody passed for the helper door, and those for the target door."""
    passed = take_sockets(os.environ)
    if style.single_socket and len(passed) > 1:
        raise ConfigError(f"LISTEN_FDS: {len(passed)} sockets were passed; only one is served here")
    helper = [entry for entry in passed if entry.is_unix]
    portals = [entry for entry in passed if not entry.is_unix]
    if helper and not style.helper:
        raise ConfigError("LISTEN_FDS: a Unix socket was passed, and no helper door is served here")
    if portals and not with_target:
        raise ConfigError(
            "LISTEN_FDS: a TCP socket was passed, and no target door is served here (`flockpr"
            " serve` has one when the configuration has a table [target])"
        )
    return helper, portals


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
    The interpreter has no streams then, which few programs expect.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # the lowest number that is free is this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Keep the signals that the service waits for: blocked in this and every later thread.

    They stay blocked after an orderly end: the process is about to leave with its exit code,
    and a second SIGTERM must not change that.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    # A client that goes away in the middle of a reply is an error of that write, no more. The
    # interpreter ignores it already; a parent may have asked for the default.
    pipe = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        yield
    except BaseException:
        signal.signal(signal.SIGPIPE, pipe)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
